//! What is bright in a map of numbers: the tightest rectangles around its regions.

use opencv::core::{BORDER_CONSTANT, Mat, Point as CvPoint, Size, Vector};
use opencv::imgproc::{self, CHAIN_APPROX_SIMPLE, MORPH_RECT, RETR_LIST};

use super::{ImgError, Rectangle, failed, keep_to_one_thread};
use crate::frame::Point;

/// The tightest rectangles around the regions of `values` above `threshold`, grown by one pixel to the right and
/// down so that what nearly touches is one; `most` at most.
///
/// Rectangles are in pixels of the map (`height` rows of `width` values), pixel (0, 0) being at (0, 0), and may
/// have sides of 0. Holes are regions too.
///
/// # Errors
/// [`ImgError::Size`] when `values` is not exactly the map.
pub fn bright_regions(
    values: &[f32],
    (width, height): (usize, usize),
    threshold: f32,
    most: usize,
) -> Result<Vec<Rectangle>, ImgError> {
    keep_to_one_thread();
    let is_map = width > 0 && height > 0 && width.checked_mul(height) == Some(values.len());
    if !is_map || width > super::MAX_SIDE || height > super::MAX_SIDE {
        return Err(ImgError::Size { what: "map", width, height });
    }
    let bright: Vec<u8> = values.iter().map(|&value| if value > threshold { 255 } else { 0 }).collect();
    let bright =
        Mat::new_rows_cols_with_data(height as i32, width as i32, &bright).map_err(failed("view a map"))?;
    let kernel = imgproc::get_structuring_element(MORPH_RECT, Size::new(2, 2), CvPoint::new(-1, -1))
        .map_err(failed("make a kernel"))?;
    let mut grown = Mat::default();
    let border = imgproc::morphology_default_border_value().map_err(failed("make a border"))?;
    imgproc::dilate(&bright, &mut grown, &kernel, CvPoint::new(-1, -1), 1, BORDER_CONSTANT, border)
        .map_err(failed("dilate a map"))?;
    let mut contours: Vector<Vector<CvPoint>> = Vector::new();
    imgproc::find_contours(&grown, &mut contours, RETR_LIST, CHAIN_APPROX_SIMPLE, CvPoint::new(0, 0))
        .map_err(failed("follow contours"))?;
    let around = |contour: Vector<CvPoint>| {
        let found = imgproc::min_area_rect(&contour).map_err(failed("find a rectangle"))?;
        let centre = Point { x: found.center.x, y: found.center.y };
        let (width, height) = (found.size.width, found.size.height);
        Ok(Rectangle { centre, width, height, angle: found.angle.to_radians() })
    };
    contours.into_iter().take(most).map(around).collect()
}
