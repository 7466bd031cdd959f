//! Walks a model's graph, the subgraphs in its nodes' attributes, and the functions that it defines.

use std::collections::{BTreeMap, HashMap};

use super::fault::{CheckError, Fault, shown};
use super::limits::*;
use super::tensor::{self, Tensor};
use super::wire::{Fields, Value};
use super::{Port, checked_text, utf8};

/// Reads an `OperatorSetIdProto`.
pub(super) fn opset(message: &[u8]) -> Result<(&[u8], i64), CheckError> {
    let (mut domain, mut version) = (&b""[..], 0);
    for field in Fields::of(message) {
        match field? {
            (1, value) => domain = checked_text(value.bytes()?)?,
            (2, value) => version = value.varint()? as i64,
            _ => {}
        }
    }
    let known = match Domain::of(domain) {
        Domain::Standard => OPSETS.contains(&version),
        Domain::MachineLearning => ML_OPSETS.contains(&version),
        Domain::Other => true,
    };
    match known {
        true => Ok((domain, version)),
        false if domain.is_empty() => Err(Fault::Opset { domain: "ai.onnx".to_owned(), version }.into()),
        false => Err(Fault::Opset { domain: shown(domain), version }.into()),
    }
}

pub(super) enum Domain {
    Standard,
    MachineLearning,
    Other,
}

impl Domain {
    pub(super) fn of(domain: &[u8]) -> Self {
        match domain {
            b"" | b"ai.onnx" => Self::Standard,
            b"ai.onnx.ml" => Self::MachineLearning,
            _ => Self::Other,
        }
    }
}

/// Counts one more of what may be there `limit` times.
pub(super) fn count(counted: &mut usize, limit: usize, what: &'static str) -> Result<(), CheckError> {
    *counted += 1;
    if *counted > limit {
        return Err(Fault::TooMany { what, limit }.into());
    }
    Ok(())
}

/// Domain, name and overload.
type FunctionName<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// A function that the model defines.
#[derive(Default)]
struct Function {
    nodes: usize,
    /// The functions that it calls, by index, once for each call.
    calls: Vec<usize>,
}

/// What a name in a graph stands for: its constant value where it is one integer.
type Scope<'a> = HashMap<&'a [u8], Option<i64>>;

#[derive(Default)]
pub(super) struct Ports {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// A walked graph.
#[derive(Default)]
pub(super) struct Graph {
    pub ports: Ports,
    pub calls: Vec<usize>,
}

/// What is counted over the whole file.
#[derive(Default)]
pub(super) struct Walk<'a> {
    pub nodes: usize,
    tensors: usize,
    values: usize,
    pub parameters: u64,
    pub operators: BTreeMap<&'a str, usize>,
    names: HashMap<FunctionName<'a>, usize>,
    bodies: Vec<Function>,
    is_in_function: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn name_functions(&mut self, functions: &[&'a [u8]]) -> Result<(), CheckError> {
        for (index, message) in functions.iter().enumerate() {
            let mut name: FunctionName = Default::default();
            for field in Fields::of(message) {
                match field? {
                    (1, value) => name.1 = checked_text(value.bytes()?)?,
                    (10, value) => name.0 = checked_text(value.bytes()?)?,
                    (13, value) => name.2 = checked_text(value.bytes()?)?,
                    _ => {}
                }
            }
            let is_own = matches!(Domain::of(name.0), Domain::Other);
            if !is_own || self.names.insert(name, index).is_some() {
                return Err(Fault::FunctionName(shown(name.1)).into());
            }
        }
        Ok(())
    }

    pub(super) fn functions(&mut self, functions: &[&'a [u8]]) -> Result<(), CheckError> {
        self.is_in_function = true;
        for message in functions {
            let mut name: &[u8] = &[];
            let before = self.nodes;
            let mut calls = Vec::new();
            for field in Fields::of(message) {
                let (number, value) = field?;
                let done = match number {
                    1 => {
                        name = value.bytes()?;
                        Ok(())
                    }
                    7 => self.node(value.bytes()?, 0, &mut Vec::new(), 1, &mut calls),
                    9 => opset(value.bytes()?).map(drop),
                    11 => self.attribute(value.bytes()?, 0, &mut Vec::new(), 1, &mut calls).map(drop),
                    12 => tensor::value_info(value.bytes()?).map(drop),
                    _ => Ok(()),
                };
                done.map_err(|error| error.within(|| format!("function {:?}", shown(name))))?;
            }
            self.bodies.push(Function { nodes: self.nodes - before, calls });
        }
        self.is_in_function = false;
        Ok(())
    }

    /// Whether the graph stays bearable with every call of a function replaced by its nodes, as runtimes do.
    pub(super) fn expanded_nodes(&self, calls: &[usize]) -> Result<(), CheckError> {
        let mut sizes: Vec<Option<usize>> = vec![None; self.bodies.len()];
        let mut open = vec![false; self.bodies.len()];
        for index in 0..self.bodies.len() {
            self.expanded(index, &mut sizes, &mut open)?;
        }
        let of_call = |total: usize, &call: &usize| total.saturating_add(sizes[call].unwrap_or(usize::MAX));
        if calls.iter().fold(self.nodes, of_call) > MAX_NODES {
            return Err(Fault::TooMany {
                what: "nodes once its functions are written out",
                limit: MAX_NODES,
            }
            .into());
        }
        Ok(())
    }

    /// Recursion is as deep as there are functions, at most.
    fn expanded(
        &self,
        index: usize,
        sizes: &mut [Option<usize>],
        open: &mut [bool],
    ) -> Result<usize, CheckError> {
        if let Some(size) = sizes[index] {
            return Ok(size);
        }
        if open[index] {
            let (_, name, _) =
                self.names.iter().find(|(_, at)| **at == index).map(|(name, _)| *name).unwrap_or_default();
            return Err(Fault::RecursiveFunction(shown(name)).into());
        }
        open[index] = true;
        let mut size = self.bodies[index].nodes;
        for &call in &self.bodies[index].calls {
            size = size.saturating_add(self.expanded(call, sizes, open)?);
        }
        open[index] = false;
        sizes[index] = Some(size);
        Ok(size)
    }

    /// Walks a `GraphProto`. `scopes` are those around it, `trips` the rounds of the loops around it.
    pub(super) fn graph(
        &mut self,
        message: &'a [u8],
        depth: usize,
        scopes: &mut Vec<Scope<'a>>,
        trips: i64,
    ) -> Result<Graph, CheckError> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep.into());
        }
        let mut ports = Ports::default();
        let mut inputs = Vec::new();
        let scope = self.names_in(message, &mut ports, &mut inputs, depth)?;
        scopes.push(scope);
        let mut calls = Vec::new();
        for field in Fields::of(message) {
            if let (1, value) = field? {
                self.node(value.bytes()?, depth, scopes, trips, &mut calls)?;
            }
        }
        scopes.pop();
        Ok(Graph { ports, calls })
    }

    /// Checks all of a graph but its nodes, and says what its names stand for.
    fn names_in(
        &mut self,
        message: &'a [u8],
        ports: &mut Ports,
        inputs: &mut Vec<&'a [u8]>,
        depth: usize,
    ) -> Result<Scope<'a>, CheckError> {
        let mut scope = Scope::new();
        // A name that stands for two things stands for nothing that is known.
        let define = |scope: &mut Scope<'a>, name, value| {
            scope.entry(name).and_modify(|known| *known = None).or_insert(value);
        };
        let mut initialised: Vec<&[u8]> = Vec::new();
        for field in Fields::of(message) {
            let (number, value) = field?;
            match number {
                1 => {
                    let (outputs, constant) = outputs_of(value.bytes()?)?;
                    for name in outputs {
                        count(&mut self.values, MAX_VALUES, "values")?;
                        define(&mut scope, name, constant);
                    }
                }
                5 | 15 => {
                    let tensor = self.tensor(value.bytes()?, number == 15)?;
                    define(&mut scope, tensor.name, tensor.integer);
                    initialised.push(tensor.name);
                }
                11 => {
                    count(&mut self.values, MAX_VALUES, "values")?;
                    let (name, port) = tensor::value_info(value.bytes()?)?;
                    inputs.push(name);
                    ports.inputs.push(port);
                }
                12 => {
                    count(&mut self.values, MAX_VALUES, "values")?;
                    ports.outputs.push(tensor::value_info(value.bytes()?)?.1);
                }
                13 => drop(tensor::value_info(value.bytes()?)?),
                _ => {}
            }
        }
        for name in inputs.iter() {
            // An input may be given another value than its initialiser's.
            scope.insert(name, None);
        }
        if depth == 0 {
            let initialised: std::collections::HashSet<&[u8]> = initialised.into_iter().collect();
            let mut names = inputs.iter();
            ports.inputs.retain(|_| names.next().is_none_or(|name| !initialised.contains(name)));
            for ports in [&ports.inputs, &ports.outputs] {
                count(&mut ports.len().saturating_sub(1), MAX_MODEL_PORTS, "inputs or outputs of the model")?;
            }
        }
        Ok(scope)
    }

    fn tensor(&mut self, message: &'a [u8], is_sparse: bool) -> Result<Tensor<'a>, CheckError> {
        count(&mut self.tensors, MAX_TENSORS, "initialisers and constants")?;
        let tensor = if is_sparse { tensor::sparse_tensor(message)? } else { tensor::tensor(message)? };
        self.parameters = self.parameters.saturating_add(tensor.elements);
        if self.parameters > MAX_ELEMENTS {
            return Err(Fault::Dimensions("of all tensors together".to_owned()).into());
        }
        Ok(tensor)
    }

    fn node(
        &mut self,
        message: &'a [u8],
        depth: usize,
        scopes: &mut Vec<Scope<'a>>,
        trips: i64,
        calls: &mut Vec<usize>,
    ) -> Result<(), CheckError> {
        count(&mut self.nodes, MAX_NODES, "nodes")?;
        let mut node = Node::default();
        for field in Fields::of(message) {
            let (number, value) = field?;
            match number {
                1 if node.inputs == 0 => (node.inputs, node.first_input) = (1, value.bytes()?),
                1 => count(&mut node.inputs, MAX_PORTS, "inputs of a node")?,
                3 => node.name = checked_text(value.bytes()?)?,
                4 => node.operator = checked_text(value.bytes()?)?,
                5 => count(&mut node.attributes, MAX_PORTS, "attributes of a node")?,
                7 => node.domain = checked_text(value.bytes()?)?,
                8 => node.overload = checked_text(value.bytes()?)?,
                _ => {}
            }
        }
        let index = self.nodes - 1;
        self.node_content(&node, message, depth, scopes, trips, calls).map_err(|error| {
            error.within(|| format!("node {index} {:?} ({})", shown(node.name), shown(node.operator)))
        })
    }

    fn node_content(
        &mut self,
        node: &Node<'a>,
        message: &'a [u8],
        depth: usize,
        scopes: &mut Vec<Scope<'a>>,
        mut trips: i64,
        calls: &mut Vec<usize>,
    ) -> Result<(), CheckError> {
        let operator = utf8(node.operator)?;
        if operator.len() > MAX_OPERATOR_BYTES {
            return Err(Fault::LongText(operator.len()).into());
        }
        if let Domain::Other = Domain::of(node.domain) {
            let called = self.names.get(&(node.domain, node.operator, node.overload));
            let called = called.ok_or_else(|| Fault::CustomDomain { domain: shown(node.domain) })?;
            calls.push(*called);
        } else {
            *self.operators.entry(operator).or_default() += 1;
        }
        if operator == "Loop" && matches!(Domain::of(node.domain), Domain::Standard) {
            let rounds = scopes.iter().rev().find_map(|scope| scope.get(node.first_input).copied()).flatten();
            // In a function a constant could be an argument, and the function be called in a loop.
            let rounds = rounds.filter(|rounds| (0..=MAX_TRIPS).contains(rounds) && !self.is_in_function);
            trips = rounds.map_or(i64::MAX, |rounds| trips.saturating_mul(rounds.max(1)));
            if trips > MAX_TRIPS {
                return Err(Fault::UnboundedLoop.into());
            }
        }
        for field in Fields::of(message) {
            if let (5, value) = field? {
                self.attribute(value.bytes()?, depth, scopes, trips, calls)?;
            }
        }
        Ok(())
    }

    /// Walks an `AttributeProto`.
    fn attribute(
        &mut self,
        message: &'a [u8],
        depth: usize,
        scopes: &mut Vec<Scope<'a>>,
        trips: i64,
        calls: &mut Vec<usize>,
    ) -> Result<(), CheckError> {
        let mut name: &[u8] = &[];
        let (mut tensors, mut graphs) = (0, 0);
        for field in Fields::of(message) {
            let (number, value) = field?;
            let done = match number {
                1 => {
                    name = checked_text(value.bytes()?)?;
                    Ok(())
                }
                4 | 9 => checked_text(value.bytes()?).map(drop),
                // One of each at most: a second is merged into the first, which neither alone shows.
                5 => count(&mut tensors, 1, "tensors where one is meant")
                    .and_then(|()| self.tensor(value.bytes()?, false).map(drop)),
                10 => self.tensor(value.bytes()?, false).map(drop),
                22 => count(&mut tensors, 1, "tensors where one is meant")
                    .and_then(|()| self.tensor(value.bytes()?, true).map(drop)),
                23 => self.tensor(value.bytes()?, true).map(drop),
                6 | 11 => {
                    if number == 6 {
                        count(&mut graphs, 1, "graphs where one is meant")?;
                    }
                    self.graph(value.bytes()?, depth + 1, scopes, trips)
                        .map(|graph| calls.extend(graph.calls))
                }
                14 | 15 => tensor::type_of(value.bytes()?, &mut Port::default(), 0),
                _ => Ok(()),
            };
            done.map_err(|error| error.within(|| format!("attribute {:?}", shown(name))))?;
        }
        Ok(())
    }
}

/// What is needed of a `NodeProto` besides its attributes.
#[derive(Default)]
struct Node<'a> {
    name: &'a [u8],
    operator: &'a [u8],
    domain: &'a [u8],
    overload: &'a [u8],
    first_input: &'a [u8],
    inputs: usize,
    attributes: usize,
}

/// The names that a node defines and, if it is a `Constant` of one integer, which.
fn outputs_of(message: &[u8]) -> Result<(Vec<&[u8]>, Option<i64>), CheckError> {
    let (mut outputs, mut operator, mut constant) = (Vec::new(), &b""[..], None);
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            2 if outputs.len() == MAX_PORTS => {
                return Err(Fault::TooMany { what: "outputs of a node", limit: MAX_PORTS }.into());
            }
            2 => outputs.push(checked_text(value.bytes()?)?),
            4 => operator = value.bytes()?,
            5 => {
                for field in Fields::of(value.bytes()?) {
                    match field? {
                        // value, value_int
                        (5, Value::Bytes(message)) => constant = tensor::tensor(message)?.integer,
                        (3, Value::Varint(number)) => constant = Some(number as i64),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok((outputs, constant.filter(|_| operator == b"Constant")))
}
