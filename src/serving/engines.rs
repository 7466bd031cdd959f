//! Makes engines of ONNX files, one a lane, and takes them to the lanes and back.

use std::path::Path;
use std::sync::Arc;

use super::gauges::Names;
use crate::inference::batcher::ModelId;
use crate::inference::engine::{Engine, EngineError};
use crate::inference::ort::{Device, Memory, OrtEngine, Runtime};
use crate::inference::service::Service;
use crate::models::manifest::{Head, Manifest, Task};
use crate::pipeline::recognise::Model;
use crate::telemetry::metrics::Metrics;

/// Face crops that run together; detectors gain nothing from batches on a CPU.
const CROP_BATCH: usize = 8;
/// Pictures that run together on a GPU.
const GPU_BATCH: usize = 16;

/// Where models are made ready for the lanes of one service.
pub struct Workshop {
    pub runtime: Runtime,
    /// What is asked for, and once a model is loaded what could be had.
    pub device: Device,
    /// Threads of one engine.
    pub threads: usize,
    /// Pixels: the longer side of what CenterNet reads, in place of its manifest's.
    pub object_size: u32,
    pub service: Arc<Service>,
    pub metrics: Arc<Metrics>,
    pub names: Arc<Names>,
    /// The next model's number.
    pub next: u32,
}

impl Workshop {
    /// Loads the model at `path`, one engine a lane, and installs it.
    ///
    /// # Errors
    /// [`EngineError`] when an engine cannot be had; nothing is left of the model then.
    pub fn load(&mut self, manifest: Manifest, path: &Path) -> Result<Model, EngineError> {
        let loaded =
            self.load_engines(path, memory_of(&manifest)).and_then(|engines| self.install(manifest, engines));
        let outcome = if loaded.is_ok() { "loaded" } else { "failed" };
        self.metrics.model_loads_total.with_label_values(&[outcome]).inc();
        loaded
    }

    fn install(
        &mut self,
        mut manifest: Manifest,
        engines: Vec<Box<dyn Engine>>,
    ) -> Result<Model, EngineError> {
        // Others were added at the size that they are to run at.
        if manifest.head == Head::Centernet {
            manifest.input.size = self.object_size;
        }
        let on_gpu = self.device != Device::Cpu;
        let max_batch = match manifest.task {
            _ if manifest.input.batch.is_some() => 1,
            Task::Gender | Task::Classes => CROP_BATCH,
            _ if on_gpu => GPU_BATCH,
            _ => 1,
        };
        let id = ModelId(self.next);
        self.next += 1;
        // Before the first run, so that it is counted.
        self.names.enter(id, &manifest);
        self.service.install(id, engines, max_batch).inspect_err(|_| self.names.leave(id))?;
        if on_gpu {
            self.service.set_pictures_under_way(self.service.lanes() * GPU_BATCH + 1);
        }
        tracing::info!(model = %manifest.name, version = manifest.version, device = %self.device, "model loaded");
        Ok(Model::new(id, manifest))
    }

    /// One engine a lane, all on the device that the first one could get.
    fn load_engines(&mut self, path: &Path, memory: Memory) -> Result<Vec<Box<dyn Engine>>, EngineError> {
        let load = |device| OrtEngine::load_with(&self.runtime, path, device, self.threads, memory);
        let first = load(self.device)?;
        let used = first.device_used().clone();
        if let Some(reason) = &used.fallback {
            tracing::warn!(wanted = %self.device, used = %used.device, reason, "the device cannot be used");
        }
        // What the first model could not have is not tried, and not complained about, again.
        self.device = used.device;
        self.metrics.inference_device.reset();
        self.metrics.inference_device.with_label_values(&[&used.device.to_string()]).set(1);
        let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(first)];
        for _ in 1..self.service.lanes() {
            engines.push(Box::new(load(used.device)?));
        }
        Ok(engines)
    }

    /// Takes a model from the lanes, where nobody asks it any longer, and frees its engines.
    pub fn unload(&self, model: Model) {
        tracing::info!(model = %model.version(), "model unloaded");
        self.service.remove(model.id);
        self.names.leave(model.id);
        self.metrics.model_loads_total.with_label_values(&["unloaded"]).inc();
    }
}

/// Every line of text, and every part that is searched for some, has another shape.
fn memory_of(manifest: &Manifest) -> Memory {
    match manifest.task {
        Task::TextDetect | Task::TextRead => Memory::GivenBack,
        _ => Memory::Kept,
    }
}
