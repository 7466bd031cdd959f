//! What the protocol says of the server and of its models. Pure.

use serde::Serialize;

use super::tensors::{UNKNOWN_DATATYPE, datatype};
use crate::inference::engine::{Description, Port};

/// Of the server.
#[derive(Debug, Serialize)]
pub struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 1],
}

impl Server {
    pub const THIS: Self =
        Self { name: "vigie", version: env!("CARGO_PKG_VERSION"), extensions: ["binary_tensor_data"] };
}

/// Of a model.
#[derive(Debug, Serialize)]
pub struct Model<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: &'static str,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

/// An input or an output.
#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'static str,
    /// -1 where the size is free.
    shape: &'a [i64],
}

impl<'a> Model<'a> {
    pub fn new(name: &'a str, versions: Vec<String>, ports: &'a Description) -> Self {
        let tensors = |ports: &'a [Port]| ports.iter().map(Tensor::of).collect();
        let (inputs, outputs) = (tensors(&ports.inputs), tensors(&ports.outputs));
        Self { name, versions, platform: "onnxruntime_onnx", inputs, outputs }
    }
}

impl<'a> Tensor<'a> {
    fn of(port: &'a Port) -> Self {
        let datatype = port.element.map_or(UNKNOWN_DATATYPE, datatype);
        Self { name: &port.name, datatype, shape: &port.shape }
    }
}

/// An entry of the repository's index.
#[derive(Debug, Serialize)]
pub struct IndexEntry {
    pub name: String,
    pub version: String,
    pub state: &'static str,
    pub reason: &'static str,
}
