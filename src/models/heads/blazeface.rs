//! BlazeFace, back-camera variant: 896 anchors on a 256 × 256 input, a box and six landmarks each.
//!
//! Source: the MediaPipe "BlazeFace (back)" model card and Bazarevsky et al., 2019.

use crate::frame::{Detection, FaceLandmarks, Kind, Point};
use crate::inference::tensor::Outputs;

use super::{HeadError, Placement, nms, read, sigmoid};

/// Pixels: the side of the input, in which the outputs are given.
const INPUT_SIDE: usize = 256;
/// dx, dy, w, h, then x and y of right eye, left eye, nose, mouth, right ear, left ear.
const VALUES_PER_ANCHOR: usize = 16;

/// One of the model's two grids of anchors.
struct Grid {
    scores: &'static str,
    boxes: &'static str,
    /// Input pixels from one cell to the next.
    stride: usize,
    anchors_per_cell: usize,
}

const GRIDS: [Grid; 2] = [
    Grid { scores: "Identity", boxes: "Identity_2", stride: 16, anchors_per_cell: 2 },
    Grid { scores: "Identity_1", boxes: "Identity_3", stride: 32, anchors_per_cell: 6 },
];

/// Reads the faces in one picture, best first.
///
/// `min_score` is 0 to 1; overlapping faces (IoU above `iou`) are blended. Landmarks may lie beside the
/// picture when the face is cut by its edge.
///
/// # Errors
/// [`HeadError`] when an output is missing or misshapen: scores are `[1, anchors, 1]`, boxes
/// `[1, anchors, 16]`, with 512 and 384 anchors.
pub fn decode(
    outputs: &Outputs,
    placement: &Placement,
    min_score: f32,
    iou: f32,
) -> Result<Vec<Detection>, HeadError> {
    let mut faces = Vec::new();
    for grid in &GRIDS {
        let cells = INPUT_SIDE / grid.stride;
        let anchors = cells * cells * grid.anchors_per_cell;
        let scores = read(outputs, grid.scores, &[Some(1), Some(anchors), Some(1)])?;
        let boxes = read(outputs, grid.boxes, &[Some(1), Some(anchors), Some(VALUES_PER_ANCHOR)])?;
        for (index, (&logit, values)) in scores.iter().zip(boxes.chunks_exact(VALUES_PER_ANCHOR)).enumerate()
        {
            let score = sigmoid(logit);
            // A NaN is not a face: it compares as neither above nor below.
            if score.is_nan() || score < min_score {
                continue;
            }
            let cell = index / grid.anchors_per_cell;
            let centre = |cell: usize| grid.stride as f32 * (cell as f32 + 0.5);
            let anchor = Point { x: centre(cell % cells), y: centre(cell / cells) };
            faces.extend(face(anchor, values, score, placement));
        }
    }
    Ok(nms::blend(faces, iou))
}

/// One anchor's face; `None` when its values are no box in the picture.
fn face(anchor: Point, values: &[f32], score: f32, placement: &Placement) -> Option<Detection> {
    let at = |index: usize| Point { x: anchor.x + values[2 * index], y: anchor.y + values[2 * index + 1] };
    let centre = at(0);
    let (half_w, half_h) = (values[2] / 2.0, values[3] / 2.0);
    let from = Point { x: centre.x - half_w, y: centre.y - half_h };
    let to = Point { x: centre.x + half_w, y: centre.y + half_h };
    let bbox = placement.clip_to_picture(from, to)?;
    let [right_eye, left_eye, nose, mouth] = [2, 3, 4, 5].map(|index| placement.to_picture(at(index)));
    let is_finite = |point: &Point| point.x.is_finite() && point.y.is_finite();
    let has_landmarks = [right_eye, left_eye, nose, mouth].iter().all(is_finite);
    let landmarks = has_landmarks.then_some(FaceLandmarks { right_eye, left_eye, nose, mouth });
    Some(Detection { kind: Kind::Face, class: 0, score, bbox, landmarks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::BBox;
    use crate::inference::tensor::{Tensor, TensorData};

    /// A 512 × 256 picture in the middle of the input, at half size.
    const PLACEMENT: Placement = Placement {
        scale_x: 0.5,
        scale_y: 0.5,
        offset_x: 0.0,
        offset_y: 64.0,
        width: 512.0,
        height: 256.0,
        input_width: 256,
        input_height: 256,
    };

    fn silence() -> Outputs {
        let tensor = |anchors: usize, values: usize, value: f32| {
            Tensor::f32(&[1, anchors, values], vec![value; anchors * values])
        };
        Outputs(vec![
            ("Identity_3".into(), tensor(384, 16, 0.0)),
            ("Identity".into(), tensor(512, 1, -290.0)),
            ("Identity_1".into(), tensor(384, 1, -290.0)),
            ("Identity_2".into(), tensor(512, 16, 0.0)),
        ])
    }

    fn set(outputs: &mut Outputs, name: &str, at: usize, values: &[f32]) {
        let (_, tensor) = outputs.0.iter_mut().find(|(n, _)| n == name).unwrap();
        let TensorData::F32(data) = &mut tensor.data else { panic!("f32") };
        data[at..at + values.len()].copy_from_slice(values);
    }

    /// Puts a face at an anchor of the first grid.
    fn put(outputs: &mut Outputs, anchor: usize, logit: f32, values: &[f32]) {
        set(outputs, "Identity", anchor, &[logit]);
        set(outputs, "Identity_2", anchor * 16, values);
    }

    #[test]
    fn reads_both_grids() {
        let mut outputs = silence();
        // First grid, second anchor of the cell in column 3, row 7: centre (56, 120).
        let values = [4.0, 8.0, 20.0, 40.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        put(&mut outputs, 2 * (7 * 16 + 3) + 1, 2.0, &values);
        // Second grid, last anchor of the cell in column 5, row 4: centre (176, 144).
        set(&mut outputs, "Identity_1", 6 * (4 * 8 + 5) + 5, &[0.0]);
        set(&mut outputs, "Identity_3", 16 * (6 * (4 * 8 + 5) + 5), &[0.0, 0.0, 32.0, 32.0]);
        let faces = decode(&outputs, &PLACEMENT, 0.5, 0.3).unwrap();
        assert_eq!(faces.len(), 2);
        assert!((faces[0].score - 0.880_797).abs() < 1e-5);
        assert_eq!(faces[0].bbox, BBox { x: 100.0, y: 88.0, w: 40.0, h: 80.0 });
        let landmarks = faces[0].landmarks.unwrap();
        assert_eq!(landmarks.right_eye, Point { x: 114.0, y: 116.0 });
        assert_eq!(landmarks.mouth, Point { x: 126.0, y: 128.0 });
        assert_eq!((faces[1].score, faces[1].bbox), (0.5, BBox { x: 320.0, y: 128.0, w: 64.0, h: 64.0 }));
    }

    #[test]
    fn blends_neighbours_and_clips() {
        let mut outputs = silence();
        let cell = 2 * (4 * 16);
        put(&mut outputs, cell, 3.0, &[0.0, 0.0, 40.0, 40.0]);
        put(&mut outputs, cell + 1, 3.0, &[2.0, 0.0, 40.0, 40.0]);
        let faces = decode(&outputs, &PLACEMENT, 0.5, 0.3).unwrap();
        assert_eq!(faces.len(), 1);
        // Anchor (8, 72): boxes from -12 and -10, cut at the picture's edge.
        assert_eq!(faces[0].bbox, BBox { x: 0.0, y: 0.0, w: 58.0, h: 56.0 });
    }

    #[test]
    fn passes_over_hostile_values() {
        for (logit, values) in [
            (f32::NAN, [0.0, 0.0, 40.0, 40.0]),
            (9.0, [f32::NAN, 0.0, 40.0, 40.0]),
            (9.0, [0.0, 0.0, f32::INFINITY, 40.0]),
            (9.0, [0.0, 0.0, -40.0, 40.0]),
            (9.0, [0.0, 0.0, 0.0, 0.0]),
            (9.0, [1e9, 0.0, 40.0, 40.0]),
        ] {
            let mut outputs = silence();
            put(&mut outputs, 250, logit, &values);
            assert_eq!(decode(&outputs, &PLACEMENT, 0.5, 0.3), Ok(vec![]), "{logit} {values:?}");
        }
        let mut outputs = silence();
        put(&mut outputs, 250, f32::INFINITY, &[0.0, 0.0, 40.0, 40.0, f32::NAN]);
        let faces = decode(&outputs, &PLACEMENT, 0.5, 0.3).unwrap();
        assert_eq!((faces.len(), faces[0].landmarks), (1, None));
    }

    #[test]
    fn everything_at_once_ends() {
        let mut outputs = silence();
        for (_, tensor) in &mut outputs.0 {
            let TensorData::F32(data) = &mut tensor.data else { panic!("f32") };
            data.fill(20.0);
        }
        assert!(!decode(&outputs, &PLACEMENT, 0.5, 0.3).unwrap().is_empty());
    }

    #[test]
    fn misshapen_outputs_are_errors() {
        let mut outputs = silence();
        outputs.0.remove(0);
        assert!(matches!(decode(&outputs, &PLACEMENT, 0.5, 0.3), Err(HeadError::MissingOutput { .. })));
        outputs.0.push(("Identity_3".into(), Tensor::f32(&[1, 383, 16], vec![0.0; 383 * 16])));
        assert!(matches!(decode(&outputs, &PLACEMENT, 0.5, 0.3), Err(HeadError::WrongShape { .. })));
    }
}
