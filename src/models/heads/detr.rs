//! The DETR family (RT-DETR, D-FINE, RF-DETR): logits of every class and a box for each query.
//!
//! Source: Carion et al., 2020; `transformers` (`RTDetrObjectDetectionOutput`) and `rfdetr` (`export`).
//! Scores are the sigmoids of logits, as these models are trained; the first DETR's softmax is not read.

use crate::frame::Detection;

use super::{HeadError, Reading, best, nms, sigmoid};

/// Whether an output holds the boxes, by its name and shape.
pub fn is_boxes(name: &str, shape: &[usize]) -> bool {
    let is_named = name.contains("box") || name == "dets";
    is_named && matches!(shape, &[1, _, 4])
}

/// Whether an output holds the logits.
pub fn is_logits(name: &str, shape: &[usize]) -> bool {
    matches!(shape, &[1, _, _])
        && !is_boxes(name, shape)
        && (name.contains("logit") || name.contains("label"))
}

/// Reads `logits [1, queries, classes]` and boxes `[1, queries, 4]`, centre and size as parts of the input.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when the pair is not there, or the two do not fit each other.
pub fn decode(reading: &Reading) -> Result<Vec<Detection>, HeadError> {
    let boxes = reading.floats(is_boxes);
    let logits = reading.floats(is_logits);
    let (Some((&[_, queries, _], boxes)), Some((&[_, rows, classes], logits))) = (boxes, logits) else {
        return Err(reading.wrong("detr"));
    };
    if queries != rows || classes == 0 {
        return Err(reading.wrong("detr"));
    }
    let (width, height) = reading.input_size();
    let detections = boxes.chunks_exact(4).zip(logits.chunks_exact(classes)).filter_map(|(bbox, logits)| {
        let (class, logit) = best(logits.iter().copied())?;
        let bbox = [bbox[0] * width, bbox[1] * height, bbox[2] * width, bbox[3] * height];
        reading.centred(class, sigmoid(logit), bbox)
    });
    Ok(nms::suppress(detections.collect(), reading.iou))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, reading, whole};
    use super::*;
    use crate::inference::tensor::{Outputs, Tensor};

    #[test]
    fn pairs_are_read_whatever_their_order_and_names() {
        for (logits, boxes) in [("logits", "pred_boxes"), ("labels", "dets")] {
            let boxes =
                (boxes.to_owned(), Tensor::f32(&[1, 2, 4], vec![0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1]));
            let logits =
                (logits.to_owned(), Tensor::f32(&[1, 2, 3], vec![-9.0, 2.0, f32::NAN, -9.0, -9.0, -290.0]));
            let placement = whole(640, 480);
            for outputs in [vec![boxes.clone(), logits.clone()], vec![logits, boxes]] {
                let outputs = Outputs(outputs);
                let found = decode(&reading(&outputs, &placement, 3)).unwrap();
                assert_eq!(flat(&found), [(1, 0.881, [160, 120, 320, 240])]);
            }
        }
    }

    #[test]
    fn four_classes_are_not_taken_for_boxes() {
        assert!(is_boxes("dets", &[1, 300, 4]) && !is_boxes("labels", &[1, 300, 4]));
        assert!(is_logits("labels", &[1, 300, 4]) && !is_logits("pred_boxes", &[1, 300, 4]));
    }

    #[test]
    fn what_does_not_fit_together_is_an_error() {
        let tensor = |shape: &[usize]| Tensor::f32(shape, vec![0.0; shape.iter().product()]);
        for (boxes, logits) in [([1, 3, 4], [1, 2, 3]), ([1, 2, 5], [1, 2, 3]), ([1, 2, 4], [1, 2, 0])] {
            let outputs =
                Outputs(vec![("pred_boxes".into(), tensor(&boxes)), ("logits".into(), tensor(&logits))]);
            assert!(decode(&reading(&outputs, &whole(64, 64), 3)).is_err(), "{boxes:?} {logits:?}");
        }
    }
}
