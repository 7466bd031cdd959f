//! One model after another: fetched from the store, checked, tried on a thread of the lowest priority, put into the registry.
//!
//! Few may wait; whoever comes then is told to come back. The file is in memory once, and only while it is its turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use tokio::sync::{Semaphore, oneshot};

use crate::blobs::{BlobError, Blobs};
use crate::cluster::models::ModelOrder;
use crate::inference::service::lowest_priority;
use crate::models::check::MAX_FILE_BYTES;
use crate::models::heads::recognise::Wishes;
use crate::models::heads::recognise::fields::FieldError;
use crate::models::intake::{Candidate, Examined, Intake, PICTURE, Refusal};
use crate::models::manifest::Provenance;
use crate::models::receipt::Receipt;
use crate::models::registry::{INTAKE_PREFIX, Registry, RegistryError, check_free};

/// Models that are taken in or wait for it at a time.
const PLACES: usize = 4;
/// Bytes of a picture file to try a model on: as much as posted pictures may have.
const MAX_PICTURE_BYTES: u64 = 32 << 20;

/// Why a model was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum TrialFault {
    #[error("other models wait to be tried already")]
    Busy,
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "this worker's store ({store}) has no such upload: fronts and workers need one --store that all of them share"
    )]
    NotShared { store: String },
    #[error("{key} is no upload")]
    NoUpload { key: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the trial's thread could not be started")]
    NotStarted(#[source] std::io::Error),
    #[error("the trial ended without a word; this is a fault of vigie's own")]
    Lost,
}

/// Where models are taken in.
pub struct TrialDesk {
    intake: Intake,
    registry: Registry,
    /// Of those that are there at all, and of the one whose turn it is.
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

impl TrialDesk {
    pub fn new(intake: Intake, registry: Registry) -> Self {
        let (places, turn) = (Arc::new(Semaphore::new(PLACES)), Arc::new(Semaphore::new(1)));
        Self { intake, registry, places, turn }
    }

    /// Takes a model in as the next version of `name`. Once its turn has come it is tried to the end, whether or not anybody
    /// still waits for the answer.
    ///
    /// # Errors
    /// [`TrialFault`]; no version is made then.
    pub async fn take(self: &Arc<Self>, name: &str, order: ModelOrder) -> Result<Receipt, TrialFault> {
        check_free(name)?;
        let (wishes, provenance) = read(&order.fields)?;
        let _place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| TrialFault::Busy)?;
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| TrialFault::Lost)?;
        let (desk, name) = (Arc::clone(self), name.to_owned());
        let taking = tokio::spawn(async move {
            let taken = desk.take_in_turn(&name, &order, wishes, provenance).await;
            drop(turn);
            taken
        });
        taking.await.unwrap_or(Err(TrialFault::Lost))
    }

    async fn take_in_turn(
        &self,
        name: &str,
        order: &ModelOrder,
        wishes: Wishes,
        provenance: Provenance,
    ) -> Result<Receipt, TrialFault> {
        let onnx = self.read_upload(&order.file, MAX_FILE_BYTES as u64).await?;
        let picture = match &order.picture {
            Some(key) => self.read_upload(key, MAX_PICTURE_BYTES).await?,
            None => Bytes::from_static(PICTURE),
        };
        let examined = self.examine(name, onnx.clone(), wishes, provenance, picture).await?;
        let began = Instant::now();
        let drawn = Bytes::copy_from_slice(&examined.drawn);
        let (manifest, was_known) = self.registry.add(&examined.manifest, onnx, drawn).await?;
        tracing::info!(model = %manifest.name, version = manifest.version, was_known, "a model was taken in");
        Ok(Receipt::new(&examined, manifest, was_known, began.elapsed()))
    }

    /// On a thread of its own, whose priority the trial's process has from it.
    async fn examine(
        &self,
        name: &str,
        onnx: Bytes,
        wishes: Wishes,
        provenance: Provenance,
        picture: Bytes,
    ) -> Result<Examined, TrialFault> {
        let (intake, name) = (self.intake.clone(), name.to_owned());
        let (done, outcome) = oneshot::channel();
        let examine = move || {
            lowest_priority();
            let candidate = Candidate { name: &name, onnx: &onnx, wishes, provenance, picture: &picture };
            // Nobody waits any longer when the process ends.
            let _ = done.send(intake.examine(&candidate));
        };
        let thread = std::thread::Builder::new().name("trial".to_owned());
        thread.spawn(examine).map_err(TrialFault::NotStarted)?;
        Ok(outcome.await.map_err(|_| TrialFault::Lost)??)
    }

    async fn read_upload(&self, key: &str, max_bytes: u64) -> Result<Bytes, TrialFault> {
        let is_upload = key.strip_prefix(INTAKE_PREFIX).is_some_and(|rest| rest.starts_with('/'));
        is_upload
            .then_some(())
            .ok_or_else(|| TrialFault::NoUpload { key: key.chars().take(100).collect() })?;
        let blobs = self.registry.blobs();
        read_whole(blobs, key, max_bytes).await.map_err(|error| match error {
            BlobError::NotFound { .. } => TrialFault::NotShared { store: blobs.name().to_owned() },
            error => RegistryError::from(error).into(),
        })
    }
}

async fn read_whole(blobs: &Blobs, key: &str, max_bytes: u64) -> Result<Bytes, BlobError> {
    let meta = blobs.head(key).await?;
    if meta.bytes > max_bytes {
        return Err(BlobError::TooLarge { max_bytes });
    }
    let mut pieces = blobs.read(&meta, 0..meta.bytes).await?;
    let mut whole = BytesMut::with_capacity(usize::try_from(meta.bytes).unwrap_or_default());
    while let Some(piece) = pieces.try_next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// What the fields say of a model.
fn read(fields: &BTreeMap<String, String>) -> Result<(Wishes, Provenance), FieldError> {
    let mut wishes = Wishes::default();
    for (field, text) in fields {
        // Others are for the provenance, or of a newer front.
        wishes.set(field, text)?;
    }
    let said = |field: &str| fields.get(field).map(|text| text.trim()).filter(|text| !text.is_empty());
    Ok((wishes, Provenance::stated(said("source").unwrap_or("uploaded"), said("licence"))))
}
