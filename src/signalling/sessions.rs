//! The signalling WebSocket: carries a page's messages to a worker and back.

use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as WorkerMessage;

use super::auth::{Grant, SUBPROTOCOL};
use super::error::ApiError;
use super::limits::{self, ClientAddress};
use super::router::Front;
use crate::cluster::protocol::{
    Attributes, ClientMessage, InvalidWord, MAX_MESSAGE_BYTES, ServerMessage, SessionTerms,
};
use crate::cluster::remote::{RemoteError, SessionSocket, peer_address};
use crate::ids::ResumeToken;

/// A page that answers no ping within two of these has gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Unreadable messages that a page may send before its socket is closed.
const MAX_FAULTS: u32 = 10;

/// Seconds after which a page that has too many sockets may try again.
const RETRY_AFTER_S: u32 = 3;

#[derive(Deserialize)]
pub struct SessionQuery {
    resume: Option<String>,
    /// `cohort:b,plan:pro`; those of the token count first.
    attributes: Option<String>,
    /// The page's own word for its sessions, unless its token has one.
    sticky: Option<String>,
}

/// The terms of a token with what its page adds, which stands back behind the token's own.
///
/// # Errors
/// [`ApiError::InvalidOption`] for what is no word.
pub fn terms_with(
    terms: SessionTerms,
    attributes: Option<&str>,
    sticky: Option<&str>,
) -> Result<SessionTerms, ApiError> {
    let refused = |error: InvalidWord| ApiError::InvalidOption { reason: error.to_string() };
    let attributes = Attributes::from_text(attributes.unwrap_or_default()).map_err(refused)?;
    let sticky = sticky.map(str::parse).transpose().map_err(refused)?;
    Ok(SessionTerms { attributes: terms.attributes.or(attributes), sticky: terms.sticky.or(sticky), ..terms })
}

/// `GET /api/session`: opens a session, or with `?resume=` returns to one.
pub async fn open(
    State(front): State<Front>,
    grant: Grant,
    Extension(ClientAddress(client)): Extension<ClientAddress>,
    query: Result<Query<SessionQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    let resume = query.resume.as_deref().map(|text| front.session_key.read_resume_token(text)).transpose();
    let resume = resume.map_err(|_| ApiError::InvalidResumeToken)?;
    let terms = terms_with(grant.terms, query.attributes.as_deref(), query.sticky.as_deref())?;
    let upgrade = upgrade.map_err(|error| ApiError::UpgradeExpected { reason: error.body_text() })?;
    let place = front.limits.sockets.enter(client);
    let place = place.ok_or(ApiError::TooManySockets { retry_after_s: RETRY_AFTER_S })?;
    let limited = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    Ok(limited.protocols([SUBPROTOCOL]).on_upgrade(move |socket| async move {
        serve(front, terms, resume, socket).await;
        drop(place);
    }))
}

async fn serve(front: Front, terms: SessionTerms, resume: Option<ResumeToken>, mut page: WebSocket) {
    let _open = front.sockets.enter();
    let reached = match &resume {
        None => front.workers.open_session(&terms).await,
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

/// A worker's first message, on its way to the page: a welcome gets the servers for its session, a refusal is counted.
fn first_word(front: &Front, text: &str) -> String {
    let Ok(Value::Object(mut message)) = serde_json::from_str(text) else { return text.to_owned() };
    let field = |name| message.get(name).and_then(Value::as_str);
    if let Some(Ok(session)) = field("session").map(|id| front.session_key.read_session(id)) {
        let servers = front.ice.servers(Some(&session), SystemTime::now());
        message.insert("ice_servers".into(), json!(servers.ice_servers));
    } else if let Some(code @ ("busy" | "draining" | "unknown_session")) = field("code") {
        front.metrics.refused(code);
    }
    Value::Object(message).to_string()
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
    let rate = limits::message_rate();
    let mut is_welcomed = false;
    loop {
        tokio::select! {
            received = from_page.next() => {
                answered = true;
                if rate.check().is_err() {
                    front.metrics.refused("too_many_messages");
                    let answer = ServerMessage::error("too_many_messages", "slow down").to_json();
                    let _ = to_page.send(Message::Text(answer.into())).await;
                    break;
                }
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
                front.metrics.refused("message_unreadable");
                let answer = ServerMessage::error("message_unreadable", fault).to_json();
                if to_page.send(Message::Text(answer.into())).await.is_err() || faults > MAX_FAULTS { break }
            }
            received = from_worker.next() => match received {
                Some(Ok(WorkerMessage::Text(text))) => {
                    if matches!(serde_json::from_str(&text), Ok(ServerMessage::Migrate)) {
                        // The page opens its next session at once: not there again.
                        avoid_worker();
                    }
                    let text = if is_welcomed { text.as_str().into() } else { first_word(front, text.as_str()) };
                    is_welcomed = true;
                    if to_page.send(Message::Text(text.into())).await.is_err() { break }
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
