//! Heads: what a model's outputs mean, in picture pixels.
//!
//! One file per output layout, plus [`nms`] for what they share. They stand between the engine and the
//! tracker. All are pure: tensors, the [`Placement`] of the picture in the input and thresholds go in,
//! detections come out. An output may come from any uploaded file, so shapes are checked and values
//! that are not finite are passed over; nothing here panics on them.

pub mod blazeface;
pub mod centernet;
pub mod faceres;
pub mod nms;

use crate::frame::{BBox, Point};
use crate::inference::tensor::{Outputs, Tensor};

/// Why outputs could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the model has no output {name}")]
    MissingOutput { name: String },
    #[error("output {name} has shape {shape:?}, expected {expected}")]
    WrongShape { name: String, shape: Vec<usize>, expected: String },
    #[error("output {name} is not of 32-bit floats")]
    WrongElement { name: String },
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
    };

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
