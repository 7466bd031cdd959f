//! CenterNet's decoding, as part of the ONNX graph (Zhou et al., "Objects as Points", arXiv:1904.07850).
//!
//! The published graph ends in a decoder that is bound to one picture and one size; this one takes any
//! batch and any size. It finds the peaks of the heat map and gives the boxes around them; thresholds
//! and suppression are the head's.

use super::ConvertError;
use super::emit::{Shape, Tensor};
use super::onnx::{Attribute, Element, OnnxGraph, Side};

/// Peaks that a picture can have, as in the published graph.
const PEAKS: usize = 100;
/// Pixels of the input a cell of the heat map.
const STRIDE: f32 = 4.0;

/// Adds `detections [N, 100, 6]` from the heat map (one channel a class) and the sizes (four channels:
/// the distances from the peak to the left, top, right and bottom in pixels of the input).
pub fn decode(onnx: &mut OnnxGraph, heatmap: &Tensor, sizes: &Tensor) -> Result<(), ConvertError> {
    match (&heatmap.shape, &sizes.shape) {
        (
            Shape::Map { height, width, channels: 1.. },
            Shape::Map { height: same_height, width: same_width, channels: 4 },
        ) if (height, width) == (same_height, same_width) => {}
        _ => return Err(ConvertError::node(&heatmap.name, "heat map and sizes are not maps of one size")),
    }
    let (heatmap, sizes) = (heatmap.name.as_str(), sizes.name.as_str());
    let floats = [("to", Attribute::Int(Element::Float as i64))];
    let second_axis = [("axis", Attribute::Int(2))];

    // A cell is a peak where it is the highest of the nine around it.
    let window = [
        ("kernel_shape", Attribute::Ints(&[3, 3])),
        ("strides", Attribute::Ints(&[1, 1])),
        ("pads", Attribute::Ints(&[1, 1, 1, 1])),
    ];
    let highest = onnx.node("MaxPool", &[heatmap], &window);
    let is_peak = onnx.node("Equal", &[heatmap, &highest], &[]);
    let zero = onnx.scalar(0.0);
    let peaks = onnx.node("Where", &[&is_peak, heatmap, &zero], &[]);

    // Classes lie one after the other: an index is class * area + row * width + column.
    let shape = onnx.node("Shape", &[heatmap], &[]);
    let (two, three, four) = (onnx.integers(&[2]), onnx.integers(&[3]), onnx.integers(&[4]));
    let height = onnx.node("Slice", &[&shape, &two, &three], &[]);
    let width = onnx.node("Slice", &[&shape, &three, &four], &[]);
    let area = onnx.node("Mul", &[&height, &width], &[]);
    let rows = onnx.integers(&[0, -1]);
    let flat = onnx.node("Reshape", &[&peaks, &rows], &[]);
    let count = onnx.integers(&[PEAKS as i64]);
    onnx.named_node("TopK", &[&flat, &count], &[("axis", Attribute::Int(1))], &["scores", "indices"]);
    let (class, cell) = divide(onnx, "indices", &area);
    let (row, column) = divide(onnx, &cell, &width);

    let ordered = onnx.node("Transpose", &[sizes], &[("perm", Attribute::Ints(&[0, 2, 3, 1]))]);
    let cells = onnx.integers(&[0, -1, 4]);
    let ordered = onnx.node("Reshape", &[&ordered, &cells], &[]);
    let cell = onnx.node("Unsqueeze", &[&cell, &two], &[]);
    let around = onnx.node("GatherND", &[&ordered, &cell], &[("batch_dims", Attribute::Int(1))]);
    let zeroth = onnx.integers(&[0]);
    let left_top = onnx.node("Slice", &[&around, &zeroth, &two, &two], &[]);
    let right_bottom = onnx.node("Slice", &[&around, &two, &four, &two], &[]);

    let centre = [&column, &row].map(|value| {
        let value = onnx.node("Cast", &[value], &floats);
        onnx.node("Unsqueeze", &[&value, &two], &[])
    });
    let centre = onnx.node("Concat", &[&centre[0], &centre[1]], &second_axis);
    let stride = onnx.scalar(STRIDE);
    let centre = onnx.node("Mul", &[&centre, &stride], &[]);
    let from = onnx.node("Sub", &[&centre, &left_top], &[]);
    let to = onnx.node("Add", &[&centre, &right_bottom], &[]);
    let score = onnx.node("Unsqueeze", &["scores", &two], &[]);
    let class = onnx.node("Cast", &[&class], &floats);
    let class = onnx.node("Unsqueeze", &[&class, &two], &[]);
    onnx.named_node("Concat", &[&from, &to, &score, &class], &second_axis, &["detections"]);
    onnx.output("detections", Element::Float, &[Side::Named("N"), Side::Fixed(PEAKS), Side::Fixed(6)]);
    Ok(())
}

/// Quotient and remainder. Not by Mod, which fewer execution providers have for 64-bit integers.
fn divide(onnx: &mut OnnxGraph, value: &str, by: &str) -> (String, String) {
    let quotient = onnx.node("Div", &[value, by], &[]);
    let whole = onnx.node("Mul", &[&quotient, by], &[]);
    let remainder = onnx.node("Sub", &[value, &whole], &[]);
    (quotient, remainder)
}
