//! YOLO as Ultralytics exports it: v8, 11 and 26 (a row of numbers for each of box and classes), v5 and v7
//! (a row for each anchor, with an objectness), v10 and 26 end to end (finished detections), and RT-DETR
//! in the same wrapping, before and since Ultralytics 8.4.
//!
//! Source: `ultralytics/nn/modules/head.py` (Detect, v10Detect, RTDETRDecoder) and `yolov5/models/yolo.py`.

use crate::frame::{Detection, Point};

use super::{HeadError, Reading, best, nms};

/// x, y, w, h.
const BOX: usize = 4;
/// Of an end-to-end output: x0, y0, x1, y1, score, class.
const FINISHED: usize = 6;

/// Reads `[1, 4 + classes (+ more), anchors]`, or the same turned round; what follows the classes (masks,
/// keypoints) is not read.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let rows = BOX + reading.classes;
    let found =
        reading.floats(|_, shape| matches!(shape, &[1, a, b] if a == rows || b == rows || a > rows && a < b));
    let Some((&[1, first, second], values)) = found else { return Err(reading.wrong("yolo")) };
    let is_turned = second == rows && first != rows;
    let detections = match is_turned {
        true => values.chunks_exact(rows).filter_map(|row| of_row(reading, row)).collect(),
        false => by_columns(reading, values, second),
    };
    Ok(nms::suppress(detections, reading.iou))
}

fn of_row(reading: &Reading, row: &[f32]) -> Option<Detection> {
    let (class, score) = best(row[BOX..].iter().copied())?;
    reading.centred(class, score, [row[0], row[1], row[2], row[3]])
}

/// Anchors are columns: each class is walked along its row, which lies together in memory.
fn by_columns(reading: &Reading, values: &[f32], anchors: usize) -> Vec<Detection> {
    if anchors == 0 {
        return Vec::new();
    }
    let mut rows = values.chunks_exact(anchors);
    let boxes: [&[f32]; BOX] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    let mut scores = vec![f32::NEG_INFINITY; anchors];
    let mut classes = vec![0_u16; anchors];
    for (class, row) in rows.take(reading.classes.min(usize::from(u16::MAX))).enumerate() {
        for ((&score, best), of) in row.iter().zip(&mut scores).zip(&mut classes) {
            if score > *best {
                (*best, *of) = (score, class as u16);
            }
        }
    }
    let wanted = (0..anchors).filter(|&anchor| scores[anchor] >= reading.min_score);
    let detection = |anchor: usize| {
        let bbox = boxes.map(|row| row[anchor]);
        reading.centred(usize::from(classes[anchor]), scores[anchor], bbox)
    };
    wanted.filter_map(detection).collect()
}

/// Reads `[1, anchors, 5 + classes]`.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode_v5(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let columns = BOX + 1 + reading.classes;
    let found = reading.floats(|_, shape| matches!(shape, &[1, _, last] if last == columns));
    let (_, values) = found.ok_or_else(|| reading.wrong("yolo-v5"))?;
    let of_row = |row: &[f32]| {
        let sure = row[BOX];
        // No class is likelier than there being anything at all.
        if sure.is_nan() || sure < reading.min_score {
            return None;
        }
        let (class, score) = best(row[BOX + 1..].iter().copied())?;
        reading.centred(class, sure * score, [row[0], row[1], row[2], row[3]])
    };
    Ok(nms::suppress(values.chunks_exact(columns).filter_map(of_row).collect(), reading.iou))
}

/// Reads `[1, detections, 6]`: finished detections.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode_end2end(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let found = reading.floats(|_, shape| matches!(shape, &[1, _, last] if last >= FINISHED));
    let (shape, values) = found.ok_or_else(|| reading.wrong("yolo-end2end"))?;
    let of_row = |row: &[f32]| {
        let &[x0, y0, x1, y1, score, class, ..] = row else { return None };
        let class = (class >= 0.0 && class < reading.classes as f32).then_some(class.round() as usize)?;
        reading.detection(class, score, Point { x: x0, y: y0 }, Point { x: x1, y: y1 })
    };
    Ok(nms::suppress(values.chunks_exact(shape[2]).filter_map(of_row).collect(), reading.iou))
}

/// Reads `[1, queries, 4 + classes]` with boxes as parts of the input.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode_detr_rows(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let columns = BOX + reading.classes;
    let found = reading.floats(|_, shape| matches!(shape, &[1, _, last] if last == columns));
    let (_, values) = found.ok_or_else(|| reading.wrong("detr-rows"))?;
    let (width, height) = reading.input_size();
    let of_row = |row: &[f32]| {
        let (class, score) = best(row[BOX..].iter().copied())?;
        reading.centred(class, score, [row[0] * width, row[1] * height, row[2] * width, row[3] * height])
    };
    Ok(nms::suppress(values.chunks_exact(columns).filter_map(of_row).collect(), reading.iou))
}

/// Reads `[1, queries, 6]`: finished detections by centre and size, as parts of the input.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode_detr_end2end(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let found = reading.floats(|_, shape| matches!(shape, &[1, _, FINISHED]));
    let (_, values) = found.ok_or_else(|| reading.wrong("detr-end2end"))?;
    let (width, height) = reading.input_size();
    let of_row = |row: &[f32]| {
        let &[x, y, w, h, score, class] = row else { return None };
        let class = (class >= 0.0 && class < reading.classes as f32).then_some(class.round() as usize)?;
        reading.centred(class, score, [x * width, y * height, w * width, h * height])
    };
    Ok(nms::suppress(values.chunks_exact(FINISHED).filter_map(of_row).collect(), reading.iou))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, reading, whole};
    use super::*;
    use crate::inference::tensor::{Outputs, Tensor};

    fn outputs(shape: &[usize], values: Vec<f32>) -> Outputs {
        Outputs(vec![("output0".into(), Tensor::f32(shape, values))])
    }

    /// Rows of x, y, w, h and two classes, as columns.
    fn turned(rows: &[[f32; 6]]) -> Vec<f32> {
        (0..6).flat_map(|column| rows.iter().map(move |row| row[column])).collect()
    }

    const ROWS: [[f32; 6]; 8] = [
        [100.0, 50.0, 40.0, 20.0, 0.1, 0.9],
        [102.0, 50.0, 40.0, 20.0, 0.2, 0.8],
        [100.0, 50.0, 40.0, 20.0, 0.7, 0.1],
        [300.0, 200.0, 10.0, 10.0, 0.2, 0.2],
        [300.0, 200.0, 10.0, 10.0, f32::NAN, f32::NAN],
        [f32::NAN, 200.0, 10.0, 10.0, 0.9, 0.0],
        [300.0, 200.0, f32::INFINITY, 10.0, 0.9, 0.0],
        [630.0, 470.0, 40.0, 40.0, f32::INFINITY, 0.0],
    ];

    #[test]
    fn anchors_are_read_in_columns_and_in_rows() {
        let placement = whole(640, 480);
        let expected = [(0, 1.0, [610, 450, 30, 30]), (1, 0.9, [80, 40, 40, 20]), (0, 0.7, [80, 40, 40, 20])];
        let columns = outputs(&[1, 6, 8], turned(&ROWS));
        assert_eq!(flat(&decode(&reading(&columns, &placement, 2)).unwrap()), expected);
        let rows = outputs(&[1, 8, 6], ROWS.concat());
        assert_eq!(flat(&decode(&reading(&rows, &placement, 2)).unwrap()), expected);
        // As one class and a mask's coefficient.
        let detections = decode(&reading(&columns, &placement, 1)).unwrap();
        assert_eq!(flat(&detections)[1], (0, 0.7, [80, 40, 40, 20]));
        let wrong = decode(&reading(&columns, &placement, 9)).unwrap_err().to_string();
        assert_eq!(wrong, "the outputs output0 [1, 6, 8] are not those of a yolo head");
        let nothing = outputs(&[1, 6, 0], vec![]);
        assert_eq!(decode(&reading(&nothing, &placement, 2)), Ok(vec![]));
    }

    #[test]
    fn objectness_weighs_the_classes_of_v5() {
        let placement = whole(640, 480);
        let rows = [
            [100.0, 50.0, 40.0, 20.0, 0.5, 0.1, 0.9],
            [300.0, 200.0, 10.0, 10.0, 0.29, 1.0, 1.0],
            [300.0, 200.0, 10.0, 10.0, f32::NAN, 1.0, 1.0],
        ];
        let outputs = outputs(&[1, 3, 7], rows.concat());
        let found = decode_v5(&reading(&outputs, &placement, 2)).unwrap();
        assert_eq!(flat(&found), [(1, 0.45, [80, 40, 40, 20])]);
        assert!(decode_v5(&reading(&outputs, &placement, 3)).is_err());
    }

    #[test]
    fn finished_detections_are_taken_as_they_are() {
        let placement = whole(640, 480);
        let rows = [
            [10.0, 20.0, 30.0, 60.0, 0.9, 1.0],
            [10.0, 20.0, 30.0, 60.0, 0.1, 1.0],
            [10.0, 20.0, 30.0, 60.0, 0.9, 2.0],
            [10.0, 20.0, 30.0, 60.0, 0.9, -1.0],
            [10.0, 20.0, 30.0, 60.0, 0.9, f32::NAN],
            [0.0; 6],
        ];
        let outputs = outputs(&[1, 6, 6], rows.concat());
        let found = decode_end2end(&reading(&outputs, &placement, 2)).unwrap();
        assert_eq!(flat(&found), [(1, 0.9, [10, 20, 20, 40])]);
    }

    #[test]
    fn parts_of_the_input_become_pixels() {
        let placement = whole(640, 480);
        let outputs = outputs(&[1, 1, 6], vec![0.5, 0.5, 0.25, 0.5, 0.1, 0.6]);
        let found = decode_detr_rows(&reading(&outputs, &placement, 2)).unwrap();
        assert_eq!(flat(&found), [(1, 0.6, [240, 120, 160, 240])]);
        let rows = [
            [0.5, 0.5, 0.25, 0.5, 0.6, 1.0],
            [0.5, 0.5, 0.25, 0.5, 0.6, 2.0],
            [0.5, 0.5, 0.25, 0.5, f32::NAN, 0.0],
            [f32::NAN, 0.5, 0.25, 0.5, 0.6, 0.0],
        ];
        let outputs = self::outputs(&[1, 4, 6], rows.concat());
        let found = decode_detr_end2end(&reading(&outputs, &placement, 2)).unwrap();
        assert_eq!(flat(&found), [(1, 0.6, [240, 120, 160, 240])]);
        let seven = self::outputs(&[1, 1, 7], vec![0.0; 7]);
        assert!(decode_detr_end2end(&reading(&seven, &placement, 2)).is_err());
    }
}
