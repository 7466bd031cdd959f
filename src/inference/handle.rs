//! The askers' end of the inference service: requests, and turns for pictures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Instant;

use super::batcher::{ModelId, Refusal, Request};
use super::engine::{Description, EngineError};
use super::service::Shared;
use super::tensor::{Outputs, Tensor};
use super::ticket::{Ticket, ticket};
use super::turns::Wish;

/// Submits work to the lanes; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Queues `input` (batch on axis 0) for `model` on behalf of `asker`, without blocking.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when the queue is full, [`EngineError::NotInstalled`] when the model
    /// is not there (any more), [`EngineError::Stopped`] when the service has ended.
    pub fn submit(&self, model: ModelId, asker: u64, input: Tensor) -> Result<Ticket, EngineError> {
        self.queue(Ask::of(model, asker, input))
    }

    /// As [`Handle::submit`], with all that can be said of a request.
    ///
    /// # Errors
    /// As [`Handle::submit`].
    pub fn queue(&self, ask: Ask) -> Result<Ticket, EngineError> {
        let Ask { model, asker, is_ahead, is_first, input, others, outputs } = ask;
        let (work, ticket) = ticket(input, others, outputs);
        let request = Request { model, asker, is_ahead, is_first, payload: work };
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
        Ok(ticket)
    }

    /// What an installed model takes and gives.
    pub fn describe(&self, model: ModelId) -> Option<Arc<Description>> {
        self.shared.lock().descriptions.get(&model).cloned()
    }

    /// Whether a lane is idle that nobody waits for.
    pub fn has_room(&self) -> bool {
        let state = self.shared.lock();
        !state.is_stopping && state.has_idle_lane() && state.turns.is_empty()
    }

    /// Requests that wait for a lane.
    pub fn waiting(&self) -> usize {
        self.shared.lock().batcher.len()
    }

    /// Queues for the turn of `asker` to have a picture recognised, its first one if so; the calling thread is
    /// unparked when it comes.
    pub fn ask_turn(&self, asker: u64, is_first: bool) -> Turn {
        let place = Arc::new(Place { is_granted: AtomicBool::new(false), thread: std::thread::current() });
        let mut state = self.shared.lock();
        if state.is_stopping {
            place.grant();
        } else {
            state.turns.ask(Wish { asker, is_first, since: Instant::now(), value: Arc::clone(&place) });
            state.grant_turns();
        }
        drop(state);
        Turn { shared: Arc::clone(&self.shared), place }
    }

    /// A turn at once, where a lane is idle and nobody queues: for a second picture while the first is under way.
    pub fn spare_turn(&self) -> Option<Turn> {
        let mut state = self.shared.lock();
        if !state.has_idle_lane() || !state.turns.take_spare() {
            return None;
        }
        drop(state);
        let place = Arc::new(Place { is_granted: AtomicBool::new(true), thread: std::thread::current() });
        Some(Turn { shared: Arc::clone(&self.shared), place })
    }
}

/// One request to be queued.
#[derive(Debug)]
pub struct Ask {
    pub model: ModelId,
    pub asker: u64,
    /// Runs before the asker's other requests.
    pub is_ahead: bool,
    /// Belongs to the asker's first picture: runs before everybody else's.
    pub is_first: bool,
    /// The batch on axis 0.
    pub input: Tensor,
    /// The graph's other inputs in its order, after `input`, or none of them. With any, the request runs alone.
    pub others: Vec<Tensor>,
    /// Filled with the outputs, in place of new ones where it has their size: those of an earlier answer.
    pub outputs: Outputs,
}

impl Ask {
    /// An asker's next request, with nothing special about it.
    pub fn of(model: ModelId, asker: u64, input: Tensor) -> Self {
        let (others, outputs) = (Vec::new(), Outputs::default());
        Self { model, asker, is_ahead: false, is_first: false, input, others, outputs }
    }
}

/// A place among the pictures under way, or in the queue for one.
pub(super) struct Place {
    is_granted: AtomicBool,
    thread: Thread,
}

impl Place {
    pub(super) fn grant(&self) {
        self.is_granted.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The right to have one picture under way, or the wish for it. Dropping it gives the place to the next.
pub struct Turn {
    shared: Arc<Shared>,
    place: Arc<Place>,
}

impl Turn {
    /// Whether the picture may be begun.
    pub fn has_come(&self) -> bool {
        self.place.is_granted.load(Ordering::Acquire)
    }

    /// Blocks the thread that asked until the turn has come.
    pub fn wait(&self) {
        while !self.has_come() {
            std::thread::park();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if self.has_come() {
            state.turns.end();
        } else {
            state.turns.withdraw(|place| Arc::ptr_eq(place, &self.place));
        }
        state.grant_turns();
    }
}
