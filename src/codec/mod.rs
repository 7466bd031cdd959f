//! FFmpeg: encoded frames into pictures and back. The only folder that names it.
//!
//! [`Decoder`] stands between [`rtp`](crate::rtp) (or a file's demuxer) and the picture mailbox;
//! [`Encoder`] stands after drawing. Neither holds a picture back: one goes in, one comes out.
//! [`VideoFile`] and [`VideoWriter`] are the ends of a file's path, and open local files only.
//! It opens no socket, keeps no queue, and scales only what changes its size within a file.

mod colour;
mod container;
mod decoder;
mod demux;
mod encoder;
mod fit;
mod jpeg;
mod log;
mod mux;
mod nvdec;
mod picture;
mod pool;
mod rotate;
mod samples;
mod still;

use ffmpeg_sys_next as ffi;

pub use container::{FileError, first_bytes, is_video};
pub use decoder::{Decoder, MAX_PIXELS, Unit, UnknownUnit};
pub use demux::{AudioPacket, AudioStream, Piece, VideoFile, VideoInfo};
pub use encoder::{EncodedOutput, Encoder, EncoderConfig, Speed};
pub use jpeg::{JpegHeader, decode_jpeg};
pub use mux::{VideoConfig, VideoWriter};
pub use still::{Heif, decode_avif, heif};

/// What FFmpeg answered: a negative `AVERROR` code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FfmpegError(i32);

impl FfmpegError {
    /// Turns a return code into a result: negative codes are errors.
    fn check(code: i32) -> Result<i32, Self> {
        if code < 0 { Err(Self(code)) } else { Ok(code) }
    }

    /// The operating system's number of the error, if it is one of its own.
    fn os_error(self) -> Option<i32> {
        // FFmpeg's errors of its own are made of four letters, and far below.
        (-4096..0).contains(&self.0).then(|| ffi::AVUNERROR(self.0))
    }
}

impl std::fmt::Display for FfmpegError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = [0u8; 128];
        // SAFETY: the buffer is writable for the length given; av_strerror always ends it with a zero.
        unsafe { ffi::av_strerror(self.0, text.as_mut_ptr().cast(), text.len()) };
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        f.write_str(&String::from_utf8_lossy(&text[..end]))
    }
}

impl std::error::Error for FfmpegError {}

/// Why a frame could not be decoded or encoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("this build of FFmpeg has no {name}")]
    Missing { name: &'static str },
    #[error("{name} could not be opened")]
    Open { name: &'static str, source: FfmpegError },
    #[error("vigie does not encode {codec}")]
    NotEncoded { codec: &'static str },
    #[error("a picture of {width}x{height} cannot be encoded")]
    Unencodable { width: usize, height: usize },
    #[error("no memory left for {what}")]
    OutOfMemory { what: &'static str },
    #[error("the decoder was opened for {opened} and was given {given}")]
    WrongCodec { opened: &'static str, given: &'static str },
    #[error("the encoded frame is empty")]
    Empty,
    #[error("{codec} frame of {bytes} bytes could not be decoded")]
    Corrupt { codec: &'static str, bytes: usize, source: FfmpegError },
    #[error("{codec} frame of {bytes} bytes was decoded with gaps")]
    Damaged { codec: &'static str, bytes: usize },
    #[error("{} has more than the {max_pixels} pixels that are allowed", Size(*size))]
    TooLarge {
        /// Width and height where the decoder says them; dav1d does not, nor does FFmpeg far beyond the limit.
        size: Option<(usize, usize)>,
        max_pixels: usize,
    },
    #[error("pixel format {format} cannot be brought to I420")]
    PixelFormat { format: i32 },
    #[error("colour conversion failed")]
    Convert { source: FfmpegError },
    #[error("the encoder takes {expected:?} pixels and was given {given:?}")]
    WrongSize { expected: (usize, usize), given: (usize, usize) },
    #[error("picture could not be encoded as {codec}")]
    Encode { codec: &'static str, source: FfmpegError },
    #[error("{name} kept a picture that it had encoded")]
    PictureKept { name: &'static str },
    #[error("the encoder has failed and must be opened again")]
    Closed,
}

struct Size(Option<(usize, usize)>);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((width, height)) => write!(f, "a picture of {width}x{height}"),
            None => f.write_str("the picture"),
        }
    }
}
