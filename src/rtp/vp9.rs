//! VP9 payloads: RFC 9628 §4.2's descriptor, then a piece of a layer frame.
//!
//! The layer frames of one picture are joined into a superframe (VP9 bitstream specification, annex B),
//! because a decoder that is handed them end to end would see the first only.

use super::depacketise::{Assembly, Malformed};

/// A superframe's index counts up to eight frames in three bits.
const MAX_LAYERS: usize = 8;

/// What is known of a picture's layers while its packets arrive.
#[derive(Default)]
pub(super) struct Layers {
    /// Where each layer frame begins in the assembly.
    starts: Vec<usize>,
    /// Whether the newest layer frame still lacks its last packet.
    is_open: bool,
}

impl Layers {
    /// Forgets the picture.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.is_open = false;
    }

    /// Appends one payload's piece of a layer frame.
    pub fn append(&mut self, payload: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
        let descriptor = Descriptor::read(payload)?;
        let body = payload.get(descriptor.length..).filter(|body| !body.is_empty()).ok_or(Malformed)?;
        if descriptor.begins == self.is_open {
            return Err(Malformed);
        }
        if descriptor.begins {
            if self.starts.len() == MAX_LAYERS {
                return Err(Malformed);
            }
            if self.starts.is_empty() {
                // The lowest layer that was sent decides; one above it that is predicted within the
                // picture says nothing about where decoding can start.
                frame.is_key =
                    descriptor.spatial_layer == 0 && !descriptor.is_predicted && is_key_header(body[0]);
            }
            self.starts.push(frame.data.len());
        }
        self.is_open = !descriptor.ends;
        frame.append(body)
    }

    /// Closes the picture, with an index when it has several layers; an error when a packet is missing.
    pub fn finish(&mut self, frame: &mut Assembly) -> Result<bool, Malformed> {
        if self.is_open {
            return Err(Malformed);
        }
        if self.starts.len() > 1 {
            let ends = self.starts[1..].iter().copied().chain([frame.data.len()]);
            let sizes: Vec<usize> = self.starts.iter().zip(ends).map(|(start, end)| end - start).collect();
            // Sizes of four bytes, so that one marker serves; annex B allows one to four.
            let marker = 0b1100_0000 | 3 << 3 | (sizes.len() - 1) as u8;
            let mut index = vec![marker];
            for size in sizes {
                index.extend(u32::try_from(size).map_err(|_| Malformed)?.to_le_bytes());
            }
            index.push(marker);
            frame.append(&index)?;
        }
        Ok(true)
    }
}

/// The frame type in an uncompressed header's first byte (VP9 specification §6.2): frame marker 2, two
/// profile bits (and a reserved one in profile 3), show_existing_frame, frame_type.
fn is_key_header(byte: u8) -> bool {
    let shift = u32::from(byte & 0x30 == 0x30);
    byte >> 6 == 2 && byte << shift & 0x0c == 0
}

struct Descriptor {
    length: usize,
    is_predicted: bool,
    begins: bool,
    ends: bool,
    spatial_layer: u8,
}

impl Descriptor {
    fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut length = 0;
        let mut next = || -> Result<u8, Malformed> {
            let &byte = payload.get(length).ok_or(Malformed)?;
            length += 1;
            Ok(byte)
        };
        let first = next()?;
        let has = |bit: u8| first & bit != 0;
        let (is_predicted, is_flexible) = (has(0x40), has(0x10));
        let mut spatial_layer = 0;
        // I: a picture ID of 7 or 15 bits.
        if has(0x80) && next()? & 0x80 != 0 {
            next()?;
        }
        // L: layer indices, and TL0PICIDX in non-flexible mode.
        if has(0x20) {
            spatial_layer = next()? >> 1 & 7;
            if !is_flexible {
                next()?;
            }
        }
        // Flexible mode: up to three P_DIFFs, each saying whether another follows.
        if is_flexible && is_predicted {
            let mut references = 1;
            while next()? & 1 != 0 {
                references += 1;
                if references > 3 {
                    return Err(Malformed);
                }
            }
        }
        // V: the scalability structure.
        if has(0x02) {
            let structure = next()?;
            if structure & 0x10 != 0 {
                for _ in 0..4 * (usize::from(structure >> 5) + 1) {
                    next()?;
                }
            }
            if structure & 0x08 != 0 {
                for _ in 0..next()? {
                    let references = next()? >> 2 & 3;
                    for _ in 0..references {
                        next()?;
                    }
                }
            }
        }
        Ok(Self { length, is_predicted, begins: has(0x08), ends: has(0x04), spatial_layer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_every_shape_are_measured() {
        // Bits: I P L F B E V Z.
        let cases: [(&str, &[u8], usize, bool, u8); 8] = [
            ("bare", &[0b0000_1100], 1, false, 0),
            ("short picture id", &[0b1000_1100, 0x11], 2, false, 0),
            ("long picture id", &[0b1000_1100, 0x91, 0x22], 3, false, 0),
            ("non-flexible layers", &[0b1010_1100, 0x91, 0x22, 0b0000_0100, 7], 5, false, 2),
            ("flexible layers", &[0b1011_1100, 0x91, 0x22, 0b0010_0010], 4, false, 1),
            ("flexible, one reference", &[0b1101_1100, 0x11, 2 << 1], 3, true, 0),
            ("flexible, three references", &[0b1101_1100, 0x11, 3, 5, 6], 5, true, 0),
            (
                "structure of two layers and two groups",
                &[
                    0b0000_1110,
                    0b0011_1000,
                    1,
                    64,
                    0,
                    240,
                    2,
                    128,
                    1,
                    224,
                    2,
                    0b0000_0100,
                    9,
                    0b0000_1000,
                    1,
                    2,
                ],
                16,
                false,
                0,
            ),
        ];
        for (name, bytes, length, is_predicted, layer) in cases {
            let read = Descriptor::read(bytes).unwrap_or_else(|_| panic!("{name}"));
            assert_eq!(
                (read.length, read.is_predicted, read.spatial_layer),
                (length, is_predicted, layer),
                "{name}"
            );
            for cut in 0..bytes.len() {
                assert!(Descriptor::read(&bytes[..cut]).is_err(), "{name} cut to {cut}");
            }
        }
        assert!(Descriptor::read(&[0b1101_1100, 0x11, 3, 5, 7, 2]).is_err(), "four references");
    }

    #[test]
    fn key_headers_are_told_from_others() {
        for (byte, want) in
            [(0x82, true), (0x86, false), (0x8a, false), (0xb0, true), (0xb2, false), (0x42, false)]
        {
            assert_eq!(is_key_header(byte), want, "{byte:#x}");
        }
    }
}
