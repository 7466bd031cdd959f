//! `vigie bench gpu`: how many streams a worker's recognition holds, beside the models alone at every size of batch.
//!
//! Made for GPUs, and runs on any device. Streams are H264 replayed from memory through the very threads of a live session;
//! what is missing is the network.

mod batches;
mod streams;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use self::batches::Throughput;
use self::streams::{Held, Size};
use super::machine::{self, Machine};
use crate::cli::InferenceArgs;
use crate::codec::Unit;
use crate::live::settings::TaskSwitches;
use crate::signalling::predict::read_tasks;

#[derive(Clone, Debug, Args)]
pub struct GpuArgs {
    /// Batches that the models alone are run at.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 16, 32, 64])]
    batches: Vec<usize>,
    /// Streams of 30 pictures a second that are replayed at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 64, 128])]
    streams: Vec<usize>,
    /// Sizes of the streams' pictures.
    #[arg(long, value_delimiter = ',', default_values = ["640x480", "1920x1080"])]
    sizes: Vec<Size>,
    /// What is recognised, comma-separated: faces, gender, objects. As often as needed: each is measured.
    #[arg(long, default_values = ["faces,gender,objects", "faces,gender"])]
    tasks: Vec<String>,
    /// Seconds of each measurement, after one of warming up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Write the raw figures here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    inference: InferenceArgs,
}

/// Everything that was measured, as it goes to `--json`.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    onnx_runtime: String,
    alone: Vec<Throughput>,
    streams: Vec<Held>,
}

pub fn run(args: &GpuArgs) -> anyhow::Result<()> {
    let switches = |named: &String| {
        let tasks = read_tasks(named).context("--tasks")?;
        Ok(TaskSwitches { faces: tasks.faces, gender: tasks.gender, objects: tasks.objects, text: false })
    };
    let tasks = args.tasks.iter().map(switches).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(args.batches.iter().all(|&batch| batch > 0), "--batches: a batch has a row at least");
    args.inference.decode.parse::<Unit>()?.prepare();
    let machine = machine::describe();
    println!("{} cores of {}, load before {:.2}", machine.cores, machine.processor, machine.load_before);
    let mut report = Report {
        machine,
        onnx_runtime: crate::commands::recognition::load_runtime(&args.inference)?.build_info().to_owned(),
        alone: batches::measure(args)?,
        streams: Vec::new(),
    };
    report.streams = streams::measure(args, &tasks)?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
        println!("raw figures in {}", path.display());
    }
    Ok(())
}
