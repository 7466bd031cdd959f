//! `/v2`: the Open Inference Protocol, which the workers speak; here it is let in and handed on.

use std::error::Error;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::auth::Grant;
use super::error::{ApiError, Refusal};
use super::limits;
use super::router::Front;
use crate::cluster::fleet::Census;
use crate::cluster::relay::{Order, RelayError, TASKS_HEADER};

/// Seconds after which a client that found no worker may try again.
const RETRY_AFTER_S: u32 = 1;
/// Bytes: no error of ours is longer.
const MAX_ERROR_BYTES: usize = 4 << 10;

const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// What a worker needs to know of a request.
const ASKED: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ACCEPT_ENCODING, JSON_LENGTH];
/// What a client needs to know of an answer.
const ANSWERED: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::RETRY_AFTER, JSON_LENGTH];

/// The error's body is the protocol's already.
#[derive(Clone, Copy)]
struct Spoken;

/// What says whether requests would be answered; it wants no token, as other probes do not.
pub fn health() -> Router<Front> {
    Router::new().route("/v2/health/live", get(live)).route("/v2/health/ready", get(ready))
}

/// Models, and what is asked of them.
pub fn models() -> Router<Front> {
    Router::new()
        .route("/v2", get(forward))
        .route("/v2/models/{model}", get(forward))
        .route("/v2/models/{model}/ready", get(forward))
        .route("/v2/models/{model}/infer", post(forward))
        .route("/v2/models/{model}/versions/{version}", get(forward))
        .route("/v2/models/{model}/versions/{version}/ready", get(forward))
        .route("/v2/models/{model}/versions/{version}/infer", post(forward))
        .route("/v2/repository/index", post(forward))
}

/// Whether a path is one of the protocol's.
pub fn is_spoken_at(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

async fn live() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"live":true}"#).into_response()
}

/// Whether a worker is there; none is asked, since strangers may.
async fn ready(State(front): State<Front>) -> Response {
    let Census { admitting, full, .. } = front.workers.census();
    let is_ready = admitting + full > 0;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": is_ready }))).into_response()
}

async fn forward(State(front): State<Front>, grant: Grant, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut headers: Vec<(HeaderName, HeaderValue)> = ASKED
        .into_iter()
        .filter_map(|name| Some((name.clone(), parts.headers.get(&name)?.clone())))
        .collect();
    if let Some(tasks) = grant.terms.tasks {
        let tasks = HeaderValue::from_str(&tasks.to_text()).expect("tasks have names of plain letters");
        headers.push((TASKS_HEADER, tasks));
    }
    let path_and_query = parts.uri.path_and_query().map_or("/v2", |path| path.as_str()).to_owned();
    let order = Order { method: parts.method, path_and_query, headers, body };
    let answer = front.relay.send(front.workers.in_turn(), order).await.map_err(|error| refusal(&error))?;
    if answer.status() == StatusCode::UNAUTHORIZED {
        tracing::warn!("a worker has another cluster token");
        return Err(ApiError::NoWorker { retry_after_s: RETRY_AFTER_S });
    }
    let (parts, body) = answer.into_parts();
    let mut response = (parts.status, Body::new(body)).into_response();
    for name in ANSWERED {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Spoken);
    if parts.status.is_client_error() && parts.status != StatusCode::NOT_FOUND {
        response.extensions_mut().insert(Refusal("inference_refused"));
    } else if parts.status == StatusCode::SERVICE_UNAVAILABLE {
        response.extensions_mut().insert(Refusal("inference_busy"));
    }
    Ok(response)
}

fn refusal(error: &RelayError) -> ApiError {
    if limits::is_too_slow(error) {
        return ApiError::BodyTimedOut;
    }
    tracing::warn!(error = error as &dyn Error, "an inference request did not get its answer");
    ApiError::NoWorker { retry_after_s: RETRY_AFTER_S }
}

#[derive(Deserialize)]
struct Ours {
    error: Fault,
}

#[derive(Deserialize)]
struct Fault {
    code: String,
    message: String,
}

#[derive(Serialize)]
struct Theirs {
    error: String,
    code: String,
}

/// Gives an error of ours the protocol's body, in which `error` is the message.
pub async fn in_its_words(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.extensions().get::<Spoken>().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    let body = match serde_json::from_slice::<Ours>(&body) {
        Ok(Ours { error: Fault { code, message } }) => {
            let theirs = Theirs { error: message, code };
            serde_json::to_vec(&theirs).expect("two strings are always JSON").into()
        }
        Err(_) => body,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}
