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
        let (answer, receiver) = sync_channel(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        let request = Request {
            model,
            asker,
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

/// Lowers the calling thread's priority; without effect where the kernel keeps none per thread.
pub fn lower_priority() {
    // SAFETY: gettid and setpriority take and return plain integers. On Linux the niceness belongs to
    // the thread, and a thread may always raise its own.
    let outcome =
        unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, LANE_NICENESS) };
    if outcome != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "inference lanes keep normal priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    const MODEL: ModelId = ModelId(1);

    /// Adds `bias` to every value; the first value chooses to fail or panic. Waits at `gate` first.
    struct Adder {
        bias: f32,
        gate: Option<Arc<Barrier>>,
    }

    impl Engine for Adder {
        fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError> {
            if let Some(gate) = &self.gate {
                gate.wait();
            }
            let values = input.as_f32().expect("tests send f32");
            match values[0] {
                -1.0 => Err(EngineError::Run { model: "adder".into(), reason: "told to".into() }),
                -2.0 => panic!("told to panic"),
                _ => {
                    let sum = values.iter().map(|v| v + self.bias).collect();
                    Ok(Outputs(vec![("sum".into(), Tensor::f32(&input.shape, sum))]))
                }
            }
        }
    }

    #[derive(Default)]
    struct Seen(Mutex<(Vec<(usize, usize, bool)>, u64)>);

    impl Observer for Seen {
        fn ran(&self, run: &BatchRun<'_>) {
            self.0.lock().unwrap().0.push((run.batch_size, run.queued.len(), run.succeeded));
        }
        fn skipped(&self, count: u64) {
            self.0.lock().unwrap().1 += count;
        }
    }

    fn adders(count: usize, bias: f32, gate: Option<&Arc<Barrier>>) -> Vec<Box<dyn Engine>> {
        (0..count).map(|_| Box::new(Adder { bias, gate: gate.cloned() }) as Box<dyn Engine>).collect()
    }

    fn row(value: f32) -> Tensor {
        Tensor::f32(&[1, 2], vec![value, value])
    }

    fn values(completed: &Completed) -> Vec<f32> {
        completed.outputs.find("sum").unwrap().as_f32().unwrap().to_vec()
    }

    fn start(lanes: usize, observer: Arc<dyn Observer>) -> Service {
        Service::start(Options { lanes, ..Options::default() }, observer).unwrap()
    }

    #[test]
    fn answers_each_asker_with_its_own_rows() {
        let seen = Arc::new(Seen::default());
        let service = start(1, seen.clone());
        let gate = Arc::new(Barrier::new(2));
        service.install(MODEL, adders(1, 1.0, Some(&gate)), 8).unwrap();
        let handle = service.handle();
        // The first request holds the lane while the others gather behind it.
        let first = handle.submit(MODEL, 0, row(0.0)).unwrap();
        while handle.waiting() > 0 {
            std::thread::yield_now();
        }
        let tickets: Vec<Ticket> = (1..=3).map(|v| handle.submit(MODEL, v, row(v as f32)).unwrap()).collect();
        let wide = handle.submit(MODEL, 9, Tensor::f32(&[2, 2], vec![5.0, 6.0, 7.0, 8.0])).unwrap();
        gate.wait();
        assert_eq!(values(&first.wait().unwrap()), [1.0, 1.0]);
        gate.wait();
        for (index, ticket) in tickets.into_iter().enumerate() {
            let done = ticket.wait().unwrap();
            assert_eq!((values(&done), done.batch_size), (vec![index as f32 + 2.0; 2], 5));
        }
        assert_eq!(values(&wide.wait().unwrap()), [6.0, 7.0, 8.0, 9.0]);
        assert_eq!(seen.0.lock().unwrap().0, [(1, 1, true), (5, 4, true)]);
    }

    #[test]
    fn two_lanes_run_at_the_same_time() {
        let service = start(2, Arc::new(()));
        let gate = Arc::new(Barrier::new(2));
        service.install(MODEL, adders(2, 1.0, Some(&gate)), 1).unwrap();
        let handle = service.handle();
        let tickets = [1, 2].map(|asker| handle.submit(MODEL, asker, row(1.0)).unwrap());
        // Each engine waits for the other: with one lane at work this would never end.
        for ticket in tickets {
            ticket.wait().unwrap();
        }
    }

    #[test]
    fn a_failing_engine_fails_its_batch_and_keeps_its_lane() {
        let service = start(1, Arc::new(()));
        service.install(MODEL, adders(1, 1.0, None), 1).unwrap();
        let handle = service.handle();
        for (value, reason) in [(-1.0, "told to"), (-2.0, "told to panic"), (-2.0, "told to panic")] {
            let error = handle.submit(MODEL, 1, row(value)).unwrap().wait().unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(values(&handle.submit(MODEL, 1, row(1.0)).unwrap().wait().unwrap()), [2.0, 2.0]);
    }

    #[test]
    fn outputs_that_lost_the_batch_are_an_error() {
        let outputs = Outputs(vec![("mean".into(), Tensor::f32(&[1], vec![0.0]))]);
        let error = split(MODEL, outputs, &[1, 2]).unwrap_err();
        assert!(error.to_string().contains("[1] for a batch of 3"), "{error}");
        let mixed = vec![row(0.0), Tensor::u8(&[1, 2], vec![0, 0])];
        assert!(join(mixed).is_err());
    }

    #[test]
    fn swaps_and_removes_models_between_batches() {
        let service = start(2, Arc::new(()));
        let handle = service.handle();
        let ask =
            |model| handle.submit(model, 1, row(0.0)).and_then(Ticket::wait).map(|done| values(&done)[0]);
        assert!(matches!(ask(MODEL), Err(EngineError::NotInstalled { .. })));
        assert!(service.install(MODEL, adders(1, 1.0, None), 1).is_err(), "one engine for two lanes");
        for bias in [1.0, 2.0, 3.0] {
            service.install(MODEL, adders(2, bias, None), 1).unwrap();
            for _ in 0..20 {
                assert_eq!(ask(MODEL).unwrap(), bias);
            }
        }
        service.install(ModelId(2), adders(2, 9.0, None), 1).unwrap();
        service.remove(MODEL);
        assert!(matches!(ask(MODEL), Err(EngineError::NotInstalled { .. })));
        assert_eq!(ask(ModelId(2)).unwrap(), 9.0);
    }

    #[test]
    fn a_removed_model_is_freed_on_every_lane() {
        struct Tell(std::sync::mpsc::Sender<()>);
        impl Engine for Tell {
            fn run(&mut self, _: &Tensor) -> Result<Outputs, EngineError> {
                Ok(Outputs::default())
            }
        }
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let service = start(3, Arc::new(()));
        let (sender, freed) = channel();
        let engines = (0..3).map(|_| Box::new(Tell(sender.clone())) as Box<dyn Engine>).collect();
        service.install(MODEL, engines, 1).unwrap();
        let tickets: Vec<_> =
            (0..9).map(|asker| service.handle().submit(MODEL, asker, row(0.0)).unwrap()).collect();
        service.remove(MODEL);
        for ticket in tickets {
            ticket.wait().expect("what waited still runs");
        }
        for _ in 0..3 {
            freed.recv().unwrap();
        }
    }

    #[test]
    fn a_dropped_ticket_withdraws_its_request() {
        let seen = Arc::new(Seen::default());
        let service = start(1, seen.clone());
        let gate = Arc::new(Barrier::new(2));
        service.install(MODEL, adders(1, 1.0, Some(&gate)), 1).unwrap();
        let handle = service.handle();
        let first = handle.submit(MODEL, 0, row(0.0)).unwrap();
        while handle.waiting() > 0 {
            std::thread::yield_now();
        }
        drop(handle.submit(MODEL, 1, row(1.0)).unwrap());
        let last = handle.submit(MODEL, 2, row(2.0)).unwrap();
        gate.wait();
        first.wait().unwrap();
        gate.wait();
        assert_eq!(values(&last.wait().unwrap()), [3.0, 3.0]);
        drop(service);
        let seen = seen.0.lock().unwrap();
        assert_eq!((seen.0.len(), seen.1), (2, 1));
    }

    #[test]
    fn stopping_tells_those_who_wait() {
        let service = start(1, Arc::new(()));
        let gate = Arc::new(Barrier::new(2));
        service.install(MODEL, adders(1, 1.0, Some(&gate)), 1).unwrap();
        let handle = service.handle();
        let running = handle.submit(MODEL, 0, row(0.0)).unwrap();
        while handle.waiting() > 0 {
            std::thread::yield_now();
        }
        let waiting = handle.submit(MODEL, 1, row(1.0)).unwrap();
        let stopper = std::thread::spawn(move || drop(service));
        while !handle.shared.lock().is_stopping {
            std::thread::yield_now();
        }
        assert!(matches!(handle.submit(MODEL, 2, row(2.0)), Err(EngineError::Stopped)));
        gate.wait();
        running.wait().expect("the running batch is finished");
        assert!(matches!(waiting.wait(), Err(EngineError::Stopped)));
        stopper.join().unwrap();
    }

    #[test]
    fn a_full_queue_refuses() {
        let limits = Limits { per_asker: 1, total: 8 };
        let service = Service::start(Options { limits, ..Options::default() }, Arc::new(())).unwrap();
        let gate = Arc::new(Barrier::new(2));
        service.install(MODEL, adders(1, 1.0, Some(&gate)), 1).unwrap();
        let handle = service.handle();
        let running = handle.submit(MODEL, 0, row(0.0)).unwrap();
        while handle.waiting() > 0 {
            std::thread::yield_now();
        }
        let waiting = handle.submit(MODEL, 0, row(0.0)).unwrap();
        assert!(matches!(handle.submit(MODEL, 0, row(0.0)), Err(EngineError::Overloaded)));
        gate.wait();
        gate.wait();
        running.wait().unwrap();
        waiting.wait().unwrap();
    }

    #[test]
    fn slowdown_lengthens_the_run() {
        struct Busy;
        impl Engine for Busy {
            fn run(&mut self, _: &Tensor) -> Result<Outputs, EngineError> {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(2) {}
                Ok(Outputs::default())
            }
        }
        let service = Service::start(Options { slowdown: 4.0, ..Options::default() }, Arc::new(())).unwrap();
        service.install(MODEL, vec![Box::new(Busy)], 1).unwrap();
        let done = service.handle().submit(MODEL, 0, row(0.0)).unwrap().wait().unwrap();
        assert!(done.ran >= Duration::from_millis(8), "{:?}", done.ran);
    }
}
