//! `manifest.json`: everything vigie needs to know about a model file besides its weights.
//!
//! It stands beside `model.onnx` in `<models>/<name>/<version>/`.

use std::collections::BTreeSet;
use std::str::FromStr;

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
    #[error("a graph for batches of {0}; only those of 1, or of any number, can be used")]
    Batch(u32),
    #[error("{name} has {value}, which is no number of pixel values, or is 0 where it divides")]
    Normalisation { name: &'static str, value: f32 },
    #[error("threshold {name} is {value}, not {expected}")]
    Threshold { name: &'static str, value: f32, expected: &'static str },
    #[error("sha256 {0:?} is not 64 hexadecimal digits")]
    Digest(String),
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    Faces,
    /// Apparent gender of a face: how it looks to the model, never a statement about the person.
    Gender,
    Objects,
    /// What a whole crop or picture shows, of a list of labels.
    Classes,
    /// Where lines of text stand.
    TextDetect,
    /// What one line of text says; the labels are its characters.
    TextRead,
}

impl Task {
    /// Those that are asked of every picture, and that vigie cannot do without a model for.
    pub const ALL: [Self; 3] = [Self::Faces, Self::Gender, Self::Objects];

    /// The name in manifests and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faces => "faces",
            Self::Gender => "gender",
            Self::Objects => "objects",
            Self::Classes => "classes",
            Self::TextDetect => "text-detect",
            Self::TextRead => "text-read",
        }
    }
}

impl FromStr for Task {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Faces, Self::Gender, Self::Objects, Self::Classes, Self::TextDetect, Self::TextRead];
        let found = all.into_iter().find(|task| task.name() == text);
        found.ok_or_else(|| UnknownName::new("task", text, all.map(Self::name)))
    }
}

/// A word for something that there is no such kind of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is none of {known}")]
pub struct UnknownName {
    what: &'static str,
    text: String,
    known: String,
}

impl UnknownName {
    fn new(what: &'static str, text: &str, known: impl IntoIterator<Item = &'static str>) -> Self {
        Self { what, text: text.to_owned(), known: known.into_iter().collect::<Vec<_>>().join(", ") }
    }
}

/// How the model's outputs are to be read; `src/models/heads/` has a file for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    Blazeface,
    Faceres,
    Centernet,
    /// YOLOv8, 11 and 26: `[N, 4 + classes, anchors]`, boxes by centre and size, in pixels of the input.
    Yolo,
    /// YOLOv5 and v7: `[N, anchors, 5 + classes]`, the fifth being how surely there is anything.
    YoloV5,
    /// YOLOv10 and 26: `[N, 300, 6]`, boxes by corners, score, class; nothing is left to suppress.
    YoloEnd2end,
    /// `[N, anchors, 5 + classes]`, boxes relative to their cells.
    Yolox,
    /// The same with boxes already in pixels of the input.
    YoloxDecoded,
    /// RT-DETR as Ultralytics exports it: `[N, queries, 4 + classes]`, boxes as parts of the input.
    DetrRows,
    /// RT-DETR as Ultralytics exports it since 8.4: `[N, queries, 6]`, boxes by centre and size as parts of the
    /// input, score, class.
    DetrEnd2end,
    /// `logits [N, queries, classes]` and boxes `[N, queries, 4]` by centre and size, as parts of the input.
    Detr,
    /// Boxes by corners in pixels of the input, scores and classes, each an output.
    Boxes,
    /// TensorFlow's: boxes by `y0, x0, y1, x1` as parts of the input, scores and classes.
    Ssd,
    Yunet,
    Fastestdet,
    Scrfd,
    Retinaface,
    /// `[N, classes]`: probabilities, or logits that become such.
    Classifier,
    /// Differentiable binarisation (Liao et al., 2020): `[N, 1, H, W]`, how surely each pixel is of a text line.
    Db,
    /// `[N, steps, 1 + labels]`: a character or a blank (class 0) at each step along a line.
    Ctc,
}

impl Head {
    pub const ALL: [Self; 20] = [
        Self::Blazeface,
        Self::Faceres,
        Self::Centernet,
        Self::Yolo,
        Self::YoloV5,
        Self::YoloEnd2end,
        Self::Yolox,
        Self::YoloxDecoded,
        Self::DetrRows,
        Self::DetrEnd2end,
        Self::Detr,
        Self::Boxes,
        Self::Ssd,
        Self::Yunet,
        Self::Fastestdet,
        Self::Scrfd,
        Self::Retinaface,
        Self::Classifier,
        Self::Db,
        Self::Ctc,
    ];

    /// What models with such outputs are for, unless their manifest says otherwise.
    pub fn task(self) -> Task {
        match self {
            Self::Blazeface | Self::Yunet | Self::Scrfd | Self::Retinaface => Task::Faces,
            Self::Faceres => Task::Gender,
            Self::Classifier => Task::Classes,
            Self::Db => Task::TextDetect,
            Self::Ctc => Task::TextRead,
            _ => Task::Objects,
        }
    }

    /// Whether a model with such outputs can be for `task`: a detector of any objects may have been trained
    /// on faces alone.
    pub fn serves(self, task: Task) -> bool {
        let is_general = self.task() == Task::Objects && self != Self::Centernet;
        self.task() == task || is_general && task == Task::Faces
    }

    /// The name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blazeface => "blazeface",
            Self::Faceres => "faceres",
            Self::Centernet => "centernet",
            Self::Yolo => "yolo",
            Self::YoloV5 => "yolo-v5",
            Self::YoloEnd2end => "yolo-end2end",
            Self::Yolox => "yolox",
            Self::YoloxDecoded => "yolox-decoded",
            Self::DetrRows => "detr-rows",
            Self::DetrEnd2end => "detr-end2end",
            Self::Detr => "detr",
            Self::Boxes => "boxes",
            Self::Ssd => "ssd",
            Self::Yunet => "yunet",
            Self::Fastestdet => "fastestdet",
            Self::Scrfd => "scrfd",
            Self::Retinaface => "retinaface",
            Self::Classifier => "classifier",
            Self::Db => "db",
            Self::Ctc => "ctc",
        }
    }
}

impl FromStr for Head {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|head| head.name() == text);
        found.ok_or_else(|| UnknownName::new("head", text, Self::ALL.map(Self::name)))
    }
}

/// The element type and order of the input tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputFormat {
    /// `uint8 [N, H, W, 3]`, RGB, 0 to 255; all normalisation is inside the graph.
    RgbU8Nhwc,
    /// 32-bit floats.
    Float(FloatFormat),
}

/// How 32-bit floats are made of pixels: `(pixel - mean) / std`, pixels being 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FloatFormat {
    pub layout: Layout,
    pub channels: Channels,
    /// In the order of `channels`, as is `std`.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// The order of a tensor's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    Nchw,
    Nhwc,
}

/// The order of a pixel's colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    Rgb,
    Bgr,
}

/// How a picture is brought to the input's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Scaled to fit, centred, the rest filled with `fill` (0 to 255 in all channels).
    Centre { fill: u8 },
    /// Scaled to fit, at the top left; each side may shrink to the next multiple of `multiple`.
    TopLeft { fill: u8, multiple: u32 },
    /// Scaled to fill the input, whatever that does to its proportions.
    Stretch,
    /// A square crop around a face, its side `scale_percent` of the face box's longer side.
    FaceCrop { scale_percent: u32 },
    /// One line of text, scaled to the input's height; what it leaves of the input's width is filled with
    /// `fill`, and a longer line makes the input wider.
    Line { fill: u8 },
}

/// The input tensor of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The graph's input name.
    pub name: String,
    pub format: InputFormat,
    /// Pixels: the longer side, and the shorter one too unless `fit` lets it shrink; the width where `height`
    /// is given.
    pub size: u32,
    /// Pixels, where the input is no square.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Pictures a run, where the graph fixes their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Name of a second input, `int64 [N, 2]`, that is given the input's width and height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_input: Option<String>,
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

impl Provenance {
    /// What whoever adds a model says of it.
    pub fn stated(source: &str, licence: Option<&str>) -> Self {
        Self {
            source: source.to_owned(),
            upstream: String::new(),
            licence: licence.unwrap_or("not stated").to_owned(),
            licence_note: String::new(),
        }
    }
}

/// What a model did when it was added, on that machine's CPU, with one thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// Seconds since 1970.
    pub at: u64,
    pub load_ms: f32,
    /// Median of `runs` runs on one picture.
    pub p50_ms: f32,
    pub runs: u32,
    /// What it found in the picture.
    pub detections: u32,
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
    /// For models that were added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRecord>,
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
        Self::check_name(&self.name)?;
        if self.version == 0 {
            return Err(ManifestError::Version);
        }
        if !self.head.serves(self.task) {
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

    /// Whether a model can be called `name`.
    pub fn check_name(name: &str) -> Result<(), ManifestError> {
        let name_fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        match (1..=64).contains(&name.len()) && name.chars().all(name_fits) {
            true => Ok(()),
            false => Err(ManifestError::Name(name.to_owned())),
        }
    }

    fn validate_labels(&self) -> Result<(), ManifestError> {
        let labels = self.labels.len();
        let (fits, expected) = match self.task {
            Task::Faces => (labels == 1, "a face detector has one"),
            Task::Gender => (labels == 2, "apparent gender has two"),
            // Detections hold a class in 16 bits.
            Task::Objects => ((1..=0xffff).contains(&labels), "an object detector has 1 to 65535"),
            Task::Classes => ((2..=0xffff).contains(&labels), "a classifier has 2 to 65535"),
            Task::TextDetect => (labels == 1, "a text detector has one"),
            Task::TextRead => ((1..0xffff).contains(&labels), "a text reader has 1 to 65534 characters"),
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
        let Input { size, height, batch, .. } = self.input;
        let fits_multiple = match self.input.fit {
            Fit::TopLeft { multiple, .. } => multiple > 0 && size.is_multiple_of(multiple),
            Fit::Centre { .. } | Fit::Stretch => true,
            Fit::Line { .. } => height.is_some(),
            Fit::FaceCrop { scale_percent } => height.is_none() && (50..=400).contains(&scale_percent),
        };
        if !(32..=4096).contains(&size) || !fits_multiple {
            return Err(ManifestError::InputSize(size));
        }
        if let Some(height) = height.filter(|height| !(32..=4096).contains(height)) {
            return Err(ManifestError::InputSize(height));
        }
        if let Some(batch) = batch.filter(|batch| *batch != 1) {
            return Err(ManifestError::Batch(batch));
        }
        match self.input.format {
            InputFormat::Float(format) => format.validate(),
            InputFormat::RgbU8Nhwc => Ok(()),
        }
    }
}

impl FloatFormat {
    fn validate(&self) -> Result<(), ManifestError> {
        for (name, values, least) in [("mean", self.mean, -65536.0), ("std", self.std, 1e-3)] {
            if let Some(&value) = values.iter().find(|value| !(least..=65536.0).contains(*value)) {
                return Err(ManifestError::Normalisation { name, value });
            }
        }
        Ok(())
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
    fn every_head_is_called_the_same_in_manifests_and_on_the_command_line() {
        for head in Head::ALL {
            assert_eq!(head.name().parse(), Ok(head));
            assert_eq!(serde_json::to_value(head).unwrap(), head.name());
        }
        let error = "yolov99".parse::<Head>().unwrap_err().to_string();
        assert!(error.contains("\"yolov99\"") && error.contains("yolo-end2end"), "{error}");
    }

    #[test]
    fn floats_are_normalised_by_numbers_that_can_be() {
        let format =
            FloatFormat { layout: Layout::Nchw, channels: Channels::Bgr, mean: [0.0; 3], std: [255.0; 3] };
        let with = |format| {
            let mut manifest = centernet();
            manifest.input.format = InputFormat::Float(format);
            manifest
        };
        let manifest = with(format);
        assert_eq!(Manifest::read(manifest.to_json().as_bytes()).unwrap(), manifest);
        for wrong in [
            FloatFormat { std: [255.0, 0.0, 255.0], ..format },
            FloatFormat { mean: [f32::NAN; 3], ..format },
        ] {
            assert!(matches!(with(wrong).validate(), Err(ManifestError::Normalisation { .. })));
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
