//! The only error that becomes an HTTP response.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::auth::TokenFault;
use super::models::ModelsError;
use super::uploads::UploadError;
use crate::cluster::protocol::{PictureFault, PictureRefusal};
use crate::cluster::whip::{WhipFault, WhipRefusal};

/// Seconds after which a publisher or a viewer may try again.
const WHIP_RETRY_AFTER_S: u32 = 3;

/// What went wrong, as a client is told: status, stable code, message.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("there is nothing here")]
    NotFound,
    #[error("this page may not connect from {origin}")]
    OriginRefused { origin: String },
    #[error(
        "{host:?} is no name of this service: without tokens it answers to addresses, to localhost and to the hosts of --allowed-origins"
    )]
    HostRefused { host: String },
    #[error("{}", describe(*_0))]
    TokenRefused(TokenFault),
    #[error("this is for admins")]
    AdminOnly,
    #[error("the token does not allow {task}")]
    TaskNotAllowed { task: &'static str },
    #[error("too many requests from this address")]
    TooManyRequests { retry_after_s: u32 },
    #[error("too many sockets from this address")]
    TooManySockets { retry_after_s: u32 },
    #[error("too many connections from this address")]
    TooManyConnections { retry_after_s: u32 },
    #[error("the method is not one of this address")]
    MethodNotAllowed,
    #[error("this address speaks WebSocket: {reason}")]
    UpgradeExpected { reason: String },
    #[error("the session id is not one of this service")]
    InvalidSession,
    #[error("the resume token is not one of this service")]
    InvalidResumeToken,
    #[error("{reason}")]
    InvalidOption { reason: String },
    #[error("the request's body cannot be read: {reason}")]
    BodyUnreadable { reason: String },
    #[error("the file was not sent in time")]
    UploadTimedOut,
    #[error("the request's body was not sent in time")]
    BodyTimedOut,
    #[error("the request's body has more than {max_bytes} bytes")]
    BodyTooLarge { max_bytes: usize },
    #[error("the request's body must be {expected}")]
    UnsupportedMediaType { expected: &'static str },
    #[error("If-Match must name the ICE session, or be * for a new one")]
    PreconditionRequired,
    #[error("there is no such session here")]
    UnknownSession,
    #[error("every place is taken")]
    Full { retry_after_s: u32 },
    #[error("{}", _0.message)]
    WhipRefused(WhipFault),
    #[error("the picture has more than {max_bytes} bytes")]
    PictureTooLarge { max_bytes: usize },
    #[error("{}", _0.message)]
    PictureRefused(PictureFault),
    #[error("too many pictures wait already")]
    Busy { retry_after_s: u32 },
    #[error("no worker can be reached")]
    NoWorker { retry_after_s: u32 },
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error(transparent)]
    Models(#[from] ModelsError),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::UnknownSession => StatusCode::NOT_FOUND,
            Self::TokenRefused(_) => StatusCode::UNAUTHORIZED,
            Self::OriginRefused { .. }
            | Self::HostRefused { .. }
            | Self::AdminOnly
            | Self::TaskNotAllowed { .. } => StatusCode::FORBIDDEN,
            Self::TooManyRequests { .. } | Self::TooManySockets { .. } | Self::TooManyConnections { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UpgradeExpected { .. } => StatusCode::UPGRADE_REQUIRED,
            Self::InvalidSession
            | Self::InvalidResumeToken
            | Self::InvalidOption { .. }
            | Self::BodyUnreadable { .. } => StatusCode::BAD_REQUEST,
            Self::UploadTimedOut | Self::BodyTimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::PictureTooLarge { .. } | Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::WhipRefused(fault) => {
                StatusCode::from_u16(fault.code.status()).expect("the protocol's statuses are HTTP's")
            }
            Self::PictureRefused(fault) => {
                StatusCode::from_u16(fault.code.status()).expect("the protocol's statuses are HTTP's")
            }
            Self::Busy { .. } | Self::Full { .. } | Self::NoWorker { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upload(error) => error.status(),
            Self::Models(error) => error.status(),
        }
    }

    /// As a client is told.
    fn code(&self) -> &str {
        match self {
            Self::Models(error) => error.code(),
            other => other.reason(),
        }
    }

    /// As refusals are counted.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::OriginRefused { .. } => "origin_refused",
            Self::HostRefused { .. } => "host_refused",
            Self::TokenRefused(TokenFault::Missing) => "token_required",
            Self::TokenRefused(TokenFault::Expired) => "token_expired",
            Self::TokenRefused(TokenFault::Invalid) => "token_invalid",
            Self::AdminOnly => "admin_only",
            Self::TaskNotAllowed { .. } => "task_not_allowed",
            Self::TooManyRequests { .. } => "too_many_requests",
            Self::TooManySockets { .. } => "too_many_sockets",
            Self::TooManyConnections { .. } => "too_many_connections",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UpgradeExpected { .. } => "upgrade_expected",
            Self::InvalidSession => "invalid_session",
            Self::InvalidResumeToken => "invalid_resume_token",
            Self::InvalidOption { .. } => "invalid_option",
            Self::BodyUnreadable { .. } => "body_unreadable",
            Self::UploadTimedOut => "upload_timed_out",
            Self::BodyTimedOut => "body_timed_out",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UnsupportedMediaType { .. } => "unsupported_content_type",
            Self::PreconditionRequired => "precondition_required",
            Self::UnknownSession => WhipRefusal::UnknownSession.code(),
            Self::Full { .. } => WhipRefusal::Busy.code(),
            Self::WhipRefused(fault) => fault.code.code(),
            Self::PictureTooLarge { .. } => PictureRefusal::TooLarge.code(),
            Self::PictureRefused(fault) => fault.code.code(),
            Self::Busy { .. } => PictureRefusal::Busy.code(),
            Self::NoWorker { .. } => "no_worker",
            Self::Upload(error) => error.code(),
            Self::Models(error) => error.reason(),
        }
    }

    fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Busy { retry_after_s }
            | Self::NoWorker { retry_after_s }
            | Self::Full { retry_after_s }
            | Self::TooManyRequests { retry_after_s }
            | Self::TooManySockets { retry_after_s }
            | Self::TooManyConnections { retry_after_s } => Some(*retry_after_s),
            Self::Upload(error) => error.retry_after_s(),
            Self::Models(error) => error.retry_after_s(),
            Self::WhipRefused(fault) => fault.code.passes().then_some(WHIP_RETRY_AFTER_S),
            _ => None,
        }
    }
}

fn describe(fault: TokenFault) -> &'static str {
    match fault {
        TokenFault::Missing => {
            "a token is needed: Authorization: Bearer, or the subprotocol vigie.token.<token>"
        }
        TokenFault::Expired => "the token has expired",
        TokenFault::Invalid => "the token is not one of this service",
    }
}

/// Why a request was refused, for who counts the responses.
#[derive(Clone, Copy, Debug)]
pub struct Refusal(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, reason) = (self.status(), self.reason());
        let mut response = (status, body(self.code(), &self.to_string())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match &self {
            // RFC 6750 §3
            Self::TokenRefused(TokenFault::Missing) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"vigie\""));
            }
            Self::TokenRefused(_) => {
                let challenge = "Bearer realm=\"vigie\", error=\"invalid_token\"";
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            // RFC 9110 §15.5.22
            Self::UpgradeExpected { .. } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            _ => {}
        }
        // A page that is not there is nobody refused, a session that is not there is.
        if status != StatusCode::NOT_FOUND || matches!(self, Self::UnknownSession | Self::WhipRefused(_)) {
            response.extensions_mut().insert(Refusal(reason));
        }
        response
    }
}

/// The body of every error.
fn body(code: &str, message: &str) -> Json<serde_json::Value> {
    Json(json!({ "error": { "code": code, "message": message } }))
}

/// Bytes: no message of the framework is longer.
const MAX_MESSAGE_BYTES: usize = 1 << 10;

/// Gives a refusal of the framework (a method, a query, a length that it does not take) the body that all have.
pub async fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_plain = content_type.is_none_or(|value| value.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !is_plain {
        return response;
    }
    let code = match status {
        StatusCode::BAD_REQUEST => "bad_request",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_content_type",
        StatusCode::UNPROCESSABLE_ENTITY => "unprocessable",
        status if status.is_server_error() => "internal",
        _ => "refused",
    };
    let (mut parts, said) = response.into_parts();
    let said = axum::body::to_bytes(said, MAX_MESSAGE_BYTES).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let message = match said.trim() {
        // What went wrong inside is for the log.
        "" => status.canonical_reason().unwrap_or("refused"),
        _ if status.is_server_error() => status.canonical_reason().unwrap_or("refused"),
        said => said,
    };
    let dressed = body(code, message).into_response();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(dressed.headers().clone());
    if status != StatusCode::NOT_FOUND {
        parts.extensions.insert(Refusal(code));
    }
    Response::from_parts(parts, dressed.into_body())
}
