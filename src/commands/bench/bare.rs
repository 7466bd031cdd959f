//! The limit: the same models on the same pictures in plain loops, with nothing around them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::cli::InferenceArgs;
use crate::codec::{Decoder, MAX_PIXELS};
use crate::commands::recognition::{find_models, load_runtime};
use crate::commands::service::cores;
use crate::frame::{Codec, Detection, EncodedFrame, Kind, Picture};
use crate::inference::engine::Engine;
use crate::inference::ort::{Device, OrtEngine, Runtime};
use crate::inference::tensor::Tensor;
use crate::load::clip::Clip;
use crate::models::manifest::{Manifest, Task};
use crate::pipeline::prepare::{prepare, prepare_crops_in};

/// Pictures a second through the bare models, all loops together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BareRates {
    /// Faces, objects and one face's gender for every picture.
    pub all_three: f64,
    /// Faces and objects only.
    pub detectors_only: f64,
    pub loops: usize,
}

/// Pictures of the clip that are looped over.
pub const PICTURES: usize = 8;

/// Runs one loop a lane, half of `duration` with gender and half without.
pub fn measure(args: &InferenceArgs, clip: &Clip, duration: Duration) -> anyhow::Result<BareRates> {
    let mut loops = BareLoops::load(args, &decode(clip)?)?;
    let all_three = loops.rate(duration / 2, |_| true)?;
    let detectors_only = loops.rate(duration / 2, |task| task != Task::Gender)?;
    Ok(BareRates { all_three, detectors_only, loops: loops.count() })
}

/// One engine of every model a lane, and the pictures that they are given.
pub struct BareLoops {
    lanes: Vec<Vec<OrtEngine>>,
    sets: Arc<Vec<Vec<(Task, Tensor)>>>,
}

impl BareLoops {
    pub fn load(args: &InferenceArgs, pictures: &[Picture]) -> anyhow::Result<Self> {
        let runtime = load_runtime(args)?;
        let models = find_models(args)?;
        let device: Device = args.device.parse()?;
        let sets = Arc::new(input_sets(pictures, models.iter().map(|(manifest, _)| manifest))?);
        let mut lanes = Vec::new();
        for _ in 0..args.lanes.unwrap_or_else(cores) {
            let engine = |path: &Path| load(&runtime, path, device, args.lane_threads);
            lanes.push(models.iter().map(|(_, path)| engine(path)).collect::<anyhow::Result<Vec<_>>>()?);
        }
        Ok(Self { lanes, sets })
    }

    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Pictures a second of all loops together, over `duration`.
    pub fn rate(&mut self, duration: Duration, runs: impl Fn(Task) -> bool + Sync) -> anyhow::Result<f64> {
        let began = Instant::now();
        let done =
            run_loops(&mut self.lanes, &self.sets, |task, _| runs(task), &|_| began.elapsed() < duration)?;
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    /// Has all loops together run the detectors on `pictures` pictures, and gender on `genders` of them.
    pub fn run(&mut self, pictures: u64, genders: u64) -> anyhow::Result<()> {
        let runs = |task, picture: u64| task != Task::Gender || picture < genders;
        run_loops(&mut self.lanes, &self.sets, runs, &|begun| begun < pictures).map(drop)
    }

    /// How long one loop takes for each picture, the models one after another.
    pub fn latencies(&mut self, duration: Duration) -> anyhow::Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        let began = Instant::now();
        while began.elapsed() < duration {
            let started = Instant::now();
            run_loops(&mut self.lanes[..1], &self.sets, |_, _| true, &|begun| begun == 0)?;
            latencies.push(started.elapsed());
        }
        Ok(latencies)
    }
}

fn load(runtime: &Runtime, path: &Path, device: Device, threads: usize) -> anyhow::Result<OrtEngine> {
    Ok(OrtEngine::load(runtime, path, device, threads)?)
}

/// For each picture the models' inputs, made beforehand.
fn input_sets<'a>(
    pictures: &[Picture],
    manifests: impl Iterator<Item = &'a Manifest> + Clone,
) -> anyhow::Result<Vec<Vec<(Task, Tensor)>>> {
    let set = |picture: &Picture| {
        manifests.clone().map(|manifest| anyhow::Ok((manifest.task, input(picture, manifest)?))).collect()
    };
    pictures.iter().map(set).collect()
}

/// What a model is given of a picture; of one that looks at faces, the middle's.
pub fn input(picture: &Picture, manifest: &Manifest) -> anyhow::Result<Tensor> {
    Ok(match manifest.task {
        Task::Gender => {
            prepare_crops_in(Tensor::default(), picture, &manifest.input, &[&centred_face(picture)])?
        }
        _ => prepare(picture, &manifest.input)?.tensor,
    })
}

/// The models' time does not depend on what a crop shows.
fn centred_face(picture: &Picture) -> Detection {
    let (width, height) = (picture.width as f32, picture.height as f32);
    let bbox = crate::frame::BBox { x: width / 4.0, y: height / 4.0, w: width / 4.0, h: width / 4.0 };
    Detection { kind: Kind::Face, class: 0, score: 1.0, bbox, landmarks: None }
}

/// Some pictures of a clip.
pub fn decode(clip: &Clip) -> anyhow::Result<Vec<Picture>> {
    let mut decoder = Decoder::open(Codec::Vp8, 1)?;
    let mut pictures = Vec::new();
    for index in 0..clip.frames.len() {
        let picture = decode_next(&mut decoder, clip, index)?;
        if index % (clip.frames.len() / PICTURES) == 0 {
            pictures.push(picture);
        }
    }
    Ok(pictures)
}

/// The picture of frame `index` of a clip that is looped over; those before must have been decoded.
pub fn decode_next(decoder: &mut Decoder, clip: &Clip, index: usize) -> anyhow::Result<Picture> {
    let frame = EncodedFrame {
        codec: Codec::Vp8,
        data: clip.frames[index % clip.frames.len()].clone(),
        rtp_timestamp: index as u32 * 3000,
        is_key: index.is_multiple_of(clip.frames.len()),
        received: Instant::now(),
    };
    decoder.decode(&frame, MAX_PIXELS)?.context("the clip shows every frame")
}

/// Pictures that all loops together have done when `goes_on`, given the pictures begun before, says no; `runs` says of
/// each of them what it is given to.
fn run_loops(
    lanes: &mut [Vec<OrtEngine>],
    sets: &Arc<Vec<Vec<(Task, Tensor)>>>,
    runs: impl Fn(Task, u64) -> bool + Sync,
    goes_on: &(dyn Fn(u64) -> bool + Sync),
) -> anyhow::Result<u64> {
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for engines in lanes.iter_mut() {
            let (begun, done, failed, runs) = (&begun, &done, &failed, &runs);
            scope.spawn(move || {
                crate::inference::service::lower_priority();
                for set in sets.iter().cycle() {
                    let before = begun.fetch_add(1, Ordering::Relaxed);
                    if failed.load(Ordering::Relaxed) || !goes_on(before) {
                        return;
                    }
                    for (engine, (task, tensor)) in engines.iter_mut().zip(set) {
                        if runs(*task, before) && engine.run(tensor).is_err() {
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    anyhow::ensure!(!failed.load(Ordering::Relaxed), "a model failed to run");
    Ok(done.load(Ordering::Relaxed))
}
