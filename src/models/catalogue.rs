//! The models that vigie brings by itself: how each is made from the package that carries it, and what
//! its manifest says.
//!
//! Figures are from the models' own cards and from measurements; `models/README.md` has the sources.

use super::convert::{Ending, Normalisation, Recipe};
use super::manifest::{Fit, Head, Input, InputFormat, Manifest, Provenance, Thresholds};

/// A model of the package.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the model, and of its two files in the package.
    pub name: &'static str,
    /// Rises when the recipe or the manifest changes, so that an older installation fetches anew.
    pub version: u32,
    pub recipe: Recipe,
    /// Of the converted file. The conversion gives the same bytes everywhere, so anything else is a
    /// fault in it.
    pub sha256: &'static str,
    head: Head,
    labels: &'static [&'static str],
    size: u32,
    fit: Fit,
    thresholds: Thresholds,
    upstream: &'static str,
}

/// Faces, apparent gender, objects.
pub static MODELS: [Entry; 3] = [
    Entry {
        name: "blazeface",
        version: 1,
        recipe: Recipe {
            normalisation: Normalisation::Affine { scale: 1.0 / 127.5, offset: -1.0 },
            free_size: false,
            ending: Ending::Nodes(&[
                ("Identity", "Identity"),
                ("Identity_1", "Identity_1"),
                ("Identity_2", "Identity_2"),
                ("Identity_3", "Identity_3"),
            ]),
        },
        sha256: "fa66dd3cf6965a58ad23453c48d2393d40e307b6430a9bb82e623f8cff9071c3",
        head: Head::Blazeface,
        labels: &["face"],
        size: 256,
        fit: Fit::Centre { fill: 0 },
        // At 0.3 faces were seen in a building.
        thresholds: Thresholds { score: 0.5, iou: 0.3, unsure: None, min_width: 0.0 },
        upstream: "https://github.com/google/mediapipe (Apache-2.0)",
    },
    Entry {
        name: "faceres",
        version: 1,
        recipe: Recipe {
            normalisation: Normalisation::BgrMinusMean { mean_rgb: [123.68, 116.779, 103.939] },
            free_size: false,
            // Its age and its descriptor, which could tell people apart, are left behind.
            ending: Ending::Nodes(&[("gender_pred/Sigmoid", "gender_pred_Sigmoid")]),
        },
        sha256: "fbdee470b2d10b127bcde170a0c879b826e36e6e60cd4115e817c507308990a7",
        head: Head::Faceres,
        labels: &["male", "female"],
        size: 224,
        // Of 100 to 145, levelled by the eyes, none did better over some hundred faces in 27 photographs:
        // answers differ by a few hundredths, and where one was in doubt the tightest crop decided it.
        fit: Fit::FaceCrop { scale_percent: 100 },
        // Narrower faces all begin to look male to it.
        thresholds: Thresholds { score: 0.0, iou: 0.0, unsure: Some((0.35, 0.65)), min_width: 24.0 },
        upstream: "https://github.com/HSE-asavchenko/HSE_FaceRec_tf",
    },
    Entry {
        name: "centernet",
        version: 1,
        recipe: Recipe {
            normalisation: Normalisation::None,
            free_size: true,
            ending: Ending::Centernet { heatmap: "tower_0/keypoints", sizes: "tower_0/wh" },
        },
        sha256: "9573d57925d5d84c696a2a083d0992a89afaa594c91d5aed0e6f0a6d7e0e11fd",
        head: Head::Centernet,
        labels: &COCO,
        size: 512,
        fit: Fit::TopLeft { fill: 114, multiple: 32 },
        thresholds: Thresholds { score: 0.35, iou: 0.5, unsure: None, min_width: 0.0 },
        upstream: "https://github.com/610265158/mobilenetv3_centernet",
    },
];

impl Entry {
    /// The manifest of the converted model.
    pub fn manifest(&self) -> Manifest {
        Manifest {
            name: self.name.to_owned(),
            version: self.version,
            task: self.head.task(),
            labels: self.labels.iter().map(|&label| label.to_owned()).collect(),
            input: Input {
                name: "input".to_owned(),
                format: InputFormat::RgbU8Nhwc,
                size: self.size,
                height: None,
                batch: None,
                size_input: None,
                fit: self.fit,
            },
            head: self.head,
            thresholds: self.thresholds.clone(),
            provenance: Provenance {
                source: format!("npm package {} {}", super::tarball::PACKAGE, super::tarball::VERSION),
                upstream: self.upstream.to_owned(),
                licence: "MIT (the package)".to_owned(),
                licence_note:
                    "The licence of the upstream weights, and of the data they were trained on, was \
                               not verified beyond the package's own."
                        .to_owned(),
            },
            sha256: self.sha256.to_owned(),
            trial: None,
        }
    }
}

/// The 80 classes of COCO 2017 in the order of their category numbers, without the gaps.
pub(super) const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::manifest::Task;

    #[test]
    fn every_task_has_one_valid_model() {
        for entry in &MODELS {
            entry.manifest().validate().unwrap();
        }
        let mut tasks = MODELS.each_ref().map(|entry| entry.manifest().task);
        tasks.sort();
        assert_eq!(tasks, Task::ALL);
    }
}
