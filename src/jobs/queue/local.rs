//! The queue in this process: a list, and a later list for tries that have to wait.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Delivery, Depth, JobId, Options, QueueError};

/// A job whose taker fell over is not handed on at once, lest a job that panics spin.
const AFTER_A_PANIC: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct LocalQueue(Arc<Shared>);

struct Shared {
    options: Options,
    state: Mutex<State>,
    changed: Notify,
}

/// The jobs of the queue, given the time.
#[derive(Default)]
struct State {
    waiting: VecDeque<(JobId, u32)>,
    /// By when they may be tried, then by who came first.
    later: BinaryHeap<Reverse<(Instant, u64, JobId, u32)>>,
    arrivals: u64,
    taken: usize,
}

impl State {
    fn add(&mut self, job: JobId, tries: u32, not_before: Option<Instant>) {
        self.arrivals += 1;
        match not_before {
            None => self.waiting.push_back((job, tries)),
            Some(when) => self.later.push(Reverse((when, self.arrivals, job, tries))),
        }
    }

    /// The next job with its tries so far, or when to ask again.
    fn take(&mut self, now: Instant) -> Result<(JobId, u32), Option<Instant>> {
        while let Some(Reverse((when, _, job, tries))) = self.later.peek().copied() {
            if when > now {
                break;
            }
            self.later.pop();
            self.waiting.push_back((job, tries));
        }
        let next = self.waiting.pop_front();
        self.taken += usize::from(next.is_some());
        next.ok_or_else(|| self.later.peek().map(|Reverse((when, ..))| *when))
    }

    fn waiting(&self) -> usize {
        self.waiting.len() + self.later.len()
    }
}

impl LocalQueue {
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Shared { options, state: Mutex::default(), changed: Notify::new() }))
    }

    pub fn ready(&self) -> Result<(), QueueError> {
        self.0.room(&self.0.state())
    }

    pub fn push(&self, job: JobId, tries: u32) -> Result<(), QueueError> {
        {
            let mut state = self.0.state();
            self.0.room(&state)?;
            state.add(job, tries, None);
        }
        self.0.changed.notify_waiters();
        Ok(())
    }

    pub async fn take(&self) -> Delivery {
        loop {
            // Listening comes before looking, so that nothing is missed between the two.
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let next = self.0.state().take(Instant::now());
            match next {
                Ok((job, tries)) => return self.delivery(job, tries),
                Err(None) => changed.await,
                Err(Some(when)) => {
                    let _ = tokio::time::timeout_at(when.into(), changed).await;
                }
            }
        }
    }

    pub fn depth(&self) -> Depth {
        let state = self.0.state();
        Depth { waiting: state.waiting() as u64, taken: state.taken as u64 }
    }

    fn delivery(&self, job: JobId, tries: u32) -> Delivery {
        let receipt = Receipt { shared: self.0.clone(), job, tries: tries + 1, settled: false };
        Delivery {
            job,
            tries: tries + 1,
            spent: tries >= self.0.options.max_tries,
            receipt: super::Receipt::Local(receipt),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self, state: &State) -> Result<(), QueueError> {
        let capacity = self.options.capacity;
        match state.waiting() + state.taken < capacity {
            true => Ok(()),
            false => Err(QueueError::Full { capacity }),
        }
    }
}

/// The place of a taken job; dropped, the job is queued again.
pub(super) struct Receipt {
    shared: Arc<Shared>,
    job: JobId,
    tries: u32,
    settled: bool,
}

impl Receipt {
    pub fn done(mut self) {
        self.settled = true;
        self.shared.state().taken -= 1;
    }

    pub fn again(mut self, tries: u32, delay: Duration) {
        self.settled = true;
        self.put_back(tries, delay);
    }

    fn put_back(&self, tries: u32, delay: Duration) {
        {
            let mut state = self.shared.state();
            state.taken -= 1;
            let not_before = (!delay.is_zero()).then(|| Instant::now() + delay);
            state.add(self.job, tries, not_before);
        }
        self.shared.changed.notify_waiters();
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.settled {
            self.put_back(self.tries, AFTER_A_PANIC);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_in_order_and_delayed_ones_when_their_time_has_come() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let [a, b, c, d] = std::array::from_fn(|_| JobId::random());
        let mut state = State::default();
        assert_eq!(state.take(start), Err(None));
        state.add(a, 0, None);
        state.add(b, 1, Some(after(20)));
        state.add(c, 2, Some(after(10)));
        state.add(d, 0, Some(after(10)));
        assert_eq!(state.take(start), Ok((a, 0)));
        assert_eq!(state.take(after(9)), Err(Some(after(10))));
        assert_eq!(state.take(after(10)), Ok((c, 2)));
        assert_eq!(state.take(after(10)), Ok((d, 0)));
        assert_eq!(state.take(after(10)), Err(Some(after(20))));
        assert_eq!(state.take(after(50)), Ok((b, 1)));
        assert_eq!((state.taken, state.waiting()), (4, 0));
    }

    #[test]
    fn what_is_worked_on_counts_against_the_capacity() {
        let queue = LocalQueue::new(Options { capacity: 2, ..Options::default() });
        queue.push(JobId::random(), 0).unwrap();
        queue.ready().unwrap();
        queue.push(JobId::random(), 0).unwrap();
        assert!(matches!(queue.ready(), Err(QueueError::Full { capacity: 2 })));
        assert!(matches!(queue.push(JobId::random(), 0), Err(QueueError::Full { capacity: 2 })));
        let (job, _) = queue.0.state().take(Instant::now()).unwrap();
        assert!(matches!(queue.push(JobId::random(), 0), Err(QueueError::Full { .. })));
        queue.delivery(job, 0);
        assert_eq!(queue.depth(), Depth { waiting: 2, taken: 0 }, "dropped, it waits again");
    }
}
