//! Every route of the front, on one screen.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use super::ice::IceConfig;
use super::predict::{self, Uploads};
use super::{health, ice, pages, sessions, whep, whip};
use crate::cluster::fleet::Fleet;
use crate::ids::SessionKey;
use crate::shutdown::Inside;
use crate::telemetry::metrics::Metrics;

/// What the handlers share.
#[derive(Clone)]
pub struct Front {
    pub workers: Arc<Fleet>,
    /// Tells resume tokens of this cluster from invented ones.
    pub session_key: SessionKey,
    pub metrics: Arc<Metrics>,
    /// The signalling sockets that are open.
    pub sockets: Inside,
    /// The pictures that are being taken in.
    pub uploads: Arc<Uploads>,
    /// Why no session would be taken now, if so.
    pub readiness: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    pub ice: Arc<IceConfig>,
    /// Origins other than the page's own that may open sessions.
    pub allowed_origins: Arc<[String]>,
}

/// Only our own scripts, styles and sockets; `blob:` for a file that stands in for the camera.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; \
     img-src 'self' blob: data:; media-src 'self' blob: data:; object-src 'none'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

pub fn router(front: Front) -> Router {
    Router::new()
        .route("/health", get(health::live))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/ice-servers", get(ice::list))
        .route("/api/session", get(sessions::open))
        .route("/predict", post(predict::predict).layer(predict::body_limit()))
        .merge(whip::router(&front))
        .merge(whep::router(&front))
        .fallback(get(pages::serve))
        .layer(middleware::from_fn(harden))
        .layer(middleware::from_fn_with_state(front.clone(), count))
        .with_state(front)
}

/// The headers that keep a page to itself.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("permissions-policy", HeaderValue::from_static("camera=(self), microphone=()"));
    response
}

async fn count(State(front): State<Front>, request: Request, next: Next) -> Response {
    // The route's pattern, not the path: strangers must not be able to make new label values.
    let route = request.extensions().get::<MatchedPath>().map_or("page", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    front.metrics.http_requests_total.with_label_values(&[&route, response.status().as_str()]).inc();
    response
}
