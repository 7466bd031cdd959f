//! Every route of the front, on one screen.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, head, post};

use super::auth::{self, Door};
use super::error::{self, ApiError, Refusal};
use super::ice::IceConfig;
use super::limits::{self, Limits};
use super::models::{self, Models};
use super::predict;
use super::room::Room;
use super::uploads::Videos;
use super::{exchange, health, ice, oip, pages, results, sessions, traffic, tus, videos, whep, whip};
use crate::cluster::fleet::Fleet;
use crate::cluster::relay::Relay;
use crate::ids::SessionKey;
use crate::shutdown::Inside;
use crate::telemetry::metrics::Metrics;

/// What the handlers share.
#[derive(Clone)]
pub struct Front {
    pub workers: Arc<Fleet>,
    /// The connections over which inference requests are handed on.
    pub relay: Arc<Relay<Body>>,
    /// Tells resume tokens of this cluster from invented ones.
    pub session_key: SessionKey,
    pub metrics: Arc<Metrics>,
    /// The signalling sockets that are open.
    pub sockets: Inside,
    /// For pictures and videos that are being taken in.
    pub room: Room,
    /// Where videos are taken in, if they are.
    pub videos: Option<Arc<Videos>>,
    /// The registry of models, where there is a store for it.
    pub models: Option<Arc<Models>>,
    /// Why no session would be taken now, if so.
    pub readiness: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    pub ice: Arc<IceConfig>,
    /// Who may come in.
    pub door: Door,
    pub limits: Arc<Limits>,
    /// Everybody may read the metrics.
    pub has_open_metrics: bool,
    /// Browsers are to come back over HTTPS only.
    pub is_strictly_https: bool,
    /// Origins other than the page's own that may open sessions.
    pub allowed_origins: Arc<[String]>,
}

/// Only our own scripts, styles and sockets; `blob:` for a file that stands in for the camera. Older browsers do not
/// count a socket to the page's own host as `'self'`, so that it is named.
fn content_security_policy(host: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let socket = match host {
        "" => String::new(),
        host if host.chars().all(is_name) => format!(" ws://{host} wss://{host}"),
        _ => String::new(),
    };
    format!(
        "default-src 'self'; connect-src 'self'{socket}; img-src 'self' blob: data:; media-src 'self' blob: data:; \
         object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// What the page needs of its browser, and what nothing here ever does.
const PERMISSIONS: &str = "camera=(self), microphone=(), display-capture=(), geolocation=(), payment=(), usb=(), \
     serial=(), hid=(), bluetooth=(), midi=(), publickey-credentials-get=()";

/// Two years, as browsers' preload lists want it.
const STRICT_TRANSPORT: &str = "max-age=63072000";

pub fn router(front: Front) -> Router {
    let session = middleware::from_fn_with_state(front.clone(), auth::require_session);
    let admin = middleware::from_fn_with_state(front.clone(), auth::require_admin);
    let own_page = middleware::from_fn_with_state(front.clone(), auth::require_own_page);
    let with_session = Router::new()
        .route("/api/ice-servers", get(ice::list))
        .route("/api/session", get(sessions::open))
        .route("/predict", post(predict::predict).layer(predict::body_limit()))
        .merge(video_intake())
        .merge(models::reading())
        .merge(traffic::reading())
        .merge(whip::endpoint())
        .merge(oip::models())
        .route_layer(session);
    let without_token = video_jobs().merge(whip::sessions()).merge(whep::viewers());
    let metrics = Router::new().route("/metrics", get(health::metrics));
    let metrics = if front.has_open_metrics { metrics } else { metrics.route_layer(admin.clone()) };
    let for_admins = models::administering().merge(traffic::administering()).route_layer(admin);
    Router::new()
        .route("/health", get(health::live))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .merge(oip::health())
        .merge(with_session)
        .merge(without_token.route_layer(own_page))
        .merge(for_admins)
        .merge(metrics)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .fallback(pages::serve)
        .layer(middleware::from_fn_with_state(front.clone(), limits::limit))
        .layer(middleware::from_fn_with_state(front.clone(), exchange::cross_origin))
        .layer(middleware::from_fn_with_state(front.clone(), harden))
        .layer(middleware::from_fn_with_state(front.clone(), count))
        .with_state(front)
}

/// How videos come in: by streams that count their own bytes.
fn video_intake() -> Router<Front> {
    let uploads = Router::new()
        .route("/api/uploads", post(tus::create).options(tus::options))
        .route(
            "/api/uploads/{id}",
            head(tus::head).patch(tus::append).delete(tus::delete).options(tus::options),
        )
        .layer(middleware::from_fn(tus::speak));
    Router::new().route("/api/videos", post(videos::create)).merge(uploads).layer(DefaultBodyLimit::disable())
}

/// Who knows a job's id, 128 random bits, may see and end it: players and event sources carry no token.
fn video_jobs() -> Router<Front> {
    Router::new()
        .route("/api/videos", get(videos::list))
        .route("/api/videos/{id}", get(videos::read).delete(videos::delete))
        .route("/api/videos/{id}/events", get(videos::events))
        .route("/api/videos/{id}/cancel", post(videos::cancel))
        .route("/api/videos/{id}/{file}", get(results::read))
}

/// The headers that keep a page to itself (OWASP ASVS 5.0, V3.4), and one body for all errors.
async fn harden(State(front): State<Front>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let policy = HeaderValue::try_from(content_security_policy(host));
    // Probes are for machines, which read the status.
    let is_probe = matches!(request.uri().path(), "/health" | "/livez" | "/readyz");
    let is_inference = oip::is_spoken_at(request.uri().path());
    let mut response = next.run(request).await;
    if !is_probe {
        response = error::in_our_words(response).await;
    }
    if is_inference {
        response = oip::in_its_words(response).await;
    }
    let headers = response.headers_mut();
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = policy {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if front.is_strictly_https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT_TRANSPORT));
    }
    response
}

/// Counts answers, and refusals by their reason: handlers need not.
async fn count(State(front): State<Front>, request: Request, next: Next) -> Response {
    // The route's pattern, not the path: strangers must not be able to make new label values.
    let route = request.extensions().get::<MatchedPath>().map_or("page", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    front.metrics.http_requests_total.with_label_values(&[&route, response.status().as_str()]).inc();
    if let Some(Refusal(reason)) = response.extensions().get() {
        front.metrics.refused(reason);
    }
    response
}
