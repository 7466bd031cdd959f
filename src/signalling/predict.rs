//! `POST /predict`: takes a picture in, has a worker recognise it and hands on the answer.
//!
//! It counts bytes and reads options; what the bytes are, only the worker knows.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Multipart, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::auth::Grant;
use super::error::ApiError;
use super::limits;
use super::router::Front;
use crate::cluster::protocol::{PictureRefusal, PredictAnswer, PredictOptions, TaskList};
use crate::cluster::remote::PredictError;

/// Bytes: no longer picture is taken in; workers hold to the same.
const MAX_BYTES: usize = 32 << 20;
/// Bytes of a form around its picture.
const MAX_FORM_BYTES: usize = MAX_BYTES + (64 << 10);
/// How long a client may take to send its picture.
const UPLOAD_LIMIT: Duration = Duration::from_secs(60);
/// Bytes: no longer list of models is handed on.
const MAX_MODEL_BYTES: usize = 256;
/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u32 = 1;

/// What a client may ask for beside its picture.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictQuery {
    /// Comma-separated: faces, gender, objects. Without it, all.
    tasks: Option<String>,
    /// 0 to 1.
    threshold: Option<f32>,
    /// Comma-separated: `name` or `name@version` of models that must be the ones in use.
    model: Option<String>,
    /// 1 for the annotated picture, 0 for the report whatever is accepted.
    annotate: Option<u8>,
}

/// Takes a picture as a form's field `file` or as the whole body.
pub async fn predict(
    State(front): State<Front>,
    grant: Grant,
    query: Result<Query<PredictQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = admit(&front, &grant, query, &headers);
    let (options, _room) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            // A client that is still sending when the connection closes never sees the answer.
            limits::drain(request.into_body()).await;
            return Err(refusal);
        }
    };
    let uploaded = tokio::time::timeout(UPLOAD_LIMIT, read_picture(request)).await;
    let picture = uploaded.map_err(|_| ApiError::UploadTimedOut)??;
    forward(&front, &options, picture).await
}

/// Everything that can be said before the body is read.
fn admit(
    front: &Front,
    grant: &Grant,
    query: Result<Query<PredictQuery>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<(PredictOptions, OwnedSemaphorePermit), ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    let options = within(grant, read_options(&query, headers)?, query.tasks.is_some())?;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: usize| bytes > MAX_FORM_BYTES) {
        return Err(ApiError::PictureTooLarge { max_bytes: MAX_BYTES });
    }
    let Some(room) = front.room.take(declared.unwrap_or(MAX_FORM_BYTES)) else {
        return Err(ApiError::Busy { retry_after_s: RETRY_AFTER_S });
    };
    Ok((options, room))
}

/// Holds what is asked for to what the token allows: what was named must be allowed, of the rest what is.
fn within(grant: &Grant, options: PredictOptions, is_named: bool) -> Result<PredictOptions, ApiError> {
    let Some(allowed) = grant.terms.tasks else { return Ok(options) };
    let mut clamped = options;
    for (task, asked, is_allowed) in [
        ("faces", &mut clamped.faces, allowed.faces),
        ("gender", &mut clamped.gender, allowed.gender),
        ("objects", &mut clamped.objects, allowed.objects),
        ("text", &mut clamped.text, allowed.text),
    ] {
        if is_named && *asked && !is_allowed {
            return Err(ApiError::TaskNotAllowed { task });
        }
        *asked &= is_allowed;
    }
    clamped.gender &= clamped.faces;
    Ok(clamped)
}

fn read_options(query: &PredictQuery, headers: &HeaderMap) -> Result<PredictOptions, ApiError> {
    let invalid = |reason: String| ApiError::InvalidOption { reason };
    if query.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
        return Err(invalid("threshold is not between 0 and 1".into()));
    }
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let answer = match (query.annotate, preferred(accepted)) {
        (Some(0), _) => PredictAnswer::Json,
        (None, answer) => answer,
        (Some(1), PredictAnswer::Json) => PredictAnswer::Jpeg,
        (Some(1), answer) => answer,
        (Some(other), _) => return Err(invalid(format!("annotate is {other}, not 0 or 1"))),
    };
    let is_model = |c: char| c.is_ascii_alphanumeric() || "._-@,".contains(c);
    if query.model.as_ref().is_some_and(|model| model.len() > MAX_MODEL_BYTES || !model.chars().all(is_model))
    {
        return Err(invalid("model is not a list of name or name@version".into()));
    }
    let TaskList { faces, gender, objects, text } =
        query.tasks.as_deref().map_or(Ok(TaskList::USUAL), read_tasks)?;
    Ok(PredictOptions {
        faces,
        gender,
        objects,
        text,
        threshold: query.threshold,
        model: query.model.clone(),
        answer,
    })
}

/// Reads a comma-separated list of tasks.
pub(crate) fn read_tasks(text: &str) -> Result<TaskList, ApiError> {
    let mut tasks = TaskList::NONE;
    for task in text.split(',') {
        match task.trim() {
            "faces" => tasks.faces = true,
            // A gender is a face's.
            "gender" => (tasks.faces, tasks.gender) = (true, true),
            "objects" => tasks.objects = true,
            "text" => tasks.text = true,
            other => {
                let other: String = other.chars().take(40).collect();
                let reason = format!("{other:?} is no task: there are faces, gender, objects and text");
                return Err(ApiError::InvalidOption { reason });
            }
        }
    }
    Ok(tasks)
}

/// The first of what a client accepts that can be answered; a report where it does not say.
fn preferred(accepted: &str) -> PredictAnswer {
    let answers = accepted.split(',').filter_map(|range| {
        match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" => Some(PredictAnswer::Json),
            "image/jpeg" | "image/*" => Some(PredictAnswer::Jpeg),
            "image/png" => Some(PredictAnswer::Png),
            _ => None,
        }
    });
    answers.take(1).next().unwrap_or(PredictAnswer::Json)
}

async fn read_picture(request: Request) -> Result<Bytes, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with("multipart/"));
    let picture = if is_form { read_form(request).await? } else { read_body(request.into_body()).await? };
    if picture.len() > MAX_BYTES {
        return Err(ApiError::PictureTooLarge { max_bytes: MAX_BYTES });
    }
    Ok(picture)
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    to_bytes(body, MAX_BYTES).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return ApiError::PictureTooLarge { max_bytes: MAX_BYTES };
            }
            if limits::is_too_slow(error) {
                return ApiError::UploadTimedOut;
            }
            cause = error.source();
        }
        ApiError::BodyUnreadable { reason: "the body broke off".into() }
    })
}

async fn read_form(request: Request) -> Result<Bytes, ApiError> {
    let unreadable = |reason: String| ApiError::BodyUnreadable { reason };
    let mut form =
        Multipart::from_request(request, &()).await.map_err(|error| unreadable(error.body_text()))?;
    let refused = |error: axum::extract::multipart::MultipartError| match error.status().as_u16() {
        413 => ApiError::PictureTooLarge { max_bytes: MAX_BYTES },
        _ => unreadable(error.body_text()),
    };
    while let Some(field) = form.next_field().await.map_err(refused)? {
        if field.name() == Some("file") {
            return field.bytes().await.map_err(refused);
        }
    }
    Err(unreadable("the form has no field named \"file\"".into()))
}

/// Asks the workers in turn until one is not busy.
async fn forward(front: &Front, options: &PredictOptions, picture: Bytes) -> Result<Response, ApiError> {
    let mut refused = ApiError::NoWorker { retry_after_s: RETRY_AFTER_S };
    for worker in front.workers.in_turn() {
        match worker.predict(options, picture.clone()).await {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                let mut response = Body::new(body).into_response();
                let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
                let content_type =
                    content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
                response.headers_mut().insert(header::CONTENT_TYPE, content_type);
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                return Ok(response);
            }
            Err(PredictError::Refused { fault, retry_after_s }) => {
                if fault.code != PictureRefusal::Busy {
                    return Err(ApiError::PictureRefused(fault));
                }
                refused = ApiError::Busy { retry_after_s };
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a picture did not reach a worker");
            }
        }
    }
    Err(refused)
}

/// Bytes of a request to this route that are read at all.
pub fn body_limit() -> axum::extract::DefaultBodyLimit {
    axum::extract::DefaultBodyLimit::max(MAX_FORM_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acceptable_answer_is_given() {
        use PredictAnswer::*;
        for (accepted, answer) in [
            ("", Json),
            ("*/*", Json),
            ("application/json", Json),
            ("image/jpeg", Jpeg),
            ("IMAGE/PNG;q=0.9, image/jpeg", Png),
            ("text/html, image/*;q=0.8, */*;q=0.5", Jpeg),
            ("text/html", Json),
        ] {
            assert_eq!(preferred(accepted), answer, "{accepted}");
        }
    }

    #[test]
    fn options_are_read_or_refused() {
        let read = |tasks: Option<&str>, threshold, annotate, accept: &'static str| {
            let query = PredictQuery { tasks: tasks.map(Into::into), threshold, model: None, annotate };
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            read_options(&query, &headers).map(|options| options.to_query()).ok()
        };
        let all = "faces=true&gender=true&objects=true";
        for (tasks, threshold, annotate, accept, expected) in [
            (None, None, None, "*/*", Some(format!("{all}&answer=json"))),
            (None, None, Some(1), "*/*", Some(format!("{all}&answer=jpeg"))),
            (None, None, Some(1), "image/png", Some(format!("{all}&answer=png"))),
            (None, None, Some(0), "image/png", Some(format!("{all}&answer=json"))),
            (
                Some("gender"),
                Some(0.5),
                None,
                "",
                Some("faces=true&gender=true&objects=false&answer=json&threshold=0.5".into()),
            ),
            (
                Some("objects, faces"),
                None,
                None,
                "",
                Some("faces=true&gender=false&objects=true&answer=json".into()),
            ),
            (
                Some("text"),
                None,
                None,
                "",
                Some("faces=false&gender=false&objects=false&text=true&answer=json".into()),
            ),
            (Some("ears"), None, None, "", None),
            (Some(""), None, None, "", None),
            (None, Some(1.5), None, "", None),
            (None, Some(f32::NAN), None, "", None),
            (None, None, Some(2), "", None),
        ] {
            assert_eq!(read(tasks, threshold, annotate, accept), expected, "{tasks:?} {annotate:?} {accept}");
        }
    }

    #[test]
    fn models_are_named_in_plain_characters() {
        for (model, is_read) in [
            ("blazeface", true),
            ("blazeface@2,centernet@1", true),
            ("", true),
            ("blazeface&answer=png", false),
            ("blaze face", false),
            (&"x".repeat(257), false),
        ] {
            let query = PredictQuery { model: Some(model.into()), ..PredictQuery::default() };
            let read = read_options(&query, &HeaderMap::new());
            assert_eq!(
                read.is_ok_and(|options| options.to_query().ends_with(&format!("&model={model}"))),
                is_read
            );
        }
    }
}
