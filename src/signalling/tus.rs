//! `/api/uploads`: videos that are sent in pieces and survive bad networks, by the tus protocol 1.0.0
//! (<https://tus.io/protocols/resumable-upload>): core, creation (also with the first piece), termination and
//! expiration.
//!
//! When all of it has come the upload is a job; the answer to the last piece names it as `Vigie-Job`.

use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use futures_util::Stream;

use super::auth::Grant;
use super::error::ApiError;
use super::router::Front;
use super::uploads::{UploadError, Videos, drain, next_piece};
use super::videos::{read_id, refuse, refuse_unless_unknown, videos, within};
use crate::jobs::id::JobId;
use crate::jobs::intake::IntakeError;
use crate::jobs::record::Options;
use crate::jobs::tus::{Held, Sending, TusError};

const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const EXTENSIONS: HeaderValue =
    HeaderValue::from_static("creation,creation-with-upload,termination,expiration");

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const VIGIE_JOB: HeaderName = HeaderName::from_static("vigie-job");

const PIECE: &str = "application/offset+octet-stream";

/// Refuses other versions of the protocol, and says in every answer which one is spoken.
pub async fn speak(request: Request, next: Next) -> Response {
    let is_spoken = request.headers().get(TUS_RESUMABLE) == Some(&VERSION);
    let mut response = if is_spoken || request.method() == Method::OPTIONS {
        next.run(request).await
    } else {
        tokio::spawn(drain(request.into_body().into_data_stream()));
        let mut response = ApiError::from(UploadError::TusVersion).into_response();
        response.headers_mut().insert(TUS_VERSION, VERSION);
        response
    };
    response.headers_mut().insert(TUS_RESUMABLE, VERSION);
    response
}

/// `OPTIONS /api/uploads`: what is spoken here.
pub async fn options(State(front): State<Front>) -> Result<Response, ApiError> {
    let videos = videos(&front)?;
    let max = HeaderValue::from(videos.max_upload_bytes);
    let told = [(TUS_VERSION, VERSION), (TUS_EXTENSION, EXTENSIONS), (TUS_MAX_SIZE, max)];
    Ok((StatusCode::NO_CONTENT, told).into_response())
}

/// `POST /api/uploads`: announces an upload, and may carry its first piece.
pub async fn create(
    State(front): State<Front>,
    grant: Grant,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let announced = announce(&front, &grant, headers).await;
    let (videos, id, expires_at) = match announced {
        Ok(announced) => announced,
        Err(error) => {
            tokio::spawn(drain(body.into_data_stream()));
            return Err(error);
        }
    };
    let mut told = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/uploads/{id}")) {
        told.insert(header::LOCATION, location);
    }
    let carries_piece = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PIECE);
    if carries_piece {
        told.extend(send(&front, &videos, id, 0, body).await.map_err(|error| refuse(&front, error))?);
    } else {
        told.insert(UPLOAD_EXPIRES, http_date(expires_at));
    }
    Ok((StatusCode::CREATED, told).into_response())
}

async fn announce(
    front: &Front,
    grant: &Grant,
    headers: &HeaderMap,
) -> Result<(Arc<Videos>, JobId, DateTime<Utc>), ApiError> {
    let asked = videos(front).and_then(|videos| {
        let bytes = number(headers, &UPLOAD_LENGTH)?;
        if bytes > videos.max_upload_bytes {
            return Err(IntakeError::TooLarge { max_bytes: videos.max_upload_bytes }.into());
        }
        if bytes == 0 {
            return Err(IntakeError::Empty.into());
        }
        Ok((videos, bytes, read_metadata(headers)?))
    });
    let (videos, bytes, Metadata { name, options, names_tasks }) =
        asked.map_err(|error| refuse(front, error))?;
    let options = within(grant, options, names_tasks)?;
    let (id, announced) = videos.jobs.announce(bytes, &name, options).await?;
    Ok((videos, id, announced.expires_at))
}

/// `HEAD /api/uploads/{id}`: how much has come. Of an upload that has come whole the job is made, if a crash
/// kept that from happening.
pub async fn head(State(front): State<Front>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let videos = videos(&front)?;
    let id = read_id(&id)?;
    let told = stand(&front, &videos, id).await.map_err(|error| refuse_unless_unknown(&front, error))?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::OK, no_store, told).into_response())
}

async fn stand(front: &Front, videos: &Arc<Videos>, id: JobId) -> Result<HeaderMap, UploadError> {
    let announced = videos.jobs.announced(id).await?;
    let held = videos.turns.take(id).await?;
    let offset = videos.jobs.offset(id, &announced).await?;
    let mut told = if offset == announced.bytes {
        end(front, videos, id, held).await?
    } else {
        HeaderMap::from_iter([(UPLOAD_EXPIRES, http_date(announced.expires_at))])
    };
    told.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    told.insert(UPLOAD_LENGTH, HeaderValue::from(announced.bytes));
    Ok(told)
}

/// `PATCH /api/uploads/{id}`: the next piece.
pub async fn append(
    State(front): State<Front>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let checked = read_id(&id).and_then(|id| {
        let checked = videos(&front).and_then(|videos| {
            if headers.get(header::CONTENT_TYPE).is_none_or(|value| value != PIECE) {
                return Err(UploadError::NoPiece);
            }
            Ok((videos, number(headers, &UPLOAD_OFFSET)?))
        });
        let (videos, offset) = checked.map_err(|error| refuse(&front, error))?;
        Ok((videos, id, offset))
    });
    let (videos, id, offset) = match checked {
        Ok(checked) => checked,
        Err(refusal) => {
            tokio::spawn(drain(body.into_data_stream()));
            return Err(refusal);
        }
    };
    let told = send(&front, &videos, id, offset, body).await.map_err(|error| refuse(&front, error))?;
    Ok((StatusCode::NO_CONTENT, told).into_response())
}

/// Takes a piece in. What has come before the connection breaks is kept.
async fn send(
    front: &Front,
    videos: &Arc<Videos>,
    id: JobId,
    offset: u64,
    body: Body,
) -> Result<HeaderMap, UploadError> {
    let mut pieces = body.into_data_stream();
    let begun = async {
        let room = videos.enter()?;
        let held = videos.turns.take(id).await?;
        Ok((room, held, videos.jobs.resume(id, offset).await?))
    };
    let (_room, held, mut sending) = match begun.await {
        Ok(begun) => begun,
        Err(error) => {
            tokio::spawn(drain(pieces));
            return Err(error);
        }
    };
    let poured = pour(front, &mut pieces, &held, &mut sending).await;
    let was_refused = matches!(poured, Err(UploadError::Tus(_)));
    if was_refused {
        tokio::spawn(drain(pieces));
    } else {
        sending.pause().await?;
    }
    poured?;
    let mut told = if sending.offset() == sending.announced().bytes {
        end(front, videos, id, held).await?
    } else {
        HeaderMap::from_iter([(UPLOAD_EXPIRES, http_date(sending.announced().expires_at))])
    };
    told.insert(UPLOAD_OFFSET, HeaderValue::from(sending.offset()));
    Ok(told)
}

async fn pour<S, E>(
    front: &Front,
    pieces: &mut S,
    held: &Held,
    sending: &mut Sending,
) -> Result<(), UploadError>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::error::Error + 'static,
{
    let mut wanted = pin!(held.wanted());
    wanted.as_mut().enable();
    loop {
        let next = tokio::select! {
            next = next_piece(pieces) => next?,
            // The client is back on another connection: this one is dead, as far as it knows.
            () = wanted.as_mut() => return Err(UploadError::BrokeOff),
        };
        let Some(piece) = next else { return Ok(()) };
        front.metrics.upload_bytes_total.inc_by(piece.len() as u64);
        sending.write(piece).await?;
    }
}

/// Makes the job, whether or not the client waits for it.
async fn end(front: &Front, videos: &Arc<Videos>, id: JobId, held: Held) -> Result<HeaderMap, UploadError> {
    let (metrics, videos) = (Arc::clone(&front.metrics), Arc::clone(videos));
    let ending = tokio::spawn(async move {
        let announced = videos.jobs.announced(id).await?;
        let made = videos.jobs.end_upload(id, &announced).await?;
        drop(held);
        // Asked about again, or ended by two fronts, it was taken once.
        if made.as_ref().is_some_and(|made| made.is_new) {
            metrics.uploads_total.with_label_values(&["taken"]).inc();
        }
        Ok::<_, UploadError>(made)
    });
    let made = ending.await.unwrap_or(Err(UploadError::BrokeOff))?;
    let named = made.and_then(|made| HeaderValue::from_str(&made.job.id.to_string()).ok());
    Ok(named.map(|id| HeaderMap::from_iter([(VIGIE_JOB, id)])).unwrap_or_default())
}

/// `DELETE /api/uploads/{id}`: gives an upload up. A job that was made of it stays.
pub async fn delete(State(front): State<Front>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let videos = videos(&front)?;
    let id = read_id(&id)?;
    let deleted = async {
        videos.jobs.announced(id).await?;
        let _held = videos.turns.take(id).await?;
        Ok(videos.jobs.give_up(id).await?)
    };
    deleted.await.map_err(|error: UploadError| refuse_unless_unknown(&front, error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, UploadError> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    let missing = || UploadError::Header { name: name.to_string() };
    text.and_then(|text| text.parse().ok()).ok_or_else(missing)
}

/// What a client says of an upload.
struct Metadata {
    name: String,
    options: Options,
    names_tasks: bool,
}

/// `Upload-Metadata`: keys, each with a value in Base64. Those that are not known here are other clients' matter.
fn read_metadata(headers: &HeaderMap) -> Result<Metadata, UploadError> {
    let unreadable = || UploadError::Header { name: UPLOAD_METADATA.to_string() };
    let (mut name, mut tasks, mut threshold, mut every) = (String::new(), None, None, None);
    let text = headers.get(UPLOAD_METADATA).map(|value| value.to_str().map_err(|_| unreadable()));
    for pair in text.transpose()?.unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if !["filename", "name", "tasks", "threshold", "every"].contains(&key) {
            continue;
        }
        let value = BASE64_STANDARD.decode(value.trim()).map_err(|_| unreadable())?;
        let value = String::from_utf8(value).map_err(|_| unreadable())?;
        match key {
            "filename" => name = value,
            "name" if name.is_empty() => name = value,
            "tasks" => tasks = Some(value),
            "threshold" => threshold = Some(value.parse::<f32>().map_err(|_| unreadable())?),
            "every" => every = Some(value.parse::<u64>().map_err(|_| unreadable())?),
            _ => {}
        }
    }
    let options = Options::read(tasks.as_deref(), threshold, every)?;
    Ok(Metadata { name, options, names_tasks: tasks.is_some() })
}

/// A date as HTTP writes it (RFC 9110 §5.6.7).
fn http_date(time: DateTime<Utc>) -> HeaderValue {
    let text = time.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).expect("a date is ASCII")
}

impl From<TusError> for ApiError {
    fn from(error: TusError) -> Self {
        UploadError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::record::Task;

    fn metadata(text: &str) -> Result<(String, Options), UploadError> {
        let value = HeaderValue::from_str(text).unwrap();
        let read = read_metadata(&HeaderMap::from_iter([(UPLOAD_METADATA, value)]))?;
        Ok((read.name, read.options))
    }

    #[test]
    fn metadata_is_read_as_clients_write_it() {
        let (name, options) =
            metadata("filename YSBkYXkubXA0,filetype dmlkZW8vbXA0,tasks ZmFjZXM=,every Mg==").unwrap();
        assert_eq!((name.as_str(), options.tasks, options.every), ("a day.mp4", vec![Task::Faces], 2));
        let (name, options) = metadata("is_confidential, name YQ==").unwrap();
        assert_eq!((name.as_str(), options.tasks.len(), options.every), ("a", 3, 1));
        assert_eq!(read_metadata(&HeaderMap::new()).unwrap().name, "");
        for wrong in ["filename %%%", "threshold YQ==", "tasks ZWFycw==", "filename /w=="] {
            assert!(metadata(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dates_are_those_of_http() {
        let time = DateTime::from_timestamp(784_111_777, 0).unwrap();
        assert_eq!(http_date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
