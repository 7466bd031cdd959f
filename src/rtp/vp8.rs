//! VP8 payloads: RFC 7741 §4.2's descriptor, then a piece of the frame.

use super::depacketise::{Assembly, Malformed};

/// Appends one payload's piece of a frame.
pub(super) fn append(payload: &[u8], frame: &mut Assembly) -> Result<(), Malformed> {
    let (&first, mut rest) = payload.split_first().ok_or(Malformed)?;
    let mut next = || -> Result<u8, Malformed> {
        let (&byte, tail) = rest.split_first().ok_or(Malformed)?;
        rest = tail;
        Ok(byte)
    };
    if first & 0x80 != 0 {
        let extensions = next()?;
        // I: a PictureID of 7 or 15 bits.
        if extensions & 0x80 != 0 && next()? & 0x80 != 0 {
            next()?;
        }
        // L: TL0PICIDX.
        if extensions & 0x40 != 0 {
            next()?;
        }
        // T or K: TID, Y and KEYIDX share a byte.
        if extensions & 0x30 != 0 {
            next()?;
        }
    }
    let begins_frame = first & 0x10 != 0 && first & 0x07 == 0;
    if begins_frame != frame.data.is_empty() {
        return Err(Malformed);
    }
    // RFC 6386 §9.1: the frame tag's lowest bit is clear in key frames.
    let &tag = rest.first().ok_or(Malformed)?;
    if begins_frame {
        frame.is_key = tag & 1 == 0;
    }
    frame.append(rest)
}

/// Writes the descriptor that vigie sends: a 15-bit PictureID, no layers.
pub(super) fn write_descriptor(begins_frame: bool, picture_id: u16, out: &mut Vec<u8>) {
    let [high, low] = picture_id.to_be_bytes();
    out.extend([0x80 | if begins_frame { 0x10 } else { 0 }, 0x80, 0x80 | high, low]);
}
