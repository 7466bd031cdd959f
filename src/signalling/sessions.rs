//! The signalling WebSocket: carries a page's messages to a worker and back.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message as WorkerMessage;

use super::error::ApiError;
use super::router::Front;
use crate::cluster::protocol::{ClientMessage, MAX_MESSAGE_BYTES, ServerMessage};
use crate::cluster::remote::{RemoteError, SessionSocket, peer_address};
use crate::ids::ResumeToken;

/// A page that answers no ping within two of these has gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Unreadable messages that a page may send before its socket is closed.
const MAX_FAULTS: u32 = 10;

#[derive(Deserialize)]
pub struct SessionQuery {
    resume: Option<String>,
}

/// `GET /api/session`: opens a session, or with `?resume=` returns to one.
pub async fn open(
    State(front): State<Front>,
    Query(query): Query<SessionQuery>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    check_origin(&front, &headers)?;
    let resume = query.resume.as_deref().map(|text| front.session_key.read_resume_token(text)).transpose();
    let resume = resume.map_err(|_| {
        front.metrics.refused("invalid_resume_token");
        ApiError::InvalidResumeToken
    })?;
    let limited = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    Ok(limited.on_upgrade(move |socket| serve(front, resume, socket)))
}

/// Browsers let any page open a WebSocket or send a form anywhere: only the page's own host, and those
/// allowed, may.
pub(super) fn check_origin(front: &Front, headers: &HeaderMap) -> Result<(), ApiError> {
    if allows_origin(front, headers) {
        return Ok(());
    }
    front.metrics.refused("origin");
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    Err(ApiError::OriginRefused { origin: origin.chars().take(100).collect() })
}

pub(super) fn allows_origin(front: &Front, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority = origin.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    let own = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host));
    own || front.allowed_origins.iter().any(|allowed| allowed == origin)
}

async fn serve(front: Front, resume: Option<ResumeToken>, mut page: WebSocket) {
    let _open = front.sockets.enter();
    let reached = match &resume {
        None => front.workers.open_session().await,
        Some(token) => front.workers.resume(token).await,
    };
    match reached {
        Ok(worker) => pump(&front, page, worker).await,
        Err(error) => {
            let message = refusal(&error);
            if let ServerMessage::Error { code, .. } = &message {
                front.metrics.refused(code);
            }
            tracing::info!(%error, "session refused");
            let _ = page.send(Message::Text(message.to_json().into())).await;
            let _ = page.send(Message::Close(None)).await;
        }
    }
}

fn refusal(error: &RemoteError) -> ServerMessage {
    match error {
        RemoteError::Full { retry_after_s, .. } => ServerMessage::Error {
            code: "busy".into(),
            message: "every place is taken".into(),
            retry_after_s: Some(*retry_after_s),
        },
        RemoteError::UnknownSession => ServerMessage::error("unknown_session", "that session has ended"),
        RemoteError::NoWorker
        | RemoteError::Unreachable { .. }
        | RemoteError::Silent { .. }
        | RemoteError::WrongToken { .. }
        | RemoteError::Refused { .. } => ServerMessage::Error {
            code: "no_worker".into(),
            message: "no worker can be reached".into(),
            retry_after_s: Some(3),
        },
    }
}

/// Carries messages both ways until either side has gone. Only messages that can be read pass.
async fn pump(front: &Front, page: WebSocket, worker: SessionSocket) {
    let address = peer_address(&worker);
    let avoid_worker = || address.into_iter().for_each(|address| front.workers.avoid(address));
    let (mut to_page, mut from_page) = page.split();
    let (mut to_worker, mut from_worker) = worker.split();
    let mut ping = tokio::time::interval(PING_INTERVAL);
    let mut answered = true;
    let mut faults = 0;
    loop {
        tokio::select! {
            received = from_page.next() => {
                answered = true;
                let fault = match received {
                    Some(Ok(Message::Text(text))) => match serde_json::from_str::<ClientMessage>(&text) {
                        Ok(_) => {
                            // That a worker is lost is heard below.
                            let _ = to_worker.send(WorkerMessage::text(text.as_str())).await;
                            continue;
                        }
                        Err(error) => error.to_string(),
                    },
                    Some(Ok(Message::Binary(_))) => "expected text".to_owned(),
                    Some(Ok(Message::Close(_))) | None => break,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => {
                        // Nothing more can be read from this socket.
                        faults = MAX_FAULTS;
                        error.to_string()
                    }
                };
                faults += 1;
                let answer = ServerMessage::error("message_unreadable", fault).to_json();
                if to_page.send(Message::Text(answer.into())).await.is_err() || faults > MAX_FAULTS { break }
            }
            received = from_worker.next() => match received {
                Some(Ok(WorkerMessage::Text(text))) => {
                    if matches!(serde_json::from_str(&text), Ok(ServerMessage::Migrate)) {
                        // The page opens its next session at once: not there again.
                        avoid_worker();
                    }
                    if to_page.send(Message::Text(text.as_str().into())).await.is_err() { break }
                }
                Some(Ok(WorkerMessage::Close(_))) | None => break,
                // A worker that ends a session says so: this one was killed, or cannot be reached any more.
                Some(Err(error)) => {
                    tracing::info!(%error, "a worker was lost under a session");
                    avoid_worker();
                    let lost = ServerMessage::error("worker_lost", "the worker of this session is gone").to_json();
                    let _ = to_page.send(Message::Text(lost.into())).await;
                    break;
                }
                Some(Ok(_)) => {}
            },
            _ = ping.tick() => {
                if !answered || to_page.send(Message::Ping(Default::default())).await.is_err() { break }
                answered = false;
            }
        }
    }
    let _ = to_page.close().await;
    let _ = to_worker.close().await;
}
