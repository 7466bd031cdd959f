//! The clips of `tests/data/clips` as RTP packets: what is mutated to attack depacketisers and decoders.

use bytes::Bytes;

use super::{Packet, Packetiser, h264};
use crate::frame::Codec;

/// The packets of a codec's clip in `tests/data/clips`, cut small so that frames have several.
pub fn packets(codec: Codec) -> Vec<Packet> {
    macro_rules! clip {
        ($name:literal) => {
            &include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/clips/", $name))[..]
        };
    }
    let data = match codec {
        Codec::Vp8 => clip!("astronaut_vp8.ivf"),
        Codec::Vp9 => clip!("astronaut_vp9.ivf"),
        Codec::Av1 => clip!("astronaut_av1.ivf"),
        Codec::H264 => clip!("astronaut.h264"),
    };
    let mut payloads: Vec<(u32, bool, Bytes)> = Vec::new();
    if codec == Codec::H264 {
        let mut packetiser = Packetiser::new(codec, 300).expect("H264 is sent");
        // Parameter sets and slices, one access unit after the other.
        let mut timestamp = 0;
        for unit in h264::split_annex_b(data) {
            let with_start: Vec<u8> = [&[0, 0, 0, 1], unit].concat();
            let is_slice = matches!(h264::kind(unit[0]), 1 | 5);
            for payload in packetiser.packetise(&with_start) {
                payloads.push((timestamp, payload.marker && is_slice, payload.data));
            }
            timestamp += if is_slice { 6000 } else { 0 };
        }
    } else {
        let mut rest = &data[32..];
        let mut timestamp = 0;
        while let Some((header, body)) = rest.split_first_chunk::<12>() {
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            payloads.extend(
                cut(codec, &body[..length]).into_iter().map(|(marker, data)| (timestamp, marker, data)),
            );
            timestamp += 6000;
            rest = &body[length..];
        }
    }
    payloads
        .into_iter()
        .enumerate()
        .map(|(index, (timestamp, marker, payload))| Packet {
            sequence_number: index as u16,
            timestamp,
            marker,
            payload,
        })
        .collect()
}

/// Payloads of one IVF frame, as a browser would send it.
fn cut(codec: Codec, frame: &[u8]) -> Vec<(bool, Bytes)> {
    const PIECE: usize = 300;
    match codec {
        Codec::Vp8 => {
            let payloads = Packetiser::new(codec, PIECE).expect("VP8 is sent").packetise(frame);
            payloads.into_iter().map(|payload| (payload.marker, payload.data)).collect()
        }
        Codec::Vp9 => {
            let count = frame.len().div_ceil(PIECE);
            let is_key = frame[0] & 0x0c == 0;
            let pieces = frame.chunks(PIECE).enumerate().map(|(index, piece)| {
                let (begins, ends) = (index == 0, index + 1 == count);
                let bits = 0x80 | if is_key { 0 } else { 0x40 } | u8::from(begins) << 3 | u8::from(ends) << 2;
                (ends, Bytes::from([&[bits, 0x81, 0x23], piece].concat()))
            });
            pieces.collect()
        }
        _ => {
            // Without the temporal delimiter; every OBU here has a size, which is taken out.
            let mut elements: Vec<Vec<u8>> = Vec::new();
            let mut rest = &frame[2..];
            while let Some((&header, tail)) = rest.split_first() {
                let (mut length, mut size) = (0usize, 0);
                loop {
                    length |= usize::from(tail[size] & 0x7f) << (7 * size);
                    size += 1;
                    if tail[size - 1] & 0x80 == 0 {
                        break;
                    }
                }
                elements.push([&[header & !0x02], &tail[size..size + length]].concat());
                rest = &tail[size + length..];
            }
            let mut payloads = Vec::new();
            let last = elements.len() - 1;
            for (index, element) in elements.iter().enumerate() {
                let count = element.len().div_ceil(PIECE);
                for (at, piece) in element.chunks(PIECE).enumerate() {
                    let bits = u8::from(at > 0) << 7 | u8::from(at + 1 < count) << 6 | 0x10;
                    payloads.push((index == last && at + 1 == count, Bytes::from([&[bits], piece].concat())));
                }
            }
            payloads
        }
    }
}
