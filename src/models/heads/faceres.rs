//! FaceRes: apparent gender of face crops. Age and descriptor, which the graph also gives, are not read.
//!
//! Source: HSE-asavchenko/HSE_FaceRec_tf, as carried by the package `@vladmandic/human`.

use crate::inference::tensor::Outputs;

use super::{HeadError, read_tensor};

/// How the output's name begins; converters write the rest differently.
const OUTPUT_PREFIX: &str = "gender";

/// Reads, for each crop of the batch, the probability that it looks male; `None` where it is no number.
///
/// # Errors
/// [`HeadError`] when there is no output whose name begins with `gender`, or it is not `[crops, 1]`.
pub fn decode(outputs: &Outputs, crops: usize) -> Result<Vec<Option<f32>>, HeadError> {
    let (name, tensor) = (outputs.0.iter().find(|(name, _)| name.starts_with(OUTPUT_PREFIX)))
        .ok_or_else(|| HeadError::MissingOutput { name: format!("{OUTPUT_PREFIX}…") })?;
    let values = read_tensor(tensor, name, &[Some(crops), Some(1)])?;
    Ok(values.iter().map(|value| (!value.is_nan()).then_some(value.clamp(0.0, 1.0))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::tensor::Tensor;

    #[test]
    fn reads_each_crop() {
        let values = vec![0.25, f32::NAN, 7.0, f32::NEG_INFINITY];
        let outputs = Outputs(vec![
            ("age_pred_Softmax".into(), Tensor::f32(&[4, 100], vec![0.0; 400])),
            ("gender_pred_Sigmoid".into(), Tensor::f32(&[4, 1], values)),
        ]);
        assert_eq!(decode(&outputs, 4), Ok(vec![Some(0.25), None, Some(1.0), Some(0.0)]));
        assert!(matches!(decode(&outputs, 3), Err(HeadError::WrongShape { .. })));
        assert!(matches!(decode(&Outputs::default(), 1), Err(HeadError::MissingOutput { .. })));
    }
}
