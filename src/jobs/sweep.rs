//! Deletes what has had its time: ended jobs, uploads that nobody ended, and what a crash left between two steps.
//!
//! Every process sweeps, none needs to know of the others: each step may be done twice, or cut off.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use futures_util::TryStreamExt;

use super::id::JobId;
use super::intake::{IntakeError, UPLOADS};
use super::record::{Job, Progress, State};
use super::service::{Jobs, JobsError};
use super::tus::{self, TusError};
use crate::blobs::{Meta, Version};

/// The longest time between two sweeps.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How often the queue's length is asked for.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Younger things may belong to somebody who is not done yet. Nobody who sends is silent for so long.
const LEAST_AGE: Duration = Duration::from_secs(3600);
/// A job of which nothing was written for so long may be missing in the queue: its front died between two steps, or the
/// queue's server lost what it had.
const FORGOTTEN_S: i64 = 3600;

impl Jobs {
    /// Sweeps from time to time and counts what waits, for ever.
    pub async fn tend(&self) {
        let pause = (self.expiry() / 4).clamp(Duration::from_secs(1), MAX_PAUSE);
        let sweeping = async {
            loop {
                // Processes that were started together do not all list the store at the same time.
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
                if let Err(error) = self.sweep().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "sweeping the store");
                }
            }
        };
        let counting = async {
            loop {
                if let Ok(depth) = self.queue.depth().await {
                    self.metrics.jobs.with_label_values(&["queued"]).set(depth.waiting as i64);
                }
                tokio::time::sleep(COUNT_INTERVAL).await;
            }
        };
        tokio::join!(sweeping, counting);
    }

    /// Deletes everything that is over.
    ///
    /// # Errors
    /// When the store cannot be used; the next sweep goes on.
    pub async fn sweep(&self) -> Result<(), TusError> {
        let is_queue_empty = self.is_queue_empty().await;
        for id in self.all().await? {
            self.sweep_job(id, is_queue_empty).await?;
        }
        for name in self.blobs.folders("tus").await? {
            if let Ok(id) = name.parse() {
                self.sweep_upload(id).await?;
            }
        }
        let mut references = self.blobs.list("references")?;
        while let Some(meta) = references.try_next().await? {
            self.sweep_reference(&meta).await?;
        }
        let mut uploads = self.blobs.list(UPLOADS)?;
        while let Some(meta) = uploads.try_next().await? {
            let sha256 = meta.key.rsplit('/').next().unwrap_or_default();
            if is_older(&meta, LEAST_AGE) {
                self.tidy(sha256).await?;
            }
        }
        self.blobs.sweep(LEAST_AGE).await?;
        Ok(())
    }

    /// Whether nothing waits in a queue that does not begin anew with its process.
    ///
    /// A job that is still said to wait is missing in it then, or somebody has just taken it. While something waits nobody can
    /// tell, and a second message of a job that waits only keeps a worker from others.
    async fn is_queue_empty(&self) -> bool {
        self.queue.is_durable() && self.queue.depth().await.is_ok_and(|depth| depth.waiting == 0)
    }

    async fn sweep_job(&self, id: JobId, is_queue_empty: bool) -> Result<(), JobsError> {
        let (job, version) = match self.look(id).await {
            Ok(found) => found,
            // Results or a wish without a record: somebody is deleting it, or died in doing so.
            Err(JobsError::Unknown) => {
                let mut left = self.blobs.list(&format!("jobs/{id}"))?.try_collect::<Vec<_>>().await?;
                left.retain(|meta| !is_older(meta, LEAST_AGE));
                if left.is_empty() {
                    self.blobs.delete_all(&format!("jobs/{id}")).await?;
                }
                return Ok(());
            }
            Err(error @ JobsError::Record { .. }) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a job's record is damaged");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let now = Utc::now();
        let is_forgotten = !job.state.is_final() && (now - job.updated_at).num_seconds() > FORGOTTEN_S;
        if job.state.is_final() && job.expires_at < now {
            self.erase(&job, true).await?;
            self.count("expired");
        } else if is_forgotten && is_queue_empty {
            self.queue_again(job, &version).await;
        }
        Ok(())
    }

    /// Queues a job that waits or runs by its record alone. Where it is queued after all, it is run once and found done the
    /// second time.
    async fn queue_again(&self, mut job: Job, version: &Version) {
        (job.state, job.progress) = (State::Queued, Progress::default());
        // Only who writes the record queues the job: others that sweep now find it changed. And from now on it is no longer
        // forgotten, so that what fails here is tried again in an hour.
        if self.put(&mut job, version).await.is_err() {
            return;
        }
        match self.queue.push(job.id, job.tries).await {
            Ok(()) => tracing::warn!(job = %job.id, "a lost job is queued again"),
            Err(error) => {
                tracing::warn!(job = %job.id, error = &error as &dyn std::error::Error, "a lost job is not queued");
            }
        }
    }

    async fn sweep_upload(&self, id: JobId) -> Result<(), TusError> {
        match self.announced(id).await {
            Ok(announced) if announced.expires_at >= Utc::now() => Ok(()),
            Ok(_) | Err(TusError::Unknown) => self.give_up(id).await,
            Err(
                error @ (TusError::Jobs(JobsError::Record { .. })
                | TusError::Intake(IntakeError::TooLarge { .. })),
            ) => self.sweep_unreadable(id, &error).await,
            Err(error) => Err(error),
        }
    }

    /// An upload that does not say when it expires: its files do, by their age.
    async fn sweep_unreadable(&self, id: JobId, error: &TusError) -> Result<(), TusError> {
        tracing::error!(upload = %id, error = error as &dyn std::error::Error, "an announcement is damaged");
        let files = self.blobs.list(&tus::folder(id))?.try_collect::<Vec<_>>().await?;
        match files.iter().all(|meta| is_older(meta, self.expiry)) {
            true => self.give_up(id).await,
            false => Ok(()),
        }
    }

    /// A reference without a job: its front died between two steps.
    async fn sweep_reference(&self, meta: &Meta) -> Result<(), JobsError> {
        let mut names = meta.key.rsplit('/');
        let (id, sha256) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        let Ok(id) = id.parse() else { return Ok(()) };
        if is_older(meta, LEAST_AGE) && matches!(self.find(id).await, Err(JobsError::Unknown)) {
            self.release(sha256, id).await?;
        }
        Ok(())
    }
}

fn is_older(meta: &Meta, least: Duration) -> bool {
    SystemTime::now().duration_since(meta.modified).is_ok_and(|age| age > least)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;
    use crate::blobs::Blobs;
    use crate::jobs::queue::{self, Queue};
    use crate::jobs::record::Options;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn an_announcement_that_cannot_be_read_stops_no_sweep_and_goes_in_its_time() {
        const HOUR: Duration = Duration::from_secs(3600);
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&folder.path().display().to_string()).unwrap();
        let jobs = |expiry| {
            let queue = Queue::local(queue::Options::default());
            Jobs::new(blobs.clone(), queue, expiry, Arc::new(Metrics::new()))
        };
        let [old, young] = std::array::from_fn(|_| JobId::random());
        for id in [old, young] {
            blobs.put_small(&format!("tus/{id}/upload.json"), "{".into()).await.unwrap();
        }
        let file = folder.path().join(format!("tus/{old}/upload.json"));
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - 2 * HOUR).unwrap();
        let options = Options::read(None, None, None).unwrap();
        jobs(Duration::ZERO).announce(1, "expired at once", options).await.unwrap();
        jobs(HOUR).sweep().await.unwrap();
        assert_eq!(blobs.folders("tus").await.unwrap(), [young.to_string()]);
    }
}
