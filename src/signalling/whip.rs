//! WHIP (RFC 9725): OBS, GStreamer, FFmpeg and the like publish their video by a single POST.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;

use super::auth::Grant;
use super::error::ApiError;
use super::exchange::{
    RETRY_AFTER_S, change_ice, created, hang_up, nothing_to_see, options, read_offer, served, text,
};
use super::ice::Client;
use super::predict::read_tasks;
use super::router::Front;
use super::sessions::terms_with;
use crate::cluster::protocol::TaskList;
use crate::cluster::whip::{Party, Publish, Wishes};

/// What opens a session; wants a token as every session does.
pub(super) fn endpoint() -> Router<Front> {
    Router::new().route("/whip", post(publish))
}

/// What needs no token: whoever has a session's address is its owner.
pub(super) fn sessions() -> Router<Front> {
    Router::new()
        .route("/whip", get(nothing_to_see).options(options))
        .route("/whip/{token}", get(nothing_to_see).patch(patch).delete(end).options(options))
}

/// The settings of a publisher's session, which has no channel to change them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishQuery {
    /// Comma-separated: faces, gender, objects. Without it, all.
    tasks: Option<String>,
    /// 0.05 to 0.95.
    threshold: Option<f32>,
    /// Recognised frames a second at the most, 0.1 to 120.
    max_rate: Option<f32>,
    /// As a page's session has them.
    attributes: Option<String>,
    sticky: Option<String>,
}

/// `POST /whip`
async fn publish(
    State(front): State<Front>,
    grant: Grant,
    query: Result<Query<PublishQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    let wishes = read_wishes(&query)?;
    check_tasks(&grant, wishes.tasks)?;
    let terms = terms_with(grant.terms, query.attributes.as_deref(), query.sticky.as_deref())?;
    let sdp = read_offer(request).await?;
    let publish = Publish { sdp, wishes, terms };
    let published = served(front.workers.publish(&publish).await)?;
    let token = front.session_key.read_resume_token(&published.resume);
    let session = token.map_err(|_| ApiError::NoWorker { retry_after_s: RETRY_AFTER_S })?.session;
    let location = format!("/whip/{}", published.resume);
    let mut response = created(&front, Client::Publisher(&session), &location, published.answer)?;
    // Where others can watch.
    response.headers_mut().insert("vigie-watch", text(&format!("/whep/{}", published.watch))?);
    Ok(response)
}

fn read_wishes(query: &PublishQuery) -> Result<Wishes, ApiError> {
    // The worker knows the ranges, but is told in JSON, which has no such numbers.
    if [query.threshold, query.max_rate].into_iter().flatten().any(|number| !number.is_finite()) {
        return Err(ApiError::InvalidOption { reason: "threshold and max_rate are numbers".into() });
    }
    let tasks = query.tasks.as_deref().map(read_tasks).transpose()?;
    Ok(Wishes { tasks, threshold: query.threshold, max_rate: query.max_rate })
}

/// What is named must be allowed; of the rest, what the token allows is done.
fn check_tasks(grant: &Grant, named: Option<TaskList>) -> Result<(), ApiError> {
    let (Some(allowed), Some(named)) = (grant.terms.tasks, named) else { return Ok(()) };
    for (task, is_named, is_allowed) in [
        ("faces", named.faces, allowed.faces),
        ("gender", named.gender, allowed.gender),
        ("objects", named.objects, allowed.objects),
        ("text", named.text, allowed.text),
    ] {
        if is_named && !is_allowed {
            return Err(ApiError::TaskNotAllowed { task });
        }
    }
    Ok(())
}

/// `PATCH /whip/{token}`: trickle ICE and ICE restarts.
async fn patch(
    State(front): State<Front>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    change_ice(&front, &read_publisher(&front, &token)?, request).await
}

/// `DELETE /whip/{token}`
async fn end(State(front): State<Front>, Path(token): Path<String>) -> Result<StatusCode, ApiError> {
    hang_up(&front, &read_publisher(&front, &token)?).await
}

fn read_publisher(front: &Front, token: &str) -> Result<Party, ApiError> {
    let token = front.session_key.read_resume_token(token).map_err(|_| ApiError::UnknownSession);
    token.map(Party::Publisher)
}
