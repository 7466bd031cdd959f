//! The way of one request to a lane and of its answer back, with the buffers that travel along.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::Duration;

use super::batcher::Payload;
use super::engine::EngineError;
use super::tensor::{Outputs, Tensor};

/// The outputs of one request, and its input, whose buffer may be used again.
#[derive(Clone, Debug)]
pub struct Completed {
    pub input: Tensor,
    pub outputs: Outputs,
    /// From submission to the start of the run.
    pub queued: Duration,
    /// The run of the whole batch.
    pub ran: Duration,
    /// Rows of the batch it ran in.
    pub batch_size: usize,
}

/// How a batch went.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub queued: Duration,
    pub ran: Duration,
    pub batch_size: usize,
}

/// Where the answer is left.
#[derive(Debug)]
struct Slot {
    state: Mutex<State>,
    is_withdrawn: AtomicBool,
}

#[derive(Debug)]
struct State {
    answer: Option<Result<Completed, EngineError>>,
    /// Told when the answer has come.
    waiter: Waiter,
}

/// Who waits for an answer.
#[derive(Clone, Debug)]
enum Waiter {
    Thread(Thread),
    Task(Waker),
}

impl Waiter {
    fn tell(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => waker.wake(),
        }
    }
}

impl Slot {
    /// Locks the state, which is whole whatever happened elsewhere: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lane's end: what it runs. Dropping it unanswered says that the service has stopped.
#[derive(Debug)]
pub struct Work {
    pub input: Tensor,
    /// The graph's other inputs, where each is given; none where it has one, or makes them itself.
    pub others: Vec<Tensor>,
    /// To be filled.
    pub outputs: Outputs,
    slot: Arc<Slot>,
    is_answered: bool,
}

/// A claim on the answer to one request. Dropping it withdraws the request if it has not run.
#[derive(Debug)]
pub struct Ticket {
    slot: Arc<Slot>,
}

/// Both ends of a request; the calling thread is unparked when the answer has come.
pub fn ticket(input: Tensor, others: Vec<Tensor>, outputs: Outputs) -> (Work, Ticket) {
    let state = Mutex::new(State { answer: None, waiter: Waiter::Thread(std::thread::current()) });
    let slot = Arc::new(Slot { state, is_withdrawn: AtomicBool::new(false) });
    (Work { input, others, outputs, slot: Arc::clone(&slot), is_answered: false }, Ticket { slot })
}

impl Payload for Work {
    fn shape(&self) -> &[usize] {
        &self.input.shape
    }

    fn is_alone(&self) -> bool {
        !self.others.is_empty()
    }

    fn is_withdrawn(&self) -> bool {
        self.slot.is_withdrawn.load(Ordering::Acquire)
    }
}

impl Work {
    /// Hands the outputs over, or the reason why there are none.
    pub fn answer(mut self, answer: Result<Answer, EngineError>) {
        let input = std::mem::take(&mut self.input);
        let outputs = std::mem::take(&mut self.outputs);
        self.leave(answer.map(|Answer { queued, ran, batch_size }| Completed {
            input,
            outputs,
            queued,
            ran,
            batch_size,
        }));
    }

    fn leave(&mut self, answer: Result<Completed, EngineError>) {
        self.is_answered = true;
        let waiter = {
            let mut state = self.slot.lock();
            state.answer = Some(answer);
            state.waiter.clone()
        };
        waiter.tell();
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.is_answered {
            self.leave(Err(EngineError::Stopped));
        }
    }
}

impl Ticket {
    /// Whether [`Ticket::wait`] would return at once.
    pub fn is_answered(&self) -> bool {
        self.slot.lock().answer.is_some()
    }

    /// Blocks until the request has run.
    ///
    /// # Errors
    /// What the engine reported, or [`EngineError::Stopped`] when the service ended first.
    pub fn wait(self) -> Result<Completed, EngineError> {
        loop {
            {
                let mut state = self.slot.lock();
                if let Some(answer) = state.answer.take() {
                    return answer;
                }
                state.waiter = Waiter::Thread(std::thread::current());
            }
            std::thread::park();
        }
    }
}

/// As [`Ticket::wait`], for a task.
impl Future for Ticket {
    type Output = Result<Completed, EngineError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.lock();
        if let Some(answer) = state.answer.take() {
            return Poll::Ready(answer);
        }
        state.waiter = Waiter::Task(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slot.is_withdrawn.store(true, Ordering::Release);
    }
}
