//! NVDEC, the decoding unit of NVIDIA's GPUs: FFmpeg's own decoders read the stream, the unit makes the pictures.
//!
//! So a picture comes with its frame, and what the unit cannot decode the processor does, in the same decoder. All
//! decoders of a GPU share one context: ONNX Runtime's, where they are first to ask for it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use ffmpeg_sys_next as ffi;

use super::encoder::Dictionary;
use super::picture::Frame;
use super::{CodecError, FfmpegError, log};

const CUDA: c_int = ffi::AVPixelFormat::AV_PIX_FMT_CUDA as c_int;

/// A GPU, as its decoders are given it; an owned reference.
pub(super) struct Device(NonNull<ffi::AVBufferRef>);

// SAFETY: FFmpeg's buffer references are counted atomically, and the context behind this one has locks of its own.
unsafe impl Send for Device {}

/// The GPUs that were asked for, `None` for those that could not be had: a driver does not appear while we run.
static DEVICES: Mutex<BTreeMap<u16, Option<Device>>> = Mutex::new(BTreeMap::new());

impl Device {
    /// The GPU of this index, or `None` where it does not decode, which is logged once.
    pub fn of(gpu: u16) -> Option<Self> {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || match Self::open(gpu) {
            Ok(device) => Some(device),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, gpu, "NVDEC cannot be used: the processor decodes");
                None
            }
        };
        devices.entry(gpu).or_insert_with(open).as_ref()?.share()
    }

    fn open(gpu: u16) -> Result<Self, CodecError> {
        log::install();
        // The primary context cannot be had once somebody else uses it in another way.
        Self::open_in(c"1", gpu).or_else(|_| Self::open_in(c"0", gpu))
    }

    fn open_in(is_primary: &CStr, gpu: u16) -> Result<Self, CodecError> {
        let mut options = Dictionary::default();
        options.set(c"primary_ctx", is_primary);
        let index = CString::new(gpu.to_string()).expect("a number has no zero bytes");
        let mut device = ptr::null_mut();
        // SAFETY: all pointers are to live values of ours; on success `device` is a reference that we own.
        let code = unsafe {
            let kind = ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA;
            ffi::av_hwdevice_ctx_create(&mut device, kind, index.as_ptr(), *options.as_mut(), 0)
        };
        FfmpegError::check(code).map_err(|source| CodecError::Open { name: "NVDEC", source })?;
        NonNull::new(device).map(Self).ok_or(CodecError::OutOfMemory { what: "a GPU's context" })
    }

    /// One more reference.
    fn share(&self) -> Option<Self> {
        // SAFETY: the reference is valid; null, for want of memory, is handled.
        NonNull::new(unsafe { ffi::av_buffer_ref(self.0.as_ptr()) }).map(Self)
    }

    /// Gives the reference away, to what frees it.
    pub fn into_raw(self) -> *mut ffi::AVBufferRef {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the reference is ours and is not used again.
        unsafe { ffi::av_buffer_unref(&mut raw) };
    }
}

/// Brings pictures to where the processor finds them, into the same memory again and again.
pub(super) struct Fetcher(Frame);

impl Fetcher {
    pub fn new() -> Result<Self, CodecError> {
        Frame::empty().map(Self)
    }

    /// The frame where the processor finds it; itself, where it is there already.
    pub fn fetch(&mut self, mut frame: Frame) -> Result<Frame, FfmpegError> {
        if frame.format() != CUDA {
            return Ok(frame);
        }
        let (_, height) = frame.size();
        // The transfer rounds the rows of chroma down; the unit's own surfaces have them all.
        // SAFETY: the frame is ours, and its surface is of an even height.
        unsafe { (*frame.as_mut_ptr()).height = height + height % 2 };
        let kept = self.0.as_mut_ptr();
        let mut fetched = Frame::empty().map_err(|_| FfmpegError(ffi::AVERROR(ffi::ENOMEM)))?;
        // SAFETY: all are valid frames. What is written is nobody else's, or was never filled: then the transfer gives
        // the frame buffers of its own. The properties go to the other frame, since they would pile up in one.
        unsafe {
            if shape_of(&frame) != (self.0.size(), self.0.format()) || ffi::av_frame_is_writable(kept) == 0 {
                ffi::av_frame_unref(kept);
            }
            FfmpegError::check(ffi::av_hwframe_transfer_data(kept, frame.as_ptr(), 0))?;
            FfmpegError::check(ffi::av_frame_ref(fetched.as_mut_ptr(), kept))?;
            FfmpegError::check(ffi::av_frame_copy_props(fetched.as_mut_ptr(), frame.as_ptr()))?;
            (*fetched.as_mut_ptr()).height = height;
        }
        Ok(fetched)
    }
}

/// Size and `AVPixelFormat` that a frame on a GPU has on the processor; no format where it does not say.
fn shape_of(frame: &Frame) -> ((c_int, c_int), c_int) {
    // SAFETY: a frame of a GPU refers to the set that it is of; the format is read as a number, no Rust enum is made.
    let format = unsafe {
        let set = (*frame.as_ptr()).hw_frames_ctx;
        match set.is_null() {
            true => ffi::AVPixelFormat::AV_PIX_FMT_NONE as c_int,
            false => {
                let set = (*set).data.cast::<ffi::AVHWFramesContext>();
                (&raw const (*set).sw_format).cast::<c_int>().read()
            }
        }
    };
    (frame.size(), format)
}
