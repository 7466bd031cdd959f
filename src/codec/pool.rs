//! Memory for converted pictures, which comes back when the last clone of a picture is dropped.
//!
//! A new picture of some megabytes takes longer to come by than to fill: the system clears its pages one by one, and
//! takes them back afterwards, from all threads of the process in turn.

use std::ffi::c_int;
use std::ptr::NonNull;

use ffmpeg_sys_next as ffi;

use super::CodecError;
use super::picture::{Frame, I420};

/// What rows are a multiple of, so that swscale's widest instructions fit.
const ALIGNMENT: usize = 64;

/// Frames of the size that was asked for last.
#[derive(Default)]
pub(super) struct Pool(Option<Buffers>);

impl Pool {
    /// A writable I420 frame with padded rows.
    pub fn i420(&mut self, width: c_int, height: c_int) -> Result<Frame, CodecError> {
        let buffers = match self.0.take() {
            Some(buffers) if buffers.size == (width, height) => buffers,
            _ => Buffers::new(width, height)?,
        };
        self.0.insert(buffers).frame()
    }
}

/// Buffers for one size of picture; those in use outlive it.
struct Buffers {
    size: (c_int, c_int),
    /// Of each plane, in bytes.
    strides: [usize; 3],
    offsets: [usize; 3],
    pool: NonNull<ffi::AVBufferPool>,
}

// SAFETY: a buffer pool has a lock of its own.
unsafe impl Send for Buffers {}

impl Buffers {
    fn new(width: c_int, height: c_int) -> Result<Self, CodecError> {
        let out_of_memory = || CodecError::OutOfMemory { what: "a picture" };
        let whole = |side: c_int| usize::try_from(side).ok().filter(|&side| side > 0);
        let (Some(columns), Some(rows)) = (whole(width), whole(height)) else { return Err(out_of_memory()) };
        let halved = (columns.div_ceil(2), rows.div_ceil(2));
        let planes = [(columns, rows), halved, halved];
        let strides = planes.map(|(columns, _)| columns.next_multiple_of(ALIGNMENT));
        let mut length = 0;
        let mut offsets = [0; 3];
        for ((offset, stride), (_, rows)) in offsets.iter_mut().zip(strides).zip(planes) {
            *offset = length;
            // One row more than there is: what is written past a plane's last row is not the next plane's.
            length += stride * (rows + 1);
        }
        // SAFETY: plain allocation with FFmpeg's own allocator; null is handled.
        let pool = unsafe { ffi::av_buffer_pool_init(length, None) };
        let pool = NonNull::new(pool).ok_or_else(out_of_memory)?;
        Ok(Self { size: (width, height), strides, offsets, pool })
    }

    fn frame(&self) -> Result<Frame, CodecError> {
        let mut frame = Frame::empty()?;
        let raw = frame.as_mut_ptr();
        // SAFETY: the pool is valid; null is handled. The frame is ours and empty, and takes over the one reference to
        // the buffer, which holds all three planes, as `new` laid them out.
        unsafe {
            let buffer = ffi::av_buffer_pool_get(self.pool.as_ptr());
            if buffer.is_null() {
                return Err(CodecError::OutOfMemory { what: "a picture" });
            }
            (*raw).buf[0] = buffer;
            (*raw).format = I420;
            ((*raw).width, (*raw).height) = self.size;
            for (index, (stride, offset)) in self.strides.into_iter().zip(self.offsets).enumerate() {
                (*raw).data[index] = (*buffer).data.add(offset);
                (*raw).linesize[index] = stride as c_int;
            }
        }
        Ok(frame)
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let mut raw = self.pool.as_ptr();
        // SAFETY: the pool is ours and is not used again; FFmpeg frees it with the last of its buffers.
        unsafe { ffi::av_buffer_pool_uninit(&mut raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luma(frame: &Frame) -> *const u8 {
        frame.row(0, 0).as_ptr()
    }

    #[test]
    fn memory_comes_back_and_is_nobody_elses_until_then() {
        let mut pool = Pool::default();
        let first = pool.i420(640, 360).unwrap();
        let second = pool.i420(640, 360).unwrap();
        let (at, other) = (luma(&first), luma(&second));
        assert_ne!(at, other);
        drop(first);
        let third = pool.i420(640, 360).unwrap();
        assert_eq!(luma(&third), at);
        // Another size leaves what is in use as it is.
        let large = pool.i420(1280, 720).unwrap();
        assert_eq!((large.size(), third.size()), ((1280, 720), (640, 360)));
        drop(pool);
        assert_eq!(luma(&third), at);
    }

    #[test]
    fn rows_lie_apart_for_any_size() {
        for (width, height) in [(1, 1), (3, 5), (64, 64), (65, 2), (1921, 1081)] {
            let mut frame = Pool::default().i420(width, height).unwrap();
            let rows = |index: usize| if index == 0 { height } else { (height + 1) / 2 } as usize;
            for index in 0..3 {
                (0..rows(index))
                    .for_each(|row| frame.row_mut(index, row).fill((16 * index + row % 16) as u8));
            }
            for index in 0..3 {
                for row in 0..rows(index) {
                    let expected = (16 * index + row % 16) as u8;
                    assert!(frame.row(index, row).iter().all(|&value| value == expected), "{width}x{height}");
                }
            }
        }
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        for (width, height) in [(0, 4), (4, 0), (-1, 4)] {
            assert!(matches!(Pool::default().i420(width, height), Err(CodecError::OutOfMemory { .. })));
        }
    }
}
