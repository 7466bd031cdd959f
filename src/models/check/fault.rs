//! Why a model file is refused: each fault with a stable code, and where in the file it is.

use std::fmt;

use super::limits::{IR_VERSIONS, MAX_DEPTH, MAX_TEXT_BYTES, MAX_TRIPS, ML_OPSETS, OPSETS};

/// What is wrong with a model file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("this is not an ONNX model")]
    NotOnnx,
    #[error("the file ends before the model does")]
    Truncated,
    #[error("the file is damaged: {0}")]
    Malformed(&'static str),
    #[error("{bytes} bytes are more than the {limit} that are taken")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("IR version {0} is not one from {first} to {last}", first = IR_VERSIONS.start(), last = IR_VERSIONS.end())]
    IrVersion(i64),
    #[error("operator set {version} of {domain:?} is not one that is known ({known})", known = known_opsets(domain))]
    Opset { domain: String, version: i64 },
    #[error(
        "operators of {domain:?} are not standard: only those of ai.onnx and ai.onnx.ml run here, and functions that the \
         model defines out of them"
    )]
    CustomDomain { domain: String },
    #[error(
        "its data is in another file ({location:?}), which is never read; save the model with its data inside"
    )]
    ExternalData { location: String },
    #[error("more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("shape {0} is no shape, or has more elements than any model needs")]
    Dimensions(String),
    #[error("elements of type {0}, which is none that is known")]
    ElementType(i64),
    #[error("{declared} bytes of data are declared, {given} are there")]
    TensorData { declared: u64, given: u64 },
    #[error("text of {0} bytes, {MAX_TEXT_BYTES} at most are taken")]
    LongText(usize),
    #[error("a name is not UTF-8 text")]
    NotText,
    #[error(
        "this loop is not known to end: its trip count must be a constant, and nested ones together at most {MAX_TRIPS}"
    )]
    UnboundedLoop,
    #[error("function {0} calls itself")]
    RecursiveFunction(String),
    #[error("function {0} would replace a standard operator, or is there twice")]
    FunctionName(String),
    #[error("it carries training, which is not run here; export it for inference")]
    Training,
    #[error("the model has no {0}")]
    Missing(&'static str),
}

fn known_opsets(domain: &str) -> String {
    let known = if domain == "ai.onnx.ml" { ML_OPSETS } else { OPSETS };
    format!("{} to {}", known.start(), known.end())
}

impl Fault {
    /// The word by which programs know the fault; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotOnnx => "not_onnx",
            Self::Truncated => "truncated",
            Self::Malformed(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::IrVersion(_) => "ir_version",
            Self::Opset { .. } => "opset",
            Self::CustomDomain { .. } => "custom_domain",
            Self::ExternalData { .. } => "external_data",
            Self::TooMany { .. } => "too_many",
            Self::TooDeep => "too_deep",
            Self::Dimensions(_) => "dimensions",
            Self::ElementType(_) => "element_type",
            Self::TensorData { .. } => "tensor_data",
            Self::LongText(_) => "long_text",
            Self::NotText => "not_text",
            Self::UnboundedLoop => "unbounded_loop",
            Self::RecursiveFunction(_) => "recursive_function",
            Self::FunctionName(_) => "function_name",
            Self::Training => "training",
            Self::Missing(_) => "missing",
        }
    }
}

/// A fault and where it is, from the outside in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CheckError {
    pub fault: Fault,
    /// Such as `node 3 "resize" (Resize)`, then `attribute "value"`; empty for the file as a whole.
    pub place: Vec<String>,
}

impl CheckError {
    pub fn code(&self) -> &'static str {
        self.fault.code()
    }

    /// Says one level further out where it is.
    pub(super) fn within(mut self, place: impl FnOnce() -> String) -> Self {
        self.place.insert(0, place());
        self
    }
}

impl From<Fault> for CheckError {
    fn from(fault: Fault) -> Self {
        Self { fault, place: Vec::new() }
    }
}

impl From<super::wire::WireError> for CheckError {
    fn from(error: super::wire::WireError) -> Self {
        match error {
            // The file itself goes on, or its reader would have said that it is cut short.
            super::wire::WireError::Ends => Fault::Malformed("a part of it ends early").into(),
            super::wire::WireError::Malformed(what) => Fault::Malformed(what).into(),
        }
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.place {
            write!(f, "{place}: ")?;
        }
        self.fault.fmt(f)
    }
}

/// Bytes of a name that a message shows; the rest of a long one is left out.
const SHOWN_BYTES: usize = 80;

/// A name from the file, made safe to show.
pub(super) fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(SHOWN_BYTES)];
    let ending = if cut.len() < name.len() { "…" } else { "" };
    let text = String::from_utf8_lossy(cut);
    let plain: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    plain + ending
}
