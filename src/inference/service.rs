//! The inference service: lanes that run what the batcher chooses.
//!
//! It owns the lanes' threads and, through them, the engines. A caller submits a tensor and waits on
//! its [`Ticket`]; the lanes share one [`Batcher`] behind a mutex, so that no lane idles while
//! anything is due. Loading a model is the caller's work: a lane only ever runs.
//!
//! 1. [`Service::install`] hands every lane its own engine of a model.
//! 2. [`Handle::submit`] queues a tensor or refuses at once.
//! 3. [`Ticket::wait`] blocks until the outputs are there; dropping the ticket withdraws the request.
//! 4. Dropping the [`Service`] ends the running batches, joins the lanes and fails what still waits.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batcher::{Batch, Batcher, Limits, ModelId, Policy, Poll, Queued, Refusal, Request};
use super::engine::{Engine, EngineError};
use super::tensor::{Outputs, Tensor, TensorData};

/// How far below the media threads the lanes are scheduled.
///
/// Recognition can always take more processor time than there is. A late packet or a late encoded
/// frame is seen as a stall, a late box is carried by the tracker, so media must win.
const LANE_NICENESS: i32 = 10;

/// How far below them those who decode and encode files for a server are: nobody waits for a single picture there.
const FILE_NICENESS: i32 = 15;

/// How the service is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads, each with its own engine of every model; at least 1.
    pub lanes: usize,
    pub limits: Limits,
    /// How long a batch that is not full waits for company; 0 is right on a CPU, where batches do not pay.
    pub max_wait: Duration,
    /// Makes every run last this many times as long, to try out slower models; below 1 counts as 1.
    pub slowdown: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self { lanes: 1, limits: Limits::default(), max_wait: Duration::ZERO, slowdown: 1.0 }
    }
}

/// Is told what the lanes do, on the lanes: it must return quickly and never block.
pub trait Observer: Send + Sync {
    /// A batch has run, or failed to.
    fn ran(&self, run: &BatchRun<'_>) {
        let _ = run;
    }

    /// `count` requests were removed because their asker had gone.
    fn skipped(&self, count: u64) {
        let _ = count;
    }
}

/// An observer that looks away.
impl Observer for () {}

/// One run of an engine, as an [`Observer`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct BatchRun<'a> {
    pub model: ModelId,
    /// Rows on axis 0.
    pub batch_size: usize,
    /// How long each request of the batch had waited.
    pub queued: &'a [Duration],
    /// How long the engine took.
    pub ran: Duration,
    pub succeeded: bool,
}

/// The outputs of one request.
#[derive(Clone, Debug)]
pub struct Completed {
    pub outputs: Outputs,
    /// From submission to the start of the run.
    pub queued: Duration,
    /// The run of the whole batch.
    pub ran: Duration,
    /// Rows of the batch it ran in.
    pub batch_size: usize,
}

type Answer = Result<Completed, EngineError>;

/// What waits in the batcher beside a request.
struct Work {
    input: Tensor,
    answer: SyncSender<Answer>,
}

enum Change {
    Install(ModelId, Box<dyn Engine>),
    Remove(ModelId),
}

struct State {
    batcher: Batcher<Work>,
    /// Per lane, in order: what it applies between two batches.
    changes: Vec<Vec<Change>>,
    /// Of the batcher's count, how many the observer knows of.
    skipped_told: u64,
    is_stopping: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    options: Options,
    observer: Arc<dyn Observer>,
}

impl Shared {
    /// Locks the state; a panic elsewhere leaves it whole, because every change to it is one call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of one worker. Dropping it stops them.
pub struct Service {
    shared: Arc<Shared>,
    lanes: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts the lanes, with no model installed.
    ///
    /// # Errors
    /// The operating system's, when it has no thread to give.
    pub fn start(options: Options, observer: Arc<dyn Observer>) -> std::io::Result<Self> {
        let count = options.lanes.max(1);
        let state = State {
            batcher: Batcher::new(options.limits),
            changes: (0..count).map(|_| Vec::new()).collect(),
            skipped_told: 0,
            is_stopping: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), options, observer });
        let mut service = Self { shared, lanes: Vec::with_capacity(count) };
        for index in 0..count {
            let shared = service.shared.clone();
            let lane = std::thread::Builder::new()
                .name(format!("lane-{index}"))
                .spawn(move || Lane { index, shared, engines: HashMap::new() }.run())?;
            service.lanes.push(lane);
        }
        Ok(service)
    }

    /// The number of lanes, and so of engines that [`Service::install`] takes.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// A way to submit work; it outlives the service harmlessly.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }

    /// Gives every lane its engine of `model`, in place of any earlier one, between two batches.
    ///
    /// Whatever is submitted after this returns runs on the new engines. `max_batch` counts rows.
    ///
    /// # Errors
    /// [`EngineError::NotInstalled`] unless there is exactly one engine a lane.
    pub fn install(
        &self,
        model: ModelId,
        engines: Vec<Box<dyn Engine>>,
        max_batch: usize,
    ) -> Result<(), EngineError> {
        if engines.len() != self.lanes.len() {
            let model = format!("{} ({} engines for {} lanes)", model.0, engines.len(), self.lanes.len());
            return Err(EngineError::NotInstalled { model });
        }
        let policy = Policy { max_batch: max_batch.max(1), max_wait: self.shared.options.max_wait };
        let mut state = self.shared.lock();
        state.batcher.admit(model, policy);
        for (changes, engine) in state.changes.iter_mut().zip(engines) {
            // A removal still held back by waiting requests is overtaken.
            changes.retain(|change| !matches!(change, Change::Remove(removed) if *removed == model));
            changes.push(Change::Install(model, engine));
        }
        drop(state);
        self.shared.wake.notify_all();
        Ok(())
    }

    /// Refuses new requests for `model`, and frees its engines once those waiting have run.
    pub fn remove(&self, model: ModelId) {
        let mut state = self.shared.lock();
        state.batcher.retire(model);
        for changes in &mut state.changes {
            changes.push(Change::Remove(model));
        }
        drop(state);
        self.shared.wake.notify_all();
    }

    fn stop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.wake.notify_all();
        for lane in self.lanes.drain(..) {
            if lane.join().is_err() {
                tracing::error!("an inference lane ended in a panic");
            }
        }
        // Dropping the senders is what tells their waiters.
        let stranded = self.shared.lock().batcher.drain();
        drop(stranded);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Submits work to the lanes; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Queues `input` (batch on axis 0) for `model` on behalf of `asker`, without blocking.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when the queue is full, [`EngineError::NotInstalled`] when the model
    /// is not there (any more), [`EngineError::Stopped`] when the service has ended.
    pub fn submit(&self, model: ModelId, asker: u64, input: Tensor) -> Result<Ticket, EngineError> {
        self.queue(model, asker, false, input)
    }

    /// The same for an asker's first picture, which has the next turn.
    ///
    /// # Errors
    /// As [`Handle::submit`].
    pub fn submit_first(&self, model: ModelId, asker: u64, input: Tensor) -> Result<Ticket, EngineError> {
        self.queue(model, asker, true, input)
    }

    fn queue(
        &self,
        model: ModelId,
        asker: u64,
        is_first: bool,
        input: Tensor,
    ) -> Result<Ticket, EngineError> {
        let (answer, receiver) = sync_channel(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        let request = Request {
            model,
            asker,
            is_first,
            shape: input.shape.clone(),
            cancelled: cancelled.clone(),
            payload: Work { input, answer },
        };
        let mut state = self.shared.lock();
        if state.is_stopping {
            return Err(EngineError::Stopped);
        }
        state.batcher.push(request, Instant::now()).map_err(|(refusal, _)| match refusal {
            Refusal::Overloaded => EngineError::Overloaded,
            Refusal::UnknownModel(model) => EngineError::NotInstalled { model: model.0.to_string() },
        })?;
        drop(state);
        self.shared.wake.notify_one();
        Ok(Ticket { receiver, cancelled })
    }

    /// Requests that wait for a lane.
    pub fn waiting(&self) -> usize {
        self.shared.lock().batcher.len()
    }
}

/// A claim on the answer to one request. Dropping it withdraws the request if it has not run.
#[derive(Debug)]
pub struct Ticket {
    receiver: Receiver<Answer>,
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// Blocks until the request has run.
    ///
    /// # Errors
    /// What the engine reported, or [`EngineError::Stopped`] when the service ended first.
    pub fn wait(self) -> Answer {
        self.receiver.recv().unwrap_or(Err(EngineError::Stopped))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

/// One thread and the engines it owns.
struct Lane {
    index: usize,
    shared: Arc<Shared>,
    engines: HashMap<ModelId, Box<dyn Engine>>,
}

impl Lane {
    fn run(mut self) {
        lower_priority();
        while let Some(batch) = self.next_batch() {
            self.run_batch(batch);
        }
    }

    /// Waits for the next batch, applying changes of models on the way; `None` at the end.
    fn next_batch(&mut self) -> Option<Batch<Work>> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            let replaced = self.apply_changes(&mut state);
            if !replaced.is_empty() {
                // Freeing an engine takes milliseconds that the other lanes need not wait for.
                drop(state);
                drop(replaced);
                state = shared.lock();
                continue;
            }
            let poll = state.batcher.poll(Instant::now());
            let skipped = state.batcher.skipped() - state.skipped_told;
            state.skipped_told += skipped;
            if skipped > 0 {
                shared.observer.skipped(skipped);
                if !matches!(poll, Poll::Run(_)) {
                    // They may have been the last to hold back a removal.
                    shared.wake.notify_all();
                    continue;
                }
            }
            state = match poll {
                Poll::Run(batch) => {
                    // The lane that takes a removed model's last batch lets the idle ones free theirs.
                    if state.changes.iter().any(|changes| !changes.is_empty()) {
                        shared.wake.notify_all();
                    } else if !state.batcher.is_empty() {
                        shared.wake.notify_one();
                    }
                    return Some(batch);
                }
                Poll::WakeAt(at) => {
                    let pause = at.saturating_duration_since(Instant::now());
                    shared.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
                Poll::Idle => shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Brings the lane's engines up to date and returns those no longer needed.
    fn apply_changes(&mut self, state: &mut State) -> Vec<Box<dyn Engine>> {
        let mut replaced = Vec::new();
        for change in std::mem::take(&mut state.changes[self.index]) {
            match change {
                Change::Install(model, engine) => replaced.extend(self.engines.insert(model, engine)),
                Change::Remove(model) if state.batcher.knows(model) => {
                    state.changes[self.index].push(Change::Remove(model));
                }
                Change::Remove(model) => replaced.extend(self.engines.remove(&model)),
            }
        }
        replaced
    }

    fn run_batch(&mut self, batch: Batch<Work>) {
        let started = Instant::now();
        let model = batch.model;
        let queued: Vec<Duration> =
            batch.requests.iter().map(|request| started.saturating_duration_since(request.since)).collect();
        let rows: Vec<usize> =
            batch.requests.iter().map(|queued| rows_of(&queued.request.payload.input)).collect();
        let (inputs, answers): (Vec<Tensor>, Vec<SyncSender<Answer>>) = batch
            .requests
            .into_iter()
            .map(|Queued { request, .. }| (request.payload.input, request.payload.answer))
            .unzip();
        let result = join(inputs).and_then(|input| self.run_engine(model, &input));
        let mut ran = started.elapsed();
        let factor = self.shared.options.slowdown;
        if factor > 1.0 {
            std::thread::sleep(ran.mul_f32(factor - 1.0));
            ran = started.elapsed();
        }
        let outputs = result.and_then(|outputs| split(model, outputs, &rows));
        let run =
            BatchRun { model, batch_size: batch.rows, queued: &queued, ran, succeeded: outputs.is_ok() };
        self.shared.observer.ran(&run);
        match outputs {
            Ok(outputs) => {
                for ((outputs, answer), queued) in outputs.into_iter().zip(answers).zip(queued) {
                    // A closed channel is an asker that left while the batch ran.
                    let _ = answer.send(Ok(Completed { outputs, queued, ran, batch_size: batch.rows }));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn run_engine(&mut self, model: ModelId, input: &Tensor) -> Result<Outputs, EngineError> {
        let name = || model.0.to_string();
        let engine =
            self.engines.get_mut(&model).ok_or_else(|| EngineError::NotInstalled { model: name() })?;
        // A panic must cost one batch and not the lane: every session of the worker runs on it.
        catch_unwind(AssertUnwindSafe(|| engine.run(input))).unwrap_or_else(|panic| {
            let reason = format!("the engine panicked: {}", panic_text(&*panic));
            tracing::error!(model = model.0, "{reason}");
            Err(EngineError::Run { model: name(), reason })
        })
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn rows_of(tensor: &Tensor) -> usize {
    tensor.shape.first().copied().unwrap_or(1)
}

/// Joins tensors along axis 0; the batcher saw to it that the other axes agree.
fn join(mut inputs: Vec<Tensor>) -> Result<Tensor, EngineError> {
    if inputs.len() == 1 {
        return Ok(inputs.remove(0));
    }
    let mut shape = inputs[0].shape.clone();
    shape[0] = inputs.iter().map(rows_of).sum();
    let mut inputs = inputs.into_iter();
    let mut data = inputs.next().expect("a batch holds at least one request").data;
    for input in inputs {
        match (&mut data, input.data) {
            (TensorData::U8(to), TensorData::U8(from)) => to.extend(from),
            (TensorData::F32(to), TensorData::F32(from)) => to.extend(from),
            (TensorData::I64(to), TensorData::I64(from)) => to.extend(from),
            _ => {
                let reason = "inputs of different element types met in one batch".into();
                return Err(EngineError::Run { model: "batch".into(), reason });
            }
        }
    }
    Ok(Tensor { shape, data })
}

/// Gives each request its rows of every output.
fn split(model: ModelId, outputs: Outputs, rows: &[usize]) -> Result<Vec<Outputs>, EngineError> {
    if rows.len() == 1 {
        return Ok(vec![outputs]);
    }
    let total: usize = rows.iter().sum();
    let mut shares = vec![Outputs::default(); rows.len()];
    for (name, tensor) in outputs.0 {
        if tensor.shape.first() != Some(&total) {
            let reason = format!("output {name} has shape {:?} for a batch of {total}", tensor.shape);
            return Err(EngineError::Run { model: model.0.to_string(), reason });
        }
        let per_row = tensor.data.len() / total.max(1);
        let mut start = 0;
        for (share, &rows) in shares.iter_mut().zip(rows) {
            let range = start * per_row..(start + rows) * per_row;
            start += rows;
            let data = match &tensor.data {
                TensorData::U8(v) => TensorData::U8(v[range].to_vec()),
                TensorData::F32(v) => TensorData::F32(v[range].to_vec()),
                TensorData::I64(v) => TensorData::I64(v[range].to_vec()),
            };
            let mut shape = tensor.shape.clone();
            shape[0] = rows;
            share.0.push((name.clone(), Tensor { shape, data }));
        }
    }
    Ok(shares)
}

/// Lowers the calling thread's priority to the lanes'; without effect where the kernel keeps none per thread.
pub fn lower_priority() {
    set_niceness(LANE_NICENESS);
}

/// Lowers the calling thread's priority, and that of the threads it starts from then on, below the lanes'.
pub fn lowest_priority() {
    set_niceness(FILE_NICENESS);
}

fn set_niceness(niceness: libc::c_int) {
    // SAFETY: gettid and setpriority take and return plain integers. On Linux the niceness belongs to
    // the thread, and a thread may always raise its own.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, niceness) };
    if outcome != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread keeps normal priority");
    }
}

#[cfg(test)]
mod tests;
