//! `manifest.json`: everything vigie needs to know about a model file besides its weights.
//!
//! It stands beside `model.onnx` in `<models>/<name>/<version>/`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Why a manifest is not one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("it cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("name {0:?} is not 1 to 64 of the characters a-z, 0-9, - and _")]
    Name(String),
    #[error("version 0 does not exist; versions begin at 1")]
    Version,
    #[error("a {head} head is not for {task}")]
    Head { head: &'static str, task: &'static str },
    #[error("{labels} labels: {expected}")]
    Labels { labels: usize, expected: &'static str },
    #[error("label {0:?} is empty, longer than 64 bytes or there twice")]
    Label(String),
    #[error("an input of {0} pixels is not 32 to 4096, or not a multiple of what its sides are multiples of")]
    InputSize(u32),
    #[error("threshold {name} is {value}, not {expected}")]
    Threshold { name: &'static str, value: f32, expected: &'static str },
    #[error("sha256 {0:?} is not 64 hexadecimal digits")]
    Digest(String),
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    Faces,
    /// Apparent gender of a face: how it looks to the model, never a statement about the person.
    Gender,
    Objects,
}

impl Task {
    pub const ALL: [Self; 3] = [Self::Faces, Self::Gender, Self::Objects];

    /// The name in manifests and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faces => "faces",
            Self::Gender => "gender",
            Self::Objects => "objects",
        }
    }
}

/// How the model's outputs are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    Blazeface,
    Faceres,
    Centernet,
}

impl Head {
    /// What models with such outputs are for.
    pub fn task(self) -> Task {
        match self {
            Self::Blazeface => Task::Faces,
            Self::Faceres => Task::Gender,
            Self::Centernet => Task::Objects,
        }
    }

    /// The name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blazeface => "blazeface",
            Self::Faceres => "faceres",
            Self::Centernet => "centernet",
        }
    }
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
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Detections below are not reported.
    pub score: f32,
    /// Non-maximum suppression removes boxes that overlap a better one by more.
    pub iou: f32,
    /// Two-class appearance, `(lower, upper)`: the output is the probability of the first label. At or
    /// above `upper` it is the first, at or below `lower` the second, between them "unsure".
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

impl Manifest {
    /// Reads and validates `manifest.json`.
    pub fn read(json: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(json).map_err(ManifestError::Unreadable)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The file's content, one field a line.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("a manifest has string keys and finite numbers");
        json + "\n"
    }

    /// Whether every value is one that vigie can work with.
    pub fn validate(&self) -> Result<(), ManifestError> {
        let name_fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(name_fits) {
            return Err(ManifestError::Name(self.name.clone()));
        }
        if self.version == 0 {
            return Err(ManifestError::Version);
        }
        if self.head.task() != self.task {
            return Err(ManifestError::Head { head: self.head.name(), task: self.task.name() });
        }
        self.validate_labels()?;
        self.validate_input()?;
        self.thresholds.validate(self.task)?;
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(ManifestError::Digest(self.sha256.clone()));
        }
        Ok(())
    }

    fn validate_labels(&self) -> Result<(), ManifestError> {
        let labels = self.labels.len();
        let (fits, expected) = match self.task {
            Task::Faces => (labels == 1, "a face detector has one"),
            Task::Gender => (labels == 2, "apparent gender has two"),
            // Detections hold a class in 16 bits.
            Task::Objects => ((1..=0xffff).contains(&labels), "an object detector has 1 to 65535"),
        };
        if !fits {
            return Err(ManifestError::Labels { labels, expected });
        }
        let mut seen = BTreeSet::new();
        match self.labels.iter().find(|label| !(1..=64).contains(&label.len()) || !seen.insert(*label)) {
            Some(label) => Err(ManifestError::Label(label.clone())),
            None => Ok(()),
        }
    }

    fn validate_input(&self) -> Result<(), ManifestError> {
        let size = self.input.size;
        let fits_multiple = match self.input.fit {
            Fit::TopLeft { multiple, .. } => multiple > 0 && size.is_multiple_of(multiple),
            Fit::Centre { .. } => true,
            Fit::FaceCrop { scale_percent } => (50..=400).contains(&scale_percent),
        };
        match (32..=4096).contains(&size) && fits_multiple {
            true => Ok(()),
            false => Err(ManifestError::InputSize(size)),
        }
    }
}

impl Thresholds {
    fn validate(&self, task: Task) -> Result<(), ManifestError> {
        let wrong = |name, value, expected| Err(ManifestError::Threshold { name, value, expected });
        for (name, value) in [("score", self.score), ("iou", self.iou)] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(name, value, "0 to 1");
            }
        }
        if !(0.0..=65536.0).contains(&self.min_width) {
            return wrong("min_width", self.min_width, "a width in pixels");
        }
        match self.unsure {
            Some((lower, upper)) if !(0.0 <= lower && lower <= upper && upper <= 1.0) => {
                wrong("unsure", lower, "a lower and an upper bound, 0 to 1")
            }
            None if task == Task::Gender => wrong("unsure", f32::NAN, "there, as apparent gender needs it"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::catalogue;

    fn centernet() -> Manifest {
        let entry = catalogue::MODELS.iter().find(|entry| entry.name == "centernet");
        entry.expect("the catalogue has centernet").manifest()
    }

    #[test]
    fn a_written_manifest_reads_back() {
        for entry in &catalogue::MODELS {
            let manifest = entry.manifest();
            assert_eq!(Manifest::read(manifest.to_json().as_bytes()).unwrap(), manifest);
        }
    }

    #[test]
    fn what_cannot_be_worked_with_is_named() {
        type Spoil = fn(&mut Manifest);
        let cases: [(Spoil, &str); 14] = [
            (|m| m.name = "../escape".into(), "../escape"),
            (|m| m.name = String::new(), "\"\""),
            (|m| m.version = 0, "version 0"),
            (|m| m.task = Task::Faces, "a centernet head is not for faces"),
            (|m| m.labels.clear(), "0 labels"),
            (|m| m.labels[1] = "person".into(), "\"person\""),
            (|m| m.labels[1] = String::new(), "label \"\""),
            (|m| m.input.size = 500, "500 pixels"),
            (|m| m.input.size = 0, "0 pixels"),
            (|m| m.input.fit = Fit::TopLeft { fill: 0, multiple: 0 }, "512 pixels"),
            (|m| m.thresholds.score = 1.5, "score is 1.5"),
            (|m| m.thresholds.iou = f32::NAN, "iou is NaN"),
            (|m| m.thresholds.unsure = Some((0.7, 0.3)), "unsure is 0.7"),
            (|m| m.sha256.truncate(63), "64 hexadecimal digits"),
        ];
        for (spoil, expected) in cases {
            let mut manifest = centernet();
            spoil(&mut manifest);
            let error = manifest.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
    }

    #[test]
    fn a_misspelt_threshold_is_not_ignored() {
        let json = centernet().to_json().replace("\"score\"", "\"scroe\"");
        let error = Manifest::read(json.as_bytes()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("scroe"), "{source}");
    }
}
