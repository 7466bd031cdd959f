//! Uploads that come in pieces, whenever and through whichever front: what is kept of them meanwhile.
//!
//! `tus/<id>/upload.json` says what is to come, `tus/<id>/<offset>` are the parts that have come. How much
//! that is, is what the parts say that follow on each other from 0: a part that was cut off by a crash is not
//! there, one that was sent twice does not count twice. When all has come, the parts become an upload and the
//! upload a job, whose id is the upload's: so ending it twice makes one job.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::id::JobId;
use super::intake::{Door, IntakeError, UPLOADS};
use super::record::{Options, Upload};
use super::service::{Jobs, JobsError, Made};
use crate::blobs::{BlobError, Writer};
use crate::container::START_BYTES;

/// A part is closed after so many bytes, and then outlives a crash.
const PART_BYTES: u64 = 16 << 20;
/// More parts than this are not kept: nobody sends a video in crumbs.
const MAX_PARTS: usize = 10_000;
/// How long a request waits for the one before it on the same upload to end.
const TURN: Duration = Duration::from_secs(60);

/// Why a piece was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TusError {
    #[error("there is no such upload")]
    Unknown,
    #[error("the upload stands at {at} bytes, not at {given}")]
    Offset { at: u64, given: u64 },
    #[error("another request is sending to this upload")]
    Locked,
    #[error("more came than was announced")]
    TooLong,
    #[error("the upload comes in too many small parts")]
    TooManyParts,
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Jobs(#[from] JobsError),
}

impl From<BlobError> for TusError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound { .. } => Self::Unknown,
            error => Self::Intake(error.into()),
        }
    }
}

/// What is to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    pub bytes: u64,
    pub name: String,
    pub options: Options,
    /// When it is deleted if it is not complete by then.
    pub expires_at: DateTime<Utc>,
}

pub(super) fn folder(id: JobId) -> String {
    format!("tus/{id}")
}

fn announcement_key(id: JobId) -> String {
    format!("tus/{id}/upload.json")
}

fn part_key(id: JobId, offset: u64) -> String {
    format!("tus/{id}/{offset:020}")
}

/// Has every upload written to by one request at a time, the latest, in this process.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<JobId, Arc<Turn>>>);

#[derive(Default)]
struct Turn {
    taken: Arc<tokio::sync::Mutex<()>>,
    next: Notify,
}

/// The right to write to an upload, until dropped.
pub struct Held {
    turns: Arc<Turns>,
    id: JobId,
    turn: Arc<Turn>,
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Asks whoever writes to an upload to leave off, and follows.
    ///
    /// A client whose connection broke comes back before the server has noticed, so the later one is right.
    ///
    /// # Errors
    /// [`TusError::Locked`] if that takes too long.
    pub async fn take(self: &Arc<Self>, id: JobId) -> Result<Held, TusError> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(id).or_default())
        };
        turn.next.notify_waiters();
        let waiting = Arc::clone(&turn.taken).lock_owned();
        let guard = tokio::time::timeout(TURN, waiting).await.map_err(|_| TusError::Locked)?;
        Ok(Held { turns: Arc::clone(self), id, turn, _guard: guard })
    }
}

impl Held {
    /// Becomes ready when another request wants to write.
    pub fn wanted(&self) -> Notified<'_> {
        self.turn.next.notified()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's and ours: nobody waits.
        if Arc::strong_count(&self.turn) == 2 {
            turns.remove(&self.id);
        }
    }
}

/// The parts that follow on each other.
struct Parts {
    keys: Vec<String>,
    bytes: u64,
}

/// An upload that is being sent to.
pub struct Sending {
    jobs: Arc<Jobs>,
    id: JobId,
    announced: Announced,
    offset: u64,
    parts: usize,
    door: Option<Door>,
    part: Option<Writer>,
}

impl Jobs {
    /// Announces an upload.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn announce(
        &self,
        bytes: u64,
        name: &str,
        options: Options,
    ) -> Result<(JobId, Announced), TusError> {
        let id = JobId::random();
        let announced = Announced { bytes, name: name.into(), options, expires_at: Utc::now() + self.expiry };
        let text = serde_json::to_vec(&announced).expect("an announcement is numbers and text");
        self.blobs.create(&announcement_key(id), text.into()).await?;
        Ok((id, announced))
    }

    /// # Errors
    /// [`TusError::Unknown`], or when the store cannot be used.
    pub async fn announced(&self, id: JobId) -> Result<Announced, TusError> {
        let (text, _) = self.blobs.get_small(&announcement_key(id)).await?;
        serde_json::from_slice(&text).map_err(|source| TusError::Jobs(JobsError::Record { id, source }))
    }

    async fn parts(&self, id: JobId) -> Result<Parts, TusError> {
        let mut found = BTreeMap::new();
        let mut listed = self.blobs.list(&folder(id))?;
        while let Some(meta) = listed.try_next().await? {
            let offset = meta.key.rsplit('/').next().and_then(|name| name.parse::<u64>().ok());
            if let Some(offset) = offset {
                found.insert(offset, meta);
            }
        }
        let mut parts = Parts { keys: Vec::new(), bytes: 0 };
        while let Some(meta) = found.get(&parts.bytes).filter(|meta| meta.bytes > 0) {
            parts.bytes += meta.bytes;
            parts.keys.push(meta.key.clone());
        }
        Ok(parts)
    }

    /// How much of an upload has come; all of it once it is a job.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn offset(&self, id: JobId, announced: &Announced) -> Result<u64, TusError> {
        // The parts first: they go once the job is there, so without one none of them had gone.
        let parts = self.parts(id).await?;
        match self.find(id).await {
            Ok(_) => Ok(announced.bytes),
            Err(JobsError::Unknown) => Ok(parts.bytes),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets an upload go on at `offset`.
    ///
    /// # Errors
    /// [`TusError::Offset`] if that is not where it stands, and others.
    pub async fn resume(self: &Arc<Self>, id: JobId, offset: u64) -> Result<Sending, TusError> {
        let announced = self.announced(id).await?;
        if announced.expires_at < Utc::now() {
            return Err(TusError::Unknown);
        }
        let parts = self.parts(id).await?;
        if parts.bytes != offset {
            return Err(TusError::Offset { at: parts.bytes, given: offset });
        }
        if parts.keys.len() >= MAX_PARTS {
            return Err(TusError::TooManyParts);
        }
        let door = (offset == 0).then(Door::default);
        let (jobs, parts) = (Arc::clone(self), parts.keys.len());
        Ok(Sending { jobs, id, announced, offset, parts, door, part: None })
    }

    /// Makes the parts an upload and the upload a job, if all of it has come.
    ///
    /// # Errors
    /// [`TusError`]; what is no video is deleted.
    pub async fn end_upload(&self, id: JobId, announced: &Announced) -> Result<Option<Made>, TusError> {
        // In this order, as in `offset`.
        let parts = self.parts(id).await?;
        match self.find(id).await {
            Ok(job) => Ok(Some(Made { job, is_new: false })),
            Err(JobsError::Unknown) if parts.bytes != announced.bytes => Ok(None),
            Err(JobsError::Unknown) => self.end_parts(id, announced, &parts).await.map(Some),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a job of all its parts, or finds the one that another front has made of them meanwhile.
    async fn end_parts(&self, id: JobId, announced: &Announced, parts: &Parts) -> Result<Made, TusError> {
        match self.join_parts(id, announced, parts).await {
            // A part has gone: the other front was quicker.
            Err(TusError::Unknown) => Ok(Made { job: self.find(id).await?, is_new: false }),
            made => made,
        }
    }

    async fn join_parts(&self, id: JobId, announced: &Announced, parts: &Parts) -> Result<Made, TusError> {
        let checked = self.check(parts).await;
        if matches!(checked, Err(TusError::Intake(IntakeError::UnsupportedType))) {
            self.give_up(id).await?;
        }
        checked?;
        let stored = self.blobs.join(&parts.keys, UPLOADS, announced.bytes).await?;
        let upload = Upload { bytes: stored.bytes, sha256: stored.sha256 };
        let made = self.create(id, &upload, &announced.name, announced.options.clone()).await?;
        for part in &parts.keys {
            self.blobs.delete(part).await?;
        }
        Ok(made)
    }

    /// Looks at the first bytes, in case they came one by one.
    async fn check(&self, parts: &Parts) -> Result<(), TusError> {
        let mut door = Door::default();
        let mut seen = 0;
        for key in &parts.keys {
            let meta = self.blobs.head(key).await?;
            let mut bytes = self.blobs.read(&meta, 0..START_BYTES as u64).await?;
            while let Some(piece) = bytes.try_next().await? {
                seen += piece.len();
                door.show(&piece)?;
            }
            if seen >= START_BYTES {
                break;
            }
        }
        Ok(door.close()?)
    }

    /// Deletes an upload that is not to be ended; a job that was made of it stays.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn give_up(&self, id: JobId) -> Result<(), TusError> {
        Ok(self.blobs.delete_all(&folder(id)).await?)
    }
}

impl Sending {
    pub fn announced(&self) -> &Announced {
        &self.announced
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`TusError`]; what came before them is kept only by [`pause`](Self::pause).
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), TusError> {
        if self.offset + bytes.len() as u64 > self.announced.bytes {
            return Err(TusError::TooLong);
        }
        if let Some(door) = &mut self.door
            && let Err(error) = door.show(&bytes)
        {
            self.part = None;
            self.jobs.give_up(self.id).await?;
            return Err(error.into());
        }
        while !bytes.is_empty() {
            if self.part.is_none() {
                if self.parts >= MAX_PARTS {
                    return Err(TusError::TooManyParts);
                }
                let key = part_key(self.id, self.offset);
                self.part = Some(self.jobs.blobs.writer(&key, PART_BYTES).await?);
                self.parts += 1;
            }
            if let Some(part) = &mut self.part {
                let room = PART_BYTES - part.bytes();
                let piece = bytes.split_to(bytes.len().min(room as usize));
                self.offset += piece.len() as u64;
                part.write(piece).await?;
                if part.bytes() == PART_BYTES {
                    self.pause().await?;
                }
            }
        }
        Ok(())
    }

    /// Keeps what has come so far.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn pause(&mut self) -> Result<(), TusError> {
        if let Some(part) = self.part.take() {
            part.finish().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::blobs::Blobs;
    use crate::jobs::queue::{self, Queue, QueueError};
    use crate::telemetry::metrics::Metrics;

    const FILM: &[u8] = b"\0\0\0\x20ftypisom and so on";

    /// The jobs of one front of several that share this folder; its queue takes so many.
    fn front(folder: &Path, capacity: usize) -> Arc<Jobs> {
        let blobs = Blobs::open(&folder.display().to_string()).unwrap();
        let queue = Queue::local(queue::Options { capacity, ..queue::Options::default() });
        Arc::new(Jobs::new(blobs, queue, Duration::from_secs(3600), Arc::new(Metrics::new())))
    }

    /// An upload of which all has come.
    async fn sent(jobs: &Arc<Jobs>) -> (JobId, Announced) {
        let options = Options::read(None, None, None).unwrap();
        let (id, announced) = jobs.announce(FILM.len() as u64, "film", options).await.unwrap();
        let mut sending = jobs.resume(id, 0).await.unwrap();
        sending.write(Bytes::from_static(FILM)).await.unwrap();
        sending.pause().await.unwrap();
        (id, announced)
    }

    #[tokio::test]
    async fn an_upload_that_another_front_has_ended_is_its_job() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (front(folder.path(), 10), front(folder.path(), 10));
        let (id, announced) = sent(&one).await;
        assert_eq!(other.offset(id, &announced).await.unwrap(), announced.bytes);
        // The other sees that all has come, and is overtaken before it has read it.
        let seen = other.parts(id).await.unwrap();
        let made = one.end_upload(id, &announced).await.unwrap().unwrap();
        assert_eq!((made.job.id, made.is_new), (id, true));
        let found = other.end_parts(id, &announced, &seen).await.unwrap();
        assert_eq!((found.job.id, found.is_new), (id, false));
        let again = other.end_upload(id, &announced).await.unwrap().unwrap();
        assert_eq!((again.job.id, again.is_new), (id, false));
        assert_eq!(other.offset(id, &announced).await.unwrap(), announced.bytes);
        // Without a job there is nothing to be found.
        let gone = other.end_parts(JobId::random(), &announced, &seen).await;
        assert!(matches!(gone, Err(TusError::Jobs(JobsError::Unknown))));
    }

    #[tokio::test]
    async fn who_fails_to_make_a_job_takes_no_other_jobs_upload() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = front(folder.path(), 1);
        let (id, announced) = sent(&jobs).await;
        let job = jobs.end_upload(id, &announced).await.unwrap().unwrap().job;
        let upload = Upload { bytes: job.bytes, sha256: job.upload.clone() };
        // The same job again, and another of the same file; the queue takes neither.
        for id in [id, JobId::random()] {
            let refused = jobs.create(id, &upload, "film", announced.options.clone()).await;
            assert!(matches!(refused, Err(JobsError::Queue(QueueError::Full { .. }))));
            jobs.blobs.head(&jobs.upload_key(&job)).await.unwrap();
        }
        let references = jobs.blobs.list("references").unwrap().try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(references.len(), 1);

        // Where there is no job, nothing is left of what should have been one.
        let folder = tempfile::tempdir().unwrap();
        let jobs = front(folder.path(), 0);
        let (id, announced) = sent(&jobs).await;
        jobs.end_upload(id, &announced).await.unwrap_err();
        assert!(matches!(jobs.find(id).await, Err(JobsError::Unknown)));
        assert!(jobs.blobs.list(UPLOADS).unwrap().try_collect::<Vec<_>>().await.unwrap().is_empty());
        // But the parts are there, for the next try.
        assert_eq!(jobs.offset(id, &announced).await.unwrap(), announced.bytes);
    }
}
