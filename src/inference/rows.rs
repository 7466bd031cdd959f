//! Joining requests to one batch along axis 0, and giving each its part of the outputs. Pure.

use super::batcher::ModelId;
use super::engine::EngineError;
use super::tensor::{Outputs, Tensor, TensorData};

/// The batch of a tensor.
pub fn rows_of(tensor: &Tensor) -> usize {
    tensor.shape.first().copied().unwrap_or(1)
}

/// Joins tensors along axis 0; the batcher saw to it that the other axes agree.
pub fn join(inputs: &[&Tensor]) -> Result<Tensor, EngineError> {
    let (first, others) = inputs.split_first().expect("a batch holds at least one request");
    let mut joined = (*first).clone();
    joined.shape[0] = inputs.iter().map(|input| rows_of(input)).sum();
    for input in others {
        match (&mut joined.data, &input.data) {
            (TensorData::U8(to), TensorData::U8(from)) => to.extend(from),
            (TensorData::F32(to), TensorData::F32(from)) => to.extend(from),
            (TensorData::I32(to), TensorData::I32(from)) => to.extend(from),
            (TensorData::I64(to), TensorData::I64(from)) => to.extend(from),
            _ => {
                let reason = "inputs of different element types met in one batch".into();
                return Err(EngineError::Run { model: "batch".into(), reason });
            }
        }
    }
    Ok(joined)
}

/// Gives each request its rows of every output.
pub fn split(model: ModelId, outputs: Outputs, rows: &[usize]) -> Result<Vec<Outputs>, EngineError> {
    if rows.len() == 1 {
        return Ok(vec![outputs]);
    }
    let total: usize = rows.iter().sum();
    let mut shares = vec![Outputs::default(); rows.len()];
    for (name, tensor) in outputs.0 {
        if tensor.shape.first() != Some(&total) {
            let reason = format!("output {name} has shape {:?} for a batch of {total}", tensor.shape);
            return Err(EngineError::Run { model: model.0.to_string(), reason });
        }
        let per_row = tensor.data.len() / total.max(1);
        let mut start = 0;
        for (share, &rows) in shares.iter_mut().zip(rows) {
            let range = start * per_row..(start + rows) * per_row;
            start += rows;
            let data = match &tensor.data {
                TensorData::U8(v) => TensorData::U8(v[range].to_vec()),
                TensorData::F32(v) => TensorData::F32(v[range].to_vec()),
                TensorData::I32(v) => TensorData::I32(v[range].to_vec()),
                TensorData::I64(v) => TensorData::I64(v[range].to_vec()),
            };
            let mut shape = tensor.shape.clone();
            shape[0] = rows;
            share.0.push((name.clone(), Tensor { shape, data }));
        }
    }
    Ok(shares)
}
