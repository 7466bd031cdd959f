//! Planes of a picture at the sizes that are asked for.
//!
//! A plane is halved for as long as it is at least twice as large as it has to be, which OpenCV does at
//! the speed of memory, and interpolated from there. What was halved for one model serves the next.

use std::marker::PhantomData;

use opencv::core::{CV_8UC1, Mat, Size};
use opencv::imgproc::{self, INTER_AREA, INTER_LINEAR};

use super::{ImgError, Region, checked_planes, failed, keep_to_one_thread};
use crate::frame::{Picture, Plane};

/// The buffers of a [`Source`], to be used again for the next picture.
#[derive(Default)]
pub struct Halves {
    /// By plane: at a half, a quarter and so on.
    halved: [Vec<Mat>; 3],
    /// By plane: at the size that was asked for last.
    sized: [Mat; 3],
}

/// A picture from which several sizes are made.
pub struct Source<'a> {
    planes: [View<'a>; 3],
    /// By plane: how many of the halves are this picture's.
    valid: [usize; 3],
    halves: &'a mut Halves,
}

impl<'a> Source<'a> {
    /// # Errors
    /// [`ImgError`] when the picture is too large or its planes do not fit its size.
    pub fn new(picture: &'a Picture, halves: &'a mut Halves) -> Result<Self, ImgError> {
        keep_to_one_thread();
        let [y, u, v] = &checked_planes(picture)?;
        let view = |plane| View::new(plane, whole(plane));
        Ok(Self { planes: [view(y)?, view(u)?, view(v)?], valid: [0; 3], halves })
    }

    /// Pixels.
    pub fn width(&self) -> usize {
        self.planes[0].width
    }

    /// Pixels.
    pub fn height(&self) -> usize {
        self.planes[0].height
    }

    /// All three planes at `width` × `height`.
    pub(super) fn planes(&mut self, width: usize, height: usize) -> Result<[&Mat; 3], ImgError> {
        let levels =
            [self.make(0, width, height)?, self.make(1, width, height)?, self.make(2, width, height)?];
        let made = |index: usize| match levels[index] {
            Level::Whole => self.planes[index].mat(),
            Level::Halved(level) => &self.halves.halved[index][level],
            Level::Sized => &self.halves.sized[index],
        };
        Ok([made(0), made(1), made(2)])
    }

    fn make(&mut self, index: usize, width: usize, height: usize) -> Result<Level, ImgError> {
        let view = &self.planes[index];
        let Halves { halved, sized } = &mut *self.halves;
        let (halved, sized) = (&mut halved[index], &mut sized[index]);
        let mut size = (view.width, view.height);
        let mut level = 0;
        // An odd side has a column or row that would get lost.
        let is_even = |size: (usize, usize)| size.0.is_multiple_of(2) && size.1.is_multiple_of(2);
        while size.0 >= 2 * width && size.1 >= 2 * height && is_even(size) {
            size = (size.0 / 2, size.1 / 2);
            if level == self.valid[index] {
                if level == halved.len() {
                    halved.push(Mat::default());
                }
                let (done, next) = halved.split_at_mut(level);
                resize(done.last().unwrap_or(view.mat()), size, INTER_AREA, &mut next[0])?;
                self.valid[index] += 1;
            }
            level += 1;
        }
        if size == (width, height) {
            return Ok(level.checked_sub(1).map_or(Level::Whole, Level::Halved));
        }
        let from = level.checked_sub(1).map_or(view.mat(), |level| &halved[level]);
        resize(from, (width, height), method(size, (width, height)), sized)?;
        Ok(Level::Sized)
    }
}

/// Where a plane of some size is.
#[derive(Clone, Copy)]
enum Level {
    Whole,
    Halved(usize),
    Sized,
}

/// OpenCV's view of a part of a plane, for reading only.
pub(super) struct View<'a> {
    mat: Mat,
    width: usize,
    height: usize,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> View<'a> {
    pub fn new(plane: &Plane<'a>, part: Region) -> Result<Self, ImgError> {
        let Region { x, y, width, height } = part;
        let data = plane.data.get(y * plane.stride + x..).unwrap_or_default();
        let is_inside = width > 0 && height > 0 && x + width <= plane.width && y + height <= plane.height;
        if !is_inside || data.len() < plane.stride * (height - 1) + width {
            return Err(ImgError::Size { what: "view", width, height });
        }
        // SAFETY: `data` holds `height` rows of `width` bytes, `stride` apart, as just checked, and
        // outlives the view, which borrows it. OpenCV takes a mutable pointer but every use here is as
        // an input array, which it only reads.
        let mat = unsafe {
            let data = data.as_ptr().cast_mut().cast();
            Mat::new_rows_cols_with_data_unsafe(height as i32, width as i32, CV_8UC1, data, plane.stride)
        };
        Ok(Self { mat: mat.map_err(failed("view a plane"))?, width, height, borrowed: PhantomData })
    }

    pub fn mat(&self) -> &Mat {
        &self.mat
    }
}

pub(super) fn whole(plane: &Plane<'_>) -> Region {
    Region { x: 0, y: 0, width: plane.width, height: plane.height }
}

/// Brings a part of a plane to `width` × `height` in one step.
pub(super) fn resize_part(
    plane: &Plane<'_>,
    part: Region,
    width: usize,
    height: usize,
    to: &mut Mat,
) -> Result<(), ImgError> {
    let source = View::new(plane, part)?;
    resize(&source.mat, (width, height), method((part.width, part.height), (width, height)), to)
}

/// Bilinear reads four pixels; beyond a factor of two it skips some, and edges flicker.
fn method(from: (usize, usize), to: (usize, usize)) -> i32 {
    if from.0 > 2 * to.0 || from.1 > 2 * to.1 { INTER_AREA } else { INTER_LINEAR }
}

fn resize(from: &Mat, (width, height): (usize, usize), method: i32, to: &mut Mat) -> Result<(), ImgError> {
    imgproc::resize(from, to, Size::new(width as i32, height as i32), 0.0, 0.0, method)
        .map_err(failed("resize a plane"))
}
