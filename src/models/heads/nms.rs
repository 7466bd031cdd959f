//! Non-maximum suppression: one detection for each thing.

use crate::frame::{BBox, Detection, FaceLandmarks, Point};

/// Detections that are compared with each other; it bounds the work that hostile outputs can cause.
const MAX_CANDIDATES: usize = 300;

/// Sorts by score, best first, and keeps the best [`MAX_CANDIDATES`].
fn rank(detections: &mut Vec<Detection>) {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    detections.truncate(MAX_CANDIDATES);
}

fn is_same_thing(a: &Detection, b: &Detection, iou: f32) -> bool {
    a.kind == b.kind && a.class == b.class && a.bbox.iou(&b.bbox) > iou
}

/// Removes every detection that overlaps a better one of its class by more than `iou`; best first.
pub fn suppress(mut detections: Vec<Detection>, iou: f32) -> Vec<Detection> {
    rank(&mut detections);
    let mut kept: Vec<Detection> = Vec::new();
    for detection in detections {
        if !kept.iter().any(|better| is_same_thing(better, &detection, iou)) {
            kept.push(detection);
        }
    }
    kept
}

/// Replaces each group of overlapping detections by their mean, weighted by score; best first.
///
/// The mean moves less from frame to frame than the winner does (Bazarevsky et al., "BlazeFace:
/// Sub-millisecond Neural Face Detection on Mobile GPUs", 2019, §3.4). The score is the best one's.
pub fn blend(mut detections: Vec<Detection>, iou: f32) -> Vec<Detection> {
    rank(&mut detections);
    let mut blended = Vec::new();
    while !detections.is_empty() {
        let best = detections[0].clone();
        let mut group = Vec::new();
        detections.retain(|other| {
            let joins = is_same_thing(&best, other, iou);
            if joins {
                group.push(other.clone());
            }
            !joins
        });
        if group.is_empty() {
            // A box that does not even overlap itself by so much: `iou` is 1 or the box is degenerate.
            detections.remove(0);
            group.push(best);
        }
        blended.push(mean(&group));
    }
    blended
}

/// The weighted mean of a group, which holds at least its best detection, first.
fn mean(group: &[Detection]) -> Detection {
    let total: f32 = group.iter().map(|detection| detection.score).sum();
    if group.len() == 1 || total <= 0.0 {
        return group[0].clone();
    }
    let average = |value: &dyn Fn(&Detection) -> f32| -> f32 {
        group.iter().map(|detection| value(detection) * detection.score).sum::<f32>() / total
    };
    let bbox = BBox {
        x: average(&|d| d.bbox.x),
        y: average(&|d| d.bbox.y),
        w: average(&|d| d.bbox.w),
        h: average(&|d| d.bbox.h),
    };
    let landmarks = group.iter().all(|detection| detection.landmarks.is_some()).then(|| {
        let point = |choose: fn(&FaceLandmarks) -> Point| Point {
            x: average(&|d| d.landmarks.as_ref().map_or(0.0, |landmarks| choose(landmarks).x)),
            y: average(&|d| d.landmarks.as_ref().map_or(0.0, |landmarks| choose(landmarks).y)),
        };
        FaceLandmarks {
            right_eye: point(|l| l.right_eye),
            left_eye: point(|l| l.left_eye),
            nose: point(|l| l.nose),
            mouth: point(|l| l.mouth),
        }
    });
    Detection { bbox, landmarks, ..group[0].clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    fn object(class: u16, score: f32, [x, y, w, h]: [f32; 4]) -> Detection {
        Detection { kind: Kind::Object, class, score, bbox: BBox { x, y, w, h }, landmarks: None }
    }

    fn scores(detections: &[Detection]) -> Vec<f32> {
        detections.iter().map(|detection| detection.score).collect()
    }

    const SQUARE: [f32; 4] = [0.0, 0.0, 10.0, 10.0];
    const SHIFTED: [f32; 4] = [1.0, 0.0, 10.0, 10.0];
    const AWAY: [f32; 4] = [50.0, 0.0, 10.0, 10.0];

    #[test]
    fn suppresses_within_a_class() {
        let cases: [(&str, Vec<Detection>, f32, Vec<f32>); 6] = [
            ("none", vec![], 0.5, vec![]),
            ("overlap", vec![object(0, 0.6, SQUARE), object(0, 0.9, SHIFTED)], 0.5, vec![0.9]),
            ("apart", vec![object(0, 0.6, SQUARE), object(0, 0.9, AWAY)], 0.5, vec![0.9, 0.6]),
            ("two classes", vec![object(0, 0.6, SQUARE), object(1, 0.9, SQUARE)], 0.5, vec![0.9, 0.6]),
            ("tolerant", vec![object(0, 0.6, SQUARE), object(0, 0.9, SHIFTED)], 0.9, vec![0.9, 0.6]),
            ("never", vec![object(0, 0.6, SQUARE), object(0, 0.9, SQUARE)], 1.0, vec![0.9, 0.6]),
        ];
        for (name, detections, iou, expected) in cases {
            assert_eq!(scores(&suppress(detections.clone(), iou)), expected, "suppress: {name}");
            assert_eq!(scores(&blend(detections, iou)), expected, "blend: {name}");
        }
    }

    #[test]
    fn blends_boxes_and_landmarks_by_score() {
        let face = |score: f32, x: f32| {
            let eye = Point { x: x + 2.0, y: 4.0 };
            let landmarks = Some(FaceLandmarks { right_eye: eye, left_eye: eye, nose: eye, mouth: eye });
            Detection { kind: Kind::Face, landmarks, ..object(0, score, [x, 0.0, 10.0, 10.0]) }
        };
        let blended = blend(vec![face(0.25, 4.0), face(0.75, 0.0)], 0.3);
        assert_eq!(blended.len(), 1);
        assert_eq!((blended[0].score, blended[0].bbox.x, blended[0].bbox.w), (0.75, 1.0, 10.0));
        assert_eq!(blended[0].landmarks.unwrap().nose, Point { x: 3.0, y: 4.0 });
    }

    #[test]
    fn ends_whatever_it_is_given() {
        for bbox in [[0.0; 4], [f32::NAN; 4], [f32::INFINITY; 4], [0.0, 0.0, -1.0, -1.0]] {
            for score in [0.0, 0.5, f32::NAN, f32::INFINITY] {
                let detections = vec![object(0, score, bbox); 400];
                assert!(suppress(detections.clone(), 0.5).len() <= MAX_CANDIDATES);
                assert!(blend(detections, 0.5).len() <= MAX_CANDIDATES);
            }
        }
    }
}
