//! Face detectors with a grid of anchors for each of three strides: YuNet, SCRFD and RetinaFace.
//!
//! Sources: ShiqiYu/libfacedetection.train (YuNet), deepinsight/insightface (SCRFD), and
//! biubug6/Pytorch_Retinaface (`layers/functions/prior_box.py`, `utils/box_utils.py`).

use crate::frame::{Detection, Point};

use super::{HeadError, Reading, nms};

/// Input pixels from one cell to the next, grid by grid.
pub const STRIDES: [usize; 3] = [8, 16, 32];
/// SCRFD's and RetinaFace's anchors of one cell.
pub const ANCHORS: usize = 2;
/// RetinaFace: sides of a cell's anchors in input pixels, grid by grid.
const SIDES: [[f32; ANCHORS]; 3] = [[16.0, 32.0], [64.0, 128.0], [256.0, 512.0]];
/// RetinaFace: what offsets and sizes are scaled by.
const VARIANCES: [f32; 2] = [0.1, 0.2];
/// Values of five landmarks.
const POINTS: usize = 10;

/// Cells of one grid: `(columns, rows)`. A part of a cell at the edge is one.
fn grid(reading: &Reading, stride: usize) -> (usize, usize) {
    let (width, height) = (reading.placement.input_width, reading.placement.input_height);
    (width.div_ceil(stride), height.div_ceil(stride))
}

/// Reads YuNet's twelve outputs, `cls_8` to `kps_32`: scores are given, boxes and landmarks are relative to
/// their cells.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when one is missing or is not of its grid's size.
pub fn decode_yunet(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let mut faces = Vec::new();
    for stride in STRIDES {
        let (columns, rows) = grid(reading, stride);
        let cells = columns * rows;
        let read = |name: &str, values: usize| {
            let wanted = format!("{name}_{stride}");
            let found = reading.floats(|name, shape| name == wanted && shape == [1, cells, values]);
            found.map(|(_, values)| values).ok_or_else(|| reading.wrong("yunet"))
        };
        let (class, object) = (read("cls", 1)?, read("obj", 1)?);
        let (boxes, points) = (read("bbox", 4)?, read("kps", POINTS)?);
        for cell in 0..cells {
            let score = (class[cell].clamp(0.0, 1.0) * object[cell].clamp(0.0, 1.0)).sqrt();
            if score.is_nan() || score < reading.min_score {
                continue;
            }
            let side = stride as f32;
            let (column, row) = ((cell % columns) as f32, (cell / columns) as f32);
            let at = |dx: f32, dy: f32| Point { x: (column + dx) * side, y: (row + dy) * side };
            let of = &boxes[cell * 4..][..4];
            let centre = at(of[0], of[1]);
            let bbox = [centre.x, centre.y, of[2].exp() * side, of[3].exp() * side];
            let points = &points[cell * POINTS..][..POINTS];
            let landmarks = reading.landmarks(std::array::from_fn(|i| at(points[2 * i], points[2 * i + 1])));
            faces.extend(reading.centred(0, score, bbox).map(|face| Detection { landmarks, ..face }));
        }
    }
    Ok(nms::suppress(faces, reading.iou))
}

/// Reads SCRFD's outputs: for each grid scores, distances to the four edges and, in some, landmarks; each
/// with two anchors a cell, with or without a batch axis.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when one is missing.
pub fn decode_scrfd(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let mut faces = Vec::new();
    for stride in STRIDES {
        let (columns, rows) = grid(reading, stride);
        let anchors = columns * rows * ANCHORS;
        let read = |values: usize| {
            let fits = |_: &str, shape: &[usize]| shape == [1, anchors, values] || shape == [anchors, values];
            reading.floats(fits).map(|(_, values)| values)
        };
        let (Some(scores), Some(edges)) = (read(1), read(4)) else { return Err(reading.wrong("scrfd")) };
        let points = read(POINTS);
        for (anchor, &score) in scores.iter().enumerate() {
            if score.is_nan() || score < reading.min_score {
                continue;
            }
            let (cell, side) = (anchor / ANCHORS, stride as f32);
            let (x, y) = ((cell % columns) as f32 * side, (cell / columns) as f32 * side);
            let at = |dx: f32, dy: f32| Point { x: x + dx * side, y: y + dy * side };
            let of = &edges[anchor * 4..][..4];
            let landmarks = points.and_then(|points| {
                let of = &points[anchor * POINTS..][..POINTS];
                reading.landmarks(std::array::from_fn(|i| at(of[2 * i], of[2 * i + 1])))
            });
            let face = reading.detection(0, score, at(-of[0], -of[1]), at(of[2], of[3]));
            faces.extend(face.map(|face| Detection { landmarks, ..face }));
        }
    }
    Ok(nms::suppress(faces, reading.iou))
}

/// Anchors of all grids together.
pub fn count(width: usize, height: usize) -> usize {
    STRIDES.iter().map(|stride| width.div_ceil(*stride) * height.div_ceil(*stride) * ANCHORS).sum()
}

/// Reads RetinaFace's three outputs `[1, anchors, 4 | 2 | 10]`: offsets from anchors, probabilities of
/// background and face, landmarks.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when one is missing or not of the anchors' number.
pub fn decode_retinaface(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let all = count(reading.placement.input_width, reading.placement.input_height);
    let read = |values: usize| {
        let found = reading.floats(|_, shape| shape == [1, all, values]);
        found.map(|(_, values)| values).ok_or_else(|| reading.wrong("retinaface"))
    };
    let (offsets, scores, points) = (read(4)?, read(2)?, read(POINTS)?);
    let places = STRIDES.into_iter().zip(SIDES).flat_map(|(stride, sides)| {
        let (columns, rows) = grid(reading, stride);
        (0..columns * rows * ANCHORS).map(move |anchor| {
            let cell = anchor / ANCHORS;
            let middle = |cell: usize| (cell as f32 + 0.5) * stride as f32;
            (middle(cell % columns), middle(cell / columns), sides[anchor % ANCHORS])
        })
    });
    let faces = places.enumerate().filter_map(|(anchor, (x, y, side))| {
        let score = scores[anchor * 2 + 1];
        if score.is_nan() || score < reading.min_score {
            return None;
        }
        let at =
            |dx: f32, dy: f32| Point { x: x + dx * VARIANCES[0] * side, y: y + dy * VARIANCES[0] * side };
        let of = &offsets[anchor * 4..][..4];
        let centre = at(of[0], of[1]);
        let size = |value: f32| (value * VARIANCES[1]).exp() * side;
        let points = &points[anchor * POINTS..][..POINTS];
        let landmarks = reading.landmarks(std::array::from_fn(|i| at(points[2 * i], points[2 * i + 1])));
        let face = reading.centred(0, score, [centre.x, centre.y, size(of[2]), size(of[3])])?;
        Some(Detection { landmarks, ..face })
    });
    Ok(nms::suppress(faces.collect(), reading.iou))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, reading, whole};
    use super::*;
    use crate::inference::tensor::{Outputs, Tensor, TensorData};

    fn tensor(shape: &[usize]) -> Tensor {
        Tensor::f32(shape, vec![0.0; shape.iter().product()])
    }

    fn set(outputs: &mut Outputs, name: &str, at: usize, values: &[f32]) {
        let (_, tensor) = outputs.0.iter_mut().find(|(n, _)| n == name).unwrap();
        let TensorData::F32(data) = &mut tensor.data else { panic!("f32") };
        data[at..at + values.len()].copy_from_slice(values);
    }

    /// Outputs of an input of 96 by 64, `anchors` to a cell.
    fn silence(names: [(&str, usize); 4], anchors: usize) -> Outputs {
        let grids = [(8, 96), (16, 24), (32, 6)];
        let outputs = grids.into_iter().flat_map(|(stride, cells)| {
            names.into_iter().filter(|(_, values)| *values > 0).map(move |(name, values)| {
                (format!("{name}_{stride}"), tensor(&[1, cells * anchors, values]))
            })
        });
        Outputs(outputs.collect())
    }

    #[test]
    fn yunet_is_read() {
        let mut outputs = silence([("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)], 1);
        // Stride 16: six columns; the cell in column 4, row 2.
        let cell = 2 * 6 + 4;
        set(&mut outputs, "cls_16", cell, &[0.9]);
        set(&mut outputs, "obj_16", cell, &[0.4]);
        set(&mut outputs, "bbox_16", cell * 4, &[0.5, -0.5, 2.0_f32.ln(), 0.0]);
        let points = [0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 1.0, 1.0];
        set(&mut outputs, "kps_16", cell * 10, &points);
        set(&mut outputs, "cls_8", 7, &[f32::NAN]);
        set(&mut outputs, "obj_8", 7, &[1.0]);
        let placement = whole(96, 64);
        let found = decode_yunet(&reading(&outputs, &placement, 1)).unwrap();
        assert_eq!(flat(&found), [(0, 0.6, [56, 16, 32, 16])]);
        let landmarks = found[0].landmarks.unwrap();
        assert_eq!(
            (landmarks.right_eye, landmarks.mouth),
            (Point { x: 64.0, y: 32.0 }, Point { x: 72.0, y: 48.0 })
        );
        assert!(decode_yunet(&reading(&outputs, &whole(96, 96), 1)).is_err(), "the grid of another input");
    }

    #[test]
    fn scrfd_is_read_with_and_without_landmarks_and_batch() {
        for points in [10, 0] {
            let mut outputs = silence([("score", 1), ("bbox", 4), ("kps", points), ("", 0)], ANCHORS);
            // Stride 32, three columns; the second anchor of column 1, row 1.
            let anchor = (3 + 1) * ANCHORS + 1;
            set(&mut outputs, "score_32", anchor, &[0.7]);
            set(&mut outputs, "bbox_32", anchor * 4, &[0.5, 0.25, 0.5, 0.75]);
            for (index, (name, tensor)) in outputs.0.iter_mut().enumerate() {
                // As insightface exports them: numbers for names, no batch.
                if points == 10 {
                    *name = (400 + index).to_string();
                    tensor.shape.remove(0);
                }
            }
            let placement = whole(96, 64);
            let found = decode_scrfd(&reading(&outputs, &placement, 1)).unwrap();
            assert_eq!(flat(&found), [(0, 0.7, [16, 24, 32, 32])]);
            assert_eq!(found[0].landmarks.is_some(), points == 10);
            outputs.0.pop();
            outputs.0.retain(|(_, tensor)| *tensor.shape.last().unwrap() != 1);
            assert!(decode_scrfd(&reading(&outputs, &placement, 1)).is_err());
        }
    }

    #[test]
    fn retinaface_is_read() {
        assert_eq!(count(96, 64), 252);
        let mut outputs = Outputs(vec![
            ("bbox".into(), tensor(&[1, 252, 4])),
            ("confidence".into(), tensor(&[1, 252, 2])),
            ("landmark".into(), tensor(&[1, 252, 10])),
        ]);
        // Second grid begins at 192; its cell in column 1, row 2, first anchor: 64 pixels.
        let anchor = 192 + (2 * 6 + 1) * ANCHORS;
        set(&mut outputs, "confidence", anchor * 2, &[0.1, 0.9]);
        set(&mut outputs, "bbox", anchor * 4, &[1.0, -1.0, 0.0, 5.0 * 0.5_f32.ln()]);
        let placement = whole(96, 64);
        let found = decode_retinaface(&reading(&outputs, &placement, 1)).unwrap();
        // Centre (24, 40) moved by 6.4; 64 wide, 32 high, cut by the left edge.
        assert_eq!(flat(&found), [(0, 0.9, [0, 18, 62, 32])]);
        assert_eq!(found[0].landmarks.unwrap().nose, Point { x: 24.0, y: 40.0 });
        outputs.0.pop();
        assert!(decode_retinaface(&reading(&outputs, &placement, 1)).is_err());
    }

    #[test]
    fn hostile_values_give_no_faces() {
        let placement = whole(96, 64);
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30] {
            let mut outputs = silence([("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)], 1);
            for (_, tensor) in &mut outputs.0 {
                let TensorData::F32(data) = &mut tensor.data else { panic!("f32") };
                data.fill(value);
            }
            assert_eq!(decode_yunet(&reading(&outputs, &placement, 1)), Ok(vec![]), "{value}");
        }
    }
}
