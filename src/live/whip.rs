//! The part of the worker's control API for publishers (WHIP) and viewers (WHEP).
//!
//! The front has checked that bodies are short and tokens genuine; what an offer says is looked at here.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post};
use axum::{Json, Router};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::ice::refuse_offer;
use super::sdp::{self, Flow};
use super::session::Command;
use super::settings::{Settings, SettingsPatch};
use super::viewer;
use super::worker::{AdmissionError, Worker};
use crate::cluster::protocol::MAX_MESSAGE_BYTES;
use crate::cluster::remote::is_authorised;
use crate::cluster::token::ClusterToken;
use crate::cluster::whip::{
    IceChange, IceRestarted, Publish, Published, WHEP_PATH, WHIP_PATH, Watch, Watching, WhipFault,
    WhipRefusal,
};
use crate::ids::SessionId;

/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u32 = 3;
/// How long a goodbye waits for what it ends to be freed.
const FAREWELL: Duration = Duration::from_secs(3);
/// Bytes of a request: an SDP, escaped, with what goes around it.
const MAX_REQUEST_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// The routes; every request must carry `token` as its bearer token.
pub fn router(worker: Arc<Worker>, token: ClusterToken) -> Router {
    let authorise = move |request: Request, next: Next| {
        let is_authorised = is_authorised(request.headers(), &token);
        async move {
            if is_authorised { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
        }
    };
    Router::new()
        .route(WHIP_PATH, post(publish))
        .route(&format!("{WHIP_PATH}/{{token}}"), patch(change_publisher).delete(end_publisher))
        .route(&format!("{WHEP_PATH}/{{token}}"), post(watch))
        .route(&format!("{WHEP_PATH}/{{token}}/{{viewer}}"), patch(change_viewer).delete(end_viewer))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(middleware::from_fn(authorise))
        .with_state(worker)
}

impl IntoResponse for WhipFault {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).expect("the protocol's statuses are HTTP's");
        let passes = self.code.passes();
        let mut response = (status, Json(self)).into_response();
        if passes {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}

impl From<AdmissionError> for WhipFault {
    fn from(error: AdmissionError) -> Self {
        let code = match error {
            AdmissionError::Full { .. } | AdmissionError::NoHeadroom | AdmissionError::Lost => {
                WhipRefusal::Busy
            }
            AdmissionError::Draining => WhipRefusal::Draining,
            AdmissionError::UnknownSession => WhipRefusal::UnknownSession,
        };
        Self::new(code, error)
    }
}

fn gone() -> WhipFault {
    AdmissionError::UnknownSession.into()
}

async fn publish(
    State(worker): State<Arc<Worker>>,
    Json(publish): Json<Publish>,
) -> Result<Json<Published>, WhipFault> {
    sdp::check_offer(&publish.sdp, Flow::Send).map_err(|error| refuse_offer(&error))?;
    let usual = Settings::of(worker.resources().models.is_told_of_text());
    let settings = usual.patched(&SettingsPatch::from(&publish.wishes));
    let settings = settings.map_err(|error| WhipFault::new(WhipRefusal::InvalidOption, error))?;
    let (id, commands) = worker.admit(publish.terms)?.publish(settings);
    let answer = ask(&commands, |reply| Command::Publish(publish.sdp, reply)).await?;
    let key = worker.session_key();
    let (resume, watch) = (key.resume_token(id.clone()), key.watch_token(id));
    Ok(Json(Published { resume: resume.to_string(), watch: watch.to_string(), answer }))
}

async fn change_publisher(
    State(worker): State<Arc<Worker>>,
    Path(token): Path<String>,
    Json(change): Json<IceChange>,
) -> Result<Response, WhipFault> {
    let entry = worker.find(&owned(&worker, &token)?)?;
    let changed = ask(&entry.commands, |reply| Command::ChangeIce(change, reply)).await?;
    Ok(changed_response(changed))
}

async fn end_publisher(
    State(worker): State<Arc<Worker>>,
    Path(token): Path<String>,
) -> Result<StatusCode, WhipFault> {
    let commands = worker.find(&owned(&worker, &token)?)?.commands;
    commands.send(Command::Close("its publisher ended it")).await.map_err(|_| gone())?;
    let _ = timeout(FAREWELL, commands.closed()).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn watch(
    State(worker): State<Arc<Worker>>,
    Path(token): Path<String>,
    Json(watch): Json<Watch>,
) -> Result<Json<Watching>, WhipFault> {
    let session = watched(&worker, &token)?;
    let audience = worker.find(&session)?.audience;
    let admitted = worker.viewers.admit(worker.resources(), session, audience, &watch.sdp).await;
    admitted.map(|(viewer, answer)| Json(Watching { viewer, answer }))
}

async fn change_viewer(
    State(worker): State<Arc<Worker>>,
    Path((token, viewer)): Path<(String, String)>,
    Json(change): Json<IceChange>,
) -> Result<Response, WhipFault> {
    let requests = worker.viewers.find(&watched(&worker, &token)?, &viewer)?;
    let changed = ask(&requests, |reply| viewer::Request::ChangeIce(change, reply)).await?;
    Ok(changed_response(changed))
}

async fn end_viewer(
    State(worker): State<Arc<Worker>>,
    Path((token, viewer)): Path<(String, String)>,
) -> Result<StatusCode, WhipFault> {
    let requests = worker.viewers.find(&watched(&worker, &token)?, &viewer)?;
    requests.send(viewer::Request::HangUp).await.map_err(|_| gone())?;
    let _ = timeout(FAREWELL, requests.closed()).await;
    Ok(StatusCode::NO_CONTENT)
}

fn owned(worker: &Worker, token: &str) -> Result<SessionId, WhipFault> {
    worker.session_key().read_resume_token(token).map(|token| token.session).map_err(|_| gone())
}

fn watched(worker: &Worker, token: &str) -> Result<SessionId, WhipFault> {
    worker.session_key().read_watch_token(token).map(|token| token.session).map_err(|_| gone())
}

/// Sends a request to a task and waits for its answer; one that ends meanwhile is gone.
async fn ask<R, T>(
    requests: &mpsc::Sender<R>,
    request: impl FnOnce(oneshot::Sender<Result<T, WhipFault>>) -> R,
) -> Result<T, WhipFault> {
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn changed_response(changed: Option<IceRestarted>) -> Response {
    changed
        .map_or_else(|| StatusCode::NO_CONTENT.into_response(), |restarted| Json(restarted).into_response())
}
