//! Writes each operation of the graph in ONNX.
//!
//! TensorFlow keeps pictures as NHWC, ONNX as NCHW. Feature maps are therefore NCHW in the graph that
//! is written, and are turned back only where their order in memory can be seen: before a reshape, and
//! at the outputs.

use std::collections::HashMap;

use super::centernet;
use super::kernel;
use super::onnx::{Attribute, Element, OnnxGraph, Side};
use super::rewrite::kernel_of;
use super::tfjs::{Activation, Constant, Convolution, Graph, Node, Op};
use super::window::{place, window_attributes};
use super::{ConvertError, Ending, Normalisation, Recipe};

/// The shape of a value, without its batch axis.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A feature map, NCHW in ONNX. Height and width are those of the nominal input.
    Map { height: usize, width: usize, channels: usize },
    /// In the order in which TensorFlow has it.
    Flat(Vec<usize>),
}

/// A tensor of the ONNX graph.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub shape: Shape,
}

/// Writes `graph` and returns the file.
pub fn emit(graph: &Graph, recipe: &Recipe) -> Result<Vec<u8>, ConvertError> {
    let mut emitter = Emitter { graph, recipe, onnx: OnnxGraph::default(), tensors: HashMap::new() };
    for node in &graph.nodes {
        let tensor = emitter.node(node)?;
        emitter.tensors.insert(&node.name, tensor);
    }
    match recipe.ending {
        Ending::Nodes(outputs) => {
            for (node, output) in outputs {
                emitter.output(node, output)?;
            }
        }
        Ending::Centernet { heatmap, sizes } => {
            let (heatmap, sizes) = (emitter.tensor(heatmap)?.clone(), emitter.tensor(sizes)?.clone());
            centernet::decode(&mut emitter.onnx, &heatmap, &sizes)?;
        }
    }
    Ok(emitter.onnx.into_bytes())
}

struct Emitter<'a> {
    graph: &'a Graph,
    recipe: &'a Recipe,
    onnx: OnnxGraph,
    tensors: HashMap<&'a str, Tensor>,
}

impl Emitter<'_> {
    fn node(&mut self, node: &Node) -> Result<Tensor, ConvertError> {
        let bad = |reason: &str| ConvertError::node(&node.name, reason);
        match &node.op {
            Op::Input(sides) => return self.picture(*sides),
            Op::Unknown(op) => return Err(bad(&format!("the operation {op} is not known"))),
            Op::Add => return self.arithmetic(node, "Add"),
            Op::Multiply => return self.arithmetic(node, "Mul"),
            Op::Minimum => return self.arithmetic(node, "Min"),
            Op::Maximum => return self.arithmetic(node, "Max"),
            Op::Concat => return self.concat(node),
            _ => {}
        }
        let x = self.data(node, 0)?.clone();
        let Tensor { name, shape } = &x;
        let name = match &node.op {
            Op::Convolution(convolution) => return self.convolution(node, convolution, &x),
            Op::MaxPool { size, strides, padding } => {
                let Shape::Map { height, width, channels } = *shape else {
                    return Err(bad("it pools what is not a feature map"));
                };
                let [rows, columns] = [(height, 0), (width, 1)]
                    .map(|(side, axis)| place(side, size[axis], strides[axis], 1, *padding));
                let (rows, columns) =
                    rows.zip(columns).ok_or_else(|| bad("its window is larger than its input"))?;
                let attributes = window_attributes(*size, *strides, &rows, &columns);
                let name = self.onnx.node("MaxPool", &[name], &attributes.each());
                return Ok(Tensor {
                    name,
                    shape: Shape::Map { height: rows.outputs, width: columns.outputs, channels },
                });
            }
            Op::Pad => return self.pad(node, &x),
            Op::Mean { keeps_axes } => return self.mean(node, &x, *keeps_axes),
            Op::Dense(activation) => return self.dense(node, &x, *activation),
            Op::ResizeBilinear => return self.resize(node, &x),
            Op::Reshape => return self.reshape(node, &x),
            Op::Identity => name.clone(),
            Op::Activation(activation) => self.activation(name.clone(), *activation),
            Op::Sigmoid => self.onnx.node("Sigmoid", &[name], &[]),
            Op::HardSigmoid => self.hard_sigmoid(name),
            Op::HardSwish => {
                // As its two parts, which every execution provider has; ONNX Runtime's CPU provider has
                // no kernel for HardSwish and splits it the same way.
                let gate = self.hard_sigmoid(name);
                self.onnx.node("Mul", &[name, &gate], &[])
            }
            Op::Input(_)
            | Op::Unknown(_)
            | Op::Add
            | Op::Multiply
            | Op::Minimum
            | Op::Maximum
            | Op::Concat => {
                unreachable!("these were written above")
            }
        };
        Ok(Tensor { name, shape: x.shape })
    }

    /// The picture as `uint8 [N, H, W, 3]`, normalised and NCHW.
    fn picture(&mut self, [height, width, channels]: [usize; 3]) -> Result<Tensor, ConvertError> {
        let sides = match self.recipe.free_size {
            true => [Side::Named("H"), Side::Named("W")],
            false => [Side::Fixed(height), Side::Fixed(width)],
        };
        self.onnx.input(
            "input",
            Element::Uint8,
            &[Side::Named("N"), sides[0], sides[1], Side::Fixed(channels)],
        );
        // Turned while a pixel is three bytes, not three floats.
        let turned = self.onnx.node("Transpose", &["input"], &[("perm", Attribute::Ints(&[0, 3, 1, 2]))]);
        let floats = self.onnx.node("Cast", &[&turned], &[("to", Attribute::Int(Element::Float as i64))]);
        let name = match self.recipe.normalisation {
            Normalisation::None => floats,
            Normalisation::Affine { scale, offset } => {
                let (scale, offset) = (self.onnx.scalar(scale), self.onnx.scalar(offset));
                let scaled = self.onnx.node("Mul", &[&floats, &scale], &[]);
                self.onnx.node("Add", &[&scaled, &offset], &[])
            }
            Normalisation::BgrMinusMean { mean_rgb } => {
                let mean = self.onnx.floats(&[1, 3, 1, 1], &mean_rgb);
                self.onnx.node("Sub", &[&floats, &mean], &[])
            }
        };
        Ok(Tensor { name, shape: Shape::Map { height, width, channels } })
    }

    fn convolution(
        &mut self,
        node: &Node,
        convolution: &Convolution,
        x: &Tensor,
    ) -> Result<Tensor, ConvertError> {
        let bad = |reason: &str| ConvertError::node(&node.name, reason);
        let Shape::Map { height, width, channels } = x.shape else {
            return Err(bad("it convolves what is not a feature map"));
        };
        let (shape, values) = kernel_of(node, &self.graph.constants)?;
        let [h, w, i, o] = shape;
        if i != channels {
            return Err(bad(&format!("its kernel takes {i} channels, its input has {channels}")));
        }
        let (values, outputs, inputs_per_group, groups) = match convolution.depthwise {
            true => (kernel::depthwise_to_oihw(values, shape), i * o, 1, i),
            false => (kernel::hwio_to_oihw(values, shape), o, i, 1),
        };
        let kernel = self.onnx.floats(&[outputs, inputs_per_group, h, w], &values);
        let mut inputs = vec![x.name.clone(), kernel];
        if convolution.biased {
            let bias = self.weights(node, 2, &[outputs])?;
            inputs.push(self.onnx.floats(&[outputs], &bias));
        }
        let [rows, columns] = [(height, h, 0), (width, w, 1)].map(|(side, kernel, axis)| {
            place(side, kernel, convolution.strides[axis], convolution.dilations[axis], convolution.padding)
        });
        let (rows, columns) = rows.zip(columns).ok_or_else(|| bad("its kernel is larger than its input"))?;
        let window = window_attributes([h, w], convolution.strides, &rows, &columns);
        let dilations = convolution.dilations.map(|dilation| dilation as i64);
        let mut attributes = window.each().to_vec();
        attributes.push(("dilations", Attribute::Ints(&dilations)));
        attributes.push(("group", Attribute::Int(groups as i64)));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = self.onnx.node("Conv", &inputs, &attributes);
        let name = self.activation(name, convolution.activation);
        let shape = Shape::Map { height: rows.outputs, width: columns.outputs, channels: outputs };
        Ok(Tensor { name, shape })
    }

    fn activation(&mut self, name: String, activation: Activation) -> String {
        match activation {
            Activation::None => name,
            Activation::Relu => self.onnx.node("Relu", &[&name], &[]),
            Activation::Clip(ceiling) => {
                let (floor, ceiling) = (self.onnx.scalar(0.0), self.onnx.scalar(ceiling));
                self.onnx.node("Clip", &[&name, &floor, &ceiling], &[])
            }
        }
    }

    fn hard_sigmoid(&mut self, name: &str) -> String {
        let attributes = [("alpha", Attribute::Float(1.0 / 6.0)), ("beta", Attribute::Float(0.5))];
        self.onnx.node("HardSigmoid", &[name], &attributes)
    }

    fn arithmetic(&mut self, node: &Node, op: &str) -> Result<Tensor, ConvertError> {
        let bad = |reason: &str| ConvertError::node(&node.name, reason);
        let [left, right] = node.inputs.as_slice() else { return Err(bad("it does not have two inputs")) };
        let (shape, names) = match (self.graph.constants.get(left), self.graph.constants.get(right)) {
            (None, None) => {
                let (left, right) = (self.data(node, 0)?, self.data(node, 1)?);
                let shape = broadcast(&left.shape, &right.shape)
                    .ok_or_else(|| bad("its inputs do not fit together"))?;
                (shape, [left.name.clone(), right.name.clone()])
            }
            (None, Some(constant)) => {
                let x = self.data(node, 0)?.clone();
                (x.shape.clone(), [x.name, self.constant_beside(node, constant, &x.shape)?])
            }
            (Some(constant), None) => {
                let x = self.data(node, 1)?.clone();
                (x.shape.clone(), [self.constant_beside(node, constant, &x.shape)?, x.name])
            }
            (Some(_), Some(_)) => return Err(bad("both its inputs are constant")),
        };
        Ok(Tensor { name: self.onnx.node(op, &[&names[0], &names[1]], &[]), shape })
    }

    /// A constant in the form that broadcasts as it does in TensorFlow: one value, or one a channel.
    fn constant_beside(
        &mut self,
        node: &Node,
        constant: &Constant,
        shape: &Shape,
    ) -> Result<String, ConvertError> {
        let values =
            constant.floats().ok_or_else(|| ConvertError::node(&node.name, "it calculates with integers"))?;
        match (values, shape) {
            ([value], _) => Ok(self.onnx.scalar(*value)),
            (values, Shape::Map { channels, .. })
                if values.len() == *channels && constant.shape.last() == Some(channels) =>
            {
                Ok(self.onnx.floats(&[1, *channels, 1, 1], values))
            }
            _ => Err(ConvertError::node(&node.name, "its constant is neither one value nor one a channel")),
        }
    }

    fn concat(&mut self, node: &Node) -> Result<Tensor, ConvertError> {
        let bad = |reason: &str| ConvertError::node(&node.name, reason);
        let (axis, parts) = node.inputs.split_last().ok_or_else(|| bad("it has no inputs"))?;
        let axis = self.graph.constants.get(axis).and_then(Constant::integers);
        if !matches!(axis, Some([3 | -1])) {
            return Err(bad("only feature maps can be joined, by their channels"));
        }
        let mut joined: Option<(usize, usize, usize)> = None;
        let mut names = Vec::new();
        for index in 0..parts.len() {
            let part = self.data(node, index)?;
            joined = match (joined, &part.shape) {
                (None, &Shape::Map { height, width, channels }) => Some((height, width, channels)),
                (Some((h, w, sum)), &Shape::Map { height, width, channels }) if (h, w) == (height, width) => {
                    Some((h, w, sum + channels))
                }
                _ => return Err(bad("its inputs are not feature maps of one size")),
            };
            names.push(part.name.clone());
        }
        let (height, width, channels) = joined.ok_or_else(|| bad("it joins nothing"))?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let name = self.onnx.node("Concat", &names, &[("axis", Attribute::Int(1))]);
        Ok(Tensor { name, shape: Shape::Map { height, width, channels } })
    }

    fn pad(&mut self, node: &Node, x: &Tensor) -> Result<Tensor, ConvertError> {
        let bad = || ConvertError::node(&node.name, "only a feature map can be padded, by 0 to 4096 a side");
        let sides: Option<Vec<usize>> =
            self.parameters(node, 1)?.iter().map(|&n| usize::try_from(n).ok()).collect();
        let sides = sides.filter(|sides| sides.iter().all(|&side| side <= 4096)).ok_or_else(bad)?;
        let (&[0, 0, top, bottom, left, right, front, back], &Shape::Map { height, width, channels }) =
            (sides.as_slice(), &x.shape)
        else {
            return Err(bad());
        };
        let pads = [0, front, top, left, 0, back, bottom, right].map(|side| side as i64);
        let pads = self.onnx.integers(&pads);
        let name = self.onnx.node("Pad", &[&x.name, &pads], &[]);
        let (height, width) = (height + top + bottom, width + left + right);
        Ok(Tensor { name, shape: Shape::Map { height, width, channels: channels + front + back } })
    }

    fn mean(&mut self, node: &Node, x: &Tensor, keeps_axes: bool) -> Result<Tensor, ConvertError> {
        let (Shape::Map { channels, .. }, [1, 2] | [2, 1]) = (&x.shape, self.parameters(node, 1)?) else {
            return Err(ConvertError::node(&node.name, "only the mean of a feature map's pixels is known"));
        };
        let pooled = self.onnx.node("GlobalAveragePool", &[&x.name], &[]);
        if keeps_axes {
            return Ok(Tensor {
                name: pooled,
                shape: Shape::Map { height: 1, width: 1, channels: *channels },
            });
        }
        let name = self.onnx.node("Flatten", &[&pooled], &[("axis", Attribute::Int(1))]);
        Ok(Tensor { name, shape: Shape::Flat(vec![*channels]) })
    }

    fn dense(&mut self, node: &Node, x: &Tensor, activation: Activation) -> Result<Tensor, ConvertError> {
        let bad = |reason: &str| ConvertError::node(&node.name, reason);
        let weights = node.inputs.get(1).and_then(|name| self.graph.constants.get(name));
        let (Shape::Flat(shape), Some(weights)) = (&x.shape, weights) else {
            return Err(bad("it is not a product of a vector and a weight"));
        };
        let (&[inputs], &[rows, outputs]) = (shape.as_slice(), weights.shape.as_slice()) else {
            return Err(bad("it is not a product of a vector and a matrix"));
        };
        let Some(values) = weights.floats().filter(|_| rows == inputs) else {
            return Err(bad("its matrix does not fit its input"));
        };
        let matrix = self.onnx.floats(&[rows, outputs], values);
        let bias = self.weights(node, 2, &[outputs])?;
        let bias = self.onnx.floats(&[outputs], &bias);
        let name = self.onnx.node("Gemm", &[&x.name, &matrix, &bias], &[]);
        Ok(Tensor { name: self.activation(name, activation), shape: Shape::Flat(vec![outputs]) })
    }

    fn resize(&mut self, node: &Node, x: &Tensor) -> Result<Tensor, ConvertError> {
        let bad = || ConvertError::node(&node.name, "only whole enlargements of a feature map are known");
        let (&Shape::Map { height, width, channels }, &[to_height, to_width]) =
            (&x.shape, self.parameters(node, 1)?)
        else {
            return Err(bad());
        };
        let scale = |from: usize, to: i32| {
            let to = usize::try_from(to).ok().filter(|to| *to > 0 && to.is_multiple_of(from))?;
            Some(to / from)
        };
        let (down, across) = scale(height, to_height).zip(scale(width, to_width)).ok_or_else(bad)?;
        // By scales and not by sizes: they hold for a free height and width as well.
        let scales = self.onnx.floats(&[4], &[1.0, 1.0, down as f32, across as f32]);
        let attributes = [
            ("mode", Attribute::Text("linear")),
            ("coordinate_transformation_mode", Attribute::Text("asymmetric")),
        ];
        let name = self.onnx.node("Resize", &[&x.name, "", &scales], &attributes);
        Ok(Tensor { name, shape: Shape::Map { height: height * down, width: width * across, channels } })
    }

    fn reshape(&mut self, node: &Node, x: &Tensor) -> Result<Tensor, ConvertError> {
        let bad = |reason: &str| ConvertError::node(&node.name, reason);
        if self.recipe.free_size {
            return Err(bad("a reshape fixes the size of the picture"));
        }
        let [1 | -1, target @ ..] = self.parameters(node, 1)? else {
            return Err(bad("the reshape does not keep the batch axis"));
        };
        let target: Option<Vec<usize>> = target.iter().map(|&side| usize::try_from(side).ok()).collect();
        let target = target.ok_or_else(|| bad("the reshape leaves a side open"))?;
        if product(&target).is_none_or(|elements| Some(elements) != count(&x.shape)) {
            return Err(bad("the reshape changes the number of elements"));
        }
        // 0 keeps the batch axis as it is, whatever its size.
        let sides: Vec<i64> = std::iter::once(0).chain(target.iter().map(|&side| side as i64)).collect();
        let sides = self.onnx.integers(&sides);
        let ordered = self.in_tensorflow_order(x);
        let name = self.onnx.node("Reshape", &[&ordered, &sides], &[]);
        Ok(Tensor { name, shape: Shape::Flat(target) })
    }

    fn in_tensorflow_order(&mut self, x: &Tensor) -> String {
        match x.shape {
            Shape::Map { .. } => {
                self.onnx.node("Transpose", &[&x.name], &[("perm", Attribute::Ints(&[0, 2, 3, 1]))])
            }
            Shape::Flat(_) => x.name.clone(),
        }
    }

    fn output(&mut self, node: &str, output: &str) -> Result<(), ConvertError> {
        let tensor = self.tensor(node)?.clone();
        let ordered = self.in_tensorflow_order(&tensor);
        let sides = match &tensor.shape {
            Shape::Flat(sides) => sides.clone(),
            Shape::Map { .. } if self.recipe.free_size => {
                return Err(ConvertError::node(node, "an output of free size needs a decoder"));
            }
            Shape::Map { height, width, channels } => vec![*height, *width, *channels],
        };
        self.onnx.named_node("Identity", &[&ordered], &[], &[output]);
        let sides: Vec<Side> =
            std::iter::once(Side::Named("N")).chain(sides.into_iter().map(Side::Fixed)).collect();
        self.onnx.output(output, Element::Float, &sides);
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, ConvertError> {
        self.tensors.get(name).ok_or_else(|| ConvertError::NoSuchNode(name.to_owned()))
    }

    /// The value that `node` reads at `index`, made by an earlier node.
    fn data(&self, node: &Node, index: usize) -> Result<&Tensor, ConvertError> {
        let tensor = node.inputs.get(index).and_then(|name| self.tensors.get(name.as_str()));
        tensor
            .ok_or_else(|| ConvertError::node(&node.name, format!("its input {index} is not made before it")))
    }

    /// The integers at input `index`.
    fn parameters(&self, node: &Node, index: usize) -> Result<&[i32], ConvertError> {
        let constant = node.inputs.get(index).and_then(|name| self.graph.constants.get(name));
        let integers = constant.and_then(Constant::integers);
        integers.ok_or_else(|| {
            ConvertError::node(&node.name, format!("its input {index} is not constant integers"))
        })
    }

    /// The floats at input `index`, of the expected shape.
    fn weights(&self, node: &Node, index: usize, shape: &[usize]) -> Result<Vec<f32>, ConvertError> {
        let constant = node.inputs.get(index).and_then(|name| self.graph.constants.get(name));
        let values = constant.filter(|constant| constant.shape == shape).and_then(Constant::floats);
        let wrong =
            || ConvertError::node(&node.name, format!("its input {index} is not floats of shape {shape:?}"));
        values.map(<[f32]>::to_vec).ok_or_else(wrong)
    }
}

/// Elements of a value, without the batch axis; `None` if they cannot be counted.
fn count(shape: &Shape) -> Option<usize> {
    match shape {
        Shape::Map { height, width, channels } => product(&[*height, *width, *channels]),
        Shape::Flat(sides) => product(sides),
    }
}

fn product(sides: &[usize]) -> Option<usize> {
    sides.iter().try_fold(1_usize, |product, &side| product.checked_mul(side))
}

/// The shape of a calculation on two maps of as many channels, of which one may be a single pixel.
fn broadcast(left: &Shape, right: &Shape) -> Option<Shape> {
    match (left, right) {
        (Shape::Map { height: 1, width: 1, channels }, Shape::Map { channels: c, .. }) if channels == c => {
            Some(right.clone())
        }
        (Shape::Map { channels: c, .. }, Shape::Map { height: 1, width: 1, channels }) if channels == c => {
            Some(left.clone())
        }
        _ => (left == right).then(|| left.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_pixel_spreads_over_a_map_and_other_sizes_do_not_mix() {
        let map = |height, width, channels| Shape::Map { height, width, channels };
        assert_eq!(broadcast(&map(1, 1, 8), &map(4, 6, 8)), Some(map(4, 6, 8)));
        assert_eq!(broadcast(&map(4, 6, 8), &map(1, 1, 8)), Some(map(4, 6, 8)));
        assert_eq!(broadcast(&map(4, 6, 8), &map(4, 6, 8)), Some(map(4, 6, 8)));
        assert_eq!(broadcast(&map(4, 6, 8), &map(6, 4, 8)), None);
        assert_eq!(broadcast(&map(1, 1, 4), &map(4, 6, 8)), None);
        assert_eq!(broadcast(&map(1, 1, 8), &Shape::Flat(vec![8])), None);
    }
}
