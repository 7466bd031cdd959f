//! The inference service: lanes that run what the batcher chooses.
//!
//! It owns the lanes' threads and, through them, the engines. A caller submits a tensor and waits on
//! its [`Ticket`]; the lanes share one [`Batcher`] behind a mutex, so that no lane idles while
//! anything is due. Loading a model is the caller's work: a lane only ever runs.
//!
//! 1. [`Service::install`] hands every lane its own engine of a model.
//! 2. [`Handle::ask_turn`] says when the asker's next picture may be begun.
//! 3. [`Handle::submit`] queues a tensor or refuses at once.
//! 4. [`Ticket::wait`] blocks until the outputs are there, and a task awaits them; dropping the ticket withdraws the
//!    request.
//! 5. Dropping the [`Service`] ends the running batches, joins the lanes and fails what still waits.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batcher::{Batch, Batcher, Limits, ModelId, Policy, Poll, Queued};
use super::engine::{Description, Engine, EngineError};
use super::handle::Place;
pub use super::handle::{Ask, Handle, Turn};
use super::rows::Part;
use super::ticket::{Answer, Work};
pub use super::ticket::{Completed, Ticket};
use super::turns::Turns;

/// How far below the media threads the lanes are scheduled.
///
/// Recognition can always take more processor time than there is. A late packet or a late encoded
/// frame is seen as a stall, a late box is carried by the tracker, so media must win.
const LANE_NICENESS: i32 = 10;

/// How far below them those who decode and encode files for a server are: nobody waits for a single picture there.
const FILE_NICENESS: i32 = 15;

/// How far below them whoever loads models beside them is: sessions wait for lanes, nobody waits for a load as long.
const LOADER_NICENESS: i32 = 19;

/// How the service is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads, each with its own engine of every model; at least 1.
    pub lanes: usize,
    pub limits: Limits,
    /// How long a batch that is not full waits for company; 0 is right on a CPU, where batches do not pay.
    pub max_wait: Duration,
    /// Whether the lanes go after the media threads: they compute, and do not only wait for a GPU.
    pub yields_to_media: bool,
    /// Makes every run last this many times as long, to try out slower models; below 1 counts as 1.
    pub slowdown: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lanes: 1,
            limits: Limits::default(),
            max_wait: Duration::ZERO,
            yields_to_media: true,
            slowdown: 1.0,
        }
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

enum Change {
    Install(ModelId, Box<dyn Engine>),
    Remove(ModelId),
}

pub(super) struct State {
    pub(super) batcher: Batcher<Work>,
    pub(super) turns: Turns<Arc<Place>>,
    /// Lanes that run a batch.
    busy: usize,
    /// Per lane, in order: what it applies between two batches.
    changes: Vec<Vec<Change>>,
    /// What every model takes and gives that takes requests.
    pub(super) descriptions: HashMap<ModelId, Arc<Description>>,
    /// Of the batcher's count, how many the observer knows of.
    skipped_told: u64,
    pub(super) is_stopping: bool,
}

impl State {
    /// Whether there is a lane that neither runs a batch nor is about to.
    pub(super) fn has_idle_lane(&self) -> bool {
        self.busy + self.batcher.len() < self.changes.len()
    }

    pub(super) fn grant_turns(&mut self) {
        let now = Instant::now();
        while let Some(place) = self.turns.grant(now) {
            place.grant();
        }
    }
}

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) wake: Condvar,
    options: Options,
    observer: Arc<dyn Observer>,
}

impl Shared {
    /// Locks the state; a panic elsewhere leaves it whole, because every change to it is one call.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
            // One more than the lanes, so that a lane never waits for a picture to be prepared.
            turns: Turns::new(count + 1),
            busy: 0,
            changes: (0..count).map(|_| Vec::new()).collect(),
            descriptions: HashMap::new(),
            skipped_told: 0,
            is_stopping: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), options, observer });
        let mut service = Self { shared, lanes: Vec::with_capacity(count) };
        for index in 0..count {
            let shared = service.shared.clone();
            let lane = std::thread::Builder::new()
                .name(format!("lane-{index}"))
                .spawn(move || Lane { index, shared, engines: HashMap::new(), queued: Vec::new() }.run())?;
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
        Handle::new(self.shared.clone())
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
        let description = engines.first().map(|engine| engine.describe()).unwrap_or_default();
        let mut state = self.shared.lock();
        state.batcher.admit(model, policy);
        state.descriptions.insert(model, Arc::new(description));
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
        state.descriptions.remove(&model);
        for changes in &mut state.changes {
            changes.push(Change::Remove(model));
        }
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Lets `pictures` be under way at the same time, where batches pay; at first it is one more than the lanes.
    pub fn set_pictures_under_way(&self, pictures: usize) {
        let mut state = self.shared.lock();
        state.turns.set_places(pictures);
        state.grant_turns();
    }

    fn stop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.is_stopping = true;
            // They go on, and are told when they submit.
            state.turns.drain().for_each(|place| place.grant());
        }
        self.shared.wake.notify_all();
        for lane in self.lanes.drain(..) {
            if lane.join().is_err() {
                tracing::error!("an inference lane ended in a panic");
            }
        }
        // Dropped unanswered, they tell their waiters.
        let stranded = self.shared.lock().batcher.drain();
        drop(stranded);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One thread and the engines it owns.
struct Lane {
    index: usize,
    shared: Arc<Shared>,
    engines: HashMap<ModelId, Box<dyn Engine>>,
    /// How long each request of the running batch had waited.
    queued: Vec<Duration>,
}

impl Lane {
    fn run(mut self) {
        if self.shared.options.yields_to_media {
            lower_priority();
        }
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
                    state.busy += 1;
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
        let Batch { model, mut requests, rows: batch_size } = batch;
        let queued = |request: &Queued<Work>| started.saturating_duration_since(request.since);
        self.queued.clear();
        self.queued.extend(requests.iter().map(queued));
        let result = self.run_requests(model, &mut requests);
        let mut ran = started.elapsed();
        let factor = self.shared.options.slowdown;
        if factor > 1.0 {
            std::thread::sleep(ran.mul_f32(factor - 1.0));
            ran = started.elapsed();
        }
        let run = BatchRun { model, batch_size, queued: &self.queued, ran, succeeded: result.is_ok() };
        self.shared.observer.ran(&run);
        // Whoever is answered may look for an idle lane at once.
        self.shared.lock().busy -= 1;
        for (request, queued) in requests.into_iter().zip(&self.queued) {
            let answer = result.clone().map(|()| Answer { queued: *queued, ran, batch_size });
            request.request.payload.answer(answer);
        }
    }

    /// Runs the engine on all requests at once and leaves each its outputs.
    fn run_requests(&mut self, model: ModelId, requests: &mut [Queued<Work>]) -> Result<(), EngineError> {
        let name = || model.0.to_string();
        let engine =
            self.engines.get_mut(&model).ok_or_else(|| EngineError::NotInstalled { model: name() })?;
        // A panic must cost one batch and not the lane: every session of the worker runs on it.
        let run = || {
            if let [only] = requests {
                let Work { input, others, outputs, .. } = &mut only.request.payload;
                return match &**others {
                    [] => engine.run_batch(&mut [Part { input, outputs }]),
                    others => engine.run_all(input, others, outputs),
                };
            }
            let works = requests.iter_mut().map(|queued| &mut queued.request.payload);
            let parts = works.map(|Work { input, outputs, .. }| Part { input, outputs });
            engine.run_batch(&mut parts.collect::<Vec<_>>())
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
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

/// Lowers the calling thread's priority to the lanes'; without effect where the kernel keeps none per thread.
pub fn lower_priority() {
    set_niceness(LANE_NICENESS);
}

/// Lowers the calling thread's priority, and that of the threads it starts from then on, below the lanes'.
pub fn lowest_priority() {
    set_niceness(FILE_NICENESS);
}

/// Lowers them as far as they can be.
pub fn least_priority() {
    set_niceness(LOADER_NICENESS);
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
