//! A job in the hands of its runner: begun, told of, ended.
//!
//! A runner that stalls may be taken for dead and its job given to another. Whoever writes the record next
//! has the job; the other finds it changed and stops without a word.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::id::JobId;
use super::queue::Delivery;
use super::record::{Fault, Job, Progress, State};
use super::service::{Jobs, JobsError, ResultFile, Wish, wish_key};
use crate::blobs::{BlobError, Version};

/// Seconds after which a run that wrote nothing is no longer believed in; runners write every few seconds.
const SILENCE_S: i64 = 20;

/// Writes without an answer that are remembered: a store is given a minute for each.
const MAX_UNSURE: usize = 32;

/// What is to be done with a delivery.
pub enum Begin {
    Run(Box<Run>),
    /// Somebody else is at it, as it seems: look again later.
    Elsewhere,
    /// Tried enough: why, for the log.
    Spent(String),
    /// There is nothing left to do.
    Over,
}

/// Whether a runner is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    Cancelled,
    /// Deleted, or taken over by another: nothing is to be written any more.
    Lost,
}

/// A run that has begun.
pub struct Run {
    pub job: Job,
    version: Version,
    /// The records that were written without an answer: the number of the run, and when.
    unsure: VecDeque<(u32, DateTime<Utc>)>,
}

impl Run {
    fn new(job: Job, version: Version) -> Self {
        Self { job, version, unsure: VecDeque::new() }
    }
}

impl Jobs {
    /// Begins a run of a delivered job, unless there is nothing to do.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn begin(&self, delivery: &Delivery) -> Result<Begin, JobsError> {
        let (mut job, version) = match self.look(delivery.job).await {
            Err(JobsError::Unknown) => {
                self.blobs.delete(&wish_key(delivery.job)).await?;
                return Ok(Begin::Over);
            }
            found => found?,
        };
        let silence = Utc::now() - job.updated_at;
        match job.state {
            state if state.is_final() => return Ok(Begin::Over),
            State::Running if silence.num_seconds() < SILENCE_S => return Ok(Begin::Elsewhere),
            _ => {}
        }
        if delivery.spent() {
            let last = job.error.as_ref().map_or("its worker ended without a word", |error| &error.message);
            let error = format!("it was tried {} times; the last error: {last}", job.tries);
            let is_full = job.error.as_ref().is_some_and(|error| error.code == Fault::STORE_FULL);
            let code = if is_full { Fault::STORE_FULL } else { "gave_up" };
            let run = Run::new(job, version);
            self.refuse(run, Fault::new(code, &error)).await?;
            return Ok(Begin::Spent(error));
        }
        (job.state, job.tries, job.progress) = (State::Running, delivery.tries, Progress::default());
        // What stands here when this run ends without a word.
        job.error = Some(Fault::new("interrupted", "its worker ended without a word"));
        let version = self.put(&mut job, &version).await?;
        let run = Run::new(job, version);
        Ok(match self.verdict(run.job.id).await? {
            Verdict::GoOn => Begin::Run(Box::new(run)),
            verdict => {
                self.leave(run, verdict).await?;
                Begin::Over
            }
        })
    }

    /// Writes how far a run has come, and says whether it is to go on.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn report(&self, run: &mut Run, progress: Progress) -> Result<Verdict, JobsError> {
        run.job.progress = progress;
        match self.write(run).await? {
            true => self.verdict(run.job.id).await,
            false => Ok(Verdict::Lost),
        }
    }

    /// Whether a run is to go on, without writing anything.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn verdict(&self, id: JobId) -> Result<Verdict, JobsError> {
        Ok(match self.wished(id).await? {
            None => Verdict::GoOn,
            Some(Wish::Cancel) => Verdict::Cancelled,
            Some(Wish::Delete) => Verdict::Lost,
        })
    }

    /// Ends a run that was told to stop.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn leave(&self, mut run: Run, verdict: Verdict) -> Result<(), JobsError> {
        if verdict == Verdict::Cancelled {
            run.job.state = State::Cancelled;
            run.job.error = None;
            self.end(&mut run).await?;
        }
        self.erase_if_deleted(&run.job).await
    }

    /// Ends a run whose results are in the store.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn complete(&self, mut run: Run) -> Result<(), JobsError> {
        (run.job.state, run.job.error) = (State::Done, None);
        self.end(&mut run).await?;
        self.erase_if_deleted(&run.job).await
    }

    /// Ends for good a run that cannot succeed.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn refuse(&self, mut run: Run, fault: Fault) -> Result<(), JobsError> {
        (run.job.state, run.job.error) = (State::Failed, Some(fault));
        self.end(&mut run).await?;
        self.erase_if_deleted(&run.job).await
    }

    /// Ends a run after which another is to follow: `fault` says why, and nothing where no fault is the job's.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn requeue(&self, mut run: Run, fault: Option<Fault>) -> Result<(), JobsError> {
        let job = &mut run.job;
        (job.state, job.progress) = (State::Queued, Progress::default());
        if fault.is_none() {
            job.tries = job.tries.saturating_sub(1);
        }
        job.error = fault;
        self.write(&mut run).await?;
        self.erase_if_deleted(&run.job).await
    }

    /// Writes a final state, which leaves results only where it is `Done`.
    async fn end(&self, run: &mut Run) -> Result<(), JobsError> {
        if !self.write(run).await? {
            return Ok(());
        }
        let (id, state) = (run.job.id, run.job.state);
        if state != State::Done {
            for file in ResultFile::ALL {
                self.blobs.delete(&file.key(id)).await?;
            }
        }
        self.count(state.name());
        if self.wished(id).await? == Some(Wish::Cancel) {
            self.blobs.delete(&wish_key(id)).await?;
        }
        Ok(())
    }

    /// Writes the record, if it still is this run's.
    async fn write(&self, run: &mut Run) -> Result<bool, JobsError> {
        match self.put(&mut run.job, &run.version).await {
            Ok(version) => {
                run.version = version;
                run.unsure.clear();
                Ok(true)
            }
            Err(JobsError::Unknown) => Ok(false),
            Err(JobsError::Store(BlobError::Changed { .. })) => self.write_again(run).await,
            Err(error) => {
                if run.unsure.len() == MAX_UNSURE {
                    run.unsure.pop_front();
                }
                run.unsure.push_back((run.job.tries, run.job.updated_at));
                Err(error)
            }
        }
    }

    /// Writes the record although it was changed, if it was this run that did so: a store that falls silent may have
    /// taken what it never answered. Without this the job would be nobody's.
    async fn write_again(&self, run: &mut Run) -> Result<bool, JobsError> {
        let (stored, version) = match self.look(run.job.id).await {
            Err(JobsError::Unknown) => return Ok(false),
            found => found?,
        };
        if !run.unsure.contains(&(stored.tries, stored.updated_at)) {
            return Ok(false);
        }
        match self.put(&mut run.job, &version).await {
            Ok(version) => {
                run.version = version;
                run.unsure.clear();
                Ok(true)
            }
            Err(JobsError::Unknown | JobsError::Store(BlobError::Changed { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whoever deleted the job has not seen what the run wrote since.
    async fn erase_if_deleted(&self, job: &Job) -> Result<(), JobsError> {
        let is_deleted = match self.find(job.id).await {
            Err(JobsError::Unknown) => true,
            Err(error) => return Err(error),
            Ok(_) => self.wished(job.id).await? == Some(Wish::Delete),
        };
        if is_deleted { self.erase(job, true).await } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::blobs::Blobs;
    use crate::jobs::id::JobId;
    use crate::jobs::queue::{self, Queue};
    use crate::jobs::record::{Options, Upload};
    use crate::jobs::service::record_key;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn a_write_that_arrived_without_an_answer_costs_no_run() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&folder.path().display().to_string()).unwrap();
        let queue = Queue::local(queue::Options::default());
        let jobs = Jobs::new(blobs, queue, Duration::from_secs(3600), Arc::new(Metrics::new()));
        for is_own in [true, false] {
            let options = Options::read(None, None, None).unwrap();
            let upload = Upload { sha256: "00".into(), bytes: 1 };
            let job = Job::new(JobId::random(), &upload, "film", options, Utc::now(), jobs.expiry);
            let text = serde_json::to_vec(&job).unwrap();
            jobs.blobs.create(&record_key(job.id), text.into()).await.unwrap();
            let (job, version) = jobs.look(job.id).await.unwrap();
            let mut run = Run::new(job, version);
            // Written, as the store has it; of which the run, if it was its own, heard nothing.
            let mut written = run.job.clone();
            jobs.put(&mut written, &run.version).await.unwrap();
            if is_own {
                run.unsure.push_back((written.tries, written.updated_at));
            }
            let expected = if is_own { Verdict::GoOn } else { Verdict::Lost };
            assert_eq!(jobs.report(&mut run, Progress::default()).await.unwrap(), expected);
        }
    }
}
