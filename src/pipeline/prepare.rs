//! Brings pictures to the form that models read: a tensor, and where the picture lies in it.
//!
//! Stands between the mailbox and the engines. It decides the geometry ([`plan`], [`face_square`], [`line_width`])
//! from the manifest and leaves the pixels to [`crate::imgproc`]. Graphs that normalise inside are given bytes;
//! others get floats, made from the bytes in one pass.

use crate::frame::{BBox, Detection, FaceLandmarks, Picture, Point};
use crate::imgproc::{self, Halves, ImgError, Rectangle, Region, Source};
use crate::inference::tensor::Tensor;
use crate::models::heads::Placement;
use crate::models::manifest::{Channels, Fit, FloatFormat, Input, InputFormat, Layout};

/// Pixels: the longest side that a manifest may ask for.
const MAX_INPUT_SIDE: u32 = 2048;

/// Pixels: no part of a picture is brought to a smaller input, which detectors see nothing in.
const MIN_PART_SIDE: f32 = 64.0;
/// Pixels: of what a reader is given, at most; some 80 characters.
const MAX_LINE_WIDTH: usize = 1280;
/// Pixels.
const LINE_WIDTH_STEP: usize = 32;

/// Why a picture could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("an input side of {size} pixels is not between 1 and {MAX_INPUT_SIDE}")]
    InputSize { size: u32 },
    #[error("a model that reads {reads} was given {given}")]
    Fit { reads: &'static str, given: &'static str },
    #[error("the picture could not be brought to the model's input")]
    Pixels(#[from] ImgError),
}

/// A picture as a model reads it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// `uint8 [1, H, W, 3]`, RGB, or floats as the manifest says.
    pub tensor: Tensor,
    pub placement: Placement,
}

/// The geometry of a letterbox.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Pixels of the input: `(width, height)`.
    pub canvas: (usize, usize),
    /// Where in it the picture goes.
    pub content: Region,
    pub fill: u8,
    pub placement: Placement,
}

/// Lays a `width` × `height` picture out on a model's input.
///
/// # Errors
/// [`PrepareError::InputSize`] when the manifest's size is out of range, [`PrepareError::Fit`] when the
/// model reads face crops.
pub fn plan(input: &Input, width: usize, height: usize) -> Result<Plan, PrepareError> {
    let (across, down) = checked_sides(input)?;
    let scale = (across as f32 / width.max(1) as f32).min(down as f32 / height.max(1) as f32);
    // A side never vanishes, however thin the picture.
    let scaled = |side: usize, most: usize| ((side as f32 * scale).round() as usize).clamp(1, most);
    let (mut w, mut h) = (scaled(width, across), scaled(height, down));
    let (canvas, x, y, fill) = match input.fit {
        Fit::Centre { fill } => ((across, down), (across - w) / 2, (down - h) / 2, fill),
        Fit::Stretch => {
            (w, h) = (across, down);
            ((across, down), 0, 0, 0)
        }
        // A height of its own is one that the graph insists on.
        Fit::TopLeft { fill, .. } if input.height.is_some() => ((across, down), 0, 0, fill),
        Fit::TopLeft { fill, multiple } => {
            let multiple = multiple.clamp(1, MAX_INPUT_SIDE) as usize;
            ((w.next_multiple_of(multiple), h.next_multiple_of(multiple)), 0, 0, fill)
        }
        Fit::FaceCrop { .. } => {
            return Err(PrepareError::Fit { reads: "face crops", given: "a whole picture" });
        }
        Fit::Line { .. } => {
            return Err(PrepareError::Fit { reads: "lines of text", given: "a whole picture" });
        }
    };
    let placement = Placement {
        scale_x: w as f32 / width.max(1) as f32,
        scale_y: h as f32 / height.max(1) as f32,
        offset_x: x as f32,
        offset_y: y as f32,
        width: width as f32,
        height: height as f32,
        input_width: canvas.0,
        input_height: canvas.1,
    };
    Ok(Plan { canvas, content: Region { x, y, width: w, height: h }, fill, placement })
}

/// Brings a whole picture to a model's input.
///
/// # Errors
/// See [`plan`]; [`PrepareError::Pixels`] when the picture's planes do not fit its size.
pub fn prepare(picture: &Picture, input: &Input) -> Result<Prepared, PrepareError> {
    let mut halves = Halves::default();
    prepare_in(Tensor::default(), &mut Source::new(picture, &mut halves)?, input)
}

/// As [`prepare`], of a picture that other models read too, in the buffers of a tensor that is no longer
/// needed.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_in(used: Tensor, source: &mut Source<'_>, input: &Input) -> Result<Prepared, PrepareError> {
    let plan = plan(input, source.width(), source.height())?;
    let (width, height) = plan.canvas;
    let draw = |rgb: &mut [u8]| imgproc::letterbox(source, plan.canvas, plan.content, plan.fill, rgb);
    let tensor = tensor_in(used, [1, height, width], input.format, draw)?;
    Ok(Prepared { tensor, placement: plan.placement })
}

/// The tensor of pixels that `draw` writes as RGB `[N, H, W, 3]`, as the model wants it and in the buffers of
/// `used`.
fn tensor_in(
    used: Tensor,
    [count, height, width]: [usize; 3],
    format: InputFormat,
    draw: impl FnOnce(&mut [u8]) -> Result<(), ImgError>,
) -> Result<Tensor, PrepareError> {
    let mut tensor = used;
    let InputFormat::Float(format) = format else {
        draw(tensor.make_u8(&[count, height, width, 3]))?;
        return Ok(tensor);
    };
    let mut rgb = vec![0; count * height * width * 3];
    draw(&mut rgb)?;
    let shape = match format.layout {
        Layout::Nchw => [count, 3, height, width],
        Layout::Nhwc => [count, height, width, 3],
    };
    write_floats(&rgb, height * width, &format, tensor.make_f32(&shape));
    Ok(tensor)
}

/// Writes pictures of `plane` pixels each.
fn write_floats(rgb: &[u8], plane: usize, format: &FloatFormat, floats: &mut [f32]) {
    // A channel has 256 values: what each becomes is worked out once.
    let value = |channel: usize, byte: usize| (byte as f32 - format.mean[channel]) / format.std[channel];
    let values: [[f32; 256]; 3] =
        std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte)));
    let source = match format.channels {
        Channels::Rgb => [0, 1, 2],
        Channels::Bgr => [2, 1, 0],
    };
    if format.layout == Layout::Nhwc {
        for (to, from) in floats.chunks_exact_mut(3).zip(rgb.chunks_exact(3)) {
            for channel in 0..3 {
                to[channel] = values[channel][usize::from(from[source[channel]])];
            }
        }
        return;
    }
    for (picture, rgb) in floats.chunks_exact_mut(3 * plane).zip(rgb.chunks_exact(3 * plane)) {
        let (first, rest) = picture.split_at_mut(plane);
        let (second, third) = rest.split_at_mut(plane);
        let planes = first.iter_mut().zip(second).zip(third);
        for (((first, second), third), from) in planes.zip(rgb.chunks_exact(3)) {
            *first = values[0][usize::from(from[source[0]])];
            *second = values[1][usize::from(from[source[1]])];
            *third = values[2][usize::from(from[source[2]])];
        }
    }
}

/// Cuts what was found out of a picture for a classifier, in the buffers of a tensor that is no longer needed:
/// `[found, height, width, 3]`, RGB bytes, or floats as the manifest says.
///
/// # Errors
/// As [`prepare`]; also [`PrepareError::Fit`] when the model reads lines of text.
pub fn prepare_crops_in(
    used: Tensor,
    picture: &Picture,
    input: &Input,
    found: &[&Detection],
) -> Result<Tensor, PrepareError> {
    let (width, height) = checked_sides(input)?;
    tensor_in(used, [found.len(), height, width], input.format, |rgb| {
        for (found, rgb) in found.iter().zip(rgb.chunks_exact_mut(width * height * 3)) {
            let (place, content, fill) = crop_plan(input.fit, (width, height), found);
            imgproc::crop(picture, &place, (width, height), content, fill, rgb)?;
        }
        Ok(())
    })
}

/// What a classifier is shown of something that was found, where in its input, and what is around it there.
fn crop_plan(fit: Fit, (width, height): (usize, usize), found: &Detection) -> (Rectangle, Region, u8) {
    let whole = Region { x: 0, y: 0, width, height };
    let BBox { w, h, .. } = found.bbox;
    let scale = (width as f32 / w.max(1.0)).min(height as f32 / h.max(1.0));
    let scaled = |side: f32, most: usize| ((side * scale).round() as usize).clamp(1, most);
    let fitted = Region { width: scaled(w, width), height: scaled(h, height), ..whole };
    let (content, fill) = match fit {
        Fit::FaceCrop { scale_percent } => return (face_square(found, scale_percent), whole, 0),
        Fit::Stretch => (whole, 0),
        Fit::TopLeft { fill, .. } | Fit::Line { fill } => (fitted, fill),
        Fit::Centre { fill } => {
            let (x, y) = ((width - fitted.width) / 2, (height - fitted.height) / 2);
            (Region { x, y, ..fitted }, fill)
        }
    };
    (Rectangle::from(found.bbox), content, fill)
}

/// Brings a part of a picture to a model's input, enlarged by no more than `most`; the placement is relative to
/// the part.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_part_in(
    used: Tensor,
    picture: &Picture,
    input: &Input,
    part: &BBox,
    most: f32,
) -> Result<Prepared, PrepareError> {
    let sides = (part.w.round().max(1.0) as usize, part.h.round().max(1.0) as usize);
    let size = (sides.0.max(sides.1) as f32 * most).ceil().max(MIN_PART_SIDE);
    // Saturates far above any input.
    let input = Input { size: input.size.min(size as u32), ..input.clone() };
    let plan = plan(&input, sides.0, sides.1)?;
    let (width, height) = plan.canvas;
    let tensor = tensor_in(used, [1, height, width], input.format, |rgb| {
        imgproc::crop(picture, &Rectangle::from(*part), plan.canvas, plan.content, plan.fill, rgb)
    })?;
    Ok(Prepared { tensor, placement: plan.placement })
}

/// Brings a line of text to a reader's input: `[1, height, width, 3]` or floats as the manifest says, as wide as
/// [`line_width`] says.
///
/// # Errors
/// As [`prepare`]; also [`PrepareError::Fit`] when the model does not read lines.
pub fn prepare_line_in(
    used: Tensor,
    picture: &Picture,
    input: &Input,
    line: &Rectangle,
) -> Result<Tensor, PrepareError> {
    let Fit::Line { fill } = input.fit else {
        return Err(PrepareError::Fit { reads: "something else", given: "a line of text" });
    };
    let (least, height) = checked_sides(input)?;
    let (content, width) = line_width(line, least, height);
    let region = Region { x: 0, y: 0, width: content, height };
    tensor_in(used, [1, height, width], input.format, |rgb| {
        imgproc::crop(picture, line, (width, height), region, fill, rgb)
    })
}

/// The pixels across that a line takes in an input of `height`, and those of the whole input.
///
/// Inputs come in steps, so that lines of about the same length run alike; a longer line than any is squeezed.
pub fn line_width(line: &Rectangle, least: usize, height: usize) -> (usize, usize) {
    let across = (line.width / line.height.max(1e-3) * height as f32).ceil();
    let content = (across.max(1.0) as usize).min(MAX_LINE_WIDTH);
    (content, content.max(least).next_multiple_of(LINE_WIDTH_STEP))
}

/// The square around a face that a classifier is shown: `scale_percent` of the box's longer side, about
/// its centre, turned so that the eyes are level.
pub fn face_square(face: &Detection, scale_percent: u32) -> Rectangle {
    let BBox { x, y, w, h } = face.bbox;
    let angle = face.landmarks.as_ref().map_or(0.0, |landmarks| eye_angle(landmarks, w));
    let centre = Point { x: x + w / 2.0, y: y + h / 2.0 };
    let side = w.max(h) * scale_percent as f32 / 100.0;
    Rectangle { centre, width: side, height: side, angle }
}

/// Radians by which the eyes are off level; 0 when they are too close together to tell (a profile).
fn eye_angle(landmarks: &FaceLandmarks, face_width: f32) -> f32 {
    let (from, to) = (landmarks.right_eye, landmarks.left_eye);
    let (across, down) = (to.x - from.x, to.y - from.y);
    let is_clear = across.hypot(down) > 0.15 * face_width;
    if is_clear { down.atan2(across) } else { 0.0 }
}

/// The sides of a model's input: width, height.
fn checked_sides(input: &Input) -> Result<(usize, usize), PrepareError> {
    let sides = (input.size, input.height.unwrap_or(input.size));
    for size in [sides.0, sides.1] {
        if !(1..=MAX_INPUT_SIDE).contains(&size) {
            return Err(PrepareError::InputSize { size });
        }
    }
    Ok((sides.0 as usize, sides.1 as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{I420Buffer, Kind};
    use std::time::Instant;

    fn input(size: u32, fit: Fit) -> Input {
        Input {
            name: "input".into(),
            format: InputFormat::RgbU8Nhwc,
            size,
            height: None,
            batch: None,
            size_input: None,
            fit,
        }
    }

    #[test]
    fn pictures_are_laid_out() {
        let centre = Fit::Centre { fill: 0 };
        let corner = Fit::TopLeft { fill: 114, multiple: 32 };
        for (size, fit, picture, canvas, content) in [
            (256, centre, (640, 480), (256, 256), (0, 32, 256, 192)),
            (256, centre, (480, 640), (256, 256), (32, 0, 192, 256)),
            (256, centre, (1, 1), (256, 256), (0, 0, 256, 256)),
            (256, centre, (4096, 2160), (256, 256), (0, 60, 256, 135)),
            (256, centre, (4000, 1), (256, 256), (0, 127, 256, 1)),
            (320, corner, (640, 480), (320, 256), (0, 0, 320, 240)),
            (320, corner, (1280, 720), (320, 192), (0, 0, 320, 180)),
            (320, corner, (720, 1280), (192, 320), (0, 0, 180, 320)),
            (320, corner, (100, 100), (320, 320), (0, 0, 320, 320)),
            (512, corner, (1, 4000), (32, 512), (0, 0, 1, 512)),
            (300, corner, (640, 480), (320, 256), (0, 0, 300, 225)),
            (64, Fit::TopLeft { fill: 0, multiple: 0 }, (640, 480), (64, 48), (0, 0, 64, 48)),
        ] {
            let plan = plan(&input(size, fit), picture.0, picture.1).unwrap();
            let Region { x, y, width, height } = plan.content;
            assert_eq!((plan.canvas, (x, y, width, height)), (canvas, content), "{picture:?} to {size}");
            let (w, h) = (picture.0 as f32, picture.1 as f32);
            let far = plan.placement.to_picture(Point { x: (x + width) as f32, y: (y + height) as f32 });
            assert!((far.x - w).abs() < 0.01 * w && (far.y - h).abs() < 0.01 * h, "{far:?}");
        }
    }

    #[test]
    fn inputs_with_a_height_of_their_own_are_filled() {
        let with_height = |fit| Input { height: Some(256), ..input(512, fit) };
        for (fit, picture, content) in [
            (Fit::Centre { fill: 0 }, (640, 480), (85, 0, 341, 256)),
            (Fit::Centre { fill: 0 }, (1280, 320), (0, 64, 512, 128)),
            (Fit::TopLeft { fill: 0, multiple: 32 }, (640, 480), (0, 0, 341, 256)),
            (Fit::Stretch, (640, 480), (0, 0, 512, 256)),
        ] {
            let plan = plan(&with_height(fit), picture.0, picture.1).unwrap();
            let Region { x, y, width, height } = plan.content;
            assert_eq!((plan.canvas, (x, y, width, height)), ((512, 256), content), "{fit:?} {picture:?}");
            assert_eq!((plan.placement.input_width, plan.placement.input_height), (512, 256));
        }
    }

    #[test]
    fn floats_are_in_the_order_and_range_that_is_asked_for() {
        let rgb = vec![0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110];
        let format = |layout, channels| FloatFormat {
            layout,
            channels,
            mean: [10.0, 0.0, 0.0],
            std: [1.0, 10.0, 1.0],
        };
        let made = |layout, channels, sides| {
            let draw = |to: &mut [u8]| {
                to.copy_from_slice(&rgb);
                Ok(())
            };
            let format = InputFormat::Float(format(layout, channels));
            tensor_in(Tensor::u8(&[1], vec![9]), sides, format, draw).unwrap()
        };
        let nchw = made(Layout::Nchw, Channels::Rgb, [1, 2, 2]);
        assert_eq!(nchw.shape, [1, 3, 2, 2]);
        let planes = [-10.0, 20.0, 50.0, 80.0, 1.0, 4.0, 7.0, 10.0, 20.0, 50.0, 80.0, 110.0];
        assert_eq!(nchw.as_f32().unwrap(), planes);
        let nhwc = made(Layout::Nhwc, Channels::Bgr, [1, 2, 2]);
        assert_eq!(nhwc.shape, [1, 2, 2, 3]);
        assert_eq!(nhwc.as_f32().unwrap()[..6], [10.0, 1.0, 0.0, 40.0, 4.0, 30.0]);
        let two = made(Layout::Nchw, Channels::Bgr, [2, 1, 2]);
        assert_eq!(two.shape, [2, 3, 1, 2]);
        assert_eq!(
            two.as_f32().unwrap(),
            [10.0, 40.0, 1.0, 4.0, 0.0, 30.0, 70.0, 100.0, 7.0, 10.0, 60.0, 90.0]
        );
    }

    #[test]
    fn unusable_manifests_are_errors() {
        for size in [0, 2049, u32::MAX] {
            let error = plan(&input(size, Fit::Centre { fill: 0 }), 640, 480).unwrap_err();
            assert!(matches!(error, PrepareError::InputSize { .. }), "{error}");
        }
        let crop = input(224, Fit::FaceCrop { scale_percent: 130 });
        assert!(matches!(plan(&crop, 640, 480), Err(PrepareError::Fit { .. })));
        let picture = I420Buffer::black(8, 8).into_picture(0, Instant::now());
        let whole = input(224, Fit::Centre { fill: 0 });
        let line = Rectangle::from(BBox { x: 0.0, y: 0.0, w: 4.0, h: 4.0 });
        let read = prepare_line_in(Tensor::default(), &picture, &whole, &line);
        assert!(matches!(read, Err(PrepareError::Fit { .. })));
    }

    #[test]
    fn faces_are_levelled_by_their_eyes() {
        let face = |right: (f32, f32), left: (f32, f32)| {
            let point = |(x, y)| Point { x, y };
            let landmarks = FaceLandmarks {
                right_eye: point(right),
                left_eye: point(left),
                nose: point((0.0, 0.0)),
                mouth: point((0.0, 0.0)),
            };
            let bbox = BBox { x: 100.0, y: 50.0, w: 40.0, h: 60.0 };
            Detection { kind: Kind::Face, class: 0, score: 1.0, bbox, landmarks: Some(landmarks) }
        };
        for (right, left, degrees) in [
            ((110.0, 70.0), (130.0, 70.0), 0.0),
            ((110.0, 70.0), (130.0, 90.0), 45.0),
            ((110.0, 70.0), (130.0, 50.0), -45.0),
            ((130.0, 70.0), (110.0, 70.0), 180.0),
            ((110.0, 70.0), (113.0, 73.0), 0.0),
        ] {
            let square = face_square(&face(right, left), 130);
            assert!((square.angle.to_degrees() - degrees).abs() < 1e-3, "{right:?} {left:?}: {square:?}");
            assert_eq!((square.centre, square.width), (Point { x: 120.0, y: 80.0 }, 78.0));
        }
    }

    #[test]
    fn crops_make_one_batch() {
        let picture = I420Buffer::black(64, 48).into_picture(0, Instant::now());
        let bbox = BBox { x: 10.0, y: 10.0, w: 20.0, h: 20.0 };
        let face = Detection { kind: Kind::Face, class: 0, score: 1.0, bbox, landmarks: None };
        let crop = input(24, Fit::FaceCrop { scale_percent: 130 });
        let tensor = prepare_crops_in(Tensor::default(), &picture, &crop, &[&face, &face, &face]).unwrap();
        assert_eq!(tensor.shape, [3, 24, 24, 3]);
    }

    #[test]
    fn a_classifier_is_shown_the_box_as_its_manifest_says() {
        let bbox = BBox { x: 10.0, y: 20.0, w: 40.0, h: 20.0 };
        let found = Detection { kind: Kind::Object, class: 0, score: 1.0, bbox, landmarks: None };
        for (fit, content, fill) in [
            (Fit::Stretch, (0, 0, 32, 32), 0),
            (Fit::Centre { fill: 114 }, (0, 8, 32, 16), 114),
            (Fit::TopLeft { fill: 7, multiple: 32 }, (0, 0, 32, 16), 7),
        ] {
            let (place, Region { x, y, width, height }, around) = crop_plan(fit, (32, 32), &found);
            assert_eq!(
                (place, (x, y, width, height), around),
                (Rectangle::from(bbox), content, fill),
                "{fit:?}"
            );
        }
    }

    #[test]
    fn lines_are_as_wide_as_they_need() {
        let line = |width: f32, height: f32| Rectangle {
            centre: Point { x: 0.0, y: 0.0 },
            width,
            height,
            angle: 0.0,
        };
        for (width, height, expected) in [
            (100.0, 20.0, (240, 320)),
            (200.0, 20.0, (480, 480)),
            (201.0, 20.0, (483, 512)),
            (1e6, 1.0, (1280, 1280)),
            (0.0, 20.0, (1, 320)),
            (f32::NAN, 20.0, (1, 320)),
            (20.0, 0.0, (1280, 1280)),
        ] {
            assert_eq!(line_width(&line(width, height), 320, 48), expected, "{width} by {height}");
        }
    }

    #[test]
    fn a_part_is_not_enlarged_without_end() {
        let picture = I420Buffer::black(640, 480).into_picture(0, Instant::now());
        let detector = input(736, Fit::TopLeft { fill: 0, multiple: 32 });
        for (w, h, expected) in [
            (640.0, 480.0, [1, 576, 736, 3]),
            (100.0, 50.0, [1, 128, 224, 3]),
            (3.0, 2.0, [1, 64, 64, 3]),
            (0.0, 0.0, [1, 64, 64, 3]),
        ] {
            let part = BBox { x: 5.0, y: 5.0, w, h };
            match prepare_part_in(Tensor::default(), &picture, &detector, &part, 2.0) {
                Ok(prepared) => assert_eq!(prepared.tensor.shape, expected, "{w} by {h}"),
                Err(error) => assert!(w == 0.0 && matches!(error, PrepareError::Pixels(_)), "{error}"),
            }
        }
    }
}
