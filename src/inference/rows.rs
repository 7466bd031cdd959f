//! Joining requests to one batch along axis 0, and giving each its part of the outputs. Pure.

use super::engine::{Engine, EngineError};
use super::tensor::{Elements, Outputs, Tensor, TensorData};

/// One request of a batch: what goes in, and where its rows of the outputs are left.
#[derive(Debug)]
pub struct Part<'a> {
    pub input: &'a Tensor,
    pub outputs: &'a mut Outputs,
}

impl Part<'_> {
    pub fn rows(&self) -> usize {
        self.input.shape.first().copied().unwrap_or(1)
    }
}

/// Runs `engine` on the requests' inputs as one.
///
/// # Errors
/// The engine's, [`join`]'s and [`share`]'s.
pub fn run_joined(engine: &mut (impl Engine + ?Sized), parts: &mut [Part<'_>]) -> Result<(), EngineError> {
    if let [only] = parts {
        return engine.run_into(only.input, only.outputs);
    }
    let batch = parts.iter().map(Part::rows).sum();
    let outputs = engine.run(&join(parts)?)?;
    let outputs: Vec<_> = outputs.0.iter().map(Output::of).collect();
    share(&outputs, batch, parts)
}

/// Joins the requests' inputs along axis 0; the batcher saw to it that the other axes agree.
///
/// # Errors
/// [`EngineError::Run`] where their elements are of different types.
fn join(parts: &[Part<'_>]) -> Result<Tensor, EngineError> {
    let (first, others) = parts.split_first().expect("a batch holds at least one request");
    let mut joined = first.input.clone();
    joined.shape[0] = parts.iter().map(Part::rows).sum();
    for part in others {
        match (&mut joined.data, &part.input.data) {
            (TensorData::U8(to), TensorData::U8(from)) => to.extend(from),
            (TensorData::F32(to), TensorData::F32(from)) => to.extend(from),
            (TensorData::I32(to), TensorData::I32(from)) => to.extend(from),
            (TensorData::I64(to), TensorData::I64(from)) => to.extend(from),
            _ => return Err(mixed()),
        }
    }
    Ok(joined)
}

fn failure(reason: String) -> EngineError {
    EngineError::Run { model: "batch".into(), reason }
}

/// The error of a batch whose requests have elements of different types.
pub fn mixed() -> EngineError {
    failure("inputs of different element types met in one batch".into())
}

/// One output of a run.
#[derive(Clone, Debug)]
pub struct Output<'a> {
    pub name: &'a str,
    pub shape: Vec<usize>,
    pub elements: Elements<'a>,
}

impl<'a> Output<'a> {
    fn of((name, tensor): &'a (String, Tensor)) -> Self {
        Self { name, shape: tensor.shape.clone(), elements: tensor.data.elements() }
    }
}

/// Gives each request its rows of every output that a model gave for a batch of `batch` rows, of which those after the
/// requests' are nobody's.
///
/// # Errors
/// [`EngineError::Run`] where an output has not as many rows.
pub fn share(outputs: &[Output<'_>], batch: usize, parts: &mut [Part<'_>]) -> Result<(), EngineError> {
    for Output { name, shape, .. } in outputs {
        if shape.first() != Some(&batch) {
            let reason = format!("output {name} has shape {shape:?} for a batch of {batch}");
            return Err(failure(reason));
        }
    }
    let mut start = 0;
    for part in parts {
        let end = start + part.rows();
        part.outputs.0.resize_with(outputs.len(), Default::default);
        for ((known, tensor), output) in part.outputs.0.iter_mut().zip(outputs) {
            tensor.copy_rows(&output.shape, output.elements, start..end);
            output.name.clone_into(known);
        }
        start = end;
    }
    Ok(())
}
