//! CenterNet with its decoding inside the graph: the hundred best peaks as boxes.
//!
//! Source: Zhou et al., "Objects as Points", 2019; weights of 610265158/mobilenetv3_centernet.

use crate::frame::{Detection, Kind, Point};
use crate::inference::tensor::Outputs;

use super::{HeadError, Placement, nms, read};

/// x0, y0, x1, y1 in input pixels, score, class.
const VALUES_PER_PEAK: usize = 6;

/// Reads the objects in one picture, best first.
///
/// `min_score` is 0 to 1; of objects of one class that overlap by more than `iou` the best is kept.
/// Classes from `classes` on are passed over.
///
/// # Errors
/// [`HeadError`] when the output `detections` is missing or is not `[1, peaks, 6]`.
pub fn decode(
    outputs: &Outputs,
    placement: &Placement,
    min_score: f32,
    iou: f32,
    classes: usize,
) -> Result<Vec<Detection>, HeadError> {
    let peaks = read(outputs, "detections", &[Some(1), None, Some(VALUES_PER_PEAK)])?;
    let objects = peaks.chunks_exact(VALUES_PER_PEAK).filter_map(|peak| {
        let &[x0, y0, x1, y1, score, class] = peak else { unreachable!("chunks are of six") };
        let is_known = class >= 0.0 && class.round() < classes.min(usize::from(u16::MAX)) as f32;
        if !is_known || score.is_nan() || score < min_score {
            return None;
        }
        let bbox = placement.clip_to_picture(Point { x: x0, y: y0 }, Point { x: x1, y: y1 })?;
        let class = class.round() as u16;
        Some(Detection { kind: Kind::Object, class, score: score.min(1.0), bbox, landmarks: None })
    });
    Ok(nms::suppress(objects.collect(), iou))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::BBox;
    use crate::inference::tensor::Tensor;

    /// A 640 × 480 picture at half size in the top left of the input.
    const PLACEMENT: Placement = Placement {
        scale_x: 0.5,
        scale_y: 0.5,
        offset_x: 0.0,
        offset_y: 0.0,
        width: 640.0,
        height: 480.0,
        input_width: 320,
        input_height: 256,
    };

    fn decode_peaks(peaks: &[[f32; 6]]) -> Vec<(u16, f32, [f32; 4])> {
        let tensor = Tensor::f32(&[1, peaks.len(), 6], peaks.concat());
        let outputs = Outputs(vec![("detections".into(), tensor)]);
        let objects = decode(&outputs, &PLACEMENT, 0.3, 0.5, 80).unwrap();
        let flat = |BBox { x, y, w, h }: BBox| [x, y, w, h];
        objects.into_iter().map(|object| (object.class, object.score, flat(object.bbox))).collect()
    }

    #[test]
    fn reads_peaks() {
        let found = decode_peaks(&[
            [10.0, 20.0, 30.0, 60.0, 0.5, 15.0],
            [11.0, 20.0, 31.0, 60.0, 0.6, 15.0],
            [10.0, 20.0, 30.0, 60.0, 0.7, 16.0],
            [-10.0, 200.0, 30.0, 300.0, 0.31, 0.0],
            [10.0, 20.0, 30.0, 60.0, 0.29, 41.0],
        ]);
        let expected = [
            (16, 0.7, [20.0, 40.0, 40.0, 80.0]),
            (15, 0.6, [22.0, 40.0, 40.0, 80.0]),
            (0, 0.31, [0.0, 400.0, 60.0, 80.0]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn passes_over_hostile_values() {
        let good = [10.0, 20.0, 30.0, 60.0, 0.5, 15.0];
        for (index, value) in [
            (0, f32::NAN),
            (2, f32::INFINITY),
            (1, f32::NEG_INFINITY),
            (4, f32::NAN),
            (5, f32::NAN),
            (5, -1.0),
            (5, 80.0),
            (5, 1e30),
            (2, 5.0),
            (1, 1e9),
        ] {
            let mut peak = good;
            peak[index] = value;
            assert_eq!(decode_peaks(&[peak]), [], "{peak:?}");
        }
        assert_eq!(decode_peaks(&[]), []);
        let mut peak = good;
        peak[4] = f32::INFINITY;
        assert_eq!(decode_peaks(&[peak])[0].1, 1.0);
    }

    #[test]
    fn misshapen_outputs_are_errors() {
        for shape in [&[1, 2, 7][..], &[2, 2, 6], &[2, 6], &[]] {
            let tensor = Tensor::f32(shape, vec![0.0; shape.iter().product()]);
            let outputs = Outputs(vec![("detections".into(), tensor)]);
            let error = decode(&outputs, &PLACEMENT, 0.3, 0.5, 80).unwrap_err();
            assert!(error.to_string().contains("expected [1, any, 6]"), "{error}");
        }
    }
}
