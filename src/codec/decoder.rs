//! Encoded frames into pictures, one in and one out.
//!
//! It takes complete frames in decoding order, from [`rtp`](crate::rtp) or a demuxer, and hands the
//! newest picture on without copying it. It does not wait, reorder or conceal: a frame that cannot be
//! decoded whole is an error, and the caller asks its sender for a key frame.

use std::collections::VecDeque;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use ffmpeg_sys_next as ffi;

use super::colour::Converter;
use super::nvdec::{Device, Fetcher};
use super::picture::Frame;
use super::{CodecError, FfmpegError, log};
use crate::frame::{Codec, EncodedFrame, Picture};

/// The usual limit of a picture's size in pixels: 4096x2160, what DCI calls 4K.
pub const MAX_PIXELS: usize = 4096 * 2160;

/// What decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    #[default]
    Processor,
    /// NVDEC of the GPU with this index; what it cannot decode, the processor does.
    Nvdec(u16),
}

impl Unit {
    /// Opens it, to be done before models are loaded on the same GPU: it asks for the GPU's context in a way that others can
    /// share, which they do not. What cannot be opened is logged.
    pub fn prepare(self) {
        if let Self::Nvdec(gpu) = self {
            drop(Device::of(gpu));
        }
    }
}

/// A unit was written in a way that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not decode: there are cpu and nvdec:N")]
pub struct UnknownUnit(String);

impl FromStr for Unit {
    type Err = UnknownUnit;

    fn from_str(text: &str) -> Result<Self, UnknownUnit> {
        let unit = match text.split_once(':').unwrap_or((text, "0")) {
            ("cpu", _) if text == "cpu" => Some(Self::Processor),
            ("nvdec", gpu) => gpu.parse().ok().map(Self::Nvdec),
            _ => None,
        };
        unit.ok_or_else(|| UnknownUnit(text.to_owned()))
    }
}

/// Frames that a decoder may hold before their pictures come: streams whose frames are not in the order of their pictures.
const MAX_HELD: usize = 32;

/// Decodes one stream of one codec.
///
/// 1. Frames go in through [`decode`](Self::decode), in decoding order, beginning with a key frame.
/// 2. Each call returns the newest picture that came out, nearly always that of the same frame.
/// 3. After an error the decoder has forgotten its references: nothing comes out before the next key frame.
pub struct Decoder {
    context: Context,
    codec: Codec,
    threads: usize,
    fetcher: Fetcher,
    converter: Converter,
    /// Where FFmpeg puts what it decodes; empty between calls.
    frame: Frame,
    /// Of the frames whose pictures may be to come: number, RTP timestamp, arrival; oldest first.
    sent: VecDeque<(i64, u32, Instant)>,
    number: i64,
}

impl Decoder {
    /// Opens a decoder that uses up to `threads` threads within a picture (at least one).
    ///
    /// Fails when this build of FFmpeg lacks the codec.
    pub fn open(codec: Codec, threads: usize) -> Result<Self, CodecError> {
        Self::over(Context::open(name_of(codec), threads, MAX_PIXELS)?, codec, threads)
    }

    /// The same on a unit, or on the processor where that cannot be used; what it cannot decode of a stream, and all of
    /// AV1, the processor does too.
    pub fn open_on(unit: Unit, codec: Codec, threads: usize) -> Result<Self, CodecError> {
        match unit {
            Unit::Nvdec(gpu) if codec != Codec::Av1 => {
                let context = Context::open_on(name_of(codec), threads, MAX_PIXELS, Device::of(gpu))?;
                Self::over(context, codec, threads)
            }
            _ => Self::open(codec, threads),
        }
    }

    fn over(context: Context, codec: Codec, threads: usize) -> Result<Self, CodecError> {
        let (fetcher, converter, frame) = (Fetcher::new()?, Converter::new(), Frame::empty()?);
        Ok(Self { context, codec, threads, fetcher, converter, frame, sent: VecDeque::new(), number: 0 })
    }

    /// Decodes one frame; `None` when it shows nothing (a hidden reference, or frames after
    /// [`flush`](Self::flush) that need one from before it).
    ///
    /// A picture of more than `max_pixels` is refused before memory is taken for it. Corrupt, truncated
    /// and oversized frames are errors, after which decoding resumes at a key frame.
    pub fn decode(&mut self, frame: &EncodedFrame, max_pixels: usize) -> Result<Option<Picture>, CodecError> {
        if frame.codec != self.codec {
            return Err(CodecError::WrongCodec { opened: self.codec.name(), given: frame.codec.name() });
        }
        // FFmpeg reads an empty packet as the end of the stream, after which it takes no more.
        if frame.data.is_empty() {
            return Err(CodecError::Empty);
        }
        if self.context.limit.max_pixels() != max_pixels {
            // dav1d learns the limit when it is opened, and only then.
            if self.codec == Codec::Av1 {
                self.context = Context::open(name_of(self.codec), self.threads, max_pixels)?;
            }
            self.context.set_limit(max_pixels);
        }
        let decoded = self.decode_within_limit(frame);
        if decoded.is_err() {
            self.flush();
        }
        decoded
    }

    /// Forgets every reference; the next frame must be a key frame.
    pub fn flush(&mut self) {
        // SAFETY: the context is open.
        unsafe { ffi::avcodec_flush_buffers(self.context.raw.as_ptr()) };
        self.sent.clear();
    }

    fn decode_within_limit(&mut self, encoded: &EncodedFrame) -> Result<Option<Picture>, CodecError> {
        let decode_started = Instant::now();
        self.context.limit.exceeded.store(0, Relaxed);
        let mut newest: Option<Frame> = None;
        self.number += 1;
        self.context.packet.fill(&encoded.data, self.number)?;
        if self.sent.len() == MAX_HELD {
            self.sent.pop_front();
        }
        self.sent.push_back((self.number, encoded.rtp_timestamp, encoded.received));
        let context = self.context.raw.as_ptr();
        // SAFETY: context and packet are valid; the packet holds its data with the padding that decoders need.
        let mut sent = unsafe { ffi::avcodec_send_packet(context, self.context.packet.0.as_ptr()) };
        // A decoder that is full takes the packet once a picture has been fetched.
        let mut waiting = sent == ffi::AVERROR(ffi::EAGAIN);
        if !waiting {
            self.check(encoded, sent)?;
        }
        loop {
            // SAFETY: both are valid; the frame's former contents are released by the call.
            let code = unsafe { ffi::avcodec_receive_frame(context, self.frame.as_mut_ptr()) };
            if code == ffi::AVERROR(ffi::EAGAIN) || code == ffi::AVERROR_EOF {
                if !waiting {
                    break;
                }
                waiting = false;
                // SAFETY: as above.
                sent = unsafe { ffi::avcodec_send_packet(context, self.context.packet.0.as_ptr()) };
                self.check(encoded, sent)?;
                continue;
            }
            self.check(encoded, code)?;
            newest = Some(self.frame.take()?);
        }
        let Some(frame) = newest else { return Ok(None) };
        let fetched = self.fetcher.fetch(frame);
        let frame = fetched.map_err(|source| self.failure(encoded, source))?;
        let (width, height) = frame.size();
        let size = (width.max(0) as usize, height.max(0) as usize);
        if size.0 * size.1 > self.context.limit.max_pixels() {
            return Err(self.too_large(Some(size)));
        }
        if frame.is_damaged() {
            return Err(CodecError::Damaged { codec: self.codec.name(), bytes: encoded.data.len() });
        }
        let (rtp_timestamp, received) = self.origin(frame.number(), encoded);
        let planes = self.converter.convert(frame, self.codec != Codec::Vp8)?.into_planes()?;
        Ok(Some(Picture {
            width: size.0,
            height: size.1,
            planes: Arc::new(planes),
            rtp_timestamp,
            received,
            decode_started,
            decoded: Instant::now(),
        }))
    }

    /// Time and arrival of the frame that a picture is of, nearly always the newest.
    fn origin(&mut self, number: i64, newest: &EncodedFrame) -> (u32, Instant) {
        let found = self.sent.iter().position(|(sent, ..)| *sent == number);
        let origin = found.and_then(|index| self.sent.drain(..=index).next_back());
        origin
            .map_or((newest.rtp_timestamp, newest.received), |(_, timestamp, received)| (timestamp, received))
    }

    fn check(&self, encoded: &EncodedFrame, code: c_int) -> Result<(), CodecError> {
        FfmpegError::check(code).map(drop).map_err(|source| self.failure(encoded, source))
    }

    /// What FFmpeg's answer to a frame means.
    fn failure(&self, encoded: &EncodedFrame, source: FfmpegError) -> CodecError {
        if let Some(size) = self.context.limit.exceeded() {
            return self.too_large(Some(size));
        }
        // dav1d answers ERANGE. FFmpeg's own decoders answer EINVAL when a size goes far over the limit,
        // before ours is asked; what is merely corrupt is AVERROR_INVALIDDATA to them.
        let (dav1d, own) = (ffi::AVERROR(ffi::ERANGE), ffi::AVERROR(ffi::EINVAL));
        if (self.codec == Codec::Av1 && source.0 == dav1d) || (encoded.is_key && source.0 == own) {
            return self.too_large(None);
        }
        CodecError::Corrupt { codec: self.codec.name(), bytes: encoded.data.len(), source }
    }

    fn too_large(&self, size: Option<(usize, usize)>) -> CodecError {
        CodecError::TooLarge { size, max_pixels: self.context.limit.max_pixels() }
    }
}

/// FFmpeg's decoder of a codec.
fn name_of(codec: Codec) -> &'static CStr {
    match codec {
        Codec::Vp8 => c"vp8",
        Codec::Vp9 => c"vp9",
        Codec::H264 => c"h264",
        Codec::Av1 => DAV1D,
    }
}

const DAV1D: &CStr = c"libdav1d";

/// The limit that FFmpeg's callbacks read, and the size that broke it.
///
/// Atomic because the context holds a second pointer to it, not because threads race for it.
struct Limit {
    max_pixels: AtomicUsize,
    /// Width in the upper half, height in the lower; 0 for none.
    exceeded: AtomicU64,
}

impl Limit {
    fn max_pixels(&self) -> usize {
        self.max_pixels.load(Relaxed)
    }

    fn exceeded(&self) -> Option<(usize, usize)> {
        let size = self.exceeded.load(Relaxed);
        (size != 0).then_some(((size >> 32) as usize, (size & 0xffff_ffff) as usize))
    }

    /// Whether the size that `context` is about to take is allowed.
    ///
    /// # Safety
    /// `context` is one of [`Context`]'s, inside a call from its owner.
    unsafe fn allows(context: *const ffi::AVCodecContext) -> bool {
        // SAFETY: by contract `context` is valid, and its `opaque` points at the limit that the same
        // `Context` keeps alive.
        let (limit, width, height) =
            unsafe { (&*(*context).opaque.cast::<Self>(), (*context).width, (*context).height) };
        let (width, height) = (width.max(0) as u64, height.max(0) as u64);
        let allowed = width * height <= limit.max_pixels() as u64;
        if !allowed {
            limit.exceeded.store(width << 32 | height, Relaxed);
        }
        allowed
    }
}

/// An owned, open `AVCodecContext` with the packet that feeds it.
pub(super) struct Context {
    raw: NonNull<ffi::AVCodecContext>,
    packet: Packet,
    /// The context points at it; let go of only after the context is freed.
    limit: Arc<Limit>,
}

// SAFETY: a codec context may move between threads; it is used through `&mut` only.
unsafe impl Send for Context {}

impl Context {
    /// Opens FFmpeg's decoder `name`.
    pub(super) fn open(name: &'static CStr, threads: usize, max_pixels: usize) -> Result<Self, CodecError> {
        Self::open_on(name, threads, max_pixels, None)
    }

    /// The same, to have a GPU make the pictures.
    fn open_on(
        name: &'static CStr,
        threads: usize,
        max_pixels: usize,
        device: Option<Device>,
    ) -> Result<Self, CodecError> {
        log::install();
        let text = name.to_str().expect("decoder names are ASCII");
        // SAFETY: the name is a C string; the answer is static or null.
        let found = unsafe { ffi::avcodec_find_decoder_by_name(name.as_ptr()) };
        if found.is_null() {
            return Err(CodecError::Missing { name: text });
        }
        // SAFETY: `found` is a decoder; null is handled.
        let raw = NonNull::new(unsafe { ffi::avcodec_alloc_context3(found) })
            .ok_or(CodecError::OutOfMemory { what: "a decoder" })?;
        let limit = Arc::new(Limit { max_pixels: max_pixels.into(), exceeded: 0.into() });
        let mut context = Self { raw, packet: Packet::new()?, limit };
        context.set_limit(max_pixels);
        let raw = context.raw.as_ptr();
        // SAFETY: the context is ours and not open yet, when its fields may be set. `opaque` points at the
        // shared limit, which outlives the context.
        let code = unsafe {
            (*raw).opaque = Arc::as_ptr(&context.limit).cast_mut().cast::<c_void>();
            (*raw).thread_count = threads.clamp(1, 16) as c_int;
            // Frame threads would hold back one picture each.
            (*raw).thread_type = ffi::FF_THREAD_SLICE;
            (*raw).flags |= ffi::AV_CODEC_FLAG_LOW_DELAY as c_int;
            if name != DAV1D {
                (*raw).get_format = Some(choose_format);
                (*raw).get_buffer2 = Some(allocate);
            }
            if let Some(device) = device {
                // FFmpeg's choice of format takes it for a wish.
                (*raw).hw_device_ctx = device.into_raw();
            }
            ffi::avcodec_open2(raw, found, ptr::null_mut())
        };
        FfmpegError::check(code).map_err(|source| CodecError::Open { name: text, source })?;
        Ok(context)
    }

    /// Decodes a picture that stands for itself, and any fault in which is an error.
    pub(super) fn decode_still(&mut self, data: &[u8], frame: &mut Frame) -> Result<(), FfmpegError> {
        self.packet.fill(data, 0).map_err(|_| FfmpegError(ffi::AVERROR(ffi::ENOMEM)))?;
        // SAFETY: context, packet and frame are valid; the packet holds its data with the padding that decoders need.
        unsafe {
            let raw = self.raw.as_ptr();
            (*raw).err_recognition = ffi::AV_EF_EXPLODE as c_int;
            FfmpegError::check(ffi::avcodec_send_packet(raw, self.packet.0.as_ptr()))?;
            FfmpegError::check(ffi::avcodec_receive_frame(raw, frame.as_mut_ptr()))?;
        }
        Ok(())
    }

    fn set_limit(&mut self, max_pixels: usize) {
        self.limit.max_pixels.store(max_pixels, Relaxed);
        // FFmpeg compares widths rounded up to its alignment, so its own limit leaves room for that; the
        // exact one is `Limit::allows`'. dav1d compares the true size.
        // SAFETY: `codec_id` was set by avcodec_alloc_context3 to a value of this FFmpeg's own list.
        let is_dav1d = unsafe { (*self.raw.as_ptr()).codec_id } == ffi::AVCodecID::AV_CODEC_ID_AV1;
        let slack = if is_dav1d { 0 } else { max_pixels / 4 + 128 * 16384 };
        // SAFETY: the context is valid, and this field may be set between calls.
        unsafe { (*self.raw.as_ptr()).max_pixels = max_pixels.saturating_add(slack) as i64 };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: the context is ours and is not used again.
        unsafe { ffi::avcodec_free_context(&mut raw) };
    }
}

/// FFmpeg's own choice of pixel format, made before a decoder allocates its tables; refused when the
/// picture is over the limit.
unsafe extern "C" fn choose_format(
    context: *mut ffi::AVCodecContext,
    formats: *const ffi::AVPixelFormat,
) -> ffi::AVPixelFormat {
    // SAFETY: FFmpeg calls this from inside send/receive with its context and a list that ends in NONE.
    unsafe {
        if Limit::allows(context) {
            ffi::avcodec_default_get_format(context, formats)
        } else {
            ffi::AVPixelFormat::AV_PIX_FMT_NONE
        }
    }
}

/// FFmpeg's own allocation, refused when the picture is over the limit.
unsafe extern "C" fn allocate(
    context: *mut ffi::AVCodecContext,
    frame: *mut ffi::AVFrame,
    flags: c_int,
) -> c_int {
    // SAFETY: FFmpeg calls this from inside send/receive with its context and the frame to be filled.
    unsafe {
        if Limit::allows(context) {
            ffi::avcodec_default_get_buffer2(context, frame, flags)
        } else {
            ffi::AVERROR(ffi::EINVAL)
        }
    }
}

/// An owned `AVPacket`.
struct Packet(NonNull<ffi::AVPacket>);

impl Packet {
    fn new() -> Result<Self, CodecError> {
        // SAFETY: plain allocation; null is handled.
        let packet = unsafe { ffi::av_packet_alloc() };
        NonNull::new(packet).map(Self).ok_or(CodecError::OutOfMemory { what: "a packet" })
    }

    /// Replaces the contents by a copy of `data`, followed by the zeroed padding that decoders need; its picture will
    /// carry `number`.
    fn fill(&mut self, data: &[u8], number: i64) -> Result<(), CodecError> {
        let out_of_memory = CodecError::OutOfMemory { what: "a packet" };
        let Ok(length) = c_int::try_from(data.len()) else { return Err(out_of_memory) };
        let raw = self.0.as_ptr();
        // SAFETY: av_new_packet allocates `length` bytes and padding, so the copy fits; the source and the
        // new buffer do not overlap.
        unsafe {
            ffi::av_packet_unref(raw);
            if ffi::av_new_packet(raw, length) < 0 {
                return Err(out_of_memory);
            }
            ptr::copy_nonoverlapping(data.as_ptr(), (*raw).data, data.len());
            (*raw).pts = number;
        }
        Ok(())
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the packet is ours and is not used again.
        unsafe { ffi::av_packet_free(&mut raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units() {
        for (text, expected) in [
            ("cpu", Some(Unit::Processor)),
            ("nvdec", Some(Unit::Nvdec(0))),
            ("nvdec:2", Some(Unit::Nvdec(2))),
            ("nvdec:", None),
            ("nvdec:-1", None),
            ("nvdec2", None),
            ("gpu", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn where_nvdec_is_missing_the_processor_decodes() {
        for codec in [Codec::Vp8, Codec::H264] {
            assert!(Decoder::open_on(Unit::Nvdec(9), codec, 1).is_ok(), "{codec:?}");
        }
    }

    #[test]
    fn a_picture_that_comes_later_keeps_its_own_time() {
        let mut decoder = Decoder::open(Codec::Vp8, 1).unwrap();
        let start = Instant::now();
        let arrived = |number: u32| start + std::time::Duration::from_millis(number.into());
        for number in 1..=3 {
            decoder.sent.push_back((number.into(), 3000 * number, arrived(number)));
        }
        let newest = EncodedFrame {
            codec: Codec::Vp8,
            data: Default::default(),
            rtp_timestamp: 9000,
            is_key: false,
            received: arrived(3),
        };
        assert_eq!(decoder.origin(2, &newest), (6000, arrived(2)));
        assert_eq!(decoder.origin(3, &newest), (9000, arrived(3)));
        assert_eq!(decoder.origin(ffi::AV_NOPTS_VALUE, &newest), (9000, arrived(3)));
        assert!(decoder.sent.is_empty());
    }
}
