//! Annotated pictures and the original audio into an MP4 file that browsers play while they load it.
//!
//! The last stage of a file's path. The file appears under its name only when it is whole.

use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::Duration;

use ffmpeg_sys_next as ffi;

use super::demux::{AudioPacket, AudioStream, CLOCK, FileError, Packet, file_url};
use super::encoder::Dictionary;
use super::picture::Frame;
use super::{CodecError, FfmpegError, log};
use crate::frame::{I420Buffer, Planes};

/// What a video is written with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoConfig {
    /// Pixels; an odd side is written one pixel longer, its edge repeated.
    pub width: usize,
    pub height: usize,
    /// Pictures a second, about; the true times come with the pictures.
    pub rate: f64,
    /// Threads of the encoder.
    pub threads: usize,
}

/// An MP4 file being written: H264 of constant quality, and audio as it was.
///
/// 1. [`create`](Self::create), then pictures and audio in any order, each in order of time.
/// 2. [`finish`](Self::finish) puts the index first and gives the file its name; without it nothing is left.
pub struct VideoWriter {
    encoder: Encoder,
    output: Output,
    packet: Packet,
    size: (usize, usize),
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
    partial: PathBuf,
}

impl Drop for Output {
    fn drop(&mut self) {
        let raw = self.raw.as_ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe {
            ffi::avio_closep(&mut (*raw).pb);
            ffi::avformat_free_context(raw);
        }
        // After `finish` it has another name.
        let _ = std::fs::remove_file(&self.partial);
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
        let partial = path.with_extension("part");
        let url = file_url(&partial)?;
        let failed = |source| FileError::Write { path: path.to_owned(), source };
        let mut raw = ptr::null_mut();
        // SAFETY: the names are C strings; on failure the context stays null.
        let code = unsafe {
            ffi::avformat_alloc_output_context2(&mut raw, ptr::null_mut(), c"mp4".as_ptr(), url.as_ptr())
        };
        FfmpegError::check(code).map_err(failed)?;
        let raw = NonNull::new(raw).expect("an output that was made is not null");
        let output = Output { raw, partial };
        let raw = raw.as_ptr();
        let encoder = Encoder::open(config)?;
        // SAFETY: output and encoder are open; new streams belong to the output.
        unsafe {
            let stream = new_stream(raw)?;
            (*stream).time_base = CLOCK;
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
        let audio_clock = audio.map(|audio| audio.time_base);
        Ok(Self {
            encoder,
            output,
            packet: Packet::new()?,
            size,
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
        let even = |side: usize| side.next_multiple_of(2) as c_int;
        let mut frame = Frame::i420(even(picture.width), even(picture.height))?;
        for index in 0..3 {
            let source = picture.plane(index);
            let rows = if index == 0 { picture.height.next_multiple_of(2) } else { source.height };
            for row in 0..rows {
                let line = &source.data[row.min(source.height - 1) * source.stride..][..source.width];
                let to = frame.row_mut(index, row);
                to[..source.width].copy_from_slice(line);
                to[source.width..].fill(line[source.width - 1]);
            }
        }
        // SAFETY: the frame is ours.
        unsafe { (*frame.as_mut_ptr()).pts = ticks };
        self.encode(frame.as_ptr())
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
        self.check_packet(code)
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
        self.check(code)?;
        std::fs::rename(&self.output.partial, &self.path)
            .map_err(|source| FileError::Io { path: self.path.clone(), source })
    }

    /// Encodes a frame, or ends the stream with null, and writes what comes out.
    fn encode(&mut self, frame: *const ffi::AVFrame) -> Result<(), FileError> {
        let failed = |source| FileError::Codec(CodecError::Encode { codec: "H264", source });
        let (encoder, output, packet) =
            (self.encoder.0.as_ptr(), self.output.raw.as_ptr(), self.packet.as_ptr());
        // SAFETY: encoder and frame are valid; x264 takes its own reference to the frame's buffers.
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
            self.check_packet(code)?;
        }
    }

    /// As [`check`](Self::check), but a packet of audio that is damaged is left out: pictures come from our own
    /// encoder, and packets are written when their turn comes, not when they are given.
    fn check_packet(&self, code: c_int) -> Result<(), FileError> {
        if code == ffi::AVERROR_INVALIDDATA { Ok(()) } else { self.check(code) }
    }

    fn check(&self, code: c_int) -> Result<(), FileError> {
        let failed = |source| FileError::Write { path: self.path.clone(), source };
        FfmpegError::check(code).map(drop).map_err(failed)
    }
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
