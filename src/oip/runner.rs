//! Has requests run on the lanes, behind live sessions: in the background, and few at a time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::OipError;
use super::shapes::Shapes;
use crate::inference::batcher::{BACKGROUND, Limits, ModelId};
use crate::inference::engine::{Description, EngineError};
use crate::inference::service::{Ask, Completed, Handle};
use crate::inference::tensor::Tensor;
use crate::models::manifest::Manifest;
use crate::pipeline::recognise::{Model, ModelSet};

/// Requests that are inside at a time, whatever they wait for.
const MAX_INSIDE: usize = 512;
/// KiB of all their bodies.
const MAX_MEMORY_KIB: usize = 256 << 10;
/// Pictures of the model's own size that one request may hold a lane for: no more than a crowd's faces do.
const MAX_PICTURES: usize = 8;
/// Models whose shapes are known, before those that have gone are looked for.
const MAX_MODELS: usize = 64;
/// Colours of a picture.
const CHANNELS: usize = 3;

/// Sessions count from 1, posted pictures from the highest bit: no number is used twice.
const FIRST_ASKER: u64 = (1 << 63) | BACKGROUND;

/// A model that requests can be for. Whoever holds it keeps its engines.
#[derive(Clone, Debug)]
pub struct Loaded {
    model: Model,
    pub ports: Arc<Description>,
    /// It is what a slot gives to everybody who gets nothing else.
    is_stable: bool,
}

impl Loaded {
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.model.manifest
    }

    /// Elements that one of its inputs may have.
    pub fn max_elements(&self) -> usize {
        let input = &self.manifest().input;
        let pixels = input.size as usize * input.height.unwrap_or(input.size) as usize;
        MAX_PICTURES * CHANNELS * pixels
    }
}

/// Runs requests; one a worker.
pub struct Runner {
    handle: Handle,
    models: ModelSet,
    /// Requests that are inside.
    inside: Semaphore,
    /// One a KiB.
    memory: Semaphore,
    /// Requests that the lanes have: as many as there are numbers below.
    places: Semaphore,
    /// In whose name to ask, each number as often as an asker may have requests waiting.
    askers: Mutex<Vec<u64>>,
    shapes: Mutex<Shapes>,
}

impl Runner {
    /// For these models on so many lanes.
    pub fn new(handle: Handle, models: ModelSet, lanes: usize) -> Self {
        let numbers = (0..lanes.max(1) as u64).map(|lane| FIRST_ASKER + lane);
        let each = Limits::default().per_asker;
        let askers: Vec<u64> = numbers.flat_map(|asker| std::iter::repeat_n(asker, each)).collect();
        Self {
            handle,
            models,
            inside: Semaphore::new(MAX_INSIDE),
            memory: Semaphore::new(MAX_MEMORY_KIB),
            places: Semaphore::new(askers.len()),
            askers: Mutex::new(askers),
            shapes: Mutex::default(),
        }
    }

    /// Every loaded model, by name and version.
    pub fn loaded(&self) -> Vec<Loaded> {
        let splits = self.models.slots().into_iter().filter_map(|slot| self.models.split(&slot));
        let stable: Vec<ModelId> = splits.map(|split| split.stable.id).collect();
        let described = self.models.loaded().into_iter().filter_map(|model| {
            let ports = self.handle.describe(model.id)?;
            Some(Loaded { is_stable: stable.contains(&model.id), model, ports })
        });
        let mut loaded: Vec<Loaded> = described.collect();
        let key = |loaded: &Loaded| (loaded.manifest().name.clone(), loaded.manifest().version);
        loaded.sort_by_key(key);
        loaded.dedup_by_key(|loaded| key(loaded));
        loaded
    }

    /// The model that a path names; without a version the one in use, the newest of several such, or else of all.
    ///
    /// # Errors
    /// [`OipError::UnknownModel`], [`OipError::UnknownVersion`].
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<Loaded, OipError> {
        let shown = |text: &str| text.chars().take(80).collect::<String>();
        let loaded = self.loaded();
        let named: Vec<&Loaded> = loaded.iter().filter(|loaded| loaded.manifest().name == name).collect();
        let in_use = named.iter().rev().find(|loaded| loaded.is_stable).or(named.last());
        let Some(usual) = in_use else {
            let mut names: Vec<String> = loaded.iter().map(|loaded| loaded.manifest().name.clone()).collect();
            names.dedup();
            return Err(OipError::UnknownModel { model: shown(name), loaded: names });
        };
        let Some(version) = version else { return Ok((*usual).clone()) };
        let versions: Vec<String> =
            named.iter().map(|loaded| loaded.manifest().version.to_string()).collect();
        match versions.iter().position(|loaded| loaded == version) {
            Some(at) => Ok(named[at].clone()),
            None => Err(OipError::UnknownVersion {
                model: shown(name),
                version: shown(version),
                loaded: versions,
            }),
        }
    }

    /// Room for a request whose body has at most so many bytes, until dropped.
    ///
    /// # Errors
    /// [`OipError::Overloaded`] when there is none.
    pub fn enter(&self, bytes: usize) -> Result<[SemaphorePermit<'_>; 2], OipError> {
        let places = u32::try_from(bytes.div_ceil(1 << 10).max(1)).unwrap_or(u32::MAX);
        let entered =
            self.inside.try_acquire().and_then(|place| Ok([place, self.memory.try_acquire_many(places)?]));
        entered.map_err(|_| OipError::Overloaded)
    }

    /// Has the model run on its inputs, once its turn has come. Dropping the future withdraws the request.
    ///
    /// # Errors
    /// What the engine says, and what keeps it from running.
    pub async fn run(&self, model: &Loaded, mut inputs: Vec<Tensor>) -> Result<Completed, OipError> {
        if inputs.is_empty() {
            return Err(OipError::Failed { reason: "it takes nothing".to_owned() });
        }
        self.admit_shapes(model, &inputs)?;
        let _place = self.places.acquire().await.map_err(|_| OipError::Stopping)?;
        let asker = self.take_asker()?;
        let others = inputs.split_off(1);
        let input = inputs.remove(0);
        let ask = Ask { others, ..Ask::of(model.model.id, asker.number, input) };
        let refused = |error: EngineError| match error {
            EngineError::Overloaded => OipError::Overloaded,
            EngineError::NotInstalled { .. } => OipError::Unloaded,
            EngineError::Stopped => OipError::Stopping,
            EngineError::Run { reason, .. } => {
                OipError::Failed { reason: reason.chars().take(500).collect() }
            }
            other => OipError::Failed { reason: other.to_string() },
        };
        self.handle.queue(ask).map_err(refused)?.await.map_err(refused)
    }

    fn admit_shapes(&self, model: &Loaded, inputs: &[Tensor]) -> Result<(), OipError> {
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        if shapes.len() > MAX_MODELS {
            shapes.keep_only(|id| self.handle.describe(id).is_some());
        }
        shapes.admit(model.model.id, inputs)
    }

    fn take_asker(&self) -> Result<Asker<'_>, OipError> {
        let number = self.askers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        number.map(|number| Asker { number, askers: &self.askers }).ok_or(OipError::Overloaded)
    }
}

/// A number to ask in the name of, given back when dropped.
struct Asker<'a> {
    number: u64,
    askers: &'a Mutex<Vec<u64>>,
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}
