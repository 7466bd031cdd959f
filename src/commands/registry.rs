//! The registry of models as the parts of a process use it.

use std::sync::Arc;

use crate::blobs::Blobs;
use crate::cli::StoreArgs;
use crate::models::registry::Registry;
use crate::signalling::models::Models;
#[cfg(feature = "media")]
use {
    super::recognition::find_library,
    crate::cli::{InferenceArgs, WorkerArgs},
    crate::models::intake::Intake,
    crate::models::trial::Limits,
    crate::trials::desk::TrialDesk,
    anyhow::Context,
};

/// The registry in the store; none, and a warning, where the store cannot be used: live recognition does without.
pub fn open(args: &StoreArgs) -> Option<Registry> {
    match Blobs::open(&args.store) {
        Ok(blobs) => Some(Registry::new(blobs)),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, store = args.store, "no models can be uploaded (--store)");
            None
        }
    }
}

/// What a front needs to tell of models and to take them in.
pub fn front(registry: Option<&Registry>) -> Option<Arc<Models>> {
    registry.map(|registry| Arc::new(Models::new(registry.clone())))
}

/// What a worker needs to try models.
///
/// # Errors
/// When this program or ONNX Runtime cannot be found.
#[cfg(feature = "media")]
pub fn desk(
    registry: Option<&Registry>,
    worker: &WorkerArgs,
    inference: &InferenceArgs,
) -> anyhow::Result<Option<Arc<TrialDesk>>> {
    let Some(registry) = registry else { return Ok(None) };
    let seconds = worker.trial_seconds;
    // Trials have what is left beside live sessions: on a busy machine that takes a while.
    let limits = Limits { wall_seconds: 10 * seconds, ..Limits::of(worker.trial_memory, seconds) };
    let intake = Intake {
        program: std::env::current_exe().context("finding this program")?,
        // The child runs in another folder.
        runtime: std::path::absolute(find_library(inference)?).context("finding ONNX Runtime")?,
        limits,
    };
    Ok(Some(Arc::new(TrialDesk::new(intake, registry.clone()))))
}
