//! Mutated packets of real streams, through the depacketiser into the decoder: no panic, no growth.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Depacketiser, MAX_FRAME_BYTES, Packet, Packetiser};
use crate::codec::{Decoder, MAX_PIXELS};
use crate::frame::Codec;

/// The packets of a codec's clip in `tests/data/clips`, cut small so that frames have several.
fn packets(codec: Codec) -> Vec<Packet> {
    let name = match codec {
        Codec::Vp8 => "astronaut_vp8.ivf",
        Codec::Vp9 => "astronaut_vp9.ivf",
        Codec::Av1 => "astronaut_av1.ivf",
        Codec::H264 => "astronaut.h264",
    };
    let data = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clips").join(name))
        .expect("clip");
    let mut payloads: Vec<(u32, bool, Bytes)> = Vec::new();
    if codec == Codec::H264 {
        let mut packetiser = Packetiser::new(codec, 300).expect("H264 is sent");
        // Parameter sets and slices, one access unit after the other.
        let mut timestamp = 0;
        for unit in super::h264::split_annex_b(&data) {
            let with_start: Vec<u8> = [&[0, 0, 0, 1], unit].concat();
            let is_slice = matches!(super::h264::kind(unit[0]), 1 | 5);
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

const ALL: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

#[test]
fn untouched_packets_decode_to_every_picture() {
    for codec in ALL {
        let mut depacketiser = Depacketiser::new(codec);
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        let (mut pictures, mut keys) = (0, Vec::new());
        for packet in packets(codec) {
            depacketiser.push(packet, Instant::now());
            while let Some(frame) = depacketiser.pop() {
                if frame.is_key {
                    keys.push(pictures);
                }
                let picture = decoder.decode(&frame, MAX_PIXELS).expect("decodes").expect("a picture");
                assert_eq!((picture.width, picture.height), (192, 144));
                pictures += 1;
            }
        }
        assert_eq!((pictures, keys), (12, vec![0, 6]), "{codec:?}");
        assert_eq!(depacketiser.dropped(), 0, "{codec:?}");
    }
}

/// Changes a packet as a hostile or broken sender might.
fn mutate(packet: &mut Packet, random: &mut StdRng) {
    let mut payload = packet.payload.to_vec();
    match random.random_range(0..8) {
        0 => payload.truncate(random.random_range(0..=payload.len())),
        1 => payload.extend((0..random.random_range(1..50)).map(|_| random.random::<u8>())),
        2 => packet.marker = !packet.marker,
        3 => packet.timestamp = random.random(),
        4 => packet.sequence_number = random.random(),
        // Headers are where the parsers look.
        5 | 6 => {
            for _ in 0..random.random_range(1..4) {
                let reach = payload.len().min(12);
                if reach > 0 {
                    payload[random.random_range(0..reach)] = random.random();
                }
            }
        }
        _ => {
            if !payload.is_empty() {
                let at = random.random_range(0..payload.len());
                payload[at] ^= 1 << random.random_range(0..8);
            }
        }
    }
    packet.payload = payload.into();
}

#[test]
fn mutated_packets_neither_panic_nor_grow() {
    const PACKETS: usize = 100_000;
    for codec in ALL {
        let originals = packets(codec);
        let mut random = StdRng::seed_from_u64(0x5eed ^ codec as u64);
        let mut depacketiser = Depacketiser::new(codec);
        let mut decoder = Decoder::open(codec, 1).expect("a decoder");
        let (mut sequence_number, mut frames, mut decoded, mut is_decoding) = (0u16, 0u64, 0u64, false);
        for index in 0..PACKETS {
            let mut packet = originals[index % originals.len()].clone();
            packet.sequence_number = sequence_number;
            sequence_number = sequence_number.wrapping_add(1);
            if random.random_bool(0.02) {
                mutate(&mut packet, &mut random);
            }
            depacketiser.push(packet, Instant::now());
            while let Some(frame) = depacketiser.pop() {
                assert!(frame.data.len() <= MAX_FRAME_BYTES);
                frames += 1;
                // Decoding all of it would take a minute; one group of pictures in eight is enough.
                if frame.is_key {
                    is_decoding = random.random_bool(0.125);
                }
                if !is_decoding {
                    continue;
                }
                match decoder.decode(&frame, 192 * 144) {
                    Ok(picture) => decoded += u64::from(picture.is_some()),
                    Err(_) => depacketiser.require_key_frame(),
                }
            }
        }
        assert!(decoded > 100 && frames > 1000, "{codec:?}: {decoded} of {frames} frames");
    }
}

#[test]
fn every_layer_of_a_superframe_reaches_the_decoder() {
    // A clip's key frame and the frame after it, sent as two spatial layers of one picture.
    let frames = |packets: &[Packet]| {
        let mut depacketiser = Depacketiser::new(Codec::Vp9);
        packets.iter().for_each(|packet| depacketiser.push(packet.clone(), Instant::now()));
        std::iter::from_fn(|| depacketiser.pop()).collect::<Vec<_>>()
    };
    let alone = frames(&packets(Codec::Vp9));
    let mut layered: Vec<Packet> =
        packets(Codec::Vp9).into_iter().filter(|packet| packet.timestamp <= 6000).collect();
    for packet in &mut layered {
        let is_upper = packet.timestamp > 0;
        // Flexible mode's layer byte goes behind the 15-bit picture ID: spatial layer 0 or 1; the upper one
        // is predicted from the lower, not from another picture.
        let (descriptor, body) = packet.payload.split_at(3);
        let bits = descriptor[0] & !0x40 | 0x30;
        let layer = if is_upper { 0b0000_0011 } else { 0 };
        packet.payload = Bytes::from([&[bits, descriptor[1], descriptor[2], layer], body].concat());
        packet.timestamp = 0;
        packet.marker &= is_upper;
    }
    let joined = frames(&layered);
    assert_eq!(joined.len(), 1);
    assert!(joined[0].is_key);
    let mut decoder = Decoder::open(Codec::Vp9, 1).expect("a decoder");
    let picture = decoder.decode(&joined[0], MAX_PIXELS).expect("decodes").expect("a picture");
    let mut reference = Decoder::open(Codec::Vp9, 1).expect("a decoder");
    reference.decode(&alone[0], MAX_PIXELS).expect("decodes");
    let want = reference.decode(&alone[1], MAX_PIXELS).expect("decodes").expect("a picture");
    for index in 0..3 {
        assert_eq!(picture.planes.plane(index).data, want.planes.plane(index).data);
    }
}
