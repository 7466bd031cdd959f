//! From the first byte of an uploaded model to sessions having it.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::ModelsBenchArgs;
use super::bulk;
use super::client::Registry;
use crate::commands::bench::summary::Percentiles;

/// Bytes of the model.
const BYTES: usize = 10_000_000;
const ROUNDS: u64 = 3;

#[derive(Clone, Debug, Serialize)]
pub struct Uploads {
    bytes: usize,
    /// Until its trial is over and it is a version.
    accepted_ms: Percentiles,
    /// From then, when the traffic names it, until it is loaded on every lane.
    loaded_ms: Percentiles,
    /// Both.
    serving_ms: Percentiles,
    /// Of the last.
    trial: Value,
}

pub async fn measure(args: &ModelsBenchArgs) -> anyhow::Result<Uploads> {
    println!("\nupload of a model of {BYTES} bytes, to its being served, {ROUNDS} times");
    let registry = Registry::start(&args.inference, &[]).await?;
    let (mut accepted, mut loaded, mut serving, mut trial) =
        (Vec::new(), Vec::new(), Vec::new(), Value::Null);
    for round in 0..ROUNDS {
        let name = format!("bench-{round}");
        let model = bulk::model(BYTES, round + 1);
        let began = Instant::now();
        let answer = registry.upload(&name, &model).await?;
        let is_version = Instant::now();
        registry.serve(&format!("{name}@1")).await?;
        registry.until_loaded(&name, true).await?;
        accepted.push(is_version - began);
        loaded.push(is_version.elapsed());
        serving.push(began.elapsed());
        trial = answer["trial"].clone();
    }
    registry.service.stop().await?;
    let measured = Uploads {
        bytes: BYTES,
        accepted_ms: Percentiles::of(accepted),
        loaded_ms: Percentiles::of(loaded),
        serving_ms: Percentiles::of(serving),
        trial,
    };
    println!("  uploaded and tried       {}", measured.accepted_ms);
    println!("  and then loaded          {}", measured.loaded_ms);
    println!("  from upload to serving   {}", measured.serving_ms);
    Ok(measured)
}
