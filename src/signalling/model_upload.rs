//! `POST /api/models/{name}`: a form with an ONNX file goes into the store as it comes, is taken in by a worker, and is a
//! version then.
//!
//! The front counts bytes and reads fields; what the file is, only a worker's trial finds out. Whatever becomes of it, the
//! file as it was sent is deleted in the end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ApiError;
use super::limits;
use super::models::{Models, ModelsError, models};
use super::router::Front;
use super::uploads::{UploadError, drain, next_piece};
use crate::cluster::fleet::Fleet;
use crate::cluster::models::{ModelError, ModelOrder};
use crate::models::check::MAX_FILE_BYTES;
use crate::models::heads::recognise::Wishes;
use crate::models::registry::{INTAKE_PREFIX, Registry, check_free};
use crate::telemetry::metrics::Metrics;

const MAX_MODEL_BYTES: u64 = MAX_FILE_BYTES as u64;
/// As much as posted pictures may have.
const MAX_PICTURE_BYTES: u64 = 32 << 20;
/// Bytes of all text fields together: 65,535 labels, mostly.
const MAX_TEXT_BYTES: usize = 4 << 20;
/// Bytes of a form around its fields.
const FORM_BYTES: u64 = 64 << 10;
/// Besides what `vigie models add` has flags for.
const OTHER_FIELDS: [&str; 2] = ["source", "licence"];
/// What was sent so long ago is nobody's: no trial takes as long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3 * 3600);

/// Takes a model in.
pub(super) async fn upload(
    State(front): State<Front>,
    Path(name): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let begun = begin(&front, &name, &headers).await;
    let (models, room) = match begun {
        Ok(begun) => begun,
        Err(refusal) => {
            // A client that is still sending when the connection closes never sees the answer.
            tokio::spawn(drain(request.into_body().into_data_stream()));
            return Err(told(&front.metrics, refusal));
        }
    };
    let sent = receive(&models.registry, request).await.map_err(|error| told(&front.metrics, error))?;
    let (workers, metrics) = (Arc::clone(&front.workers), Arc::clone(&front.metrics));
    // Whether or not the client waits for the answer: what was sent is tried, and then deleted.
    let trying = tokio::spawn(async move {
        let tried = try_on(&workers, &name, &sent.order).await;
        sent.files.discard().await;
        drop(room);
        tried.map_err(|error| told(&metrics, error)).inspect(|_| {
            metrics.model_uploads_total.with_label_values(&["taken"]).inc();
        })
    });
    let receipt = trying.await.unwrap_or(Err(ModelsError::TrialLost.into()))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::CREATED, headers, receipt).into_response())
}

/// Counts and logs a refusal.
fn told(metrics: &Metrics, error: ModelsError) -> ApiError {
    error.log();
    let outcome = match &error {
        ModelsError::BrokeOff | ModelsError::TimedOut => "broken_off",
        error if error.status().is_server_error() => "failed",
        _ => "refused",
    };
    metrics.model_uploads_total.with_label_values(&[outcome]).inc();
    error.into()
}

/// Everything that can be said before the body is read.
async fn begin(
    front: &Front,
    name: &str,
    headers: &HeaderMap,
) -> Result<(Arc<Models>, OwnedSemaphorePermit), ModelsError> {
    let models = Arc::clone(models(front)?);
    check_free(name)?;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let most = MAX_MODEL_BYTES + MAX_PICTURE_BYTES + MAX_TEXT_BYTES as u64 + FORM_BYTES;
    if declared.is_some_and(|bytes: u64| bytes > most) {
        return Err(ModelsError::TooLarge { file: "the file", max_bytes: MAX_MODEL_BYTES });
    }
    let room = Arc::clone(&models.uploads).try_acquire_owned().map_err(|_| ModelsError::Busy)?;
    let registry = models.registry.clone();
    tokio::spawn(async move {
        match registry.sweep(FORGOTTEN_AFTER).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "what broken uploads of models left is deleted"),
            Err(error) => tracing::warn!(error = &error as &dyn Error, "sweeping up after uploads of models"),
        }
    });
    Ok((models, room))
}

/// A form as it lies in the store.
struct Sent {
    order: ModelOrder,
    files: Files,
}

/// Streams a form's files into the store. Of one that is refused or breaks off nothing is left.
async fn receive(registry: &Registry, request: Request) -> Result<Sent, ModelsError> {
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| ModelsError::Form(error.body_text()))?;
    let received = read_form(registry, &mut form).await;
    if received.is_err() {
        tokio::spawn(async move {
            let rest = stream::unfold(form, |mut form| async {
                let mut field = form.next_field().await.ok()??;
                let piece = field.chunk().await.ok()?.unwrap_or_default();
                drop(field);
                Some((Ok::<Bytes, Infallible>(piece), form))
            });
            drain(Box::pin(rest)).await;
        });
    }
    received
}

async fn read_form(registry: &Registry, form: &mut Multipart) -> Result<Sent, ModelsError> {
    let files = Files::new(registry);
    let (mut file, mut picture) = (None, None);
    let mut fields = BTreeMap::new();
    let mut left = MAX_TEXT_BYTES;
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name: String = field.name().unwrap_or_default().chars().take(64).collect();
        let twice = || ModelsError::Form(format!("the form has {name:?} twice"));
        let is_new = match name.as_str() {
            "file" => {
                let key = files.take(field, "model.onnx", "the file", MAX_MODEL_BYTES).await?;
                file.replace(key).is_none()
            }
            "picture" => match files.take(field, "picture", "the picture", MAX_PICTURE_BYTES).await? {
                // As browsers send it when none was chosen.
                (_, 0) => true,
                key => picture.replace(key).is_none(),
            },
            _ => {
                let text = read_text(field, &mut left).await?;
                let is_known = Wishes::default().set(&name, &text)? || OTHER_FIELDS.contains(&name.as_str());
                if !is_known {
                    return Err(ModelsError::UnknownField(name));
                }
                fields.insert(name.clone(), text).is_none()
            }
        };
        if !is_new {
            return Err(twice());
        }
    }
    let (file, _) = file.ok_or_else(|| ModelsError::Form("the form has no field named \"file\"".into()))?;
    Ok(Sent { order: ModelOrder { file, picture: picture.map(|(key, _)| key), fields }, files })
}

async fn read_text(mut field: Field<'_>, left: &mut usize) -> Result<String, ModelsError> {
    let mut text = Vec::new();
    while let Some(piece) = piece(&mut field).await? {
        *left = left
            .checked_sub(piece.len())
            .ok_or(ModelsError::TooLarge { file: "the form's text", max_bytes: MAX_TEXT_BYTES as u64 })?;
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).map_err(|_| ModelsError::Form("a text field is not UTF-8".into()))
}

async fn piece(field: &mut Field<'_>) -> Result<Option<Bytes>, ModelsError> {
    next_piece(field).await.map_err(|error| match error {
        UploadError::TimedOut => ModelsError::TimedOut,
        _ => ModelsError::BrokeOff,
    })
}

fn broken(error: MultipartError) -> ModelsError {
    match limits::is_too_slow(&error) {
        true => ModelsError::TimedOut,
        false => ModelsError::Form(error.body_text()),
    }
}

/// A folder of the store that goes when this is dropped.
struct Files {
    registry: Registry,
    /// None once it is gone.
    folder: Option<String>,
}

impl Files {
    fn new(registry: &Registry) -> Self {
        let folder = format!("{INTAKE_PREFIX}/{:032x}", rand::random::<u128>());
        Self { registry: registry.clone(), folder: Some(folder) }
    }

    /// Streams a field into the folder; its key and its bytes.
    async fn take(
        &self,
        mut field: Field<'_>,
        name: &str,
        file: &'static str,
        max_bytes: u64,
    ) -> Result<(String, u64), ModelsError> {
        let key = format!("{}/{name}", self.folder.as_deref().unwrap_or(INTAKE_PREFIX));
        // More than that is told from a full store here.
        let mut writer = self.registry.blobs().writer(&key, max_bytes + 1).await?;
        while let Some(piece) = piece(&mut field).await? {
            if writer.bytes() + piece.len() as u64 > max_bytes {
                return Err(ModelsError::TooLarge { file, max_bytes });
            }
            writer.write(piece).await?;
        }
        let stored = writer.finish().await?;
        Ok((stored.key, stored.bytes))
    }

    async fn discard(mut self) {
        if let Some(folder) = self.folder.take() {
            delete(&self.registry, &folder).await;
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let registry = self.registry.clone();
            runtime.spawn(async move { delete(&registry, &folder).await });
        }
    }
}

async fn delete(registry: &Registry, folder: &str) {
    if let Err(error) = registry.blobs().delete_all(folder).await {
        tracing::warn!(error = &error as &dyn Error, folder, "what was sent of a model is left for now");
    }
}

/// Asks the workers in turn until one has room. A worker that is lost over a model is not followed by the next.
async fn try_on(workers: &Fleet, name: &str, order: &ModelOrder) -> Result<Bytes, ModelsError> {
    let mut refused = ModelsError::NoWorker;
    for worker in workers.in_turn() {
        match worker.take_model(name, order).await {
            Ok(receipt) => return Ok(receipt),
            Err(ModelError::Refused { status, fault, retry_after_s }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                let error = ModelsError::Refused { status, fault, retry_after_s };
                if status != StatusCode::SERVICE_UNAVAILABLE {
                    return Err(error);
                }
                refused = error;
            }
            Err(error @ ModelError::Unreachable { .. }) => {
                tracing::warn!(error = &error as &dyn Error, "a model did not reach a worker");
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "a worker was lost over a model");
                return Err(ModelsError::TrialLost);
            }
        }
    }
    Err(refused)
}
