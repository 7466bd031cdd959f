//! WHEP (draft-ietf-wish-whep): another browser or player watches a session's annotated video.

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::error::ApiError;
use super::exchange::{
    add_links, change_ice, created, hang_up, home_of, nothing_to_see, options, read_offer, served,
};
use super::ice::Client;
use super::router::Front;
use crate::cluster::whip::{Party, Watch};
use crate::ids::WatchToken;

/// Hexadecimal digits of a viewer's name.
const VIEWER_DIGITS: usize = 32;

/// What needs no token of the door: whoever has a session's watch token may watch.
pub(super) fn viewers() -> Router<Front> {
    Router::new()
        .route("/whep/{token}", get(nothing_to_see).post(watch).options(endpoint_options))
        .route("/whep/{token}/{viewer}", get(nothing_to_see).patch(patch).delete(end).options(options))
}

/// `POST /whep/{watch token}`
async fn watch(
    State(front): State<Front>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let token = read_token(&front, &token)?;
    let sdp = read_offer(request).await?;
    let worker = home_of(&front, &token.session).await?;
    let watching = served(worker.watch(&token, &Watch { sdp }).await)?;
    let location = format!("/whep/{token}/{}", watching.viewer);
    created(&front, Client::Viewer(&token.session), &location, watching.answer)
}

/// `OPTIONS /whep/{watch token}`: a browser must know the servers before it makes its offer, or would have to
/// restart ICE to use them (RFC 9725 §4.6). Not in a CORS preflight, which shows nothing to the script.
async fn endpoint_options(
    State(front): State<Front>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut response = options().await.into_response();
    if !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        let token = read_token(&front, &token)?;
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        add_links(&front, Client::Viewer(&token.session), response.headers_mut())?;
    }
    Ok(response)
}

/// `PATCH /whep/{watch token}/{viewer}`: trickle ICE and ICE restarts.
async fn patch(
    State(front): State<Front>,
    Path((token, viewer)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    change_ice(&front, &read_viewer(&front, &token, viewer)?, request).await
}

/// `DELETE /whep/{watch token}/{viewer}`
async fn end(
    State(front): State<Front>,
    Path((token, viewer)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    hang_up(&front, &read_viewer(&front, &token, viewer)?).await
}

fn read_token(front: &Front, token: &str) -> Result<WatchToken, ApiError> {
    front.session_key.read_watch_token(token).map_err(|_| ApiError::UnknownSession)
}

fn read_viewer(front: &Front, token: &str, viewer: String) -> Result<Party, ApiError> {
    let watch = read_token(front, token)?;
    // It goes into the path of a request to the worker.
    let is_name = viewer.len() == VIEWER_DIGITS && viewer.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then_some(Party::Viewer { watch, viewer }).ok_or(ApiError::UnknownSession)
}
