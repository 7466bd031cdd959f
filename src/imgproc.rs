//! Pixel work through OpenCV; the only file that names it.
//!
//! Turns pictures into the RGB bytes that models read ([`letterbox`], [`crop`]), and into smaller
//! pictures ([`shrink`]), and finds what is bright in a map ([`bright_regions`]). It knows neither models nor
//! detections: callers say where.
//!
//! Pictures are resized as planes and only the small result is converted to RGB, which costs a
//! fraction of converting the whole picture first. How planes come to their size, [`sizes`] knows.

mod regions;
mod sizes;

use std::sync::Once;

use opencv::core::{self, BORDER_CONSTANT, CV_8UC1, Mat, MatTraitConst, MatTraitConstManual, Scalar, Size};
use opencv::imgproc::{self, INTER_LINEAR, WARP_INVERSE_MAP};

pub use self::regions::bright_regions;
pub use self::sizes::{Halves, Source};

use self::sizes::{View, resize_part, whole};
use crate::frame::{BBox, I420Buffer, Picture, Plane, Point};

/// Pixels: OpenCV's warp counts source positions in 16 bits.
const MAX_SIDE: usize = 32_000;
/// I420's black and its absence of colour, by plane.
const BLACK: [u8; 3] = [16, 128, 128];

/// Why pixels could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum ImgError {
    #[error("picture of {width}x{height} pixels has a plane {index} that does not fit it")]
    Planes { width: usize, height: usize, index: usize },
    #[error("{what} of {width}x{height} pixels is empty, too large, or beside its buffer")]
    Size { what: &'static str, width: usize, height: usize },
    #[error("rectangle of {width}x{height} at ({x}, {y}) is not a place in a picture")]
    Rectangle { x: f32, y: f32, width: f32, height: f32 },
    #[error("opencv failed to {operation}")]
    OpenCv {
        operation: &'static str,
        #[source]
        source: opencv::Error,
    },
}

fn failed(operation: &'static str) -> impl FnOnce(opencv::Error) -> ImgError {
    move |source| ImgError::OpenCv { operation, source }
}

/// A part of a canvas, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

/// Scales a picture into `content` of a `width` × `height` RGB canvas (`[height, width, 3]`, row-major)
/// and fills the rest with `fill`.
///
/// Converts BT.601 limited range. Shrinks by two and more average all source pixels, others interpolate.
///
/// # Errors
/// [`ImgError::Size`] when `rgb` is not exactly the canvas or `content` is empty or sticks out.
pub fn letterbox(
    source: &mut Source<'_>,
    (width, height): (usize, usize),
    content: Region,
    fill: u8,
    rgb: &mut [u8],
) -> Result<(), ImgError> {
    check_canvas((width, height), content, rgb)?;
    if (content.width, content.height) != (width, height) {
        rgb.fill(fill);
    }
    let [y, u, v] = source.planes(content.width, content.height)?;
    let target = RgbTarget { rgb, stride: width * 3, left: content.x * 3, top: content.y };
    target.convert(y, u, v)
}

/// Copies `picture` onto `canvas` at a `divisor`-th of its width and height, rounded down to even.
///
/// # Errors
/// [`ImgError::Size`] when nothing is left of it.
pub fn shrink(picture: &Picture, divisor: usize, canvas: &mut I420Buffer) -> Result<(), ImgError> {
    keep_to_one_thread();
    let even = |side: usize| (side / divisor.max(1)) & !1;
    let (width, height) = (even(picture.width), even(picture.height));
    if width == 0 || height == 0 {
        return Err(ImgError::Size { what: "shrunken picture", width, height });
    }
    if (canvas.width, canvas.height) != (width, height) {
        *canvas = I420Buffer::black(width, height);
    }
    for (index, plane) in checked_planes(picture)?.iter().enumerate() {
        let (rows, width, height) = canvas.plane_mut(index);
        let mut small = Mat::default();
        resize_part(plane, whole(plane), width, height, &mut small)?;
        rows.copy_from_slice(small.data_bytes().map_err(failed("read a shrunken plane"))?);
    }
    Ok(())
}

/// A rectangle anywhere in a picture, turned about its centre.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rectangle {
    /// Picture pixels.
    pub centre: Point,
    /// Picture pixels, above 0, along the rectangle's own axes.
    pub width: f32,
    pub height: f32,
    /// Radians from the picture's x axis to the rectangle's, clockwise on the screen.
    pub angle: f32,
}

impl Rectangle {
    /// The upright box around it.
    pub fn bbox(&self) -> BBox {
        let (sin, cos) = (self.angle.sin().abs(), self.angle.cos().abs());
        let (w, h) = (self.width * cos + self.height * sin, self.width * sin + self.height * cos);
        BBox { x: self.centre.x - w / 2.0, y: self.centre.y - h / 2.0, w, h }
    }

    /// Where in a chroma plane the chroma lies of a crop of this place: a sample for each two pixels of its `width` and
    /// `height`, the last of an odd side reaching beyond the place.
    fn of_halved_chroma(&self, (width, height): (usize, usize)) -> Self {
        let reach = |side: usize| side.next_multiple_of(2) as f32 / side as f32;
        let (across, down) = (self.width * reach(width), self.height * reach(height));
        let (right, below) = ((across - self.width) / 2.0, (down - self.height) / 2.0);
        let (sin, cos) = self.angle.sin_cos();
        let x = self.centre.x + right * cos - below * sin;
        let y = self.centre.y + right * sin + below * cos;
        Self {
            centre: Point { x: x / 2.0, y: y / 2.0 },
            width: across / 2.0,
            height: down / 2.0,
            angle: self.angle,
        }
    }
}

impl From<BBox> for Rectangle {
    fn from(bbox: BBox) -> Self {
        let centre = Point { x: bbox.x + bbox.w / 2.0, y: bbox.y + bbox.h / 2.0 };
        Self { centre, width: bbox.w, height: bbox.h, angle: 0.0 }
    }
}

/// Cuts `place` out of `picture` into `content` of a `width` × `height` RGB canvas (`[height, width, 3]`), turned
/// level and stretched, and fills the rest with `fill`; black outside the picture.
///
/// # Errors
/// [`ImgError::Rectangle`] when the place is not finite or empty, [`ImgError::Size`] when `rgb` is not exactly
/// the canvas or `content` is empty or sticks out.
pub fn crop(
    picture: &Picture,
    place: &Rectangle,
    (width, height): (usize, usize),
    content: Region,
    fill: u8,
    rgb: &mut [u8],
) -> Result<(), ImgError> {
    keep_to_one_thread();
    check_canvas((width, height), content, rgb)?;
    let Rectangle { centre: Point { x, y }, width: across, height: down, angle } = *place;
    let is_place = [x, y, across, down, angle].iter().all(|value| value.abs() < 1e6);
    if !is_place || across <= 0.0 || down <= 0.0 {
        return Err(ImgError::Rectangle { x, y, width: across, height: down });
    }
    let [luma, blue, red] = checked_planes(picture)?;
    let halves = (content.width.div_ceil(2), content.height.div_ceil(2));
    let chroma_place = place.of_halved_chroma((content.width, content.height));
    let y = warp(&luma, place, (content.width, content.height), BLACK[0])?;
    let u = warp(&blue, &chroma_place, halves, BLACK[1])?;
    let v = warp(&red, &chroma_place, halves, BLACK[2])?;
    if (content.width, content.height) != (width, height) {
        rgb.fill(fill);
    }
    RgbTarget { rgb, stride: width * 3, left: content.x * 3, top: content.y }.convert(&y, &u, &v)
}

/// Whether `content` lies in a canvas that `rgb` holds exactly.
fn check_canvas((width, height): (usize, usize), content: Region, rgb: &[u8]) -> Result<(), ImgError> {
    let fits = content.x + content.width <= width && content.y + content.height <= height;
    let is_usable = content.width > 0 && content.height > 0 && width <= MAX_SIDE && height <= MAX_SIDE;
    match fits && is_usable && rgb.len() == width * height * 3 {
        true => Ok(()),
        false => Err(ImgError::Size { what: "canvas", width, height }),
    }
}

/// Every caller has a thread of its own; OpenCV's pool would fight with media and lanes for the cores.
fn keep_to_one_thread() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = core::set_num_threads(1) {
            tracing::warn!(%error, "opencv keeps its own threads");
        }
    });
}

/// The planes of `picture`, known to hold as many rows and columns as its size asks for.
fn checked_planes(picture: &Picture) -> Result<[Plane<'_>; 3], ImgError> {
    let Picture { width, height, .. } = *picture;
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
        return Err(ImgError::Size { what: "picture", width, height });
    }
    let planes = [0, 1, 2].map(|index| picture.planes.plane(index));
    for (index, plane) in planes.iter().enumerate() {
        let size = if index == 0 { (width, height) } else { (width.div_ceil(2), height.div_ceil(2)) };
        let needed = plane.stride.checked_mul(size.1 - 1).and_then(|bytes| bytes.checked_add(size.0));
        let holds = needed.is_some_and(|needed| needed <= plane.data.len());
        if (plane.width, plane.height) != size || plane.stride < plane.width || !holds {
            return Err(ImgError::Planes { width, height, index });
        }
    }
    Ok(planes)
}

/// Cuts `place`, given in the plane's own pixels, out of one plane.
fn warp(
    plane: &Plane<'_>,
    place: &Rectangle,
    (width, height): (usize, usize),
    outside: u8,
) -> Result<Mat, ImgError> {
    let plain = || {
        let value = Scalar::all(f64::from(outside));
        Mat::new_rows_cols_with_default(height as i32, width as i32, CV_8UC1, value)
            .map_err(failed("make a crop"))
    };
    let Some(part) = bounds(plane, place) else { return plain() };
    // As in resizing: average before interpolating when the place is much larger than the crop.
    let shrink = ((place.width / width as f32).min(place.height / height as f32) as usize).max(1);
    let small = (part.width.div_ceil(shrink), part.height.div_ceil(shrink));
    let mut resized = Mat::default();
    let view;
    let source = if shrink > 1 {
        resize_part(plane, part, small.0, small.1, &mut resized)?;
        &resized
    } else {
        view = View::new(plane, part)?;
        view.mat()
    };
    // Crop pixel (i, j) → plane point → source index; pixel centres lie at a half.
    let (scale_x, scale_y) = match shrink {
        1 => (1.0, 1.0),
        _ => (small.0 as f64 / part.width as f64, small.1 as f64 / part.height as f64),
    };
    let (sin, cos) = f64::from(place.angle).sin_cos();
    let (step_x, step_y) = (f64::from(place.width) / width as f64, f64::from(place.height) / height as f64);
    let (half_x, half_y) = ((width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0);
    let row = |along: f64, across: f64, centre: f64, origin: f64, scale: f64| {
        let start = centre - origin - half_x * along - half_y * across;
        [along * scale, across * scale, start * scale - 0.5]
    };
    let matrix = [
        row(step_x * cos, -step_y * sin, f64::from(place.centre.x), part.x as f64, scale_x),
        row(step_x * sin, step_y * cos, f64::from(place.centre.y), part.y as f64, scale_y),
    ];
    let matrix = Mat::from_slice_2d(&matrix).map_err(failed("make a transform"))?;
    let mut cut = Mat::default();
    let (target, how) = (Size::new(width as i32, height as i32), INTER_LINEAR | WARP_INVERSE_MAP);
    let border = Scalar::all(f64::from(outside));
    imgproc::warp_affine(source, &mut cut, &matrix, target, how, BORDER_CONSTANT, border)
        .map_err(failed("warp a plane"))?;
    Ok(cut)
}

/// The part of the plane that a turned rectangle touches, with a margin for interpolation.
fn bounds(plane: &Plane<'_>, place: &Rectangle) -> Option<Region> {
    let around = place.bbox();
    let span = |start: f32, length: f32, limit: usize| {
        let from = ((start - 2.0).floor().max(0.0) as usize).min(limit);
        let to = ((start + length + 2.0).ceil().max(0.0) as usize).min(limit);
        (from, to - from)
    };
    let (x, width) = span(around.x, around.w, plane.width);
    let (y, height) = span(around.y, around.h, plane.height);
    (width > 0 && height > 0).then_some(Region { x, y, width, height })
}

/// Where converted pixels go in an RGB canvas.
struct RgbTarget<'a> {
    rgb: &'a mut [u8],
    /// Bytes from one row to the next.
    stride: usize,
    /// Bytes.
    left: usize,
    /// Rows.
    top: usize,
}

impl RgbTarget<'_> {
    /// Converts luma with chroma of its size, or of half, rounded up.
    fn convert(self, y: &Mat, u: &Mat, v: &Mat) -> Result<(), ImgError> {
        let width = y.cols() as usize;
        let is_halved = u.rows() < y.rows() || u.cols() < y.cols();
        // Rows of chroma as wide as luma's, where they are not.
        let widened = if is_halved { 2 * u.cols() as usize } else { 0 };
        let mut wide = [vec![0; widened], vec![0; widened]];
        let rows = self.rgb.chunks_exact_mut(self.stride).skip(self.top);
        let row_of = |plane, index| Mat::at_row(plane, index).map_err(failed("read a plane"));
        for (index, row) in (0..y.rows()).zip(rows) {
            let pixels = &mut row[self.left..][..width * 3];
            if !is_halved {
                convert_row(row_of(y, index)?, row_of(u, index)?, row_of(v, index)?, pixels);
                continue;
            }
            if index % 2 == 0 {
                for (wide, plane) in wide.iter_mut().zip([u, v]) {
                    for (pair, value) in wide.chunks_exact_mut(2).zip(row_of(plane, index / 2)?) {
                        pair.fill(*value);
                    }
                }
            }
            convert_row(row_of(y, index)?, &wide[0], &wide[1], pixels);
        }
        Ok(())
    }
}

/// BT.601 limited-range YCbCr to RGB (ITU-R BT.601-7 §2.5), in 1/8192.
fn convert_row(y: &[u8], u: &[u8], v: &[u8], rgb: &mut [u8]) {
    const SHIFT: i32 = 13;
    const HALF: i32 = 1 << (SHIFT - 1);
    const LUMA: i32 = 9_539; // 255 / 219
    const RED_V: i32 = 13_075; // 2 (1 - 0.299) 255 / 224
    const GREEN_U: i32 = 3_209; // 2 (1 - 0.114) 0.114 / 0.587 · 255 / 224
    const GREEN_V: i32 = 6_660; // 2 (1 - 0.299) 0.299 / 0.587 · 255 / 224
    const BLUE_U: i32 = 16_525; // 2 (1 - 0.114) 255 / 224
    let byte = |value: i32| (value >> SHIFT).clamp(0, 255) as u8;
    for (((&y, &u), &v), pixel) in y.iter().zip(u).zip(v).zip(rgb.chunks_exact_mut(3)) {
        let luma = LUMA * (i32::from(y) - 16) + HALF;
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        pixel[0] = byte(luma + RED_V * v);
        pixel[1] = byte(luma - GREEN_U * u - GREEN_V * v);
        pixel[2] = byte(luma + BLUE_U * u);
    }
}

#[cfg(test)]
mod tests;
