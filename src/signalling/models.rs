//! Models over HTTP: what there is, each version's manifest, picture and file, and the end of a version. Taking one in is
//! [`super::model_upload`]'s.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::model_upload;
use super::router::Front;
use super::traffic;
use crate::blobs::BlobError;
use crate::cluster::models::ModelFault;
use crate::models::heads::recognise::fields::FieldError;
use crate::models::manifest::{Manifest, ManifestError};
use crate::models::registry::{Entry, Registry, RegistryError};
use crate::models::traffic::{ModelVersion, Slot, Traffic, TrafficError};

/// Models that are sent or tried at a time by way of this front.
const MAX_UPLOADS: usize = 4;
/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u32 = 10;

const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
/// A version's files never change, and its number is never another's.
const FOR_EVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// What the handlers of models share.
pub struct Models {
    pub registry: Registry,
    pub(super) uploads: Arc<Semaphore>,
}

impl Models {
    pub fn new(registry: Registry) -> Self {
        Self { registry, uploads: Arc::new(Semaphore::new(MAX_UPLOADS)) }
    }
}

/// What anybody may see who may open sessions.
pub(super) fn reading() -> Router<Front> {
    Router::new()
        .route("/api/models", get(list))
        .route("/api/models/{name}/versions/{version}", get(read))
        .route("/api/models/{name}/versions/{version}/picture", get(picture))
}

/// What changes something, or gives a model away.
pub(super) fn administering() -> Router<Front> {
    let upload = post(model_upload::upload).layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/api/models/{name}", upload)
        .route("/api/models/{name}/versions/{version}", delete(remove))
        .route("/api/models/{name}/versions/{version}/model.onnx", get(download))
}

/// Why something was not done with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    #[error("this service has no registry of models: it needs a --store, which fronts and workers share")]
    Unavailable,
    #[error("a model cannot be called that: {0}")]
    Name(ManifestError),
    #[error("too many models are being sent or tried already")]
    Busy,
    #[error("{file} has more than {max_bytes} bytes")]
    TooLarge { file: &'static str, max_bytes: u64 },
    #[error("the request's body cannot be read: {0}")]
    Form(String),
    #[error("the body broke off")]
    BrokeOff,
    #[error("the file was not sent in time")]
    TimedOut,
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(
        "the form's field {0:?} is none of file, picture, source, licence and the flags of `vigie models add`"
    )]
    UnknownField(String),
    #[error("no worker can be reached")]
    NoWorker,
    #[error("the worker that tried the model is gone, or answered nothing that can be read")]
    TrialLost,
    #[error("{}", fault.message)]
    Refused { status: StatusCode, fault: ModelFault, retry_after_s: Option<u32> },
    #[error("{0} has no traffic: it uses its own model")]
    NoTraffic(Slot),
    #[error("there is no model {0}")]
    UnknownVersion(ModelVersion),
    #[error("{model} is for {is}, not for {slot}")]
    OtherTask { model: ModelVersion, is: &'static str, slot: Slot },
    #[error(transparent)]
    Traffic(TrafficError),
    #[error(transparent)]
    Registry(RegistryError),
}

impl From<RegistryError> for ModelsError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Invalid(name) => Self::Name(name),
            error => Self::Registry(error),
        }
    }
}

impl From<BlobError> for ModelsError {
    fn from(error: BlobError) -> Self {
        Self::Registry(error.into())
    }
}

impl ModelsError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Name(_) | Self::Form(_) | Self::BrokeOff | Self::Field(_) | Self::UnknownField(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable | Self::Busy | Self::NoWorker | Self::TrialLost => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoTraffic(_) => StatusCode::NOT_FOUND,
            Self::UnknownVersion(_) | Self::OtherTask { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Traffic(error) => traffic::status_of(error),
            Self::Refused { status, .. } => *status,
            Self::Registry(error) => match error {
                RegistryError::UnknownVersion { .. } => StatusCode::NOT_FOUND,
                RegistryError::InUse { .. }
                | RegistryError::ReservedName { .. }
                | RegistryError::TrafficChanged { .. }
                | RegistryError::TooManyVersions { .. } => StatusCode::CONFLICT,
                RegistryError::Invalid(_) | RegistryError::ManifestTooLarge { .. } => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                RegistryError::Store(BlobError::Full) => StatusCode::INSUFFICIENT_STORAGE,
                RegistryError::Store(_) | RegistryError::Contended { .. } => StatusCode::SERVICE_UNAVAILABLE,
                RegistryError::Unreadable { .. }
                | RegistryError::Corrupt { .. }
                | RegistryError::Local(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// As a client is told; of what a check or a trial refused, its own code.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { fault, .. } => &fault.code,
            other => other.reason(),
        }
    }

    /// As it is counted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable => "models_unavailable",
            Self::Name(_) => "invalid_name",
            Self::Busy => "busy",
            Self::TooLarge { .. } => "too_large",
            Self::Form(_) | Self::BrokeOff => "body_unreadable",
            Self::TimedOut => "upload_timed_out",
            Self::Field(_) | Self::UnknownField(_) => "invalid_option",
            Self::NoWorker => "no_worker",
            Self::TrialLost => "trial_lost",
            Self::Refused { .. } => "model_refused",
            Self::NoTraffic(_) => "no_traffic",
            Self::UnknownVersion(_) => "unknown_version",
            Self::OtherTask { .. } => "other_task",
            Self::Traffic(error) => traffic::code_of(error),
            Self::Registry(error) => match error {
                RegistryError::UnknownVersion { .. } => "not_found",
                RegistryError::InUse { .. } => "in_use",
                RegistryError::ReservedName { .. } => "reserved_name",
                RegistryError::TrafficChanged { .. } => "traffic_changed",
                RegistryError::TooManyVersions { .. } => "too_many_versions",
                RegistryError::Invalid(_) | RegistryError::ManifestTooLarge { .. } => "manifest",
                RegistryError::Store(BlobError::Full) => "store_full",
                RegistryError::Store(_) | RegistryError::Contended { .. } => "store_unavailable",
                RegistryError::Unreadable { .. }
                | RegistryError::Corrupt { .. }
                | RegistryError::Local(_) => "internal",
            },
        }
    }

    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Refused { retry_after_s, .. } => *retry_after_s,
            Self::Unavailable => None,
            other => (other.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_S),
        }
    }

    /// What is our own fault, or the store's, is logged: the client is told the least.
    pub fn log(&self) {
        if let Self::Registry(error) = self
            && self.status().is_server_error()
        {
            tracing::error!(error = error as &dyn Error, "the registry of models");
        }
    }
}

/// The registry, if there is one.
pub(super) fn models(front: &Front) -> Result<&Arc<Models>, ModelsError> {
    front.models.as_ref().ok_or(ModelsError::Unavailable)
}

/// A version's number in an address; what is none is nobody's.
fn number(name: &str, version: &str) -> Result<u32, ModelsError> {
    let number = version.parse().ok().filter(|number: &u32| *number > 0 && number.to_string() == version);
    let unknown = || RegistryError::UnknownVersion { name: name.chars().take(64).collect(), version: 0 };
    Ok(number.ok_or_else(unknown)?)
}

#[derive(Serialize)]
struct ModelList {
    models: Vec<ModelView>,
    traffic: Vec<Traffic>,
    /// What workers use for each task now: task → `name@version`.
    serving: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct ModelView {
    name: String,
    /// Ascending.
    versions: Vec<VersionView>,
}

/// A version as clients are told of it.
#[derive(Serialize)]
struct VersionView {
    #[serde(flatten)]
    manifest: Manifest,
    size_bytes: u64,
    state: StateView,
    picture: Option<String>,
}

#[derive(Serialize)]
struct StateView {
    /// Those that have it loaded.
    workers: usize,
}

fn view(entry: Entry, loaded: &BTreeMap<String, usize>) -> VersionView {
    let Entry { manifest, size_bytes, has_picture } = entry;
    let workers = loaded.get(&format!("{}@{}", manifest.name, manifest.version)).copied().unwrap_or(0);
    let picture = format!("/api/models/{}/versions/{}/picture", manifest.name, manifest.version);
    VersionView {
        manifest,
        size_bytes,
        state: StateView { workers },
        picture: has_picture.then_some(picture),
    }
}

/// `GET /api/models`
async fn list(State(front): State<Front>) -> Result<Response, ApiError> {
    let registry = &models(&front)?.registry;
    let read = async { tokio::try_join!(registry.list(), registry.traffics()) };
    let (entries, traffics) = read.await.map_err(ModelsError::from)?;
    let loaded = front.workers.loaded();
    let mut models: Vec<ModelView> = Vec::new();
    for entry in entries {
        let name = entry.manifest.name.clone();
        let version = view(entry, &loaded);
        match models.last_mut().filter(|model| model.name == name) {
            Some(model) => model.versions.push(version),
            None => models.push(ModelView { name, versions: vec![version] }),
        }
    }
    let traffic = traffics.into_iter().map(|(traffic, _)| traffic).collect();
    Ok((NO_STORE, Json(ModelList { models, traffic, serving: front.workers.serving() })).into_response())
}

/// `GET /api/models/{name}/versions/{version}`
async fn read(
    State(front): State<Front>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let registry = &models(&front)?.registry;
    let entry = registry.entry(&name, number(&name, &version)?).await.map_err(ModelsError::from)?;
    Ok((NO_STORE, Json(view(entry, &front.workers.loaded()))).into_response())
}

/// `GET /api/models/{name}/versions/{version}/picture`: what was found in the trial, drawn.
async fn picture(
    State(front): State<Front>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let registry = &models(&front)?.registry;
    let picture = registry.picture(&name, number(&name, &version)?).await.map_err(ModelsError::from)?;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg")), (header::CACHE_CONTROL, FOR_EVER)];
    Ok((headers, picture).into_response())
}

/// `GET /api/models/{name}/versions/{version}/model.onnx`
async fn download(
    State(front): State<Front>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let registry = &models(&front)?.registry;
    let version = number(&name, &version)?;
    let meta = registry.model(&name, version).await.map_err(ModelsError::from)?;
    let bytes = registry.blobs().read(&meta, 0..meta.bytes).await.map_err(ModelsError::from)?;
    // The name has passed for a model's: it has nothing in it that a header has not.
    let disposition = format!("attachment; filename=\"{name}-{version}.onnx\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_LENGTH, meta.bytes.to_string()),
    ];
    Ok((NO_STORE, headers, Body::from_stream(bytes)).into_response())
}

/// `DELETE /api/models/{name}/versions/{version}`
async fn remove(
    State(front): State<Front>,
    Path((name, version)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let registry = &models(&front)?.registry;
    registry.remove(&name, number(&name, &version)?).await.map_err(ModelsError::from)?;
    tracing::info!(model = name, version, "a model was removed");
    Ok(StatusCode::NO_CONTENT)
}
