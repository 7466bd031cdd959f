//! The thread that has a worker's models follow the traffics.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::engines::Workshop;
use super::gauges::{Told, shown};
use super::plan::{Failures, Wanted, arrange};
use super::watch::{Pulse, find_breach};
use crate::blobs::Version;
use crate::inference::service::{least_priority, lower_priority};
use crate::models::manifest::Manifest;
use crate::models::registry::{Registry, RegistryError};
use crate::models::store::{Found, Store, StoreError, Stored};
use crate::models::traffic::{Measured, ModelVersion, Previous, Slot, Split, Traffic};
use crate::pipeline::recognise::{Model, ModelSet};

/// How old what a worker knows of the traffics may get.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// What was measured longer ago is held against nobody: the machine may have more to do now.
const COMPARABLE: Duration = Duration::from_secs(600);

/// A model that was loaded when the worker started.
pub struct Loaded {
    /// As the store has it.
    pub stored: Stored,
    pub model: Model,
}

/// What the loader works on.
pub struct Setup {
    /// Names the worker in what it writes into a traffic's history.
    pub worker: String,
    pub workshop: Workshop,
    /// Where traffics and uploads are, if anywhere.
    pub registry: Option<Registry>,
    /// The worker's own models; copies of uploads are kept beside them.
    pub store: Store,
    pub models: ModelSet,
    /// The models that slots have by themselves.
    pub defaults: BTreeMap<Slot, Loaded>,
}

/// The running thread.
pub struct Loader {
    is_stopping: Arc<AtomicBool>,
    /// Whether everything that was wanted at first has been loaded, or could not be.
    is_settled: watch::Receiver<bool>,
    thread: JoinHandle<()>,
}

impl Loader {
    /// Starts the thread; what it waits for runs on `runtime`, which must outlive it.
    ///
    /// # Errors
    /// The operating system's, when it has no thread to give.
    pub fn start(setup: Setup, runtime: Handle) -> std::io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&is_stopping);
        let (settled, is_settled) = watch::channel(false);
        // An engine's own threads are as urgent as the one that makes it, and cannot be made more so.
        let is_lone = setup.workshop.threads == 1;
        let thread = std::thread::Builder::new().name("loader".into()).spawn(move || {
            if is_lone {
                least_priority()
            } else {
                lower_priority()
            }
            Run::new(setup, runtime).run(&is_told, &settled);
        })?;
        Ok(Self { is_stopping, is_settled, thread })
    }

    /// Waits until the models are those of the traffics, as far as they can be had, so that the first sessions see no
    /// others; not longer than `limit`.
    pub async fn settled(&mut self, limit: Duration) {
        if tokio::time::timeout(limit, self.is_settled.wait_for(|is| *is)).await.is_err() {
            tracing::warn!("models are still being loaded: sessions begin with the slots' own");
        }
    }

    /// Has the thread end, and waits for it until `limit`: a load that has begun is not broken off.
    pub async fn leave(self, limit: Duration) {
        self.is_stopping.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        if tokio::time::timeout(limit, joined).await.is_err() {
            tracing::warn!("a model was still being loaded at the end");
        }
    }
}

/// Why a model that is wanted is not there.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("there is no {0}, neither in the registry nor in this worker's folder")]
    Unknown(ModelVersion),
    #[error("{model} is for {is}, not for {slot}")]
    OtherTask { model: ModelVersion, is: &'static str, slot: Slot },
    #[error("it cannot be fetched")]
    Fetch(#[from] RegistryError),
    #[error("the worker's copy cannot be used")]
    Stored(#[from] StoreError),
    #[error("it cannot be loaded")]
    Load(#[from] crate::inference::engine::EngineError),
    #[error("loading it failed by a fault of vigie's own")]
    Panicked,
}

/// A model on the lanes.
struct Held {
    names: BTreeSet<Wanted>,
    /// As it was read.
    manifest: Manifest,
    model: Model,
}

/// What was measured of a model.
#[derive(Clone, Copy)]
struct Remembered {
    measured: Measured,
    /// Runs since it was loaded, by which it is seen whether it still runs.
    runs: u64,
    /// When it had run last.
    at: Instant,
}

struct Run {
    worker: String,
    workshop: Workshop,
    registry: Option<Registry>,
    store: Store,
    models: ModelSet,
    runtime: Handle,
    /// Manifest and file of the slots' own models.
    defaults: BTreeMap<Slot, (Manifest, PathBuf)>,
    traffics: Vec<(Traffic, Version)>,
    held: Vec<Held>,
    failures: Failures,
    /// What was measured last of each model, and of those that are gone but that a traffic could go back to.
    measured: BTreeMap<Wanted, Remembered>,
    pulse: Pulse,
    told: Told,
    is_registry_lost: bool,
}

impl Run {
    fn new(setup: Setup, runtime: Handle) -> Self {
        let Setup { worker, workshop, registry, store, models, defaults } = setup;
        let mut held: Vec<Held> = Vec::new();
        let mut files = BTreeMap::new();
        for (slot, Loaded { stored, model }) in defaults {
            let name = Wanted::Default(slot.clone());
            // One model may be that of several slots.
            match held.iter_mut().find(|held| held.model.id == model.id) {
                Some(held) => drop(held.names.insert(name)),
                None => held.push(Held { names: [name].into(), manifest: stored.manifest.clone(), model }),
            }
            files.insert(slot, (stored.manifest, stored.model));
        }
        Self {
            worker,
            workshop,
            registry,
            store,
            models,
            runtime,
            defaults: files,
            traffics: Vec::new(),
            held,
            failures: Failures::default(),
            measured: BTreeMap::new(),
            pulse: Pulse::default(),
            told: Told::default(),
            is_registry_lost: false,
        }
    }

    fn run(mut self, is_stopping: &AtomicBool, settled: &watch::Sender<bool>) {
        while !is_stopping.load(Ordering::Acquire) {
            if !self.step() {
                settled.send_replace(true);
                std::thread::park_timeout(POLL_INTERVAL);
            }
        }
    }

    /// Brings everything up to date but for one load at most; whether it tried one.
    fn step(&mut self) -> bool {
        self.read_traffics();
        // Where every model fails, versions are not to blame, and others' traffic must not suffer for this worker.
        if !self.note_pulse() {
            self.enforce_bounds();
        }
        let wanted = self.wanted();
        self.serve(&wanted);
        self.free(&wanted);
        let has_tried = self.load_next(&wanted);
        if has_tried {
            self.serve(&wanted);
        }
        self.told.tell(&self.workshop.metrics, self.held.iter().map(|held| &held.model), &self.models);
        self.models.note_not_loaded(self.failures.shown());
        has_tried
    }

    /// Notes whether everything fails that is run.
    fn note_pulse(&mut self) -> bool {
        let tallies = self.held.iter().map(|Held { model, .. }| {
            let tally = model.figures.tally();
            (model.id, tally.runs, tally.errors)
        });
        let is_lost = self.pulse.is_lost(tallies, Instant::now());
        if self.models.note_lost(is_lost) != is_lost {
            match is_lost {
                true => tracing::error!("no model runs any longer: this worker takes no sessions"),
                false => tracing::info!("models are tried again: this worker takes sessions"),
            }
        }
        is_lost
    }

    fn read_traffics(&mut self) {
        let Some(registry) = &self.registry else { return };
        match self.runtime.block_on(registry.traffics()) {
            Ok(traffics) => {
                if traffics != self.traffics {
                    self.failures.forgive();
                }
                self.traffics = traffics;
                if std::mem::take(&mut self.is_registry_lost) {
                    tracing::info!("the registry answers again");
                }
            }
            // What was read last still holds.
            Err(error) if !self.is_registry_lost => {
                self.is_registry_lost = true;
                tracing::warn!(error = &error as &dyn std::error::Error, "the registry cannot be read");
            }
            Err(_) => {}
        }
    }

    /// Who is to get which model, by slot.
    fn wanted(&self) -> BTreeMap<Slot, Split<Wanted>> {
        let own = self.defaults.keys().map(|slot| (slot.clone(), Split::all(Wanted::Default(slot.clone()))));
        let mut wanted: BTreeMap<_, _> = own.collect();
        for (traffic, _) in &self.traffics {
            wanted.insert(traffic.slot.clone(), Wanted::by(&traffic.slot, traffic.split()));
        }
        wanted
    }

    fn loaded(&self, wanted: &Wanted) -> Option<Model> {
        self.held.iter().find(|held| held.names.contains(wanted)).map(|held| held.model.clone())
    }

    /// Has each slot use what is wanted as far as it is loaded.
    fn serve(&mut self, wanted: &BTreeMap<Slot, Split<Wanted>>) {
        for (slot, split) in wanted {
            let current = self.models.split(slot);
            let Some(next) = arrange(split, current.as_ref(), |wanted| self.loaded(wanted)) else { continue };
            if current.as_ref().is_some_and(|current| is_same(current, &next)) {
                continue;
            }
            tracing::info!(%slot, models = shown(&next), "a slot's models change");
            // What is compared is measured at the same time.
            next.models().for_each(|model| model.figures.begin_anew());
            for wanted in split.models() {
                self.measured.remove(wanted);
            }
            self.models.serve(slot.clone(), next);
        }
        for slot in self.models.slots() {
            if !wanted.contains_key(&slot) {
                tracing::info!(%slot, "a slot has no model any longer");
                self.models.withdraw(&slot);
            }
        }
    }

    /// Frees what is not wanted once nobody uses it.
    fn free(&mut self, wanted: &BTreeMap<Slot, Split<Wanted>>) {
        let all: BTreeSet<&Wanted> = wanted.values().flat_map(Split::models).collect();
        let (kept, unwanted): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| {
                held.names.iter().any(|name| all.contains(name)) || held.model.is_held_elsewhere()
            });
        self.held = kept;
        let is_less = !unwanted.is_empty();
        for Held { model, .. } in unwanted {
            self.told.finish(&self.workshop.metrics, &model);
            self.workshop.unload(model);
        }
        if is_less {
            self.remove_copies(&all);
        }
        let held = &self.held;
        let is_missing =
            |wanted: &Wanted| all.contains(wanted) && !held.iter().any(|held| held.names.contains(wanted));
        self.failures.keep(is_missing);
    }

    /// Removes the copies of the registry's versions that are not `wanted`, and that no traffic could go back to.
    fn remove_copies(&self, wanted: &BTreeSet<&Wanted>) {
        let copies = self.store.fetched();
        let previous = self.previous();
        for Found { name, version, .. } in copies.list().unwrap_or_default() {
            let copy = Wanted::Named(ModelVersion { name: name.clone(), version });
            let is_held = self.held.iter().any(|held| held.names.contains(&copy));
            if is_held || wanted.contains(&copy) || previous.contains(&copy) {
                continue;
            }
            if let Err(error) = copies.remove(&name, version) {
                tracing::debug!(error = &error as &dyn std::error::Error, "removing a copy of a model");
            }
        }
    }

    /// The models that traffics could go back to.
    fn previous(&self) -> BTreeSet<Wanted> {
        let previous = |(traffic, _): &(Traffic, Version)| {
            let model = match traffic.previous.as_ref()? {
                Previous::Default => None,
                Previous::Version(version) => Some(version),
            };
            Some(wanted_of(&traffic.slot, model))
        };
        self.traffics.iter().filter_map(previous).collect()
    }

    /// Loads one model that is wanted and not there, those that serve everybody first; whether there was one to try.
    fn load_next(&mut self, wanted: &BTreeMap<Slot, Split<Wanted>>) -> bool {
        let now = Instant::now();
        let stable = wanted.iter().map(|(slot, split)| (slot, &split.stable));
        let others = wanted.iter().flat_map(|(slot, split)| split.models().map(move |model| (slot, model)));
        let is_next = |(_, wanted): &(&Slot, &Wanted)| {
            self.loaded(wanted).is_none() && self.failures.may_try(wanted, now)
        };
        let Some((slot, wanted)) = stable.chain(others).find(is_next) else { return false };
        // A fault of what reads or loads a stranger's file must not end the thread.
        let loaded = catch_unwind(AssertUnwindSafe(|| self.load(slot, wanted)));
        if let Err(error) = loaded.unwrap_or(Err(LoadError::Panicked)) {
            let reason = text_of(&error);
            if self.failures.note(wanted, reason.clone(), Instant::now()) {
                tracing::warn!(%slot, ?wanted, reason, "a model cannot be loaded: what served before goes on");
            }
        }
        true
    }

    fn load(&mut self, slot: &Slot, wanted: &Wanted) -> Result<(), LoadError> {
        let (manifest, path) = self.find(wanted).inspect_err(|_| {
            self.workshop.metrics.model_loads_total.with_label_values(&["failed"]).inc();
        })?;
        if slot.task().is_some_and(|task| task != manifest.task) {
            let model = ModelVersion::of(&manifest);
            return Err(LoadError::OtherTask { model, is: manifest.task.name(), slot: slot.clone() });
        }
        // One file is loaded once, whatever it is called by.
        if let Some(held) = self.held.iter_mut().find(|held| held.manifest == manifest) {
            held.names.insert(wanted.clone());
            return Ok(());
        }
        let model = self.workshop.load(manifest.clone(), &path)?;
        self.held.push(Held { names: BTreeSet::from([wanted.clone()]), manifest, model });
        Ok(())
    }

    /// Manifest and file of a model: an upload's, or one of the worker's own.
    fn find(&self, wanted: &Wanted) -> Result<(Manifest, PathBuf), LoadError> {
        let version = match wanted {
            Wanted::Named(version) => version,
            Wanted::Default(slot) => {
                let own = self.defaults.get(slot).cloned();
                return own
                    .ok_or_else(|| StoreError::NoSuchModel {
                        name: format!("default of {slot}"),
                        folder: self.store.folder().to_owned(),
                    })
                    .map_err(LoadError::Stored);
            }
        };
        let ModelVersion { name, version: number } = version;
        let fetched = self
            .registry
            .as_ref()
            .map(|registry| self.runtime.block_on(registry.fetch(name, *number, &self.store)));
        let stored = match fetched {
            Some(Ok(stored)) => stored,
            None | Some(Err(RegistryError::UnknownVersion { .. })) => match self.store.find(name, *number) {
                Err(StoreError::NoSuchModel { .. }) => return Err(LoadError::Unknown(version.clone())),
                found => found?,
            },
            Some(Err(error)) => return Err(error.into()),
        };
        Ok((stored.manifest, stored.model))
    }

    /// Takes versions that break their traffic's bounds out of it.
    fn enforce_bounds(&mut self) {
        self.remember_measured();
        let Some(registry) = self.registry.clone() else { return };
        for at in 0..self.traffics.len() {
            let (traffic, version) = &self.traffics[at];
            let of = |model: Option<&ModelVersion>| {
                let remembered = self.measured.get(&wanted_of(&traffic.slot, model))?;
                (remembered.at.elapsed() < COMPARABLE).then_some(remembered.measured)
            };
            let Some((model, breach)) = find_breach(traffic, of) else { continue };
            let mut next = traffic.clone();
            let why = format!("on worker {}: {breach}", self.worker);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            if !next.withdraw(&model, &why, now) {
                continue;
            }
            match self.runtime.block_on(registry.set_traffic(&next, Some(version))) {
                Ok(version) => {
                    tracing::warn!(slot = %next.slot, %model, why, "a version is rolled back");
                    let slot = next.slot.to_string();
                    self.workshop.metrics.rollbacks_total.with_label_values(&[&slot]).inc();
                    self.traffics[at] = (next, version);
                }
                // Somebody was faster; what they wrote is read in a moment.
                Err(RegistryError::TrafficChanged { .. }) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, %model, "rolling back");
                }
            }
        }
    }

    /// Keeps what is measured of every model, and of those that are gone as long as a traffic could go back to them.
    fn remember_measured(&mut self) {
        let previous = self.previous();
        let held: BTreeSet<&Wanted> = self.held.iter().flat_map(|held| &held.names).collect();
        self.measured.retain(|wanted, _| previous.contains(wanted) || held.contains(wanted));
        let now = Instant::now();
        for Held { names, model, .. } in &self.held {
            let tally = model.figures.tally();
            let (measured, runs) = (tally.measured(), tally.runs);
            for name in names {
                // One that has not run since, or not since it was loaded anew, is remembered as it was.
                let is_news = match self.measured.get(name) {
                    Some(known) => known.runs != runs && measured.runs > 0,
                    None => true,
                };
                if is_news {
                    self.measured.insert(name.clone(), Remembered { measured, runs, at: now });
                }
            }
        }
    }
}

fn wanted_of(slot: &Slot, model: Option<&ModelVersion>) -> Wanted {
    model.map_or_else(|| Wanted::Default(slot.clone()), |model| Wanted::Named(model.clone()))
}

/// Whether the same loaded models are used for the same visitors.
fn is_same(one: &Split<Model>, other: &Split<Model>) -> bool {
    let key = |split: &Split<Model>| {
        let share = |share: &Option<crate::models::traffic::Share<Model>>| {
            share.as_ref().map(|share| (share.model.id, share.percent))
        };
        let variants = split.variants.iter();
        let variants = variants.map(|v| (v.model.id, v.attribute.clone(), v.equals.clone()));
        (split.stable.id, share(&split.canary), variants.collect::<Vec<_>>(), share(&split.shadow))
    };
    key(one) == key(other)
}

/// An error with its causes.
fn text_of(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", text_of(cause)),
        None => error.to_string(),
    }
}
