//! Milliseconds a frame, decoding and encoding a moving photograph on one thread.
//!
//! Clips to decode are made by the `ffmpeg` command; without it, decoding is left out.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use vigie::codec::{Decoder, Encoder, EncoderConfig, MAX_PIXELS, Speed};
use vigie::frame::{Codec, EncodedFrame, I420Buffer};
use vigie::rtp::{Depacketiser, Packet, Packetiser};

const PICTURES: usize = 60;
const SIZES: [(usize, usize, u32); 2] = [(640, 480, 1200), (1280, 720, 2500)];

/// The photograph, repeated to fill the picture, panned two pixels a picture.
fn pan(width: usize, height: usize) -> Vec<I420Buffer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures/astronaut.jpg");
    let photograph = image::open(path).expect("the photograph").into_rgb8();
    let convert = |index: usize| {
        let mut buffer = I420Buffer::black(width, height);
        for plane in 0..3 {
            let (data, columns, _) = buffer.plane_mut(plane);
            let step = if plane == 0 { 1 } else { 2 };
            for (at, value) in data.iter_mut().enumerate() {
                let (x, y) = ((at % columns * step + 2 * index) as u32, (at / columns * step + index) as u32);
                let at = photograph.get_pixel(x % photograph.width(), y % photograph.height());
                let [r, g, b] = at.0.map(f32::from);
                *value = match plane {
                    0 => 16.0 + 0.257 * r + 0.504 * g + 0.098 * b,
                    1 => 128.0 - 0.148 * r - 0.291 * g + 0.439 * b,
                    _ => 128.0 + 0.439 * r - 0.368 * g - 0.071 * b,
                } as u8;
            }
        }
        buffer
    };
    (0..PICTURES).map(convert).collect()
}

/// Encodes `pictures` with the ffmpeg command into frames of an IVF file.
fn make_clip(codec: Codec, pictures: &[I420Buffer], kbps: u32) -> Option<Vec<EncodedFrame>> {
    let options = match codec {
        Codec::Vp9 => "-c:v libvpx-vp9 -deadline realtime -cpu-used 7 -lag-in-frames 0 -auto-alt-ref 0",
        Codec::Av1 => "-c:v libaom-av1 -usage realtime -cpu-used 8 -lag-in-frames 0",
        _ => return None,
    };
    let size = format!("{}x{}", pictures[0].width, pictures[0].height);
    let rate = format!("{kbps}k");
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-r", "30", "-s", &size, "-i", "-"])
        .args(options.split(' '))
        .args(["-b:v", &rate, "-g", "1000", "-f", "ivf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let data: Vec<u8> = pictures.iter().flat_map(|picture| picture.data.clone()).collect();
    let writer = std::thread::spawn(move || input.write_all(&data));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?.ok()?;
    let mut frames = Vec::new();
    let mut rest = output.stdout.get(32..)?;
    while let Some((header, body)) = rest.split_first_chunk::<12>() {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        frames.push(encoded(codec, Bytes::copy_from_slice(&body[..length]), frames.len()));
        rest = &body[length..];
    }
    Some(frames)
}

fn encoded(codec: Codec, data: Bytes, index: usize) -> EncodedFrame {
    EncodedFrame {
        codec,
        data,
        rtp_timestamp: index as u32 * 3000,
        is_key: index == 0,
        received: Instant::now(),
    }
}

fn open(codec: Codec, speed: Speed, picture: &I420Buffer, bitrate_kbps: u32) -> Encoder {
    let I420Buffer { width, height, .. } = *picture;
    Encoder::open(EncoderConfig { codec, width, height, bitrate_kbps, fps_hint: 30, threads: 1, speed })
        .expect("an encoder")
}

fn measure(criterion: &mut Criterion) {
    for (width, height, kbps) in SIZES {
        let pictures = pan(width, height);
        let mut group = criterion.benchmark_group(format!("{width}x{height}"));
        group
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(3))
            .sample_size(20);
        for codec in [Codec::Vp8, Codec::H264] {
            for speed in [Speed::Fast, Speed::Fastest] {
                let mut encoder = open(codec, speed, &pictures[0], kbps);
                let mut index = 0;
                group.bench_function(format!("encode {} {speed:?}", codec.name()), |bencher| {
                    bencher.iter(|| {
                        // There and back, so that no picture is a cut.
                        let at = index % (2 * PICTURES - 2);
                        let picture = &pictures[at.min(2 * PICTURES - 2 - at)];
                        index += 1;
                        encoder.encode(picture, index as u32 * 3000, false).expect("encodes")
                    });
                });
            }
        }
        for codec in [Codec::Vp8, Codec::H264, Codec::Vp9, Codec::Av1] {
            let clip = make_clip(codec, &pictures, kbps).unwrap_or_else(|| {
                if matches!(codec, Codec::Vp9 | Codec::Av1) {
                    return Vec::new();
                }
                let mut encoder = open(codec, Speed::Fast, &pictures[0], kbps);
                let encode = |(index, picture): (usize, &I420Buffer)| {
                    let out = encoder.encode(picture, index as u32 * 3000, false).expect("encodes")?;
                    Some(encoded(codec, out.data, index))
                };
                pictures.iter().enumerate().filter_map(encode).collect()
            });
            if clip.is_empty() {
                continue;
            }
            let mut decoder = Decoder::open(codec, 1).expect("a decoder");
            let mut frames = clip.iter().cycle();
            group.bench_function(format!("decode {}", codec.name()), |bencher| {
                bencher.iter(|| {
                    let frame = frames.next().expect("a cycle has no end");
                    decoder.decode(frame, MAX_PIXELS).expect("decodes")
                });
            });
        }
        let mut encoder = open(Codec::Vp8, Speed::Fast, &pictures[0], kbps);
        let key = encoder.encode(&pictures[0], 0, true).expect("encodes").expect("a frame").data;
        let mut packetiser = Packetiser::new(Codec::Vp8, vigie::rtp::DEFAULT_MTU).expect("VP8 is sent");
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        let (mut sequence_number, mut timestamp) = (0u16, 0u32);
        group.bench_function("cut and join a VP8 key frame", |bencher| {
            bencher.iter(|| {
                timestamp = timestamp.wrapping_add(3000);
                for payload in packetiser.packetise(&key) {
                    let packet =
                        Packet { sequence_number, timestamp, marker: payload.marker, payload: payload.data };
                    depacketiser.push(packet, Instant::now());
                    sequence_number = sequence_number.wrapping_add(1);
                }
                depacketiser.pop().expect("whole")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, measure);
criterion_main!(benches);
