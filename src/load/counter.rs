//! A number drawn into each picture, and read back from the annotated track: latency glass to glass.
//!
//! It does not trust timestamps, which a service may map, and it ends with the decoded picture. The number
//! is a row of black and white blocks at the bottom, with a check, because boxes may be drawn across it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::clip::Clip;
use crate::codec::{CodecError, Decoder, Encoder, EncoderConfig, MAX_PIXELS, Speed};
use crate::frame::{Codec, EncodedFrame, I420Buffer, Picture};

/// Pictures with numbers of their own: more than half a minute of a camera.
pub const COUNTED: u16 = 1 << NUMBER_BITS;
const NUMBER_BITS: usize = 10;
const BLOCKS: usize = 15;
/// Blocks from the picture's left edge to its right: the number does not depend on the size.
const ACROSS: usize = 40;
/// The largest prime that fits into the blocks beside the number.
const CHECK: u16 = 31;
/// Luma of limited range.
const DARK: u8 = 16;
const BRIGHT: u8 = 235;
const MIDDLE: u8 = 126;

/// The clip over and over until every picture has a number, encoded anew at `kbps`.
///
/// # Errors
/// When a frame of the clip cannot be decoded, or the codec is missing.
pub fn counted(clip: &Clip, kbps: u32) -> Result<Clip, CodecError> {
    let (width, height) = (usize::from(clip.width), usize::from(clip.height));
    let mut decoder = Decoder::open(Codec::Vp8, 1)?;
    let mut encoder = Encoder::open(EncoderConfig {
        codec: Codec::Vp8,
        width,
        height,
        bitrate_kbps: kbps,
        fps_hint: 30,
        threads: 1,
        speed: Speed::default(),
    })?;
    let mut canvas = I420Buffer::black(width, height);
    let mut frames = Vec::with_capacity(COUNTED.into());
    for (index, data) in clip.frames.iter().enumerate().cycle() {
        let number = frames.len() as u16;
        if number == COUNTED {
            break;
        }
        if let Some(picture) = decoder.decode(&frame_of(Codec::Vp8, data.clone(), index == 0), MAX_PIXELS)? {
            canvas.copy_from(&picture);
        }
        stamp(&mut canvas, number);
        let encoded = encoder.encode(&canvas, u32::from(number) * 3000, number == 0)?;
        frames.extend(encoded.map(|encoded| encoded.data));
    }
    Ok(Clip { frames, ..*clip })
}

fn frame_of(codec: Codec, data: Bytes, is_key: bool) -> EncodedFrame {
    EncodedFrame { codec, data, rtp_timestamp: 0, is_key, received: Instant::now() }
}

/// Draws a number below [`COUNTED`].
fn stamp(picture: &mut I420Buffer, number: u16) {
    let bits = (number << (BLOCKS - NUMBER_BITS)) | (number % CHECK);
    let side = picture.width / ACROSS;
    for index in 0..3 {
        let (plane, width, height) = picture.plane_mut(index);
        let side = if index == 0 { side } else { side / 2 };
        for row in plane.chunks_exact_mut(width).take(height).skip(height.saturating_sub(side)) {
            for (block, pixels) in row.chunks_exact_mut(side.max(1)).take(BLOCKS).enumerate() {
                let is_set = (bits >> (BLOCKS - 1 - block)) & 1 == 1;
                let luma = if is_set { BRIGHT } else { DARK };
                pixels.fill(if index == 0 { luma } else { 128 });
            }
        }
    }
}

/// The number in a picture; `None` where something lies across it.
fn read(picture: &Picture) -> Option<u16> {
    let plane = picture.planes.plane(0);
    let side = plane.width / ACROSS;
    let (margin, top) = (side / 4, plane.height.checked_sub(side)?);
    let bits = (0..BLOCKS).try_fold(0_u16, |bits, block| {
        let middle = (top + margin..plane.height - margin)
            .map(|y| &plane.data[y * plane.stride + block * side + margin..][..side - 2 * margin]);
        let (sum, count) = middle.flatten().fold((0_u32, 0), |(sum, n), &v| (sum + u32::from(v), n + 1));
        Some((bits << 1) | u16::from(sum.checked_div(count)? > u32::from(MIDDLE)))
    })?;
    let (number, check) = (bits >> (BLOCKS - NUMBER_BITS), bits & ((1 << (BLOCKS - NUMBER_BITS)) - 1));
    (number % CHECK == check).then_some(number)
}

/// What was sent when, and the decoder of what comes back.
#[derive(Default)]
pub struct Reader {
    /// Oldest first.
    sent: VecDeque<(u16, Instant)>,
    decoder: Option<(Codec, Decoder)>,
}

impl Reader {
    /// A picture with this number leaves.
    pub fn note_sent(&mut self, number: u16, at: Instant) {
        if self.sent.len() == usize::from(COUNTED) {
            self.sent.pop_front();
        }
        self.sent.push_back((number, at));
    }

    /// How old the picture of a returned frame is; `None` when it is not readable.
    pub fn age(&mut self, codec: Codec, data: &[u8]) -> Option<Duration> {
        if self.decoder.as_ref().is_none_or(|(known, _)| *known != codec) {
            self.decoder = Some((codec, Decoder::open(codec, 1).ok()?));
        }
        let (_, decoder) = self.decoder.as_mut()?;
        let picture =
            decoder.decode(&frame_of(codec, Bytes::copy_from_slice(data), false), MAX_PIXELS).ok()??;
        let number = read(&picture)?;
        // After a key frame was asked for, numbers begin again: the newest is meant.
        let (_, at) = self.sent.iter().rev().find(|(sent, _)| *sent == number)?;
        Some(at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imgproc;

    #[test]
    fn numbers_come_back_from_a_picture_of_any_size() {
        for (width, height) in [(640, 480), (320, 240), (1280, 720), (641, 481)] {
            for number in [0, 1, 30, 31, 517, COUNTED - 1] {
                let mut canvas = I420Buffer::black(width, height);
                canvas.data.fill(100);
                stamp(&mut canvas, number);
                let picture = canvas.into_picture(0, Instant::now());
                assert_eq!(read(&picture), Some(number), "{width}x{height}");
                let mut small = I420Buffer::black(2, 2);
                imgproc::shrink(&picture, 2, &mut small).unwrap();
                assert_eq!(read(&small.into_picture(0, Instant::now())), Some(number), "half of {width}");
            }
        }
    }

    #[test]
    fn a_number_that_is_drawn_across_is_not_read() {
        let mut canvas = I420Buffer::black(640, 480);
        stamp(&mut canvas, 517);
        let (luma, width, _) = canvas.plane_mut(0);
        luma[470 * width..].chunks_exact_mut(width).for_each(|row| row[..64].fill(BRIGHT));
        assert_eq!(read(&canvas.into_picture(0, Instant::now())), None);
        assert_eq!(read(&I420Buffer::black(8, 8).into_picture(0, Instant::now())), None);
    }

    #[test]
    fn a_counted_clip_is_read_back_frame_by_frame() {
        let clip = counted(&Clip::built_in_small(), 600).unwrap();
        assert_eq!(clip.frames.len(), usize::from(COUNTED));
        assert!(clip.frames.iter().all(|frame| !frame.is_empty()));
        let mut reader = Reader::default();
        for number in 0..COUNTED {
            reader.note_sent(number, Instant::now());
        }
        let read = |data: &Bytes| reader.age(Codec::Vp8, data);
        let readable = clip.frames[..200].iter().filter_map(read).count();
        assert_eq!(readable, 200);
    }
}
