//! Which job is next: in this process, or shared by many workers over NATS.
//!
//! A queue holds ids only; everything else about a job stands in its record. It promises:
//!
//! 1. A pushed job is delivered until somebody says [`Delivery::done`] or [`Delivery::park`].
//! 2. One taker at a time has it, as long as that taker lives and says [`Delivery::working`].
//! 3. A taker that goes without a word (a panic, or a killed process) counts as a try, and somebody else gets the job.
//! 4. A job that was tried [`Options::max_tries`] times is delivered once more as [`Delivery::spent`]: whoever gets it
//!    does not run it, writes down why, and parks it. So the job that kills its worker is noticed too.
//!
//! Delivered means at least once: a taker that was done, but could not say so, is followed by another.
//! The queue in this process forgets everything with the process; the job records say what to push again.

mod local;
mod nats;

use std::time::Duration;

use super::id::JobId;
use local::LocalQueue;
use nats::NatsQueue;

/// How a queue treats its jobs; the same on every front and worker of a service.
#[derive(Clone, Debug)]
pub struct Options {
    /// Without a word for so long, a taker is taken for dead. Only NATS needs it.
    pub ack_wait: Duration,
    /// So often a job may be tried.
    pub max_tries: u32,
    /// So many jobs may wait or be worked on; more are refused.
    pub capacity: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { ack_wait: Duration::from_secs(30), max_tries: 3, capacity: 10_000 }
    }
}

/// Why a job was not taken in, or its end not noted.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the queue is full: {capacity} jobs wait")]
    Full { capacity: usize },
    #[error("the queue's server cannot be reached: {reason}")]
    Unreachable { reason: String },
    #[error("{url} is no address of a NATS server: {reason}")]
    InvalidUrl { url: String, reason: String },
}

/// How many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub waiting: u64,
    /// Delivered, and neither done nor given back.
    pub taken: u64,
}

/// A queue of jobs; clones are handles of the same one.
#[derive(Clone)]
pub struct Queue(Kind);

#[derive(Clone)]
enum Kind {
    Local(LocalQueue),
    Nats(NatsQueue),
}

impl Queue {
    /// A queue in this process.
    pub fn local(options: Options) -> Self {
        Self(Kind::Local(LocalQueue::new(options)))
    }

    /// The queue on a NATS server (`nats://[user:password@]host[:port]` or `tls://…`; several with commas between).
    ///
    /// Does not wait for the server: until it answers, [`Queue::ready`] says what is missing and pushes are refused.
    ///
    /// # Errors
    /// When `url` cannot be an address.
    pub async fn nats(url: &str, options: Options) -> Result<Self, QueueError> {
        Ok(Self(Kind::Nats(NatsQueue::connect(url, options).await?)))
    }

    /// Adds a job that was tried `tries` times before; 0 for a new one.
    ///
    /// # Errors
    /// When the queue is full or cannot be reached. The job may have been queued nevertheless when the answer was lost.
    pub async fn push(&self, job: JobId, tries: u32) -> Result<(), QueueError> {
        match &self.0 {
            Kind::Local(queue) => queue.push(job, tries),
            Kind::Nats(queue) => queue.push(job, tries).await,
        }
    }

    /// Waits for the next job, for as long as it takes, through any loss of the server.
    ///
    /// Dropping the future is safe: a job that was on its way goes to another taker.
    pub async fn take(&self) -> Delivery {
        match &self.0 {
            Kind::Local(queue) => queue.take().await,
            Kind::Nats(queue) => queue.take().await,
        }
    }

    /// Whether jobs can be pushed and taken now, as far as is known: that a server's queue is full, or has room again, is
    /// noticed within some seconds.
    ///
    /// # Errors
    /// When they cannot: why.
    pub fn ready(&self) -> Result<(), QueueError> {
        match &self.0 {
            Kind::Local(queue) => queue.ready(),
            Kind::Nats(queue) => queue.ready(),
        }
    }

    /// Whether jobs outlive this process without being pushed again.
    pub fn is_durable(&self) -> bool {
        matches!(self.0, Kind::Nats(_))
    }

    /// How many jobs wait and are worked on.
    ///
    /// # Errors
    /// When the queue cannot be reached.
    pub async fn depth(&self) -> Result<Depth, QueueError> {
        match &self.0 {
            Kind::Local(queue) => Ok(queue.depth()),
            Kind::Nats(queue) => queue.depth().await,
        }
    }
}

/// A job in the hands of one taker. Dropped, it counts as tried and goes to another.
pub struct Delivery {
    pub job: JobId,
    /// Which try this is, from 1.
    pub tries: u32,
    spent: bool,
    receipt: Receipt,
}

enum Receipt {
    Local(local::Receipt),
    Nats(nats::Receipt),
}

impl Delivery {
    /// Whether the job had all its tries, so that it is to be parked rather than run.
    pub fn spent(&self) -> bool {
        self.spent
    }

    /// Says that the taker is alive; called every few seconds, several times in [`Options::ack_wait`].
    pub async fn working(&self) {
        match &self.receipt {
            Receipt::Local(_) => {}
            Receipt::Nats(receipt) => receipt.working().await,
        }
    }

    /// The job came to its end, well or not, and is not to be delivered again.
    ///
    /// # Errors
    /// When that could not be told: somebody will be given the job again.
    pub async fn done(self) -> Result<(), QueueError> {
        match self.receipt {
            Receipt::Local(receipt) => {
                receipt.done();
                Ok(())
            }
            Receipt::Nats(receipt) => receipt.done().await,
        }
    }

    /// This try failed; another may come no sooner than `delay` from now.
    pub async fn retry(self, delay: Duration) {
        match self.receipt {
            Receipt::Local(receipt) => receipt.again(self.tries, delay),
            Receipt::Nats(receipt) => receipt.retry(delay).await,
        }
    }

    /// The taker has to go, through no fault of the job: somebody else gets it at once, and this was no try.
    pub async fn give_back(self) {
        let before = self.tries.saturating_sub(1);
        match self.receipt {
            Receipt::Local(receipt) => receipt.again(before, Duration::ZERO),
            Receipt::Nats(receipt) => receipt.give_back(self.job, before).await,
        }
    }

    /// Tried enough: the job is not delivered again. The error belongs into the job's record; here it is only logged.
    ///
    /// # Errors
    /// When that could not be told: somebody will be given the job again.
    pub async fn park(self, error: &str) -> Result<(), QueueError> {
        tracing::warn!(job = %self.job, tries = self.tries, error, "job parked");
        self.done().await
    }
}
