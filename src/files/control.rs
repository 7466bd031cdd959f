//! The part of the worker's control API that recognises pictures.
//!
//! The front has checked options and counted bytes; here the bytes are looked at for the first time.

use std::error::Error;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

use super::desk::{Answer, Desk, DeskError, Order};
use super::image::{Format, ImageError, MAX_BYTES};
use super::still::Wanted;
use crate::cluster::protocol::{PictureFault, PictureRefusal, PredictAnswer, PredictOptions};
use crate::cluster::remote::{PREDICT_PATH, is_authorised};
use crate::cluster::token::ClusterToken;
use crate::pipeline::recognise::{RecogniseError, Tasks};

/// Seconds after which a refused front may try again.
const RETRY_AFTER_S: u32 = 1;

#[derive(Clone)]
struct Control {
    desk: Arc<Desk>,
    token: ClusterToken,
}

/// The routes; every request must carry `token` as its bearer token.
pub fn router(desk: Arc<Desk>, token: ClusterToken) -> Router {
    Router::new().route(PREDICT_PATH, post(predict)).with_state(Control { desk, token })
}

async fn predict(
    State(control): State<Control>,
    Query(options): Query<PredictOptions>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    if !is_authorised(&headers, &control.token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(bytes) = to_bytes(request.into_body(), MAX_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let (annotated, content_type) = match options.answer {
        PredictAnswer::Json => (None, "application/json"),
        PredictAnswer::Jpeg => (Some(Format::Jpeg), "image/jpeg"),
        PredictAnswer::Png => (Some(Format::Png), "image/png"),
    };
    let models = options.model.as_deref().map(named).unwrap_or_default();
    let order = Order { bytes, wanted: wanted(&options), models, annotated };
    match control.desk.recognise(order).await {
        Ok(Answer::Report(report)) => Json(*report).into_response(),
        Ok(Answer::Annotated(bytes)) => ([(header::CONTENT_TYPE, content_type)], bytes).into_response(),
        Err(error) => refuse(&error),
    }
}

fn wanted(options: &PredictOptions) -> Wanted {
    let &PredictOptions { faces, gender, objects, text, threshold, .. } = options;
    Wanted { tasks: Tasks { faces, gender: faces && gender, objects, text }, threshold }
}

/// The models of a comma-separated list.
fn named(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|model| !model.is_empty()).map(str::to_owned).collect()
}

/// Tells the front; what is our own fault is logged here and not explained.
fn refuse(error: &DeskError) -> Response {
    let refusal = match error {
        DeskError::Image(image) => match image {
            ImageError::Empty => PictureRefusal::Empty,
            ImageError::UnsupportedType | ImageError::Heic => PictureRefusal::UnsupportedType,
            ImageError::TooManyBytes { .. }
            | ImageError::TooManyPixels { .. }
            | ImageError::TooMuchMemory => PictureRefusal::TooLarge,
            ImageError::Truncated => PictureRefusal::Truncated,
            ImageError::Corrupt(_) => PictureRefusal::Corrupt,
        },
        DeskError::UnknownModel { .. } | DeskError::Recognise(RecogniseError::NoModel(_)) => {
            PictureRefusal::InvalidOption
        }
        _ if error.is_busy() => PictureRefusal::Busy,
        _ => {
            tracing::error!(error = error as &dyn Error, "a picture was not recognised");
            PictureRefusal::Internal
        }
    };
    let message = match error {
        DeskError::Image(image) => format!("the picture is not readable: {image}"),
        DeskError::UnknownModel { .. } => error.to_string(),
        DeskError::Recognise(error @ RecogniseError::NoModel(_)) => error.to_string(),
        error if refusal == PictureRefusal::Busy => error.to_string(),
        _ => "the picture could not be recognised; see the server's log".into(),
    };
    let status = StatusCode::from_u16(refusal.status()).expect("the protocol knows statuses");
    let mut response = (status, Json(PictureFault { code: refusal, message })).into_response();
    if refusal == PictureRefusal::Busy {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}
