//! A video file into pictures in display order, and its audio as it lies.
//!
//! The first stage of a file's path: it stands where reception and decoding stand in a live session, and
//! drops nothing. FFmpeg is held to the one demuxer that the file's first bytes ask for and to local
//! files, so that no playlist can make it open anything else.

use std::ffi::{CStr, c_int};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use ffmpeg_sys_next as ffi;

use super::colour::Converter;
use super::container::{
    FileError, boxes_are_cut_off, demuxer, ends_within_a_packet, file_url, first_bytes, is_video,
};
use super::encoder::Dictionary;
use super::fit::Fitter;
use super::picture::Frame;
use super::rotate::Turn;
use super::{CodecError, FfmpegError, MAX_PIXELS, log, samples};
use crate::frame::{I420Buffer, Picture};

/// Ticks between two pictures at most, an hour's: MP4 has no room for much more.
const MAX_GAP: i64 = 3600 * CLOCK.den as i64;

/// Ticks of the media clock a second.
pub(super) const CLOCK: ffi::AVRational = ffi::AVRational { num: 1, den: 90_000 };
const MICROSECONDS: ffi::AVRational = ffi::AVRational { num: 1, den: 1_000_000 };

/// Bytes of one piece of memory that FFmpeg may take: an index of three million frames, or a raw picture of
/// [`MAX_PIXELS`] in its deepest format. Tables are as long as a file says, not as it is.
pub(super) const MAX_ALLOCATION: usize = 80 << 20;
/// Samples that fit into an index of that size.
const MAX_INDEXED: u32 = (MAX_ALLOCATION / size_of::<ffi::AVIndexEntry>()) as u32;
/// Streams of a file, each with tables of its own: films with many languages have some forty.
const MAX_STREAMS: &CStr = c"64";

/// A file that ends this much before its declared end was cut off.
const SHORTFALL: Duration = Duration::from_millis(500);

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoInfo {
    /// Pixels, upright.
    pub width: usize,
    pub height: usize,
    /// Pictures a second, on average; 25 where nothing is said.
    pub rate: f64,
    /// Width and height of a pixel, as a ratio; upright.
    pub pixel_aspect: (u32, u32),
    /// From the headers, which may be wrong.
    pub duration: Option<Duration>,
    pub has_audio: bool,
}

/// What comes out of a file.
pub enum Piece {
    /// A picture, and its media time since the file's start.
    Picture(Picture, Duration),
    Audio(AudioPacket),
}

/// A packet of encoded audio, in the stream's own clock.
pub struct AudioPacket(pub(super) Packet);

/// The description of an audio stream.
pub struct AudioStream {
    pub(super) parameters: NonNull<ffi::AVCodecParameters>,
    pub(super) time_base: ffi::AVRational,
}

// SAFETY: the parameters are plain data, owned here alone.
unsafe impl Send for AudioStream {}

impl Drop for AudioStream {
    fn drop(&mut self) {
        let mut raw = self.parameters.as_ptr();
        // SAFETY: the parameters are ours and are not used again.
        unsafe { ffi::avcodec_parameters_free(&mut raw) };
    }
}

/// An owned `AVPacket`.
pub(super) struct Packet(NonNull<ffi::AVPacket>);

// SAFETY: a packet has no thread affinity, and its buffer's reference count is atomic.
unsafe impl Send for Packet {}

impl Packet {
    pub fn new() -> Result<Self, CodecError> {
        // SAFETY: plain allocation; null is handled.
        let packet = unsafe { ffi::av_packet_alloc() };
        NonNull::new(packet).map(Self).ok_or(CodecError::OutOfMemory { what: "a packet" })
    }

    pub fn as_ptr(&self) -> *mut ffi::AVPacket {
        self.0.as_ptr()
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the packet is ours and is not used again.
        unsafe { ffi::av_packet_free(&mut raw) };
    }
}

/// An open input; closed when dropped.
struct Input(NonNull<ffi::AVFormatContext>);

impl Drop for Input {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe { ffi::avformat_close_input(&mut raw) };
    }
}

/// An open decoder; freed when dropped.
struct FileDecoder(NonNull<ffi::AVCodecContext>);

impl Drop for FileDecoder {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe { ffi::avcodec_free_context(&mut raw) };
    }
}

/// A video file being read.
///
/// 1. [`open`](Self::open) reads the headers.
/// 2. [`read`](Self::read) gives every picture in display order, and audio in between, until `None`.
/// 3. [`is_cut_off`](Self::is_cut_off) then says whether the file was all there.
pub struct VideoFile {
    decoder: FileDecoder,
    input: Input,
    packet: Packet,
    frame: Frame,
    converter: Converter,
    fitter: Fitter,
    turn: Turn,
    info: VideoInfo,
    max_pixels: usize,
    video: c_int,
    audio: Option<c_int>,
    /// The file's first timestamp, microseconds.
    start_us: i64,
    last_ticks: Option<i64>,
    /// How long the last picture is shown, by the file.
    last_shown_ticks: i64,
    is_at_end: bool,
    damaged: u64,
    rescaled: u64,
    broke_off: bool,
}

// SAFETY: neither context has thread affinity; both are used through `&mut` only.
unsafe impl Send for VideoFile {}

impl VideoFile {
    /// Opens a file and its decoder, which takes up to `threads` threads.
    ///
    /// # Errors
    /// [`FileError`], with what the file is not.
    pub fn open(path: &Path, threads: usize) -> Result<Self, FileError> {
        if !is_video(&first_bytes(path)?) {
            return Err(FileError::UnsupportedType);
        }
        Self::open_limited(path, threads, MAX_PIXELS, Turn::None)
    }

    /// The same with a limit of its own, and a turn for streams that ask for none.
    pub(super) fn open_limited(
        path: &Path,
        threads: usize,
        max_pixels: usize,
        usual_turn: Turn,
    ) -> Result<Self, FileError> {
        log::install();
        limit_memory();
        let name = demuxer(&first_bytes(path)?).ok_or(FileError::UnsupportedType)?;
        if name == c"mov" && !samples::are_possible(path, MAX_INDEXED).map_err(FileError::Read)? {
            return Err(FileError::Headers(FfmpegError(ffi::AVERROR_INVALIDDATA)));
        }
        let headers = |source| match name == c"mov" && boxes_are_cut_off(path) {
            true => FileError::Truncated,
            false => FileError::Headers(source),
        };
        let input = open_input(path, name, headers)?;
        let raw = input.0.as_ptr();
        // SAFETY: the context is open.
        FfmpegError::check(unsafe { ffi::avformat_find_stream_info(raw, ptr::null_mut()) })
            .map_err(headers)?;
        let best = |kind| {
            let mut codec = ptr::null();
            // SAFETY: the context is open; the codec found is static or null.
            let index = unsafe { ffi::av_find_best_stream(raw, kind, -1, -1, &mut codec, 0) };
            (index >= 0).then_some((index, codec))
        };
        let audio = best(ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).map(|(index, _)| index);
        // SAFETY: the context is open, and the index is one of its streams'.
        let is_video = |index: usize| unsafe {
            let stream = *(*raw).streams.add(index);
            // The cover of an album is no video.
            (*(*stream).codecpar).codec_type == ffi::AVMediaType::AVMEDIA_TYPE_VIDEO
                && (*stream).disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as c_int == 0
        };
        let found = best(ffi::AVMediaType::AVMEDIA_TYPE_VIDEO).filter(|(index, _)| is_video(*index as usize));
        let Some((video, codec)) = found else {
            // SAFETY: the context is open.
            let has_video = (0..unsafe { (*raw).nb_streams } as usize).any(is_video);
            return Err(match (has_video, audio) {
                (true, _) => FileError::UnsupportedCodec,
                (false, Some(_)) => FileError::AudioOnly,
                (false, None) => FileError::NoVideo,
            });
        };
        // SAFETY: the index is one of the context's streams, which live as long as it.
        let stream = unsafe { *(*raw).streams.add(video as usize) };
        let decoder = open_decoder(stream, codec, threads, max_pixels)?;
        // SAFETY: stream and its parameters are valid.
        let (width, height, rate, aspect, duration, start_us) = unsafe {
            let parameters = (*stream).codecpar;
            let rate = ffi::av_guess_frame_rate(raw, stream, ptr::null_mut());
            let aspect = ffi::av_guess_sample_aspect_ratio(raw, stream, ptr::null_mut());
            let unknown = ffi::AV_NOPTS_VALUE;
            let duration = match ((*stream).duration, (*raw).duration) {
                (ticks, _) if ticks != unknown => {
                    Some(ffi::av_rescale_q(ticks, (*stream).time_base, MICROSECONDS))
                }
                (_, us) if us != unknown => Some(us),
                _ => None,
            };
            let start = if (*raw).start_time == unknown { 0 } else { (*raw).start_time };
            ((*parameters).width, (*parameters).height, rate, aspect, duration, start)
        };
        let size = (width.max(0) as usize, height.max(0) as usize);
        if size.0 * size.1 > max_pixels {
            return Err(CodecError::TooLarge { size: Some(size), max_pixels }.into());
        }
        // Neither the headers nor the first frames tell a size, or none that FFmpeg takes.
        if size.0 == 0 || size.1 == 0 {
            return Err(headers(FfmpegError(ffi::AVERROR_INVALIDDATA)));
        }
        let turn = match Turn::of_stream(stream) {
            Turn::None => usual_turn,
            turn => turn,
        };
        let (width, height) = turn.size(size);
        let rate = f64::from(rate.num) / f64::from(rate.den);
        let aspect = match (u32::try_from(aspect.num), u32::try_from(aspect.den)) {
            (Ok(width @ 1..), Ok(height @ 1..)) => turn.size((width as usize, height as usize)),
            _ => (1, 1),
        };
        let info = VideoInfo {
            width,
            height,
            pixel_aspect: (aspect.0 as u32, aspect.1 as u32),
            rate: if rate.is_finite() && (0.01..=1000.0).contains(&rate) { rate } else { 25.0 },
            duration: duration.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros),
            has_audio: audio.is_some(),
        };
        Ok(Self {
            decoder,
            input,
            packet: Packet::new()?,
            frame: Frame::empty()?,
            converter: Converter::new(),
            fitter: Fitter::default(),
            turn,
            info,
            max_pixels,
            video,
            audio,
            start_us,
            last_ticks: None,
            last_shown_ticks: 0,
            is_at_end: false,
            damaged: 0,
            rescaled: 0,
            broke_off: name == c"mpegts" && ends_within_a_packet(path),
        })
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// The description of the audio, for whoever writes its packets; `None` when there is none.
    pub fn audio(&self) -> Result<Option<AudioStream>, CodecError> {
        let Some(index) = self.audio else { return Ok(None) };
        let out_of_memory = CodecError::OutOfMemory { what: "audio parameters" };
        // SAFETY: the stream is the open context's; the copy is ours, and null is handled.
        unsafe {
            let stream = *(*self.input.0.as_ptr()).streams.add(index as usize);
            let Some(parameters) = NonNull::new(ffi::avcodec_parameters_alloc()) else {
                return Err(out_of_memory);
            };
            let copy = AudioStream { parameters, time_base: (*stream).time_base };
            FfmpegError::check(ffi::avcodec_parameters_copy(copy.parameters.as_ptr(), (*stream).codecpar))
                .map_err(|_| out_of_memory)?;
            Ok(Some(copy))
        }
    }

    /// Frames that were damaged and gave no picture, so far.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Pictures of another size than the first, which were brought to its size, so far.
    pub fn rescaled(&self) -> u64 {
        self.rescaled
    }

    /// Whether the file ended before it said it would; known once [`read`](Self::read) gave `None`.
    pub fn is_cut_off(&self) -> bool {
        let seen = self.last_ticks.map_or(0, |last| last.saturating_add(self.last_shown_ticks));
        let seen = ticks_to_duration(seen);
        let frame = Duration::from_secs_f64(1.0 / self.info.rate);
        let is_short = self.info.duration.is_some_and(|declared| seen + frame * 2 + SHORTFALL < declared);
        self.broke_off || is_short
    }

    /// The next picture or piece of audio; `None` at the end of what can be read.
    ///
    /// Damaged frames are skipped and counted.
    ///
    /// # Errors
    /// When a picture is too large, in a pixel format that cannot be converted, or memory is short.
    pub fn read(&mut self) -> Result<Option<Piece>, FileError> {
        loop {
            let started = Instant::now();
            // SAFETY: both are valid; the frame's former contents are released by the call.
            let code =
                unsafe { ffi::avcodec_receive_frame(self.decoder.0.as_ptr(), self.frame.as_mut_ptr()) };
            match code {
                0 => return self.picture(started).map(Some),
                ffi::AVERROR_EOF => return Ok(None),
                code if code == ffi::AVERROR(ffi::EAGAIN) => {
                    if let Some(audio) = self.feed()? {
                        return Ok(Some(Piece::Audio(audio)));
                    }
                }
                _ if self.is_at_end => {
                    self.damaged += 1;
                    return Ok(None);
                }
                _ => self.damaged += 1,
            }
        }
    }

    /// Gives the decoder one packet, or tells it that there are no more; a packet of audio is returned.
    fn feed(&mut self) -> Result<Option<AudioPacket>, FileError> {
        let (input, packet) = (self.input.0.as_ptr(), self.packet.as_ptr());
        // SAFETY: both are valid; the packet's former contents are released first.
        let code = unsafe {
            ffi::av_packet_unref(packet);
            ffi::av_read_frame(input, packet)
        };
        if code < 0 {
            self.broke_off |= code != ffi::AVERROR_EOF;
            self.is_at_end = true;
            // SAFETY: a null packet ends the stream.
            unsafe { ffi::avcodec_send_packet(self.decoder.0.as_ptr(), ptr::null()) };
            return Ok(None);
        }
        // SAFETY: a packet that was read has an index and flags.
        let (index, flags) = unsafe { ((*packet).stream_index, (*packet).flags) };
        self.broke_off |= flags & ffi::AV_PKT_FLAG_CORRUPT != 0;
        if Some(index) == self.audio {
            let taken = std::mem::replace(&mut self.packet, Packet::new()?);
            self.shift(&taken, index);
            return Ok(Some(AudioPacket(taken)));
        }
        if index == self.video {
            // SAFETY: both are valid; a decoder that was drained takes a packet.
            let code = unsafe { ffi::avcodec_send_packet(self.decoder.0.as_ptr(), packet) };
            self.damaged += u64::from(code < 0);
        }
        Ok(None)
    }

    /// Lets a packet's time count from the file's start.
    fn shift(&self, packet: &Packet, index: c_int) {
        // SAFETY: packet and stream are valid.
        unsafe {
            let time_base = (**(*self.input.0.as_ptr()).streams.add(index as usize)).time_base;
            let start = ffi::av_rescale_q(self.start_us, MICROSECONDS, time_base);
            let raw = packet.as_ptr();
            for time in [&mut (*raw).pts, &mut (*raw).dts] {
                if *time != ffi::AV_NOPTS_VALUE {
                    *time -= start;
                }
            }
        }
    }

    fn picture(&mut self, started: Instant) -> Result<Piece, FileError> {
        let frame = self.frame.take()?;
        // SAFETY: the frame and the stream are valid.
        let (time, shown, time_base) = unsafe {
            let stream = *(*self.input.0.as_ptr()).streams.add(self.video as usize);
            let raw = frame.as_ptr();
            ((*raw).best_effort_timestamp, (*raw).pkt_duration, (*stream).time_base)
        };
        let step = (f64::from(CLOCK.den) / self.info.rate).round().max(1.0) as i64;
        let expected = self.last_ticks.map_or(0, |last| last + step);
        let ticks = match time {
            ffi::AV_NOPTS_VALUE => expected,
            // SAFETY: plain arithmetic.
            time => unsafe {
                ffi::av_rescale_q(time, time_base, CLOCK)
                    - ffi::av_rescale_q(self.start_us, MICROSECONDS, CLOCK)
            },
        };
        // Two pictures of one time, or times that run backwards, would be no video; nor would days between them.
        let earliest = self.last_ticks.map_or(0, |last| last + 1);
        let ticks = ticks.clamp(earliest, earliest + MAX_GAP);
        self.last_ticks = Some(ticks);
        // SAFETY: plain arithmetic.
        self.last_shown_ticks = unsafe { ffi::av_rescale_q(shown.max(0), time_base, CLOCK) };

        let (width, height) = frame.size();
        let size = (width.max(0) as usize, height.max(0) as usize);
        let max_pixels = self.max_pixels;
        if size.0 * size.1 > max_pixels {
            return Err(CodecError::TooLarge { size: Some(size), max_pixels }.into());
        }
        let mut frame = self.converter.convert(frame, true)?;
        let expected = self.turn.size((self.info.width, self.info.height));
        if size != expected {
            // The annotated file has one size, that of its first picture.
            frame = self.fitter.fit(&frame, expected)?;
            self.rescaled += 1;
        }
        let size = expected;
        let planes = frame.into_planes()?;
        let picture = Picture {
            width: size.0,
            height: size.1,
            planes: Arc::new(planes),
            rtp_timestamp: ticks as u32,
            received: started,
            decode_started: started,
            decoded: Instant::now(),
        };
        let picture = match self.turn {
            Turn::None => picture,
            turn => {
                let turned: I420Buffer = turn.apply(&picture);
                Picture {
                    width: turned.width,
                    height: turned.height,
                    planes: Arc::new(turned),
                    decoded: Instant::now(),
                    ..picture
                }
            }
        };
        Ok(Piece::Picture(picture, ticks_to_duration(ticks)))
    }
}

fn ticks_to_duration(ticks: i64) -> Duration {
    Duration::from_secs_f64(ticks.max(0) as f64 / f64::from(CLOCK.den))
}

fn limit_memory() {
    static LIMITED: Once = Once::new();
    // SAFETY: the call stores one number, for the whole process.
    LIMITED.call_once(|| unsafe { ffi::av_max_alloc(MAX_ALLOCATION) });
}

fn open_input(
    path: &Path,
    name: &'static CStr,
    fault: impl Fn(FfmpegError) -> FileError,
) -> Result<Input, FileError> {
    let url = file_url(path).map_err(FileError::Read)?;
    let mut options = Dictionary::default();
    options.set(c"protocol_whitelist", c"file");
    options.set(c"max_streams", MAX_STREAMS);
    options.set(c"format_whitelist", if name == c"mov" { c"mov,mp4,m4a,3gp,3g2,mj2" } else { name });
    if name == c"matroska" {
        options.set(c"format_whitelist", c"matroska,webm");
    }
    let mut raw = ptr::null_mut();
    // SAFETY: the names are C strings, the demuxer is static or null; on failure the context stays null.
    let code = unsafe {
        let format = ffi::av_find_input_format(name.as_ptr());
        if format.is_null() {
            return Err(CodecError::Missing { name: name.to_str().unwrap_or_default() }.into());
        }
        ffi::avformat_open_input(&mut raw, url.as_ptr(), format.cast_mut(), options.as_mut())
    };
    FfmpegError::check(code).map_err(fault)?;
    let input = NonNull::new(raw).expect("an input that was opened is not null");
    Ok(Input(input))
}

fn open_decoder(
    stream: *mut ffi::AVStream,
    codec: *const ffi::AVCodec,
    threads: usize,
    max_pixels: usize,
) -> Result<FileDecoder, FileError> {
    if codec.is_null() {
        return Err(FileError::UnsupportedCodec);
    }
    // SAFETY: the codec is static; null is handled; the context is ours and not open yet, when its fields
    // may be set; the stream's parameters are valid.
    unsafe {
        let raw = NonNull::new(ffi::avcodec_alloc_context3(codec))
            .ok_or(CodecError::OutOfMemory { what: "a decoder" })?;
        let decoder = FileDecoder(raw);
        let raw = raw.as_ptr();
        FfmpegError::check(ffi::avcodec_parameters_to_context(raw, (*stream).codecpar))
            .map_err(|_| FileError::UnsupportedCodec)?;
        (*raw).pkt_timebase = (*stream).time_base;
        (*raw).thread_count = threads.clamp(1, 16) as c_int;
        // FFmpeg compares sizes rounded up to its alignment; the exact limit is looked at afterwards.
        (*raw).max_pixels = (max_pixels + max_pixels / 4) as i64;
        FfmpegError::check(ffi::avcodec_open2(raw, codec, ptr::null_mut()))
            .map_err(|_| FileError::UnsupportedCodec)?;
        Ok(decoder)
    }
}
