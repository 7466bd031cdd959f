//! ONNX Runtime as an [`Engine`]; the only module that names it.
//!
//! The library is loaded from a path at run time, so that one binary serves with the CPU build or the
//! GPU build that an image carries. It owns sessions; it does not choose models, batch, or know pictures.

mod device;
mod runtime;
mod shaped;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::ep::{CPU, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef};

pub use self::device::{Device, DeviceUsed, UnknownDevice};
pub use self::runtime::{Loading, Memory, Runtime, Shapes};
pub use self::shaped::{BATCHES, Making};
use self::shaped::{Maker, Shaped};
use super::engine::{Description, Engine, EngineError, Port, takes_one};
use super::rows::{self, Part};
use super::tensor::{Element, Elements, Outputs, Tensor, TensorData};

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
    /// Ends with the engine, unless it is taken from it.
    making: Option<Making>,
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
        let fallback = match runtime.find_gpu(device) {
            Ok(gpu) => {
                let open = {
                    let (runtime, path, loading) = (runtime.clone(), path.to_owned(), loading.clone());
                    move |limit| {
                        let providers = runtime.providers(gpu, &loading, limit);
                        open(&runtime, &path, &providers, loading.threads, Inputs::OneShape)
                    }
                };
                match Self::on_gpu(open, model.clone(), gpu, loading) {
                    Ok(engine) => return Ok(engine),
                    Err(reason) => Some(reason),
                }
            }
            Err(reason) => reason,
        };
        let cpu = CPU::default().with_arena_allocator(loading.memory == Memory::Kept).build();
        let session = open(runtime, path, &[cpu], loading.threads, Inputs::AnyShape)
            .map_err(|error| refuse(error.to_string()))?;
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
            making: None,
            model: self.model.clone(),
            named: self.named.clone(),
            device_used: self.device_used.clone(),
        })
    }

    /// What is still made of the model beside the lanes, if anything is: whoever holds it waits for its end when dropping
    /// it, as no lane should.
    pub fn take_making(&mut self) -> Option<Making> {
        self.making.take()
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
            making: Some(making),
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
            move |_: Option<usize>| open(&runtime, &path, &[], threads, Inputs::OneShape)
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
        let open = || builder(runtime, &[], 1, Inputs::AnyShape)?.commit_from_memory(onnx);
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
        Ok(Self { sessions, description, most_rows: None, making: None, model, named, device_used })
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
            Sessions::Shaped(shaped) => {
                takes_one(model, others)?;
                return shaped.run(model, &mut [Part { input: first, outputs }]);
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
        let (shape, elements) = elements_of(model, name, &value)?;
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

/// What a session is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inputs {
    OneShape,
    AnyShape,
}

fn open(
    runtime: &Runtime,
    path: &Path,
    providers: &[ExecutionProviderDispatch],
    threads: usize,
    inputs: Inputs,
) -> ort::Result<Session> {
    builder(runtime, providers, threads, inputs)?.commit_from_file(path)
}

fn builder(
    runtime: &Runtime,
    providers: &[ExecutionProviderDispatch],
    threads: usize,
    inputs: Inputs,
) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(&runtime.environment)?
        // It warns, session by session, of what a GPU leaves to the CPU: sizes, which are computed there on purpose.
        .with_log_level(LogLevel::Error)?
        .with_optimization_level(GraphOptimizationLevel::Level3)?
        .with_intra_threads(threads.max(1))?
        .with_inter_threads(1)?
        // It plans what a run takes as one piece of memory for each shape that comes: batches of every size would each
        // leave one behind.
        .with_memory_pattern(inputs == Inputs::OneShape)?
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

/// The shape and the elements of an output of `model`, where they lie.
fn elements_of<'a>(
    model: &str,
    name: &str,
    value: &'a DynValue,
) -> Result<(&'a [i64], Elements<'a>), EngineError> {
    let refuse = |reason: String| failure(model, format!("output {name}: {reason}"));
    let of = value.dtype().tensor_type().ok_or_else(|| refuse("is not a tensor".into()))?;
    macro_rules! read {
        ($type:ty, $variant:ident) => {{
            let read = value.try_extract_tensor::<$type>();
            let (shape, data) = read.map_err(|error| refuse(error.to_string()))?;
            Ok((shape, Elements::$variant(data)))
        }};
    }
    match element(of) {
        Some(Element::F32) => read!(f32, F32),
        Some(Element::U8) => read!(u8, U8),
        Some(Element::I64) => read!(i64, I64),
        Some(Element::I32) => read!(i32, I32),
        None => Err(refuse(format!("has elements of type {of}, which no head reads"))),
    }
}
