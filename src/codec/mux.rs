//! Annotated pictures and the original audio into an MP4 file that browsers play while they load it.
//!
//! The last stage of a file's path. The file appears under its name only when it is whole.

use std::ffi::c_int;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::Duration;

use ffmpeg_sys_next as ffi;
use tempfile::TempPath;

use super::container::{FileError, file_url};
use super::demux::{AudioPacket, AudioStream, CLOCK, Packet};
use super::encoder::{Dictionary, Loan, widen};
use super::picture::Frame;
use super::{CodecError, FfmpegError, log};
use crate::frame::I420Buffer;

/// What a video is written with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoConfig {
    /// Pixels; an odd side is written one pixel longer, its edge repeated.
    pub width: usize,
    pub height: usize,
    /// Pictures a second, about; the true times come with the pictures.
    pub rate: f64,
    /// Width and height of a pixel, as a ratio.
    pub pixel_aspect: (u32, u32),
    /// Threads of the encoder.
    pub threads: usize,
}

/// An MP4 file being written: H264 of constant quality, and audio as it was.
///
/// 1. [`create`](Self::create), then pictures and audio in any order, each in order of time.
/// 2. [`finish`](Self::finish) puts the index first and gives the file its name; without it nothing is left.
pub struct VideoWriter {
    /// `None` once it has failed.
    encoder: Option<Encoder>,
    output: Output,
    packet: Packet,
    /// What refers to the picture that is being encoded; empty between calls.
    frame: Frame,
    size: (usize, usize),
    /// Where a picture of odd size is widened.
    padded: Option<I420Buffer>,
    /// The clock of the audio packets that come in.
    audio_clock: Option<ffi::AVRational>,
    last_ticks: Option<i64>,
    /// Ticks that a picture is shown for where no other follows.
    step: i64,
    last_audio: Option<i64>,
    path: PathBuf,
}

struct Encoder(NonNull<ffi::AVCodecContext>);

impl Drop for Encoder {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe { ffi::avcodec_free_context(&mut raw) };
    }
}

/// An open output under a name of its own, which is removed unless it was kept.
struct Output {
    raw: NonNull<ffi::AVFormatContext>,
    /// `None` once it was kept.
    partial: Option<TempPath>,
}

impl Drop for Output {
    fn drop(&mut self) {
        let raw = self.raw.as_ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe {
            ffi::avio_closep(&mut (*raw).pb);
            ffi::avformat_free_context(raw);
        }
    }
}

// SAFETY: neither context has thread affinity; both are used through `&mut` only.
unsafe impl Send for VideoWriter {}

impl VideoWriter {
    /// Opens the file; `audio` is left out when MP4 cannot hold it (see [`has_audio`](Self::has_audio)).
    ///
    /// # Errors
    /// When the file cannot be written or this build of FFmpeg lacks x264.
    pub fn create(path: &Path, config: &VideoConfig, audio: Option<&AudioStream>) -> Result<Self, FileError> {
        log::install();
        let partial = partial_beside(path)?;
        let url = file_url(&partial).map_err(FileError::Create)?;
        let failed = FileError::Write;
        let mut raw = ptr::null_mut();
        // SAFETY: the names are C strings; on failure the context stays null.
        let code = unsafe {
            ffi::avformat_alloc_output_context2(&mut raw, ptr::null_mut(), c"mp4".as_ptr(), url.as_ptr())
        };
        FfmpegError::check(code).map_err(failed)?;
        let raw = NonNull::new(raw).expect("an output that was made is not null");
        let output = Output { raw, partial: Some(partial) };
        let raw = raw.as_ptr();
        let encoder = Encoder::open(config)?;
        // SAFETY: output and encoder are open; new streams belong to the output.
        unsafe {
            let stream = new_stream(raw)?;
            (*stream).time_base = CLOCK;
            (*stream).sample_aspect_ratio = (*encoder.0.as_ptr()).sample_aspect_ratio;
            FfmpegError::check(ffi::avcodec_parameters_from_context((*stream).codecpar, encoder.0.as_ptr()))
                .map_err(failed)?;
        }
        let audio = audio.filter(|audio| {
            // SAFETY: output format and parameters are valid.
            let answer = unsafe {
                let codec = (*audio.parameters.as_ptr()).codec_id;
                ffi::avformat_query_codec((*raw).oformat, codec, ffi::FF_COMPLIANCE_NORMAL as c_int)
            };
            answer == 1
        });
        let mut options = Dictionary::default();
        options.set(c"movflags", c"+faststart");
        // SAFETY: as above; the tag is the old container's and is chosen anew.
        let code = unsafe {
            if let Some(audio) = audio {
                let stream = new_stream(raw)?;
                (*stream).time_base = audio.time_base;
                FfmpegError::check(ffi::avcodec_parameters_copy(
                    (*stream).codecpar,
                    audio.parameters.as_ptr(),
                ))
                .map_err(failed)?;
                (*(*stream).codecpar).codec_tag = 0;
            }
            FfmpegError::check(ffi::avio_open(&mut (*raw).pb, url.as_ptr(), ffi::AVIO_FLAG_WRITE))
                .map_err(failed)?;
            ffi::avformat_write_header(raw, options.as_mut())
        };
        FfmpegError::check(code).map_err(failed)?;
        let size = (config.width, config.height);
        let even = (config.width.next_multiple_of(2), config.height.next_multiple_of(2));
        let audio_clock = audio.map(|audio| audio.time_base);
        Ok(Self {
            encoder: Some(encoder),
            output,
            packet: Packet::new()?,
            frame: Frame::empty()?,
            size,
            padded: (even != size).then(|| I420Buffer::black(even.0, even.1)),
            audio_clock,
            last_ticks: None,
            step: (f64::from(CLOCK.den) / config.rate).round().max(1.0) as i64,
            last_audio: None,
            path: path.to_owned(),
        })
    }

    pub fn has_audio(&self) -> bool {
        self.audio_clock.is_some()
    }

    /// Encodes a picture of media time `at`; it is moved a tick on if its time is not after the last one's.
    ///
    /// # Errors
    /// When the size is another than the file's, or encoding or writing fails.
    pub fn write(&mut self, picture: &I420Buffer, at: Duration) -> Result<(), FileError> {
        let given = (picture.width, picture.height);
        if given != self.size {
            return Err(CodecError::WrongSize { expected: self.size, given }.into());
        }
        let ticks = (at.as_secs_f64() * f64::from(CLOCK.den)).round() as i64;
        let ticks = self.last_ticks.map_or(ticks, |last| ticks.max(last + 1));
        self.last_ticks = Some(ticks);
        let padded = self.padded.take();
        let written = match padded {
            Some(mut padded) => {
                widen(picture, &mut padded);
                let written = self.encode_picture(&padded, ticks);
                self.padded = Some(padded);
                written
            }
            None => self.encode_picture(picture, ticks),
        };
        if matches!(written, Err(FileError::Codec(_))) {
            self.encoder = None;
        }
        written
    }

    /// Lends the encoder a picture of its size; it copies what it needs at once.
    fn encode_picture(&mut self, picture: &I420Buffer, ticks: i64) -> Result<(), FileError> {
        let loan = Loan::new(picture)?;
        loan.fill(&mut self.frame)?;
        let raw = self.frame.as_mut_ptr();
        // SAFETY: the frame is ours.
        unsafe { (*raw).pts = ticks };
        let written = self.encode(raw);
        // SAFETY: as above; this gives our own reference to the picture back.
        unsafe { ffi::av_frame_unref(raw) };
        if !loan.is_returned() {
            // Never seen with x264. Closing the codec gives the picture back, and that must happen while
            // the caller's borrow lasts.
            self.encoder = None;
            assert!(loan.is_returned(), "a closed codec refers to no picture");
            return Err(CodecError::PictureKept { name: "libx264" }.into());
        }
        written
    }

    /// Copies a packet of audio; without effect when the file has none.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_audio(&mut self, packet: &AudioPacket) -> Result<(), FileError> {
        let Some(clock) = self.audio_clock else { return Ok(()) };
        let (raw, packet) = (self.output.raw.as_ptr(), packet.0.as_ptr());
        // SAFETY: the packet and the output are valid; the second stream is the audio's.
        let code = unsafe {
            // Packets before the first picture, or without a time, have no place.
            if (*packet).dts == ffi::AV_NOPTS_VALUE || self.last_audio.is_some_and(|l| (*packet).dts <= l) {
                return Ok(());
            }
            self.last_audio = Some((*packet).dts);
            (*packet).stream_index = 1;
            (*packet).pos = -1;
            ffi::av_packet_rescale_ts(packet, clock, (**(*raw).streams.add(1)).time_base);
            ffi::av_interleaved_write_frame(raw, packet)
        };
        packet_written(code)
    }

    /// Writes what the encoder still holds and the index, and gives the file its name.
    ///
    /// # Errors
    /// When encoding or writing fails; nothing is left then.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.encode(ptr::null())?;
        let raw = self.output.raw.as_ptr();
        // SAFETY: the header was written, so the trailer may be.
        let code = unsafe {
            let code = ffi::av_write_trailer(raw);
            if code < 0 && code != ffi::AVERROR_INVALIDDATA { code } else { ffi::avio_closep(&mut (*raw).pb) }
        };
        written(code)?;
        let partial = self.output.partial.take().expect("only `finish` takes it");
        partial.persist(&self.path).map_err(|error| FileError::Create(error.error))
    }

    /// Encodes a frame, or ends the stream with null, and writes what comes out.
    fn encode(&mut self, frame: *const ffi::AVFrame) -> Result<(), FileError> {
        let failed = |source| FileError::Codec(CodecError::Encode { codec: "H264", source });
        let encoder = self.encoder.as_ref().ok_or(CodecError::Closed)?.0.as_ptr();
        let (output, packet) = (self.output.raw.as_ptr(), self.packet.as_ptr());
        // SAFETY: encoder and frame are valid; null ends the stream.
        FfmpegError::check(unsafe { ffi::avcodec_send_frame(encoder, frame) }).map_err(failed)?;
        loop {
            // SAFETY: both are valid; the packet's former contents are released by the call.
            let code = unsafe { ffi::avcodec_receive_packet(encoder, packet) };
            if code == ffi::AVERROR(ffi::EAGAIN) || code == ffi::AVERROR_EOF {
                return Ok(());
            }
            FfmpegError::check(code).map_err(failed)?;
            // SAFETY: the packet is one that was received; the first stream is the video's, and the call
            // takes the packet's contents over.
            let code = unsafe {
                (*packet).stream_index = 0;
                if (*packet).duration <= 0 {
                    (*packet).duration = self.step;
                }
                ffi::av_packet_rescale_ts(packet, CLOCK, (**(*output).streams).time_base);
                ffi::av_interleaved_write_frame(output, packet)
            };
            packet_written(code)?;
        }
    }
}

fn written(code: c_int) -> Result<(), FileError> {
    FfmpegError::check(code).map(drop).map_err(FileError::Write)
}

/// As [`written`], but a packet of audio that is damaged is left out: pictures come from our own encoder, and
/// packets are written when their turn comes, not when they are given.
fn packet_written(code: c_int) -> Result<(), FileError> {
    if code == ffi::AVERROR_INVALIDDATA { Ok(()) } else { written(code) }
}

/// An empty file beside `path` that is removed unless it is kept.
fn partial_beside(path: &Path) -> Result<TempPath, FileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".vigie-")
        .suffix(".part")
        // As any other file: less what the process's mask takes off.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map(tempfile::NamedTempFile::into_temp_path)
        .map_err(FileError::Create)
}

/// A new stream of an output.
///
/// # Safety
/// `output` is an open output context.
unsafe fn new_stream(output: *mut ffi::AVFormatContext) -> Result<*mut ffi::AVStream, CodecError> {
    // SAFETY: by contract; null is handled.
    let stream = unsafe { ffi::avformat_new_stream(output, ptr::null()) };
    if stream.is_null() { Err(CodecError::OutOfMemory { what: "a stream" }) } else { Ok(stream) }
}

impl Encoder {
    fn open(config: &VideoConfig) -> Result<Self, CodecError> {
        let name = "libx264";
        // SAFETY: the name is a C string; the answer is static or null.
        let codec = unsafe { ffi::avcodec_find_encoder_by_name(c"libx264".as_ptr()) };
        if codec.is_null() {
            return Err(CodecError::Missing { name });
        }
        let mut options = Dictionary::default();
        options.set(c"preset", c"veryfast");
        options.set(c"crf", c"21");
        // Memory, at 1080p: the preset's ten pictures of look-ahead and three B-frames take 75 MB more, for
        // files that are a twentieth smaller; threads that work on pictures of their own instead of slices
        // take 20 MB each.
        options.set(c"rc-lookahead", c"4");
        options.set(c"x264-params", c"sliced-threads=1");
        let even = |side: usize| side.next_multiple_of(2) as c_int;
        // SAFETY: null is handled; the context is ours and not open yet, when its fields may be set.
        unsafe {
            let raw = NonNull::new(ffi::avcodec_alloc_context3(codec))
                .ok_or(CodecError::OutOfMemory { what: "an encoder" })?;
            let encoder = Self(raw);
            let raw = raw.as_ptr();
            (*raw).width = even(config.width);
            (*raw).height = even(config.height);
            (*raw).pix_fmt = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
            (*raw).color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            (*raw).colorspace = ffi::AVColorSpace::AVCOL_SPC_SMPTE170M;
            (*raw).time_base = CLOCK;
            let rate = (config.rate * 1000.0).round().clamp(1.0, 1e6) as c_int;
            (*raw).framerate = ffi::AVRational { num: rate, den: 1000 };
            (*raw).max_b_frames = 1;
            let side = |side: u32| c_int::try_from(side).unwrap_or(1);
            (*raw).sample_aspect_ratio =
                ffi::AVRational { num: side(config.pixel_aspect.0), den: side(config.pixel_aspect.1) };
            // A player may seek to every fourth second or so.
            (*raw).gop_size = (config.rate * 4.0).round().clamp(1.0, 250.0) as c_int;
            (*raw).thread_count = config.threads.clamp(1, 16) as c_int;
            // MP4 keeps the parameter sets beside the video.
            (*raw).flags |= ffi::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
            FfmpegError::check(ffi::avcodec_open2(raw, codec, options.as_mut()))
                .map_err(|source| CodecError::Open { name, source })?;
            Ok(encoder)
        }
    }
}
