//! What kind of video file bytes begin: told by the bytes alone, never by a name.
//!
//! Fronts refuse by it before a gigabyte is sent; the demuxer is chosen by it, so that no playlist is ever
//! opened.

/// Bytes after which every kind is told.
pub const START_BYTES: usize = 1024;

/// A kind of video file that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// MP4 and QuickTime.
    Mov,
    /// Matroska and WebM.
    Matroska,
    Avi,
    MpegTs,
}

impl Container {
    /// The kind of the file that begins with `start`, its first [`START_BYTES`] or all that it has.
    pub fn of(start: &[u8]) -> Option<Self> {
        /// Top-level boxes that QuickTime files begin with (ISO/IEC 14496-12 §4.3, and QTFF before it).
        const BOXES: [&[u8; 4]; 6] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"];
        const TS_PACKET: usize = 188;
        let is_ts = |first: usize, step: usize| {
            (0..4).map(|index| start.get(first + index * step)).all(|byte| byte == Some(&0x47))
        };
        match start {
            [_, _, _, _, kind @ ..] if kind.get(..4).is_some_and(|kind| BOXES.iter().any(|b| *b == kind)) => {
                Some(Self::Mov)
            }
            [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(Self::Matroska),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => Some(Self::Avi),
            _ if is_ts(0, TS_PACKET) || is_ts(4, TS_PACKET + 4) => Some(Self::MpegTs),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let mut ts = vec![0; START_BYTES];
        (0..START_BYTES).step_by(188).for_each(|at| ts[at] = 0x47);
        let mut m2ts = vec![0; START_BYTES];
        (4..START_BYTES).step_by(192).for_each(|at| m2ts[at] = 0x47);
        for (start, kind) in [
            (b"\0\0\0\x20ftypisom".to_vec(), Some(Container::Mov)),
            (b"\0\0\0\x08wide\0\0\0\0mdat".to_vec(), Some(Container::Mov)),
            (b"\x1a\x45\xdf\xa3\x01".to_vec(), Some(Container::Matroska)),
            (b"RIFF\0\0\0\0AVI LIST".to_vec(), Some(Container::Avi)),
            (ts, Some(Container::MpegTs)),
            (m2ts, Some(Container::MpegTs)),
            (b"RIFF\0\0\0\0WAVEfmt ".to_vec(), None),
            (b"#EXTM3U\n#EXT-X-VERSION:3\n".to_vec(), None),
            (b"ffconcat version 1.0\nfile /etc/passwd\n".to_vec(), None),
            (b"GGGGGGGG".to_vec(), None),
            (b"abc".to_vec(), None),
            (Vec::new(), None),
        ] {
            let text = String::from_utf8_lossy(&start[..start.len().min(20)]).into_owned();
            assert_eq!(Container::of(&start), kind, "{text:?}");
        }
    }
}
