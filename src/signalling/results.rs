//! The results of a done job as files, whole or in ranges (RFC 9110 §14), as players ask for them.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::error::ApiError;
use super::router::Front;
use super::uploads::UploadError;
use super::videos::{read_id, videos};
use crate::blobs::{BlobError, Meta};
use crate::jobs::record::State as JobState;
use crate::jobs::service::{JobsError, ResultFile};

#[derive(Deserialize)]
pub struct ResultQuery {
    /// 1 to have it saved rather than shown.
    download: Option<u8>,
}

/// `GET /api/videos/{id}/annotated.mp4`, `detections.jsonl` or `summary.json`.
pub async fn read(
    State(front): State<Front>,
    Path((id, file)): Path<(String, String)>,
    Query(query): Query<ResultQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let unknown = || ApiError::from(UploadError::Jobs(JobsError::Unknown));
    let videos = videos(&front)?;
    let id = read_id(&id)?;
    let Some(file) = ResultFile::ALL.into_iter().find(|known| known.name() == file) else {
        return Err(ApiError::NotFound);
    };
    let failed = |error: JobsError| ApiError::from(UploadError::Jobs(error));
    let job = videos.jobs.find(id).await.map_err(failed)?;
    if job.state != JobState::Done {
        return Err(unknown());
    }
    let blobs = videos.jobs.blobs();
    let meta = blobs.head(&file.key(id)).await.map_err(|error| failed(error.into()))?;
    let etag = meta.etag();
    let mut answer = HeaderMap::new();
    let mut set = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            answer.insert(name, value);
        }
    };
    set(header::CACHE_CONTROL, "private, no-cache");
    set(header::ACCEPT_RANGES, "bytes");
    if let Some(etag) = &etag {
        set(header::ETAG, etag);
    }
    if is_known(&headers, etag.as_deref()) {
        return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
    }
    set(header::CONTENT_TYPE, content_type(file));
    if query.download == Some(1) {
        set(header::CONTENT_DISPOSITION, &disposition(&job.name, file));
    }
    let (status, range) = match wanted(&headers, &meta, etag.as_deref()) {
        Wanted::Whole => (StatusCode::OK, 0..meta.bytes),
        Wanted::Part(range) => {
            set(header::CONTENT_RANGE, &format!("bytes {}-{}/{}", range.start, range.end - 1, meta.bytes));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Wanted::Nothing => {
            set(header::CONTENT_RANGE, &format!("bytes */{}", meta.bytes));
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, answer).into_response());
        }
    };
    set(header::CONTENT_LENGTH, &(range.end - range.start).to_string());
    let bytes = blobs.read(&meta, range).await.map_err(|error| match error {
        // Deleted between the two.
        BlobError::Changed { .. } => unknown(),
        error => failed(error.into()),
    })?;
    Ok((status, answer, Body::from_stream(bytes)).into_response())
}

fn content_type(file: ResultFile) -> &'static str {
    match file {
        ResultFile::Annotated => "video/mp4",
        ResultFile::Detections => "application/jsonl; charset=utf-8",
        ResultFile::Summary => "application/json",
    }
}

/// A name to save under: in ASCII for old clients, and as it is (RFC 6266, RFC 8187).
fn disposition(name: &str, file: ResultFile) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let name = format!("{stem}-{}", file.name());
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || " ._-".contains(c) { c } else { '_' }).collect();
    let encoded: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

/// Whether the client has what there is (RFC 9110 §13.1.2).
fn is_known(headers: &HeaderMap, etag: Option<&str>) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.zip(etag).is_some_and(|(known, etag)| {
        known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag)
    })
}

#[derive(Debug, PartialEq)]
enum Wanted {
    Whole,
    Part(std::ops::Range<u64>),
    Nothing,
}

/// The part that a request asks for. Several parts at once, and what cannot be read, are answered by the whole,
/// as §14.2 allows.
fn wanted(headers: &HeaderMap, meta: &Meta, etag: Option<&str>) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Wanted::Whole };
    // Of a file that has changed since, the whole (§13.1.5).
    if text(header::IF_RANGE).is_some_and(|known| Some(known) != etag) {
        return Wanted::Whole;
    }
    part(range, meta.bytes)
}

fn part(range: &str, bytes: u64) -> Wanted {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..bytes.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.is_empty() => first..bytes,
        (Err(_), Ok(count)) if first.is_empty() => bytes.saturating_sub(count)..bytes,
        _ => return Wanted::Whole,
    };
    if part.is_empty() { Wanted::Nothing } else { Wanted::Part(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_players_write_them() {
        for (range, expected) in [
            ("bytes=0-", Wanted::Part(0..100)),
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=10-19", Wanted::Part(10..20)),
            ("bytes=90-500", Wanted::Part(90..100)),
            ("bytes=-10", Wanted::Part(90..100)),
            ("bytes=-500", Wanted::Part(0..100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=18446744073709551615-18446744073709551615", Wanted::Nothing),
            ("bytes=20-10", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(part(range, 100), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn names_survive_in_headers() {
        assert_eq!(
            disposition("Füße \"1\".mov", ResultFile::Annotated),
            "attachment; filename=\"F__e _1_-annotated.mp4\"; \
             filename*=UTF-8''F%C3%BC%C3%9Fe%20%221%22-annotated.mp4"
        );
    }
}
