//! The rules of the conversion, one toy network each: converted, run by ONNX Runtime, and held against
//! TensorFlow's arithmetic written out here. Then what damaged files do.

use std::fs;

use base64::Engine as _;
use serde_json::{Value, json};
use vigie::inference::engine::Engine;
use vigie::inference::ort::{Device, OrtEngine};
use vigie::inference::tensor::Tensor;
use vigie::models::convert::{ConvertError, Ending, Normalisation, Recipe, convert};

use crate::runtime;

const PLAIN: Recipe =
    Recipe { normalisation: Normalisation::None, free_size: false, ending: Ending::Nodes(&[("out", "out")]) };

/// A network under construction, in TensorFlow.js's two files.
#[derive(Clone, Default)]
struct Toy {
    nodes: Vec<Value>,
    weights: Vec<Value>,
    bytes: Vec<u8>,
}

fn text(text: &str) -> Value {
    json!({ "s": base64::engine::general_purpose::STANDARD.encode(text) })
}

fn sides(side: usize) -> Value {
    let side = side.to_string();
    json!({ "list": { "i": ["1", side, side, "1"] } })
}

impl Toy {
    /// A network that takes `height` × `width` pixels as `x`.
    fn new(height: usize, width: usize) -> Self {
        let dims = [1, height, width, 3].map(|side| json!({ "size": side.to_string() }));
        Self::default().node("x", "Placeholder", &[], json!({ "shape": { "shape": { "dim": dims } } }))
    }

    fn node(mut self, name: &str, op: &str, inputs: &[&str], attributes: Value) -> Self {
        self.nodes.push(json!({ "name": name, "op": op, "input": inputs, "attr": attributes }));
        self
    }

    fn floats(mut self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.nodes.push(json!({ "name": name, "op": "Const" }));
        self.weights.push(json!({ "name": name, "shape": shape, "dtype": "float32" }));
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn integers(mut self, name: &str, shape: &[usize], values: &[i32]) -> Self {
        self.weights.push(json!({ "name": name, "shape": shape, "dtype": "int32" }));
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn convolution(self, name: &str, op: &str, inputs: &[&str], stride: usize, padding: &str) -> Self {
        self.node(name, op, inputs, json!({ "strides": sides(stride), "padding": text(padding) }))
    }

    fn json(&self) -> Vec<u8> {
        let model = json!({
            "modelTopology": { "node": self.nodes },
            "weightsManifest": [{ "weights": self.weights }],
        });
        model.to_string().into_bytes()
    }

    fn convert(&self, recipe: &Recipe) -> Result<Vec<u8>, ConvertError> {
        convert(&self.json(), &self.bytes, recipe)
    }
}

/// Runs the output `out` of an ONNX file on pictures of one size.
fn run(onnx: &[u8], pixels: &[u8], [batch, height, width]: [usize; 3]) -> (Vec<usize>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy.onnx");
    fs::write(&path, onnx).unwrap();
    let mut engine = OrtEngine::load(&runtime(), &path, Device::Cpu, 1).unwrap();
    let outputs = engine.run(&Tensor::u8(&[batch, height, width, 3], pixels.to_vec())).unwrap();
    let out = outputs.find("out").unwrap();
    (out.shape.clone(), out.as_f32().unwrap().to_vec())
}

/// Pixels without a pattern that a wrong order could hide in (a linear congruential generator).
fn pixels(count: usize) -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(20_260_101_u32), next).map(|state| (state >> 24) as u8).take(count).collect()
}

fn weights(count: usize) -> Vec<f32> {
    pixels(count + 7)[7..].iter().map(|&byte| f32::from(byte) / 64.0 - 2.0).collect()
}

fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (at, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= 1e-3 * e.abs().max(1.0), "{what}: value {at} is {a}, not {e}");
    }
}

fn contains(onnx: &[u8], op: &str) -> bool {
    onnx.windows(op.len()).any(|window| window == op.as_bytes())
}

/// TensorFlow's convolution of one NHWC picture of 3 channels with an HWIO kernel.
fn convolve(
    pixels: &[u8],
    side: usize,
    kernel: &[f32],
    k: usize,
    stride: usize,
    same: bool,
    depthwise: bool,
) -> Vec<f32> {
    let last = kernel.len() / (k * k * 3);
    let outputs = if depthwise { 3 * last } else { last };
    let (count, before) = match same {
        true => {
            (side.div_ceil(stride), (((side.div_ceil(stride) - 1) * stride + k).saturating_sub(side)) / 2)
        }
        false => ((side - k) / stride + 1, 0),
    };
    let mut out = Vec::new();
    for (row, column, output) in
        (0..count * count * outputs).map(|n| (n / (count * outputs), n / outputs % count, n % outputs))
    {
        let mut sum = 0.0;
        for (y, x, input) in (0..k * k * 3).map(|n| (n / (3 * k), n / 3 % k, n % 3)) {
            if depthwise && output / last != input {
                continue;
            }
            let (Some(at_y), Some(at_x)) =
                ((row * stride + y).checked_sub(before), (column * stride + x).checked_sub(before))
            else {
                continue;
            };
            if at_y < side && at_x < side {
                sum += f32::from(pixels[(at_y * side + at_x) * 3 + input])
                    * kernel[((y * k + x) * 3 + input) * last + output % last];
            }
        }
        out.push(sum);
    }
    out
}

#[test]
fn convolutions_keep_tensorflows_padding_and_order() {
    // (side, kernel, stride, padding, depthwise, outputs or multiplier)
    let cases = [
        (6, 3, 2, "SAME", false, 4),
        (8, 5, 2, "SAME", false, 2),
        (7, 3, 2, "SAME", false, 2),
        (6, 4, 1, "SAME", false, 2),
        (6, 3, 2, "VALID", false, 2),
        (5, 1, 1, "SAME", false, 5),
        (6, 3, 2, "SAME", true, 1),
        (6, 3, 1, "SAME", true, 2),
    ];
    for case @ (side, k, stride, padding, depthwise, last) in cases {
        let (picture, kernel) = (pixels(side * side * 3), weights(k * k * 3 * last));
        let op = if depthwise { "DepthwiseConv2dNative" } else { "Conv2D" };
        let toy = Toy::new(side, side).floats("w", &[k, k, 3, last], &kernel);
        let onnx = toy.convolution("out", op, &["x", "w"], stride, padding).convert(&PLAIN).unwrap();
        let (_, out) = run(&onnx, &picture, [1, side, side]);
        assert_close(
            &out,
            &convolve(&picture, side, &kernel, k, stride, padding == "SAME", depthwise),
            &format!("{case:?}"),
        );
    }
}

#[test]
fn a_batch_normalisation_moves_into_its_convolution() {
    for (op, depthwise, last) in [("Conv2D", false, 4), ("DepthwiseConv2dNative", true, 2)] {
        let outputs = if depthwise { 3 * last } else { last };
        let (picture, kernel) = (pixels(5 * 5 * 3), weights(3 * 3 * 3 * last));
        let (factors, summands) = (weights(outputs), weights(2 * outputs)[outputs..].to_vec());
        let toy = Toy::new(5, 5)
            .floats("w", &[3, 3, 3, last], &kernel)
            .floats("factor", &[outputs], &factors)
            .floats("summand", &[outputs], &summands)
            .convolution("conv", op, &["x", "w"], 1, "SAME")
            .node("scaled", "Mul", &["conv", "factor"], json!({}));
        let onnx =
            toy.clone().node("out", "AddV2", &["scaled", "summand"], json!({})).convert(&PLAIN).unwrap();
        assert!(!contains(&onnx, "Mul") && !contains(&onnx, "Add"), "{op}: something is left");
        let expected: Vec<f32> = convolve(&picture, 5, &kernel, 3, 1, true, depthwise)
            .iter()
            .enumerate()
            .map(|(at, value)| value * factors[at % outputs] + summands[at % outputs])
            .collect();
        assert_close(&run(&onnx, &picture, [1, 5, 5]).1, &expected, op);

        // What somebody else reads must stay as it is.
        let read_twice = toy.node("out", "Add", &["scaled", "conv"], json!({}));
        let onnx = read_twice.convert(&PLAIN).unwrap();
        let expected: Vec<f32> = convolve(&picture, 5, &kernel, 3, 1, true, depthwise)
            .iter()
            .enumerate()
            .map(|(at, value)| value * factors[at % outputs] + value)
            .collect();
        assert_close(&run(&onnx, &picture, [1, 5, 5]).1, &expected, op);
    }
}

#[test]
fn activations_are_fused_and_stay_the_same() {
    let picture = pixels(4 * 4 * 3);
    // Brought to about -8 ..= 8, where every branch is taken.
    let brought = Toy::new(4, 4)
        .floats("narrow", &[], &[1.0 / 16.0])
        .floats("centre", &[], &[-8.0])
        .floats("zero", &[], &[0.0])
        .floats("three", &[], &[3.0])
        .floats("six", &[], &[6.0])
        .floats("sixth", &[], &[0.166_625_98])
        .node("narrowed", "Mul", &["x", "narrow"], json!({}))
        .node("v", "Add", &["narrowed", "centre"], json!({}));
    let hard = brought.clone().node("plus", "Add", &["v", "three"], json!({})).node(
        "six6",
        "Relu6",
        &["plus"],
        json!({}),
    );
    type Formula = fn(f32) -> f32;
    let cases: [(&str, Toy, &str, &[&str], Formula); 4] = [
        (
            "clip",
            brought
                .clone()
                .node("r", "Relu", &["v"], json!({}))
                .node("m", "Minimum", &["r", "six"], json!({}))
                .node("out", "Maximum", &["m", "zero"], json!({})),
            "Clip",
            &["Relu", "Min", "Max"],
            |v| v.clamp(0.0, 6.0),
        ),
        (
            "hard sigmoid",
            hard.clone().node("out", "Mul", &["sixth", "six6"], json!({})),
            "HardSigmoid",
            &["Clip"],
            |v| (v + 3.0).clamp(0.0, 6.0) / 6.0,
        ),
        (
            "hard swish",
            hard.clone().node("sv", "Mul", &["sixth", "v"], json!({})).node(
                "out",
                "Mul",
                &["sv", "six6"],
                json!({}),
            ),
            "HardSigmoid",
            &["Clip"],
            |v| v * (v + 3.0).clamp(0.0, 6.0) / 6.0,
        ),
        (
            "not a hard swish: the factor is another value",
            hard.node("zv", "Mul", &["sixth", "x"], json!({})).node("out", "Mul", &["zv", "six6"], json!({})),
            "Clip",
            &["HardSigmoid"],
            |v| (v + 8.0) * 16.0 * (v + 3.0).clamp(0.0, 6.0) * 0.166_625_98,
        ),
    ];
    for (what, toy, present, absent, formula) in cases {
        let onnx = toy.convert(&PLAIN).unwrap();
        assert!(contains(&onnx, present), "{what}: no {present}");
        for op in absent {
            assert!(!contains(&onnx, op), "{what}: {op} is left");
        }
        let expected: Vec<f32> =
            picture.iter().map(|&pixel| formula(f32::from(pixel) / 16.0 - 8.0)).collect();
        assert_close(&run(&onnx, &picture, [1, 4, 4]).1, &expected, what);
    }
}

#[test]
fn a_reshape_sees_tensorflows_order_for_any_batch() {
    let picture = pixels(2 * 2 * 4 * 3);
    let toy = Toy::new(2, 4).integers("to", &[3], &[1, 12, 2]);
    let onnx = toy.node("out", "Reshape", &["x", "to"], json!({})).convert(&PLAIN).unwrap();
    let (shape, out) = run(&onnx, &picture, [2, 2, 4]);
    assert_eq!(shape, [2, 12, 2]);
    assert_eq!(out, picture.iter().map(|&pixel| f32::from(pixel)).collect::<Vec<_>>());
}

#[test]
fn an_enlargement_starts_at_corners_not_at_pixel_centres() {
    let picture = pixels(2 * 3 * 3);
    let toy = Toy::new(2, 3).integers("to", &[2], &[4, 6]);
    let onnx = toy.node("out", "ResizeBilinear", &["x", "to"], json!({})).convert(&PLAIN).unwrap();
    let at = |row: usize, column: usize, channel: usize| {
        f32::from(picture[(row.min(1) * 3 + column.min(2)) * 3 + channel])
    };
    let mut expected = Vec::new();
    for (row, column, channel) in (0..4 * 6 * 3).map(|n| (n / 18, n / 3 % 6, n % 3)) {
        let (y, x) = (row / 2, column / 2);
        let along = |line: usize| match column % 2 {
            0 => at(line, x, channel),
            _ => (at(line, x, channel) + at(line, x + 1, channel)) / 2.0,
        };
        expected.push(if row % 2 == 0 { along(y) } else { (along(y) + along(y + 1)) / 2.0 });
    }
    assert_close(&run(&onnx, &picture, [1, 2, 3]).1, &expected, "resize");
}

#[test]
fn channels_are_padded_joined_and_averaged_as_channels() {
    let picture = pixels(2 * 2 * 3);
    let onnx = Toy::new(2, 2)
        .integers("pads", &[4, 2], &[0, 0, 0, 0, 0, 0, 1, 2])
        .integers("axis", &[], &[3])
        .integers("axes", &[2], &[1, 2])
        .node("padded", "Pad", &["x", "pads"], json!({}))
        .node("joined", "ConcatV2", &["padded", "x", "axis"], json!({}))
        .node("out", "Mean", &["joined", "axes"], json!({ "keep_dims": { "b": false } }))
        .convert(&PLAIN)
        .unwrap();
    let mean = |channel: usize| {
        picture.iter().skip(channel).step_by(3).map(|&pixel| f32::from(pixel)).sum::<f32>() / 4.0
    };
    let (r, g, b) = (mean(0), mean(1), mean(2));
    assert_close(&run(&onnx, &picture, [1, 2, 2]).1, &[0.0, r, g, b, 0.0, 0.0, r, g, b], "mean");
}

#[test]
fn a_network_for_bgr_takes_rgb() {
    let picture = [200, 100, 50];
    let (kernel, mean) = (weights(6), [1.0, 2.0, 3.0]);
    let recipe = Recipe { normalisation: Normalisation::BgrMinusMean { mean_rgb: mean }, ..PLAIN };
    let toy = Toy::new(1, 1).floats("w", &[1, 1, 3, 2], &kernel).convolution(
        "out",
        "Conv2D",
        &["x", "w"],
        1,
        "SAME",
    );
    let bgr = [50.0 - 3.0, 100.0 - 2.0, 200.0 - 1.0];
    let expected = [0, 1].map(|output| (0..3).map(|input| bgr[input] * kernel[input * 2 + output]).sum());
    assert_close(&run(&toy.convert(&recipe).unwrap(), &picture, [1, 1, 1]).1, &expected, "BGR");
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let toy = sound();
    assert_eq!(toy.convert(&PLAIN).unwrap(), toy.convert(&PLAIN).unwrap());
}

/// A network with most of what can be damaged.
fn sound() -> Toy {
    Toy::new(4, 4)
        .floats("w", &[3, 3, 3, 2], &weights(54))
        .floats("b", &[2], &[0.5, -0.5])
        .integers("to", &[3], &[1, 4, 2])
        .node(
            "conv",
            "_FusedConv2D",
            &["x", "w", "b"],
            json!({
                "strides": sides(2),
                "padding": text("SAME"),
                "fused_ops": { "list": { "s": [text("BiasAdd")["s"], text("Relu")["s"]] } },
            }),
        )
        .node("out", "Reshape", &["conv:0", "to", "^w"], json!({}))
}

#[test]
fn damaged_files_are_named_errors() {
    let files = |toy: &Toy| (toy.json(), toy.bytes.clone());
    let (json, bytes) = files(&sound());
    assert!(convert(&json, &bytes, &PLAIN).is_ok());
    let error = |json: &[u8], bytes: &[u8]| convert(json, bytes, &PLAIN).unwrap_err().to_string();
    assert_eq!(error(&json[..json.len() / 2], &bytes), "the graph is not a TensorFlow.js graph model");
    assert_eq!(error(b"", &bytes), "the graph is not a TensorFlow.js graph model");
    assert!(
        error(&json, &bytes[..bytes.len() - 1])
            .contains("the weights end after 235 bytes, 236 are described")
    );
    assert!(error(&json, &[&bytes[..], &[0]].concat()).contains("only 236 are described"));

    let edited = |from: &str, to: &str| {
        let json = String::from_utf8(json.clone()).unwrap();
        assert!(json.contains(from), "{from} is not in the network");
        error(json.replace(from, to).as_bytes(), &bytes)
    };
    let cases = [
        (r#""_FusedConv2D""#, r#""FFT""#, "node conv: the operation FFT is not known"),
        (r#""name":"out""#, r#""name":"other""#, "the graph has no node out"),
        (r#"["x","w","b"]"#, r#"["y","w","b"]"#, "node conv: its input 0 is not made before it"),
        (r#"["x","w","b"]"#, r#"["x"]"#, "node conv: its kernel is not a weight of four axes"),
        (r#"["x","w","b"]"#, r#"["x","w","w"]"#, "node conv: its input 2 is not floats of shape [2]"),
        (r#"[3,3,3,2]"#, r#"[3,3,2,3]"#, "node conv: its kernel takes 2 channels, its input has 3"),
        (r#"[3,3,3,2]"#, r#"[3,9,2]"#, "node conv: its kernel is not a weight of four axes"),
        (r#"[3,3,3,2]"#, r#"[0,3,3,2]"#, "only 20 are described"),
        (r#"[3,3,3,2]"#, r#"[4294967296,4294967296,3,2]"#, "weight w: the shape"),
        (r#""float32""#, r#""complex64""#, "weight w: complex64 stored as complex64 is not known"),
        (r#""size":"4""#, r#""size":"-4""#, "node x: the input is not batch, height, width, 3"),
        (r#""1","2","2","1""#, r#""1","0","2","1""#, "node conv: strides is not 1, height, width, 1"),
        (r#""Placeholder""#, r#""Const""#, "the graph has 0 inputs, one is expected"),
        (r#""Reshape""#, r#""Mean""#, "node out: only the mean of a feature map's pixels is known"),
    ];
    for (from, to, expected) in cases {
        let message = edited(from, to);
        assert!(message.contains(expected), "{from} -> {to}: {message}");
    }
}

#[test]
fn what_the_outputs_do_not_need_may_be_unknown() {
    let toy = sound().node("aside", "FFT", &["x"], json!({}));
    assert_eq!(toy.convert(&PLAIN).unwrap(), sound().convert(&PLAIN).unwrap());
}

#[test]
fn a_free_size_refuses_what_would_fix_it() {
    let error = sound().convert(&Recipe { free_size: true, ..PLAIN }).unwrap_err();
    assert_eq!(error.to_string(), "node out: a reshape fixes the size of the picture");
}

#[test]
fn no_damaged_byte_is_a_panic() {
    let (json, bytes) = (sound().json(), sound().bytes);
    for at in 0..json.len() {
        for byte in [b'0', b'9', b'-', b'"', b'x', b']', 0xff] {
            let mut damaged = json.clone();
            damaged[at] = byte;
            drop(convert(&damaged, &bytes, &PLAIN));
        }
    }
}
