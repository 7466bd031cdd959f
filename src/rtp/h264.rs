//! H264 payloads (RFC 6184, packetization modes 0 and 1): single NAL units, STAP-A and FU-A.
//!
//! Frames leave in Annex B form, each NAL unit behind a four-byte start code. A key frame without
//! parameter sets is given the last ones seen, so that a decoder can start at every key frame.

use super::depacketise::{Assembly, Malformed};

const START_CODE: [u8; 4] = [0, 0, 0, 1];

pub(super) const SLICE: u8 = 1;
pub(super) const IDR: u8 = 5;
pub(super) const SPS: u8 = 7;
pub(super) const PPS: u8 = 8;
pub(super) const STAP_A: u8 = 24;
pub(super) const FU_A: u8 = 28;

/// Longest parameter set that is kept; real ones have some tens of bytes.
const MAX_PARAMETER_SET_BYTES: usize = 1024;

/// The NAL unit type of a unit's or payload's first byte.
pub(super) fn kind(header: u8) -> u8 {
    header & 31
}

/// What is known of a frame's NAL units while its packets arrive.
#[derive(Default)]
pub(super) struct Units {
    /// Where the fragmented unit that still lacks its end begins in the assembly.
    fragment: Option<usize>,
    has_idr: bool,
    has_slice: bool,
    has_sps: bool,
    has_pps: bool,
    /// The latest parameter sets of the stream.
    sps: Vec<u8>,
    pps: Vec<u8>,
}

impl Units {
    /// Forgets the frame; the stream's parameter sets stay.
    pub fn clear(&mut self) {
        self.fragment = None;
        (self.has_idr, self.has_slice, self.has_sps, self.has_pps) = (false, false, false, false);
    }

    /// Appends one payload's NAL units, or its piece of one.
    pub fn append(&mut self, payload: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        let (&header, body) = payload.split_first().ok_or(Malformed)?;
        match kind(header) {
            1..=23 => self.add(payload, frame),
            STAP_A => {
                let mut rest = body;
                while let Some((length, tail)) = rest.split_first_chunk::<2>() {
                    let length = usize::from(u16::from_be_bytes(*length));
                    let unit = tail.get(..length).ok_or(Malformed)?;
                    self.add(unit, frame)?;
                    rest = &tail[length..];
                }
                if rest.is_empty() { Ok(()) } else { Err(Malformed) }
            }
            FU_A => self.add_fragment(header, body, frame),
            // Interleaved mode (25 to 27, 29) is never negotiated, and the others are not defined.
            _ => Err(Malformed),
        }
    }

    /// Closes the frame and says whether there is a picture in it; an error when a unit is missing.
    pub fn finish(&mut self, frame: &mut Assembly) -> Result<bool, Malformed> {
        if self.fragment.is_some() {
            return Err(Malformed);
        }
        frame.is_key = self.has_idr;
        if self.has_idr && !(self.has_sps && self.has_pps) {
            if self.sps.is_empty() || self.pps.is_empty() {
                return Err(Malformed);
            }
            let sets = [&START_CODE, &self.sps[..], &START_CODE, &self.pps[..]].concat();
            frame.prepend(&sets)?;
        }
        Ok(self.has_slice)
    }

    fn add(&mut self, unit: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        if self.fragment.is_some() {
            return Err(Malformed);
        }
        self.note(unit)?;
        frame.append(&START_CODE)?;
        frame.append(unit)
    }

    fn add_fragment(&mut self, indicator: u8, body: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        let (&header, piece) = body.split_first().ok_or(Malformed)?;
        let (starts, ends) = (header & 0x80 != 0, header & 0x40 != 0);
        // §5.8: a fragment is neither of another fragment nor of an aggregate.
        if piece.is_empty() || starts == self.fragment.is_some() || !(1..=23).contains(&kind(header)) {
            return Err(Malformed);
        }
        if starts {
            frame.append(&START_CODE)?;
            self.fragment = Some(frame.data.len());
            frame.append(&[indicator & 0xe0 | kind(header)])?;
        }
        frame.append(piece)?;
        if ends && let Some(start) = self.fragment.take() {
            self.note(&frame.data[start..])?;
        }
        Ok(())
    }

    /// Learns what a whole unit means for its frame.
    fn note(&mut self, unit: &[u8]) -> Result<(), Malformed> {
        let (&header, body) = unit.split_first().ok_or(Malformed)?;
        let keep = |set: &mut Vec<u8>| {
            if unit.len() <= MAX_PARAMETER_SET_BYTES {
                set.clear();
                set.extend_from_slice(unit);
            }
        };
        match kind(header) {
            unit_kind @ (SLICE..=IDR) => {
                // first_mb_in_slice is 0 when the slice header begins with a set bit (ue(v), H.264 §7.3.3):
                // anything else as the first slice means that the one before it is lost.
                let is_first = body.first().is_some_and(|byte| byte & 0x80 != 0);
                if !self.has_slice && !is_first {
                    return Err(Malformed);
                }
                self.has_slice = true;
                self.has_idr |= unit_kind == IDR;
            }
            SPS => {
                self.has_sps = true;
                keep(&mut self.sps);
            }
            PPS => {
                self.has_pps = true;
                keep(&mut self.pps);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The NAL units of an Annex B stream, without start codes and trailing zeros.
pub(super) fn split_annex_b(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    let find = |data: &[u8]| data.windows(3).position(|window| window == [0, 0, 1]);
    std::iter::from_fn(move || {
        loop {
            let start = find(rest)? + 3;
            let tail = &rest[start..];
            let end = find(tail).unwrap_or(tail.len());
            rest = &tail[end..];
            // A unit never ends in a zero byte (H.264 §7.4.1), so these belong to the next start code.
            let length = tail[..end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if length > 0 {
                return Some(&tail[..length]);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(units: &mut Units, payloads: &[&[u8]]) -> Result<(Vec<u8>, bool), Malformed> {
        let mut frame = Assembly::default();
        units.clear();
        for payload in payloads {
            units.append(payload, &mut frame)?;
        }
        assert!(units.finish(&mut frame)?, "a picture");
        Ok((frame.data.to_vec(), frame.is_key))
    }

    #[test]
    fn payloads_of_every_kind_become_annex_b() {
        let key: &[u8] = &[0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0x88, 9];
        let stap: &[u8] = &[0x78, 0, 3, 0x67, 1, 2, 0, 2, 0x68, 3];
        let cases: [(&str, &[&[u8]]); 3] = [
            ("single units", &[&[0x67, 1, 2], &[0x68, 3], &[0x65, 0x88, 9]]),
            ("STAP-A", &[stap, &[0x65, 0x88, 9]]),
            ("FU-A", &[stap, &[0x7c, 0x85, 0x88], &[0x7c, 0x45, 9]]),
        ];
        for (name, payloads) in cases {
            let (data, is_key) = assemble(&mut Units::default(), payloads).expect(name);
            assert!(is_key, "{name}");
            assert_eq!(data, key, "{name}");
        }
    }

    #[test]
    fn frames_with_a_hole_are_malformed() {
        let cases: [(&str, &[&[u8]]); 7] = [
            ("no start of the fragment", &[&[0x7c, 0x05, 0x88], &[0x7c, 0x45, 9]]),
            ("no end of the fragment", &[&[0x7c, 0x81, 0x88], &[0x7c, 0x01, 9]]),
            ("a unit within a fragment", &[&[0x7c, 0x81, 0x88], &[0x41, 0x88]]),
            ("no first slice", &[&[0x41, 0x40, 9]]),
            ("a key frame without parameter sets", &[&[0x65, 0x88, 9]]),
            ("an aggregate that is cut", &[&[0x78, 0, 9, 0x67]]),
            ("interleaved mode", &[&[0x79, 0, 0, 0, 2, 0x41, 0x88]]),
        ];
        for (name, payloads) in cases {
            assert!(assemble(&mut Units::default(), payloads).is_err(), "{name}");
        }
    }

    #[test]
    fn parameter_sets_alone_are_no_frame() {
        let (mut units, mut frame) = (Units::default(), Assembly::default());
        units.append(&[0x67, 1, 2], &mut frame).expect("whole");
        assert_eq!(units.finish(&mut frame), Ok(false));
    }

    #[test]
    fn a_key_frame_without_parameter_sets_is_given_the_last_ones() {
        let mut units = Units::default();
        let with_sets = assemble(&mut units, &[&[0x67, 1, 2], &[0x68, 3], &[0x65, 0x88, 9]]).expect("whole");
        let without = assemble(&mut units, &[&[0x65, 0x88, 9]]).expect("whole");
        assert_eq!(with_sets, without);
    }

    #[test]
    fn annex_b_is_split_at_both_kinds_of_start_code() {
        let stream = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0x65, 3, 0, 0, 3, 1, 0, 0, 1];
        let units: Vec<&[u8]> = split_annex_b(&stream).collect();
        assert_eq!(units, [&[0x67, 1][..], &[0x68, 2], &[0x65, 3, 0, 0, 3, 1]]);
        assert_eq!(split_annex_b(&[1, 2, 3]).count(), 0);
    }
}
