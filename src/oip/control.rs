//! The protocol over HTTP, on a worker: for fronts with the cluster token, or open to whoever reaches the address.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use http_body_util::{LengthLimitError, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use super::answer::{Answer, Title};
use super::coding::Coding;
use super::error::{self, OipError};
use super::metadata::{self, IndexEntry};
use super::request::{Wanted, parse};
use super::runner::{Loaded, Runner};
use super::tensors;
use crate::cluster::protocol::TaskList;
use crate::cluster::relay::TASKS_HEADER;
use crate::cluster::remote::is_authorised;
use crate::cluster::token::ClusterToken;
use crate::inference::tensor::{Outputs, Tensor, TensorData};
use crate::models::manifest::Task;
use crate::telemetry::metrics::Metrics;

/// Bytes of a request, as it comes and unpacked.
pub const MAX_BYTES: usize = 64 << 20;
/// How long a client may take to send its request.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How long a refused body is read.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u32 = 1;
/// Bytes of JSON that are read or written on the threads that serve everybody; more goes elsewhere.
const INLINE_JSON: usize = 64 << 10;
/// Bytes of a number in JSON, about.
const NUMBER_BYTES: usize = 12;

/// The JSON's length, where binary tensors follow it.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The protocol's server: what it runs requests on, and who may come in.
pub struct Oip {
    pub runner: Runner,
    pub metrics: Arc<Metrics>,
    /// Whether requests would be taken.
    pub is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The routes, for fronts: every request must carry `token` as its bearer token.
pub fn router(oip: Arc<Oip>, token: ClusterToken) -> Router {
    let guard = move |request: Request, next: Next| {
        let is_in = is_authorised(request.headers(), &token);
        async move { if is_in { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() } }
    };
    routes().route_layer(middleware::from_fn(guard)).with_state(oip)
}

/// The routes, for whoever reaches them.
pub fn open_router(oip: Arc<Oip>) -> Router {
    // What a token allows, only a front can say.
    let unheard = |mut request: Request, next: Next| async move {
        request.headers_mut().remove(TASKS_HEADER);
        next.run(request).await
    };
    let nothing = async || plain_error(StatusCode::NOT_FOUND, "not_found", "there is nothing here");
    routes().fallback(nothing).layer(middleware::from_fn(unheard)).with_state(oip)
}

/// Every route of the protocol.
fn routes() -> Router<Arc<Oip>> {
    let wrong_method = async || {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        plain_error(status, "method_not_allowed", "the method is not one of this address")
    };
    Router::new()
        .route("/v2", get(async || Json(metadata::Server::THIS)))
        .route("/v2/health/live", get(async || Json(json!({ "live": true }))))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(model))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(model))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .route("/v2/repository/index", post(index))
        .method_not_allowed_fallback(wrong_method)
}

/// What a path names.
#[derive(serde::Deserialize)]
struct Named {
    model: String,
    version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let named = Path::from_request_parts(parts, state).await;
        named
            .map(|Path(named)| named)
            .map_err(|error: PathRejection| refuse(&OipError::Unreadable { reason: error.body_text() }))
    }
}

impl Named {
    /// The model, if there is it and the token allows it.
    fn find(&self, oip: &Oip, headers: &HeaderMap) -> Result<Loaded, OipError> {
        let loaded = oip.runner.find(&self.model, self.version.as_deref())?;
        let allowed = headers.get(TASKS_HEADER).and_then(|value| value.to_str().ok());
        // Tokens know reading text as one thing.
        let task = match loaded.manifest().task {
            Task::TextDetect | Task::TextRead => "text",
            task => task.name(),
        };
        match allowed.map(|tasks| Vec::from(TaskList::from_text(tasks))) {
            Some(allowed) if !allowed.iter().any(|name| name == task) => {
                Err(OipError::TaskNotAllowed { task })
            }
            _ => Ok(loaded),
        }
    }
}

async fn ready(State(oip): State<Arc<Oip>>) -> Response {
    let is_ready = (oip.is_ready)();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": is_ready }))).into_response()
}

async fn model(State(oip): State<Arc<Oip>>, named: Named, headers: HeaderMap) -> Response {
    let loaded = match named.find(&oip, &headers) {
        Ok(loaded) => loaded,
        Err(refusal) => return refuse(&refusal),
    };
    let name = &loaded.manifest().name;
    let versions = match &named.version {
        Some(version) => vec![version.clone()],
        None => {
            let all = oip.runner.loaded().into_iter().filter(|other| other.manifest().name == *name);
            all.map(|other| other.manifest().version.to_string()).collect()
        }
    };
    Json(metadata::Model::new(name, versions, &loaded.ports)).into_response()
}

async fn model_ready(State(oip): State<Arc<Oip>>, named: Named, headers: HeaderMap) -> Response {
    match named.find(&oip, &headers) {
        Ok(loaded) => Json(json!({ "name": loaded.manifest().name, "ready": true })).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// What is loaded; whatever the body asks for, since all that is here is ready.
async fn index(State(oip): State<Arc<Oip>>) -> Json<Vec<IndexEntry>> {
    let entry = |loaded: Loaded| IndexEntry {
        name: loaded.manifest().name.clone(),
        version: loaded.manifest().version.to_string(),
        state: "READY",
        reason: "",
    };
    Json(oip.runner.loaded().into_iter().map(entry).collect())
}

async fn infer(State(oip): State<Arc<Oip>>, named: Named, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let answered = match named
        .find(&oip, &parts.headers)
        .and_then(|model| Ok((model, Head::read(&parts.headers)?)))
    {
        Err(refusal) => Err((refusal, body)),
        Ok((model, head)) => match oip.runner.enter(head.bytes) {
            Err(refusal) => Err((refusal, body)),
            Ok(_room) => answer(&oip, &model, &head, body).await.map_err(|refusal| (refusal, Body::empty())),
        },
    };
    oip.metrics.oip_seconds.with_label_values(&["total"]).observe(started.elapsed().as_secs_f64());
    let outcome = match &answered {
        Ok(_) => "answered",
        Err((OipError::Failed { .. }, _)) => "failed",
        Err((refusal, _)) if refusal.passes() => "busy",
        Err(_) => "refused",
    };
    oip.metrics.oip_requests_total.with_label_values(&[outcome]).inc();
    match answered {
        Ok(response) => response,
        Err((refusal, unread)) => {
            // A client that is still sending when the connection closes never sees the answer.
            drain(unread).await;
            refuse(&refusal)
        }
    }
}

/// What a request's head says of its body.
struct Head {
    /// At most.
    bytes: usize,
    json_length: Option<usize>,
    packed: Option<Coding>,
    /// How the answer is to be packed.
    packing: Option<Coding>,
}

impl Head {
    fn read(headers: &HeaderMap) -> Result<Self, OipError> {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let number = |name: &HeaderName| {
            let unreadable = |_| OipError::Unreadable { reason: format!("{name} is no number") };
            text(name).map(|text| text.trim().parse::<u64>().map_err(unreadable)).transpose()
        };
        let declared = number(&header::CONTENT_LENGTH)?.unwrap_or(MAX_BYTES as u64);
        let bytes = usize::try_from(declared).ok().filter(|bytes| *bytes <= MAX_BYTES);
        let json_length = number(&JSON_LENGTH)?.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let packed = text(&header::CONTENT_ENCODING).map(Coding::of_content).transpose()?.flatten();
        Ok(Self {
            // What is packed may become as large as anything may be.
            bytes: bytes.map(|bytes| if packed.is_some() { MAX_BYTES } else { bytes }).ok_or(TOO_LARGE)?,
            json_length,
            packed,
            packing: text(&header::ACCEPT_ENCODING).and_then(Coding::asked_for),
        })
    }
}

const TOO_LARGE: OipError = OipError::TooLarge { max_bytes: MAX_BYTES };

/// A request whose tensors are what the model takes.
struct Prepared {
    id: Option<String>,
    inputs: Vec<Tensor>,
    wanted: Wanted,
}

async fn answer(oip: &Oip, model: &Loaded, head: &Head, body: Body) -> Result<Response, OipError> {
    let began = Instant::now();
    let mut note = {
        let mut before = began;
        move |stage: &str| {
            let now = Instant::now();
            oip.metrics.oip_seconds.with_label_values(&[stage]).observe((now - before).as_secs_f64());
            before = now;
        }
    };
    let mut body = read(body).await?;
    note("read");
    if let Some(coding) = head.packed {
        body = elsewhere(move || coding.unpack(&body, MAX_BYTES)).await?;
    }
    let json_length = head.json_length;
    let is_large = json_length.unwrap_or(body.len()) > INLINE_JSON;
    let reading = {
        let model = model.clone();
        move || prepare(&body, json_length, &model)
    };
    let Prepared { id, inputs, wanted } = if is_large { elsewhere(reading).await? } else { reading()? };
    note("parse");
    let completed = oip.runner.run(model, inputs).await?;
    note("run");
    for (stage, took) in [("queue", completed.queued), ("infer", completed.ran)] {
        oip.metrics.oip_seconds.with_label_values(&[stage]).observe(took.as_secs_f64());
    }
    let (manifest, packing) = (Arc::clone(model.manifest()), head.packing);
    let is_large = packing.is_some() || json_bytes(&completed.outputs, &wanted) > INLINE_JSON;
    let writing = move || {
        let title = Title { model: &manifest.name, version: manifest.version, id: id.as_deref() };
        Ok(respond(Answer::new(&title, completed.outputs, &wanted), packing))
    };
    let response = if is_large { elsewhere(writing).await? } else { writing()? };
    note("answer");
    Ok(response)
}

/// Does what takes long away from the threads that serve everybody.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OipError> + Send + 'static,
) -> Result<T, OipError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(OipError::Failed { reason: "a fault of vigie's own".to_owned() }))
}

fn prepare(body: &[u8], json_length: Option<usize>, model: &Loaded) -> Result<Prepared, OipError> {
    let request = parse(body, json_length)?;
    tensors::check_outputs(&request.wanted, &model.ports)?;
    let inputs = tensors::read(&request, &model.ports, model.max_elements())?;
    Ok(Prepared { inputs, id: request.id, wanted: request.wanted })
}

/// Bytes of the outputs that are wanted as JSON, about.
fn json_bytes(outputs: &Outputs, wanted: &Wanted) -> usize {
    let is_json = |name: &str| match wanted {
        Wanted::All { is_binary } => !is_binary,
        Wanted::These(wanted) => wanted.iter().any(|(wanted, is_binary)| wanted == name && !is_binary),
    };
    let chosen = outputs.0.iter().filter(|(name, _)| is_json(name));
    chosen.map(|(_, tensor)| tensor.data.len() * NUMBER_BYTES).sum()
}

/// A tensor's buffer as the body that it becomes.
struct Lent(TensorData);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn respond(answer: Answer, packing: Option<Coding>) -> Response {
    let Answer { json, binary } = answer;
    let json_length = json.len();
    let is_binary = binary.is_some();
    let tensors = binary.unwrap_or_default().into_iter().map(|data| Bytes::from_owner(Lent(data)));
    let mut pieces: Vec<Bytes> = std::iter::once(Bytes::from(json)).chain(tensors).collect();
    if let Some(coding) = packing {
        pieces = vec![coding.pack(&pieces).into()];
    }
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let frames = pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
    let mut response = Body::new(StreamBody::new(futures_util::stream::iter(frames))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let content_type = if is_binary { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_binary {
        headers.insert(JSON_LENGTH, HeaderValue::from(json_length));
    }
    if let Some(coding) = packing {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    response
}

async fn read(body: Body) -> Result<Bytes, OipError> {
    let reading = tokio::time::timeout(READ_LIMIT, to_bytes(body, MAX_BYTES)).await;
    reading.map_err(|_| OipError::TimedOut)?.map_err(|error| {
        let mut causes =
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        match causes.any(|cause| cause.is::<LengthLimitError>()) {
            true => TOO_LARGE,
            false => OipError::Unreadable { reason: "its body broke off".to_owned() },
        }
    })
}

/// Reads a refused body to its end, or to where no honest one goes on.
async fn drain(body: Body) {
    let reading = async {
        let (mut left, mut stream) = (MAX_BYTES, body.into_data_stream());
        while let Some(Ok(piece)) = stream.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_LIMIT, reading).await;
}

fn refuse(refusal: &OipError) -> Response {
    if let OipError::Failed { reason } = refusal {
        tracing::debug!(reason, "an inference request failed");
    }
    let status = StatusCode::from_u16(refusal.status()).expect("the protocol's statuses are HTTP's");
    let mut response = json_body(status, refusal.to_json());
    if refusal.passes() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}

fn plain_error(status: StatusCode, code: &str, message: &str) -> Response {
    json_body(status, error::body(code, message))
}

fn json_body(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
