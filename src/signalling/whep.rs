//! WHEP (draft-ietf-wish-whep): another browser or player watches a session's annotated video.

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::Response;
use axum::routing::get;

use super::error::ApiError;
use super::exchange::{
    authorise, change_ice, counted, created, cross_origin, hang_up, home_of, nothing_to_see, options,
    other_method, read_offer, served,
};
use super::router::Front;
use crate::cluster::whip::{Party, Watch};
use crate::ids::WatchToken;

/// Hexadecimal digits of a viewer's name.
const VIEWER_DIGITS: usize = 32;

pub(super) fn router(front: &Front) -> Router<Front> {
    Router::new()
        .route("/whep/{token}", get(nothing_to_see).post(watch).options(options).fallback(other_method))
        .route(
            "/whep/{token}/{viewer}",
            get(nothing_to_see).patch(patch).delete(end).options(options).fallback(other_method),
        )
        .layer(middleware::from_fn_with_state(front.clone(), cross_origin))
}

/// `POST /whep/{watch token}`
async fn watch(
    State(front): State<Front>,
    Path(token): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    authorise(&front, &headers)?;
    let token = read_token(&front, &token)?;
    let sdp = read_offer(&front, request).await?;
    let worker = home_of(&front, &token.session).await?;
    let watching = served(&front, worker.watch(&token, &Watch { sdp }).await)?;
    created(&front, &format!("/whep/{token}/{}", watching.viewer), watching.answer)
}

/// `PATCH /whep/{watch token}/{viewer}`: trickle ICE and ICE restarts.
async fn patch(
    State(front): State<Front>,
    Path((token, viewer)): Path<(String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    authorise(&front, &headers)?;
    change_ice(&front, &read_viewer(&front, &token, viewer)?, request).await
}

/// `DELETE /whep/{watch token}/{viewer}`
async fn end(
    State(front): State<Front>,
    Path((token, viewer)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    authorise(&front, &headers)?;
    hang_up(&front, &read_viewer(&front, &token, viewer)?).await
}

fn read_token(front: &Front, token: &str) -> Result<WatchToken, ApiError> {
    counted(front, front.session_key.read_watch_token(token).map_err(|_| ApiError::UnknownSession))
}

fn read_viewer(front: &Front, token: &str, viewer: String) -> Result<Party, ApiError> {
    let watch = read_token(front, token)?;
    // It goes into the path of a request to the worker.
    let is_name = viewer.len() == VIEWER_DIGITS && viewer.bytes().all(|byte| byte.is_ascii_hexdigit());
    counted(front, is_name.then_some(Party::Viewer { watch, viewer }).ok_or(ApiError::UnknownSession))
}
