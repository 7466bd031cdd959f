//! What a video file is, by its bytes and never by its name; and what is wrong with one.

use std::ffi::{CStr, CString};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{CodecError, FfmpegError, heif};
use crate::container::{Container, START_BYTES};

/// Why a video file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    #[error("it is empty")]
    Empty,
    #[error("it is no MP4, MOV, WebM, Matroska, AVI or MPEG-TS video")]
    UnsupportedType,
    #[error("it is damaged or cut off: its headers cannot be read")]
    Headers(#[source] FfmpegError),
    #[error("it is cut off before its index, without which it cannot be read")]
    Truncated,
    #[error("it has no video, only audio")]
    AudioOnly,
    #[error("it has no video")]
    NoVideo,
    #[error("it holds video in a format that cannot be decoded")]
    UnsupportedCodec,
    #[error("the annotated file cannot be written")]
    Create(#[source] std::io::Error),
    #[error("the annotated file cannot be written")]
    Write(#[source] FfmpegError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl FileError {
    /// The stable code under which users are told.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::UnsupportedType => "unsupported_type",
            Self::Headers(_) => "corrupt",
            Self::Truncated => "truncated",
            Self::AudioOnly | Self::NoVideo => "no_video",
            Self::UnsupportedCodec | Self::Codec(CodecError::PixelFormat { .. }) => "unsupported_codec",
            Self::Codec(CodecError::TooLarge { .. }) => "too_large",
            _ if self.is_full() => "store_full",
            Self::Read(_) | Self::Create(_) | Self::Write(_) | Self::Codec(_) => "internal",
        }
    }

    /// Whether there was no room to write to.
    pub fn is_full(&self) -> bool {
        let number = match self {
            Self::Create(source) => source.raw_os_error(),
            Self::Write(source) => source.os_error(),
            _ => None,
        };
        // A full disk, a spent quota, and the limit of a file's size.
        number.is_some_and(|number| [libc::ENOSPC, libc::EDQUOT, libc::EFBIG].contains(&number))
    }
}

/// The one demuxer that reads a file that begins with `start`; `None` for what is not opened.
pub(super) fn demuxer(start: &[u8]) -> Option<&'static CStr> {
    Container::of(start).map(|container| match container {
        Container::Mov => c"mov",
        Container::Matroska => c"matroska",
        Container::Avi => c"avi",
        Container::MpegTs => c"mpegts",
    })
}

/// Whether the first bytes of a file are those of a video that is opened here.
pub fn is_video(start: &[u8]) -> bool {
    demuxer(start).is_some() && heif(start).is_none()
}

/// As many bytes as it takes to know what a file is.
pub fn first_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = std::fs::File::open(path).map_err(FileError::Read)?;
    let mut start = Vec::new();
    file.take(START_BYTES as u64).read_to_end(&mut start).map_err(FileError::Read)?;
    if start.is_empty() {
        return Err(FileError::Empty);
    }
    Ok(start)
}

/// Whether an MPEG-TS file ends within one of its packets: nothing in it says how long it should be.
pub(super) fn ends_within_a_packet(path: &Path) -> bool {
    const PACKET_BYTES: [u64; 2] = [188, 192];
    let length = std::fs::metadata(path).map(|metadata| metadata.len());
    length.is_ok_and(|length| PACKET_BYTES.iter().all(|bytes| !length.is_multiple_of(*bytes)))
}

/// Whether an MP4 file's last top-level box reaches beyond its end (ISO/IEC 14496-12 §4.2).
pub(super) fn boxes_are_cut_off(path: &Path) -> bool {
    const MAX_BOXES: usize = 1000;
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    let Ok(length) = file.metadata().map(|metadata| metadata.len()) else { return false };
    let mut at = 0_u64;
    for _ in 0..MAX_BOXES {
        let mut header = [0; 16];
        if file.seek(SeekFrom::Start(at)).is_err() || file.read_exact(&mut header).is_err() {
            return at != length;
        }
        let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _] = header;
        let [_, _, _, _, _, _, _, _, large @ ..] = header;
        let (size, kind): ([u8; 4], [u8; 4]) = ([a, b, c, d], kind);
        if !kind.iter().all(u8::is_ascii_alphanumeric) {
            return false; // Noise.
        }
        at = match u32::from_be_bytes(size) {
            0 => return false,
            1 => at.saturating_add(u64::from_be_bytes(large)),
            2..8 => return false,
            size => at + u64::from(size),
        };
        if at >= length {
            return at > length;
        }
    }
    false
}

/// A path as FFmpeg takes it, never as an address of another protocol.
pub(super) fn file_url(path: &Path) -> std::io::Result<CString> {
    let url = [b"file:", path.as_os_str().as_bytes()].concat();
    Ok(CString::new(url)?)
}
