//! JPEG pictures as cameras, browsers and telephones write them, straight into planes.
//!
//! A JPEG of this kind holds what a [`Picture`] holds, but for the range of its values: going through RGB would cost more
//! than decoding. Others are none of this file's business.

use std::sync::Arc;
use std::time::Instant;

use ffmpeg_sys_next as ffi;

use super::CodecError;
use super::colour::Converter;
use super::decoder::Context;
use super::picture::Frame;
use crate::frame::Picture;

const NAME: &str = "JPEG";

/// What the segments before a JPEG's first scan tell of it.
pub struct JpegHeader<'a> {
    /// The scan is followed by an end of image. A preview in a segment has an end of its own, which does not count.
    pub is_whole: bool,
    /// It has three components of 8 bits, luma and halved chroma, which no marker of Adobe's calls RGB.
    pub is_common: bool,
    /// What cameras say of it, how it lies included: a TIFF header and its entries.
    pub exif: Option<&'a [u8]>,
}

impl<'a> JpegHeader<'a> {
    /// Reads ITU-T T.81 §B.1 to §B.2.2. Bytes that are no sequence of segments count as whole: the decoder says what is
    /// wrong with them.
    pub fn read(bytes: &'a [u8]) -> Self {
        const START_OF_SCAN: u8 = 0xda;
        const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
        const EXIF: u8 = 0xe1;
        const ADOBE: u8 = 0xee;
        let (mut is_halved, mut is_rgb, mut exif) = (false, false, None);
        let mut at = 2;
        while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
            if marker == 0xff {
                at += 1; // Markers may be preceded by fill bytes.
                continue;
            }
            if marker == START_OF_SCAN {
                // Within a scan 0xFF is always followed by something else.
                let is_whole = bytes[at..].windows(2).rev().any(|pair| pair == END_OF_IMAGE);
                return Self { is_whole, is_common: is_halved && !is_rgb, exif };
            }
            let next = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            let segment = bytes.get(at + 4..next).unwrap_or_default();
            match marker {
                // Baseline, extended and progressive frames, coded by Huffman.
                0xc0..=0xc2 => is_halved = has_halved_chroma(segment),
                EXIF => exif = exif.or(segment.strip_prefix(b"Exif\0\0")),
                ADOBE => is_rgb |= segment.starts_with(b"Adobe") && segment.get(11) == Some(&0),
                _ => {}
            }
            at = next;
        }
        Self { is_whole: at + 4 <= bytes.len(), is_common: false, exif }
    }
}

/// Whether a frame's segment says so: precision, height, width, then components of three bytes each.
fn has_halved_chroma(segment: &[u8]) -> bool {
    let sampling = |component: usize| segment.get(6 + 3 * component + 1).copied();
    let is_halved = [0, 1, 2].map(sampling) == [Some(0x22), Some(0x11), Some(0x11)];
    segment.first() == Some(&8) && segment.get(5) == Some(&3) && is_halved
}

/// Decodes a JPEG that [is common](JpegHeader::is_common), as it lies.
///
/// # Errors
/// [`CodecError`], for any fault: nothing is made up for what is missing.
pub fn decode_jpeg(bytes: &[u8], max_pixels: usize) -> Result<Picture, CodecError> {
    let decode_started = Instant::now();
    let mut context = Context::open(c"mjpeg", 1, max_pixels)?;
    let mut frame = Frame::empty()?;
    let corrupt = |source| CodecError::Corrupt { codec: NAME, bytes: bytes.len(), source };
    context.decode_still(bytes, &mut frame).map_err(corrupt)?;
    if frame.format() != ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as i32 {
        return Err(CodecError::PixelFormat { format: frame.format() });
    }
    if frame.is_damaged() {
        return Err(CodecError::Damaged { codec: NAME, bytes: bytes.len() });
    }
    let (width, height) = frame.size();
    let planes = Converter::new().convert(frame, true)?.into_planes()?;
    Ok(Picture {
        width: width as usize,
        height: height as usize,
        planes: Arc::new(planes),
        rtp_timestamp: 0,
        received: decode_started,
        decode_started,
        decoded: Instant::now(),
    })
}
