//! The limit: each model alone, on inputs made beforehand, at every size of batch.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::GpuArgs;
use crate::commands::bench::bare;
use crate::commands::recognition::{find_models, load_runtime};
use crate::inference::engine::Engine;
use crate::inference::ort::{Device, Loading, OrtEngine};
use crate::inference::rows::join;
use crate::inference::tensor::{Outputs, Tensor};
use crate::load::clip::Clip;
use crate::serving::shapes_of;

/// One model at one batch.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    model: String,
    /// Where it ran, which may be another device than was asked for.
    device: String,
    batch: usize,
    /// Pictures, or crops, a second.
    per_second: f64,
    ms_a_batch: f64,
}

pub fn measure(args: &GpuArgs) -> anyhow::Result<Vec<Throughput>> {
    let runtime = load_runtime(&args.inference)?;
    let device: Device = args.inference.device.parse()?;
    let picture = bare::decode(&Clip::built_in())?.pop().context("the clip has pictures")?;
    let most = args.batches.iter().copied().max().unwrap_or(1);
    let mut measured = Vec::new();
    println!("\nmodels alone");
    for (manifest, path) in find_models(&args.inference)? {
        let loading = Loading {
            threads: args.inference.lane_threads,
            shapes: shapes_of(&manifest.input, most),
            ..Loading::default()
        };
        let mut engine = OrtEngine::load_with(&runtime, &path, device, &loading)?;
        let used = engine.device_used().clone();
        if let Some(reason) = &used.fallback {
            println!("  {}: {device} cannot be used: {reason}", manifest.name);
        }
        let one = bare::input(&picture, &manifest)?;
        for &batch in args.batches.iter().filter(|&&batch| manifest.input.batch.is_none() || batch == 1) {
            let input = join(&vec![&one; batch])?;
            let (runs, took) = repeat(&mut engine, &input, Duration::from_secs(args.seconds))?;
            let row = Throughput {
                model: manifest.name.clone(),
                device: used.device.to_string(),
                batch,
                per_second: (runs * batch) as f64 / took,
                ms_a_batch: took * 1000.0 / runs as f64,
            };
            println!(
                "  {:<12} {:<10} batch {:>3} {:>9.1} a second, {:>8.2} ms a batch",
                row.model, row.device, row.batch, row.per_second, row.ms_a_batch
            );
            measured.push(row);
        }
    }
    Ok(measured)
}

/// How often a batch is run within `duration`, and the seconds that this took.
fn repeat(engine: &mut OrtEngine, input: &Tensor, duration: Duration) -> anyhow::Result<(usize, f64)> {
    let mut outputs = Outputs::default();
    // The first run of a shape chooses algorithms.
    engine.run_into(input, &mut outputs)?;
    let began = Instant::now();
    let mut runs = 0;
    while runs == 0 || began.elapsed() < duration {
        engine.run_into(input, &mut outputs)?;
        runs += 1;
    }
    Ok((runs, began.elapsed().as_secs_f64()))
}
