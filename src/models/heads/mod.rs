//! Heads: what a model's outputs mean, in picture pixels.
//!
//! One file per output layout, plus [`nms`] for what they share. They stand between the engine and the
//! tracker. All are pure: tensors, the [`Placement`] of the picture in the input and thresholds go in,
//! detections come out. An output may come from any uploaded file, so shapes are checked and values
//! that are not finite are passed over; nothing here panics on them.

pub mod anchors;
pub mod blazeface;
pub mod boxes;
pub mod centernet;
pub mod classifier;
pub mod ctc;
pub mod db;
pub mod detr;
pub mod faceres;
pub mod fastestdet;
pub mod names;
pub mod nms;
pub mod recognise;
pub mod yolo;
pub mod yolox;

use crate::frame::{BBox, Detection, FaceLandmarks, Kind, Point};
use crate::inference::tensor::{Outputs, Tensor, TensorData};

/// Why outputs could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the model has no output {name}")]
    MissingOutput { name: String },
    #[error("output {name} has shape {shape:?}, expected {expected}")]
    WrongShape { name: String, shape: Vec<usize>, expected: String },
    #[error("output {name} is not of 32-bit floats")]
    WrongElement { name: String },
    #[error("the outputs {shapes} are not those of a {head} head")]
    WrongOutputs { head: &'static str, shapes: String },
    #[error("output {name} is not a number anywhere")]
    NotNumbers { name: String },
    #[error("a {head} head does not find things in a picture")]
    NotADetector { head: &'static str },
}

/// Where a picture lies in a model's input: input = picture · scale + offset, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Input pixels a picture pixel, above 0; the two differ by rounding only.
    pub scale_x: f32,
    pub scale_y: f32,
    /// Input pixels.
    pub offset_x: f32,
    pub offset_y: f32,
    /// Picture pixels.
    pub width: f32,
    pub height: f32,
    /// Input pixels: the whole input, fill included.
    pub input_width: usize,
    pub input_height: usize,
}

/// What a head is given: the outputs of one picture, and what is wanted of them.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub outputs: &'a Outputs,
    pub placement: &'a Placement,
    /// What is found.
    pub kind: Kind,
    /// How many labels there are; classes beyond are passed over.
    pub classes: usize,
    /// 0 to 1.
    pub min_score: f32,
    /// Suppression removes what overlaps something better by more.
    pub iou: f32,
}

impl<'a> Reading<'a> {
    /// A detection by its corners in input pixels; `None` if it is not wanted, or no box in the picture.
    fn detection(&self, class: usize, score: f32, from: Point, to: Point) -> Option<Detection> {
        // A NaN is neither above nor below.
        if score.is_nan() || score < self.min_score || class >= self.classes {
            return None;
        }
        let bbox = self.placement.clip_to_picture(from, to)?;
        let class = u16::try_from(class).ok()?;
        Some(Detection { kind: self.kind, class, score: score.min(1.0), bbox, landmarks: None })
    }

    /// The same by centre and size.
    fn centred(&self, class: usize, score: f32, [x, y, w, h]: [f32; 4]) -> Option<Detection> {
        let from = Point { x: x - w / 2.0, y: y - h / 2.0 };
        let to = Point { x: x + w / 2.0, y: y + h / 2.0 };
        self.detection(class, score, from, to)
    }

    /// The landmarks of a face from five points in input pixels: right and left eye, nose, right and left
    /// corner of the mouth, as most face detectors give them.
    fn landmarks(&self, points: [Point; 5]) -> Option<FaceLandmarks> {
        let [right_eye, left_eye, nose, right, left] = points.map(|point| self.placement.to_picture(point));
        let mouth = Point { x: (right.x + left.x) / 2.0, y: (right.y + left.y) / 2.0 };
        let is_finite = |point: &Point| point.x.is_finite() && point.y.is_finite();
        let all_finite = [right_eye, left_eye, nose, mouth].iter().all(is_finite);
        all_finite.then_some(FaceLandmarks { right_eye, left_eye, nose, mouth })
    }

    /// The input's size in pixels.
    fn input_size(&self) -> (f32, f32) {
        (self.placement.input_width as f32, self.placement.input_height as f32)
    }

    /// The first output that holds 32-bit floats and has a shape that `fits`.
    fn floats(&self, fits: impl Fn(&str, &[usize]) -> bool) -> Option<(&'a [usize], &'a [f32])> {
        self.outputs.0.iter().find_map(|(name, tensor)| {
            let values =
                tensor.as_f32().filter(|values| tensor.shape.iter().product::<usize>() == values.len())?;
            fits(name, &tensor.shape).then_some((tensor.shape.as_slice(), values))
        })
    }

    /// The numbers of an output, whole ones as floats too.
    fn numbers(&self, fits: impl Fn(&str, &[usize]) -> bool) -> Option<Vec<f32>> {
        let (_, tensor) = self.outputs.0.iter().find(|(name, tensor)| fits(name, &tensor.shape))?;
        Some(match &tensor.data {
            TensorData::F32(values) => values.clone(),
            TensorData::I32(values) => values.iter().map(|&value| value as f32).collect(),
            TensorData::I64(values) => values.iter().map(|&value| value as f32).collect(),
            TensorData::U8(values) => values.iter().map(|&value| f32::from(value)).collect(),
        })
    }

    fn wrong(&self, head: &'static str) -> HeadError {
        wrong_outputs(self.outputs, head)
    }
}

fn wrong_outputs(outputs: &Outputs, head: &'static str) -> HeadError {
    let shown = outputs.0.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.shape));
    HeadError::WrongOutputs { head, shapes: shown.collect::<Vec<_>>().join(", ") }
}

/// Values of an output that are looked at, spread over all of it.
const SAMPLES: usize = 256;

/// Whether no output is NaN throughout: a head passes over what is, and would take a broken model for one that sees nothing.
///
/// # Errors
/// [`HeadError::NotNumbers`].
pub fn numbers(outputs: &Outputs) -> Result<(), HeadError> {
    let is_broken = |tensor: &Tensor| {
        let Some(values) = tensor.as_f32().filter(|values| !values.is_empty()) else { return false };
        values.iter().step_by(values.len().div_ceil(SAMPLES)).all(|value| value.is_nan())
    };
    match outputs.0.iter().find(|(_, tensor)| is_broken(tensor)) {
        Some((name, _)) => Err(HeadError::NotNumbers { name: name.clone() }),
        None => Ok(()),
    }
}

/// The best of some scores and where it stands; `None` if there are none, or only NaN.
fn best(scores: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
    let numbers = scores.enumerate().filter(|(_, score)| !score.is_nan());
    numbers.fold(None, |best, (index, score)| match best {
        Some((_, other)) if other >= score => best,
        _ => Some((index, score)),
    })
}

/// Bounded on both sides, where `exp` would overflow.
fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit.clamp(-80.0, 80.0)).exp())
}

impl Placement {
    /// Brings a point from input pixels to picture pixels; it may lie beside the picture.
    pub fn to_picture(&self, point: Point) -> Point {
        Point { x: (point.x - self.offset_x) / self.scale_x, y: (point.y - self.offset_y) / self.scale_y }
    }

    /// Brings a box from input corners to picture pixels, clipped; `None` when nothing of it is left.
    fn clip_to_picture(&self, from: Point, to: Point) -> Option<BBox> {
        let (from, to) = (self.to_picture(from), self.to_picture(to));
        let is_finite = [from.x, from.y, to.x, to.y].iter().all(|value| value.is_finite());
        if !is_finite {
            return None;
        }
        let bbox = BBox::from_corners(from.x, from.y, to.x, to.y).clipped(self.width, self.height);
        (bbox.w > 0.0 && bbox.h > 0.0).then_some(bbox)
    }
}

/// The values of output `name` if it has the `expected` shape; `None` stands for any size.
fn read<'a>(outputs: &'a Outputs, name: &str, expected: &[Option<usize>]) -> Result<&'a [f32], HeadError> {
    let tensor = outputs.find(name).ok_or_else(|| HeadError::MissingOutput { name: name.to_owned() })?;
    read_tensor(tensor, name, expected)
}

fn read_tensor<'a>(
    tensor: &'a Tensor,
    name: &str,
    expected: &[Option<usize>],
) -> Result<&'a [f32], HeadError> {
    let values = tensor.as_f32().ok_or_else(|| HeadError::WrongElement { name: name.to_owned() })?;
    let sides = tensor.shape.iter().zip(expected);
    let fits = tensor.shape.len() == expected.len()
        && sides.clone().all(|(side, want)| want.is_none_or(|w| w == *side));
    if !fits || tensor.shape.iter().product::<usize>() != values.len() {
        let side = |want: &Option<usize>| want.map_or("any".to_owned(), |side| side.to_string());
        let expected = format!("[{}]", expected.iter().map(side).collect::<Vec<_>>().join(", "));
        return Err(HeadError::WrongShape { name: name.to_owned(), shape: tensor.shape.clone(), expected });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const PLACEMENT: Placement = Placement {
        scale_x: 0.5,
        scale_y: 0.25,
        offset_x: 10.0,
        offset_y: 20.0,
        width: 100.0,
        height: 200.0,
        input_width: 64,
        input_height: 96,
    };

    /// A picture that is the input, `width` by `height`.
    pub(super) fn whole(width: usize, height: usize) -> Placement {
        Placement {
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
            width: width as f32,
            height: height as f32,
            input_width: width,
            input_height: height,
        }
    }

    pub(super) fn reading<'a>(outputs: &'a Outputs, placement: &'a Placement, classes: usize) -> Reading<'a> {
        Reading { outputs, placement, kind: Kind::Object, classes, min_score: 0.3, iou: 0.5 }
    }

    /// Class, score and box (x, y, w, h), rounded.
    pub(super) fn flat(detections: &[Detection]) -> Vec<(u16, f32, [i32; 4])> {
        let round = |value: f32| value.round() as i32;
        let of = |d: &Detection| {
            (
                d.class,
                (d.score * 1000.0).round() / 1000.0,
                [d.bbox.x, d.bbox.y, d.bbox.w, d.bbox.h].map(round),
            )
        };
        detections.iter().map(of).collect()
    }

    #[test]
    fn boxes_come_back_to_the_picture() {
        let p = |x: f32, y: f32| Point { x, y };
        let cases = [
            ((p(15.0, 25.0), p(20.0, 30.0)), Some([10.0, 20.0, 10.0, 20.0])),
            ((p(0.0, 0.0), p(1000.0, 1000.0)), Some([0.0, 0.0, 100.0, 200.0])),
            ((p(0.0, 25.0), p(9.0, 30.0)), None),
            ((p(20.0, 30.0), p(15.0, 25.0)), None),
            ((p(f32::NAN, 25.0), p(20.0, 30.0)), None),
            ((p(15.0, 25.0), p(f32::INFINITY, 30.0)), None),
        ];
        for ((from, to), expected) in cases {
            let bbox = PLACEMENT.clip_to_picture(from, to).map(|b| [b.x, b.y, b.w, b.h]);
            assert_eq!(bbox, expected, "{from:?} {to:?}");
        }
    }

    #[test]
    fn outputs_that_are_no_numbers_are_no_answer() {
        let of = |values: Vec<f32>| {
            let good = ("good".into(), Tensor::f32(&[1, 2], vec![0.0, 1.0]));
            numbers(&Outputs(vec![good, ("other".into(), Tensor::f32(&[values.len()], values))]))
        };
        let some = (0..10_000).map(|at| if at % 3 == 0 { 1.0 } else { f32::NAN });
        for values in [vec![], vec![f32::INFINITY], vec![f32::NAN, 1.0], some.collect()] {
            assert_eq!(of(values), Ok(()));
        }
        for count in [1, 255, 257, 10_000] {
            assert_eq!(of(vec![f32::NAN; count]), Err(HeadError::NotNumbers { name: "other".into() }));
        }
    }

    #[test]
    fn shapes_and_elements_are_checked() {
        let outputs = Outputs(vec![
            ("good".into(), Tensor::f32(&[1, 2, 3], vec![0.0; 6])),
            ("bytes".into(), Tensor::u8(&[1, 2, 3], vec![0; 6])),
        ]);
        let want = [Some(1), None, Some(3)];
        assert_eq!(read(&outputs, "good", &want).map(<[f32]>::len), Ok(6));
        for (name, want, message) in [
            ("gone", &want[..], "the model has no output gone"),
            ("bytes", &want[..], "output bytes is not of 32-bit floats"),
            ("good", &want[..2], "output good has shape [1, 2, 3], expected [1, any]"),
            ("good", &[Some(1), None, Some(4)], "output good has shape [1, 2, 3], expected [1, any, 4]"),
        ] {
            assert_eq!(read(&outputs, name, want).unwrap_err().to_string(), message);
        }
    }
}
