//! Tensors as they cross the engine's boundary: a shape and one flat, row-major buffer.

use std::ops::Range;

/// The type of a tensor's elements, of those that engines take and give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    U8,
    I32,
    I64,
    F32,
}

impl Element {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// Element storage of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
}

/// Elements where they lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Elements<'a> {
    U8(&'a [u8]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    F32(&'a [f32]),
}

impl Elements<'_> {
    /// Those of a range that lies within them.
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::U8(v) => Self::U8(&v[range]),
            Self::I32(v) => Self::I32(&v[range]),
            Self::I64(v) => Self::I64(&v[range]),
            Self::F32(v) => Self::F32(&v[range]),
        }
    }
}

impl TensorData {
    pub fn elements(&self) -> Elements<'_> {
        match self {
            Self::U8(v) => Elements::U8(v),
            Self::I32(v) => Elements::I32(v),
            Self::I64(v) => Elements::I64(v),
            Self::F32(v) => Elements::F32(v),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
        }
    }

    pub fn element(&self) -> Element {
        match self {
            Self::U8(_) => Element::U8,
            Self::I32(_) => Element::I32,
            Self::I64(_) => Element::I64,
            Self::F32(_) => Element::F32,
        }
    }

    /// The elements as they lie in memory.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::U8(v) => v,
            Self::I32(v) => bytemuck::cast_slice(v),
            Self::I64(v) => bytemuck::cast_slice(v),
            Self::F32(v) => bytemuck::cast_slice(v),
        }
    }

    /// Copies elements that lie in `bytes` as they would in memory; bytes beyond the last whole one are left out.
    pub fn from_bytes(element: Element, bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len() - bytes.len() % element.size()];
        match element {
            Element::U8 => Self::U8(bytes.to_vec()),
            Element::I32 => Self::I32(bytemuck::pod_collect_to_vec(bytes)),
            Element::I64 => Self::I64(bytemuck::pod_collect_to_vec(bytes)),
            Element::F32 => Self::F32(bytemuck::pod_collect_to_vec(bytes)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for TensorData {
    fn default() -> Self {
        Self::U8(Vec::new())
    }
}

/// A dense tensor, row-major. Axis 0 is the batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: TensorData,
}

impl Tensor {
    /// Panics when the shape does not hold exactly `data`: both are made by us, never by a peer.
    pub fn u8(shape: &[usize], data: Vec<u8>) -> Self {
        Self::new(shape, TensorData::U8(data))
    }

    /// See [`Tensor::u8`].
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        Self::new(shape, TensorData::F32(data))
    }

    /// Takes this shape, in the buffers that are there, and returns the bytes to be written: what they hold is
    /// left over from before.
    pub fn make_u8(&mut self, shape: &[usize]) -> &mut [u8] {
        self.shape.clear();
        self.shape.extend_from_slice(shape);
        if !matches!(self.data, TensorData::U8(_)) {
            self.data = TensorData::default();
        }
        let TensorData::U8(bytes) = &mut self.data else { unreachable!("it was just made so") };
        bytes.resize(shape.iter().product(), 0);
        bytes
    }

    /// As [`Tensor::make_u8`], for floats.
    pub fn make_f32(&mut self, shape: &[usize]) -> &mut [f32] {
        self.shape.clear();
        self.shape.extend_from_slice(shape);
        if !matches!(self.data, TensorData::F32(_)) {
            self.data = TensorData::F32(Vec::new());
        }
        let TensorData::F32(values) = &mut self.data else { unreachable!("it was just made so") };
        values.resize(shape.iter().product(), 0.0);
        values
    }

    /// Becomes a copy of a tensor of these sides that holds `elements`, in the buffers that are there.
    pub fn copy(&mut self, sides: impl IntoIterator<Item = usize>, elements: Elements<'_>) {
        self.shape.clear();
        self.shape.extend(sides);
        macro_rules! copy {
            ($variant:ident, $elements:expr) => {{
                let mut buffer = match std::mem::take(&mut self.data) {
                    TensorData::$variant(buffer) => buffer,
                    _ => Vec::new(),
                };
                buffer.clear();
                buffer.extend_from_slice($elements);
                self.data = TensorData::$variant(buffer);
            }};
        }
        match elements {
            Elements::U8(elements) => copy!(U8, elements),
            Elements::I32(elements) => copy!(I32, elements),
            Elements::I64(elements) => copy!(I64, elements),
            Elements::F32(elements) => copy!(F32, elements),
        }
    }

    /// As [`Tensor::copy`], of some rows of a tensor that has an axis at least.
    pub fn copy_rows(&mut self, shape: &[usize], elements: Elements<'_>, rows: Range<usize>) {
        let row: usize = shape.iter().skip(1).product();
        let elements = elements.slice(rows.start * row..rows.end * row);
        self.copy(std::iter::once(rows.len()).chain(shape.iter().skip(1).copied()), elements);
    }

    /// See [`Tensor::u8`].
    pub fn new(shape: &[usize], data: TensorData) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor's shape holds its data");
        Self { shape: shape.to_vec(), data }
    }

    /// The values if they are `f32`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(v) => Some(v),
            _ => None,
        }
    }
}

/// The named outputs of one run, in the graph's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs(pub Vec<(String, Tensor)>);

impl Outputs {
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }
}
