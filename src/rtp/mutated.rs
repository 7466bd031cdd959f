//! Mutated packets of real streams, through the depacketiser into the decoder: no panic, no growth.

use std::time::Instant;

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::clips::packets;
use super::{Depacketiser, MAX_FRAME_BYTES, Packet};
use crate::codec::{Decoder, MAX_PIXELS};
use crate::frame::Codec;

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
