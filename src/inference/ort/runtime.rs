//! The ONNX Runtime library, loaded once a process, and what it is told of the devices that models are loaded on.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};

use super::Device;
use super::shaped::MAKING;
use crate::inference::engine::EngineError;

/// What becomes of the memory that a run takes on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// It is kept for the next run: right for inputs that all have the same shape.
    #[default]
    Kept,
    /// It goes back after each run: where every input has another shape, the most that any took would be kept for good.
    GivenBack,
}

/// The shapes that an input comes in, for devices that make an engine for a range of them: at one that it was not told
/// of, TensorRT stops everybody for as long as making another takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// The input's name.
    pub input: String,
    pub least: Vec<usize>,
    /// What it is made fastest for.
    pub usual: Vec<usize>,
    pub most: Vec<usize>,
}

impl Shapes {
    /// One shape as TensorRT's options have it: `name:1x256x256x3`.
    fn written(&self, shape: &[usize]) -> String {
        let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("{}:{}", self.input, sides.join("x"))
    }
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct Loading {
    /// For one run on the CPU; 0 counts as 1.
    pub threads: usize,
    pub memory: Memory,
    /// Without them, TensorRT makes an engine whenever a shape is new.
    pub shapes: Option<Shapes>,
    /// Shapes that are held ready on CUDA, where the first run of one takes a second; others are made ready when they come.
    /// None where every input has another.
    pub usual: Vec<Vec<usize>>,
    /// Bytes of a CUDA device's memory for all sessions of the model together.
    pub budget: Option<usize>,
}

/// The loaded library; cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(super) environment: ort::environment::Environment,
    /// Where TensorRT keeps the engines that it makes.
    engine_cache: Option<PathBuf>,
}

/// The library cannot be unloaded, and a process has one environment: both are kept here for good.
static LOADED: Mutex<Option<(PathBuf, Runtime)>> = Mutex::new(None);

impl Runtime {
    /// Loads the shared library at `path`, once a process.
    ///
    /// # Errors
    /// [`EngineError::Runtime`] when it is missing, is not ONNX Runtime 1.24 or newer, or when another
    /// one is already loaded.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        let refuse = |reason: String| EngineError::Runtime { path: path.to_owned(), reason };
        // An absolute path keeps the loader from searching elsewhere.
        let path = std::fs::canonicalize(path).map_err(|error| refuse(error.to_string()))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, runtime)) = &*loaded {
            return match *other == path {
                true => Ok(runtime.clone()),
                false => Err(refuse(format!("{} is already loaded", other.display()))),
            };
        }
        let builder = ort::init_from(&path).map_err(|error| refuse(error.to_string()))?;
        let environment = builder
            .with_name("vigie")
            .with_telemetry(false)
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        let runtime = Self { environment, engine_cache: None };
        *loaded = Some((path, runtime.clone()));
        Ok(runtime)
    }

    /// What the library says of its build, for a log line.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Keeps the engines that TensorRT makes, which takes it minutes, in `folder`, which need not be there.
    pub fn keeping_engines(self, folder: &Path) -> Self {
        Self { engine_cache: Some(folder.to_owned()), ..self }
    }

    /// Whether sessions for further shapes are being made beside the lanes, which serve meanwhile.
    pub fn is_making_shapes(&self) -> bool {
        MAKING.load(Ordering::Relaxed) > 0
    }

    /// Whether `device` may be had other than as the CPU: loading a model on it tells for certain.
    pub fn may_use(&self, device: Device) -> bool {
        self.find_gpu(device).is_ok()
    }

    /// The GPU that `device` means, or why there is none. Only the build is asked, which is cheap; failing to load what it
    /// has is not.
    pub(super) fn find_gpu(&self, device: Device) -> Result<Device, Option<String>> {
        let built_in = |name: &str, available: ort::Result<bool>| match available {
            Ok(true) => Ok(()),
            Ok(false) => Err(Some(format!("this ONNX Runtime is built without {name}"))),
            Err(error) => Err(Some(error.to_string())),
        };
        match device {
            Device::Cpu => Err(None),
            // On a CPU build this is the expected outcome and no news.
            Device::Auto => {
                built_in("CUDA", CUDA::is_available()).map(|()| Device::Cuda(0)).map_err(|_| None)
            }
            Device::Cuda(_) => built_in("CUDA", CUDA::is_available()).map(|()| device),
            Device::Tensorrt(_) => built_in("TensorRT", TensorRT::is_available()).map(|()| device),
        }
    }

    /// Execution providers for one of [`find_gpu`](Self::find_gpu)'s, best first.
    pub(super) fn providers(
        &self,
        gpu: Device,
        loading: &Loading,
        limit: Option<usize>,
    ) -> Vec<ExecutionProviderDispatch> {
        let cuda = |index| {
            let search = match loading.memory {
                Memory::Kept => ConvAlgorithmSearch::Heuristic,
                // Every input has another shape: what is slow and chosen at once is sooner done.
                Memory::GivenBack => ConvAlgorithmSearch::Default,
            };
            let mut cuda = CUDA::default().with_device_id(index).with_conv_algorithm_search(search);
            if let Some(limit) = limit {
                cuda = cuda.with_memory_limit(limit);
            }
            // As much as a session needs, and not the next power of two: there are many.
            cuda.with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested).build().error_on_failure()
        };
        match gpu {
            Device::Auto | Device::Cpu => Vec::new(),
            Device::Cuda(index) => vec![cuda(index)],
            Device::Tensorrt(index) => {
                let tensorrt = self.tensorrt(index, loading.shapes.as_ref()).build();
                vec![tensorrt.error_on_failure(), cuda(index)]
            }
        }
    }

    fn tensorrt(&self, index: i32, shapes: Option<&Shapes>) -> TensorRT {
        let mut tensorrt = TensorRT::default().with_device_id(index).with_fp16(true);
        if let Some(shapes) = shapes {
            tensorrt = tensorrt
                .with_profile_min_shapes(shapes.written(&shapes.least))
                .with_profile_opt_shapes(shapes.written(&shapes.usual))
                .with_profile_max_shapes(shapes.written(&shapes.most));
        }
        let Some(folder) = &self.engine_cache else { return tensorrt };
        if let Err(error) = std::fs::create_dir_all(folder) {
            tracing::warn!(%error, folder = %folder.display(), "TensorRT's engines are not kept");
            return tensorrt;
        }
        let folder = folder.display();
        tensorrt
            .with_engine_cache(true)
            .with_engine_cache_path(folder.to_string())
            .with_timing_cache(true)
            .with_timing_cache_path(folder.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_written_as_tensorrt_reads_them() {
        let shapes = Shapes {
            input: "image".into(),
            least: vec![1, 64, 64, 3],
            usual: vec![8, 320, 256, 3],
            most: vec![16, 320, 320, 3],
        };
        assert_eq!(shapes.written(&shapes.least), "image:1x64x64x3");
        assert_eq!(shapes.written(&shapes.usual), "image:8x320x256x3");
    }

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let error = Runtime::load(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/libonnxruntime.so"), "{error}");
    }
}
