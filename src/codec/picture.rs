//! An FFmpeg frame that vigie owns, and its planes as a [`Picture`](crate::frame::Picture) sees them.
//!
//! The pixels are FFmpeg's reference-counted buffers: a picture that leaves the decoder is not copied,
//! and its memory returns to the decoder's pool when the last clone is dropped.

use std::ffi::c_int;
use std::ptr::NonNull;

use ffmpeg_sys_next as ffi;

use super::{CodecError, FfmpegError};
use crate::frame::{Plane, Planes};

pub(super) const I420: c_int = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;

/// An owned `AVFrame`.
///
/// Its enum fields are read as integers: libdav1d stores what the stream says without checking it
/// against FFmpeg's list, and a Rust enum must never hold such a value.
pub(super) struct Frame(NonNull<ffi::AVFrame>);

// SAFETY: an AVFrame has no thread affinity, and its buffers' reference counts are atomic.
unsafe impl Send for Frame {}
// SAFETY: a shared `Frame` is only read from; every change takes `&mut`.
unsafe impl Sync for Frame {}

impl Frame {
    /// An empty frame, with no pixels.
    pub fn empty() -> Result<Self, CodecError> {
        // SAFETY: plain allocation; null is handled.
        let frame = unsafe { ffi::av_frame_alloc() };
        NonNull::new(frame).map(Self).ok_or(CodecError::OutOfMemory { what: "a frame" })
    }

    /// A writable I420 frame with padded rows.
    pub fn i420(width: c_int, height: c_int) -> Result<Self, CodecError> {
        let mut frame = Self::empty()?;
        let raw = frame.as_mut_ptr();
        // SAFETY: the frame is ours and has no buffers yet, as av_frame_get_buffer asks.
        let code = unsafe {
            (*raw).width = width;
            (*raw).height = height;
            (*raw).format = I420;
            ffi::av_frame_get_buffer(raw, 0)
        };
        FfmpegError::check(code).map_err(|_| CodecError::OutOfMemory { what: "a picture" })?;
        Ok(frame)
    }

    pub fn as_ptr(&self) -> *const ffi::AVFrame {
        self.0.as_ptr()
    }

    pub fn as_mut_ptr(&mut self) -> *mut ffi::AVFrame {
        self.0.as_ptr()
    }

    /// Takes what `self` refers to, leaving `self` empty.
    pub fn take(&mut self) -> Result<Self, CodecError> {
        let mut taken = Self::empty()?;
        // SAFETY: both are valid frames, and the destination is empty.
        unsafe { ffi::av_frame_move_ref(taken.as_mut_ptr(), self.as_mut_ptr()) };
        Ok(taken)
    }

    /// Width and height in pixels, after cropping.
    pub fn size(&self) -> (c_int, c_int) {
        // SAFETY: the pointer is valid while `self` lives.
        unsafe { ((*self.as_ptr()).width, (*self.as_ptr()).height) }
    }

    /// The number of the packet that it was decoded from, if that had one.
    pub fn number(&self) -> i64 {
        // SAFETY: as in `size`.
        unsafe { (*self.as_ptr()).pts }
    }

    /// An `AVPixelFormat`, as a number.
    pub fn format(&self) -> c_int {
        // SAFETY: as in `size`.
        unsafe { (*self.as_ptr()).format }
    }

    /// `AVColorSpace` and `AVColorRange`, as numbers.
    pub fn colour(&self) -> (c_int, c_int) {
        // SAFETY: both fields are C enums, which have the size of an int here; no Rust enum is made.
        unsafe {
            (
                (&raw const (*self.as_ptr()).colorspace).cast::<c_int>().read(),
                (&raw const (*self.as_ptr()).color_range).cast::<c_int>().read(),
            )
        }
    }

    /// Whether the decoder filled in what it could not read.
    pub fn is_damaged(&self) -> bool {
        // SAFETY: as in `size`.
        unsafe {
            (*self.as_ptr()).decode_error_flags != 0
                || (*self.as_ptr()).flags & ffi::AV_FRAME_FLAG_CORRUPT != 0
        }
    }

    /// A row of plane `index`, for writing. The frame must be one of [`i420`](Self::i420)'s, or a pool's.
    pub fn row_mut(&mut self, index: usize, row: usize) -> &mut [u8] {
        let (width, height) = self.plane_size(index);
        assert!(self.format() == I420 && row < height, "a row of an I420 plane");
        // SAFETY: av_frame_get_buffer, or the pool, made each plane at least `linesize * height` bytes, linesize at
        // least the plane's width; the buffer is ours alone while it is written (no reference was given away).
        unsafe {
            let data = (*self.as_ptr()).data[index];
            let stride = (*self.as_ptr()).linesize[index] as usize;
            std::slice::from_raw_parts_mut(data.add(row * stride), width)
        }
    }

    /// A row of plane `index`. The frame must be one of [`i420`](Self::i420)'s, or a pool's.
    pub fn row(&self, index: usize, row: usize) -> &[u8] {
        let (width, height) = self.plane_size(index);
        assert!(self.format() == I420 && index < 3 && row < height, "a row of an I420 plane");
        // SAFETY: as in `row_mut`; nobody writes while `self` is borrowed.
        unsafe {
            let data = (*self.as_ptr()).data[index];
            let stride = (*self.as_ptr()).linesize[index] as usize;
            std::slice::from_raw_parts(data.add(row * stride), width)
        }
    }

    fn plane_size(&self, index: usize) -> (usize, usize) {
        let (width, height) = self.size();
        let (width, height) = (width as usize, height as usize);
        if index == 0 { (width, height) } else { (width.div_ceil(2), height.div_ceil(2)) }
    }

    /// Fixes the frame as the storage of a picture; an error when it is not 8-bit 4:2:0 in three planes.
    pub fn into_planes(self) -> Result<FramePlanes, CodecError> {
        let format = self.format();
        let (width, height) = self.size();
        let sound = width > 0
            && height > 0
            && (0..3).all(|index| {
                let (plane_width, _) = self.plane_size(index);
                // SAFETY: as in `size`.
                let (data, stride) =
                    unsafe { ((*self.as_ptr()).data[index], (*self.as_ptr()).linesize[index]) };
                !data.is_null() && stride >= plane_width as c_int
            });
        // yuvj420p has the same layout: its range was dealt with before.
        let layout_known = format == I420 || format == ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int;
        if sound && layout_known { Ok(FramePlanes(self)) } else { Err(CodecError::PixelFormat { format }) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the frame is ours and is not used again.
        unsafe { ffi::av_frame_free(&mut raw) };
    }
}

/// A checked 8-bit 4:2:0 frame, immutable from here on.
pub(super) struct FramePlanes(Frame);

impl Planes for FramePlanes {
    fn plane(&self, index: usize) -> Plane<'_> {
        assert!(index < 3, "an I420 picture has three planes");
        let (width, height) = self.0.plane_size(index);
        // SAFETY: `into_planes` checked that the plane exists and that a row fits its stride; FFmpeg's
        // buffers hold `stride` bytes for every row but the last, which holds at least `width`. They
        // live as long as the frame and are no longer written: decoders only read their references.
        unsafe {
            let raw = self.0.as_ptr();
            let stride = (*raw).linesize[index] as usize;
            let data = std::slice::from_raw_parts((*raw).data[index], stride * (height - 1) + width);
            Plane { data, stride, width, height }
        }
    }
}
