//! Deletes what has had its time: ended jobs, uploads that nobody ended, and what a crash left between two steps.
//!
//! Every process sweeps, none needs to know of the others: each step may be done twice, or cut off.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use futures_util::TryStreamExt;

use super::id::JobId;
use super::intake::UPLOADS;
use super::record::State;
use super::service::{Jobs, JobsError};
use super::tus::TusError;
use crate::blobs::Meta;

/// The longest time between two sweeps.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How often the queue's length is asked for.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Younger things may belong to somebody who is not done yet. Nobody who sends is silent for so long.
const LEAST_AGE: Duration = Duration::from_secs(3600);
/// A job that waits for so long untouched may be missing in the queue: its front died between two steps.
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
        for id in self.all().await? {
            self.sweep_job(id).await?;
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
            if is_old(&meta) {
                self.tidy(sha256).await?;
            }
        }
        self.blobs.sweep(LEAST_AGE).await?;
        Ok(())
    }

    async fn sweep_job(&self, id: JobId) -> Result<(), JobsError> {
        let (mut job, version) = match self.look(id).await {
            Ok(found) => found,
            // Results or a wish without a record: somebody is deleting it, or died in doing so.
            Err(JobsError::Unknown) => {
                let mut left = self.blobs.list(&format!("jobs/{id}"))?.try_collect::<Vec<_>>().await?;
                left.retain(|meta| !is_old(meta));
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
        if job.state.is_final() && job.expires_at < now {
            self.erase(&job, true).await?;
            self.count("expired");
        } else if job.state == State::Queued && (now - job.updated_at).num_seconds() > FORGOTTEN_S {
            // Where it is queued already, it is run once and found done the second time.
            if self.queue.is_durable() && self.put(&mut job, &version).await.is_ok() {
                self.queue.push(id, job.tries).await?;
            }
        }
        Ok(())
    }

    async fn sweep_upload(&self, id: JobId) -> Result<(), TusError> {
        match self.announced(id).await {
            Ok(announced) if announced.expires_at >= Utc::now() => Ok(()),
            Ok(_) | Err(TusError::Unknown) => self.give_up(id).await,
            Err(error) => Err(error),
        }
    }

    /// A reference without a job: its front died between two steps.
    async fn sweep_reference(&self, meta: &Meta) -> Result<(), JobsError> {
        let mut names = meta.key.rsplit('/');
        let (id, sha256) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        let Ok(id) = id.parse() else { return Ok(()) };
        if is_old(meta) && matches!(self.find(id).await, Err(JobsError::Unknown)) {
            self.release(sha256, id).await?;
        }
        Ok(())
    }
}

fn is_old(meta: &Meta) -> bool {
    SystemTime::now().duration_since(meta.modified).is_ok_and(|age| age > LEAST_AGE)
}
