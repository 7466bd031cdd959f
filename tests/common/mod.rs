//! What tests with real models and real pictures share.
//!
//! Models come from `VIGIE_MODELS` or `.vigie/models`, ONNX Runtime from `VIGIE_ORT_LIBRARY` or the
//! first `.vigie/onnxruntime/libonnxruntime.so*`. A test fails, and says what is missing, without them.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod cluster;
pub mod media;
pub mod outside;
pub mod process;
pub mod s3;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
pub use vigie::files::image::to_i420;
use vigie::frame::Picture;
use vigie::inference::batcher::ModelId;
use vigie::inference::engine::Engine;
use vigie::inference::ort::{Device, OrtEngine, Runtime};
use vigie::inference::service::{Observer, Options, Service};
use vigie::models::manifest::{Manifest, Task};
use vigie::models::traffic::Slot;
use vigie::pipeline::recognise::{Model, ModelSet, Recogniser};

/// Pixels: the longer side of the objects model's input, as in live use on a CPU.
pub const OBJECTS_SIZE: u32 = 320;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file under `tests/data`.
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// The folder of the default models.
pub fn models_folder() -> PathBuf {
    std::env::var_os("VIGIE_MODELS").map_or_else(|| root().join(".vigie/models"), PathBuf::from)
}

/// The ONNX Runtime under test.
pub fn runtime() -> Runtime {
    let path = std::env::var_os("VIGIE_ORT_LIBRARY").map(PathBuf::from).or_else(|| {
        let is_library = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))
        };
        let entries = std::fs::read_dir(root().join(".vigie/onnxruntime")).ok()?;
        let mut found: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(is_library).collect();
        found.sort();
        found.into_iter().next()
    });
    let path =
        path.expect("ONNX Runtime: set VIGIE_ORT_LIBRARY or put libonnxruntime.so in .vigie/onnxruntime");
    Runtime::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

/// The newest version of a model: its graph's path and its manifest.
pub fn model(name: &str) -> (PathBuf, Manifest) {
    let folder = models_folder().join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!(
            "model {name} is not in {}: {error}; run `vigie models pull` or set VIGIE_MODELS",
            folder.display()
        )
    });
    let versions =
        entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let newest = versions.max().unwrap_or_else(|| panic!("{} holds no version", folder.display()));
    let folder = folder.join(newest.to_string());
    let text = std::fs::read(folder.join("manifest.json")).expect("a version has a manifest");
    (folder.join("model.onnx"), serde_json::from_slice(&text).expect("the manifest is valid"))
}

/// An inference service with the default models on the CPU.
pub struct Lab {
    pub service: Service,
    pub models: ModelSet,
}

impl Lab {
    /// Starts `lanes` lanes; the objects model reads `objects_size` pixels on the longer side.
    pub fn start(lanes: usize, objects_size: u32) -> Self {
        Self::start_with(lanes, objects_size, &["blazeface", "faceres", "centernet"], Arc::new(()))
    }

    /// The same with these models, watched by `observer`; their ids count from 1.
    pub fn start_with(lanes: usize, objects_size: u32, names: &[&str], observer: Arc<dyn Observer>) -> Self {
        let runtime = runtime();
        let service =
            Service::start(Options { lanes, ..Options::default() }, observer).expect("threads start");
        let models = ModelSet::default();
        for (id, name) in (1..).zip(names) {
            let (path, mut manifest) = model(name);
            if manifest.task == Task::Objects {
                manifest.input.size = objects_size;
            }
            let load =
                || OrtEngine::load(&runtime, &path, Device::Cpu, 1).unwrap_or_else(|error| panic!("{error}"));
            let engines = (0..lanes).map(|_| Box::new(load()) as Box<dyn Engine>).collect();
            service.install(ModelId(id), engines, 1).expect("one engine a lane");
            models.replace(Model::new(ModelId(id), manifest));
        }
        Self { service, models }
    }

    pub fn recogniser(&self, asker: u64) -> Recogniser {
        Recogniser::new(self.service.handle(), self.models.clone(), asker)
    }

    /// The label of a class of `task`'s model.
    pub fn label(&self, task: Task, class: u16) -> String {
        let model =
            self.models.find(&Slot::of(task).expect("a task of the lab")).expect("the lab has every model");
        model.manifest.labels[usize::from(class)].clone()
    }
}

/// Reads a JPEG or PNG under `tests/data`.
pub fn read_rgb(name: &str) -> RgbImage {
    let path = data(name);
    image::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into_rgb8()
}

/// Reads a JPEG or PNG under `tests/data` as a decoded picture.
pub fn read_picture(name: &str) -> Picture {
    to_i420(&read_rgb(name)).into_picture(0, Instant::now())
}

/// Turns a picture clockwise about its centre; what comes from beside it is black.
pub fn rotate(rgb: &RgbImage, degrees: f32) -> RgbImage {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (centre_x, centre_y) = (rgb.width() as f32 / 2.0, rgb.height() as f32 / 2.0);
    RgbImage::from_fn(rgb.width(), rgb.height(), |x, y| {
        let (dx, dy) = (x as f32 + 0.5 - centre_x, y as f32 + 0.5 - centre_y);
        let (from_x, from_y) = (centre_x + dx * cos + dy * sin, centre_y - dx * sin + dy * cos);
        let is_inside =
            from_x >= 0.0 && from_y >= 0.0 && from_x < rgb.width() as f32 && from_y < rgb.height() as f32;
        if is_inside { *rgb.get_pixel(from_x as u32, from_y as u32) } else { image::Rgb([0; 3]) }
    })
}
