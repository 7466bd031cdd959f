//! ONNX Runtime as an [`Engine`]; the only module that names it.
//!
//! The library is loaded from a path at run time, so that one binary serves with the CPU build or the
//! GPU build that an image carries. It owns sessions; it does not choose models, batch, or know pictures.

mod shaped;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CPU, CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef};

pub use self::shaped::BATCHES;
use self::shaped::{MAKING, Maker, Making, Shaped};
use super::engine::{Description, Engine, EngineError, Port};
use super::rows::{self, Part};
use super::tensor::{Element, Elements, Outputs, Tensor, TensorData};

/// Where a model is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// CUDA device 0 when the library and the machine have it, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A CUDA device by its index.
    Cuda(i32),
    /// TensorRT on a CUDA device by its index; what TensorRT cannot run goes to CUDA.
    Tensorrt(i32),
}

/// A device was written in a way that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {0:?} is none of auto, cpu, cuda:N, tensorrt:N")]
pub struct UnknownDevice(String);

impl Device {
    /// One device, or several with commas between them.
    ///
    /// # Errors
    /// [`UnknownDevice`] for the first that is not understood.
    pub fn several(text: &str) -> Result<Vec<Self>, UnknownDevice> {
        text.split(',').map(|device| device.trim().parse()).collect()
    }
}

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        // u16 bounds the index and refuses a sign.
        let index = index.parse::<u16>().map(i32::from);
        match (kind, index) {
            ("auto", _) if text == "auto" => Ok(Self::Auto),
            ("cpu", _) if text == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(index)) => Ok(Self::Cuda(index)),
            ("tensorrt", Ok(index)) => Ok(Self::Tensorrt(index)),
            _ => Err(UnknownDevice(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Tensorrt(index) => write!(f, "tensorrt:{index}"),
        }
    }
}

/// Where a model does run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUsed {
    /// Never [`Device::Auto`].
    pub device: Device,
    /// Why it is not the device that was asked for.
    pub fallback: Option<String>,
}

impl From<Device> for DeviceUsed {
    fn from(device: Device) -> Self {
        Self { device, fallback: None }
    }
}

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
    environment: ort::environment::Environment,
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
        device != Device::Cpu && self.providers(device, &Loading::default(), None).is_ok()
    }

    /// Execution providers for `device`, best first, or why there are none.
    fn providers(
        &self,
        device: Device,
        loading: &Loading,
        limit: Option<usize>,
    ) -> Result<(Device, Vec<ExecutionProviderDispatch>), Option<String>> {
        // Whether the build has the provider at all: asking is cheap, failing to load it is not.
        let built_in = |name: &str, available: ort::Result<bool>| match available {
            Ok(true) => Ok(()),
            Ok(false) => Err(Some(format!("this ONNX Runtime is built without {name}"))),
            Err(error) => Err(Some(error.to_string())),
        };
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
        match device {
            Device::Cpu => Err(None),
            Device::Auto => {
                // On a CPU build this is the expected outcome and no news.
                built_in("CUDA", CUDA::is_available()).map_err(|_| None)?;
                Ok((Device::Cuda(0), vec![cuda(0)]))
            }
            Device::Cuda(index) => {
                built_in("CUDA", CUDA::is_available())?;
                Ok((device, vec![cuda(index)]))
            }
            Device::Tensorrt(index) => {
                built_in("TensorRT", TensorRT::is_available())?;
                let tensorrt = self.tensorrt(index, loading.shapes.as_ref()).build();
                Ok((device, vec![tensorrt.error_on_failure(), cuda(index)]))
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

/// What runs a model.
enum Sessions {
    One(Session),
    /// On CUDA, where every shape has its own, and all lanes use the same.
    Shaped(Arc<Shaped>),
}

/// A model on a device.
pub struct OrtEngine {
    sessions: Sessions,
    description: Description,
    /// Rows that it runs together at most, where it is known.
    most_rows: Option<usize>,
    /// Ends with the engine.
    _making: Option<Making>,
    /// For error texts: the file's path.
    model: String,
    /// What the picture's input is called, where a second one, `int64 [N, 2]`, asks for its width and height:
    /// `(picture, size)`.
    named: Option<(String, String)>,
    device_used: DeviceUsed,
}

impl OrtEngine {
    /// Loads the ONNX file at `path` on `device`, falling back to the CPU where that fails, with
    /// `threads` (0 counts as 1) for one run on the CPU.
    ///
    /// # Errors
    /// As [`OrtEngine::load_with`].
    pub fn load(runtime: &Runtime, path: &Path, device: Device, threads: usize) -> Result<Self, EngineError> {
        Self::load_with(runtime, path, device, &Loading { threads, ..Loading::default() })
    }

    /// The same, with everything that can be said of it.
    ///
    /// Takes from milliseconds to minutes (TensorRT): never call it on a lane.
    ///
    /// # Errors
    /// [`EngineError::Load`] when the file cannot be read, is not a graph that the runtime accepts, or
    /// does not have exactly one input.
    pub fn load_with(
        runtime: &Runtime,
        path: &Path,
        device: Device,
        loading: &Loading,
    ) -> Result<Self, EngineError> {
        let refuse = |reason: String| EngineError::Load { path: path.to_owned(), reason };
        let model = path.display().to_string();
        let fallback = match runtime.providers(device, loading, None) {
            Ok((device, _)) => {
                let open = {
                    let (runtime, path, loading) = (runtime.clone(), path.to_owned(), loading.clone());
                    move |limit| match runtime.providers(device, &loading, limit) {
                        Ok((_, providers)) => open(&runtime, &path, &providers, loading.threads),
                        Err(reason) => Err(ort::Error::new(reason.unwrap_or_default())),
                    }
                };
                match Self::on_gpu(open, model.clone(), device, loading) {
                    Ok(engine) => return Ok(engine),
                    Err(reason) => Some(reason),
                }
            }
            Err(reason) => reason,
        };
        let cpu = CPU::default().with_arena_allocator(loading.memory == Memory::Kept).build();
        let session =
            open(runtime, path, &[cpu], loading.threads).map_err(|error| refuse(error.to_string()))?;
        Self::over(session, model, DeviceUsed { device: Device::Cpu, fallback }).map_err(refuse)
    }

    /// One engine for each of `lanes` lanes, at least one, all on the device that the first could get.
    ///
    /// # Errors
    /// As [`OrtEngine::load_with`].
    pub fn load_lanes(
        runtime: &Runtime,
        path: &Path,
        device: Device,
        loading: &Loading,
        lanes: usize,
    ) -> Result<Vec<Self>, EngineError> {
        let first = Self::load_with(runtime, path, device, loading)?;
        let mut engines = vec![first];
        for _ in 1..lanes {
            engines.push(match engines[0].beside() {
                Some(engine) => engine,
                None => Self::load_with(runtime, path, engines[0].device_used.device, loading)?,
            });
        }
        Ok(engines)
    }

    /// Another lane's engine that shares the sessions of this one, where there is one for every shape.
    pub fn beside(&self) -> Option<Self> {
        let Sessions::Shaped(shaped) = &self.sessions else { return None };
        Some(Self {
            sessions: Sessions::Shaped(Arc::clone(shaped)),
            description: self.description.clone(),
            most_rows: self.most_rows,
            _making: None,
            model: self.model.clone(),
            named: self.named.clone(),
            device_used: self.device_used.clone(),
        })
    }

    /// With the sessions that `open` opens on `device`, which is no CPU.
    fn on_gpu(
        open: impl Fn(Option<usize>) -> ort::Result<Session> + Send + Sync + 'static,
        model: String,
        device: Device,
        loading: &Loading,
    ) -> Result<Self, String> {
        let engine = Self::over(open(None).map_err(|error| error.to_string())?, model, device.into())?;
        // TensorRT makes one engine for all shapes of a range.
        match device {
            Device::Cuda(index) => engine.with_shapes(open, move || page_locked(index), loading),
            _ => Ok(engine),
        }
    }

    /// With a session for each shape, where there are usual ones; `shared` names the memory that the host and the device
    /// reach.
    fn with_shapes(
        self,
        open: impl Fn(Option<usize>) -> ort::Result<Session> + Send + Sync + 'static,
        shared: impl Fn() -> ort::Result<MemoryInfo<'static>> + Send + Sync + 'static,
        loading: &Loading,
    ) -> Result<Self, String> {
        let element = self.description.inputs.first().and_then(|input| input.element);
        let (Some(element), None, false) = (element, &self.named, loading.usual.is_empty()) else {
            return Ok(self);
        };
        let rows: usize = loading.usual.iter().map(|shape| shape[0]).sum();
        let bytes_a_row = loading.budget.map(|budget| budget / rows.max(1));
        let maker = Maker { open: Box::new(open), shared: Box::new(shared), element, bytes_a_row };
        let (shaped, most_rows) = Shaped::make(maker, &loading.usual).map_err(|error| error.to_string())?;
        let shaped = Arc::new(shaped);
        let left = loading.usual.iter().filter(|shape| shape[0] < most_rows).cloned().collect();
        let making = Making::start(Arc::clone(&shaped), left).map_err(|error| error.to_string())?;
        Ok(Self {
            sessions: Sessions::Shaped(shaped),
            most_rows: Some(most_rows),
            _making: Some(making),
            ..self
        })
    }

    /// The same on the CPU, with a session for every shape as on CUDA: tries out without a GPU what a GPU is asked.
    ///
    /// # Errors
    /// As [`OrtEngine::load_with`].
    pub fn load_by_shape(runtime: &Runtime, path: &Path, loading: &Loading) -> Result<Self, EngineError> {
        let refuse = |reason: String| EngineError::Load { path: path.to_owned(), reason };
        let opened = {
            let (runtime, path, threads) = (runtime.clone(), path.to_owned(), loading.threads);
            move |_: Option<usize>| open(&runtime, &path, &[], threads)
        };
        let session = opened(None).map_err(|error| refuse(error.to_string()))?;
        let host = || MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default);
        let model = path.display().to_string();
        let engine = Self::over(session, model, Device::Cpu.into()).map_err(refuse)?;
        engine.with_shapes(opened, host, loading).map_err(refuse)
    }

    /// Loads an ONNX file that is in memory on the CPU, with one thread and without opening anything.
    ///
    /// # Errors
    /// As [`OrtEngine::load`].
    pub fn from_memory(runtime: &Runtime, onnx: &[u8]) -> Result<Self, EngineError> {
        let refuse = |reason: String| EngineError::Load { path: PathBuf::from("(in memory)"), reason };
        let open = || builder(runtime, &[], 1)?.commit_from_memory(onnx);
        let session = open().map_err(|error| refuse(error.to_string()))?;
        Self::over(session, "(in memory)".to_owned(), Device::Cpu.into()).map_err(refuse)
    }

    fn over(session: Session, model: String, device_used: DeviceUsed) -> Result<Self, String> {
        let asks_size = |outlet: &Outlet| outlet.dtype().tensor_type() == Some(TensorElementType::Int64);
        let name = |outlet: &Outlet| outlet.name().to_owned();
        let named = match session.inputs() {
            [_] => None,
            [picture, size] | [size, picture] if asks_size(size) => Some((name(picture), name(size))),
            others => return Err(format!("the graph has {} inputs, one is expected", others.len())),
        };
        let description = Description {
            inputs: session.inputs().iter().map(port).collect(),
            outputs: session.outputs().iter().map(port).collect(),
        };
        let sessions = Sessions::One(session);
        Ok(Self { sessions, description, most_rows: None, _making: None, model, named, device_used })
    }

    /// Where it runs, and why not where it was asked to.
    pub fn device_used(&self) -> &DeviceUsed {
        &self.device_used
    }

    /// Rows that it runs together at most, where a device's memory says.
    pub fn most_rows(&self) -> Option<usize> {
        self.most_rows
    }
}

impl Engine for OrtEngine {
    fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError> {
        let mut outputs = Outputs::default();
        self.run_into(input, &mut outputs)?;
        Ok(outputs)
    }

    fn run_into(&mut self, input: &Tensor, outputs: &mut Outputs) -> Result<(), EngineError> {
        let model = &self.model;
        let failed = |error: ort::Error| failure(model, error.to_string());
        let session = match &mut self.sessions {
            Sessions::One(session) => session,
            Sessions::Shaped(shaped) => return shaped.run(model, &mut [Part { input, outputs }]),
        };
        let value = view(input).map_err(failed)?;
        let values = match &self.named {
            None => session.run([value]),
            Some((picture, size)) => {
                let shape = input.shape.as_slice();
                let sizes = ort::value::Tensor::from_array(([rows_of(shape), 2], sizes_of(shape)));
                let sizes = sizes.map_err(failed)?.into();
                session.run(vec![(picture.as_str(), value), (size.as_str(), sizes)])
            }
        };
        read_outputs(model, &values.map_err(failed)?, outputs)
    }

    fn run_batch(&mut self, parts: &mut [Part<'_>]) -> Result<(), EngineError> {
        match &self.sessions {
            Sessions::One(_) => rows::run_joined(self, parts),
            Sessions::Shaped(shaped) => shaped.run(&self.model, parts),
        }
    }

    fn run_all(
        &mut self,
        first: &Tensor,
        others: &[Tensor],
        outputs: &mut Outputs,
    ) -> Result<(), EngineError> {
        let model = &self.model;
        let failed = |error: ort::Error| failure(model, error.to_string());
        let session = match &mut self.sessions {
            Sessions::One(session) => session,
            Sessions::Shaped(shaped) if others.is_empty() => {
                return shaped.run(model, &mut [Part { input: first, outputs }]);
            }
            Sessions::Shaped(_) => {
                return Err(failure(model, format!("it takes one input, not {}", 1 + others.len())));
            }
        };
        let views: ort::Result<Vec<_>> = std::iter::once(first).chain(others).map(view).collect();
        let values = session.run(views.map_err(failed)?.as_slice()).map_err(failed)?;
        read_outputs(model, &values, outputs)
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }
}

fn failure(model: &str, reason: String) -> EngineError {
    EngineError::Run { model: model.to_owned(), reason }
}

/// A tensor as the runtime sees it, where it lies.
fn view(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    let shape = tensor.shape.as_slice();
    Ok(match &tensor.data {
        TensorData::U8(data) => TensorRef::from_array_view((shape, data.as_slice()))?.into(),
        TensorData::I32(data) => TensorRef::from_array_view((shape, data.as_slice()))?.into(),
        TensorData::I64(data) => TensorRef::from_array_view((shape, data.as_slice()))?.into(),
        TensorData::F32(data) => TensorRef::from_array_view((shape, data.as_slice()))?.into(),
    })
}

fn read_outputs(model: &str, values: &SessionOutputs<'_>, outputs: &mut Outputs) -> Result<(), EngineError> {
    outputs.0.resize_with(values.len(), Default::default);
    for ((name, value), (known, tensor)) in values.iter().zip(&mut outputs.0) {
        let (shape, elements) =
            elements_of(&value).map_err(|reason| failure(model, format!("output {name}: {reason}")))?;
        tensor.copy(shape.iter().map(|&side| side as usize), elements);
        if known != name {
            *known = name.to_owned();
        }
    }
    Ok(())
}

/// Width and height of the pictures in an input of `shape`, once for each.
fn sizes_of(shape: &[usize]) -> Vec<i64> {
    let side = |axis: usize| shape.get(axis).map_or(0, |&side| side as i64);
    let (width, height) = if shape.get(1) == Some(&3) { (side(3), side(2)) } else { (side(2), side(1)) };
    [width, height].repeat(rows_of(shape))
}

/// The memory of the host that a CUDA device copies from and to by itself.
fn page_locked(index: i32) -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CUDA_PINNED, index, AllocatorType::Device, MemoryType::CPUOutput)
}

fn rows_of(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

fn open(
    runtime: &Runtime,
    path: &Path,
    providers: &[ExecutionProviderDispatch],
    threads: usize,
) -> ort::Result<Session> {
    builder(runtime, providers, threads)?.commit_from_file(path)
}

fn builder(
    runtime: &Runtime,
    providers: &[ExecutionProviderDispatch],
    threads: usize,
) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(&runtime.environment)?
        // It warns, session by session, of what a GPU leaves to the CPU: sizes, which are computed there on purpose.
        .with_log_level(LogLevel::Error)?
        .with_optimization_level(GraphOptimizationLevel::Level3)?
        .with_intra_threads(threads.max(1))?
        .with_inter_threads(1)?
        // A spinning pool takes whole cores from the media threads between two runs.
        .with_intra_op_spinning(false)?
        .with_execution_providers(providers)?;
    Ok(builder)
}

fn port(outlet: &Outlet) -> Port {
    let kind = outlet.dtype();
    Port {
        name: outlet.name().to_owned(),
        element: kind.tensor_type().and_then(element),
        shape: kind.tensor_shape().map(|shape| shape.iter().copied().collect()).unwrap_or_default(),
    }
}

fn element(of: TensorElementType) -> Option<Element> {
    match of {
        TensorElementType::Uint8 => Some(Element::U8),
        TensorElementType::Int32 => Some(Element::I32),
        TensorElementType::Int64 => Some(Element::I64),
        TensorElementType::Float32 => Some(Element::F32),
        _ => None,
    }
}

/// The shape and the elements of `value`, where they lie.
fn elements_of(value: &DynValue) -> Result<(&[i64], Elements<'_>), String> {
    let of = value.dtype().tensor_type().ok_or("is not a tensor")?;
    macro_rules! read {
        ($type:ty, $variant:ident) => {{
            let (shape, data) = value.try_extract_tensor::<$type>().map_err(|error| error.to_string())?;
            Ok((shape, Elements::$variant(data)))
        }};
    }
    match element(of) {
        Some(Element::F32) => read!(f32, F32),
        Some(Element::U8) => read!(u8, U8),
        Some(Element::I64) => read!(i64, I64),
        Some(Element::I32) => read!(i32, I32),
        None => Err(format!("has elements of type {of}, which no head reads")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_devices() {
        let cases = [
            ("auto", Some(Device::Auto)),
            ("cpu", Some(Device::Cpu)),
            ("cuda", Some(Device::Cuda(0))),
            ("cuda:3", Some(Device::Cuda(3))),
            ("tensorrt:1", Some(Device::Tensorrt(1))),
            ("cpu:0", None),
            ("auto:1", None),
            ("cuda:-1", None),
            ("cuda:", None),
            ("CUDA:0", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Device>().ok(), expected, "{text}");
        }
        assert_eq!(Device::several("cuda:0, cuda:2"), Ok(vec![Device::Cuda(0), Device::Cuda(2)]));
        assert_eq!(Device::several("cpu"), Ok(vec![Device::Cpu]));
        assert_eq!(Device::several("cuda:0,"), Err(UnknownDevice(String::new())));
        for device in [Device::Auto, Device::Cpu, Device::Cuda(2), Device::Tensorrt(0)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
    }

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
