//! FastestDet: one grid, and in each cell an objectness, a box and the classes.
//!
//! Source: dog-qiuqiu/FastestDet, `utils/tool.py`, `handle_preds`.

use crate::frame::Detection;

use super::{HeadError, Reading, best, nms, sigmoid};

/// Objectness, then x, y, w, h.
const BEFORE_CLASSES: usize = 5;

/// Reads `[1, 5 + classes, rows, columns]`.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let planes = BEFORE_CLASSES + reading.classes;
    let found = reading.floats(|_, shape| matches!(shape, &[1, count, _, _] if count == planes));
    let Some((&[_, _, rows, columns], values)) = found else { return Err(reading.wrong("fastestdet")) };
    let cells = rows * columns;
    let (width, height) = reading.input_size();
    let detections = (0..cells).filter_map(|cell| {
        let at = |plane: usize| values[plane * cells + cell];
        let (class, likely) = best((0..reading.classes).map(|class| at(BEFORE_CLASSES + class)))?;
        let score = at(0).powf(0.6) * likely.powf(0.4);
        let x = (at(1).tanh() + (cell % columns) as f32) / columns as f32 * width;
        let y = (at(2).tanh() + (cell / columns) as f32) / rows as f32 * height;
        reading.centred(class, score, [x, y, sigmoid(at(3)) * width, sigmoid(at(4)) * height])
    });
    Ok(nms::suppress(detections.collect(), reading.iou))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, reading, whole};
    use super::*;
    use crate::inference::tensor::{Outputs, Tensor};

    #[test]
    fn a_cell_is_read() {
        let (rows, columns) = (3, 4);
        let mut values = vec![0.0; 7 * rows * columns];
        let cell = columns + 2;
        for (plane, value) in [1.0, 0.5_f32.atanh(), 0.0, 0.0, -1e9, 0.25, 0.5].into_iter().enumerate() {
            values[plane * rows * columns + cell] = value;
        }
        values[rows * columns - 1] = f32::NAN;
        let outputs = Outputs(vec![("758".into(), Tensor::f32(&[1, 7, rows, columns], values))]);
        let placement = whole(64, 48);
        // A height of nothing is no box.
        assert_eq!(decode(&reading(&outputs, &placement, 2)), Ok(vec![]));
        let mut tall = outputs;
        let values: Vec<f32> = tall.0[0].1.as_f32().unwrap().iter().map(|v| v.max(-1.0)).collect();
        tall.0[0].1 = Tensor::f32(&[1, 7, rows, columns], values);
        let found = decode(&reading(&tall, &placement, 2)).unwrap();
        assert_eq!(flat(&found), [(1, 0.758, [24, 10, 32, 13])]);
        assert!(decode(&reading(&tall, &placement, 3)).is_err());
    }
}
