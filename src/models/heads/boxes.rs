//! Detections in three outputs: boxes, scores, classes. TensorFlow's SSD gives boxes as parts of the
//! input, rows before columns; torchvision's detectors, and RT-DETR and D-FINE as their authors export
//! them, give pixels.

use crate::frame::{Detection, Point};

use super::{HeadError, Reading, nms};

/// How the boxes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corners {
    /// x0, y0, x1, y1 in input pixels.
    Pixels,
    /// y0, x0, y1, x1 as parts of the input.
    Parts,
}

/// Whether an output holds the boxes: `[1, N, 4]`, or without the batch.
pub fn is_boxes(name: &str, shape: &[usize]) -> bool {
    name.contains("box") && matches!(shape, &[1, _, 4] | &[_, 4])
}

/// Whether an output holds one score a box.
pub fn is_scores(name: &str, shape: &[usize]) -> bool {
    (name.contains("score") || name.contains("conf")) && is_list(shape)
}

/// Whether an output holds one class a box.
pub fn is_classes(name: &str, shape: &[usize]) -> bool {
    (name.contains("class") || name.contains("label")) && is_list(shape)
}

fn is_list(shape: &[usize]) -> bool {
    matches!(shape, &[1, _] | &[_] | &[1, _, 1])
}

/// Reads the three.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when one is missing, or they are not of one length.
pub fn decode(reading: &Reading, corners: Corners) -> Result<Vec<Detection>, HeadError> {
    let wrong = || reading.wrong(if corners == Corners::Parts { "ssd" } else { "boxes" });
    let (_, boxes) = reading.floats(is_boxes).ok_or_else(wrong)?;
    let (_, scores) = reading.floats(is_scores).ok_or_else(wrong)?;
    let classes = reading.numbers(is_classes).ok_or_else(wrong)?;
    if boxes.len() != 4 * scores.len() || classes.len() != scores.len() {
        return Err(wrong());
    }
    let (width, height) = reading.input_size();
    let detections = boxes.chunks_exact(4).zip(scores).zip(classes).filter_map(|((bbox, &score), class)| {
        let class = (class >= 0.0 && class < reading.classes as f32).then_some(class.round() as usize)?;
        let [x0, y0, x1, y1] = match corners {
            Corners::Pixels => [bbox[0], bbox[1], bbox[2], bbox[3]],
            Corners::Parts => [bbox[1] * width, bbox[0] * height, bbox[3] * width, bbox[2] * height],
        };
        reading.detection(class, score, Point { x: x0, y: y0 }, Point { x: x1, y: y1 })
    });
    Ok(nms::suppress(detections.collect(), reading.iou))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, reading, whole};
    use super::*;
    use crate::inference::tensor::{Outputs, Tensor, TensorData};

    fn outputs(boxes: Vec<f32>, scores: Vec<f32>, classes: TensorData) -> Outputs {
        let count = scores.len();
        Outputs(vec![
            ("detection_classes".into(), Tensor { shape: vec![1, classes.len()], data: classes }),
            ("detection_boxes".into(), Tensor::f32(&[1, boxes.len() / 4, 4], boxes)),
            ("detection_scores".into(), Tensor::f32(&[1, count], scores)),
            ("num_detections".into(), Tensor::f32(&[1], vec![1.0])),
        ])
    }

    #[test]
    fn both_ways_of_writing_boxes_are_read() {
        let placement = whole(640, 480);
        let pixels = outputs(vec![10.0, 20.0, 30.0, 60.0], vec![0.9], TensorData::I64(vec![1]));
        let found = decode(&reading(&pixels, &placement, 2), Corners::Pixels).unwrap();
        assert_eq!(flat(&found), [(1, 0.9, [10, 20, 20, 40])]);
        let parts = outputs(vec![0.5, 0.25, 1.0, 0.75], vec![0.9], TensorData::F32(vec![1.0]));
        let found = decode(&reading(&parts, &placement, 2), Corners::Parts).unwrap();
        assert_eq!(flat(&found), [(1, 0.9, [160, 240, 320, 240])]);
    }

    #[test]
    fn hostile_values_are_passed_over_and_lengths_checked() {
        let placement = whole(640, 480);
        for (score, class) in
            [(f32::NAN, 1.0), (0.9, f32::NAN), (0.9, -1.0), (0.9, 2.0), (0.9, 1e30), (0.1, 1.0)]
        {
            let outputs = outputs(vec![10.0, 20.0, 30.0, 60.0], vec![score], TensorData::F32(vec![class]));
            assert_eq!(
                decode(&reading(&outputs, &placement, 2), Corners::Pixels),
                Ok(vec![]),
                "{score} {class}"
            );
        }
        let short = outputs(vec![10.0, 20.0, 30.0, 60.0], vec![0.9, 0.9], TensorData::F32(vec![1.0, 1.0]));
        assert!(decode(&reading(&short, &placement, 2), Corners::Pixels).is_err());
    }
}
