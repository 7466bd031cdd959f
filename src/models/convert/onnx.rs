//! Writes ONNX: a graph that grows node by node, and the protobuf bytes of the whole.
//!
//! Field numbers are those of `onnx.proto3` (ONNX 1.12: IR version 8, operator set 17).

use std::collections::HashMap;

const IR_VERSION: i64 = 8;
const OPERATOR_SET: i64 = 17;
/// Initialisers up to this many bytes are looked for among the earlier ones and shared.
const SHARED_BYTES: usize = 256;

/// `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    Float = 1,
    Uint8 = 2,
    Int64 = 7,
}

#[derive(Clone, Copy, Debug)]
pub enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
}

/// One side of an input's or output's shape.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Fixed(usize),
    /// Free; sides of the same name are the same.
    Named(&'static str),
}

/// A protobuf message under construction (protobuf encoding, "wire types").
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    fn int(mut self, field: u32, value: i64) -> Self {
        self.key(field, 0);
        // Negative numbers are written as their two's complement in 64 bits.
        self.varint(value as u64);
        self
    }

    fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u32, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }
}

/// An ONNX graph under construction; values are known by their names.
#[derive(Default)]
pub struct OnnxGraph {
    nodes: Vec<Message>,
    initialisers: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
    shared: HashMap<(Element, Vec<usize>, Vec<u8>), String>,
}

impl OnnxGraph {
    /// Adds a node with one output and returns the output's name.
    pub fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let name = format!("{}_{}", op.to_lowercase(), self.nodes.len());
        self.named_node(op, inputs, attributes, &[&name]);
        name
    }

    /// Adds a node whose outputs have the given names.
    pub fn named_node(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
        outputs: &[&str],
    ) {
        let mut node = Message::default();
        for input in inputs {
            node = node.bytes(1, input.as_bytes());
        }
        for output in outputs {
            node = node.bytes(2, output.as_bytes());
        }
        node = node.bytes(3, format!("{op}_{}", self.nodes.len()).as_bytes()).bytes(4, op.as_bytes());
        for (name, value) in attributes {
            node = node.message(5, &attribute(name, value));
        }
        self.nodes.push(node);
    }

    /// Adds 32-bit floats, row-major, and returns their name.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        self.initialiser(Element::Float, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn scalar(&mut self, value: f32) -> String {
        self.floats(&[], &[value])
    }

    /// Adds a list of 64-bit integers and returns its name.
    pub fn integers(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initialiser(Element::Int64, &[values.len()], bytes)
    }

    fn initialiser(&mut self, element: Element, shape: &[usize], bytes: Vec<u8>) -> String {
        let key = (element, shape.to_vec(), bytes);
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let (_, _, bytes) = &key;
        let name = format!("constant_{}", self.initialisers.len());
        let mut tensor = Message::default();
        for &side in shape {
            tensor = tensor.int(1, side as i64);
        }
        tensor = tensor.int(2, element as i64).bytes(8, name.as_bytes()).bytes(9, bytes);
        self.initialisers.push(tensor);
        if bytes.len() <= SHARED_BYTES {
            self.shared.insert(key, name.clone());
        }
        name
    }

    pub fn input(&mut self, name: &str, element: Element, shape: &[Side]) {
        self.inputs.push(value_info(name, element, shape));
    }

    pub fn output(&mut self, name: &str, element: Element, shape: &[Side]) {
        self.outputs.push(value_info(name, element, shape));
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut graph = Message::default();
        for node in &self.nodes {
            graph = graph.message(1, node);
        }
        graph = graph.bytes(2, b"vigie");
        for (field, messages) in [(5, &self.initialisers), (11, &self.inputs), (12, &self.outputs)] {
            for message in messages {
                graph = graph.message(field, message);
            }
        }
        let operators = Message::default().bytes(1, b"").int(2, OPERATOR_SET);
        let model = Message::default().int(1, IR_VERSION).bytes(2, b"vigie");
        model.message(7, &graph).message(8, &operators).0
    }
}

fn attribute(name: &str, value: &Attribute) -> Message {
    let message = Message::default().bytes(1, name.as_bytes());
    match value {
        Attribute::Float(value) => message.float(2, *value).int(20, 1),
        Attribute::Int(value) => message.int(3, *value).int(20, 2),
        Attribute::Text(value) => message.bytes(4, value.as_bytes()).int(20, 3),
        Attribute::Ints(values) => {
            values.iter().fold(message, |message, &value| message.int(8, value)).int(20, 7)
        }
    }
}

fn value_info(name: &str, element: Element, shape: &[Side]) -> Message {
    let sides = shape.iter().fold(Message::default(), |sides, side| {
        let side = match side {
            Side::Fixed(size) => Message::default().int(1, *size as i64),
            Side::Named(name) => Message::default().bytes(2, name.as_bytes()),
        };
        sides.message(1, &side)
    });
    let tensor = Message::default().int(1, element as i64).message(2, &sides);
    Message::default().bytes(1, name.as_bytes()).message(2, &Message::default().message(1, &tensor))
}

/// Whether `file` breaks off in the middle of a protobuf field, as a file that was not written to its
/// end does (an empty one too).
pub fn is_cut_short(file: &[u8]) -> bool {
    let mut rest = file;
    while !rest.is_empty() {
        let Some(key) = read_varint(&mut rest) else { return true };
        let length = match key & 7 {
            0 if read_varint(&mut rest).is_none() => return true,
            0 => 0,
            1 => 8,
            2 => match read_varint(&mut rest) {
                Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
                None => return true,
            },
            5 => 4,
            // No wire type that exists: damaged, but not for want of an end.
            _ => return false,
        };
        let Some(after) = rest.get(length..) else { return true };
        rest = after;
    }
    file.is_empty()
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_little_groups_of_seven_bits() {
        let cases: [(i64, &[u8]); 4] = [
            (0, &[8, 0]),
            (127, &[8, 127]),
            (300, &[8, 0xac, 0x02]),
            (-1, &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ];
        for (value, expected) in cases {
            assert_eq!(Message::default().int(1, value).0, expected, "{value}");
            assert_eq!(read_varint(&mut &expected[1..]), Some(value as u64));
        }
    }

    #[test]
    fn small_constants_are_shared_and_large_ones_are_not_remembered() {
        let mut graph = OnnxGraph::default();
        assert_eq!(graph.scalar(0.5), graph.scalar(0.5));
        assert_ne!(graph.scalar(0.5), graph.floats(&[1], &[0.5]));
        assert_ne!(graph.scalar(0.0), graph.scalar(-0.0));
        let large = vec![1.0; SHARED_BYTES];
        assert_ne!(graph.floats(&[SHARED_BYTES], &large), graph.floats(&[SHARED_BYTES], &large));
    }

    #[test]
    fn a_file_that_lost_its_end_is_recognised() {
        let mut graph = OnnxGraph::default();
        let value = graph.scalar(1.5);
        graph.node("Relu", &[&value], &[("alpha", Attribute::Float(0.5))]);
        let file = graph.into_bytes();
        assert!(!is_cut_short(&file));
        assert!(is_cut_short(&[]));
        // Between two top-level fields a prefix is itself a protobuf message; everywhere else it is not.
        let whole = (1..file.len()).filter(|&end| !is_cut_short(&file[..end])).count();
        assert_eq!(whole, 3, "after the IR version, the producer and the graph");
        assert!(!is_cut_short(&[0x0f]), "wire type 7 does not exist");
    }
}
