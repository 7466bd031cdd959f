//! Reads an ONNX file before any runtime does, and refuses what no detector needs.
//!
//! [`wire`] reads protobuf, [`tensor`] tensors and types, [`walk`] graphs and functions, [`model`] the rest; [`limits`] has the
//! bounds and [`fault`] what is said when one is passed. All of it is pure: bytes in, a [`Summary`] or a
//! [`CheckError`] out, in one pass over the file, in memory that depends on the limits and not on the file.
//!
//! What it cannot know is what a graph does when it runs: how long, and in how much memory. Loops are
//! taken only with a constant trip count; the rest is found out by a trial in a process of its own.

mod fault;
mod limits;
mod model;
mod tensor;
mod walk;
mod wire;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use fault::{CheckError, Fault};
pub use limits::MAX_FILE_BYTES;

/// The type of a tensor's elements, as ONNX numbers them (`TensorProto.DataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    Float = 1,
    Uint8,
    Int8,
    Uint16,
    Int16,
    Int32,
    Int64,
    Text,
    Bool,
    Float16,
    Double,
    Uint32,
    Uint64,
    Complex64,
    Complex128,
    Bfloat16,
    /// Any of 8 bits.
    Float8,
    /// Any of 4 bits.
    Small4,
    /// Any of 2 bits.
    Small2,
}

impl Element {
    fn of(number: i64) -> Option<Self> {
        use Element::*;
        const PLAIN: [Element; 16] = [
            Float, Uint8, Int8, Uint16, Int16, Int32, Int64, Text, Bool, Float16, Double, Uint32, Uint64,
            Complex64, Complex128, Bfloat16,
        ];
        match number {
            1..=16 => Some(PLAIN[number as usize - 1]),
            17..=20 | 24 => Some(Float8),
            21..=23 => Some(Small4),
            25 | 26 => Some(Small2),
            _ => None,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Small2 => 2,
            Self::Small4 => 4,
            Self::Uint8 | Self::Int8 | Self::Bool | Self::Float8 | Self::Text => 8,
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::Bfloat16 => 16,
            Self::Float | Self::Int32 | Self::Uint32 => 32,
            Self::Int64 | Self::Double | Self::Uint64 | Self::Complex64 => 64,
            Self::Complex128 => 128,
        }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    /// `None` for what is not a tensor, or not said.
    pub element: Option<Element>,
    /// `None` where the number of sides is not said; a free side is `None`.
    pub shape: Option<Vec<Option<usize>>>,
}

/// What a sound file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub bytes: usize,
    pub ir_version: i64,
    /// Of `ai.onnx`.
    pub opset: i64,
    pub producer: String,
    /// Without those that are initialisers.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub metadata: BTreeMap<String, String>,
    pub nodes: usize,
    /// Elements of all initialisers and constants.
    pub parameters: u64,
    /// How often each operator stands in the file.
    pub operators: BTreeMap<String, usize>,
}

/// Checks an ONNX file.
///
/// # Errors
/// [`CheckError`], with a stable code, for whatever is not taken.
pub fn check(file: &[u8]) -> Result<Summary, CheckError> {
    if file.len() > MAX_FILE_BYTES {
        let (bytes, limit) = (file.len() as u64, MAX_FILE_BYTES as u64);
        return Err(Fault::TooLarge { bytes, limit }.into());
    }
    // ONNX Runtime takes a buffer with this mark for a file in its own format, which nobody has checked.
    if file.get(4..8) == Some(b"ORTM") {
        return Err(Fault::NotOnnx.into());
    }
    model::check(file)
}

/// Text of a bearable length.
fn checked_text(text: &[u8]) -> Result<&[u8], CheckError> {
    match text.len() {
        length if length > limits::MAX_TEXT_BYTES => Err(Fault::LongText(length).into()),
        _ => Ok(text),
    }
}

fn utf8(text: &[u8]) -> Result<&str, CheckError> {
    std::str::from_utf8(text).map_err(|_| Fault::NotText.into())
}
