//! `manifest.json`: everything vigie needs to know about a model file besides its weights.
//!
//! It stands beside `model.onnx` in `<models>/<name>/<version>/`.

use serde::{Deserialize, Serialize};

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    Faces,
    Gender,
    Objects,
}

/// How the model's outputs are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    Blazeface,
    Faceres,
    Centernet,
}

/// The element type and order of the input tensor. All normalisation is inside the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputFormat {
    /// `uint8 [N, H, W, 3]`, RGB, 0 to 255.
    RgbU8Nhwc,
}

/// How a picture is brought to the input's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Scaled to fit, centred, the rest filled with `fill` (0 to 255 in all channels).
    Centre { fill: u8 },
    /// Scaled to fit, at the top left; each side may shrink to the next multiple of `multiple`.
    TopLeft { fill: u8, multiple: u32 },
    /// A square crop around a face, its side `scale_percent` of the face box's longer side.
    FaceCrop { scale_percent: u32 },
}

/// The input tensor of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The graph's input name.
    pub name: String,
    pub format: InputFormat,
    /// Pixels: the longer side, and the shorter one too unless `fit` lets it shrink.
    pub size: u32,
    pub fit: Fit,
}

/// Where decisions fall. Scores are 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// Detections below are not reported.
    pub score: f32,
    /// Non-maximum suppression removes boxes that overlap a better one by more.
    pub iou: f32,
    /// Two-class appearance: at or above `upper` the first label, at or below `lower` the second, between them "unsure".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsure: Option<(f32, f32)>,
    /// Pixels: boxes narrower are not classified.
    pub min_width: f32,
}

/// Where a model comes from and on what terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub source: String,
    pub upstream: String,
    pub licence: String,
    /// What is not known or not verified about the licence, in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence_note: String,
}

/// The manifest of one version of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    /// A positive integer; the newest is the highest.
    pub version: u32,
    pub task: Task,
    /// Index = class.
    pub labels: Vec<String>,
    pub input: Input,
    pub head: Head,
    pub thresholds: Thresholds,
    pub provenance: Provenance,
    /// Hexadecimal SHA-256 of `model.onnx`.
    pub sha256: String,
}
