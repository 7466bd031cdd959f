//! What the rest of vigie asks of an inference runtime.

use std::path::PathBuf;

use super::rows::{self, Part};
use super::tensor::{Element, Outputs, Tensor};

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

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// `None` for elements that are not taken or given here.
    pub element: Option<Element>,
    /// -1 where the size is free; empty for what is not a tensor.
    pub shape: Vec<i64>,
}

/// What a graph takes and gives, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
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

    /// Runs several requests, whose inputs differ in axis 0 only, as one batch.
    ///
    /// # Errors
    /// As [`Engine::run`], and where an output has not as many rows as the batch.
    fn run_batch(&mut self, parts: &mut [Part<'_>]) -> Result<(), EngineError> {
        rows::run_joined(self, parts)
    }

    /// As [`Engine::run_into`], with a tensor for every input of the graph, in its order.
    ///
    /// # Errors
    /// As [`Engine::run`]; an engine may take no more than one.
    fn run_all(
        &mut self,
        first: &Tensor,
        others: &[Tensor],
        outputs: &mut Outputs,
    ) -> Result<(), EngineError> {
        takes_one("engine", others)?;
        self.run_into(first, outputs)
    }

    /// What the model takes and gives; empty where nobody needs to know.
    fn describe(&self) -> Description {
        Description::default()
    }
}

/// Refuses what `others` has, on behalf of a `model` that takes one input.
pub(super) fn takes_one(model: &str, others: &[Tensor]) -> Result<(), EngineError> {
    if others.is_empty() {
        return Ok(());
    }
    let reason = format!("it takes one input, not {}", 1 + others.len());
    Err(EngineError::Run { model: model.to_owned(), reason })
}
