//! The only error that becomes an HTTP response.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::cluster::protocol::{PictureFault, PictureRefusal};
use crate::cluster::whip::{WhipFault, WhipRefusal};

/// What went wrong, as a client is told: status, stable code, message.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("there is nothing here")]
    NotFound,
    #[error("this page may not connect from {origin}")]
    OriginRefused { origin: String },
    #[error("the resume token is not one of this service")]
    InvalidResumeToken,
    #[error("{reason}")]
    InvalidOption { reason: String },
    #[error("the request's body cannot be read: {reason}")]
    BodyUnreadable { reason: String },
    #[error("the picture was not sent in time")]
    UploadTimedOut,
    #[error("the request's body was not sent in time")]
    BodyTimedOut,
    #[error("the request's body has more than {max_bytes} bytes")]
    BodyTooLarge { max_bytes: usize },
    #[error("the request's body must be {expected}")]
    UnsupportedMediaType { expected: &'static str },
    #[error("{method} is not served here")]
    MethodNotAllowed { method: String },
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
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::UnknownSession => StatusCode::NOT_FOUND,
            Self::OriginRefused { .. } => StatusCode::FORBIDDEN,
            Self::InvalidResumeToken | Self::InvalidOption { .. } | Self::BodyUnreadable { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::UploadTimedOut | Self::BodyTimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::PictureTooLarge { .. } | Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::WhipRefused(fault) => {
                StatusCode::from_u16(fault.code.status()).expect("the protocol's statuses are HTTP's")
            }
            Self::PictureRefused(fault) => {
                StatusCode::from_u16(fault.code.status()).expect("the protocol's statuses are HTTP's")
            }
            Self::Busy { .. } | Self::Full { .. } | Self::NoWorker { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::OriginRefused { .. } => "origin_refused",
            Self::InvalidResumeToken => "invalid_resume_token",
            Self::InvalidOption { .. } => "invalid_option",
            Self::BodyUnreadable { .. } => "body_unreadable",
            Self::UploadTimedOut => "upload_timed_out",
            Self::PictureTooLarge { .. } => PictureRefusal::TooLarge.code(),
            Self::PictureRefused(fault) => fault.code.code(),
            Self::BodyTimedOut => "body_timed_out",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UnsupportedMediaType { .. } => "unsupported_media_type",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::PreconditionRequired => "precondition_required",
            Self::UnknownSession => "unknown_session",
            Self::WhipRefused(fault) => fault.code.code(),
            Self::Full { .. } => WhipRefusal::Busy.code(),
            Self::Busy { .. } => PictureRefusal::Busy.code(),
            Self::NoWorker { .. } => "no_worker",
        }
    }

    fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Busy { retry_after_s }
            | Self::Full { retry_after_s }
            | Self::NoWorker { retry_after_s } => Some(*retry_after_s),
            Self::WhipRefused(fault) => fault.code.passes().then_some(3),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": { "code": self.code(), "message": self.to_string() } }));
        let mut response = (self.status(), body).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
