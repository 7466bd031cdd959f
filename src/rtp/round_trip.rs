//! Packetise, lose and shuffle, put in order, join: what comes out is what went in, or nothing.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Depacketiser, Event, Packet, Packetiser, Reorder};
use crate::frame::{Codec, EncodedFrame};

/// A stream of frames with a key frame every `interval`, of pseudo-random bytes and sizes.
fn frames(codec: Codec, random: &mut StdRng, count: usize, interval: usize) -> Vec<Vec<u8>> {
    // Without zeros, no byte can be taken for part of a start code.
    let body = |random: &mut StdRng| -> Vec<u8> {
        let length = if random.random_bool(0.3) {
            random.random_range(2000..9000)
        } else {
            random.random_range(1..1500)
        };
        (0..length).map(|_| random.random_range(1..=255)).collect()
    };
    (0..count)
        .map(|index| {
            let is_key = index.is_multiple_of(interval);
            let mut frame = match (codec, is_key) {
                (Codec::Vp8, _) => vec![u8::from(!is_key)],
                (_, true) => {
                    [0, 0, 0, 1, 0x67, 66, 0xc0, 31, 0, 0, 0, 1, 0x68, 0xce, 0, 0, 0, 1, 0x65, 0x88].to_vec()
                }
                (_, false) => vec![0, 0, 0, 1, 0x41, 0x9a],
            };
            frame.extend(body(random));
            frame
        })
        .collect()
}

fn packets(codec: Codec, frames: &[Vec<u8>]) -> Vec<Packet> {
    let mut packetiser = Packetiser::new(codec, 1180).expect("a codec that is sent");
    let mut sequence_number = 65_000u16;
    let mut packets = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        for payload in packetiser.packetise(frame) {
            let timestamp = index as u32 * 3000;
            packets.push(Packet {
                sequence_number,
                timestamp,
                marker: payload.marker,
                payload: payload.data,
            });
            sequence_number = sequence_number.wrapping_add(1);
        }
    }
    packets
}

/// Plays `(arrival, packet)`s through the window and the depacketiser.
fn receive(codec: Codec, arrivals: &[(Duration, Packet)]) -> (Vec<EncodedFrame>, Depacketiser) {
    let start = Instant::now();
    let mut reorder = Reorder::new(Duration::from_millis(120), 512);
    let mut depacketiser = Depacketiser::new(codec);
    let mut out = Vec::new();
    let end = arrivals.last().map_or(Duration::ZERO, |&(at, _)| at) + Duration::from_secs(1);
    let moments = arrivals.iter().map(|(at, packet)| (*at, Some(packet))).chain([(end, None)]);
    for (at, packet) in moments {
        let now = start + at;
        if let Some(packet) = packet {
            reorder.push(packet.sequence_number, packet.clone(), now);
        }
        while let Some(event) = reorder.pop(now) {
            match event {
                Event::Packet(packet) => depacketiser.push(packet, now),
                Event::Lost { .. } => depacketiser.lose(),
            }
            out.extend(std::iter::from_fn(|| depacketiser.pop()));
        }
    }
    (out, depacketiser)
}

#[test]
fn shuffled_and_doubled_packets_lose_nothing() {
    for codec in [Codec::Vp8, Codec::H264] {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let frames = frames(codec, &mut random, 60, 1000);
            let mut arrivals: Vec<(Duration, Packet)> = Vec::new();
            for (index, packet) in packets(codec, &frames).into_iter().enumerate() {
                let mut at = Duration::from_micros(index as u64 * 1000 + random.random_range(0..40_000));
                // The first arrives first: where a stream begins, nothing says what came before.
                if index == 0 {
                    at = Duration::ZERO;
                }
                if random.random_bool(0.05) {
                    arrivals.push((at + Duration::from_millis(random.random_range(0..60)), packet.clone()));
                }
                arrivals.push((at, packet));
            }
            arrivals.sort_by_key(|&(at, _)| at);
            let (out, depacketiser) = receive(codec, &arrivals);
            assert_eq!(out.len(), frames.len(), "{codec:?} seed {seed}");
            for (index, (got, sent)) in out.iter().zip(&frames).enumerate() {
                assert_eq!(got.data[..], sent[..], "{codec:?} seed {seed} frame {index}");
                assert_eq!((got.is_key, got.rtp_timestamp), (index == 0, index as u32 * 3000));
            }
            assert_eq!(depacketiser.dropped(), 0);
        }
    }
}

#[test]
fn after_losses_what_comes_out_is_whole_and_begins_with_a_key_frame() {
    for codec in [Codec::Vp8, Codec::H264] {
        let mut handed_over = 0;
        for seed in 100..140 {
            let mut random = StdRng::seed_from_u64(seed);
            let frames = frames(codec, &mut random, 90, 10);
            let arrivals: Vec<(Duration, Packet)> = packets(codec, &frames)
                .into_iter()
                .enumerate()
                .map(|(index, packet)| (Duration::from_millis(index as u64 * 5), packet))
                .filter(|_| random.random_bool(0.97))
                .collect();
            let (out, _) = receive(codec, &arrivals);
            let mut previous = None;
            for got in &out {
                let index = (got.rtp_timestamp / 3000) as usize;
                assert_eq!(got.data[..], frames[index][..], "{codec:?} seed {seed} frame {index}");
                assert_eq!(got.is_key, index.is_multiple_of(10));
                // A frame follows the one that it was predicted from, or is a key frame.
                assert!(got.is_key || previous == Some(index - 1), "{codec:?} seed {seed} frame {index}");
                previous = Some(index);
            }
            handed_over += out.len();
        }
        assert!(handed_over > 40 * 90 / 3, "{codec:?}: {handed_over} of 3600 came through");
    }
}

#[test]
fn a_retransmission_in_time_repairs_the_stream() {
    let mut random = StdRng::seed_from_u64(7);
    let frames = frames(Codec::H264, &mut random, 30, 1000);
    let mut arrivals: Vec<(Duration, Packet)> = packets(Codec::H264, &frames)
        .into_iter()
        .enumerate()
        .map(|(index, packet)| {
            // Every seventh packet is lost, and sent again 80 ms later.
            let late = if index % 7 == 3 { 80 } else { 0 };
            (Duration::from_millis(index as u64 * 4 + late), packet)
        })
        .collect();
    arrivals.sort_by_key(|&(at, _)| at);
    let (out, depacketiser) = receive(Codec::H264, &arrivals);
    assert_eq!(out.len(), frames.len());
    assert!(!depacketiser.needs_key_frame());
}
