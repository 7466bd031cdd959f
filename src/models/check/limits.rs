//! What a model file may hold at most. Real detectors stay far below: a large transformer detector has
//! about five thousand nodes and a thousand initialisers.

use std::ops::RangeInclusive;

/// Bytes of the whole file.
pub const MAX_FILE_BYTES: usize = 512 << 20;
/// Versions of ONNX's file format, from 2018 on.
pub const IR_VERSIONS: RangeInclusive<i64> = 3..=13;
/// Operator sets of `ai.onnx`.
pub const OPSETS: RangeInclusive<i64> = 7..=26;
/// Operator sets of `ai.onnx.ml`.
pub const ML_OPSETS: RangeInclusive<i64> = 1..=5;
/// Nodes in all graphs, with every call of a function counted as the function's nodes.
pub const MAX_NODES: usize = 50_000;
/// Initialisers and constants in all graphs and functions.
pub const MAX_TENSORS: usize = 50_000;
/// Inputs or outputs of a node, attributes of a node, inputs or outputs of a graph.
pub const MAX_PORTS: usize = 4096;
/// Inputs and outputs of the model itself.
pub const MAX_MODEL_PORTS: usize = 64;
pub const MAX_FUNCTIONS: usize = 500;
pub const MAX_METADATA: usize = 200;
/// Subgraphs in subgraphs, and types in types.
pub const MAX_DEPTH: usize = 6;
/// Sides of a shape.
pub const MAX_RANK: usize = 16;
/// Elements of one tensor: as bytes they fill the largest file.
pub const MAX_ELEMENTS: u64 = MAX_FILE_BYTES as u64 * 2;
/// Bytes of a name or a text; lists of labels are the longest.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// Rounds of a loop, those of the loops around it multiplied in.
pub const MAX_TRIPS: i64 = 10_000;
/// Names that graphs and their nodes define.
pub const MAX_VALUES: usize = 200_000;
/// Bytes of an operator's name.
pub const MAX_OPERATOR_BYTES: usize = 128;
