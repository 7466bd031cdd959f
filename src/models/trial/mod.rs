//! Tries a model in a process of its own, which may do nothing but compute and cannot harm this one.
//!
//! [`run`] starts the child (`vigie models trial`), hands it the checked bytes over a pipe, holds it to
//! [`Limits`], and reads its [`Report`]. [`confine`] is the child's side of those limits. What the child does
//! in between, running the model on a picture and drawing what it finds, stands with the commands, since it
//! goes through the same stages as a live frame.
//!
//! The child's words are not believed: they are bounded and parsed, and what a model is to be read as is
//! worked out here again from the shapes that it reports.

pub mod confine;
mod parent;

use serde::{Deserialize, Serialize};

use super::heads::recognise::{Shape, Signature, Unclear, Wishes};
pub use parent::{Trial, run};

/// What the child may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space besides four times the model's own size.
    pub memory_bytes: u64,
    pub cpu_seconds: u64,
    /// From start to end, however busy the machine is.
    pub wall_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu_seconds: 60, wall_seconds: 120 }
    }
}

impl Limits {
    /// Megabytes besides four times the model, and seconds of CPU time; twice as many may pass.
    pub fn of(megabytes: u64, seconds: u64) -> Self {
        Self { memory_bytes: megabytes << 20, cpu_seconds: seconds, wall_seconds: 2 * seconds }
    }

    /// Address space for the trial of a model of `bytes`.
    pub fn address_space(&self, bytes: usize) -> u64 {
        self.memory_bytes.saturating_add((bytes as u64).saturating_mul(4))
    }
}

/// What the child is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub signature: Signature,
    pub wishes: Wishes,
    /// Of the picture and of the model, which follow this request.
    pub picture_bytes: usize,
    pub model_bytes: usize,
}

/// What the child answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Report(Report),
    Refused(Reason),
}

/// Why the child refuses a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    #[error("ONNX Runtime does not load it: {message}")]
    NotLoaded { message: String },
    #[error("ONNX Runtime does not run it: {message}")]
    NotRun { message: String },
    #[error("it takes more memory than a trial may: {message}")]
    OutOfMemory { message: String },
    #[error("output {output} is not a number for {picture}")]
    NotANumber { output: String, picture: String },
    #[error(transparent)]
    Unclear(Unclear),
    #[error("its outputs cannot be read: {message}")]
    Unreadable { message: String },
    #[error("the picture to try it on cannot be read: {message}")]
    Picture { message: String },
    #[error("the trial itself failed: {message}")]
    Fault { message: String },
}

/// One thing that the model found in the trial's picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub label: String,
    pub score: f32,
    /// `[x, y, w, h]` in pixels; none from a classifier.
    #[serde(rename = "box", default, skip_serializing_if = "Option::is_none")]
    pub bbox: Option<[f32; 4]>,
}

/// What a trial showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub load_ms: f32,
    pub first_run_ms: f32,
    /// Median of the runs on the picture.
    pub p50_ms: f32,
    pub runs: u32,
    /// The most memory that the child held at once.
    pub peak_bytes: u64,
    pub outputs: Vec<Shape>,
    /// Best first.
    pub findings: Vec<Finding>,
    /// The picture with what was found drawn on it, a JPEG in base64.
    pub picture: String,
}

/// Why a trial gave no report.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("the trial could not be started")]
    NotStarted(#[source] std::io::Error),
    #[error(transparent)]
    Refused(#[from] Reason),
    #[error("it was not done after {0} seconds")]
    WallTime(u64),
    #[error("it used its {0} seconds of CPU time and was not done")]
    CpuTime(u64),
    #[error("it crashed ({how}){said}")]
    Crashed { how: String, said: String },
    #[error("the trial's answer cannot be read")]
    NoAnswer,
}

impl TrialError {
    /// The word by which programs know the reason; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotStarted(_) => "trial_not_started",
            Self::Refused(reason) => match reason {
                Reason::NotLoaded { .. } => "not_loaded",
                Reason::NotRun { .. } => "not_run",
                Reason::OutOfMemory { .. } => "out_of_memory",
                Reason::NotANumber { .. } => "not_a_number",
                Reason::Unclear(_) => "unclear",
                Reason::Unreadable { .. } => "unreadable_outputs",
                Reason::Picture { .. } => "picture",
                Reason::Fault { .. } => "trial_fault",
            },
            Self::WallTime(_) => "wall_time",
            Self::CpuTime(_) => "cpu_time",
            Self::Crashed { .. } => "crashed",
            Self::NoAnswer => "no_answer",
        }
    }
}
