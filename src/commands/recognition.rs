//! Loads the models and starts the lanes: the part that `serve` and `bench` have in common.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::cli::InferenceArgs;
use crate::commands::cascades::{self, Cascades, Chosen};
use crate::files::desk::Desk;
use crate::inference::batcher::{Limits, ModelId};
use crate::inference::engine::Engine;
use crate::inference::ort::{Device, OrtEngine, Runtime};
use crate::inference::service::{BatchRun, Handle, Observer, Options, Service};
use crate::live::readers::Readers;
use crate::models::catalogue::MODELS;
use crate::models::manifest::{Head, Manifest, Task};
use crate::models::store::{Store, StoreError, Stored};
use crate::models::traffic::{Slot, Split};
use crate::pipeline::recognise::{Model, ModelSet};
use crate::telemetry::metrics::Metrics;

/// Crops that run together; detectors gain nothing from batches on a CPU.
const CROP_BATCH: usize = 8;
/// Pictures that run together on a GPU.
const GPU_BATCH: usize = 16;

/// Running lanes with a model for each task. Dropping it stops the lanes.
pub struct Recognition {
    service: Service,
    models: ModelSet,
}

impl Recognition {
    /// Loads the newest version of every task's model, one engine a lane.
    ///
    /// # Errors
    /// With what is missing or broken, and what to do about it.
    pub fn load(args: &InferenceArgs, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let mut device: Device = args.device.parse()?;
        let runtime = load_runtime(args)?;
        let cascades = Cascades::read(&args.cascades)?;
        let models = find_all(args, &cascades)?;
        let named = |(id, stage): (u32, &Chosen)| {
            (ModelId(id), (stage.manifest.name.clone(), stage.manifest.version.to_string()))
        };
        let names = (0..).zip(&models).map(named).collect();
        let options = Options {
            lanes: args.lanes.unwrap_or_else(cores),
            limits: Limits::default(),
            slowdown: args.slowdown,
            ..Options::default()
        };
        let observer = Arc::new(Meter { metrics: Arc::clone(metrics), names });
        let service = Service::start(options, observer).context("starting the inference threads")?;
        let in_use = ModelSet::default().reading_text_on(cascades.text_on.clone());
        for (id, Chosen { slots, manifest, path }) in (0..).map(ModelId).zip(models) {
            let engines = load_engines(&runtime, &path, device, args.lane_threads, service.lanes());
            let outcome = if engines.is_ok() { "loaded" } else { "failed" };
            metrics.model_loads_total.with_label_values(&[outcome]).inc();
            let (engines, used) = engines?;
            // What the first model could not have is not tried, and not complained about, again.
            device = used;
            metrics.inference_device.reset();
            metrics.inference_device.with_label_values(&[&used.to_string()]).set(1);
            let on_gpu = used != Device::Cpu;
            let max_batch = match manifest.task {
                _ if manifest.input.batch.is_some() => 1,
                Task::Gender | Task::Classes => CROP_BATCH,
                _ if on_gpu => GPU_BATCH,
                _ => 1,
            };
            service.install(id, engines, max_batch)?;
            if on_gpu {
                service.set_pictures_under_way(service.lanes() * GPU_BATCH + 1);
            }
            let model = Model::new(id, manifest);
            for slot in slots {
                in_use.serve(slot, Split::all(model.clone()));
            }
        }
        cascades::warn_of_unknown_labels(&cascades, &in_use);
        tracing::info!(lanes = service.lanes(), threads = args.lane_threads, "models loaded");
        Ok(Self { service, models: in_use })
    }

    pub fn handle(&self) -> Handle {
        self.service.handle()
    }

    pub fn models(&self) -> ModelSet {
        self.models.clone()
    }

    pub fn lanes(&self) -> usize {
        self.service.lanes()
    }

    /// Starts the threads that read text for live sessions.
    pub fn start_readers(&self, metrics: &Arc<Metrics>) -> anyhow::Result<Readers> {
        Readers::start(self.service.lanes(), metrics).context("starting the threads that read text")
    }

    /// Starts the threads that recognise posted pictures: one decodes while every lane is at work.
    pub fn start_desk(&self, metrics: &Arc<Metrics>) -> anyhow::Result<Desk> {
        Desk::start(self.service.lanes() + 1, &self.handle(), &self.models, metrics)
            .context("starting the threads for pictures")
    }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The runtime of `--ort-library`, or the newest that ./run has fetched.
pub fn load_runtime(args: &InferenceArgs) -> anyhow::Result<Runtime> {
    let path = find_library(args)?;
    let runtime = Runtime::load(&path)?;
    tracing::debug!(library = %path.display(), build = runtime.build_info(), "ONNX Runtime");
    Ok(runtime)
}

/// The file that [`load_runtime`] loads; its name ends with its version.
pub fn find_library(args: &InferenceArgs) -> anyhow::Result<PathBuf> {
    library_at(args.ort_library.as_deref())
}

/// The library at `wanted`, or the newest that ./run has fetched.
pub fn library_at(wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    match wanted {
        Some(path) => Ok(path.to_owned()),
        None => newest_library(Path::new(".vigie/onnxruntime")).context(
            "no ONNX Runtime library in .vigie/onnxruntime: ./run fetches it, or name yours with --ort-library",
        ),
    }
}

fn newest_library(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_library = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("libonnxruntime.so"))
    };
    entries.filter(is_library).max()
}

/// The model of every task: the one that `--model` names, else the newest of those that vigie brings, else
/// the newest there is; with the sizes that the command line asks for.
pub fn find_models(args: &InferenceArgs) -> anyhow::Result<Vec<(Manifest, PathBuf)>> {
    if args.object_size == 0 || !args.object_size.is_multiple_of(32) || args.object_size > 2048 {
        bail!("--object-size {} is not a multiple of 32 between 32 and 2048", args.object_size);
    }
    let store = Store::open(&args.models);
    let mut found = Vec::new();
    let mut chosen = choose(&store, &args.chosen)?;
    for task in Task::ALL {
        let stored = match chosen.remove(&task) {
            Some(stored) => stored,
            None => usual(&store, task).with_context(|| {
                format!(
                    "the models in {} cannot be used: `vigie models pull` fetches them",
                    args.models.display()
                )
            })?,
        };
        let mut manifest = stored.manifest;
        // Others were added at the size that they are to run at.
        if manifest.head == Head::Centernet {
            manifest.input.size = args.object_size;
        }
        found.push((manifest, stored.model));
    }
    Ok(found)
}

/// Those of the first stage and of the second, with the slots that they fill.
fn find_all(args: &InferenceArgs, cascades: &Cascades) -> anyhow::Result<Vec<Chosen>> {
    let first = find_models(args)?.into_iter().map(|(manifest, path)| {
        let slots = Slot::of(manifest.task).into_iter().collect();
        Chosen { slots, manifest, path }
    });
    let store = Store::open(&args.models);
    let mut chosen = choose(&store, &args.chosen)?;
    let second = cascades::find(&store, cascades, |task| chosen.remove(&task))?;
    Ok(first.chain(second).collect())
}

/// The model `NAME` or `NAME@VERSION`.
pub fn named(store: &Store, name: &str) -> anyhow::Result<Stored> {
    match name.split_once('@') {
        Some((name, version)) => {
            let version = version.parse().ok().with_context(|| format!("{version:?} is no version"))?;
            Ok(store.find(name, version)?)
        }
        None => Ok(store.newest_of(name)?),
    }
}

/// The models that are named, by task.
fn choose(store: &Store, names: &[String]) -> anyhow::Result<HashMap<Task, Stored>> {
    let mut chosen = HashMap::new();
    for name in names {
        let stored = named(store, name)?;
        let task = stored.manifest.task;
        if task == Task::Classes {
            bail!("{name} is a classifier: --cascade LABEL={name} says what it looks at");
        }
        if let Some(other) = chosen.insert(task, stored) {
            bail!("{name} and {} are both for {}", other.manifest.name, task.name());
        }
    }
    Ok(chosen)
}

/// What is used for a task unless another is named. A model of one's own is not used by being there.
fn usual(store: &Store, task: Task) -> Result<Stored, StoreError> {
    let brought = MODELS.iter().find(|entry| entry.manifest().task == task);
    match brought.map(|entry| store.newest_of(entry.name)) {
        Some(Err(StoreError::NoSuchModel { .. })) | None => store.newest(task),
        Some(found) => found,
    }
}

/// One engine a lane, all on the device that the first one could get.
fn load_engines(
    runtime: &Runtime,
    path: &Path,
    device: Device,
    threads: usize,
    lanes: usize,
) -> anyhow::Result<(Vec<Box<dyn Engine>>, Device)> {
    let first = OrtEngine::load(runtime, path, device, threads)?;
    let used = first.device_used().clone();
    if let Some(reason) = &used.fallback {
        tracing::warn!(wanted = %device, used = %used.device, reason, "the device cannot be used");
    }
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(first)];
    for _ in 1..lanes {
        engines.push(Box::new(OrtEngine::load(runtime, path, used.device, threads)?));
    }
    Ok((engines, used.device))
}

/// Carries what the lanes do into the metrics.
struct Meter {
    metrics: Arc<Metrics>,
    /// Name and version by id.
    names: HashMap<ModelId, (String, String)>,
}

impl Observer for Meter {
    fn ran(&self, run: &BatchRun<'_>) {
        self.metrics.inference_batch_size.observe(run.batch_size as f64);
        for queued in run.queued {
            self.metrics.inference_queue_seconds.observe(queued.as_secs_f64());
        }
        if let Some((name, version)) = self.names.get(&run.model) {
            let seconds = self.metrics.inference_seconds.with_label_values(&[name, version]);
            seconds.observe(run.ran.as_secs_f64());
        }
    }

    fn skipped(&self, count: u64) {
        self.metrics.inference_skipped_total.inc_by(count);
    }
}
