//! How much two detectors agree on a picture: what one found and the other found too.

use crate::frame::Detection;
use crate::measures::Agreement;

/// Boxes that overlap at least so much are of the same thing (as in PASCAL VOC's and COCO's AP50).
const LEAST_IOU: f32 = 0.5;

/// Compares what two models found in one picture. Each thing is paired once, those that overlap most first; `is_same`
/// says whether two classes, the first model's and the second's, are one.
pub fn compare(stable: &[Detection], other: &[Detection], is_same: impl Fn(u16, u16) -> bool) -> Agreement {
    let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
    for (at, one) in stable.iter().enumerate() {
        let near = other.iter().enumerate().filter(|(_, two)| is_same(one.class, two.class));
        let near = near.map(|(other_at, two)| (one.bbox.iou(&two.bbox), at, other_at));
        pairs.extend(near.filter(|(iou, ..)| *iou >= LEAST_IOU));
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut taken, mut other_taken) = (vec![false; stable.len()], vec![false; other.len()]);
    let mut both = 0;
    for (_, at, other_at) in pairs {
        if !taken[at] && !other_taken[other_at] {
            (taken[at], other_taken[other_at]) = (true, true);
            both += 1;
        }
    }
    Agreement { pictures: 1, both, stable: stable.len() as u64, other: other.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{BBox, Kind};

    fn thing(class: u16, x: f32, w: f32) -> Detection {
        let bbox = BBox { x, y: 0.0, w, h: 10.0 };
        Detection { kind: Kind::Object, class, score: 0.9, bbox, landmarks: None }
    }

    #[test]
    fn agreement_is_what_both_found() {
        let (one, two) = (|| thing(0, 0.0, 10.0), || thing(1, 50.0, 10.0));
        for (stable, other, both, f1) in [
            (vec![], vec![], 0, None),
            (vec![one()], vec![], 0, Some(0.0)),
            (vec![], vec![one()], 0, Some(0.0)),
            (vec![one(), two()], vec![two(), one()], 2, Some(1.0)),
            (vec![one(), two()], vec![one()], 1, Some(2.0 / 3.0)),
            // Half of it is enough, a third is not.
            (vec![one()], vec![thing(0, 0.0, 20.0)], 1, Some(1.0)),
            (vec![one()], vec![thing(0, 0.0, 30.0)], 0, Some(0.0)),
            (vec![one()], vec![thing(1, 0.0, 10.0)], 0, Some(0.0)),
            // The nearest is taken, and each once.
            (vec![one(), thing(0, 1.0, 10.0)], vec![thing(0, 1.0, 10.0)], 1, Some(2.0 / 3.0)),
            (vec![one()], vec![one(), one()], 1, Some(2.0 / 3.0)),
        ] {
            let found = compare(&stable, &other, |a, b| a == b);
            assert_eq!((found.both, found.f1()), (both, f1), "{stable:?} {other:?}");
        }
        // Classes count by their words.
        let found = compare(&[thing(0, 0.0, 10.0)], &[thing(7, 0.0, 10.0)], |a, b| (a, b) == (0, 7));
        assert_eq!(found, Agreement { pictures: 1, both: 1, stable: 1, other: 1 });
    }
}
