//! RTP packets, through reordering and depacketising into a decoder.
//!
//! The bytes are records: a step of the sequence number, flags, the payload's length, the payload. So a mutation can
//! lose, double, swap and cut packets.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::codec::Decoder;
use crate::frame::Codec;
use crate::rtp::{Depacketiser, Event, MAX_FRAME_BYTES, Packet, Reorder};

/// Bits of a record's flags: the marker, and a new timestamp.
const MARKER: u8 = 1;
const NEXT_FRAME: u8 = 2;
/// Packets of one input.
const MAX_PACKETS: usize = 512;
/// Pixels of a picture: more than any seed has, and little to decode.
const MAX_PIXELS: usize = 320 * 240;

pub fn vp8(data: &[u8]) {
    receive(Codec::Vp8, data);
}

pub fn vp9(data: &[u8]) {
    receive(Codec::Vp9, data);
}

pub fn h264(data: &[u8]) {
    receive(Codec::H264, data);
}

pub fn av1(data: &[u8]) {
    receive(Codec::Av1, data);
}

fn receive(codec: Codec, data: &[u8]) {
    let started = Instant::now();
    let mut reorder = Reorder::new(Duration::from_millis(120), 64);
    let mut depacketiser = Depacketiser::new(codec);
    let mut decoder = Decoder::open(codec, 1).expect("FFmpeg has the decoders");
    for (index, packet) in read(data).into_iter().enumerate() {
        let now = started + Duration::from_millis(index as u64 * 5);
        reorder.push(packet.sequence_number, packet, now);
        while let Some(event) = reorder.pop(now) {
            match event {
                Event::Packet(packet) => depacketiser.push(packet, now),
                Event::Lost { count } => {
                    assert!(count > 0);
                    depacketiser.lose();
                }
            }
            decode(&mut depacketiser, &mut decoder);
        }
    }
}

fn decode(depacketiser: &mut Depacketiser, decoder: &mut Decoder) {
    while let Some(frame) = depacketiser.pop() {
        assert!(!frame.data.is_empty() && frame.data.len() <= MAX_FRAME_BYTES);
        match decoder.decode(&frame, MAX_PIXELS) {
            Ok(picture) => {
                assert!(picture.is_none_or(|picture| picture.width * picture.height <= MAX_PIXELS));
            }
            Err(_) => depacketiser.require_key_frame(),
        }
    }
}

fn read(mut data: &[u8]) -> Vec<Packet> {
    let (mut sequence_number, mut timestamp, mut packets) = (0_u16, 0_u32, Vec::new());
    while let Some((&[step, flags, high, low], rest)) = data.split_first_chunk::<4>()
        && packets.len() < MAX_PACKETS
    {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        sequence_number = sequence_number.wrapping_add(i16::from(step as i8) as u16);
        if flags & NEXT_FRAME != 0 {
            timestamp = timestamp.wrapping_add(3000);
        }
        packets.push(Packet {
            sequence_number,
            timestamp,
            marker: flags & MARKER != 0,
            payload: Bytes::copy_from_slice(&rest[..length]),
        });
        data = &rest[length..];
    }
    packets
}

/// Packets as the records that [`read`] reads.
pub(super) fn write(packets: &[Packet]) -> Vec<u8> {
    let (mut data, mut timestamp) = (Vec::new(), None);
    for packet in packets {
        let is_next = timestamp.replace(packet.timestamp).is_some_and(|before| before != packet.timestamp);
        let flags = u8::from(packet.marker) * MARKER | u8::from(is_next) * NEXT_FRAME;
        data.extend([1, flags]);
        data.extend((packet.payload.len() as u16).to_be_bytes());
        data.extend(&packet.payload);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::clips;

    #[test]
    fn a_seed_decodes_to_pictures() {
        for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
            let packets = read(&write(&clips::packets(codec)));
            let mut depacketiser = Depacketiser::new(codec);
            let mut decoder = Decoder::open(codec, 1).expect("a decoder");
            let mut pictures = 0;
            for packet in packets {
                depacketiser.push(packet, Instant::now());
                while let Some(frame) = depacketiser.pop() {
                    pictures += usize::from(decoder.decode(&frame, MAX_PIXELS).expect("decodes").is_some());
                }
            }
            assert_eq!(pictures, 12, "{codec:?}");
        }
    }
}
