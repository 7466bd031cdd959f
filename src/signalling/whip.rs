//! WHIP (RFC 9725): OBS, GStreamer, FFmpeg and the like publish their video by a single POST.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;

use super::error::ApiError;
use super::exchange::{
    authorise, change_ice, counted, created, cross_origin, hang_up, nothing_to_see, options, other_method,
    read_offer, served, text,
};
use super::predict::{Tasks, read_tasks};
use super::router::Front;
use crate::cluster::whip::{Party, Publish, WishedTasks, Wishes};

pub(super) fn router(front: &Front) -> Router<Front> {
    Router::new()
        .route("/whip", post(publish).get(nothing_to_see).options(options).fallback(other_method))
        .route(
            "/whip/{token}",
            get(nothing_to_see).patch(patch).delete(end).options(options).fallback(other_method),
        )
        .layer(middleware::from_fn_with_state(front.clone(), cross_origin))
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
}

/// `POST /whip`
async fn publish(
    State(front): State<Front>,
    query: Result<Query<PublishQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    authorise(&front, &headers)?;
    let wishes = counted(&front, read_wishes(query))?;
    let sdp = read_offer(&front, request).await?;
    let published = served(&front, front.workers.publish(&Publish { sdp, wishes }).await)?;
    let mut response = created(&front, &format!("/whip/{}", published.resume), published.answer)?;
    // Where others can watch.
    response.headers_mut().insert("vigie-watch", text(&format!("/whep/{}", published.watch))?);
    Ok(response)
}

fn read_wishes(query: Result<Query<PublishQuery>, QueryRejection>) -> Result<Wishes, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    // The worker knows the ranges, but is told in JSON, which has no such numbers.
    if [query.threshold, query.max_rate].into_iter().flatten().any(|number| !number.is_finite()) {
        return Err(ApiError::InvalidOption { reason: "threshold and max_rate are numbers".into() });
    }
    let tasks = query.tasks.as_deref().map(read_tasks).transpose()?;
    let tasks = tasks.map(|Tasks { faces, gender, objects }| WishedTasks { faces, gender, objects });
    Ok(Wishes { tasks, threshold: query.threshold, max_rate: query.max_rate })
}

/// `PATCH /whip/{token}`: trickle ICE and ICE restarts.
async fn patch(
    State(front): State<Front>,
    Path(token): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    authorise(&front, &headers)?;
    change_ice(&front, &read_publisher(&front, &token)?, request).await
}

/// `DELETE /whip/{token}`
async fn end(
    State(front): State<Front>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    authorise(&front, &headers)?;
    hang_up(&front, &read_publisher(&front, &token)?).await
}

fn read_publisher(front: &Front, token: &str) -> Result<Party, ApiError> {
    let token = front.session_key.read_resume_token(token).map_err(|_| ApiError::UnknownSession);
    counted(front, token).map(Party::Publisher)
}
