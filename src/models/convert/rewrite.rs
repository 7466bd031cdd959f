//! Brings the graph to a simpler, equal one before anything is written.
//!
//! Each rule replaces the last node of a pattern in place, so that its name and its position stay; what
//! the pattern no longer reads is removed by [`prune`]. A node in the middle of a pattern must have no
//! other reader and be no output.

use std::collections::{HashMap, HashSet};

use super::ConvertError;
use super::kernel;
use super::tfjs::{Activation, Constant, Convolution, Graph, Node, Op, Values};

/// Removes the nodes that none of the `wanted` ones needs.
pub fn prune(graph: &mut Graph, wanted: &[&str]) -> Result<(), ConvertError> {
    let mut needed: HashSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    for name in wanted {
        if !graph.nodes.iter().any(|node| node.name == *name) {
            return Err(ConvertError::NoSuchNode((*name).to_owned()));
        }
    }
    // Nodes stand after what they read: one walk from the end sees every reader first.
    for node in graph.nodes.iter().rev() {
        if needed.contains(&node.name) {
            needed.extend(node.inputs.iter().cloned());
        }
    }
    graph.nodes.retain(|node| needed.contains(&node.name));
    Ok(())
}

/// Makes a network that was trained on BGR take RGB, by turning round its first kernels.
pub fn take_rgb(graph: &mut Graph) -> Result<(), ConvertError> {
    let picture = graph.nodes.iter().find(|node| matches!(node.op, Op::Input(_)));
    let picture = picture.map(|node| node.name.clone()).ok_or(ConvertError::Inputs(0))?;
    for node in &mut graph.nodes {
        if !node.inputs.contains(&picture) {
            continue;
        }
        let Op::Convolution(Convolution { depthwise: false, .. }) = node.op else {
            return Err(ConvertError::node(
                &node.name,
                "the channels can be turned round in a convolution only",
            ));
        };
        let (shape, values) = kernel_of(node, &graph.constants)?;
        let mut values = values.to_vec();
        kernel::reverse_input_channels(&mut values, shape);
        replace_kernel(node, &mut graph.constants, shape, values);
    }
    Ok(())
}

/// Moves the factor and the summand of a batch normalisation into the convolution before it.
pub fn fold_batch_norms(graph: &mut Graph, wanted: &[&str]) -> Result<(), ConvertError> {
    let graph_nodes = Nodes::new(graph, wanted);
    for at in 0..graph.nodes.len() {
        let scales = graph.nodes[at].op == Op::Multiply;
        if !scales && graph.nodes[at].op != Op::Add {
            continue;
        }
        let Some((data, constant)) = split_constant(&graph.nodes[at], &graph.constants) else { continue };
        let Some(before) = graph_nodes.sole(data) else { continue };
        let Op::Convolution(convolution) = graph.nodes[before].op else { continue };
        if convolution.biased || convolution.activation != Activation::None {
            continue;
        }
        let (shape, values) = kernel_of(&graph.nodes[before], &graph.constants)?;
        let outputs = if convolution.depthwise { shape[2] * shape[3] } else { shape[3] };
        let Constant { shape: sides, values: Values::F32(factors) } = &graph.constants[constant] else {
            continue;
        };
        if *sides != [outputs] {
            continue;
        }
        let mut folded = graph.nodes[before].clone();
        folded.name.clone_from(&graph.nodes[at].name);
        if scales {
            let mut values = values.to_vec();
            kernel::scale_outputs(&mut values, factors);
            replace_kernel(&mut folded, &mut graph.constants, shape, values);
        } else {
            folded.op = Op::Convolution(Convolution { biased: true, ..convolution });
            folded.inputs.push(constant.to_owned());
        }
        graph.nodes[at] = folded;
    }
    Ok(())
}

/// `max(min(relu(x), c), 0)` is a clip to 0 ..= c.
pub fn fuse_clips(graph: &mut Graph, wanted: &[&str]) {
    let nodes = Nodes::new(graph, wanted);
    for at in 0..graph.nodes.len() {
        let fused = || {
            let maximum = expect(graph, at, &Op::Maximum)?;
            let (data, floor) = split_scalar(maximum, graph)?;
            let minimum = expect(graph, nodes.sole(data)?, &Op::Minimum)?;
            let (data, ceiling) = split_scalar(minimum, graph)?;
            let relu = expect(graph, nodes.sole(data)?, &Op::Activation(Activation::Relu))?;
            (floor <= 0.0 && ceiling > 0.0).then(|| (ceiling, relu.inputs.clone()))
        };
        if let Some((ceiling, inputs)) = fused() {
            let node = &mut graph.nodes[at];
            (node.op, node.inputs) = (Op::Activation(Activation::Clip(ceiling)), inputs);
        }
    }
}

/// `relu6(x + 3) / 6` is a hard sigmoid, and with a further factor `x` a hard swish (MobileNetV3,
/// arXiv:1905.02244 §5.2). The sixth, which float16 rounded, becomes exact again.
pub fn fuse_hard_activations(graph: &mut Graph, wanted: &[&str]) {
    let nodes = Nodes::new(graph, wanted);
    let is_sixth = |factor: f32| (factor - 1.0 / 6.0).abs() < 1e-3;
    for at in 0..graph.nodes.len() {
        let fused = || {
            let product = expect(graph, at, &Op::Multiply)?;
            let [left, right] = product.inputs.as_slice() else { return None };
            [(left, right), (right, left)].into_iter().find_map(|(factor, clipped)| {
                let relu6 = expect(graph, nodes.sole(clipped)?, &Op::Activation(Activation::Clip(6.0)))?;
                let sum = expect(graph, nodes.sole(relu6.inputs.first()?)?, &Op::Add)?;
                let (x, 3.0) = split_scalar(sum, graph)? else { return None };
                if graph.constants.get(factor).and_then(Constant::scalar).is_some_and(is_sixth) {
                    return Some((Op::HardSigmoid, x.to_owned()));
                }
                let scaled = expect(graph, nodes.sole(factor)?, &Op::Multiply)?;
                let (same, sixth) = split_scalar(scaled, graph)?;
                (same == x && is_sixth(sixth)).then(|| (Op::HardSwish, x.to_owned()))
            })
        };
        if let Some((op, x)) = fused() {
            let node = &mut graph.nodes[at];
            (node.op, node.inputs) = (op, vec![x]);
        }
    }
}

/// Where nodes stand and how many read each; both stay true under replacement in place.
struct Nodes {
    position: HashMap<String, usize>,
    readers: HashMap<String, usize>,
}

impl Nodes {
    fn new(graph: &Graph, wanted: &[&str]) -> Self {
        let named = |(at, node): (usize, &Node)| (node.name.clone(), at);
        let position = graph.nodes.iter().enumerate().map(named).collect();
        let mut readers = HashMap::new();
        let inputs = graph.nodes.iter().flat_map(|node| &node.inputs).map(String::as_str);
        for name in inputs.chain(wanted.iter().copied()) {
            *readers.entry(name.to_owned()).or_default() += 1;
        }
        Self { position, readers }
    }

    /// The position of `name` if it is a node that is read once.
    fn sole(&self, name: &str) -> Option<usize> {
        let at = *self.position.get(name)?;
        (self.readers.get(name) == Some(&1)).then_some(at)
    }
}

fn expect<'a>(graph: &'a Graph, at: usize, op: &Op) -> Option<&'a Node> {
    graph.nodes.get(at).filter(|node| node.op == *op)
}

/// The two inputs of a node of which exactly one is a constant: the other's name, the constant's name.
fn split_constant<'a>(node: &'a Node, constants: &HashMap<String, Constant>) -> Option<(&'a str, &'a str)> {
    match node.inputs.as_slice() {
        [data, constant] | [constant, data]
            if constants.contains_key(constant) && !constants.contains_key(data) =>
        {
            Some((data, constant))
        }
        _ => None,
    }
}

fn split_scalar<'a>(node: &'a Node, graph: &Graph) -> Option<(&'a str, f32)> {
    let (data, constant) = split_constant(node, &graph.constants)?;
    graph.constants[constant].scalar().map(|value| (data, value))
}

/// The kernel of a convolution, with its four sides; none of them is 0.
pub fn kernel_of<'a>(
    node: &Node,
    constants: &'a HashMap<String, Constant>,
) -> Result<([usize; 4], &'a [f32]), ConvertError> {
    let constant = node.inputs.get(1).and_then(|name| constants.get(name));
    let read = constant.and_then(|c| Some((<[usize; 4]>::try_from(c.shape.as_slice()).ok()?, c.floats()?)));
    match read {
        Some((shape, values)) if !values.is_empty() => Ok((shape, values)),
        _ => Err(ConvertError::node(&node.name, "its kernel is not a weight of four axes")),
    }
}

fn replace_kernel(
    node: &mut Node,
    constants: &mut HashMap<String, Constant>,
    shape: [usize; 4],
    values: Vec<f32>,
) {
    // The old kernel may serve other nodes too.
    let name = format!("{}/kernel of {}", node.inputs[1], node.name);
    constants.insert(name.clone(), Constant { shape: shape.to_vec(), values: Values::F32(values) });
    node.inputs[1] = name;
}
