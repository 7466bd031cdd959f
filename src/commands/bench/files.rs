//! `vigie bench files`: video files and posted pictures, measured side by side with what limits them.

mod memory;
mod predict;
mod source;
mod video;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::memory::Memory;
use self::predict::Predict;
use self::video::Throughput;
use super::machine::{self, Machine};
use crate::cli::InferenceArgs;

#[derive(Clone, Debug, Args)]
pub struct FilesArgs {
    /// Pictures of the video whose throughput is measured.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(30..))]
    pictures: u64,
    /// Times that every throughput is measured, in turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Seconds of the videos whose memory is measured.
    #[arg(long, value_delimiter = ',', default_values = ["10", "60"])]
    lengths: Vec<u64>,
    /// Recognise every so many pictures while memory is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    memory_every: u64,
    /// Seconds of each measurement of /predict, all its turns together.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
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
    /// Pictures a second of a 1080p file, against decoding and encoding it and against bare inference.
    Video,
    /// Peak memory by the file's length.
    Memory,
    /// Latency of one client, throughput of sixteen.
    Predict,
}

/// Everything that was measured, as it goes to `--json`.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    video: Option<Throughput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predict: Option<Predict>,
    load_after: f64,
}

pub async fn run(args: FilesArgs) -> anyhow::Result<()> {
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut report =
        Report { machine: machine::describe(), video: None, memory: None, predict: None, load_after: 0.0 };
    let machine = &report.machine;
    println!(
        "vigie {} on {} x {}, load before {:.2}",
        machine.vigie, machine.cores, machine.processor, machine.load_before
    );
    let folder = tempfile::tempdir()?;
    if wanted(Part::Video) {
        let (args, path) = (args.clone(), folder.path().to_owned());
        let measured = tokio::task::spawn_blocking(move || video::measure(&args, &path)).await?;
        report.video = Some(measured.context("measuring video")?);
    }
    if wanted(Part::Memory) {
        report.memory = Some(memory::measure(&args, folder.path()).await.context("measuring memory")?);
    }
    if wanted(Part::Predict) {
        report.predict = Some(predict::measure(&args).await.context("measuring /predict")?);
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
