//! What WHIP and WHEP share at the front: bodies, headers, and the requests that both have.
//!
//! Nothing is kept here: the path of a request names the worker, so any front serves any of them.

use std::time::{Duration, SystemTime};

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::ice::Client;
use super::limits;
use super::router::Front;
use crate::cluster::protocol::MAX_MESSAGE_BYTES;
use crate::cluster::remote::{Remote, RemoteError};
use crate::cluster::whip::{Answer, IceChange, Party, WhipError, WhipFault, WhipRefusal};
use crate::ids::SessionId;

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
/// How long a client may take to send a body that fits into a few packets.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Seconds after which a client may try again.
pub(super) const RETRY_AFTER_S: u32 = 3;

/// What clients of other origins may send and read.
const METHODS: &str = "OPTIONS, POST, PATCH, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type, if-match";
const RESPONSE_HEADERS: &str = "location, link, etag, accept-patch, retry-after";

/// Lets the scripts of allowed origins read what WHIP and WHEP answer, refusals included (Fetch standard, CORS). Who may
/// ask at all is checked elsewhere.
pub(super) async fn cross_origin(State(front): State<Front>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_ours = path.starts_with("/whip") || path.starts_with("/whep/");
    let origin = request.headers().get(header::ORIGIN).filter(|_| is_ours).cloned();
    let mut response = next.run(request).await;
    let is_allowed = |origin: &HeaderValue| front.allowed_origins.iter().any(|allowed| origin == allowed);
    if let Some(origin) = origin.filter(is_allowed) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    }
    response
}

/// `OPTIONS`: which methods there are (RFC 9725 §4.2), for CORS preflights as for others.
pub(super) async fn options() -> impl IntoResponse {
    [
        (HeaderName::from_static("accept-post"), SDP),
        (HeaderName::from_static("accept-patch"), FRAGMENT),
        (header::ALLOW, METHODS),
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ]
}

/// `GET`: there is nothing to see, but something is there (RFC 9725 §4.1).
pub(super) async fn nothing_to_see() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The offer in the body of a POST.
pub(super) async fn read_offer(request: Request) -> Result<String, ApiError> {
    read_body(request, SDP).await
}

async fn read_body(request: Request, expected: &'static str) -> Result<String, ApiError> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !given.eq_ignore_ascii_case(expected) {
        return Err(ApiError::UnsupportedMediaType { expected });
    }
    let too_large = ApiError::BodyTooLarge { max_bytes: MAX_MESSAGE_BYTES };
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: usize| bytes > MAX_MESSAGE_BYTES) {
        // Read to its end, or the client would meet a closed connection before it meets the answer.
        limits::drain(request.into_body()).await;
        return Err(too_large);
    }
    let reading = tokio::time::timeout(BODY_LIMIT, to_bytes(request.into_body(), MAX_MESSAGE_BYTES)).await;
    let bytes = match reading {
        Err(_) => return Err(ApiError::BodyTimedOut),
        Ok(Err(error)) if is_too_long(&error) => return Err(too_large),
        Ok(Err(_)) => return Err(ApiError::BodyUnreadable { reason: "the body broke off".into() }),
        Ok(Ok(bytes)) => bytes,
    };
    let text = String::from_utf8(bytes.into());
    text.map_err(|_| ApiError::BodyUnreadable { reason: "it is not text".into() })
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The answer to an offer, with the servers that help the client to reach the worker.
pub(super) fn created(
    front: &Front,
    client: Client<'_>,
    location: &str,
    answer: Answer,
) -> Result<Response, ApiError> {
    let mut response = (StatusCode::CREATED, answer.sdp).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("accept-patch", HeaderValue::from_static(FRAGMENT));
    headers.insert(header::LOCATION, text(location)?);
    headers.insert(header::ETAG, text(&format!("\"{}\"", answer.etag))?);
    add_links(front, client, headers)?;
    Ok(response)
}

pub(super) fn add_links(front: &Front, client: Client<'_>, headers: &mut HeaderMap) -> Result<(), ApiError> {
    for link in front.ice.links(client, SystemTime::now()) {
        headers.append(header::LINK, text(&link)?);
    }
    Ok(())
}

/// What a worker or the configuration says, as a header.
pub(super) fn text(value: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(value).map_err(|_| {
        let message = "the answer cannot be written as headers".to_owned();
        ApiError::WhipRefused(WhipFault { code: WhipRefusal::Internal, message })
    })
}

/// `PATCH` of a publisher's or a viewer's ICE session.
pub(super) async fn change_ice(front: &Front, party: &Party, request: Request) -> Result<Response, ApiError> {
    let if_match = request.headers().get(header::IF_MATCH).map(|value| value.to_str().unwrap_or_default());
    let if_match = if_match.map(str::to_owned);
    let fragment = read_body(request, FRAGMENT).await?;
    let if_match = if_match.ok_or(ApiError::PreconditionRequired)?;
    let change = IceChange { fragment, if_match };
    let worker = home_of(front, party.session()).await?;
    let Some(restarted) = served(worker.change_ice(party, &change).await)? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(FRAGMENT)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::ETAG, text(&format!("\"{}\"", restarted.etag))?),
    ];
    Ok((headers, restarted.fragment).into_response())
}

/// `DELETE` of a publisher's session or a viewer.
pub(super) async fn hang_up(front: &Front, party: &Party) -> Result<StatusCode, ApiError> {
    let worker = home_of(front, party.session()).await?;
    served(worker.hang_up(party).await)?;
    Ok(StatusCode::OK)
}

pub(super) async fn home_of(front: &Front, session: &SessionId) -> Result<Remote, ApiError> {
    let home = front.workers.home_of(session).await;
    served(home.map_err(WhipError::from))
}

/// A worker's word, or why there is none.
pub(super) fn served<T>(outcome: Result<T, WhipError>) -> Result<T, ApiError> {
    outcome.map_err(|error| match error {
        WhipError::Refused(fault) => ApiError::WhipRefused(fault),
        WhipError::Remote(RemoteError::UnknownSession) => ApiError::UnknownSession,
        WhipError::Remote(RemoteError::Full { retry_after_s }) => ApiError::Full { retry_after_s },
        WhipError::Remote(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a worker was not reached");
            ApiError::NoWorker { retry_after_s: RETRY_AFTER_S }
        }
    })
}
