//! Cuts encoded frames into RTP payloads.
//!
//! It stands between the encoder and the peer. Sequence numbers, timestamps, pacing and encryption are
//! the WebRTC library's.

use bytes::Bytes;

use super::{h264, vp8};
use crate::frame::Codec;

/// Largest payload in bytes: with RTP, extensions, SRTP, UDP and TURN around it, below 1280, IPv6's least MTU.
pub const DEFAULT_MTU: usize = 1180;

/// One packet's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub data: Bytes,
    /// Set on the last payload of a frame.
    pub marker: bool,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Vp8 { picture_id: u16 },
    H264,
}

/// Cuts the frames of one stream.
#[derive(Debug)]
pub struct Packetiser {
    format: Format,
    mtu: usize,
}

impl Packetiser {
    /// Begins a stream whose payloads are at most `mtu` bytes (at least 64); `None` for what vigie does not send.
    pub fn new(codec: Codec, mtu: usize) -> Option<Self> {
        let format = match codec {
            Codec::Vp8 => Format::Vp8 { picture_id: 0 },
            Codec::H264 => Format::H264,
            Codec::Vp9 | Codec::Av1 => return None,
        };
        Some(Self { format, mtu: mtu.max(64) })
    }

    /// Cuts one frame: a VP8 frame, or an H264 access unit in Annex B form.
    pub fn packetise(&mut self, frame: &[u8]) -> Vec<Payload> {
        let mut payloads = Vec::with_capacity(frame.len() / self.mtu + 2);
        match &mut self.format {
            Format::Vp8 { picture_id } => {
                cut_vp8(frame, *picture_id, self.mtu, &mut payloads);
                *picture_id = (*picture_id + 1) & 0x7fff;
            }
            Format::H264 => cut_h264(frame, self.mtu, &mut payloads),
        }
        if let Some(last) = payloads.last_mut() {
            last.marker = true;
        }
        payloads
    }
}

/// Pieces of nearly equal size: a small last packet costs as much as a large one.
fn pieces(data: &[u8], largest: usize) -> impl Iterator<Item = &[u8]> {
    let count = data.len().div_ceil(largest).max(1);
    let size = data.len().div_ceil(count).max(1);
    data.chunks(size)
}

fn cut_vp8(frame: &[u8], picture_id: u16, mtu: usize, payloads: &mut Vec<Payload>) {
    const DESCRIPTOR_BYTES: usize = 4;
    for (index, piece) in pieces(frame, mtu - DESCRIPTOR_BYTES).enumerate() {
        let mut data = Vec::with_capacity(DESCRIPTOR_BYTES + piece.len());
        vp8::write_descriptor(index == 0, picture_id, &mut data);
        data.extend_from_slice(piece);
        payloads.push(Payload { data: data.into(), marker: false });
    }
}

fn cut_h264(frame: &[u8], mtu: usize, payloads: &mut Vec<Payload>) {
    // Parameter sets go together: they are small, and lost together they cost one retransmission.
    let mut sets: Vec<&[u8]> = Vec::new();
    let flush = |sets: &mut Vec<&[u8]>, payloads: &mut Vec<Payload>| {
        let data = match sets[..] {
            [] => return,
            [single] => Bytes::copy_from_slice(single),
            _ => {
                let reference = sets.iter().map(|set| set[0] & 0x60).max().unwrap_or(0);
                let mut data = vec![reference | h264::STAP_A];
                for set in sets.iter() {
                    data.extend((set.len() as u16).to_be_bytes());
                    data.extend_from_slice(set);
                }
                data.into()
            }
        };
        payloads.push(Payload { data, marker: false });
        sets.clear();
    };
    for unit in h264::split_annex_b(frame) {
        let is_set = matches!(h264::kind(unit[0]), h264::SPS | h264::PPS);
        let together: usize = 1 + sets.iter().map(|set| set.len() + 2).sum::<usize>() + unit.len() + 2;
        if is_set && together <= mtu {
            sets.push(unit);
            continue;
        }
        flush(&mut sets, payloads);
        if unit.len() <= mtu {
            payloads.push(Payload { data: Bytes::copy_from_slice(unit), marker: false });
            continue;
        }
        const FU_BYTES: usize = 2;
        let (header, body) = (unit[0], &unit[1..]);
        let begin = payloads.len();
        for (index, piece) in pieces(body, mtu - FU_BYTES).enumerate() {
            let start = if index == 0 { 0x80 } else { 0 };
            let mut data = Vec::with_capacity(FU_BYTES + piece.len());
            data.extend([header & 0xe0 | h264::FU_A, start | h264::kind(header)]);
            data.extend_from_slice(piece);
            payloads.push(Payload { data: data.into(), marker: false });
        }
        if let Some(last) = payloads[begin..].last_mut() {
            let mut data = std::mem::take(&mut last.data).to_vec();
            data[1] |= 0x40;
            last.data = data.into();
        }
    }
    flush(&mut sets, payloads);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vp8_payloads_fit_and_share_a_picture_id() {
        let mut packetiser = Packetiser::new(Codec::Vp8, 100).expect("VP8 is sent");
        for (length, count) in [(1, 1), (96, 1), (97, 2), (960, 10), (961, 11)] {
            let frame: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let payloads = packetiser.packetise(&frame);
            assert_eq!(payloads.len(), count, "{length} bytes");
            let joined: Vec<u8> = payloads.iter().flat_map(|payload| payload.data[4..].to_vec()).collect();
            assert_eq!(joined, frame);
            for (index, payload) in payloads.iter().enumerate() {
                assert!(payload.data.len() <= 100);
                assert_eq!(payload.data[0] & 0x10 != 0, index == 0, "the S bit");
                assert_eq!(payload.data[1..4], payloads[0].data[1..4]);
                assert_eq!(payload.marker, index + 1 == count);
            }
        }
    }

    #[test]
    fn picture_ids_wrap_at_15_bits() {
        let mut packetiser = Packetiser::new(Codec::Vp8, 100).expect("VP8 is sent");
        let ids: Vec<[u8; 2]> = (0..0x8001)
            .map(|_| packetiser.packetise(&[1])[0].data[2..4].try_into().expect("two bytes"))
            .collect();
        assert_eq!(
            [ids[0], ids[1], ids[0x7fff], ids[0x8000]],
            [[0x80, 0], [0x80, 1], [0xff, 0xff], [0x80, 0]]
        );
    }

    #[test]
    fn h264_units_are_aggregated_whole_or_cut() {
        let mut access_unit =
            vec![0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 1, 0x06, 4, 0, 0, 1, 0x65];
        access_unit.extend((0..200).map(|byte| byte | 0x80));
        let payloads = Packetiser::new(Codec::H264, 100).expect("H264 is sent").packetise(&access_unit);
        let starts: Vec<[u8; 2]> =
            payloads.iter().map(|payload| [payload.data[0], payload.data[1]]).collect();
        assert_eq!(starts, [[0x78, 0], [0x06, 4], [0x7c, 0x85], [0x7c, 0x05], [0x7c, 0x45]]);
        assert_eq!(payloads[0].data[..], [0x78, 0, 3, 0x67, 1, 2, 0, 2, 0x68, 3]);
        assert!(payloads.iter().all(|payload| payload.data.len() <= 100));
        assert_eq!(
            payloads.iter().map(|payload| payload.marker).collect::<Vec<_>>(),
            [false, false, false, false, true]
        );
    }

    #[test]
    fn what_is_not_a_frame_gives_no_payloads() {
        assert!(Packetiser::new(Codec::H264, 100).expect("H264 is sent").packetise(&[1, 2, 3]).is_empty());
        assert!(Packetiser::new(Codec::Vp8, 100).expect("VP8 is sent").packetise(&[]).is_empty());
        assert!(Packetiser::new(Codec::Av1, 100).is_none());
    }
}
