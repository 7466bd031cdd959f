//! A short VP8 clip, looped: what a synthetic browser's camera sees. Pure.

use bytes::Bytes;

/// Encoded frames of one clip. The first is a key frame, so it can be looped.
#[derive(Clone, Debug)]
pub struct Clip {
    pub width: u16,
    pub height: u16,
    pub frames: Vec<Bytes>,
}

/// Why bytes are not a clip.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClipError {
    #[error("not an IVF file with VP8 video")]
    NotIvf,
    #[error("the file ends inside frame {0}")]
    Truncated(usize),
    #[error("there are no frames")]
    Empty,
}

const FILE_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 12;

impl Clip {
    /// The built-in clip: a slow pan over a portrait and a cat, 640x480 at 30 fps, 4 seconds.
    pub fn built_in() -> Self {
        let bytes = include_bytes!("../../benches/data/pan-640x480.ivf");
        Self::from_ivf(bytes).expect("the built-in clip is a VP8 IVF file")
    }

    /// The same at 320x240 and 15 fps: what an idle-ish tab sends.
    pub fn built_in_small() -> Self {
        let bytes = include_bytes!("../../benches/data/pan-320x240.ivf");
        Self::from_ivf(bytes).expect("the small built-in clip is a VP8 IVF file")
    }

    /// Reads an IVF file (a 32-byte header, then frames with 12-byte headers, little endian).
    pub fn from_ivf(bytes: &[u8]) -> Result<Self, ClipError> {
        if bytes.len() < FILE_HEADER_BYTES || &bytes[..4] != b"DKIF" || &bytes[8..12] != b"VP80" {
            return Err(ClipError::NotIvf);
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (width, height) = (u16_at(12), u16_at(14));
        let mut frames = Vec::new();
        let mut rest = &bytes[FILE_HEADER_BYTES..];
        while let Some((header, body)) = rest.split_at_checked(FRAME_HEADER_BYTES) {
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let (frame, next) = body.split_at_checked(length).ok_or(ClipError::Truncated(frames.len()))?;
            frames.push(Bytes::copy_from_slice(frame));
            rest = next;
        }
        if frames.is_empty() { Err(ClipError::Empty) } else { Ok(Self { width, height, frames }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_clip_loops_from_a_key_frame() {
        let clip = Clip::built_in();
        assert_eq!((clip.width, clip.height, clip.frames.len()), (640, 480, 120));
        let small = Clip::built_in_small();
        assert_eq!((small.width, small.height, small.frames.len()), (320, 240, 60));
        // Bit 0 of a VP8 frame's first byte is 0 for a key frame (RFC 6386 §9.1).
        assert_eq!((clip.frames[0][0] & 1, small.frames[0][0] & 1), (0, 0));
    }

    #[test]
    fn what_is_no_clip_is_an_error() {
        let mut header = b"DKIF\0\0\x20\0VP80".to_vec();
        header.resize(32, 0);
        let mut truncated = header.clone();
        truncated.extend([9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let table: &[(&[u8], ClipError)] = &[
            (b"", ClipError::NotIvf),
            (b"DKIF", ClipError::NotIvf),
            (&header, ClipError::Empty),
            (&truncated, ClipError::Truncated(0)),
        ];
        for (bytes, expected) in table {
            assert_eq!(Clip::from_ivf(bytes).err().as_ref(), Some(expected));
        }
    }
}
