//! Detectors of any size in bytes: sound graphs with weights out of thin air, for which one picture is like another.

use crate::models::convert::onnx::{Attribute, Element, OnnxGraph, Side};

/// Pixels of the sides of a model's input, and of its cells.
#[derive(Clone, Copy, Debug)]
pub struct Sides {
    pub input: usize,
    pub cell: usize,
}

const USUAL: Sides = Sides { input: 256, cell: 32 };
/// A box and two classes.
const ROWS: usize = 6;

/// How such a model is to be read.
pub const FIELDS: [(&str, &str); 2] = [("head", "yolo"), ("labels", "this,that")];

/// An ONNX file of about so many bytes, unlike that of any other `seed`.
pub fn model(bytes: usize, seed: u64) -> Vec<u8> {
    model_of(USUAL, bytes, seed)
}

/// The same for pictures of other sides, with more cells than the rows of one.
pub fn model_of(sides: Sides, bytes: usize, seed: u64) -> Vec<u8> {
    let Sides { input: side, cell } = sides;
    let cells = (side / cell).pow(2);
    let wanted = bytes / size_of::<f32>();
    // The first layer has a quarter of the weights.
    let width = (wanted / 4 / (3 * cell * cell)).max(8);
    let mut weights = Weights(seed);
    let mut graph = OnnxGraph::default();
    graph.input("images", Element::Float, &[1, 3, side, side].map(Side::Fixed));
    let stride = cell as i64;
    let strides = ("strides", Attribute::Ints(&[stride, stride]));
    let first = graph.floats(&[width, 3, cell, cell], &weights.take(width * 3 * cell * cell));
    let mut value = graph.node("Conv", &["images", &first], &[strides]);
    let mut left = wanted.saturating_sub(width * 3 * cell * cell + ROWS * width);
    while left > 0 {
        // The last layer is as narrow as what is left; the one after it brings it back.
        let inner = (left / (2 * width)).clamp(1, 4 * width);
        let narrow = graph.floats(&[inner, width, 1, 1], &weights.take(inner * width));
        let hidden = graph.node("Conv", &[&value, &narrow], &[]);
        let hidden = graph.node("Relu", &[&hidden], &[]);
        let wide = graph.floats(&[width, inner, 1, 1], &weights.take(inner * width));
        value = graph.node("Conv", &[&hidden, &wide], &[]);
        left = left.saturating_sub(2 * inner * width);
        if left < 2 * width {
            break;
        }
    }
    let last = graph.floats(&[ROWS, width, 1, 1], &weights.take(ROWS * width));
    let rows = graph.node("Conv", &[&value, &last], &[]);
    let shape = graph.integers(&[1, ROWS as i64, cells as i64]);
    let rows = graph.node("Reshape", &[&rows, &shape], &[]);
    graph.named_node("Sigmoid", &[&rows], &[], &["output0"]);
    graph.output("output0", Element::Float, &[1, ROWS, cells].map(Side::Fixed));
    graph.into_bytes()
}

/// Small numbers on both sides of 0 (xorshift64*).
struct Weights(u64);

impl Weights {
    fn take(&mut self, count: usize) -> Vec<f32> {
        self.0 = self.0.max(1);
        let mut next = || {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
            (bits as f32 / (1u64 << 24) as f32 - 0.5) * 0.02
        };
        (0..count).map(|_| next()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::check;

    #[test]
    fn models_have_their_size_and_are_sound() {
        for bytes in [1_000_000, 10_000_000] {
            let file = model(bytes, 7);
            assert!(file.len().abs_diff(bytes) < bytes / 50, "{} for {bytes}", file.len());
            check::check(&file).expect("it is sound");
        }
        assert_ne!(model(1_000_000, 1), model(1_000_000, 2));
        check::check(&model_of(Sides { input: 64, cell: 16 }, 1_000_000, 1)).expect("it is sound");
    }
}
