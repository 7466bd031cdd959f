//! Pictures into encoded frames for one browser, one in and one out.
//!
//! It stands after drawing and before [`rtp`](crate::rtp)'s packetiser, and takes the picture, drawn on or
//! as it was decoded, without copying it. It knows real-time VP8 (libvpx) and constrained-baseline H264 (libx264)
//! with key frames only where they are asked for. It does not decide sizes or rates, and a change of
//! size takes a new encoder.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

use bytes::Bytes;
use ffmpeg_sys_next as ffi;

use super::picture::{Frame, I420};
use super::{CodecError, FfmpegError, log};
use crate::frame::{Codec, I420Buffer, Plane, Planes};

/// How much processor time a picture may take, for how much quality at the same rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speed {
    /// x264 `ultrafast` with its loop filter, libvpx `cpu-used -8`.
    #[default]
    Fast,
    /// x264 `ultrafast` without it, libvpx `cpu-used -12`: a tenth to a quarter less time.
    Fastest,
}

/// What an encoder is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderConfig {
    /// VP8 or H264.
    pub codec: Codec,
    /// Pixels. H264 has no odd sizes: such a picture is sent one pixel wider or higher, its edge repeated.
    pub width: usize,
    pub height: usize,
    pub bitrate_kbps: u32,
    /// Pictures a second, about; the true times come with the pictures.
    pub fps_hint: u32,
    /// Threads within a picture. With more than one, H264 has a slice for each.
    pub threads: usize,
    pub speed: Speed,
}

/// One encoded frame.
#[derive(Clone, Debug)]
pub struct EncodedOutput {
    /// A VP8 frame, or an H264 access unit in Annex B form, with SPS and PPS when it is a key frame.
    pub data: Bytes,
    /// Whether decoding can start here.
    pub is_key: bool,
}

/// Ticks of the media clock a second.
const CLOCK_RATE: c_int = 90_000;

/// A step of the RTP timestamp beyond this is a restart of the sender's clock, not time passed.
const MAX_STEP_TICKS: u32 = 10 * CLOCK_RATE as u32;

/// The quantiser below which a picture is not coded, whatever the rate leaves room for: some 42 dB on a moving
/// picture. Finer ones cost bits and as much time again for what nobody sees; WebRTC itself takes H264 below 24 for
/// pictures that could be larger.
fn finest_quantiser(codec: Codec) -> c_int {
    if codec == Codec::Vp8 { 14 } else { 22 }
}

/// Largest side of a picture in pixels: what a VP8 key frame can say (RFC 6386 §9.1).
const MAX_SIDE: usize = 16_383;

/// Encodes one stream at one size.
pub struct Encoder {
    config: EncoderConfig,
    context: Option<Context>,
    /// The rate that the open context works at; VP8 cannot change it.
    running_kbps: u32,
    /// The last picture's RTP timestamp and its time for FFmpeg, which must grow.
    last: Option<(u32, i64)>,
    /// Where a picture of odd size is widened for H264.
    padded: Option<I420Buffer>,
}

impl Encoder {
    /// Opens an encoder; the first frame that comes out is a key frame.
    ///
    /// Fails for codecs other than VP8 and H264, for sides of 0 or over 16383 pixels, and when this build
    /// of FFmpeg lacks the encoder.
    pub fn open(config: EncoderConfig) -> Result<Self, CodecError> {
        log::install();
        let EncoderConfig { width, height, .. } = config;
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(CodecError::Unencodable { width, height });
        }
        let even = |side: usize| side.next_multiple_of(2);
        let padded = (config.codec == Codec::H264 && (width, height) != (even(width), even(height)))
            .then(|| I420Buffer::black(even(width), even(height)));
        let context = Context::open(&config)?;
        Ok(Self { config, context: Some(context), running_kbps: config.bitrate_kbps, last: None, padded })
    }

    /// What the encoder was opened with, at the bitrate last asked for.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Asks for another bitrate.
    ///
    /// H264 follows with the next picture. libvpx is out of FFmpeg's reach once it is open, so VP8 starts
    /// afresh at its next key frame, or with one at once where the rate changes by a third or more.
    pub fn set_bitrate(&mut self, kbps: u32) {
        self.config.bitrate_kbps = kbps.max(1);
        if self.config.codec == Codec::H264
            && let Some(context) = &mut self.context
        {
            context.set_bitrate(self.config.bitrate_kbps);
            self.running_kbps = self.config.bitrate_kbps;
        }
    }

    /// Encodes one picture of the configured size, as a key frame when `force_key`.
    ///
    /// `None` only when the encoder chose to drop the picture.
    pub fn encode(
        &mut self,
        picture: &dyn Planes,
        rtp_timestamp: u32,
        force_key: bool,
    ) -> Result<Option<EncodedOutput>, CodecError> {
        let luma = picture.plane(0);
        let (expected, given) = ((self.config.width, self.config.height), (luma.width, luma.height));
        if expected != given {
            return Err(CodecError::WrongSize { expected, given });
        }
        let (wanted, running) = (self.config.bitrate_kbps, self.running_kbps);
        let is_far =
            u64::from(wanted) * 3 <= u64::from(running) * 2 || wanted > running.saturating_mul(4) / 3;
        if wanted != running && (force_key || is_far) {
            self.context = None;
        }
        let pts = self.advance(rtp_timestamp);
        let context = match &mut self.context {
            Some(context) => context,
            None => {
                self.running_kbps = wanted;
                self.context.insert(Context::open(&self.config)?)
            }
        };
        let picture = match &mut self.padded {
            Some(padded) => {
                widen(picture, padded);
                padded as &dyn Planes
            }
            None => picture,
        };
        let encoded = context.encode(picture, pts, force_key, self.config.codec);
        if matches!(encoded, Err(CodecError::PictureKept { .. } | CodecError::Encode { .. })) {
            self.context = None;
        }
        encoded
    }

    /// The picture's time for FFmpeg: the RTP timestamp without its wrap, always growing.
    fn advance(&mut self, rtp_timestamp: u32) -> i64 {
        let usual = CLOCK_RATE / self.config.fps_hint.clamp(1, 240) as c_int;
        let pts = match self.last {
            None => 0,
            Some((last, pts)) => match rtp_timestamp.wrapping_sub(last) {
                step @ 1..MAX_STEP_TICKS => pts + i64::from(step),
                _ => pts + i64::from(usual),
            },
        };
        self.last = Some((rtp_timestamp, pts));
        pts
    }
}

/// Copies a picture of odd size into one of even size, repeating the last column and row of luma.
///
/// Chroma is rounded up already, so its planes have the same size in both.
pub(super) fn widen(from: &dyn Planes, to: &mut I420Buffer) {
    for index in 0..3 {
        let source = from.plane(index);
        let (rows, width, height) = to.plane_mut(index);
        for (y, row) in rows.chunks_exact_mut(width).enumerate().take(height) {
            let line = &source.data[y.min(source.height - 1) * source.stride..][..source.width];
            row[..source.width].copy_from_slice(line);
            row[source.width..].fill(line[source.width - 1]);
        }
    }
}

/// An owned, open `AVCodecContext` with the frame that feeds it and the packet that it fills.
struct Context {
    raw: NonNull<ffi::AVCodecContext>,
    packet: NonNull<ffi::AVPacket>,
    input: Frame,
    name: &'static str,
}

// SAFETY: a codec context may move between threads; it is used through `&mut` only.
unsafe impl Send for Context {}

impl Context {
    fn open(config: &EncoderConfig) -> Result<Self, CodecError> {
        let fastest = config.speed == Speed::Fastest;
        let (name, options): (&'static CStr, &[(&CStr, &CStr)]) = match config.codec {
            Codec::Vp8 => (
                c"libvpx",
                &[
                    (c"deadline", c"realtime"),
                    // Positive values cost twice the time here: they adapt to a deadline of their own.
                    (c"cpu-used", if fastest { c"-12" } else { c"-8" }),
                    (c"lag-in-frames", c"0"),
                    (c"auto-alt-ref", c"0"),
                    (c"error-resilient", c"0"),
                    (c"max-intra-rate", c"300"),
                    (c"static-thresh", c"1"),
                    (c"undershoot-pct", c"100"),
                    (c"overshoot-pct", c"15"),
                ],
            ),
            Codec::H264 => (
                c"libx264",
                &[
                    // At the rates of live video `superfast` is no better to look at, for a third more time; without the
                    // loop filter blocks show.
                    (c"preset", c"ultrafast"),
                    (c"x264-params", if fastest { c"no-deblock=1" } else { c"deblock=0,0" }),
                    (c"tune", c"zerolatency"),
                    (c"profile", c"baseline"),
                    (c"forced-idr", c"1"),
                    (c"intra-refresh", c"0"),
                    (c"sc_threshold", c"0"),
                ],
            ),
            codec => return Err(CodecError::NotEncoded { codec: codec.name() }),
        };
        let text = name.to_str().expect("encoder names are ASCII");
        // SAFETY: the name is a C string; the answer is static or null.
        let found = unsafe { ffi::avcodec_find_encoder_by_name(name.as_ptr()) };
        if found.is_null() {
            return Err(CodecError::Missing { name: text });
        }
        let input = Frame::empty()?;
        // SAFETY: plain allocation; null is handled.
        let packet = NonNull::new(unsafe { ffi::av_packet_alloc() })
            .ok_or(CodecError::OutOfMemory { what: "a packet" })?;
        let mut free_on_error = packet.as_ptr();
        // SAFETY: `found` is an encoder; null is handled, and the packet is freed when there is no owner for it.
        let raw = unsafe {
            NonNull::new(ffi::avcodec_alloc_context3(found)).ok_or_else(|| {
                ffi::av_packet_free(&mut free_on_error);
                CodecError::OutOfMemory { what: "an encoder" }
            })?
        };
        let mut context = Self { raw, packet, input, name: text };
        context.set_bitrate(config.bitrate_kbps);
        let even = |side: usize| match config.codec {
            Codec::H264 => side.next_multiple_of(2) as c_int,
            _ => side as c_int,
        };
        let fps = config.fps_hint.clamp(1, 240) as c_int;
        let mut dictionary = Dictionary::default();
        for (key, value) in options {
            dictionary.set(key, value);
        }
        let raw = context.raw.as_ptr();
        // SAFETY: the context is ours and not open yet, when its fields may be set; avcodec_open2 takes the
        // options that it knows out of the dictionary, which is freed either way.
        let code = unsafe {
            (*raw).width = even(config.width);
            (*raw).height = even(config.height);
            (*raw).pix_fmt = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
            (*raw).color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            (*raw).time_base = ffi::AVRational { num: 1, den: CLOCK_RATE };
            (*raw).framerate = ffi::AVRational { num: fps, den: 1 };
            // libvpx takes this for the first picture's duration, and thinks of 90000 a second otherwise.
            (*raw).ticks_per_frame = CLOCK_RATE / fps;
            // Key frames are made when a receiver asks, and after five minutes for one that cannot.
            (*raw).gop_size = fps * 300;
            (*raw).max_b_frames = 0;
            (*raw).thread_count = config.threads.clamp(1, 16) as c_int;
            (*raw).flags |= ffi::AV_CODEC_FLAG_LOW_DELAY as c_int;
            (*raw).qmin = finest_quantiser(config.codec);
            if config.codec == Codec::Vp8 {
                // What WebRTC itself sets for libvpx.
                (*raw).qmax = 56;
            }
            ffi::avcodec_open2(raw, found, dictionary.as_mut())
        };
        FfmpegError::check(code).map_err(|source| CodecError::Open { name: text, source })?;
        Ok(context)
    }

    /// Sets a constant rate over a buffer of a second (VP8) or six tenths (H264).
    fn set_bitrate(&mut self, kbps: u32) {
        let bits = i64::from(kbps.clamp(1, 100_000)) * 1000;
        let raw = self.raw.as_ptr();
        let is_x264 = self.name == "libx264";
        // SAFETY: the context is valid; libx264 looks at these fields before every picture, libvpx only
        // when it is opened.
        unsafe {
            (*raw).bit_rate = bits;
            (*raw).rc_max_rate = bits;
            if !is_x264 {
                (*raw).rc_min_rate = bits;
            }
            (*raw).rc_buffer_size = if is_x264 { bits * 6 / 10 } else { bits } as c_int;
            (*raw).rc_initial_buffer_occupancy = (*raw).rc_buffer_size / 2;
        }
    }

    fn encode(
        &mut self,
        picture: &dyn Planes,
        pts: i64,
        force_key: bool,
        codec: Codec,
    ) -> Result<Option<EncodedOutput>, CodecError> {
        let loan = Loan::new(picture)?;
        loan.fill(&mut self.input)?;
        let (raw, input, packet) = (self.raw.as_ptr(), self.input.as_mut_ptr(), self.packet.as_ptr());
        let failed = |source| CodecError::Encode { codec: codec.name(), source };
        // SAFETY: context and frame are valid, and the frame is ours.
        let sent = unsafe {
            (*input).pts = pts;
            (*input).pict_type = if force_key {
                ffi::AVPictureType::AV_PICTURE_TYPE_I
            } else {
                ffi::AVPictureType::AV_PICTURE_TYPE_NONE
            };
            let sent = ffi::avcodec_send_frame(raw, input);
            ffi::av_frame_unref(input);
            sent
        };
        let mut output = None;
        let mut outcome = FfmpegError::check(sent).map_err(failed);
        while outcome.is_ok() {
            // SAFETY: context and packet are valid; the packet's former contents are released by the call.
            let code = unsafe { ffi::avcodec_receive_packet(raw, packet) };
            if code == ffi::AVERROR(ffi::EAGAIN) {
                break;
            }
            outcome = FfmpegError::check(code).map_err(failed);
            if outcome.is_ok() {
                // SAFETY: a packet that was received has `size` bytes at `data`.
                let (data, is_key) = unsafe {
                    let data = std::slice::from_raw_parts((*packet).data, (*packet).size as usize);
                    (Bytes::copy_from_slice(data), (*packet).flags & ffi::AV_PKT_FLAG_KEY != 0)
                };
                output = Some(EncodedOutput { data, is_key });
            }
        }
        // SAFETY: the packet is valid.
        unsafe { ffi::av_packet_unref(packet) };
        if loan.is_returned() {
            return outcome.map(|_| output);
        }
        // Never seen with these two encoders and no look-ahead. Closing the codec gives the picture back,
        // and that must happen while the caller's borrow lasts.
        self.close();
        assert!(loan.is_returned(), "a closed codec refers to no picture");
        Err(CodecError::PictureKept { name: self.name })
    }

    /// Frees the codec, leaving a fresh unopened context that only waits to be dropped.
    fn close(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: the context is ours; it is replaced before anything else can use it.
        unsafe {
            ffi::avcodec_free_context(&mut raw);
            self.raw = NonNull::new(ffi::avcodec_alloc_context3(ptr::null()))
                .expect("the memory just freed suffices for an empty context");
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let (mut raw, mut packet) = (self.raw.as_ptr(), self.packet.as_ptr());
        // SAFETY: both are ours and are not used again.
        unsafe {
            ffi::avcodec_free_context(&mut raw);
            ffi::av_packet_free(&mut packet);
        }
    }
}

/// A picture's planes, lent to FFmpeg for one call as read-only reference-counted buffers.
pub(super) struct Loan<'a> {
    planes: [Plane<'a>; 3],
    /// Of each plane; null only while they are made.
    buffers: [*mut ffi::AVBufferRef; 3],
}

impl<'a> Loan<'a> {
    pub(super) fn new(picture: &'a dyn Planes) -> Result<Self, CodecError> {
        /// The bytes stay their owner's.
        unsafe extern "C" fn keep(_: *mut c_void, _: *mut u8) {}
        let planes = [0, 1, 2].map(|index| picture.plane(index));
        let mut loan = Self { planes, buffers: [ptr::null_mut(); 3] };
        for (plane, buffer) in planes.iter().zip(&mut loan.buffers) {
            let rows = plane.stride * plane.height.saturating_sub(1) + plane.width;
            assert!(plane.stride >= plane.width && plane.data.len() >= rows, "a plane holds its rows");
            // SAFETY: the read-only flag forbids FFmpeg to write through the pointer, and `keep` frees nothing.
            *buffer = unsafe {
                ffi::av_buffer_create(
                    plane.data.as_ptr().cast_mut(),
                    plane.data.len(),
                    Some(keep),
                    ptr::null_mut(),
                    ffi::AV_BUFFER_FLAG_READONLY,
                )
            };
            if buffer.is_null() {
                return Err(CodecError::OutOfMemory { what: "a picture" });
            }
        }
        Ok(loan)
    }

    /// Lets `frame`, and through it an encoder, refer to the lent planes, read-only.
    pub(super) fn fill(&self, frame: &mut Frame) -> Result<(), CodecError> {
        let raw = frame.as_mut_ptr();
        let [luma, ..] = self.planes;
        // SAFETY: the frame describes the lent planes, which hold their rows, as `new` checked; it refers to each
        // through a reference of its own, read-only, which av_frame_unref gives back.
        unsafe {
            ffi::av_frame_unref(raw);
            (*raw).width = luma.width as c_int;
            (*raw).height = luma.height as c_int;
            (*raw).format = I420;
            (*raw).color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            for (index, (plane, &buffer)) in self.planes.iter().zip(&self.buffers).enumerate() {
                (*raw).buf[index] = ffi::av_buffer_ref(buffer);
                if (*raw).buf[index].is_null() {
                    return Err(CodecError::OutOfMemory { what: "a picture" });
                }
                (*raw).data[index] = (*buffer).data;
                (*raw).linesize[index] = plane.stride as c_int;
            }
        }
        Ok(())
    }

    /// Whether these are the only references left.
    pub(super) fn is_returned(&self) -> bool {
        // SAFETY: the buffers are valid while `self` lives.
        self.buffers.iter().all(|&buffer| unsafe { ffi::av_buffer_get_ref_count(buffer) == 1 })
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        for buffer in &mut self.buffers {
            // SAFETY: the reference is ours, or null, which the call takes, and is not used again.
            unsafe { ffi::av_buffer_unref(buffer) };
        }
    }
}

/// An owned `AVDictionary` of options.
pub(super) struct Dictionary(*mut ffi::AVDictionary);

impl Default for Dictionary {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}

impl Dictionary {
    /// For FFmpeg's calls, which take out the options that they know.
    pub(super) fn as_mut(&mut self) -> &mut *mut ffi::AVDictionary {
        &mut self.0
    }

    pub(super) fn set(&mut self, key: &CStr, value: &CStr) {
        // SAFETY: both are C strings and are copied. A failure leaves the option at its default.
        unsafe { ffi::av_dict_set(&mut self.0, key.as_ptr(), value.as_ptr(), 0) };
    }
}

impl Drop for Dictionary {
    fn drop(&mut self) {
        // SAFETY: the dictionary is ours, or null, which av_dict_free takes.
        unsafe { ffi::av_dict_free(&mut self.0) };
    }
}
