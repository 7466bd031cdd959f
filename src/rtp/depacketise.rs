//! Joins in-order packets into encoded frames, and drops what cannot be decoded.
//!
//! It stands between [`Reorder`](super::Reorder) and the decoder. Encoded frames depend on each other:
//! after a hole, everything up to the next key frame is dropped, and the caller is told to ask for one.
//! It reads payload headers only; whether a frame's own bits are sound is the decoder's to say.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{av1, h264, vp8, vp9};
use crate::frame::{Codec, EncodedFrame};

/// Longest encoded frame in bytes: a 4K key frame at any rate that WebRTC reaches is well below.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Most packets of one frame: twice what [`MAX_FRAME_BYTES`] takes at 1000 bytes a packet.
pub const MAX_FRAME_PACKETS: usize = 8192;

/// Most whole frames held for a caller that does not pop.
const MAX_READY: usize = 32;

/// An RTP packet's fields as far as a depacketiser needs them, padding removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub sequence_number: u16,
    /// 1/90000 s.
    pub timestamp: u32,
    /// Set on the last packet of a frame.
    pub marker: bool,
    pub payload: Bytes,
}

/// A payload that its codec's RTP format does not allow here, most often because one before it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A frame while its packets arrive.
#[derive(Default)]
pub(super) struct Assembly {
    pub data: BytesMut,
    pub is_key: bool,
    packets: usize,
}

impl Assembly {
    /// Adds bytes at the end, up to [`MAX_FRAME_BYTES`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.data.len() + bytes.len() > MAX_FRAME_BYTES {
            return Err(Malformed);
        }
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds bytes at the beginning, up to [`MAX_FRAME_BYTES`].
    pub fn prepend(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let tail = self.data.split();
        self.append(bytes).and_then(|()| self.append(&tail))
    }
}

enum Format {
    Vp8,
    Vp9(vp9::Layers),
    H264(h264::Units),
    Av1(av1::Obus),
}

impl Format {
    fn append(&mut self, payload: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        match self {
            Self::Vp8 => vp8::append(payload, frame),
            Self::Vp9(layers) => layers.append(payload, frame),
            Self::H264(units) => units.append(payload, frame),
            Self::Av1(obus) => obus.append(payload, frame),
        }
    }

    /// Whether the assembly is a frame; parameter sets alone are not.
    fn finish(&mut self, frame: &mut Assembly) -> Result<bool, Malformed> {
        match self {
            Self::Vp8 => Ok(!frame.data.is_empty()),
            Self::Vp9(layers) => layers.finish(frame),
            Self::H264(units) => units.finish(frame),
            Self::Av1(obus) => obus.finish(),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Vp8 => {}
            Self::Vp9(layers) => layers.clear(),
            Self::H264(units) => units.clear(),
            Self::Av1(obus) => obus.clear(),
        }
    }
}

/// Joins the packets of one stream of one codec.
///
/// 1. [`push`](Self::push) each packet in order, and [`lose`](Self::lose) what is missing between them.
/// 2. [`pop`](Self::pop) until it answers `None`.
/// 3. While [`needs_key_frame`](Self::needs_key_frame), ask the sender for one (RTCP PLI, RFC 4585 §6.3.1).
pub struct Depacketiser {
    codec: Codec,
    format: Format,
    frame: Assembly,
    /// Timestamp of the frame that is being joined or dropped; `None` between frames.
    current: Option<u32>,
    /// Whether the rest of the current frame is to be dropped.
    is_broken: bool,
    next_sequence_number: Option<u16>,
    /// Nothing can be decoded before a key frame.
    awaits_key: bool,
    needs_key: bool,
    ready: VecDeque<EncodedFrame>,
    dropped: u64,
}

impl Depacketiser {
    /// Begins a stream, which decoding can enter at its first key frame.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            format: match codec {
                Codec::Vp8 => Format::Vp8,
                Codec::Vp9 => Format::Vp9(vp9::Layers::default()),
                Codec::H264 => Format::H264(h264::Units::default()),
                Codec::Av1 => Format::Av1(av1::Obus::default()),
            },
            frame: Assembly::default(),
            current: None,
            is_broken: false,
            next_sequence_number: None,
            awaits_key: true,
            needs_key: false,
            ready: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Takes the next packet, which arrived at `received`.
    ///
    /// A gap before it counts as a loss, whether or not [`lose`](Self::lose) said so.
    pub fn push(&mut self, packet: Packet, received: Instant) {
        let expected = self.next_sequence_number.replace(packet.sequence_number.wrapping_add(1));
        if expected.is_some_and(|expected| expected != packet.sequence_number) {
            self.break_stream();
        }
        // Senders probe the network's rate with packets of padding alone.
        if packet.payload.is_empty() {
            return;
        }
        if self.current.is_some_and(|timestamp| timestamp != packet.timestamp) {
            // The marker is a hint (RFC 3550 §5.1); without a loss in between, the frame was whole.
            self.end_frame(received);
        }
        if self.current.is_none() {
            self.current = Some(packet.timestamp);
            self.is_broken = false;
            self.frame.packets = 0;
        }
        self.frame.packets += 1;
        let refused = !self.is_broken
            && (self.frame.packets > MAX_FRAME_PACKETS
                || self.format.append(&packet.payload, &mut self.frame).is_err());
        if refused {
            self.break_frame();
        }
        if packet.marker {
            self.end_frame(received);
        }
    }

    /// Says that packets are missing before the next one that is pushed.
    pub fn lose(&mut self) {
        self.next_sequence_number = None;
        self.break_stream();
    }

    /// The next whole frame that can be decoded.
    pub fn pop(&mut self) -> Option<EncodedFrame> {
        self.ready.pop_front()
    }

    /// Whether the sender should be asked for a key frame; true until one has come whole.
    pub fn needs_key_frame(&self) -> bool {
        self.needs_key
    }

    /// Drops frames up to the next key frame, because the decoder failed or fell behind.
    pub fn require_key_frame(&mut self) {
        self.awaits_key = true;
        self.needs_key = true;
        self.dropped += self.ready.len() as u64;
        self.ready.clear();
    }

    /// Frames that were begun and never handed over.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn break_stream(&mut self) {
        // What was handed over already is whole; what follows depends on what is lost.
        self.awaits_key = true;
        self.needs_key = true;
        if self.current.is_some() && !self.is_broken {
            self.break_frame();
        }
    }

    fn break_frame(&mut self) {
        self.is_broken = true;
        self.awaits_key = true;
        self.needs_key = true;
        self.frame.data.clear();
        self.format.clear();
    }

    fn end_frame(&mut self, received: Instant) {
        let Some(rtp_timestamp) = self.current.take() else { return };
        let finished = if self.is_broken { Err(Malformed) } else { self.format.finish(&mut self.frame) };
        let is_key = std::mem::take(&mut self.frame.is_key);
        let data = self.frame.data.split().freeze();
        self.format.clear();
        match finished {
            Ok(true) => {}
            Ok(false) => return,
            Err(Malformed) => {
                self.awaits_key = true;
                self.needs_key = true;
                self.dropped += 1;
                return;
            }
        }
        if self.awaits_key && !is_key {
            self.needs_key = true;
            self.dropped += 1;
            return;
        }
        self.awaits_key = false;
        self.needs_key = false;
        if self.ready.len() == MAX_READY {
            self.require_key_frame();
            self.dropped += 1;
            return;
        }
        self.ready.push_back(EncodedFrame { codec: self.codec, data, rtp_timestamp, is_key, received });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of a VP8 frame: the descriptor's S bit, and the frame tag of a key or other frame.
    fn vp8(sequence_number: u16, timestamp: u32, begins: bool, marker: bool, tag: u8) -> Packet {
        let payload = Bytes::from(vec![if begins { 0x10 } else { 0 }, tag, 0xaa]);
        Packet { sequence_number, timestamp, marker, payload }
    }

    const KEY: u8 = 0;
    const DELTA: u8 = 1;

    fn pop_timestamps(depacketiser: &mut Depacketiser) -> Vec<u32> {
        std::iter::from_fn(|| depacketiser.pop()).map(|frame| frame.rtp_timestamp).collect()
    }

    #[test]
    fn a_loss_drops_everything_up_to_the_next_key_frame() {
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        let now = Instant::now();
        depacketiser.push(vp8(1, 10, true, true, KEY), now);
        depacketiser.push(vp8(2, 20, true, false, DELTA), now);
        // Packet 3 is lost.
        depacketiser.push(vp8(4, 20, false, true, DELTA), now);
        assert!(depacketiser.needs_key_frame());
        depacketiser.push(vp8(5, 30, true, true, DELTA), now);
        assert_eq!(pop_timestamps(&mut depacketiser), [10]);
        depacketiser.push(vp8(6, 40, true, true, KEY), now);
        assert!(!depacketiser.needs_key_frame());
        depacketiser.push(vp8(7, 50, true, true, DELTA), now);
        assert_eq!(pop_timestamps(&mut depacketiser), [40, 50]);
        assert_eq!(depacketiser.dropped(), 2);
    }

    #[test]
    fn a_key_frame_without_its_first_packet_is_not_one() {
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        let now = Instant::now();
        depacketiser.lose();
        depacketiser.push(vp8(2, 10, false, true, KEY), now);
        depacketiser.push(vp8(3, 20, true, true, DELTA), now);
        assert!(depacketiser.pop().is_none());
        assert!(depacketiser.needs_key_frame());
    }

    #[test]
    fn a_stream_that_begins_in_the_middle_asks_for_a_key_frame() {
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        assert!(!depacketiser.needs_key_frame(), "nothing has come yet");
        depacketiser.push(vp8(1, 10, true, true, DELTA), Instant::now());
        assert!(depacketiser.needs_key_frame());
        assert!(depacketiser.pop().is_none());
    }

    #[test]
    fn a_new_timestamp_ends_a_frame_that_had_no_marker() {
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        let now = Instant::now();
        depacketiser.push(vp8(65_535, 10, true, false, KEY), now);
        depacketiser.push(vp8(0, 20, true, true, DELTA), now);
        assert_eq!(pop_timestamps(&mut depacketiser), [10, 20]);
    }

    #[test]
    fn padding_is_no_loss() {
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        let now = Instant::now();
        depacketiser.push(vp8(1, 10, true, false, KEY), now);
        let padding = Packet { sequence_number: 2, timestamp: 10, marker: false, payload: Bytes::new() };
        depacketiser.push(padding, now);
        depacketiser.push(vp8(3, 10, false, true, KEY), now);
        assert_eq!(depacketiser.pop().expect("whole").data[..], [KEY, 0xaa, KEY, 0xaa]);
    }

    #[test]
    fn a_frame_without_end_is_given_up_at_the_limits() {
        for size in [1, 60_000] {
            let mut depacketiser = Depacketiser::new(Codec::Vp8);
            let now = Instant::now();
            depacketiser.push(vp8(0, 10, true, false, KEY), now);
            let mut payload = vec![0u8; size + 1];
            payload[1] = 1;
            let payload = Bytes::from(payload);
            for index in 1..20_000u32 {
                let sequence_number = index as u16;
                let packet =
                    Packet { sequence_number, timestamp: 10, marker: false, payload: payload.clone() };
                depacketiser.push(packet, now);
                assert!(depacketiser.frame.data.len() <= MAX_FRAME_BYTES);
            }
            assert!(depacketiser.is_broken && depacketiser.needs_key_frame());
        }
    }

    #[test]
    fn frames_that_nobody_takes_do_not_pile_up() {
        let mut depacketiser = Depacketiser::new(Codec::Vp8);
        for index in 0..1000u16 {
            depacketiser.push(vp8(index, u32::from(index), true, true, KEY), Instant::now());
        }
        assert!(depacketiser.ready.len() <= MAX_READY);
    }

    #[test]
    fn vp9_layers_become_a_superframe() {
        let mut depacketiser = Depacketiser::new(Codec::Vp9);
        let now = Instant::now();
        // Flexible mode, picture ID 5; layer 0 in two packets, layer 1 (predicted from it) in one.
        let payloads: [(&[u8], bool); 3] = [
            (&[0b1011_1000, 5, 0b0000_0000, 0x82, 0x49], false),
            (&[0b1011_0100, 5, 0b0000_0000, 0x83], false),
            (&[0b1011_1100, 5, 0b0000_0011, 0x86, 0x01], true),
        ];
        for (index, (payload, marker)) in payloads.into_iter().enumerate() {
            let payload = Bytes::copy_from_slice(payload);
            depacketiser.push(Packet { sequence_number: index as u16, timestamp: 0, marker, payload }, now);
        }
        let frame = depacketiser.pop().expect("whole");
        assert!(frame.is_key);
        let superframe = [0x82, 0x49, 0x83, 0x86, 0x01, 0xd9, 3, 0, 0, 0, 2, 0, 0, 0, 0xd9];
        assert_eq!(frame.data[..], superframe);
    }
}
