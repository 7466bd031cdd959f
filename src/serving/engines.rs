//! Makes engines of ONNX files, one a lane, and takes them to the lanes and back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::gauges::Names;
use crate::inference::batcher::ModelId;
use crate::inference::engine::{Engine, EngineError};
use crate::inference::ort::{
    BATCHES, Device, DeviceUsed, Loading, Making, Memory, OrtEngine, Runtime, Shapes,
};
use crate::inference::service::Service;
use crate::models::manifest::{Fit, FloatFormat, Head, Input, InputFormat, Layout, Manifest, Task};
use crate::pipeline::prepare::plan;
use crate::pipeline::recognise::Model;
use crate::telemetry::metrics::Metrics;

/// Crops that run together on a CPU, where two cost a twentieth less than one and one, and eight a tenth more than eight
/// times one, eight times the memory, and a lane for as long. Detectors gain nothing from batches there.
const CROP_BATCH: usize = 2;
/// Pictures that run together on a GPU.
const GPU_BATCH: usize = 32;
/// Steps in which a picture's shorter side comes on a GPU, where every shape of an input has sessions of its own: of 320
/// pixels, 4 to 3 is 256 and 16 to 9 is 192.
const GPU_STEPS: u32 = 5;

/// Where models are made ready for the lanes of one service.
pub struct Workshop {
    pub runtime: Runtime,
    /// What is asked for, at least one, and once a model is loaded what could be had.
    pub devices: Vec<Device>,
    /// Threads of one engine.
    pub threads: usize,
    /// MiB that one model may take of a GPU's.
    pub gpu_memory: Option<usize>,
    /// Pixels: the longer side of what CenterNet reads, in place of its manifest's.
    pub object_size: u32,
    pub service: Arc<Service>,
    pub metrics: Arc<Metrics>,
    pub names: Arc<Names>,
    /// The next model's number.
    pub next: u32,
    pub loaded: BTreeMap<ModelId, OnDevices>,
}

/// What a loaded model runs on.
pub struct OnDevices {
    devices: Vec<Device>,
    /// Ends with the model, on the thread that unloads it: a lane must not wait for what is being made.
    _making: Vec<Making>,
}

impl Workshop {
    /// Loads the model at `path`, one engine a lane, and installs it.
    ///
    /// # Errors
    /// [`EngineError`] when an engine cannot be had; nothing is left of the model then.
    pub fn load(&mut self, mut manifest: Manifest, path: &Path) -> Result<Model, EngineError> {
        // Others were added at the size that they are to run at.
        if manifest.head == Head::Centernet {
            manifest.input.size = self.object_size;
        }
        let on_gpu = self.devices.iter().any(|&device| self.runtime.may_use(device));
        if on_gpu {
            take_gpu_steps(&mut manifest.input);
        }
        let loading = Loading {
            budget: self.gpu_memory.map(|mib| mib << 20),
            ..loading_of(&manifest, max_batch(&manifest, on_gpu), self.threads)
        };
        let loaded = self.load_engines(path, &loading);
        let loaded = loaded.and_then(|(engines, used)| self.install(manifest, engines, used));
        let outcome = if loaded.is_ok() { "loaded" } else { "failed" };
        self.metrics.model_loads_total.with_label_values(&[outcome]).inc();
        loaded
    }

    fn install(
        &mut self,
        manifest: Manifest,
        mut engines: Vec<OrtEngine>,
        devices: Vec<Device>,
    ) -> Result<Model, EngineError> {
        let on_gpu = is_gpu_among(&devices);
        let making = engines.iter_mut().filter_map(OrtEngine::take_making).collect();
        let fits = engines.iter().filter_map(OrtEngine::most_rows).min().unwrap_or(usize::MAX);
        let max_batch = max_batch(&manifest, on_gpu).min(fits);
        let engines = engines.into_iter().map(|engine| Box::new(engine) as Box<dyn Engine>).collect();
        let id = ModelId(self.next);
        self.next += 1;
        // Before the first run, so that it is counted.
        self.names.enter(id, &manifest);
        self.service.install(id, engines, max_batch).inspect_err(|_| self.names.leave(id))?;
        if on_gpu {
            self.service.set_pictures_under_way(self.service.lanes() * GPU_BATCH + 1);
        }
        let shown = devices.iter().map(Device::to_string).collect::<Vec<_>>().join(",");
        tracing::info!(model = %manifest.name, version = manifest.version, devices = shown, "model loaded");
        // What the first model could not have is not tried, and not complained about, again. That a later one finds no
        // room says nothing of the next.
        if self.loaded.is_empty() {
            self.devices.clone_from(&devices);
        }
        self.loaded.insert(id, OnDevices { devices, _making: making });
        self.show_devices();
        Ok(Model::new(id, manifest))
    }

    /// Whether models run on a GPU, as far as is known.
    pub fn is_on_gpu(&self) -> bool {
        is_gpu_among(&self.devices)
    }

    /// One engine a lane, and what they run on; the devices share the lanes out among them.
    fn load_engines(
        &self,
        path: &Path,
        loading: &Loading,
    ) -> Result<(Vec<OrtEngine>, Vec<Device>), EngineError> {
        let mut engines = Vec::new();
        let mut used = Vec::new();
        for (index, &wanted) in self.devices.iter().enumerate() {
            let lanes = (index..self.service.lanes()).step_by(self.devices.len()).count();
            if lanes == 0 {
                break;
            }
            let loaded = OrtEngine::load_lanes(&self.runtime, path, wanted, loading, lanes)?;
            let DeviceUsed { device, fallback } = loaded[0].device_used();
            if let Some(reason) = fallback {
                tracing::warn!(%wanted, used = %device, reason, "the device cannot be used");
            }
            used.push(*device);
            engines.extend(loaded);
        }
        Ok((engines, used))
    }

    fn show_devices(&self) {
        self.metrics.inference_device.reset();
        for device in self.loaded.values().flat_map(|on| &on.devices) {
            self.metrics.inference_device.with_label_values(&[&device.to_string()]).set(1);
        }
    }

    /// Takes a model from the lanes, where nobody asks it any longer, and frees its engines.
    pub fn unload(&mut self, model: Model) {
        tracing::info!(model = %model.version(), "model unloaded");
        self.loaded.remove(&model.id);
        self.service.remove(model.id);
        self.names.leave(model.id);
        self.show_devices();
        self.metrics.model_loads_total.with_label_values(&["unloaded"]).inc();
    }
}

fn is_gpu_among(devices: &[Device]) -> bool {
    devices.iter().any(|&device| device != Device::Cpu)
}

/// Has the pictures' shorter sides come in few steps.
pub fn take_gpu_steps(input: &mut Input) {
    if let Fit::TopLeft { multiple, .. } = &mut input.fit {
        *multiple = input.size.div_ceil(GPU_STEPS).next_multiple_of((*multiple).max(1));
    }
}

/// How a model is loaded that runs batches of up to `max_batch` rows.
pub fn loading_of(manifest: &Manifest, max_batch: usize, threads: usize) -> Loading {
    Loading {
        threads,
        memory: memory_of(manifest),
        shapes: shapes_of(&manifest.input, max_batch),
        usual: usual_shapes(manifest, max_batch),
        budget: None,
    }
}

/// Every line of text, and every part that is searched for some, has another shape.
fn memory_of(manifest: &Manifest) -> Memory {
    match manifest.task {
        Task::TextDetect | Task::TextRead => Memory::GivenBack,
        _ => Memory::Kept,
    }
}

/// How many rows run together.
fn max_batch(manifest: &Manifest, on_gpu: bool) -> usize {
    match manifest.task {
        _ if manifest.input.batch.is_some() => 1,
        _ if on_gpu => GPU_BATCH,
        Task::Gender | Task::Classes => CROP_BATCH,
        _ => 1,
    }
}

/// The shapes that a model's input comes in; `None` where a line of text makes them, which may be any.
fn shapes_of(input: &Input, max_batch: usize) -> Option<Shapes> {
    /// Pixels: a side that may shrink is no shorter where a picture is no narrower than 1 to 5.
    const PART: usize = 5;
    let (width, height) = (input.size as usize, input.height.unwrap_or(input.size) as usize);
    let shrinks_by = match input.fit {
        Fit::Line { .. } => return None,
        Fit::TopLeft { multiple, .. } => multiple.max(1) as usize,
        _ => 0,
    };
    let least = |side: usize| if shrinks_by == 0 { side } else { (side / PART).next_multiple_of(shrinks_by) };
    let batch = input.batch.map_or(1, |batch| batch as usize);
    let shape = |rows, height, width| shape_of(input, rows, (width, height));
    Some(Shapes {
        input: input.name.clone(),
        least: shape(batch, least(height), least(width)),
        usual: shape(batch.max(max_batch / 2), height, width),
        most: shape(batch.max(max_batch), height, width),
    })
}

/// The shapes in which cameras' pictures come, which are held ready on CUDA: every size of batch of what is square, 4 to 3
/// and 16 to 9, upright too.
fn usual_shapes(manifest: &Manifest, max_batch: usize) -> Vec<Vec<usize>> {
    let input = &manifest.input;
    if memory_of(manifest) == Memory::GivenBack {
        return Vec::new();
    }
    let size = input.size as usize;
    let mut sides = vec![(size, input.height.map_or(size, |height| height as usize))];
    if let (Fit::TopLeft { .. }, None) = (input.fit, input.height) {
        for (longer, shorter) in [(4, 3), (16, 9)] {
            let planned = [(longer, shorter), (shorter, longer)]
                .map(|(width, height)| plan(input, width * 100, height * 100).map(|plan| plan.canvas));
            sides.extend(planned.into_iter().flatten());
        }
    }
    let batches = match input.batch {
        Some(batch) => vec![batch as usize],
        None => BATCHES.into_iter().filter(|&batch| batch <= max_batch).collect(),
    };
    let of_batch = |&batch: &usize| sides.iter().map(move |&sides| shape_of(input, batch, sides));
    batches.iter().flat_map(of_batch).collect()
}

fn shape_of(input: &Input, rows: usize, (width, height): (usize, usize)) -> Vec<usize> {
    match input.format {
        InputFormat::Float(FloatFormat { layout: Layout::Nchw, .. }) => vec![rows, 3, height, width],
        _ => vec![rows, height, width, 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::catalogue::MODELS;

    #[test]
    fn engines_are_made_for_every_shape_that_the_default_models_are_given() {
        let shapes = |name: &str| {
            let entry = MODELS.iter().find(|entry| entry.name == name).unwrap();
            let manifest = entry.manifest();
            shapes_of(&manifest.input, max_batch(&manifest, true))
        };
        let faces = shapes("blazeface").unwrap();
        assert_eq!((faces.least, faces.most), (vec![1, 256, 256, 3], vec![32, 256, 256, 3]));
        let genders = shapes("faceres").unwrap();
        assert_eq!((genders.usual, genders.most), (vec![16, 224, 224, 3], vec![32, 224, 224, 3]));
        let objects = shapes("centernet").unwrap();
        assert!(objects.least[1] < objects.most[1] && objects.least[1] % 32 == 0, "{objects:?}");
    }
}
