//! What both ways of sending a video have in common: who may, how fast, and what is said when it fails.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::limits;
use super::room::Room;
use crate::jobs::intake::IntakeError;
use crate::jobs::queue::QueueError;
use crate::jobs::record::InvalidOptions;
use crate::jobs::service::{Jobs, JobsError};
use crate::jobs::tus::{Turns, TusError};

/// Videos that are taken in at a time.
const MAX_UPLOADS: usize = 64;
/// Progress streams that are open at a time.
const MAX_STREAMS: usize = 512;
/// How long, and how far, a refused body is read: a client that is still sending when the connection closes
/// may never see the answer.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const DRAIN_BYTES: usize = 256 << 20;
/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u32 = 5;

/// What the handlers of videos share.
pub struct Videos {
    pub jobs: Arc<Jobs>,
    pub max_upload_bytes: u64,
    room: Room,
    uploads: Arc<Semaphore>,
    pub streams: Arc<Semaphore>,
    /// Who is sending to which upload.
    pub turns: Arc<Turns>,
    /// Becomes true when the process is to end, and progress streams with it.
    pub is_closing: watch::Receiver<bool>,
}

impl Videos {
    pub fn new(
        jobs: Arc<Jobs>,
        max_upload_bytes: u64,
        room: Room,
        is_closing: watch::Receiver<bool>,
    ) -> Self {
        let (uploads, streams) =
            (Arc::new(Semaphore::new(MAX_UPLOADS)), Arc::new(Semaphore::new(MAX_STREAMS)));
        Self { jobs, max_upload_bytes, room, uploads, streams, turns: Arc::default(), is_closing }
    }

    /// Room for one more upload, until dropped; none while it could not be queued in the end.
    pub fn enter(&self) -> Result<Entered, UploadError> {
        self.jobs.queue().ready().map_err(JobsError::from)?;
        let upload = Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| UploadError::TooMany)?;
        let memory = self.room.take(self.jobs.blobs().writer_bytes()).ok_or(UploadError::TooMany)?;
        Ok(Entered { _upload: upload, _memory: memory })
    }
}

/// One upload's share of what the front can take.
pub struct Entered {
    _upload: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

/// Why a video was not taken in, or not told of.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("this service annotates no videos: {missing}")]
    Unavailable { missing: &'static str },
    #[error("too many videos are being sent already")]
    TooMany,
    #[error(transparent)]
    InvalidOptions(#[from] InvalidOptions),
    #[error("the body broke off")]
    BrokeOff,
    #[error("the request's body cannot be read: {0}")]
    Form(String),
    #[error("the file was not sent in time")]
    TimedOut,
    #[error("the protocol is tus 1.0.0, and a request says so as Tus-Resumable")]
    TusVersion,
    #[error("a piece of an upload comes as application/offset+octet-stream")]
    NoPiece,
    #[error("the header {name} is missing or cannot be read")]
    Header { name: String },
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Jobs(JobsError),
    #[error(transparent)]
    Tus(#[from] TusError),
}

impl From<JobsError> for UploadError {
    fn from(error: JobsError) -> Self {
        Self::Jobs(error)
    }
}

impl UploadError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unavailable { .. } | Self::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            Self::InvalidOptions(_) | Self::BrokeOff => StatusCode::BAD_REQUEST,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::Intake(error) | Self::Tus(TusError::Intake(error)) => match error {
                IntakeError::Empty => StatusCode::UNPROCESSABLE_ENTITY,
                IntakeError::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                IntakeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                IntakeError::Full => StatusCode::INSUFFICIENT_STORAGE,
                IntakeError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Jobs(error) | Self::Tus(TusError::Jobs(error)) => match error {
                JobsError::Unknown => StatusCode::NOT_FOUND,
                JobsError::Full => StatusCode::INSUFFICIENT_STORAGE,
                JobsError::Queue(_) | JobsError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
                JobsError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Form(_) | Self::Header { .. } => StatusCode::BAD_REQUEST,
            Self::TusVersion => StatusCode::PRECONDITION_FAILED,
            Self::NoPiece => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Tus(TusError::Unknown) => StatusCode::NOT_FOUND,
            Self::Tus(TusError::Offset { .. }) => StatusCode::CONFLICT,
            Self::Tus(TusError::Locked) => StatusCode::LOCKED,
            Self::Tus(TusError::TooLong | TusError::TooManyParts) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "videos_unavailable",
            Self::TooMany => "busy",
            Self::InvalidOptions(_) => "invalid_option",
            Self::BrokeOff => "body_unreadable",
            Self::TimedOut => "upload_timed_out",
            Self::Intake(error) | Self::Tus(TusError::Intake(error)) => match error {
                IntakeError::Empty => "empty",
                IntakeError::UnsupportedType => "unsupported_type",
                IntakeError::TooLarge { .. } => "too_large",
                IntakeError::Full => "store_full",
                IntakeError::Store(_) => "store_unavailable",
            },
            Self::Jobs(error) | Self::Tus(TusError::Jobs(error)) => match error {
                JobsError::Unknown => "not_found",
                JobsError::Full => "store_full",
                JobsError::Queue(QueueError::Full { .. }) => "busy",
                JobsError::Queue(_) => "queue_unavailable",
                JobsError::Store(_) => "store_unavailable",
                JobsError::Record { .. } => "internal",
            },
            Self::Form(_) => "body_unreadable",
            Self::Header { .. } => "invalid_header",
            Self::TusVersion => "tus_version",
            Self::NoPiece => "not_a_piece",
            Self::Tus(TusError::Unknown) => "not_found",
            Self::Tus(TusError::Offset { .. }) => "wrong_offset",
            Self::Tus(TusError::Locked) => "upload_locked",
            Self::Tus(TusError::TooLong) => "too_large",
            Self::Tus(TusError::TooManyParts) => "too_many_parts",
        }
    }

    pub fn retry_after_s(&self) -> Option<u32> {
        let is_passing = self.status() == StatusCode::SERVICE_UNAVAILABLE;
        (is_passing && !matches!(self, Self::Unavailable { .. })).then_some(RETRY_AFTER_S)
    }

    /// What is our own fault is logged: the client is told the least.
    pub fn log(&self) {
        if self.status().is_server_error() && !matches!(self, Self::Unavailable { .. } | Self::TooMany) {
            tracing::error!(error = self as &dyn Error, "a video was not taken in");
        }
    }
}

/// The next piece of a body; `None` at its end.
pub async fn next_piece<E: Error + 'static>(
    pieces: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Option<Bytes>, UploadError> {
    match pieces.next().await.transpose() {
        Ok(piece) => Ok(piece),
        Err(error) if limits::is_too_slow(&error) => Err(UploadError::TimedOut),
        Err(_) => Err(UploadError::BrokeOff),
    }
}

/// Reads a refused body on, beside the answer, to its end or to where no honest client goes on.
pub async fn drain<E>(mut pieces: impl Stream<Item = Result<Bytes, E>> + Unpin) {
    let reading = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(piece)) = pieces.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_LIMIT, reading).await;
}
