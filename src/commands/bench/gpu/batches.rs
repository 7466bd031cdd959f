//! The limit: each model alone, on inputs made beforehand, at every size of batch; and beside it the same model behind the
//! batcher and the lanes, asked for one picture at a time by many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::GpuArgs;
use crate::commands::bench::bare;
use crate::commands::recognition::{find_models, load_runtime};
use crate::inference::batcher::{Limits, ModelId};
use crate::inference::engine::Engine;
use crate::inference::ort::{Device, Loading, OrtEngine};
use crate::inference::service::{Ask, Handle, Options, Service, Ticket};
use crate::inference::tensor::{Outputs, Tensor, TensorData};
use crate::load::clip::Clip;
use crate::serving::{loading_of, take_gpu_steps};

/// Lanes, of which one copies while the other computes.
const LANES: usize = 2;
/// Threads that ask, so that none of them is what is measured.
const ASKERS: usize = 4;

/// Seconds that one model is measured at one batch, at most.
const LONGEST: u64 = 2;
/// Within it the lanes meet every size of batch that is not full.
const WARM_UP: Duration = Duration::from_millis(500);

/// One model at one batch.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    model: String,
    /// Where it ran, which may be another device than was asked for.
    device: String,
    batch: usize,
    /// Pictures, or crops, a second of the model alone.
    per_second: f64,
    ms_a_batch: f64,
    /// The same behind the batcher and two lanes, which make the batches of single requests.
    served_per_second: f64,
    /// The first over the second.
    served_ratio: f64,
    /// Rows of the batch that a row was in, on average.
    served_batch: f64,
}

pub fn measure(args: &GpuArgs) -> anyhow::Result<Vec<Throughput>> {
    let runtime = load_runtime(&args.inference)?;
    let device: Device = args.inference.device.parse()?;
    let picture = bare::decode(&Clip::built_in())?.pop().context("the clip has pictures")?;
    let duration = Duration::from_secs(args.seconds.min(LONGEST));
    let mut measured = Vec::new();
    println!("\nmodels alone, and served");
    for (mut manifest, path) in find_models(&args.inference)? {
        take_gpu_steps(&mut manifest.input);
        let one = bare::input(&picture, &manifest)?;
        for &batch in args.batches.iter().filter(|&&batch| manifest.input.batch.is_none() || batch == 1) {
            let loading = loading_of(&manifest, batch, args.inference.lane_threads);
            let alone = Loading { usual: Vec::new(), ..loading.clone() };
            let mut engine = OrtEngine::load_with(&runtime, &path, device, &alone)?;
            let used = engine.device_used().clone();
            if let Some(reason) = &used.fallback {
                println!("  {}: {device} cannot be used: {reason}", manifest.name);
            }
            let (runs, took) = repeat(&mut engine, &repeated(&one, batch), duration)?;
            drop(engine);
            // Full batches only, for the sake of those who wait for algorithms to be chosen.
            let usual = vec![[&[batch], &one.shape[1..]].concat()];
            let lanes = OrtEngine::load_lanes(&runtime, &path, device, &Loading { usual, ..loading }, LANES)?;
            let lanes = lanes.into_iter().map(|engine| Box::new(engine) as Box<dyn Engine>);
            let served = serve(lanes.collect(), batch, &one, duration)?;
            let per_second = (runs * batch) as f64 / took;
            let row = Throughput {
                model: manifest.name.clone(),
                device: used.device.to_string(),
                batch,
                per_second,
                ms_a_batch: took * 1000.0 / runs as f64,
                served_per_second: served.per_second,
                served_ratio: served.per_second / per_second,
                served_batch: served.mean_batch,
            };
            println!(
                "  {:<12} {:<10} batch {:>3} {:>9.1} a second, {:>8.2} ms a batch; served {:>9.1} a second, {:.2} of it, in \
                 batches of {:.1}",
                row.model,
                row.device,
                row.batch,
                row.per_second,
                row.ms_a_batch,
                row.served_per_second,
                row.served_ratio,
                row.served_batch
            );
            measured.push(row);
        }
    }
    Ok(measured)
}

/// `rows` times the same row.
fn repeated(one: &Tensor, rows: usize) -> Tensor {
    let mut shape = one.shape.clone();
    shape[0] = rows;
    let data = match &one.data {
        TensorData::U8(values) => TensorData::U8(values.repeat(rows)),
        TensorData::I32(values) => TensorData::I32(values.repeat(rows)),
        TensorData::I64(values) => TensorData::I64(values.repeat(rows)),
        TensorData::F32(values) => TensorData::F32(values.repeat(rows)),
    };
    Tensor { shape, data }
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

/// What the lanes gave.
struct Served {
    per_second: f64,
    mean_batch: f64,
}

/// Asks lanes for one row at a time, with more requests waiting than the lanes take at once.
fn serve(
    lanes: Vec<Box<dyn Engine>>,
    batch: usize,
    one: &Tensor,
    duration: Duration,
) -> anyhow::Result<Served> {
    const MODEL: ModelId = ModelId(0);
    let waiting = (lanes.len() + 1) * batch;
    let limits = Limits { per_asker: waiting, total: waiting };
    let service = Service::start(Options { lanes: lanes.len(), limits, ..Options::default() }, Arc::new(()))?;
    service.install(MODEL, lanes, batch)?;
    let counts = Counts::default();
    std::thread::scope(|scope| {
        let askers = ASKERS.min(waiting);
        let ask = |index: usize| {
            let own = waiting / askers + usize::from(index < waiting % askers);
            let (handle, counts) = (service.handle(), &counts);
            move || ask(&handle, MODEL, index as u64, own, one, counts)
        };
        let threads: Vec<_> = (0..askers).map(|index| scope.spawn(ask(index))).collect();
        std::thread::sleep(WARM_UP);
        let (began, before) = (Instant::now(), counts.read());
        std::thread::sleep(duration);
        let (seconds, after) = (began.elapsed().as_secs_f64(), counts.read());
        counts.is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("an asker does not panic")?;
        }
        let rows = (after.0 - before.0) as f64;
        Ok(Served { per_second: rows / seconds, mean_batch: (after.1 - before.1) as f64 / rows.max(1.0) })
    })
}

/// What the askers were answered, together.
#[derive(Default)]
struct Counts {
    rows: AtomicUsize,
    /// The sum of the batches that each of the rows was in.
    batches: AtomicUsize,
    is_over: AtomicBool,
}

impl Counts {
    fn read(&self) -> (usize, usize) {
        (self.rows.load(Ordering::Relaxed), self.batches.load(Ordering::Relaxed))
    }
}

/// Keeps `own` requests waiting, in buffers that are used again as a session's are.
fn ask(
    handle: &Handle,
    model: ModelId,
    asker: u64,
    own: usize,
    one: &Tensor,
    counts: &Counts,
) -> anyhow::Result<()> {
    let submit = |input, outputs| handle.queue(Ask { outputs, ..Ask::of(model, asker, input) });
    let mut tickets: VecDeque<Ticket> =
        (0..own).map(|_| submit(one.clone(), Outputs::default())).collect::<Result<_, _>>()?;
    while let Some(ticket) = tickets.pop_front() {
        let done = ticket.wait()?;
        counts.rows.fetch_add(1, Ordering::Relaxed);
        counts.batches.fetch_add(done.batch_size, Ordering::Relaxed);
        if !counts.is_over.load(Ordering::Relaxed) {
            tickets.push_back(submit(done.input, done.outputs)?);
        }
    }
    Ok(())
}
