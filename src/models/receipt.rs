//! What somebody who adds a model is told, on the command line and over HTTP alike.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::heads::recognise::Shape;
use super::intake::Examined;
use super::manifest::Manifest;
use super::trial::Finding;

/// A model that was added: its version, and what its check and its trial showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub name: String,
    pub version: u32,
    /// Whether this very version was there already.
    pub was_known: bool,
    pub manifest: Manifest,
    pub file: FileFacts,
    pub trial: TrialFacts,
    pub notes: Vec<String>,
    pub took_ms: Took,
}

/// What the check read of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    pub bytes: usize,
    pub producer: String,
    pub opset: i64,
    pub nodes: usize,
    pub parameters: u64,
}

/// What the trial showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialFacts {
    pub load_ms: f32,
    pub first_run_ms: f32,
    /// Median of `runs`, with one thread.
    pub p50_ms: f32,
    pub runs: u32,
    pub peak_bytes: u64,
    pub outputs: Vec<Shape>,
    /// Best first.
    pub findings: Vec<Finding>,
}

/// Milliseconds that each step took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Took {
    pub check: f64,
    pub trial: f64,
    pub store: f64,
}

/// A receipt with where the trial's picture, and the model itself, are to be found.
#[derive(Clone, Debug, Serialize)]
pub struct PlacedReceipt<'a> {
    #[serde(flatten)]
    pub receipt: &'a Receipt,
    /// An address of the service, or a file.
    pub picture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Receipt {
    /// Tells of a model that was kept as `manifest`, which took `store`.
    pub fn new(examined: &Examined, manifest: Manifest, was_known: bool, store: Duration) -> Self {
        let Examined { summary, report, notes, check, trial, .. } = examined;
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        Self {
            name: manifest.name.clone(),
            version: manifest.version,
            was_known,
            manifest,
            file: FileFacts {
                bytes: summary.bytes,
                producer: summary.producer.clone(),
                opset: summary.opset,
                nodes: summary.nodes,
                parameters: summary.parameters,
            },
            trial: TrialFacts {
                load_ms: report.load_ms,
                first_run_ms: report.first_run_ms,
                p50_ms: report.p50_ms,
                runs: report.runs,
                peak_bytes: report.peak_bytes,
                outputs: report.outputs.clone(),
                findings: report.findings.clone(),
            },
            notes: notes.clone(),
            took_ms: Took { check: ms(*check), trial: ms(*trial), store: ms(store) },
        }
    }
}
