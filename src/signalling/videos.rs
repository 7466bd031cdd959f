//! `/api/videos`: takes videos in, tells how their jobs stand, and gives their results out.
//!
//! A job's id is the right to it: it cannot be guessed, and nothing lists other people's.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Multipart, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::auth::Grant;
use super::error::ApiError;
use super::limits;
use super::router::Front;
use super::uploads::{Entered, UploadError, Videos, drain, next_piece};
use crate::jobs::id::JobId;
use crate::jobs::intake::{Intake, IntakeError};
use crate::jobs::record::{Fault, Job, Options, Progress, State as JobState, Task, Upload};
use crate::jobs::service::{JobsError, ResultFile};

/// Bytes of a form around its file.
const FORM_BYTES: u64 = 64 << 10;
/// Jobs that are told of in one answer.
const MAX_IDS: usize = 100;
/// How often a progress stream looks at the record.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a stream goes on while the store cannot be read.
const MAX_MISSES: u32 = 20;

const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// What a client asks for beside its video.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadQuery {
    /// Comma-separated: faces, gender, objects. Without it, all.
    tasks: Option<String>,
    /// 0 to 1.
    threshold: Option<f32>,
    /// Recognise every so many pictures.
    every: Option<u64>,
    name: Option<String>,
}

/// A job as clients are told of it.
#[derive(Serialize)]
pub struct JobView<'a> {
    id: JobId,
    name: &'a str,
    state: JobState,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    bytes: u64,
    options: &'a Options,
    tries: u32,
    progress: &'a Progress,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Results>,
}

/// Where the results of a done job are.
#[derive(Serialize)]
struct Results {
    annotated: String,
    detections: String,
    summary: String,
}

/// Tells of a job, with its summary if it has one.
pub async fn view<'a>(videos: &Videos, job: &'a Job) -> JobView<'a> {
    let is_done = job.state == JobState::Done;
    let address = |file: ResultFile| format!("/api/videos/{}/{}", job.id, file.name());
    JobView {
        id: job.id,
        name: &job.name,
        state: job.state,
        created_at: job.created_at,
        updated_at: job.updated_at,
        expires_at: job.expires_at,
        bytes: job.bytes,
        options: &job.options,
        tries: job.tries,
        progress: &job.progress,
        // What ended an earlier run of a job that goes on is nobody's trouble.
        error: job.error.as_ref().filter(|_| job.state == JobState::Failed),
        summary: if is_done { videos.jobs.summary(job.id).await } else { None },
        results: is_done.then(|| Results {
            annotated: address(ResultFile::Annotated),
            detections: address(ResultFile::Detections),
            summary: address(ResultFile::Summary),
        }),
    }
}

/// The part of the front that annotates videos, if it does.
pub(super) fn videos(front: &Front) -> Result<Arc<Videos>, UploadError> {
    const MISSING: &str =
        "fronts and workers of their own need --nats-url, and a --store that all of them share";
    front.videos.clone().ok_or(UploadError::Unavailable { missing: MISSING })
}

pub(super) fn read_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|_| UploadError::Jobs(JobsError::Unknown).into())
}

/// Counts and logs a refusal.
pub(super) fn refuse(front: &Front, error: UploadError) -> ApiError {
    error.log();
    let outcome = match &error {
        UploadError::BrokeOff | UploadError::TimedOut => "broken_off",
        _ => "refused",
    };
    front.metrics.uploads_total.with_label_values(&[outcome]).inc();
    error.into()
}

/// As [`refuse`], of a request that sends nothing: who asks for what is not there was refused no upload.
pub(super) fn refuse_unless_unknown(front: &Front, error: UploadError) -> ApiError {
    if error.status() == StatusCode::NOT_FOUND { error.into() } else { refuse(front, error) }
}

/// `POST /api/videos`: takes a video as a form's field `file` or as the whole body, and queues a job.
pub async fn create(
    State(front): State<Front>,
    grant: Grant,
    query: Result<Query<UploadQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let begun = begin(&front, &grant, query, &headers);
    let (videos, options, name, _room) = match begun {
        Ok(begun) => begun,
        Err(refusal) => {
            tokio::spawn(drain(request.into_body().into_data_stream()));
            return Err(refusal);
        }
    };
    let taken = take(&front, &videos, request).await.map_err(|error| refuse(&front, error));
    let (upload, file_name) = taken?;
    let name = name.or(file_name).unwrap_or_default();
    // Whether or not the client waits for the answer: what is taken in is not left half-made.
    let making = tokio::spawn(async move {
        let made = videos.jobs.create(JobId::random(), &upload, &name, options).await?;
        Ok::<_, UploadError>(created(&videos, &made.job).await)
    });
    let made = making.await.unwrap_or(Err(UploadError::BrokeOff));
    made.map_err(|error| refuse(&front, error)).inspect(|_| {
        front.metrics.uploads_total.with_label_values(&["taken"]).inc();
    })
}

async fn created(videos: &Videos, job: &Job) -> Response {
    let location = (header::LOCATION, format!("/api/videos/{}", job.id));
    (StatusCode::CREATED, NO_STORE, [location], Json(view(videos, job).await)).into_response()
}

type Begun = (Arc<Videos>, Options, Option<String>, Entered);

/// Everything that can be said before the body is read.
fn begin(
    front: &Front,
    grant: &Grant,
    query: Result<Query<UploadQuery>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<Begun, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    let begun = videos(front).and_then(|videos| {
        let options = Options::read(query.tasks.as_deref(), query.threshold, query.every)?;
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let max_bytes = videos.max_upload_bytes;
        if declared.is_some_and(|bytes: u64| bytes > max_bytes.saturating_add(FORM_BYTES)) {
            return Err(IntakeError::TooLarge { max_bytes }.into());
        }
        let room = videos.enter()?;
        Ok((videos, options, query.name.clone(), room))
    });
    let (videos, options, name, room) = begun.map_err(|error| refuse(front, error))?;
    Ok((videos, within(grant, options, query.tasks.is_some())?, name, room))
}

/// Holds what is asked for to what the token allows: what was named must be allowed, of the rest what is.
pub(super) fn within(grant: &Grant, mut options: Options, is_named: bool) -> Result<Options, ApiError> {
    let Some(allowed) = grant.terms.tasks else { return Ok(options) };
    for (task, name, is_allowed) in [
        (Task::Faces, "faces", allowed.faces),
        // A gender is a face's.
        (Task::Gender, "gender", allowed.faces && allowed.gender),
        (Task::Objects, "objects", allowed.objects),
        (Task::Text, "text", allowed.text),
    ] {
        if is_named && options.wants(task) && !is_allowed {
            return Err(ApiError::TaskNotAllowed { task: name });
        }
        options.tasks.retain(|wanted| *wanted != task || is_allowed);
    }
    Ok(options)
}

/// Streams the body into the store. Of one that is refused or breaks off nothing is left.
async fn take(
    front: &Front,
    videos: &Videos,
    request: Request,
) -> Result<(Upload, Option<String>), UploadError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with("multipart/"));
    if !is_form {
        let mut body = request.into_body().into_data_stream();
        let taken = pour(front, videos, &mut body).await;
        if taken.is_err() {
            tokio::spawn(drain(body));
        }
        return Ok((taken?, None));
    }
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| UploadError::Form(error.body_text()))?;
    let taken = take_form(front, videos, &mut form).await;
    if taken.is_err() {
        tokio::spawn(async move {
            let rest = stream::unfold(form, |mut form| async {
                let mut field = form.next_field().await.ok()??;
                let piece = field.chunk().await.ok()?.unwrap_or_default();
                drop(field);
                Some((Ok::<Bytes, Infallible>(piece), form))
            });
            drain(Box::pin(rest)).await;
        });
    }
    taken
}

async fn take_form(
    front: &Front,
    videos: &Videos,
    form: &mut Multipart,
) -> Result<(Upload, Option<String>), UploadError> {
    let mut beside = 0;
    loop {
        let next = form.next_field().await.map_err(|error| match limits::is_too_slow(&error) {
            true => UploadError::TimedOut,
            false => UploadError::Form(error.body_text()),
        });
        let Some(mut field) = next? else {
            return Err(UploadError::Form("the form has no field named \"file\"".into()));
        };
        if field.name() == Some("file") {
            let name = field.file_name().map(str::to_owned);
            return Ok((pour(front, videos, &mut field).await?, name));
        }
        while let Some(piece) = next_piece(&mut field).await? {
            beside += piece.len() as u64;
            if beside > FORM_BYTES {
                return Err(UploadError::Form("the fields before the file are too long".into()));
            }
        }
    }
}

async fn pour<E: std::error::Error + 'static>(
    front: &Front,
    videos: &Videos,
    mut pieces: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<Upload, UploadError> {
    let mut intake = Intake::open(videos.jobs.blobs(), videos.max_upload_bytes).await?;
    while let Some(piece) = next_piece(&mut pieces).await? {
        front.metrics.upload_bytes_total.inc_by(piece.len() as u64);
        intake.write(piece).await?;
    }
    Ok(intake.finish().await?)
}

/// Finds a job that a request names.
async fn find(front: &Front, id: &str) -> Result<(Arc<Videos>, Job), ApiError> {
    let videos = videos(front)?;
    let job = videos.jobs.find(read_id(id)?).await.map_err(failed)?;
    Ok((videos, job))
}

fn failed(error: JobsError) -> ApiError {
    let error = UploadError::from(error);
    error.log();
    error.into()
}

/// `GET /api/videos/{id}`
pub async fn read(State(front): State<Front>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let (videos, job) = find(&front, &id).await?;
    Ok((NO_STORE, Json(view(&videos, &job).await)).into_response())
}

#[derive(Deserialize)]
pub struct ListQuery {
    ids: String,
}

/// `GET /api/videos?ids=a,b,c`: those of the jobs that there are.
pub async fn list(
    State(front): State<Front>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    let videos = videos(&front)?;
    let ids: Vec<&str> = query.ids.split(',').filter(|id| !id.is_empty()).collect();
    if ids.len() > MAX_IDS {
        return Err(ApiError::InvalidOption { reason: format!("there are more than {MAX_IDS} ids") });
    }
    let mut jobs = Vec::new();
    for id in ids {
        let Ok(id) = id.parse() else { continue };
        match videos.jobs.find(id).await {
            Ok(job) => jobs.push(serde_json::json!(view(&videos, &job).await)),
            Err(JobsError::Unknown) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok((NO_STORE, Json(serde_json::json!({ "jobs": jobs }))).into_response())
}

/// `POST /api/videos/{id}/cancel`
pub async fn cancel(State(front): State<Front>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let videos = videos(&front)?;
    let job = videos.jobs.cancel(read_id(&id)?).await.map_err(failed)?;
    Ok((NO_STORE, Json(view(&videos, &job).await)).into_response())
}

/// `DELETE /api/videos/{id}`
pub async fn delete(State(front): State<Front>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    videos(&front)?.jobs.delete(read_id(&id)?).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/videos/{id}/events`: the job at once and at each change, until it has ended.
///
/// The stream looks at the record, which any front can: whoever runs the job need not know of it.
pub async fn events(State(front): State<Front>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let (videos, job) = find(&front, &id).await?;
    let Ok(place) = Arc::clone(&videos.streams).try_acquire_owned() else {
        return Err(ApiError::Busy { retry_after_s: 5 });
    };
    let watch = Watch { videos, id: job.id, next: Some(job), told: None, is_over: false, _place: place };
    let events = stream::unfold(watch, |mut watch| async {
        let event = watch.next_event().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    Ok((NO_STORE, Sse::new(events.fuse()).keep_alive(KeepAlive::default())).into_response())
}

/// One client that watches one job.
struct Watch {
    videos: Arc<Videos>,
    id: JobId,
    /// What it has not been told yet.
    next: Option<Job>,
    /// What it was told of last.
    told: Option<DateTime<Utc>>,
    is_over: bool,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Watch {
    async fn next_event(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        let job = match self.next.take() {
            Some(job) => job,
            None => self.changed().await?,
        };
        self.is_over = job.state.is_final();
        self.told = Some(job.updated_at);
        let view = serde_json::to_string(&view(&self.videos, &job).await).ok()?;
        Some(Event::default().event("job").data(view))
    }

    /// Waits for a change; `None` when there is nothing more to wait for.
    async fn changed(&mut self) -> Option<Job> {
        let mut misses = 0;
        let mut is_closing = self.videos.is_closing.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                _ = is_closing.wait_for(|is| *is) => return None,
            }
            match self.videos.jobs.find(self.id).await {
                Ok(job) if Some(job.updated_at) != self.told => return Some(job),
                Ok(_) => misses = 0,
                Err(JobsError::Unknown) => return None,
                Err(_) if misses < MAX_MISSES => misses += 1,
                Err(_) => return None,
            }
        }
    }
}
