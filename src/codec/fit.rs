//! Brings a picture of another size to that of its file: scaled with its shape kept, on black.
//!
//! Broadcasts and recordings of meetings change their size on the way; the annotated file cannot.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_sys_next as ffi;

use super::picture::Frame;
use super::{CodecError, FfmpegError};

/// Black, by plane.
const BLACK: [u8; 3] = [16, 128, 128];

/// Scales I420 frames, keeping swscale's context from one to the next.
#[derive(Default)]
pub(super) struct Fitter {
    scaler: Option<NonNull<ffi::SwsContext>>,
}

// SAFETY: a SwsContext has no thread affinity and is used through `&mut` only.
unsafe impl Send for Fitter {}

impl Fitter {
    /// A copy of `frame`, which is I420, as large as fits into `size` and in its middle.
    pub fn fit(&mut self, frame: &Frame, size: (usize, usize)) -> Result<Frame, CodecError> {
        let (width, height) = frame.size();
        let inner = inner_size((width.max(1) as usize, height.max(1) as usize), size);
        let scaled = self.scale(frame, inner)?;
        let mut canvas = Frame::i420(size.0 as c_int, size.1 as c_int)?;
        // Chroma samples begin on even pixels.
        let (left, top) = (((size.0 - inner.0) / 2) & !1, ((size.1 - inner.1) / 2) & !1);
        for (index, black) in BLACK.into_iter().enumerate() {
            let halved = |side: usize| if index == 0 { side } else { side.div_ceil(2) };
            let (left, top, width, height) = (halved(left), halved(top), halved(inner.0), halved(inner.1));
            for row in 0..halved(size.1) {
                let to = canvas.row_mut(index, row);
                to.fill(black);
                if (top..top + height).contains(&row) {
                    to[left..left + width].copy_from_slice(scaled.row(index, row - top));
                }
            }
        }
        Ok(canvas)
    }

    fn scale(&mut self, frame: &Frame, (to_width, to_height): (usize, usize)) -> Result<Frame, CodecError> {
        let (width, height) = frame.size();
        let (to_width, to_height) = (to_width as c_int, to_height as c_int);
        let mut output = Frame::i420(to_width, to_height)?;
        let format = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
        let old = self.scaler.take().map_or(ptr::null_mut(), NonNull::as_ptr);
        let flags = ffi::SWS_BILINEAR | ffi::SWS_ACCURATE_RND;
        let none = ptr::null_mut();
        // SAFETY: `old` is ours or null; swscale frees it when it does not fit and returns a context for
        // these sizes, or null.
        let scaler = NonNull::new(unsafe {
            ffi::sws_getCachedContext(
                old,
                width,
                height,
                format,
                to_width,
                to_height,
                format,
                flags,
                none,
                none,
                ptr::null(),
            )
        });
        self.scaler = scaler;
        let scaler = scaler.ok_or(CodecError::OutOfMemory { what: "scaling a picture" })?;
        let raw = output.as_mut_ptr();
        // SAFETY: the context was made for these sizes; both frames have three planes of 8 bits, valid for
        // as many rows as their sizes say. The plane arrays are passed by pointer and only read.
        let code = unsafe {
            ffi::sws_scale(
                scaler.as_ptr(),
                (&raw const (*frame.as_ptr()).data).cast(),
                (&raw const (*frame.as_ptr()).linesize).cast(),
                0,
                height,
                (&raw const (*raw).data).cast(),
                (&raw const (*raw).linesize).cast(),
            )
        };
        FfmpegError::check(code).map_err(|source| CodecError::Convert { source })?;
        Ok(output)
    }
}

impl Drop for Fitter {
    fn drop(&mut self) {
        if let Some(scaler) = self.scaler {
            // SAFETY: the context is ours and is not used again.
            unsafe { ffi::sws_freeContext(scaler.as_ptr()) };
        }
    }
}

/// The largest size of the same shape as `from` within `to`: a full side, and an even one.
fn inner_size(from: (usize, usize), to: (usize, usize)) -> (usize, usize) {
    // Compared crosswise: from.0 / from.1 with to.0 / to.1.
    let even = |side: usize, limit: usize| (side.next_multiple_of(2).max(2)).min(limit);
    if from.0 * to.1 >= from.1 * to.0 {
        (to.0, even(from.1 * to.0 / from.0, to.1))
    } else {
        (even(from.0 * to.1 / from.1, to.0), to.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_kept_within_the_size() {
        for (from, to, expected) in [
            ((640, 480), (320, 240), (320, 240)),
            ((640, 360), (320, 240), (320, 180)),
            ((360, 640), (320, 240), (136, 240)),
            ((301, 257), (301, 257), (301, 257)),
            ((16000, 2), (320, 240), (320, 2)),
            ((2, 16000), (321, 241), (2, 241)),
            ((1, 1), (1, 1), (1, 1)),
            ((640, 480), (1, 1), (1, 1)),
        ] {
            assert_eq!(inner_size(from, to), expected, "{from:?} in {to:?}");
        }
    }

    #[test]
    fn a_smaller_picture_stands_in_the_middle() {
        let mut frame = Frame::i420(4, 8).expect("memory");
        for (index, value) in [200, 90, 160].into_iter().enumerate() {
            (0..if index == 0 { 8 } else { 4 }).for_each(|row| frame.row_mut(index, row).fill(value));
        }
        let fitted = Fitter::default().fit(&frame, (17, 8)).expect("it fits");
        assert_eq!(fitted.size(), (17, 8));
        for row in 0..8 {
            let line = fitted.row(0, row);
            assert_eq!((line[5], line[6], line[9], line[10]), (16, 200, 200, 16), "{line:?}");
        }
        assert_eq!(fitted.row(1, 0), [128, 128, 128, 90, 90, 128, 128, 128, 128]);
        assert_eq!(fitted.row(2, 3), [128, 128, 128, 160, 160, 128, 128, 128, 128]);
    }
}
