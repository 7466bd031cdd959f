//! The top level of an ONNX file: versions, operator sets, metadata, and where graph and functions are.

use std::collections::BTreeMap;

use super::fault::{CheckError, Fault, shown};
use super::limits::*;
use super::walk::{Domain, Ports, Walk, count, opset};
use super::wire::{Fields, Value, WireError};
use super::{Summary, checked_text, utf8};

const TWICE: Fault = Fault::Malformed("a field is there twice");

/// The top-level fields of a `ModelProto` that are looked at further.
#[derive(Default)]
struct Model<'a> {
    ir_version: Option<i64>,
    producer: &'a [u8],
    graph: Option<&'a [u8]>,
    opset: Option<i64>,
    metadata: BTreeMap<String, String>,
    metadata_entries: usize,
    metadata_bytes: usize,
    functions: Vec<&'a [u8]>,
}

/// Checks a whole file.
pub(super) fn check(file: &[u8]) -> Result<Summary, CheckError> {
    let mut model = Model::default();
    for field in Fields::of(file) {
        let (number, value) = match field {
            Ok(field) => field,
            // Whether it ever was a model is told by what every model begins with.
            Err(_) if model.ir_version.is_none() => return Err(Fault::NotOnnx.into()),
            Err(WireError::Ends) => return Err(Fault::Truncated.into()),
            Err(error) => return Err(error.into()),
        };
        model.take(number, value)?;
    }
    let ir_version = model.ir_version.ok_or(Fault::NotOnnx)?;
    if !IR_VERSIONS.contains(&ir_version) {
        return Err(Fault::IrVersion(ir_version).into());
    }
    let graph = model.graph.ok_or(Fault::Missing("graph"))?;
    let opset = model.opset.ok_or(Fault::Missing("operator set"))?;

    let mut walk = Walk::default();
    walk.name_functions(&model.functions)?;
    walk.functions(&model.functions)?;
    let graph =
        walk.graph(graph, 0, &mut Vec::new(), 1).map_err(|error| error.within(|| "graph".to_owned()))?;
    walk.expanded_nodes(&graph.calls)?;
    let producer = shown(model.producer);
    let Ports { inputs, outputs } = graph.ports;
    if outputs.is_empty() {
        return Err(Fault::Missing("output").into());
    }
    let Walk { nodes, parameters, operators, .. } = walk;
    let operators = operators.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    let (bytes, metadata) = (file.len(), model.metadata);
    Ok(Summary {
        bytes,
        ir_version,
        opset,
        producer,
        inputs,
        outputs,
        metadata,
        nodes,
        parameters,
        operators,
    })
}

impl<'a> Model<'a> {
    fn take(&mut self, number: u32, value: Value<'a>) -> Result<(), CheckError> {
        match number {
            1 => match value {
                Value::Varint(version) => self.ir_version = Some(version as i64),
                _ => return Err(Fault::NotOnnx.into()),
            },
            2 => self.producer = checked_text(value.bytes()?)?,
            3 | 4 | 6 => drop(checked_text(value.bytes()?)?),
            7 if self.graph.is_some() => return Err(TWICE.into()),
            7 => self.graph = Some(value.bytes()?),
            8 => self.opset_import(value.bytes()?)?,
            14 => {
                let (key, text) = entry(value.bytes()?)?;
                count(&mut self.metadata_entries, MAX_METADATA, "metadata entries")?;
                self.metadata_bytes += key.len() + text.len();
                if self.metadata_bytes > MAX_TEXT_BYTES {
                    return Err(Fault::LongText(self.metadata_bytes).into());
                }
                self.metadata.insert(utf8(key)?.to_owned(), utf8(text)?.to_owned());
            }
            20 => return Err(Fault::Training.into()),
            25 => {
                count(&mut self.functions.len(), MAX_FUNCTIONS, "functions")?;
                self.functions.push(value.bytes()?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads an `OperatorSetIdProto`. Foreign sets may be imported, as exporters do without using them.
    fn opset_import(&mut self, message: &'a [u8]) -> Result<(), CheckError> {
        let (domain, version) = opset(message)?;
        if let Domain::Standard = Domain::of(domain) {
            self.opset = Some(version);
        }
        Ok(())
    }
}

/// Reads a `StringStringEntryProto`.
fn entry(message: &[u8]) -> Result<(&[u8], &[u8]), CheckError> {
    let (mut key, mut text) = (&b""[..], &b""[..]);
    for field in Fields::of(message) {
        match field? {
            (1, value) => key = checked_text(value.bytes()?)?,
            (2, value) => text = checked_text(value.bytes()?)?,
            _ => {}
        }
    }
    Ok((key, text))
}
