//! The part of the worker's control API that takes models in.

use std::error::Error;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

use super::desk::{TrialDesk, TrialFault};
use crate::cluster::models::{MODELS_PATH, ModelFault, ModelOrder};
use crate::cluster::remote::is_authorised;
use crate::cluster::token::ClusterToken;
use crate::models::receipt::PlacedReceipt;
use crate::models::registry::RegistryError;

/// Seconds after which a refused front may try again.
const RETRY_AFTER_S: u32 = 10;
/// Bytes of an order: fields, labels among them.
const MAX_ORDER_BYTES: usize = 8 << 20;

#[derive(Clone)]
struct Control {
    /// None where the worker has no store.
    desk: Option<Arc<TrialDesk>>,
    token: ClusterToken,
}

/// The routes; every request must carry `token` as its bearer token.
pub fn router(desk: Option<Arc<TrialDesk>>, token: ClusterToken) -> Router {
    Router::new()
        .route(&format!("{MODELS_PATH}/{{name}}"), post(take))
        .layer(DefaultBodyLimit::max(MAX_ORDER_BYTES))
        .with_state(Control { desk, token })
}

async fn take(State(control): State<Control>, Path(name): Path<String>, request: Request) -> Response {
    if !is_authorised(request.headers(), &control.token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let order: Json<ModelOrder> = match Json::from_request(request, &()).await {
        Ok(order) => order,
        Err(rejection) => return refuse(StatusCode::BAD_REQUEST, "invalid_option", rejection.body_text()),
    };
    let Some(desk) = &control.desk else {
        let message = "this worker has no store: it needs a --store that fronts and workers share".to_owned();
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "models_unavailable", message);
    };
    match desk.take(&name, order.0).await {
        Ok(receipt) => {
            let picture = format!("/api/models/{}/versions/{}/picture", receipt.name, receipt.version);
            let placed = PlacedReceipt { receipt: &receipt, picture: Some(picture), model: None };
            (StatusCode::CREATED, Json(placed)).into_response()
        }
        Err(fault) => answer(&fault),
    }
}

/// Tells the front; what is our own fault is logged here and not explained.
fn answer(fault: &TrialFault) -> Response {
    let (status, code) = class(fault);
    if status.is_server_error() && !matches!(fault, TrialFault::Busy) {
        tracing::error!(error = fault as &dyn Error, "a model was not taken in");
    }
    let message = if status == StatusCode::INTERNAL_SERVER_ERROR {
        "the model could not be tried; see the worker's log".to_owned()
    } else {
        chain(fault)
    };
    refuse(status, code, message)
}

/// The status and the stable code of a fault.
fn class(fault: &TrialFault) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match fault {
        TrialFault::Busy => (S::SERVICE_UNAVAILABLE, "busy"),
        TrialFault::Field(_) => (S::BAD_REQUEST, "invalid_option"),
        TrialFault::Refused(refusal) => match refusal.code() {
            code @ ("trial_not_started" | "trial_fault") => (S::INTERNAL_SERVER_ERROR, code),
            code => (S::UNPROCESSABLE_ENTITY, code),
        },
        TrialFault::NotShared { .. } => (S::SERVICE_UNAVAILABLE, "store_not_shared"),
        TrialFault::NoUpload { .. } => (S::BAD_REQUEST, "invalid_option"),
        TrialFault::Registry(error) => match error {
            RegistryError::ReservedName { .. } => (S::CONFLICT, "reserved_name"),
            RegistryError::Invalid(_) | RegistryError::ManifestTooLarge { .. } => {
                (S::UNPROCESSABLE_ENTITY, "manifest")
            }
            RegistryError::TooManyVersions { .. } => (S::CONFLICT, "too_many_versions"),
            RegistryError::Store(crate::blobs::BlobError::Full) => (S::INSUFFICIENT_STORAGE, "store_full"),
            RegistryError::Store(_) | RegistryError::Contended { .. } => {
                (S::SERVICE_UNAVAILABLE, "store_unavailable")
            }
            _ => (S::INTERNAL_SERVER_ERROR, "internal"),
        },
        TrialFault::NotStarted(_) | TrialFault::Lost => (S::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&error: &&dyn Error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn refuse(status: StatusCode, code: &str, message: String) -> Response {
    let mut response = (status, Json(ModelFault { code: code.to_owned(), message })).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}
