//! AV1 payloads: the aggregation header and OBU elements of AOM's "RTP Payload Format For AV1" §4.4.
//!
//! Frames leave as temporal units in the low-overhead format (AV1 specification §5.2): a temporal
//! delimiter, then OBUs that each carry their size, which RTP leaves out.

use super::depacketise::{Assembly, MAX_FRAME_BYTES, Malformed};

const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;

/// What is known of a temporal unit's OBUs while its packets arrive.
#[derive(Default)]
pub(super) struct Obus {
    /// An OBU whose end is in the next packet.
    partial: Vec<u8>,
    is_partial: bool,
    has_sequence_header: bool,
    has_frame: bool,
    /// The stream's reduced_still_picture_header: frames are key frames and do not say so.
    is_still: bool,
}

impl Obus {
    /// Forgets the temporal unit.
    pub fn clear(&mut self) {
        self.partial.clear();
        (self.is_partial, self.has_sequence_header, self.has_frame) = (false, false, false);
    }

    /// Appends one payload's OBU elements.
    pub fn append(&mut self, payload: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        let (&header, mut rest) = payload.split_first().ok_or(Malformed)?;
        let (continues, is_continued) = (header & 0x80 != 0, header & 0x40 != 0);
        let count = usize::from(header >> 4 & 3);
        if continues != self.is_partial || rest.is_empty() {
            return Err(Malformed);
        }
        if frame.data.is_empty() {
            frame.append(&[TEMPORAL_DELIMITER << 3 | 0x02, 0])?;
        }
        let mut index = 0;
        while !rest.is_empty() {
            index += 1;
            // W counts the elements, of which the last has no length; 0 gives every one a length.
            let length = if count == index {
                rest.len()
            } else {
                let (length, size) = read_leb128(rest)?;
                rest = &rest[size..];
                length
            };
            let element = rest.get(..length).ok_or(Malformed)?;
            rest = &rest[length..];
            let is_last = rest.is_empty();
            if self.is_partial || is_last && is_continued {
                if self.partial.len() + element.len() > MAX_FRAME_BYTES {
                    return Err(Malformed);
                }
                self.partial.extend_from_slice(element);
                self.is_partial = is_last && is_continued;
                if !self.is_partial {
                    let whole = std::mem::take(&mut self.partial);
                    let added = self.add(&whole, frame);
                    // The buffer is kept for the next one.
                    self.partial = whole;
                    self.partial.clear();
                    added?;
                }
            } else {
                self.add(element, frame)?;
            }
        }
        if count != 0 && count != index { Err(Malformed) } else { Ok(()) }
    }

    /// Closes the temporal unit and says whether there is a frame in it; an error when an OBU lacks its end.
    pub fn finish(&mut self) -> Result<bool, Malformed> {
        if self.is_partial { Err(Malformed) } else { Ok(self.has_frame) }
    }

    /// Appends a whole OBU with its size.
    fn add(&mut self, obu: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        let (&header, mut body) = obu.split_first().ok_or(Malformed)?;
        if header & 0x80 != 0 {
            return Err(Malformed);
        }
        let mut extension: &[u8] = &[];
        if header & 0x04 != 0 {
            (extension, body) = body.split_at_checked(1).ok_or(Malformed)?;
        }
        if header & 0x02 != 0 {
            // §4.5 asks senders to leave sizes out; where one is there, it must fit.
            let (length, size) = read_leb128(body)?;
            body = body.get(size..size + length).ok_or(Malformed)?;
        }
        match header >> 3 & 15 {
            // §5: these are not to be sent, and mean nothing to the decoder here.
            TEMPORAL_DELIMITER | TILE_LIST | PADDING => return Ok(()),
            SEQUENCE_HEADER => {
                self.has_sequence_header = true;
                // seq_profile 3 bits, still_picture, reduced_still_picture_header.
                self.is_still = body.first().is_some_and(|byte| byte & 0x08 != 0);
            }
            FRAME_HEADER | FRAME if !self.has_frame => {
                self.has_frame = true;
                // show_existing_frame, then frame_type in two bits: 0 is KEY_FRAME.
                let is_key_frame = self.is_still || body.first().is_some_and(|byte| byte & 0xe0 == 0);
                frame.is_key = is_key_frame && self.has_sequence_header;
            }
            _ => {}
        }
        frame.append(&[header | 0x02])?;
        frame.append(extension)?;
        let (size, length) = write_leb128(body.len());
        frame.append(&size[..length])?;
        frame.append(body)
    }
}

/// Reads an unsigned LEB128 (AV1 specification §4.10.5): its value and its own length in bytes.
fn read_leb128(data: &[u8]) -> Result<(usize, usize), Malformed> {
    let mut value = 0u64;
    for (index, &byte) in data.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return u32::try_from(value).map(|value| (value as usize, index + 1)).map_err(|_| Malformed);
        }
    }
    Err(Malformed)
}

fn write_leb128(mut value: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut length = 0;
    loop {
        bytes[length] = (value & 0x7f) as u8 | if value > 0x7f { 0x80 } else { 0 };
        length += 1;
        value >>= 7;
        if value == 0 {
            return (bytes, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(payloads: &[&[u8]]) -> Result<(Vec<u8>, bool), Malformed> {
        let (mut obus, mut frame) = (Obus::default(), Assembly::default());
        for payload in payloads {
            obus.append(payload, &mut frame)?;
        }
        assert!(obus.finish()?, "a frame");
        Ok((frame.data.to_vec(), frame.is_key))
    }

    /// Sequence header `0a..`, then a key frame OBU of body `10 aa bb`.
    const UNIT: &[u8] = &[0x12, 0, 0x0a, 2, 0x00, 0x07, 0x32, 3, 0x10, 0xaa, 0xbb];

    #[test]
    fn elements_of_every_arrangement_become_the_same_unit() {
        // Aggregation header bits: Z Y WW N.
        let cases: [(&str, &[&[u8]]); 7] = [
            ("W=2", &[&[0b0010_1000, 3, 0x08, 0, 7, 0x30, 0x10, 0xaa, 0xbb]]),
            ("W=0", &[&[0b0000_1000, 3, 0x08, 0, 7, 4, 0x30, 0x10, 0xaa, 0xbb]]),
            ("a packet each", &[&[0b0001_1000, 0x08, 0, 7], &[0b0001_0000, 0x30, 0x10, 0xaa, 0xbb]]),
            ("Y then Z", &[&[0b0110_1000, 3, 0x08, 0, 7, 0x30, 0x10], &[0b1001_0000, 0xaa, 0xbb]]),
            (
                "over three packets",
                &[&[0b0110_1000, 3, 0x08, 0, 7, 0x30], &[0b1101_0000, 0x10], &[0b1001_0000, 0xaa, 0xbb]],
            ),
            ("with a temporal delimiter", &[&[0b0011_1000, 1, 0x10, 3, 0x08, 0, 7, 0x30, 0x10, 0xaa, 0xbb]]),
            ("with its own sizes", &[&[0b0010_1000, 4, 0x0a, 2, 0, 7, 0x32, 3, 0x10, 0xaa, 0xbb]]),
        ];
        for (name, payloads) in cases {
            let (data, is_key) = assemble(payloads).unwrap_or_else(|_| panic!("{name}"));
            assert_eq!(data, UNIT, "{name}");
            assert!(is_key, "{name}");
        }
    }

    #[test]
    fn only_a_key_frame_behind_a_sequence_header_is_key() {
        let inter = assemble(&[&[0b0010_0000, 3, 0x08, 0, 7, 0x30, 0x30, 0xaa]]).expect("whole");
        assert!(!inter.1, "an inter frame");
        let bare = assemble(&[&[0b0001_0000, 0x30, 0x10, 0xaa]]).expect("whole");
        assert!(!bare.1, "no sequence header");
    }

    #[test]
    fn units_with_a_hole_are_malformed() {
        let cases: [(&str, &[&[u8]]); 6] = [
            ("the beginning is lost", &[&[0b1001_0000, 0xaa]]),
            ("the end is lost", &[&[0b0101_0000, 0x30, 0x10]]),
            ("a new unit within a fragment", &[&[0b0101_0000, 0x30, 0x10], &[0b0001_0000, 0x30, 0x10]]),
            ("a length past the end", &[&[0b0000_0000, 9, 0x30, 0x10]]),
            ("fewer elements than W says", &[&[0b0011_0000, 2, 0x30, 0x10]]),
            ("a length that never ends", &[&[0, 255, 255, 255, 255, 255, 255, 255, 255, 255]]),
        ];
        for (name, payloads) in cases {
            assert!(assemble(payloads).is_err(), "{name}");
        }
    }

    #[test]
    fn leb128_survives_the_round_trip() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 4 << 20] {
            let (bytes, length) = write_leb128(value);
            assert_eq!(read_leb128(&bytes[..length]), Ok((value, length)));
        }
    }
}
