//! DB (Liao et al., 2020): a map of how surely each pixel belongs to a line of text.
//!
//! Source: PP-OCR's detectors. What the map's bright regions are, as lines in the picture, is found by
//! [`crate::pipeline::text`], which may work on pixels.

use crate::inference::tensor::Outputs;

use super::HeadError;

/// The map of one picture: `height` rows of `width` values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextMap<'a> {
    /// 0 to 1, row by row.
    pub values: &'a [f32],
    pub width: usize,
    pub height: usize,
}

/// Reads the map of a batch of one.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output is `[1, 1, height, width]` of floats.
pub fn decode(outputs: &Outputs) -> Result<TextMap<'_>, HeadError> {
    let map = outputs.0.iter().find_map(|(_, tensor)| {
        let values = tensor.as_f32()?;
        let &[1, 1, height, width] = tensor.shape.as_slice() else { return None };
        let fits = width > 0 && height > 0 && width.checked_mul(height) == Some(values.len());
        fits.then_some(TextMap { values, width, height })
    });
    map.ok_or_else(|| super::wrong_outputs(outputs, "db"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::tensor::Tensor;

    #[test]
    fn a_map_is_read_and_nothing_else() {
        let outputs = Outputs(vec![
            ("other".into(), Tensor::u8(&[1, 1, 2, 3], vec![0; 6])),
            ("map".into(), Tensor::f32(&[1, 1, 2, 3], vec![0.5; 6])),
        ]);
        let map = decode(&outputs).unwrap();
        assert_eq!((map.width, map.height, map.values.len()), (3, 2, 6));
        for shape in [&[1, 2, 3][..], &[2, 1, 1, 3], &[1, 2, 1, 3]] {
            let outputs = Outputs(vec![("map".into(), Tensor::f32(shape, vec![0.5; 6]))]);
            assert!(matches!(decode(&outputs), Err(HeadError::WrongOutputs { head: "db", .. })), "{shape:?}");
        }
        let empty = Outputs(vec![("map".into(), Tensor::f32(&[1, 1, 0, 3], vec![]))]);
        assert!(decode(&empty).is_err());
    }
}
