//! A model on CUDA, with a session for every shape that its input comes in, which all lanes share.
//!
//! ONNX Runtime chooses cuDNN's algorithms anew, convolution by convolution, whenever an input has not the shape of the
//! session's last one. That takes a second or more, a run takes milliseconds, and live batches change their size all the
//! time. So every shape has a session of its own, and batches come in few sizes: rows that a batch lacks are whatever its
//! buffer held, and what comes of them is passed over. The largest batch of a shape is made first, and serves smaller
//! ones until those have been made beside it.
//!
//! Requests are gathered straight into page-locked memory, which the device copies from without a detour, and outputs
//! come back to such memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ort::memory::{Allocator, MemoryInfo};
use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::{DynTensor, TensorElementType};

use super::{elements_of, failure, read_outputs, rows_of};
use crate::inference::engine::EngineError;
use crate::inference::rows::{self, Output, Part};
use crate::inference::tensor::{Element, TensorData};

/// Rows that batches are brought up to, of which fewer than the first would not be sooner done.
pub const BATCHES: [usize; 4] = [8, 16, 32, 64];

/// Shapes of which a session is kept: what is over the number makes room for the next. Cameras come in few, times the
/// sizes of batches.
const MAX_SHAPES: usize = 48;

/// How long a shape that no session could be made for is not tried again: trying takes seconds, on a lane.
const ANOTHER_TRY: Duration = Duration::from_secs(60);

/// How many models have sessions made beside the lanes right now.
pub(super) static MAKING: AtomicUsize = AtomicUsize::new(0);

/// Opens one more session of the model, which takes no more than so many bytes of the device's memory.
type Open = Box<dyn Fn(Option<usize>) -> ort::Result<Session> + Send + Sync>;
/// Names the memory that both the host and the device reach.
type Shared = Box<dyn Fn() -> ort::Result<MemoryInfo<'static>> + Send + Sync>;

/// How the sessions of a model are made.
pub(super) struct Maker {
    pub open: Open,
    pub shared: Shared,
    pub element: Element,
    /// Bytes of the device's memory for each row of a session's batch.
    pub bytes_a_row: Option<usize>,
}

/// The sessions of one model.
pub(super) struct Shaped {
    maker: Maker,
    /// Rows that a batch is brought up to, ascending; one of more than the last runs as it is.
    batches: Vec<usize>,
    /// The one that was used last comes last.
    sessions: Mutex<Vec<Arc<OneShape>>>,
    /// Held while a session is made, so that none is made twice.
    making: Mutex<()>,
    /// Shapes that no session could be made for, and when that was, the last one first.
    failed: Mutex<VecDeque<(Vec<usize>, Instant)>>,
}

/// A session for inputs of one shape.
struct OneShape {
    shape: Vec<usize>,
    bound: Mutex<Bound>,
    /// Buffers that no lane gathers requests in.
    inputs: Mutex<Vec<DynTensor>>,
}

impl OneShape {
    fn rows(&self) -> usize {
        rows_of(&self.shape)
    }
}

impl Shaped {
    /// Has the largest batch of each of the shapes ready, or where memory does not do for it the next smaller one.
    /// Gives the most rows that are ready of all of them.
    pub fn make(maker: Maker, shapes: &[Vec<usize>]) -> ort::Result<(Self, usize)> {
        let mut batches: Vec<usize> = shapes.iter().map(|shape| shape[0]).collect();
        batches.sort_unstable();
        batches.dedup();
        let shaped = Self {
            maker,
            batches,
            sessions: Mutex::default(),
            making: Mutex::default(),
            failed: Mutex::default(),
        };
        let mut most = usize::MAX;
        let mut sides: Vec<&[usize]> = shapes.iter().map(|shape| &shape[1..]).collect();
        sides.sort();
        sides.dedup();
        for sides in sides {
            let mut batches: Vec<&Vec<usize>> = shapes.iter().filter(|shape| &shape[1..] == sides).collect();
            batches.sort_by_key(|shape| std::cmp::Reverse(shape[0]));
            let mut made = Err(ort::Error::new("there is no batch"));
            for shape in batches {
                made = shaped.find_or_make(shape).map(|_| shape[0]);
                match &made {
                    Ok(_) => break,
                    Err(error) => tracing::warn!(%error, ?shape, "the GPU has no room for a batch"),
                }
            }
            most = most.min(made?);
        }
        Ok((shaped, most))
    }

    /// Runs the requests as one batch and leaves each its rows of every output.
    pub fn run(&self, model: &str, parts: &mut [Part<'_>]) -> Result<(), EngineError> {
        let failed = |error: ort::Error| failure(model, error.to_string());
        let rows: usize = parts.iter().map(Part::rows).sum();
        let sides = parts.first().and_then(|part| part.input.shape.get(1..)).unwrap_or_default();
        let mut fitting = self.fitting(rows, sides);
        if fitting.is_empty() {
            let batch = self.batches.iter().copied().find(|&batch| batch >= rows).unwrap_or(rows);
            let shape = [&[batch], sides].concat();
            tracing::debug!(?shape, "a new shape on CUDA");
            fitting.push(self.find_or_make(&shape).map_err(failed)?);
        }
        // A larger batch that is free is sooner done than a smaller one that another lane runs.
        let one = fitting.iter().find(|one| one.bound.try_lock().is_ok()).unwrap_or(&fitting[0]);
        self.note_use(one);
        // One lane gathers while another runs.
        let spare = lock(&one.inputs).pop();
        let mut input = spare
            .map_or_else(|| self.maker.input(&lock(&one.bound).session, &one.shape), Ok)
            .map_err(failed)?;
        gather(model, parts, &mut input)?;
        let mut bound = lock(&one.bound);
        let values = bound.run(&input).map_err(failed)?;
        lock(&one.inputs).push(input);
        if let ([only], true) = (&mut *parts, one.rows() == rows) {
            return read_outputs(model, &values, only.outputs);
        }
        let read = |(index, name)| {
            let (sides, elements) = elements_of(model, name, &values[index])?;
            Ok(Output { name, shape: sides.iter().map(|&side| side as usize).collect(), elements })
        };
        let outputs = values.keys().enumerate().map(read).collect::<Result<Vec<_>, EngineError>>()?;
        rows::share(&outputs, one.rows(), parts)
    }

    /// The sessions that `rows` rows of such sides fit in, the smallest first.
    fn fitting(&self, rows: usize, sides: &[usize]) -> Vec<Arc<OneShape>> {
        let sessions = lock(&self.sessions);
        let fits = |one: &&Arc<OneShape>| one.rows() >= rows && one.shape[1..] == *sides;
        let mut fitting: Vec<_> = sessions.iter().filter(fits).cloned().collect();
        fitting.sort_by_key(|one| one.rows());
        fitting
    }

    /// Has `one` be the last to make room for another.
    fn note_use(&self, one: &Arc<OneShape>) {
        let mut sessions = lock(&self.sessions);
        if let Some(index) = sessions.iter().position(|known| Arc::ptr_eq(known, one)) {
            sessions[index..].rotate_left(1);
        }
    }

    fn find_or_make(&self, shape: &[usize]) -> ort::Result<Arc<OneShape>> {
        let _making = lock(&self.making);
        if let Some(known) = lock(&self.sessions).iter().find(|one| one.shape == shape) {
            return Ok(Arc::clone(known));
        }
        let mut failed = lock(&self.failed);
        failed.retain(|(_, at)| at.elapsed() < ANOTHER_TRY);
        if failed.iter().any(|(known, _)| known == shape) {
            return Err(ort::Error::new("no session could be made for this shape a moment ago"));
        }
        let made = self.maker.make(shape).inspect_err(|_| {
            failed.truncate(MAX_SHAPES - 1);
            failed.push_front((shape.to_vec(), Instant::now()));
        });
        let one = Arc::new(made?);
        let mut sessions = lock(&self.sessions);
        if sessions.len() == MAX_SHAPES {
            sessions.remove(0);
        }
        sessions.push(Arc::clone(&one));
        Ok(one)
    }
}

/// Locks what a panic leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that makes the sessions that are still missing. Dropping it ends it after the one that it makes.
pub struct Making {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Making {
    pub(super) fn start(shaped: Arc<Shaped>, shapes: Vec<Vec<usize>>) -> std::io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let make = {
            let is_over = Arc::clone(&is_over);
            move || {
                let began = Instant::now();
                for shape in shapes {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = shaped.find_or_make(&shape) {
                        tracing::warn!(%error, ?shape, "a shape is not held ready");
                    }
                }
                tracing::debug!(seconds = began.elapsed().as_secs(), "all shapes are ready on CUDA");
                MAKING.fetch_sub(1, Ordering::Relaxed);
            }
        };
        MAKING.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("shapes".into()).spawn(make);
        let thread = Some(thread.inspect_err(|_| _ = MAKING.fetch_sub(1, Ordering::Relaxed))?);
        Ok(Self { is_over, thread })
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("making the shapes of a model ended in a panic");
        }
    }
}

impl Maker {
    /// A session that has run once, on whatever its buffer held: what a first run chooses is chosen.
    fn make(&self, shape: &[usize]) -> ort::Result<OneShape> {
        let session = (self.open)(self.bytes_a_row.map(|bytes| bytes.saturating_mul(rows_of(shape))))?;
        let input = self.input(&session, shape)?;
        let mut bound = Bound { shared: (self.shared)()?, binding: session.create_binding()?, session };
        bound.run(&input)?;
        let (bound, inputs) = (Mutex::new(bound), Mutex::new(vec![input]));
        Ok(OneShape { shape: shape.to_vec(), bound, inputs })
    }

    /// A buffer for an input of `session`.
    fn input(&self, session: &Session, shape: &[usize]) -> ort::Result<DynTensor> {
        let kind = match self.element {
            Element::U8 => TensorElementType::Uint8,
            Element::I32 => TensorElementType::Int32,
            Element::I64 => TensorElementType::Int64,
            Element::F32 => TensorElementType::Float32,
        };
        DynTensor::new(&Allocator::new(session, (self.shared)()?)?, kind, shape)
    }
}

/// Copies the requests' inputs, one after another, to where a session reads.
fn gather(model: &str, parts: &[Part<'_>], input: &mut DynTensor) -> Result<(), EngineError> {
    macro_rules! gather {
        ($type:ty, $variant:ident) => {{
            let to = input.try_extract_tensor_mut::<$type>();
            let (_, mut to) = to.map_err(|error| failure(model, error.to_string()))?;
            for part in parts {
                let TensorData::$variant(from) = &part.input.data else { return Err(rows::mixed()) };
                let (own, others) = to.split_at_mut(from.len());
                own.copy_from_slice(from);
                to = others;
            }
        }};
    }
    match parts[0].input.data {
        TensorData::U8(_) => gather!(u8, U8),
        TensorData::I32(_) => gather!(i32, I32),
        TensorData::I64(_) => gather!(i64, I64),
        TensorData::F32(_) => gather!(f32, F32),
    }
    Ok(())
}

/// A session and where its outputs go.
struct Bound {
    shared: MemoryInfo<'static>,
    binding: IoBinding,
    session: Session,
}

impl Bound {
    fn run(&mut self, input: &DynTensor) -> ort::Result<SessionOutputs<'_>> {
        // Binding is what copies to the device.
        self.binding.bind_input(self.session.inputs()[0].name(), input)?;
        for output in self.session.outputs() {
            // Anew: what is left there of the last run is taken for where to write, and then copied onto itself.
            self.binding.bind_output_to_device(output.name(), &self.shared)?;
        }
        self.session.run_binding(&self.binding)
    }
}
