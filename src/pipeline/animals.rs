//! A face that the object detector knows to be an animal's.
//!
//! Face detectors take those of cats, dogs and bears for people's. Where both models looked at a picture, such a face is left out.

use crate::frame::{BBox, Detection, Kind};

/// COCO's animals, and the toy that looks like one.
const ANIMALS: [&str; 11] =
    ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "teddy bear"];
const PERSON: &str = "person";
/// The part of a face (0 to 1) that must lie in a thing's box to be that thing's.
const INSIDE: f32 = 0.8;
/// A face of this score is a person's, whoever stands before it: animals reached 0.78 in the pictures that were tried, portraits 0.87
/// and more.
const SURE: f32 = 0.85;

/// Removes faces that lie in an animal and in no person. `labels` are those of the objects' classes.
pub fn leave_out_faces(detections: &mut Vec<Detection>, labels: &[String]) {
    let label = |thing: &Detection| labels.get(usize::from(thing.class)).map_or("", String::as_str);
    let boxes = |is_wanted: &dyn Fn(&str) -> bool| -> Vec<BBox> {
        let things = detections.iter().filter(|thing| thing.kind == Kind::Object && is_wanted(label(thing)));
        things.map(|thing| thing.bbox).collect()
    };
    let animals = boxes(&|label| ANIMALS.contains(&label));
    if animals.is_empty() {
        return;
    }
    let people = boxes(&|label| label == PERSON);
    detections.retain(|face| {
        let is_in = |thing: &BBox| face.bbox.intersection(thing) >= INSIDE * face.bbox.area();
        face.kind != Kind::Face
            || face.score >= SURE
            || !animals.iter().any(is_in)
            || people.iter().any(is_in)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(kind: Kind, class: u16, score: f32, [x, y, w, h]: [f32; 4]) -> Detection {
        Detection { kind, class, score, bbox: BBox { x, y, w, h }, landmarks: None }
    }

    #[test]
    fn an_animals_face_is_left_out_and_a_persons_is_not() {
        let labels = ["person", "cat", "cup"].map(str::to_owned);
        let face = |score| detection(Kind::Face, 0, score, [40.0, 40.0, 20.0, 20.0]);
        let thing = |class, bbox| detection(Kind::Object, class, 0.5, bbox);
        let around = [20.0, 20.0, 60.0, 60.0];
        for (things, score, is_kept) in [
            (vec![], 0.6, true),
            (vec![thing(1, around)], 0.78, false),
            (vec![thing(1, around)], 0.9, true),
            // Of another class, or of one that nobody named.
            (vec![thing(2, around)], 0.6, true),
            (vec![thing(7, around)], 0.6, true),
            // Beside the face.
            (vec![thing(1, [50.0, 20.0, 60.0, 60.0])], 0.6, true),
            // A person who holds the cat, and one who stands elsewhere.
            (vec![thing(1, around), thing(0, [0.0, 30.0, 90.0, 90.0])], 0.6, true),
            (vec![thing(1, around), thing(0, [90.0, 0.0, 60.0, 60.0])], 0.6, false),
        ] {
            let mut detections = vec![face(score)];
            detections.extend(things.clone());
            leave_out_faces(&mut detections, &labels);
            let faces = detections.iter().filter(|found| found.kind == Kind::Face).count();
            assert_eq!((faces == 1, detections.len() - faces), (is_kept, things.len()), "{things:?} {score}");
        }
    }
}
