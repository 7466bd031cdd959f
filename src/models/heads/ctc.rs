//! CTC (Graves et al., 2006): a character, or none, at each step along a line of text.
//!
//! Source: PP-OCR's readers. Class 0 is the blank; class `n` is the label `n - 1`.

use crate::inference::tensor::Outputs;

use super::{HeadError, best};

/// Characters of one line; what goes on is cut off.
const MAX_CHARACTERS: usize = 256;

/// What one line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineText {
    /// Empty where nothing was made out.
    pub text: String,
    /// The mean probability of its characters, 0 to 1; 0 of no characters.
    pub score: f32,
}

/// Reads each of `rows` lines by its likeliest path: repeats become one, blanks go.
///
/// # Errors
/// [`HeadError::WrongOutputs`] when no output is `[rows, steps, 1 + labels]` of floats.
pub fn decode(outputs: &Outputs, rows: usize, labels: &[String]) -> Result<Vec<LineText>, HeadError> {
    let classes = labels.len() + 1;
    let found = outputs.0.iter().find_map(|(_, tensor)| {
        let values = tensor.as_f32()?;
        let &[lines, steps, width] = tensor.shape.as_slice() else { return None };
        let fits = lines == rows && width == classes && values.len() == lines * steps * width;
        fits.then_some((values, steps))
    });
    let (values, steps) = found.ok_or_else(|| super::wrong_outputs(outputs, "ctc"))?;
    if steps == 0 {
        return Ok(vec![LineText::default(); rows]);
    }
    Ok(values.chunks_exact(steps * classes).map(|line| read(line, labels)).collect())
}

fn read(line: &[f32], labels: &[String]) -> LineText {
    let (mut text, mut sum, mut count) = (String::new(), 0.0, 0);
    let mut last = 0;
    for step in line.chunks_exact(labels.len() + 1) {
        let (class, score) = best(step.iter().copied()).unwrap_or_default();
        if class != 0 && class != last && count < MAX_CHARACTERS {
            text.push_str(&labels[class - 1]);
            sum += score.clamp(0.0, 1.0);
            count += 1;
        }
        last = class;
    }
    LineText { text, score: if count > 0 { sum / count as f32 } else { 0.0 } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::tensor::Tensor;

    fn labels() -> Vec<String> {
        ["a", "b", " "].map(str::to_owned).to_vec()
    }

    /// Each step gives its class this much, and the others nothing.
    fn line(steps: &[(usize, f32)]) -> Vec<f32> {
        let step = |&(class, score): &(usize, f32)| {
            (0..4).map(move |other| if other == class { score } else { 0.0 }).collect::<Vec<_>>()
        };
        steps.iter().flat_map(step).collect()
    }

    #[test]
    fn repeats_become_one_and_blanks_part_them() {
        let cases: [(&[(usize, f32)], &str, f32); 6] = [
            (&[(1, 0.5), (1, 0.9), (2, 1.0), (0, 1.0)], "ab", 0.75),
            (&[(1, 1.0), (0, 1.0), (1, 1.0), (0, 1.0)], "aa", 1.0),
            (&[(1, 1.0), (3, 1.0), (3, 1.0), (2, 1.0)], "a b", 1.0),
            (&[(0, 1.0), (0, 1.0), (0, 1.0), (0, 1.0)], "", 0.0),
            (&[(1, 1.0), (2, 1.0), (1, 1.0), (0, 0.0)], "aba", 1.0),
            (&[(1, f32::NAN), (2, 7.0), (2, 1.0), (0, 1.0)], "b", 1.0),
        ];
        for (steps, text, score) in cases {
            let outputs = Outputs(vec![("softmax".into(), Tensor::f32(&[1, 4, 4], line(steps)))]);
            let lines = decode(&outputs, 1, &labels()).unwrap();
            assert_eq!(lines[0].text, text, "{steps:?}");
            assert!((lines[0].score - score).abs() < 1e-6, "{steps:?}: {}", lines[0].score);
        }
    }

    #[test]
    fn rows_are_read_apart_and_wrong_shapes_are_refused() {
        let values = [line(&[(1, 1.0)]), line(&[(2, 1.0)])].concat();
        let outputs = Outputs(vec![("softmax".into(), Tensor::f32(&[2, 1, 4], values))]);
        let texts: Vec<String> =
            decode(&outputs, 2, &labels()).unwrap().into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["a", "b"]);
        assert!(decode(&outputs, 1, &labels()).is_err());
        assert!(decode(&outputs, 2, &labels()[..2]).is_err());
        let none = Outputs(vec![("softmax".into(), Tensor::f32(&[2, 0, 4], vec![]))]);
        assert_eq!(decode(&none, 2, &labels()).unwrap(), vec![LineText::default(); 2]);
    }

    #[test]
    fn an_endless_line_is_cut_off() {
        let steps: Vec<(usize, f32)> = (0..1000).map(|step| (1 + step % 2, 1.0)).collect();
        let outputs = Outputs(vec![("softmax".into(), Tensor::f32(&[1, 1000, 4], line(&steps)))]);
        assert_eq!(decode(&outputs, 1, &labels()).unwrap()[0].text.len(), MAX_CHARACTERS);
    }
}
