//! Why a request of the protocol was not answered: a status, a stable code and a sentence.

use serde::Serialize;

/// Why a request was refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OipError {
    #[error("there is no model {model:?} here; loaded are {}", loaded.join(", "))]
    UnknownModel { model: String, loaded: Vec<String> },
    #[error("model {model:?} is not loaded in version {version:?}; loaded are {}", loaded.join(", "))]
    UnknownVersion { model: String, version: String, loaded: Vec<String> },
    #[error("the token does not allow {task}")]
    TaskNotAllowed { task: &'static str },
    #[error("the request cannot be read: {reason}")]
    Unreadable { reason: String },
    #[error("{what} is not supported")]
    Unsupported { what: String },
    #[error("the body's encoding {coding:?} is none of gzip, deflate and identity")]
    UnknownCoding { coding: String },
    #[error("input {name:?} is none of the model's, which are {}", known.join(", "))]
    UnknownInput { name: String, known: Vec<String> },
    #[error("input {name:?} is there twice")]
    DoubleInput { name: String },
    #[error("input {name:?} is missing")]
    MissingInput { name: String },
    #[error("output {name:?} is none of the model's, which are {}", known.join(", "))]
    UnknownOutput { name: String, known: Vec<String> },
    #[error("output {name:?} is asked for twice")]
    DoubleOutput { name: String },
    #[error("input {name:?} is {given}, the model takes {expected}")]
    WrongDatatype { name: String, given: String, expected: &'static str },
    #[error("input {name:?} has the shape {given:?}, the model takes {expected:?}")]
    WrongShape { name: String, given: Vec<u64>, expected: Vec<i64> },
    #[error("input {name:?} has {given} bytes, its shape and datatype make {expected}")]
    WrongByteCount { name: String, given: u64, expected: u64 },
    #[error("the binary data ends after {given} bytes, {expected} are declared")]
    BinaryEnds { given: u64, expected: u64 },
    #[error("{left} bytes follow the last input's data")]
    BinaryLeft { left: u64 },
    #[error("input {name:?}: {reason}")]
    WrongData { name: String, reason: String },
    #[error("the request has more than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("input {name:?} has {given} elements, more than {max} would hold live sessions up")]
    TooManyElements { name: String, given: u64, max: usize },
    #[error(
        "this model has been asked with {max} different shapes already: choose one of them, such as {usual:?}"
    )]
    TooManyShapes { max: usize, usual: Vec<usize> },
    #[error("the request was not sent in time")]
    TimedOut,
    #[error("too many requests wait already")]
    Overloaded,
    #[error("the model has just been unloaded")]
    Unloaded,
    #[error("the service is stopping")]
    Stopping,
    #[error("the model failed: {reason}")]
    Failed { reason: String },
}

impl OipError {
    /// The HTTP status that goes with it (RFC 9110 §15).
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } => 404,
            Self::TaskNotAllowed { .. } => 403,
            Self::TooLarge { .. } | Self::TooManyElements { .. } => 413,
            Self::UnknownCoding { .. } => 415,
            Self::TimedOut => 408,
            Self::Overloaded | Self::Unloaded | Self::Stopping => 503,
            Self::Failed { .. } => 500,
            _ => 400,
        }
    }

    /// Stable, in snake case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } => "unknown_model",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::TaskNotAllowed { .. } => "task_not_allowed",
            Self::Unreadable { .. } => "invalid_request",
            Self::Unsupported { .. } => "unsupported",
            Self::UnknownCoding { .. } => "unsupported_encoding",
            Self::UnknownInput { .. } => "unknown_input",
            Self::DoubleInput { .. } => "double_input",
            Self::MissingInput { .. } => "missing_input",
            Self::UnknownOutput { .. } => "unknown_output",
            Self::DoubleOutput { .. } => "double_output",
            Self::WrongDatatype { .. } => "wrong_datatype",
            Self::WrongShape { .. } => "wrong_shape",
            Self::WrongByteCount { .. } | Self::BinaryEnds { .. } | Self::BinaryLeft { .. } => {
                "wrong_byte_count"
            }
            Self::WrongData { .. } => "wrong_data",
            Self::TooLarge { .. } | Self::TooManyElements { .. } => "too_large",
            Self::TooManyShapes { .. } => "too_many_shapes",
            Self::TimedOut => "timed_out",
            Self::Overloaded => "overloaded",
            Self::Unloaded => "unloaded",
            Self::Stopping => "stopping",
            Self::Failed { .. } => "model_failed",
        }
    }

    /// Whether trying again later may help.
    pub fn passes(&self) -> bool {
        self.status() == 503
    }

    /// The body: `error` as the protocol has it, and the code beside it.
    pub fn to_json(&self) -> Vec<u8> {
        body(self.code(), &self.to_string())
    }
}

/// The protocol's body of an error.
pub fn body(code: &str, message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
        code: &'a str,
    }
    serde_json::to_vec(&Body { error: message, code }).expect("two strings are always JSON")
}
