//! YOLOX: a row for each cell of three grids, with an objectness.
//!
//! Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021"; `yolox/models/yolo_head.py`,
//! `decode_outputs`.

use crate::frame::Detection;

use super::{HeadError, Reading, best, nms};

/// Input pixels from one cell to the next, grid by grid.
pub const STRIDES: [usize; 3] = [8, 16, 32];
/// x, y, w, h, objectness.
const BEFORE_CLASSES: usize = 5;

/// Cells of all grids on an input.
pub fn cells(width: usize, height: usize) -> usize {
    STRIDES.iter().map(|stride| (width / stride) * (height / stride)).sum()
}

/// Reads `[1, cells, 5 + classes]`, boxes relative to their cells or, where `is_decoded`, in input pixels.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output has such a shape.
pub fn decode(reading: &Reading, is_decoded: bool) -> Result<Vec<Detection>, HeadError> {
    let columns = BEFORE_CLASSES + reading.classes;
    let (width, height) = (reading.placement.input_width, reading.placement.input_height);
    let rows = cells(width, height);
    let fits = |_: &str, shape: &[usize]| matches!(shape, &[1, count, last] if last == columns && (is_decoded || count == rows));
    let (_, values) = reading.floats(fits).ok_or_else(|| reading.wrong("yolox"))?;
    let grid = STRIDES.iter().flat_map(|&stride| {
        let columns = width / stride;
        (0..columns * (height / stride)).map(move |cell| (cell % columns, cell / columns, stride as f32))
    });
    let places: Vec<_> = match is_decoded {
        true => vec![(0, 0, 1.0); values.len() / columns],
        false => grid.collect(),
    };
    let detections = values.chunks_exact(columns).zip(places).filter_map(|(row, (column, line, stride))| {
        let sure = row[BEFORE_CLASSES - 1];
        if sure.is_nan() || sure < reading.min_score {
            return None;
        }
        let (class, score) = best(row[BEFORE_CLASSES..].iter().copied())?;
        let bbox = match is_decoded {
            true => [row[0], row[1], row[2], row[3]],
            false => [
                (row[0] + column as f32) * stride,
                (row[1] + line as f32) * stride,
                row[2].exp() * stride,
                row[3].exp() * stride,
            ],
        };
        reading.centred(class, sure * score, bbox)
    });
    Ok(nms::suppress(detections.collect(), reading.iou))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, reading, whole};
    use super::*;
    use crate::inference::tensor::{Outputs, Tensor};

    #[test]
    fn boxes_are_relative_to_their_cells() {
        let placement = whole(64, 32);
        assert_eq!(cells(64, 32), 32 + 8 + 2);
        let mut values = vec![0.0; 42 * 7];
        // Second grid, third cell of the second row; then the last cell of all, with a hostile size.
        let row = 32 + 4 + 2;
        values[row * 7..][..7].copy_from_slice(&[0.5, 0.25, 0.0, 2.0_f32.ln() / 2.0, 0.9, 0.2, 0.5]);
        values[41 * 7..][..7].copy_from_slice(&[0.5, 0.5, 1000.0, 0.0, 1.0, 1.0, 0.0]);
        let outputs = Outputs(vec![("output".into(), Tensor::f32(&[1, 42, 7], values))]);
        let found = decode(&reading(&outputs, &placement, 2), false).unwrap();
        assert_eq!(flat(&found), [(1, 0.45, [32, 9, 16, 23])]);
        assert!(decode(&reading(&outputs, &whole(64, 64), 2), false).is_err(), "the grid of another input");
    }

    #[test]
    fn decoded_boxes_are_taken_as_they_are() {
        let values = vec![20.0, 10.0, 8.0, 4.0, 0.9, 0.2, 0.5];
        let outputs = Outputs(vec![("output".into(), Tensor::f32(&[1, 1, 7], values))]);
        let placement = whole(64, 32);
        let found = decode(&reading(&outputs, &placement, 2), true).unwrap();
        assert_eq!(flat(&found), [(1, 0.45, [16, 8, 8, 4])]);
    }
}
