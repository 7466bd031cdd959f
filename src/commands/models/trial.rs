//! `vigie models trial`: the child that tries a model; started by [`crate::models::trial`], not by people.
//!
//! It loads ONNX Runtime, reads everything it needs from its standard input, gives up every other right, and
//! only then looks at the model: runs it, reads it with the head that it seems to have, and draws what it
//! found. The same stages work here as on a live frame.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;

use crate::files::image::{self, Format};
use crate::frame::{Detection, I420Buffer, Picture};
use crate::inference::engine::{Engine, EngineError};
use crate::inference::ort::{OrtEngine, Runtime};
use crate::inference::tensor::{Outputs, Tensor};
use crate::models::heads::classifier;
use crate::models::heads::recognise::{self, Feed, Recognised, Shape};
use crate::models::manifest::{Head, Layout, Manifest, Provenance, Task};
use crate::models::trial::{Answer, Finding, Reason, Report, Request, confine};
use crate::pipeline::detect::detect;
use crate::pipeline::draw::{DrawnTrack, caption_of, colour_of, draw};
use crate::pipeline::prepare::prepare;
use crate::pipeline::report::Attributes;

/// Runs of which the median is told, at least and at most, and how long they may take together.
const RUNS: std::ops::RangeInclusive<usize> = 5..=50;
const RUNS_LAST: Duration = Duration::from_secs(2);
/// Classes that a classifier's report lists.
const LISTED_CLASSES: usize = 5;
/// Things that a report lists and the picture shows.
const LISTED_FINDINGS: usize = 100;
/// Bytes of the request's line.
const MAX_REQUEST_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug, Args)]
pub struct TrialArgs {
    #[arg(long)]
    pub ort_library: PathBuf,
    /// Bytes.
    #[arg(long)]
    pub address_space: u64,
    #[arg(long)]
    pub cpu_seconds: u64,
}

/// Tries the model that comes on standard input and writes the answer to standard output.
pub fn run(args: &TrialArgs) -> anyhow::Result<()> {
    confine::limit(args.address_space, args.cpu_seconds)?;
    let runtime = Runtime::load(&args.ort_library)?;
    let (request, picture, model) = read_request()?;
    confine::lock_down()?;
    let answer = match attempt(&runtime, &request, &picture, &model) {
        Ok(report) => Answer::Report(report),
        Err(reason) => Answer::Refused(reason),
    };
    let json = serde_json::to_vec(&answer).context("writing the answer")?;
    io::stdout().lock().write_all(&json).context("writing the answer")
}

fn read_request() -> anyhow::Result<(Request, Vec<u8>, Vec<u8>)> {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    input.by_ref().take(MAX_REQUEST_BYTES).read_until(b'\n', &mut line).context("reading the request")?;
    let request: Request = serde_json::from_slice(&line).context("reading the request")?;
    let mut picture = vec![0; request.picture_bytes];
    input.read_exact(&mut picture).context("reading the picture")?;
    let mut model = vec![0; request.model_bytes];
    input.read_exact(&mut model).context("reading the model")?;
    Ok((request, picture, model))
}

fn attempt(runtime: &Runtime, request: &Request, picture: &[u8], model: &[u8]) -> Result<Report, Reason> {
    let picture = image::decode(picture).map_err(|error| Reason::Picture { message: error.to_string() })?;
    let feed = recognise::input(&request.signature, &request.wishes).map_err(Reason::Unclear)?;
    let loading = Instant::now();
    let mut engine = OrtEngine::from_memory(runtime, model).map_err(refused)?;
    let load = loading.elapsed();

    let starting = Instant::now();
    let first = engine.run(&blank(&feed)).map_err(refused)?;
    let first_run = starting.elapsed();
    let outputs = shapes(&first);
    let found =
        recognise::head(&request.signature, &feed, &outputs, &request.wishes).map_err(Reason::Unclear)?;
    let manifest = manifest_of(found);
    check_numbers(&first, "a blank picture")?;
    let (noisy, _) = read(&mut engine, &manifest, &noise(picture.width, picture.height))?;
    check_numbers(&noisy, "noise")?;

    let mut times = Vec::new();
    let began = Instant::now();
    let (outputs_of_picture, detections) = loop {
        let started = Instant::now();
        let outcome = read(&mut engine, &manifest, &picture)?;
        times.push(started.elapsed());
        let is_enough = times.len() >= *RUNS.start() && began.elapsed() > RUNS_LAST;
        if is_enough || times.len() >= *RUNS.end() {
            break outcome;
        }
    };
    check_numbers(&outputs_of_picture, "the picture")?;
    times.sort();
    let findings = findings(&outputs_of_picture, &detections, &manifest)?;
    let drawn = drawn(&picture, &detections, &manifest).map_err(|error| fault(&error))?;
    let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
    Ok(Report {
        load_ms: ms(load),
        first_run_ms: ms(first_run),
        p50_ms: ms(times[times.len() / 2]),
        runs: times.len() as u32,
        peak_bytes: confine::peak_bytes(),
        outputs,
        findings,
        picture: BASE64_STANDARD.encode(drawn),
    })
}

fn fault(error: &dyn std::error::Error) -> Reason {
    Reason::Fault { message: error.to_string() }
}

/// What an engine's refusal means; the runtime has no code of its own for want of memory.
fn refused(error: EngineError) -> Reason {
    const SIGNS: [&str; 4] = ["allocate memory", "bad_alloc", "bad allocation", "AllocateRaw"];
    let (message, is_load) = match error {
        EngineError::Load { reason, .. } => (reason, true),
        EngineError::Run { reason, .. } => (reason, false),
        other => (other.to_string(), false),
    };
    let message: String = message.chars().take(500).collect();
    match (SIGNS.iter().any(|sign| message.contains(sign)), is_load) {
        (true, _) => Reason::OutOfMemory { message },
        (false, true) => Reason::NotLoaded { message },
        (false, false) => Reason::NotRun { message },
    }
}

/// Zeros of the input's shape: enough to see what shapes come out.
fn blank(feed: &Feed) -> Tensor {
    let (width, height) = (feed.width as usize, feed.height as usize);
    let zeros = vec![0.0; width * height * 3];
    match feed.layout {
        None => Tensor::u8(&[1, height, width, 3], vec![0; width * height * 3]),
        Some(Layout::Nchw) => Tensor::f32(&[1, 3, height, width], zeros),
        Some(Layout::Nhwc) => Tensor::f32(&[1, height, width, 3], zeros),
    }
}

/// A picture of nothing that anything was trained on; the same every time.
fn noise(width: usize, height: usize) -> Picture {
    let mut picture = I420Buffer::black(width, height);
    let mut state = 1_u32;
    for index in 0..3 {
        for value in picture.plane_mut(index).0 {
            // Numerical Recipes' linear congruence: its upper bits are random enough.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *value = (state >> 24) as u8;
        }
    }
    picture.into_picture(0, Instant::now())
}

fn shapes(outputs: &Outputs) -> Vec<Shape> {
    outputs.0.iter().map(|(name, tensor)| Shape { name: name.clone(), shape: tensor.shape.clone() }).collect()
}

fn check_numbers(outputs: &Outputs, picture: &str) -> Result<(), Reason> {
    let is_nan =
        |tensor: &Tensor| tensor.as_f32().is_some_and(|values| values.iter().any(|value| value.is_nan()));
    match outputs.0.iter().find(|(_, tensor)| is_nan(tensor)) {
        Some((name, _)) => Err(Reason::NotANumber { output: name.clone(), picture: picture.to_owned() }),
        None => Ok(()),
    }
}

/// The manifest that the model is read by here; name and number do not matter.
fn manifest_of(found: Recognised) -> Manifest {
    let Recognised { head, task, labels, input, thresholds, .. } = found;
    let provenance = Provenance {
        source: String::new(),
        upstream: String::new(),
        licence: String::new(),
        licence_note: String::new(),
    };
    let name = "trial".to_owned();
    let sha256 = String::new();
    Manifest { name, version: 1, task, labels, input, head, thresholds, provenance, sha256, trial: None }
}

/// Prepares, runs and reads one picture.
fn read(
    engine: &mut OrtEngine,
    manifest: &Manifest,
    picture: &Picture,
) -> Result<(Outputs, Vec<Detection>), Reason> {
    let prepared = prepare(picture, &manifest.input).map_err(|error| fault(&error))?;
    let outputs = engine.run(&prepared.tensor).map_err(refused)?;
    if matches!(manifest.task, Task::Classes | Task::Gender) {
        return Ok((outputs, Vec::new()));
    }
    let unreadable =
        |error: crate::models::heads::HeadError| Reason::Unreadable { message: error.to_string() };
    let detections = detect(&outputs, manifest, &prepared.placement, None).map_err(unreadable)?;
    Ok((outputs, detections))
}

fn findings(
    outputs: &Outputs,
    detections: &[Detection],
    manifest: &Manifest,
) -> Result<Vec<Finding>, Reason> {
    let label = |class: usize| manifest.labels.get(class).cloned().unwrap_or_default();
    if manifest.head == Head::Classifier {
        let rows = classifier::decode(outputs, 1, manifest.labels.len());
        let mut classes: Vec<(usize, f32)> = rows
            .map_err(|error| Reason::Unreadable { message: error.to_string() })?
            .concat()
            .into_iter()
            .enumerate()
            .collect();
        classes.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        classes.truncate(LISTED_CLASSES);
        return Ok(classes
            .into_iter()
            .map(|(class, score)| Finding { label: label(class), score, bbox: None })
            .collect());
    }
    let finding = |found: &Detection| {
        let bbox = found.bbox;
        Finding {
            label: label(usize::from(found.class)),
            score: found.score,
            bbox: Some([bbox.x, bbox.y, bbox.w, bbox.h]),
        }
    };
    Ok(detections.iter().take(LISTED_FINDINGS).map(finding).collect())
}

fn drawn(
    picture: &Picture,
    detections: &[Detection],
    manifest: &Manifest,
) -> Result<Vec<u8>, image::EncodeError> {
    let mut canvas = I420Buffer::black(picture.width, picture.height);
    canvas.copy_from(picture);
    let tracks = detections.iter().take(LISTED_FINDINGS).map(|found| {
        let label = manifest.labels.get(usize::from(found.class)).map_or("", String::as_str);
        DrawnTrack {
            bbox: found.bbox,
            label: caption_of(label, found.score, &Attributes::default()),
            colour: colour_of(found.kind, found.class),
        }
    });
    draw(&mut canvas, &tracks.collect::<Vec<_>>());
    image::encode(&canvas.into_picture(0, Instant::now()), Format::Jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_is_told_from_other_refusals() {
        let run = |reason: &str| refused(EngineError::Run { model: "m".into(), reason: reason.into() });
        assert!(matches!(run("Failed to allocate memory for requested buffer"), Reason::OutOfMemory { .. }));
        assert!(matches!(run("Non-zero status code"), Reason::NotRun { .. }));
        let load = EngineError::Load { path: "p".into(), reason: "Type Error".into() };
        assert!(matches!(refused(load), Reason::NotLoaded { .. }));
    }

    #[test]
    fn noise_is_the_same_every_time() {
        let bytes = |picture: &Picture| picture.planes.plane(0).data.to_vec();
        assert_eq!(bytes(&noise(64, 48)), bytes(&noise(64, 48)));
        assert!(bytes(&noise(64, 48)).iter().any(|&value| value > 200));
    }

    #[test]
    fn the_blank_input_has_the_order_that_is_asked_for() {
        let feed = |layout| Feed {
            name: "x".into(),
            layout,
            width: 64,
            height: 32,
            is_free: false,
            stride: 32,
            batch: None,
            size_input: None,
        };
        assert_eq!(blank(&feed(None)).shape, [1, 32, 64, 3]);
        assert_eq!(blank(&feed(Some(Layout::Nchw))).shape, [1, 3, 32, 64]);
        assert_eq!(blank(&feed(Some(Layout::Nhwc))).shape, [1, 32, 64, 3]);
    }
}
