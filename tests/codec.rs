//! FFmpeg through vigie's own doors: pictures into frames and back, and frames that are not what they say.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use bytes::Bytes;
use vigie::codec::{CodecError, Decoder, Encoder, EncoderConfig, MAX_PIXELS, Speed};
use vigie::frame::{Codec, EncodedFrame, I420Buffer, Picture, Plane, Planes};

/// A window of the astronaut photograph, moving two pixels a picture.
fn astronaut(width: usize, height: usize, index: usize) -> I420Buffer {
    static PHOTOGRAPH: LazyLock<image::RgbImage> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures/astronaut.jpg");
        image::open(path).expect("the photograph").into_rgb8()
    });
    let photograph = &*PHOTOGRAPH;
    let (columns, rows) = (photograph.width() as usize, photograph.height() as usize);
    let mut buffer = I420Buffer::black(width, height);
    let pixel = |x: usize, y: usize| {
        let at = photograph.get_pixel(((x + 2 * index) % columns) as u32, ((y + index) % rows) as u32).0;
        at.map(f32::from)
    };
    for plane in 0..3 {
        let (data, plane_width, _) = buffer.plane_mut(plane);
        for (position, value) in data.iter_mut().enumerate() {
            let (x, y) = (position % plane_width, position / plane_width);
            let [r, g, b] = if plane == 0 { pixel(x, y) } else { pixel(2 * x, 2 * y) };
            *value = match plane {
                0 => 16.0 + 0.257 * r + 0.504 * g + 0.098 * b,
                1 => 128.0 - 0.148 * r - 0.291 * g + 0.439 * b,
                _ => 128.0 + 0.439 * r - 0.368 * g - 0.071 * b,
            } as u8;
        }
    }
    buffer
}

/// A dark camera's: up to 8 levels up or down, other ones in each picture, so that any rate is too little.
fn add_noise(picture: &mut I420Buffer, index: u32) {
    let mut state = index.wrapping_mul(2_654_435_761).wrapping_add(1);
    for value in picture.plane_mut(0).0 {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *value = value.saturating_add((state % 17) as u8).saturating_sub(8);
    }
}

fn config(codec: Codec, width: usize, height: usize) -> EncoderConfig {
    EncoderConfig { codec, width, height, bitrate_kbps: 1500, fps_hint: 30, threads: 1, speed: Speed::Fast }
}

fn frame(codec: Codec, data: impl Into<Bytes>, rtp_timestamp: u32, is_key: bool) -> EncodedFrame {
    EncodedFrame { codec, data: data.into(), rtp_timestamp, is_key, received: Instant::now() }
}

/// Peak signal to noise of the luma, in decibels.
fn psnr(want: &I420Buffer, got: &Picture) -> f64 {
    let (want, got) = (want.plane(0), got.planes.plane(0));
    let mut squares = 0u64;
    for y in 0..want.height {
        let rows = want.data[y * want.stride..][..want.width].iter().zip(&got.data[y * got.stride..]);
        squares += rows.map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum::<u64>();
    }
    let mean = squares.max(1) as f64 / (want.width * want.height) as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

/// The frames of a clip in `tests/data/clips`: IVF, or Annex B with one slice a picture.
fn clip(codec: Codec) -> Vec<EncodedFrame> {
    let name = match codec {
        Codec::Vp8 => "astronaut_vp8.ivf",
        Codec::Vp9 => "astronaut_vp9.ivf",
        Codec::Av1 => "astronaut_av1.ivf",
        Codec::H264 => "astronaut.h264",
    };
    let data = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clips").join(name))
        .expect("clip");
    let mut frames = Vec::new();
    let mut add = |data: &[u8]| {
        let index = frames.len() as u32;
        frames.push(frame(codec, Bytes::copy_from_slice(data), index * 6000, index.is_multiple_of(6)));
    };
    if codec == Codec::H264 {
        // An access unit ends with its only slice (NAL types 1 and 5).
        let starts: Vec<usize> =
            (0..data.len() - 3).filter(|&at| data[at..].starts_with(&[0, 0, 1])).collect();
        let mut begin = 0;
        for (index, &start) in starts.iter().enumerate() {
            if matches!(data[start + 3] & 31, 1 | 5) {
                let mut end = starts.get(index + 1).copied().unwrap_or(data.len());
                if end < data.len() && data[end - 1] == 0 {
                    end -= 1;
                }
                add(&data[begin..end]);
                begin = end;
            }
        }
    } else {
        let mut rest = &data[32..];
        while let Some((header, body)) = rest.split_first_chunk::<12>() {
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            add(&body[..length]);
            rest = &body[length..];
        }
    }
    assert_eq!(frames.len(), 12, "{name}");
    frames
}

const ALL: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

#[test]
fn what_is_encoded_comes_back_the_same_picture() {
    // 1.5 Mbit/s at 320x240: well above what a viewer can fault.
    for (codec, speed, floor) in [
        (Codec::Vp8, Speed::Fast, 36.0),
        (Codec::Vp8, Speed::Fastest, 34.0),
        (Codec::H264, Speed::Fast, 36.0),
        (Codec::H264, Speed::Fastest, 33.0),
    ] {
        let mut encoder =
            Encoder::open(EncoderConfig { speed, ..config(codec, 320, 240) }).expect("an encoder");
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        for index in 0..20u32 {
            let picture = astronaut(320, 240, index as usize);
            let out = encoder.encode(&picture, index * 3000, index == 10).expect("encodes").expect("a frame");
            assert_eq!(out.is_key, matches!(index, 0 | 10), "{codec:?} frame {index}");
            let back = decoder
                .decode(&frame(codec, out.data, index * 3000, out.is_key), MAX_PIXELS)
                .expect("decodes")
                .expect("the picture of this very frame");
            assert_eq!((back.width, back.height, back.rtp_timestamp), (320, 240, index * 3000));
            let quality = psnr(&picture, &back);
            assert!(quality > floor, "{codec:?} {speed:?} frame {index}: {quality:.1} dB");
        }
    }
}

#[test]
fn decoders_hold_nothing_back() {
    for codec in ALL {
        for threads in [1, 4] {
            let mut decoder = Decoder::open(codec, threads).expect("a decoder");
            for encoded in clip(codec) {
                let picture =
                    decoder.decode(&encoded, MAX_PIXELS).expect("decodes").expect("one in, one out");
                assert_eq!((picture.width, picture.height), (192, 144));
                assert_eq!(picture.rtp_timestamp, encoded.rtp_timestamp);
                assert!(psnr(&expected_luma(codec, &encoded), &picture) > 28.0, "{codec:?}");
            }
        }
    }
}

/// The clips were all cut from the same pictures, so the VP8 one stands for what they show.
fn expected_luma(codec: Codec, encoded: &EncodedFrame) -> I420Buffer {
    let index = (encoded.rtp_timestamp / 6000) as usize;
    let reference = if codec == Codec::Vp8 { Codec::H264 } else { Codec::Vp8 };
    let mut decoder = Decoder::open(reference, 1).expect("a decoder");
    let mut buffer = I420Buffer::black(1, 1);
    for encoded in clip(reference).iter().take(index + 1) {
        let picture = decoder.decode(encoded, MAX_PIXELS).expect("decodes").expect("a picture");
        buffer.copy_from(&picture);
    }
    buffer
}

#[test]
fn other_colours_and_depths_are_brought_to_bt601() {
    // The same first picture, said in other ways; the 8-bit BT.601 clip is what it should look like.
    for (codec, name) in [
        (Codec::Vp9, "astronaut_vp9_444_bt709_full.ivf"),
        (Codec::Av1, "astronaut_av1_10bit_bt709.ivf"),
        (Codec::H264, "astronaut_bt709_full.h264"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clips").join(name);
        let file = std::fs::read(path).expect("clip");
        // One frame, behind IVF's file and frame headers.
        let data = if codec == Codec::H264 { file } else { file[32 + 12..].to_vec() };
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        let picture =
            decoder.decode(&frame(codec, data, 0, true), MAX_PIXELS).expect("decodes").expect("a picture");
        let mut reference = Decoder::open(Codec::Vp9, 1).expect("a decoder");
        let want = reference.decode(&clip(Codec::Vp9)[0], MAX_PIXELS).expect("decodes").expect("a picture");
        for index in 0..3 {
            let (want, got) = (want.planes.plane(index), picture.planes.plane(index));
            let mean = |plane: &Plane| {
                let rows = plane
                    .data
                    .chunks(plane.stride)
                    .map(|row| row[..plane.width].iter().map(|&v| f64::from(v)));
                rows.flatten().sum::<f64>() / (plane.width * plane.height) as f64
            };
            let difference = mean(&got) - mean(&want);
            assert!(difference.abs() < 1.0, "{name} plane {index}: mean off by {difference:.2}");
            let pairs = want.data.chunks(want.stride).zip(got.data.chunks(got.stride));
            let squares = pairs
                .flat_map(|(want_row, got_row)| want_row[..want.width].iter().zip(got_row))
                .map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2))
                .sum::<u64>();
            let decibels =
                10.0 * (255.0 * 255.0 * (want.width * want.height) as f64 / squares as f64).log10();
            println!("{name} plane {index}: {difference:.2}, {decibels:.1} dB");
            assert!(decibels > 30.0, "{name} plane {index}: {decibels:.1} dB");
        }
    }
}

#[test]
fn a_picture_outlives_its_decoder() {
    let clip = clip(Codec::Vp8);
    let mut decoder = Decoder::open(Codec::Vp8, 1).expect("a decoder");
    let first = decoder.decode(&clip[0], MAX_PIXELS).expect("decodes").expect("a picture");
    let before: Vec<u8> = first.planes.plane(0).data.to_vec();
    for encoded in &clip[1..] {
        decoder.decode(encoded, MAX_PIXELS).expect("decodes");
    }
    drop(decoder);
    assert_eq!(first.planes.plane(0).data, before);
}

#[test]
fn the_size_may_change_at_a_key_frame() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut decoder = Decoder::open(codec, 2).expect("a decoder");
        for (width, height) in [(320, 240), (640, 480), (160, 120)] {
            let mut encoder = Encoder::open(config(codec, width, height)).expect("an encoder");
            for index in 0..3 {
                let picture = astronaut(width, height, index);
                let out =
                    encoder.encode(&picture, index as u32 * 3000, false).expect("encodes").expect("a frame");
                let back = decoder.decode(&frame(codec, out.data, 0, out.is_key), MAX_PIXELS);
                let back = back.expect("decodes").expect("a picture");
                assert_eq!((back.width, back.height), (width, height), "{codec:?} frame {index}");
            }
        }
    }
}

#[test]
fn every_size_up_to_4k_can_be_sent() {
    for codec in [Codec::Vp8, Codec::H264] {
        for (width, height) in [(1, 1), (2, 2), (17, 33), (321, 241), (4096, 2160)] {
            let mut encoder = Encoder::open(config(codec, width, height))
                .unwrap_or_else(|error| panic!("{codec:?} {width}x{height}: {error:?}"));
            let mut decoder = Decoder::open(codec, 1).expect("a decoder");
            let picture = I420Buffer::black(width, height);
            for index in 0..2 {
                let out = encoder.encode(&picture, index * 3000, false).expect("encodes").expect("a frame");
                let back = decoder.decode(&frame(codec, out.data, 0, out.is_key), MAX_PIXELS);
                let back = back.expect("decodes").expect("a picture");
                // H264 has no odd sizes.
                let sent = if codec == Codec::H264 {
                    (width.next_multiple_of(2), height.next_multiple_of(2))
                } else {
                    (width, height)
                };
                assert_eq!((back.width, back.height), sent, "{codec:?}");
                assert!(psnr(&picture, &back) > 40.0);
            }
        }
    }
}

#[test]
fn pictures_over_the_limit_are_refused() {
    for codec in ALL {
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        let clip = clip(codec);
        let limit = 192 * 144 - 1;
        match decoder.decode(&clip[0], limit) {
            Err(CodecError::TooLarge { size, max_pixels }) => {
                assert_eq!(max_pixels, limit);
                assert!(codec == Codec::Av1 || size == Some((192, 144)), "{codec:?} {size:?}");
            }
            other => panic!("{codec:?}: {other:?}"),
        }
        let picture = decoder.decode(&clip[0], limit + 1).expect("allowed now").expect("a picture");
        assert_eq!(picture.width, 192);
    }
}

#[test]
fn a_vp8_header_that_claims_16383_pixels_a_side_takes_no_memory() {
    let clip = clip(Codec::Vp8);
    let mut data = clip[0].data.to_vec();
    data[6..10].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    let mut decoder = Decoder::open(Codec::Vp8, 1).expect("a decoder");
    let refused = decoder.decode(&frame(Codec::Vp8, data, 0, true), MAX_PIXELS);
    assert!(matches!(refused, Err(CodecError::TooLarge { .. })), "{refused:?}");
    assert!(decoder.decode(&clip[0], MAX_PIXELS).expect("decodes").is_some());
}

#[test]
fn decoding_resumes_at_the_next_key_frame() {
    for codec in ALL {
        let clip = clip(codec);
        for cut in [1, 3, 9, clip[2].data.len() / 2] {
            let mut decoder = Decoder::open(codec, 1).expect("a decoder");
            decoder.decode(&clip[0], MAX_PIXELS).expect("decodes");
            // A cut frame is an error, or a picture where the codec has no means to tell.
            let truncated = clip[1].data.slice(..cut.min(clip[1].data.len() - 1));
            let _ = decoder.decode(&frame(codec, truncated, 0, false), MAX_PIXELS);
            for encoded in &clip[6..] {
                let picture = decoder.decode(encoded, MAX_PIXELS).expect("decodes").expect("a picture");
                assert!(psnr(&expected_luma(codec, encoded), &picture) > 28.0, "{codec:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn after_a_flush_nothing_comes_out_before_a_key_frame() {
    for codec in ALL {
        let clip = clip(codec);
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        decoder.decode(&clip[0], MAX_PIXELS).expect("decodes");
        decoder.flush();
        for encoded in &clip[1..6] {
            let decoded = decoder.decode(encoded, MAX_PIXELS);
            assert!(!matches!(decoded, Ok(Some(_))), "{codec:?}: {decoded:?}");
        }
        assert!(decoder.decode(&clip[6], MAX_PIXELS).expect("decodes").is_some(), "{codec:?}");
    }
}

#[test]
fn nonsense_is_an_error() {
    for codec in ALL {
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        let empty = decoder.decode(&frame(codec, Bytes::new(), 0, true), MAX_PIXELS);
        assert!(matches!(empty, Err(CodecError::Empty)));
        let other = if codec == Codec::Vp8 { Codec::Vp9 } else { Codec::Vp8 };
        let wrong = decoder.decode(&frame(other, vec![1, 2, 3], 0, true), MAX_PIXELS);
        assert!(matches!(wrong, Err(CodecError::WrongCodec { .. })));
        for byte in [0x00, 0x55, 0xff] {
            let decoded = decoder.decode(&frame(codec, vec![byte; 500], 0, true), MAX_PIXELS);
            assert!(!matches!(decoded, Ok(Some(_))), "{codec:?} {byte:#x}: {decoded:?}");
        }
        assert!(decoder.decode(&clip(codec)[0], MAX_PIXELS).expect("decodes").is_some(), "{codec:?}");
    }
}

#[test]
fn the_rate_follows_what_is_asked() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut encoder = Encoder::open(config(codec, 640, 480)).expect("an encoder");
        let mut bytes = [0usize; 2];
        for index in 0..120usize {
            if index == 60 {
                encoder.set_bitrate(300);
            }
            let mut picture = astronaut(640, 480, index * 4);
            add_noise(&mut picture, index as u32);
            let out =
                encoder.encode(&picture, index as u32 * 3000, false).expect("encodes").expect("a frame");
            // The first second at each rate is left out: it has a key frame, or the rate's inertia.
            if index % 60 >= 30 {
                bytes[index / 60] += out.data.len();
            }
        }
        let kbps = bytes.map(|bytes| bytes * 8 / 1000);
        assert!((750..=2250).contains(&kbps[0]), "{codec:?} at 1500: {kbps:?}");
        assert!((100..=500).contains(&kbps[1]), "{codec:?} at 300: {kbps:?}");
    }
}

#[test]
fn what_looks_perfect_takes_no_more_of_the_rate() {
    for codec in [Codec::Vp8, Codec::H264] {
        let lavish = EncoderConfig { bitrate_kbps: 20_000, ..config(codec, 640, 480) };
        let mut encoder = Encoder::open(lavish).expect("an encoder");
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        let (mut bytes, mut worst) = (0, f64::INFINITY);
        for index in 0..60usize {
            let (picture, at) = (astronaut(640, 480, index), index as u32 * 3000);
            let out = encoder.encode(&picture, at, false).expect("encodes").expect("a frame");
            let encoded = frame(codec, out.data, at, out.is_key);
            let shown = decoder.decode(&encoded, MAX_PIXELS).expect("decodes").expect("a picture");
            if index >= 30 {
                bytes += encoded.data.len();
                worst = worst.min(psnr(&picture, &shown));
            }
        }
        let kbps = bytes * 8 / 1000;
        assert!(kbps < 6000 && worst > 40.0, "{codec:?}: {kbps} kbit/s, {worst:.1} dB");
    }
}

#[test]
fn encoders_refuse_what_they_cannot_take() {
    assert!(matches!(
        Encoder::open(config(Codec::Av1, 64, 64)),
        Err(CodecError::NotEncoded { codec: "AV1" })
    ));
    for (width, height) in [(0, 64), (64, 0), (16_384, 64)] {
        let refused = Encoder::open(config(Codec::Vp8, width, height));
        assert!(matches!(refused, Err(CodecError::Unencodable { .. })));
    }
    let mut encoder = Encoder::open(config(Codec::Vp8, 64, 64)).expect("an encoder");
    let refused = encoder.encode(&I420Buffer::black(64, 62), 0, false);
    assert!(matches!(refused, Err(CodecError::WrongSize { expected: (64, 64), given: (64, 62) })));
}

#[test]
fn a_clock_that_jumps_stops_no_encoder() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut encoder = Encoder::open(config(codec, 64, 64)).expect("an encoder");
        let picture = I420Buffer::black(64, 64);
        for rtp_timestamp in [u32::MAX - 10, 2989, 2989, 0, 0x8000_0000, 5, u32::MAX] {
            let out = encoder.encode(&picture, rtp_timestamp, false).expect("encodes");
            assert!(out.is_some(), "{codec:?} at {rtp_timestamp}");
        }
    }
}
