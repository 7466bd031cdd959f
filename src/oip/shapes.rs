//! The shapes that models have been asked with: ONNX Runtime keeps a plan of its memory for each, and keeps it for good.
//! Pure.

use std::collections::HashMap;

use super::error::OipError;
use crate::inference::batcher::ModelId;
use crate::inference::tensor::Tensor;

/// Different shapes of one model's inputs. Cameras turn and batches differ; nobody needs as many.
const MAX_SHAPES: usize = 256;

/// What is known of every model that has been asked.
#[derive(Debug, Default)]
pub struct Shapes(HashMap<ModelId, Vec<Vec<usize>>>);

impl Shapes {
    /// Notes the shapes of a request, all inputs' as one.
    ///
    /// # Errors
    /// [`OipError::TooManyShapes`] for a new one when the model has had its number.
    pub fn admit(&mut self, model: ModelId, inputs: &[Tensor]) -> Result<(), OipError> {
        let is_of = |shape: &Vec<usize>| shape.iter().eq(inputs.iter().flat_map(|input| &input.shape));
        let known = self.0.entry(model).or_default();
        if known.iter().any(is_of) {
            return Ok(());
        }
        if known.len() == MAX_SHAPES {
            return Err(OipError::TooManyShapes { max: MAX_SHAPES, usual: known[0].clone() });
        }
        known.push(inputs.iter().flat_map(|input| input.shape.iter().copied()).collect());
        Ok(())
    }

    /// Forgets models that are there no longer.
    pub fn keep_only(&mut self, is_there: impl Fn(ModelId) -> bool) {
        self.0.retain(|model, _| is_there(*model));
    }

    /// Models that are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_so_many_shapes_and_no_more() {
        let mut shapes = Shapes::default();
        let of = |side: usize| [Tensor::u8(&[1, side], vec![0; side])];
        for side in 1..=MAX_SHAPES {
            assert_eq!(shapes.admit(ModelId(1), &of(side)), Ok(()));
        }
        assert_eq!(shapes.admit(ModelId(1), &of(7)), Ok(()), "a known one");
        let refused = OipError::TooManyShapes { max: MAX_SHAPES, usual: vec![1, 1] };
        assert_eq!(shapes.admit(ModelId(1), &of(MAX_SHAPES + 1)), Err(refused));
        assert_eq!(shapes.admit(ModelId(2), &of(MAX_SHAPES + 1)), Ok(()), "another model has its own");
        shapes.keep_only(|model| model == ModelId(2));
        assert_eq!((shapes.len(), shapes.admit(ModelId(1), &of(MAX_SHAPES + 1))), (1, Ok(())));
    }
}
