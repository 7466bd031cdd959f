//! Reads a TensorFlow.js graph model into a typed graph.
//!
//! The format: `model.json` holds a TensorFlow `GraphDef` as JSON (64-bit integers as strings, byte
//! strings in base64) and a list of weights; the `.bin` file holds their values one after the other,
//! little-endian, some of them stored as float16. Layouts stay TensorFlow's here: NHWC and HWIO.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use half::f16;
use serde::Deserialize;
use serde_json::Value;

use super::ConvertError;

/// Pixels; far above any real input.
const MAX_SIDE: usize = 1 << 15;

/// A graph in TensorFlow's terms; nodes stand after what they read.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub constants: HashMap<String, Constant>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub op: Op,
    /// Nodes and constants by name.
    pub inputs: Vec<String>,
}

/// What is added or cut off after an operation, in the same node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    /// Clipped to 0 ..= the value.
    Clip(f32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    Same,
    Valid,
}

/// A convolution; its kernel is input 1, its bias, if it has one, input 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convolution {
    pub depthwise: bool,
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    pub padding: Padding,
    pub biased: bool,
    pub activation: Activation,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The picture: height, width, channels.
    Input([usize; 3]),
    Convolution(Convolution),
    Add,
    Multiply,
    Minimum,
    Maximum,
    Activation(Activation),
    Sigmoid,
    /// `clip(x * slope + 0.5, 0, 1)`; made by [`super::rewrite`].
    HardSigmoid,
    /// `x * hard_sigmoid(x)`; made by [`super::rewrite`].
    HardSwish,
    MaxPool {
        size: [usize; 2],
        strides: [usize; 2],
        padding: Padding,
    },
    Pad,
    /// The mean over some axes.
    Mean {
        keeps_axes: bool,
    },
    /// `input 0 · input 1 + input 2`.
    Dense(Activation),
    /// To the size in input 1, pixels at multiples of the scale (not of pixel centres).
    ResizeBilinear,
    Concat,
    Reshape,
    Identity,
    /// An error only if the outputs need it.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

/// A weight or a parameter, row-major; the shape holds exactly the values.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    pub shape: Vec<usize>,
    pub values: Values,
}

impl Constant {
    pub fn floats(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(values) => Some(values),
            Values::I32(_) => None,
        }
    }

    pub fn integers(&self) -> Option<&[i32]> {
        match &self.values {
            Values::I32(values) => Some(values),
            Values::F32(_) => None,
        }
    }

    /// The value of a constant that has one only.
    pub fn scalar(&self) -> Option<f32> {
        match self.floats() {
            Some([value]) => Some(*value),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    model_topology: Topology,
    weights_manifest: Vec<WeightGroup>,
}

#[derive(Deserialize)]
struct Topology {
    node: Vec<RawNode>,
}

#[derive(Deserialize)]
struct RawNode {
    name: String,
    op: String,
    #[serde(default)]
    input: Vec<String>,
    #[serde(default)]
    attr: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct WeightGroup {
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    quantization: Option<Quantization>,
}

#[derive(Deserialize)]
struct Quantization {
    dtype: String,
}

/// Reads `model.json` and its weights.
pub fn read(json: &[u8], weights: &[u8]) -> Result<Graph, ConvertError> {
    let model: Model = serde_json::from_slice(json).map_err(ConvertError::Unreadable)?;
    let described = model.weights_manifest.into_iter().flat_map(|group| group.weights);
    let constants = read_weights(described, weights)?;
    let nodes = model.model_topology.node.iter().filter(|node| node.op != "Const");
    let nodes = nodes.map(read_node).collect::<Result<Vec<_>, _>>()?;
    let inputs = nodes.iter().filter(|node| matches!(node.op, Op::Input(_))).count();
    if inputs != 1 {
        return Err(ConvertError::Inputs(inputs));
    }
    Ok(Graph { nodes, constants })
}

fn read_weights(
    described: impl Iterator<Item = Weight>,
    bytes: &[u8],
) -> Result<HashMap<String, Constant>, ConvertError> {
    let mut constants = HashMap::new();
    let mut at = 0_usize;
    for weight in described {
        let bad = |reason: String| ConvertError::BadWeight { weight: weight.name.clone(), reason };
        let stored = weight.quantization.as_ref().map_or(weight.dtype.as_str(), |q| q.dtype.as_str());
        let width = match (weight.dtype.as_str(), stored) {
            ("float32", "float16") => 2,
            ("float32", "float32") | ("int32", "int32") => 4,
            (as_type, stored) => return Err(bad(format!("{as_type} stored as {stored} is not known"))),
        };
        let count = element_count(&weight.shape)
            .ok_or_else(|| bad(format!("the shape {:?} is too large", weight.shape)))?;
        let end = at.saturating_add(count.saturating_mul(width));
        let raw =
            bytes.get(at..end).ok_or(ConvertError::WeightsCutShort { needed: end, actual: bytes.len() })?;
        at = end;
        let values = match stored {
            "float16" => {
                Values::F32(raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect())
            }
            "float32" => Values::F32(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            _ => Values::I32(raw.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        };
        constants.insert(weight.name, Constant { shape: weight.shape, values });
    }
    if at != bytes.len() {
        return Err(ConvertError::WeightsLeftOver { needed: at, actual: bytes.len() });
    }
    Ok(constants)
}

/// Elements of a tensor; `None` for sides or products beyond any real model.
fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side)).filter(|&count| count <= 1 << 28)
}

fn read_node(raw: &RawNode) -> Result<Node, ConvertError> {
    let attributes = Attributes { node: raw };
    let op = match raw.op.as_str() {
        "Placeholder" => Op::Input(attributes.picture()?),
        "Conv2D" | "_FusedConv2D" => Op::Convolution(attributes.convolution(false)?),
        "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative" => {
            Op::Convolution(attributes.convolution(true)?)
        }
        "Add" | "AddV2" => Op::Add,
        "Mul" => Op::Multiply,
        "Minimum" => Op::Minimum,
        "Maximum" => Op::Maximum,
        "Relu" => Op::Activation(Activation::Relu),
        "Relu6" => Op::Activation(Activation::Clip(6.0)),
        "Sigmoid" => Op::Sigmoid,
        "MaxPool" => Op::MaxPool {
            size: attributes.pair("ksize")?,
            strides: attributes.pair("strides")?,
            padding: attributes.padding()?,
        },
        "Pad" => Op::Pad,
        "Mean" => Op::Mean { keeps_axes: attributes.flag("keep_dims") },
        "_FusedMatMul" => match attributes.fused()? {
            (true, activation) if !attributes.flag("transpose_a") && !attributes.flag("transpose_b") => {
                Op::Dense(activation)
            }
            _ => return Err(attributes.bad("only a plain product with a bias is known")),
        },
        "ResizeBilinear" if attributes.flag("align_corners") || attributes.flag("half_pixel_centers") => {
            return Err(attributes.bad("only resizing without aligned corners and pixel centres is known"));
        }
        "ResizeBilinear" => Op::ResizeBilinear,
        "ConcatV2" => Op::Concat,
        "Reshape" => Op::Reshape,
        "Identity" => Op::Identity,
        other => Op::Unknown(other.to_owned()),
    };
    // `^node` orders execution only; `node:0` is the node's first output, as `node` is.
    let data = raw.input.iter().filter(|input| !input.starts_with('^'));
    let inputs = data.map(|input| input.strip_suffix(":0").unwrap_or(input).to_owned()).collect();
    Ok(Node { name: raw.name.clone(), op, inputs })
}

/// The attributes of a node, read by their types.
struct Attributes<'a> {
    node: &'a RawNode,
}

impl Attributes<'_> {
    fn bad(&self, reason: impl Into<String>) -> ConvertError {
        ConvertError::node(&self.node.name, reason)
    }

    fn flag(&self, key: &str) -> bool {
        self.node.attr.get(key).and_then(|value| value["b"].as_bool()).unwrap_or(false)
    }

    /// The middle two of four integers: height and width in NHWC.
    fn pair(&self, key: &str) -> Result<[usize; 2], ConvertError> {
        let list = self.node.attr.get(key).and_then(|value| value["list"]["i"].as_array());
        let numbers: Option<Vec<usize>> = list.and_then(|list| list.iter().map(read_integer).collect());
        match numbers.as_deref() {
            Some([1, height, width, 1]) if (1..=64).contains(height) && (1..=64).contains(width) => {
                Ok([*height, *width])
            }
            _ => Err(self.bad(format!("{key} is not 1, height, width, 1, with sides of 1 to 64"))),
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.node.attr.get(key).and_then(|value| read_text(&value["s"]))
    }

    fn padding(&self) -> Result<Padding, ConvertError> {
        match self.text("padding").as_deref() {
            Some("SAME") => Ok(Padding::Same),
            Some("VALID") => Ok(Padding::Valid),
            other => Err(self.bad(format!("the padding {other:?} is not known"))),
        }
    }

    /// Whether a bias was fused into the node, and which activation.
    fn fused(&self) -> Result<(bool, Activation), ConvertError> {
        let list = self.node.attr.get("fused_ops").and_then(|value| value["list"]["s"].as_array());
        let ops: Vec<_> = list.into_iter().flatten().map(|op| read_text(op).unwrap_or_default()).collect();
        match ops.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => Ok((false, Activation::None)),
            ["BiasAdd"] => Ok((true, Activation::None)),
            ["BiasAdd", "Relu"] => Ok((true, Activation::Relu)),
            ["BiasAdd", "Relu6"] => Ok((true, Activation::Clip(6.0))),
            other => Err(self.bad(format!("the fused operations {other:?} are not known"))),
        }
    }

    fn convolution(&self, depthwise: bool) -> Result<Convolution, ConvertError> {
        if self.text("data_format").is_some_and(|format| format != "NHWC") {
            return Err(self.bad("only NHWC is known"));
        }
        let (biased, activation) = self.fused()?;
        let dilations = match self.node.attr.contains_key("dilations") {
            true => self.pair("dilations")?,
            false => [1, 1],
        };
        let (strides, padding) = (self.pair("strides")?, self.padding()?);
        Ok(Convolution { depthwise, strides, dilations, padding, biased, activation })
    }

    fn picture(&self) -> Result<[usize; 3], ConvertError> {
        let dims = self.node.attr.get("shape").and_then(|value| value["shape"]["dim"].as_array());
        let sides: Option<Vec<usize>> =
            dims.and_then(|dims| dims.iter().skip(1).map(|dim| read_integer(&dim["size"])).collect());
        match sides.as_deref() {
            Some(&[height, width, 3])
                if (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width) =>
            {
                Ok([height, width, 3])
            }
            _ => Err(self.bad("the input is not batch, height, width, 3")),
        }
    }
}

fn read_integer(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| usize::try_from(number).ok()),
    }
}

fn read_text(value: &Value) -> Option<String> {
    let bytes = BASE64.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}
