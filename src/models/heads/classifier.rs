//! Classifiers: one number for each label.

use crate::inference::tensor::Outputs;

use super::HeadError;

/// How far the sum of what are probabilities may be from one.
const TOLERANCE: f32 = 1e-2;

/// The probabilities of each of `rows` pictures or crops, one for each of `classes` labels.
///
/// Outputs that are no probabilities yet are taken for logits. What is not a number has probability 0.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output holds so many numbers.
pub fn decode(outputs: &Outputs, rows: usize, classes: usize) -> Result<Vec<Vec<f32>>, HeadError> {
    let fits = |shape: &[usize]| {
        // [N, C], [N, C, 1, 1], [C]
        let sides: Vec<usize> = shape.iter().copied().filter(|&side| side != 1).collect();
        shape.iter().product::<usize>() == rows * classes && sides.last() == Some(&classes)
    };
    let values = outputs.0.iter().find_map(|(_, tensor)| tensor.as_f32().filter(|_| fits(&tensor.shape)));
    let Some(values) = values.filter(|values| classes > 0 && values.len() == rows * classes) else {
        return Err(super::wrong_outputs(outputs, "classifier"));
    };
    Ok(values.chunks_exact(classes).map(probabilities).collect())
}

fn probabilities(values: &[f32]) -> Vec<f32> {
    let sum: f32 = values.iter().sum();
    if (sum - 1.0).abs() < TOLERANCE && values.iter().all(|value| (0.0..=1.0).contains(value)) {
        return values.to_vec();
    }
    let largest = values.iter().copied().filter(|value| !value.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let exponents: Vec<f32> = values.iter().map(|value| (value - largest).exp()).collect();
    let sum: f32 = exponents.iter().filter(|value| value.is_finite()).sum();
    let part = |value: &f32| if value.is_finite() && sum > 0.0 { value / sum } else { 0.0 };
    exponents.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::tensor::Tensor;

    fn outputs(shape: &[usize], values: Vec<f32>) -> Outputs {
        Outputs(vec![("output0".into(), Tensor::f32(shape, values))])
    }

    #[test]
    fn probabilities_stay_and_logits_become_such() {
        let rows = decode(&outputs(&[2, 2], vec![0.25, 0.75, 0.0, 3.0_f32.ln()]), 2, 2).unwrap();
        assert_eq!(rows[0], [0.25, 0.75]);
        assert!((rows[1][0] - 0.25).abs() < 1e-6 && (rows[1][1] - 0.75).abs() < 1e-6, "{rows:?}");
        assert_eq!(decode(&outputs(&[1, 2, 1, 1], vec![0.5, 0.5]), 1, 2).unwrap(), [[0.5, 0.5]]);
    }

    #[test]
    fn no_value_makes_it_give_anything_but_probabilities() {
        for values in
            [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [f32::NEG_INFINITY; 2], [f32::NAN; 2], [1e38, -1e38]]
        {
            let rows = decode(&outputs(&[1, 2], values.to_vec()), 1, 2).unwrap();
            assert!(rows[0].iter().all(|p| (0.0..=1.0).contains(p)), "{values:?} {rows:?}");
        }
        assert!(decode(&outputs(&[1, 3], vec![0.0; 3]), 1, 2).is_err());
        assert!(decode(&Outputs::default(), 1, 2).is_err());
    }
}
