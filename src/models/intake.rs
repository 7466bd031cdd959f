//! Takes a model in: checks the file, tries it, makes its manifest, and, for the command line, stores it.
//!
//! Bytes and wishes in, a manifest or a [`Refusal`] with a stable code out. An upload goes the same way and ends in the
//! registry. It blocks its caller for as long as the trial takes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::check::{self, CheckError, Summary};
use super::heads::recognise::{self, Recognised, Signature, Unclear, Wishes};
use super::manifest::{Manifest, ManifestError, Provenance, TrialRecord};
use super::receipt::Receipt;
use super::store::{Addition, Store, StoreError, Stored, sha256};
use super::trial::{self, Limits, Report, Request, Trial, TrialError};

/// What trials are made on unless a person gives another picture: a portrait of the astronaut Eileen Collins
/// (NASA, public domain).
pub const PICTURE: &[u8] = include_bytes!("../../models/trial.jpg");

/// Why a model was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Unclear(#[from] Unclear),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("its manifest would not be valid")]
    Manifest(#[from] ManifestError),
    #[error("it could not be stored")]
    Store(#[from] StoreError),
}

impl Refusal {
    /// The word by which programs know the reason; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Check(error) => error.code(),
            Self::Unclear(_) => "unclear",
            Self::Trial(error) => error.code(),
            Self::Manifest(_) => "manifest",
            Self::Store(_) => "store",
        }
    }
}

/// What models are taken in with.
#[derive(Clone, Debug)]
pub struct Intake {
    /// The vigie that runs trials.
    pub program: PathBuf,
    /// The ONNX Runtime library.
    pub runtime: PathBuf,
    pub limits: Limits,
}

/// A model to be taken in.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    pub name: &'a str,
    pub onnx: &'a [u8],
    pub wishes: Wishes,
    pub provenance: Provenance,
    /// What it is tried on: a picture file.
    pub picture: &'a [u8],
}

/// A model that passed: what is to be kept, and what was found out.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its version is that of whoever keeps it.
    pub manifest: Manifest,
    /// The trial's picture with what was found drawn on it, a JPEG.
    pub drawn: Vec<u8>,
    pub summary: Summary,
    pub report: Report,
    pub notes: Vec<String>,
    pub check: Duration,
    pub trial: Duration,
}

/// A model that was taken into a folder.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub stored: Stored,
    pub receipt: Receipt,
}

impl Intake {
    /// Checks and tries `candidate`; nothing is stored.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn examine(&self, candidate: &Candidate) -> Result<Examined, Refusal> {
        let started = Instant::now();
        let summary = check::check(candidate.onnx)?;
        let signature = Signature::of(&summary);
        let feed = recognise::input(&signature, &candidate.wishes)?;
        // A name that cannot be is told before the trial, not after.
        Manifest::check_name(candidate.name)?;
        let checked = Instant::now();

        let request = Request {
            signature,
            wishes: candidate.wishes.clone(),
            picture_bytes: candidate.picture.len(),
            model_bytes: candidate.onnx.len(),
        };
        let report = trial::run(&Trial {
            program: &self.program,
            runtime: &self.runtime,
            request: &request,
            picture: candidate.picture,
            model: candidate.onnx,
            limits: self.limits,
        })?;
        let recognised = recognise::head(&request.signature, &feed, &report.outputs, &candidate.wishes)?;
        let drawn = BASE64_STANDARD.decode(&report.picture).map_err(|_| TrialError::NoAnswer)?;
        let (manifest, notes) = manifest(candidate, recognised, &report);
        manifest.validate()?;
        let (check, trial) = (checked - started, checked.elapsed());
        Ok(Examined { manifest, drawn, summary, report, notes, check, trial })
    }

    /// Takes `candidate` into a folder as the next version of its name.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is stored then.
    pub fn admit(&self, candidate: &Candidate, store: &Store) -> Result<Admitted, Refusal> {
        let examined = self.examine(candidate)?;
        let examined_at = Instant::now();
        let Addition { stored, was_known } =
            store.add(&examined.manifest, candidate.onnx, &examined.drawn)?;
        let took = examined_at.elapsed();
        let receipt = Receipt::new(&examined, stored.manifest.clone(), was_known, took);
        Ok(Admitted { stored, receipt })
    }
}

fn manifest(candidate: &Candidate, found: Recognised, report: &Report) -> (Manifest, Vec<String>) {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let record = TrialRecord {
        at,
        load_ms: report.load_ms,
        p50_ms: report.p50_ms,
        runs: report.runs,
        detections: report.findings.len() as u32,
    };
    let Recognised { head, task, labels, input, thresholds, notes } = found;
    let manifest = Manifest {
        name: candidate.name.to_owned(),
        // The store says which.
        version: 1,
        task,
        labels,
        input,
        head,
        thresholds,
        provenance: candidate.provenance.clone(),
        sha256: sha256(candidate.onnx),
        trial: Some(record),
    };
    (manifest, notes)
}

/// A name for a model from its file's.
pub fn name_from(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let name: String = plain.trim_matches('-').chars().take(64).collect();
    if name.is_empty() { "model".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_give_their_models_names() {
        for (path, name) in
            [("a/FastestDet.onnx", "fastestdet"), ("yolo v8n.x.onnx", "yolo-v8n-x"), ("é.onnx", "model")]
        {
            assert_eq!(name_from(Path::new(path)), name);
        }
    }

    #[test]
    fn the_built_in_picture_is_one() {
        assert!(image::load_from_memory(PICTURE).is_ok());
    }
}
