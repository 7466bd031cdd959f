//! The worker's control API, which only fronts of its own cluster may call, and its probes, which anybody
//! may.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;

use super::session::{self, Signalling};
use super::worker::{Place, Worker};
use crate::cluster::figures::FIGURES_PATH;
use crate::cluster::protocol::{ClientMessage, MAX_MESSAGE_BYTES, ServerMessage, TermsQuery};
use crate::cluster::remote::{SESSION_PATH, STATUS_PATH, is_authorised};
use crate::cluster::token::ClusterToken;
use crate::ids::ResumeToken;

/// Seconds after which a refused front may try again.
const RETRY_AFTER_S: &str = "3";

#[derive(Clone)]
struct Control {
    worker: Arc<Worker>,
    token: ClusterToken,
}

/// The routes; what is under `/control` wants `token` as its bearer token.
pub fn router(worker: Arc<Worker>, token: ClusterToken) -> Router {
    Router::new()
        .route(SESSION_PATH, get(open_session))
        .route(STATUS_PATH, get(status))
        .route(FIGURES_PATH, get(figures))
        .route("/health", get(live))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Control { worker, token })
}

/// What cannot recognise any longer is to be started anew.
async fn live(State(control): State<Control>) -> Response {
    match control.worker.is_lost() {
        false => "ok\n".into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "no model runs any longer\n").into_response(),
    }
}

/// New sessions would be taken here.
async fn ready(State(control): State<Control>) -> Response {
    match control.worker.admits() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(control): State<Control>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, control.worker.metrics().render()).into_response()
}

async fn status(State(control): State<Control>, headers: HeaderMap) -> Response {
    if !is_authorised(&headers, &control.token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    Json(control.worker.status()).into_response()
}

async fn figures(State(control): State<Control>, headers: HeaderMap) -> Response {
    if !is_authorised(&headers, &control.token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    Json(control.worker.figures()).into_response()
}

#[derive(Deserialize)]
struct SessionQuery {
    resume: Option<String>,
}

async fn open_session(
    State(control): State<Control>,
    Query(query): Query<SessionQuery>,
    Query(terms): Query<TermsQuery>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !is_authorised(&headers, &control.token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let key = control.worker.session_key();
    let resume = match query.resume.as_deref().map(|text| key.read_resume_token(text)).transpose() {
        Ok(resume) => resume,
        Err(_) => return StatusCode::NOT_FOUND.into_response(),
    };
    let terms = match terms.terms() {
        Ok(terms) => terms,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let visitor = match resume {
        Some(token) => Visitor::Returning(token),
        // The place is kept from here on: a front that has been let in need not look for another worker.
        None => match control.worker.admit(terms) {
            Ok(place) => Visitor::New(place),
            Err(refusal) => {
                let retry = [(header::RETRY_AFTER, RETRY_AFTER_S)];
                return (StatusCode::SERVICE_UNAVAILABLE, retry, refusal.to_string()).into_response();
            }
        },
    };
    let limited = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    limited.on_upgrade(move |socket| serve(control.worker, visitor, socket))
}

/// Who is at the other end of a new socket.
enum Visitor {
    New(Place),
    /// The page of a session that may live here.
    Returning(ResumeToken),
}

async fn serve(worker: Arc<Worker>, visitor: Visitor, mut socket: WebSocket) {
    let _open = worker.sockets.enter();
    let (attachment, signalling) = session::signalling();
    let admitted = match visitor {
        Visitor::New(place) => {
            place.open(attachment);
            Ok(())
        }
        Visitor::Returning(token) => worker.resume(&token, attachment).await,
    };
    match admitted {
        Ok(()) => pump(socket, signalling).await,
        Err(refusal) => {
            let message = ServerMessage::error("unknown_session", refusal.to_string()).to_json();
            let _ = socket.send(Message::Text(message.into())).await;
        }
    }
}

/// Carries messages between the front and the session until either has gone.
async fn pump(socket: WebSocket, mut signalling: Signalling) {
    let (mut to_front, mut from_front) = socket.split();
    loop {
        tokio::select! {
            received = from_front.next() => match received {
                Some(Ok(Message::Text(text))) => match serde_json::from_str::<ClientMessage>(&text) {
                    Ok(message) => if signalling.incoming.send(message).await.is_err() { break },
                    // The front has checked it already; a message of a newer front is skipped.
                    Err(error) => tracing::debug!(%error, "an unreadable message from a front"),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
            message = signalling.outgoing.recv() => {
                let Some(message) = message else { break };
                if to_front.send(Message::Text(message.to_json().into())).await.is_err() { break }
            }
        }
    }
    // What the session said last (why it ended) still goes out.
    while let Ok(message) = signalling.outgoing.try_recv() {
        if to_front.send(Message::Text(message.to_json().into())).await.is_err() {
            break;
        }
    }
    let _ = to_front.close().await;
}
