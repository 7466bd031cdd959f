//! What may be done with jobs: made, found, cancelled, deleted. Any front and any worker may do any of it.
//!
//! The store holds, for a job:
//!
//! - `jobs/<id>/job.json`, the record; its results beside it;
//! - `jobs/<id>/request`, while somebody wants it cancelled or deleted;
//! - `references/<sha256>/<id>`, which keeps the upload;
//! - `uploads/<sha256>`, the upload, shared by all jobs that refer to it.
//!
//! Records are only written where they are what was read before. Somebody who wants a running job cancelled
//! or deleted says so in a blob of its own, written before anything else is touched, and a runner looks for one
//! after each of its own writes. So neither can undo the other, in whatever order the two come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures_util::StreamExt;

use super::id::JobId;
use super::queue::{Queue, QueueError};
use super::record::{Job, Options, State, Upload};
use super::tus;
use crate::blobs::{BlobError, Blobs, Version};
use crate::telemetry::metrics::Metrics;

/// Why something was not done with a job.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    #[error("there is no such job")]
    Unknown,
    #[error("the store is full")]
    Full,
    #[error("the job could not be queued")]
    Queue(#[from] QueueError),
    #[error("the store cannot be used")]
    Store(#[source] BlobError),
    #[error("the record of job {id} cannot be read")]
    Record { id: JobId, source: serde_json::Error },
}

impl From<BlobError> for JobsError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound { .. } => Self::Unknown,
            BlobError::Full => Self::Full,
            error => Self::Store(error),
        }
    }
}

/// What somebody wants of a job that may be running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Cancel,
    Delete,
}

impl Wish {
    fn text(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Delete => "delete",
        }
    }
}

/// A file that a done job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultFile {
    Annotated,
    Detections,
    Summary,
}

impl ResultFile {
    pub const ALL: [Self; 3] = [Self::Annotated, Self::Detections, Self::Summary];

    pub fn name(self) -> &'static str {
        match self {
            Self::Annotated => "annotated.mp4",
            Self::Detections => "detections.jsonl",
            Self::Summary => "summary.json",
        }
    }

    /// Where it lies in the store.
    pub fn key(self, id: JobId) -> String {
        format!("jobs/{id}/{}", self.name())
    }
}

/// A job that an upload has become.
#[derive(Debug)]
pub struct Made {
    pub job: Job,
    /// Whether this call made it; what has its id may have been a job already.
    pub is_new: bool,
}

/// All video jobs of a store.
pub struct Jobs {
    pub(super) blobs: Blobs,
    pub(super) queue: Queue,
    pub(super) expiry: Duration,
    pub(super) metrics: Arc<Metrics>,
}

pub(super) fn record_key(id: JobId) -> String {
    format!("jobs/{id}/job.json")
}

pub(super) fn wish_key(id: JobId) -> String {
    format!("jobs/{id}/request")
}

pub(super) fn upload_key(sha256: &str) -> String {
    format!("uploads/{sha256}")
}

fn references(sha256: &str) -> String {
    format!("references/{sha256}")
}

fn reference_key(sha256: &str, id: JobId) -> String {
    format!("references/{sha256}/{id}")
}

impl Jobs {
    /// Jobs that are kept in `blobs`, handed out by `queue`, and deleted `expiry` after their last change.
    pub fn new(blobs: Blobs, queue: Queue, expiry: Duration, metrics: Arc<Metrics>) -> Self {
        Self { blobs, queue, expiry, metrics }
    }

    /// Where a job's upload lies.
    pub fn upload_key(&self, job: &Job) -> String {
        upload_key(&job.upload)
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    pub fn expiry(&self) -> Duration {
        self.expiry
    }

    /// Makes a job of a complete upload and queues it; the one that there is already if `id` has one.
    ///
    /// # Errors
    /// When it could not be kept or queued; nothing is left then, but the upload if others refer to it. What the store
    /// does not let go of then goes with a sweep.
    pub async fn create(
        &self,
        id: JobId,
        upload: &Upload,
        name: &str,
        options: Options,
    ) -> Result<Made, JobsError> {
        let job = Job::new(id, upload, name, options, Utc::now(), self.expiry);
        // The reference first: from here on the upload stays.
        self.blobs.put_small(&reference_key(&upload.sha256, id), Bytes::new()).await?;
        let made = self.enter(job).await;
        // A job of this id that is there refers to the upload as well: another front made it, or this one unheard.
        if made.is_err() && matches!(self.find(id).await, Err(JobsError::Unknown)) {
            self.release(&upload.sha256, id).await?;
        }
        made
    }

    async fn enter(&self, job: Job) -> Result<Made, JobsError> {
        match self.blobs.create(&record_key(job.id), to_bytes(&job)).await {
            Ok(_) => {}
            // Two fronts ended the same upload, or one was cut off in doing so: queued twice, it is run once.
            Err(BlobError::AlreadyExists { .. }) => {
                let job = self.find(job.id).await?;
                if job.state == State::Queued {
                    self.queue.push(job.id, job.tries).await?;
                }
                return Ok(Made { job, is_new: false });
            }
            Err(error) => return Err(error.into()),
        }
        // Another job's deletion may have taken the upload between its being stored and being referred to.
        let queued = match self.blobs.head(&upload_key(&job.upload)).await {
            Ok(_) => self.queue.push(job.id, 0).await.map_err(JobsError::from),
            Err(error) => Err(JobsError::Store(error)),
        };
        if let Err(error) = queued {
            self.blobs.delete(&record_key(job.id)).await?;
            return Err(error);
        }
        self.count("created");
        Ok(Made { job, is_new: true })
    }

    /// # Errors
    /// [`JobsError::Unknown`], or when the store cannot be asked.
    pub async fn find(&self, id: JobId) -> Result<Job, JobsError> {
        Ok(self.look(id).await?.0)
    }

    /// A record, and what it must still be to be replaced.
    pub(super) async fn look(&self, id: JobId) -> Result<(Job, Version), JobsError> {
        let (bytes, version) = self.blobs.get_small(&record_key(id)).await?;
        let job = serde_json::from_slice(&bytes).map_err(|source| JobsError::Record { id, source })?;
        Ok((job, version))
    }

    /// The summary of a done job, if it is short enough to be told in one breath.
    pub async fn summary(&self, id: JobId) -> Option<serde_json::Value> {
        let (text, _) = self.blobs.get_small(&ResultFile::Summary.key(id)).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Cancels a job that has not ended; one that runs ends within seconds.
    ///
    /// # Errors
    /// [`JobsError::Unknown`], or when the store cannot be used.
    pub async fn cancel(&self, id: JobId) -> Result<Job, JobsError> {
        let (mut job, version) = self.look(id).await?;
        if job.state.is_final() {
            return Ok(job);
        }
        self.wish(id, Wish::Cancel).await?;
        if job.state == State::Queued {
            job.state = State::Cancelled;
            match self.put(&mut job, &version).await {
                Ok(_) => self.count("cancelled"),
                // A runner has just begun, and sees the wish.
                Err(JobsError::Store(BlobError::Changed { .. })) => job = self.find(id).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(job)
    }

    /// Deletes a job and all that belongs to it; the runner of one that runs stops within seconds.
    ///
    /// # Errors
    /// [`JobsError::Unknown`], or when the store cannot be used: what is left is deleted when it expires.
    pub async fn delete(&self, id: JobId) -> Result<(), JobsError> {
        let job = self.find(id).await?;
        if !job.state.is_final() {
            self.wish(id, Wish::Delete).await?;
        }
        self.erase(&job, job.state.is_final()).await
    }

    /// Deletes what there is of a job, and with `forget` also what its runner may still look for.
    pub(super) async fn erase(&self, job: &Job, forget: bool) -> Result<(), JobsError> {
        for file in ResultFile::ALL {
            self.blobs.delete(&file.key(job.id)).await?;
        }
        self.release(&job.upload, job.id).await?;
        // What was announced of an upload in pieces, which has the job's id.
        self.blobs.delete_all(&tus::folder(job.id)).await?;
        // The record last: as long as it is there, an interrupted deletion is found and ended.
        self.blobs.delete(&record_key(job.id)).await?;
        if forget {
            self.blobs.delete(&wish_key(job.id)).await?;
        }
        Ok(())
    }

    /// Gives a job's claim on its upload up, and deletes the upload with the last one.
    pub(super) async fn release(&self, sha256: &str, id: JobId) -> Result<(), JobsError> {
        self.blobs.delete(&reference_key(sha256, id)).await?;
        self.tidy(sha256).await
    }

    /// Deletes an upload that no job refers to.
    pub(super) async fn tidy(&self, sha256: &str) -> Result<(), JobsError> {
        let mut referring = self.blobs.list(&references(sha256))?;
        if referring.next().await.transpose()?.is_none() {
            self.blobs.delete(&upload_key(sha256)).await?;
        }
        Ok(())
    }

    async fn wish(&self, id: JobId, wish: Wish) -> Result<(), JobsError> {
        self.blobs.put_small(&wish_key(id), Bytes::from_static(wish.text().as_bytes())).await?;
        Ok(())
    }

    pub(super) async fn wished(&self, id: JobId) -> Result<Option<Wish>, JobsError> {
        match self.blobs.get_small(&wish_key(id)).await {
            Ok((text, _)) if text == Wish::Delete.text().as_bytes() => Ok(Some(Wish::Delete)),
            Ok(_) => Ok(Some(Wish::Cancel)),
            Err(BlobError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the record of `version` as of now.
    pub(super) async fn put(&self, job: &mut Job, version: &Version) -> Result<Version, JobsError> {
        job.touch(Utc::now(), self.expiry);
        Ok(self.blobs.update(&record_key(job.id), to_bytes(job), version).await?)
    }

    pub(super) fn count(&self, outcome: &str) {
        self.metrics.jobs_total.with_label_values(&[outcome]).inc();
    }

    /// Puts what a process left unfinished back into a queue that forgot it; done once, before the first run.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn recover(&self) -> Result<usize, JobsError> {
        if self.queue.is_durable() {
            return Ok(0);
        }
        let mut left = Vec::new();
        for id in self.all().await? {
            match self.look(id).await {
                Ok(found) if !found.0.state.is_final() => left.push(found),
                Ok(_) | Err(JobsError::Unknown) => {}
                Err(error @ JobsError::Record { .. }) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a job is lost");
                }
                Err(error) => return Err(error),
            }
        }
        left.sort_by_key(|(job, _)| job.created_at);
        let count = left.len();
        for (mut job, version) in left {
            if job.state == State::Running {
                job.state = State::Queued;
                self.put(&mut job, &version).await?;
            }
            self.queue.push(job.id, job.tries).await?;
        }
        Ok(count)
    }

    /// Every job that there is.
    pub(super) async fn all(&self) -> Result<Vec<JobId>, JobsError> {
        let folders = self.blobs.folders("jobs").await?;
        Ok(folders.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

fn to_bytes(job: &Job) -> Bytes {
    serde_json::to_vec(job).expect("a record is numbers and text").into()
}
