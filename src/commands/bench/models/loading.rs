//! What live sessions see of a large model that is loaded beside them: windows with and without, in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::blobs::Blobs;
use crate::cli::InferenceArgs;
use crate::commands::bench::service::{Service, add_inference};
use crate::commands::bench::summary::Percentiles;
use crate::load::clip::Clip;
use crate::load::publisher::{Publisher, PublisherConfig, ReportSample, Until, VisitError};
use crate::load::target::Target;
use crate::models::convert::onnx::{Element, OnnxGraph, Side};
use crate::models::manifest::{
    Channels, Fit, FloatFormat, Head, Input, InputFormat, Layout, Manifest, Provenance, Task, Thresholds,
};
use crate::models::registry::Registry;

const SESSIONS: usize = 4;
/// Of each kind; they alternate, so that what else the machine does falls on both.
const WINDOWS: usize = 3;
/// Reports before this are of cold caches.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long a model may take to come or go.
const LIMIT: Duration = Duration::from_secs(120);

/// Layers of the model, each a matrix of 1024 by 1024: 100 MB.
const LAYERS: usize = 25;
const WIDTH: usize = 1024;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Loading {
    sessions: usize,
    model_bytes: usize,
    /// Times that the model was loaded, and how long each took from the traffic's change.
    loads: Percentiles,
    /// From a frame's last packet to its report, in the server.
    without_ms: Percentiles,
    while_loading_ms: Percentiles,
    p50_ratio: f64,
    p95_ratio: f64,
}

/// Measures with windows of `seconds` each.
pub async fn measure(inference: &InferenceArgs, seconds: u64) -> anyhow::Result<Loading> {
    println!("\n{SESSIONS} sessions, 320x240 at 15 fps, with and without a model of 100 MB being loaded");
    let store = tempfile::tempdir()?;
    let onnx = large_model();
    let model_bytes = onnx.len();
    let registry = Registry::new(Blobs::open(store.path().to_str().context("a folder of odd letters")?)?);
    registry.add(&manifest(), onnx.into(), Default::default()).await.context("adding the model")?;

    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--log", "error"]);
    command.args(["--video-jobs", "0", "--admit", "count"]).arg("--store").arg(store.path());
    add_inference(&mut command, inference);
    let service = Service::run(command).await?;
    let target = Target::from(service.address);

    let window = Duration::from_secs(seconds);
    // A load may last beyond its window.
    let duration = WARM_UP + window * 2 * WINDOWS as u32 + LIMIT;
    let began = Instant::now();
    let config = |_| PublisherConfig {
        server: service.address.into(),
        clip: Arc::new(Clip::built_in_small()),
        rate: 15.0,
        duration,
        settings: Value::Null,
        stop_at_first_report: false,
    };
    // Each notes what comes back until its window's end is known; they are told to stop by their limit.
    let mut sessions = tokio::task::JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for config in (0..SESSIONS).map(config) {
        let mut stopped = stopped.clone();
        sessions.spawn(async move {
            let mut publisher = Publisher::open(config).await?;
            let offset = publisher.outcome.began;
            let stopped = tokio::select! {
                stop = publisher.run(Until::End) => stop.map(drop),
                _ = stopped.wait_for(|is| *is) => Ok(()),
            };
            publisher.leave().await;
            stopped.map(|()| (offset, publisher.outcome)) as Result<_, VisitError>
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let mut loads = Vec::new();
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        let from = began.elapsed();
        tokio::time::sleep(window).await;
        quiet.push(from..began.elapsed());
        let from = began.elapsed();
        while began.elapsed() < from + window {
            let changed = Instant::now();
            set_traffic(&target, &json!([{ "model": "large@1", "attribute": "nobody", "equals": "is" }])).await?;
            until(&target, true).await?;
            loads.push(changed.elapsed());
            set_traffic(&target, &json!([])).await?;
            until(&target, false).await?;
        }
        busy.push(from..began.elapsed());
    }
    stop.send_replace(true);
    let mut samples: Vec<(Duration, f64)> = Vec::new();
    while let Some(outcome) = sessions.join_next().await {
        let (offset, outcome) = outcome?.context("a session did not last")?;
        let offset = offset.unwrap_or(began).saturating_duration_since(began);
        let of = |report: &ReportSample| (offset + report.at, f64::from(report.timings.total));
        samples.extend(outcome.reports.iter().map(of));
    }
    service.stop().await?;
    let within = |windows: &[std::ops::Range<Duration>]| {
        let inside = samples.iter().filter(|(at, _)| windows.iter().any(|window| window.contains(at)));
        Percentiles::of_ms(inside.map(|(_, ms)| *ms))
    };
    let (without_ms, while_loading_ms) = (within(&quiet), within(&busy));
    let loading = Loading {
        sessions: SESSIONS,
        model_bytes,
        loads: Percentiles::of(loads),
        p50_ratio: while_loading_ms.p50 / without_ms.p50,
        p95_ratio: while_loading_ms.p95 / without_ms.p95,
        without_ms,
        while_loading_ms,
    };
    println!("  frame in to report out   {} without", loading.without_ms);
    println!("                           {} while it is loaded", loading.while_loading_ms);
    println!("  ratio                    {:.3} of p50, {:.3} of p95", loading.p50_ratio, loading.p95_ratio);
    println!("  from traffic to loaded   {}", loading.loads);
    Ok(loading)
}

async fn set_traffic(target: &Target, variants: &Value) -> anyhow::Result<()> {
    let body = json!({ "variants": variants }).to_string();
    let headers = [("content-type", "application/json")];
    let answer = target.ask(Method::PUT, "/api/traffic/objects", &headers, body.into()).await?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        status => bail!("the traffic was refused: {status} {}", String::from_utf8_lossy(answer.body())),
    }
}

/// Waits until the large model is loaded, or is not any longer.
async fn until(target: &Target, is_loaded: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        let path = "/api/traffic/objects/figures";
        let answer = target.ask(Method::GET, path, &[], Default::default()).await?;
        let figures: Value = serde_json::from_slice(answer.body())?;
        let versions = figures["versions"].as_array().context("no figures")?;
        if versions.iter().any(|version| version["model"] == "large@1") == is_loaded {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the large model did not come or go in {LIMIT:?}")
}

/// A detector whose one box is what many matrices make of a picture.
fn large_model() -> Vec<u8> {
    let mut graph = OnnxGraph::default();
    graph.input("images", Element::Float, &[1, 3, 32, 32].map(Side::Fixed));
    let wanted = graph.integers(&[1, 3 * WIDTH as i64]);
    let mut last = graph.node("Reshape", &["images", &wanted], &[]);
    let (from, to) = (graph.integers(&[0]), graph.integers(&[WIDTH as i64]));
    let axis = graph.integers(&[1]);
    last = graph.node("Slice", &[&last, &from, &to, &axis], &[]);
    for layer in 0..LAYERS {
        // Numbers of no pattern, so that nothing is folded or shared.
        let weights: Vec<f32> = (0..WIDTH * WIDTH)
            .map(|at| ((at * 2_654_435_761 + layer * 40_503) % 1000) as f32 / 500_000.0 - 0.001)
            .collect();
        let weights = graph.floats(&[WIDTH, WIDTH], &weights);
        last = graph.node("MatMul", &[&last, &weights], &[]);
        last = graph.node("Relu", &[&last], &[]);
    }
    let to = graph.integers(&[6]);
    let six = graph.node("Slice", &[&last, &from, &to, &axis], &[]);
    let shape = graph.integers(&[1, 6, 1]);
    graph.named_node("Reshape", &[&six, &shape], &[], &["output0"]);
    graph.output("output0", Element::Float, &[1, 6, 1].map(Side::Fixed));
    graph.into_bytes()
}

fn manifest() -> Manifest {
    let (mean, std) = ([0.0; 3], [255.0; 3]);
    let format = FloatFormat { layout: Layout::Nchw, channels: Channels::Rgb, mean, std };
    Manifest {
        name: "large".into(),
        version: 1,
        task: Task::Objects,
        labels: vec!["one".into(), "two".into()],
        input: Input {
            name: "images".into(),
            format: InputFormat::Float(format),
            size: 32,
            height: None,
            batch: Some(1),
            size_input: None,
            fit: Fit::Stretch,
        },
        head: Head::Yolo,
        thresholds: Thresholds { score: 0.5, iou: 0.5, unsure: None, min_width: 0.0 },
        provenance: Provenance {
            source: "vigie bench models".into(),
            upstream: "none".into(),
            licence: "none".into(),
            licence_note: String::new(),
        },
        sha256: String::new(),
        trial: None,
    }
}
