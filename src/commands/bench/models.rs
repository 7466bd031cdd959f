//! `vigie bench models`: models for other programs, and models that come while others are at work.

mod bulk;
mod client;
mod loading;
mod overhead;
mod upload;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::loading::Loading;
use self::overhead::Overhead;
use self::upload::Uploads;
use super::machine::{self, Machine};
use crate::cli::InferenceArgs;

#[derive(Clone, Debug, Args)]
pub struct ModelsBenchArgs {
    /// Requests of each measurement by the Open Inference Protocol.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
    requests: u64,
    /// Models that are asked, smallest input first; `small` is one of a megabyte, made up on the spot.
    #[arg(long = "ask", value_delimiter = ',', default_values = ["small", "faceres", "blazeface"])]
    asked: Vec<String>,
    /// Recognised frames a second that each live session asks for while a model is loaded.
    #[arg(long, default_value_t = 30.0)]
    session_rate: f64,
    /// Measure only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Write the raw figures here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    inference: InferenceArgs,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What the Open Inference Protocol adds to a bare call of ONNX Runtime.
    Overhead,
    /// An upload of 10 MB, until it is served.
    Upload,
    /// A model of 100 MB that is loaded under four live sessions.
    Loading,
}

/// Everything that was measured, as it goes to `--json`.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead: Option<Vec<Overhead>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<Uploads>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loading: Option<Loading>,
    load_after: f64,
}

pub async fn run(args: &ModelsBenchArgs) -> anyhow::Result<()> {
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut report =
        Report { machine: machine::describe(), overhead: None, upload: None, loading: None, load_after: 0.0 };
    let machine = &report.machine;
    println!(
        "vigie {} on {} x {}, load before {:.2}",
        machine.vigie, machine.cores, machine.processor, machine.load_before
    );
    if wanted(Part::Overhead) {
        report.overhead = Some(overhead::measure(args).await.context("measuring the protocol's overhead")?);
    }
    if wanted(Part::Upload) {
        report.upload = Some(upload::measure(args).await.context("measuring an upload")?);
    }
    if wanted(Part::Loading) {
        report.loading = Some(loading::measure(args).await.context("measuring live sessions")?);
    }
    report.load_after = machine::describe().load_before;
    println!("\nload after {:.2}", report.load_after);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
        println!("raw figures in {}", path.display());
    }
    Ok(())
}
