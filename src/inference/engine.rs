//! What the rest of vigie asks of an inference runtime.

use std::path::PathBuf;

use super::tensor::{Outputs, Tensor};

/// Why a model could not be loaded or run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    #[error("ONNX Runtime library not usable at {path}: {reason}")]
    Runtime { path: PathBuf, reason: String },
    #[error("model {path} could not be loaded: {reason}")]
    Load { path: PathBuf, reason: String },
    #[error("model {model} failed to run: {reason}")]
    Run { model: String, reason: String },
    #[error("model {model} is not installed")]
    NotInstalled { model: String },
    #[error("the inference queue is full")]
    Overloaded,
    #[error("the inference service is stopping")]
    Stopped,
}

/// One loaded model on one device, owned by one thread.
pub trait Engine: Send {
    /// Runs one batch. `input` has the batch on axis 0, and so has every output.
    fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError>;

    /// As [`Engine::run`], into `outputs`, whose buffers are used again where they serve.
    fn run_into(&mut self, input: &Tensor, outputs: &mut Outputs) -> Result<(), EngineError> {
        *outputs = self.run(input)?;
        Ok(())
    }
}
