//! Loads the models and starts the lanes, and has the models follow the registry: what the commands that recognise have
//! in common.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};

use super::service::cores;
use crate::cli::InferenceArgs;
use crate::codec::Unit;
use crate::commands::cascades::{self, Cascades};
use crate::files::desk::Desk;
use crate::inference::batcher::Limits;
use crate::inference::ort::{Device, OrtEngine, Runtime};
use crate::inference::service::{Handle, Observer, Options, Service};
use crate::live::readers::Readers;
use crate::models::catalogue::MODELS;
use crate::models::manifest::{Head, Manifest, Task};
use crate::models::registry::Registry;
use crate::models::store::{Store, StoreError, Stored};
use crate::models::traffic::{Slot, Split};
use crate::pipeline::recognise::ModelSet;
use crate::serving::{Loaded, Loader, Names, Setup, Workshop};
use crate::telemetry::gpus::Gpus;
use crate::telemetry::metrics::Metrics;

/// Running lanes with a model for each slot. Dropping it stops the lanes.
pub struct Recognition {
    service: Arc<Service>,
    models: ModelSet,
    /// What goes on to load models, once somebody has it do so.
    serving: Mutex<Option<(Workshop, BTreeMap<Slot, Loaded>)>>,
    folder: PathBuf,
}

impl Recognition {
    /// Loads the newest version of every task's model, one engine a lane; those that read text only where text may be asked for, be it by
    /// a cascade: they are large.
    ///
    /// # Errors
    /// With what is missing or broken, and what to do about it.
    pub fn load(args: &InferenceArgs, metrics: &Arc<Metrics>, reads_text: bool) -> anyhow::Result<Self> {
        let devices = Device::several(&args.device)?;
        args.decode.parse::<Unit>()?.prepare();
        let runtime = load_runtime(args)?;
        let cascades = Cascades::read(&args.cascades)?;
        let (mut chosen, second) = choose_models(args, &cascades)?;
        chosen.extend(second);
        if !reads_text && cascades.text_on.is_empty() {
            chosen.retain(|(slot, _)| !matches!(slot, Slot::TextDetect | Slot::TextRead));
        }
        let gpus = usable(&runtime, &devices, &chosen);
        let on_gpu = !gpus.is_empty();
        let options = Options {
            lanes: args.lanes.unwrap_or_else(|| if on_gpu { LANES_A_GPU * gpus.len() } else { cores() }),
            limits: Limits::default(),
            yields_to_media: !on_gpu,
            slowdown: args.slowdown,
            ..Options::default()
        };
        let names = Names::new(metrics);
        let observer = Arc::clone(&names) as Arc<dyn Observer>;
        let service = Service::start(options, observer).context("starting the inference threads")?;
        let service = Arc::new(service);
        let mut workshop = Workshop {
            runtime,
            // What cannot be used is tried once more, by the first model, which says why not.
            devices: if on_gpu { gpus } else { devices[..1].to_vec() },
            threads: args.lane_threads,
            gpu_memory: args.gpu_memory,
            object_size: args.object_size,
            service: Arc::clone(&service),
            metrics: Arc::clone(metrics),
            names,
            next: 0,
            loaded: BTreeMap::new(),
        };
        let models = ModelSet::default().reading_text_on(cascades.text_on.clone());
        let mut defaults: BTreeMap<Slot, Loaded> = BTreeMap::new();
        for (slot, stored) in chosen {
            // One that fills several slots is loaded once.
            let known = defaults.values().find(|loaded| loaded.stored.model == stored.model);
            let model = match known {
                Some(loaded) => loaded.model.clone(),
                None => workshop.load(stored.manifest.clone(), &stored.model)?,
            };
            models.serve(slot.clone(), Split::all(model.clone()));
            defaults.insert(slot, Loaded { stored, model });
        }
        if workshop.is_on_gpu()
            && let Some(gpus) = Gpus::find()
        {
            metrics.add(gpus);
        }
        cascades::warn_of_unknown_labels(&cascades, &models);
        tracing::info!(lanes = service.lanes(), threads = args.lane_threads, "models loaded");
        let serving = Mutex::new(Some((workshop, defaults)));
        Ok(Self { service, models, serving, folder: args.models.clone() })
    }

    /// Has the models follow the traffics of `registry` from now on; `worker` is who says so in their history.
    ///
    /// # Errors
    /// When it has been done already, or there is no thread for it.
    pub fn follow(&self, registry: Option<&Registry>, worker: &str) -> anyhow::Result<Loader> {
        let taken = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (workshop, defaults) = taken.context("the models follow the traffics already")?;
        let setup = Setup {
            worker: worker.to_owned(),
            workshop,
            registry: registry.cloned(),
            store: Store::open(&self.folder),
            models: self.models.clone(),
            defaults,
        };
        Loader::start(setup, tokio::runtime::Handle::current()).context("starting the loader")
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

/// Lanes of a GPU: so many that one copies while the other computes. On the CPU there is one a core.
const LANES_A_GPU: usize = 2;

/// Those of the devices that are GPUs and load the first of the models.
fn usable(runtime: &Runtime, devices: &[Device], chosen: &[(Slot, Stored)]) -> Vec<Device> {
    let Some((_, first)) = chosen.first() else { return Vec::new() };
    let mut usable = Vec::new();
    for &device in devices.iter().filter(|&&device| runtime.may_use(device)) {
        match OrtEngine::load(runtime, &first.model, device, 1) {
            Ok(engine) if engine.device_used().device != Device::Cpu => usable.push(device),
            Ok(engine) if devices.len() > 1 => {
                let reason = engine.device_used().fallback.as_deref().unwrap_or_default();
                tracing::warn!(%device, reason, "a GPU is left out");
            }
            _ => {}
        }
    }
    usable
}

/// The runtime of `--ort-library`, or the newest that ./run has fetched.
pub fn load_runtime(args: &InferenceArgs) -> anyhow::Result<Runtime> {
    let path = find_library(args)?;
    let runtime = Runtime::load(&path)?;
    tracing::debug!(library = %path.display(), build = runtime.build_info(), "ONNX Runtime");
    Ok(runtime.keeping_engines(&args.engine_cache))
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
    let sized = |(_, stored): (Slot, Stored)| {
        let mut manifest = stored.manifest;
        // Others were added at the size that they are to run at.
        if manifest.head == Head::Centernet {
            manifest.input.size = args.object_size;
        }
        (manifest, stored.model)
    };
    let (first, _) = choose_models(args, &Cascades::default())?;
    Ok(first.into_iter().map(sized).collect())
}

/// Models by the slots that they fill.
type BySlot = Vec<(Slot, Stored)>;

/// The same by slot, as the store has them, and those of the second stage.
fn choose_models(args: &InferenceArgs, cascades: &Cascades) -> anyhow::Result<(BySlot, BySlot)> {
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
        let slot = Slot::of(task).context("a task that no slot is for")?;
        found.push((slot, stored));
    }
    let second = cascades::find(&store, cascades, |task| chosen.remove(&task))?;
    Ok((found, second))
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

/// The models that are named, `NAME` or `NAME@VERSION`, by task.
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
