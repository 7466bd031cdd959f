//! Tensors as they cross the engine's boundary: a shape and one flat, row-major buffer.

/// Element storage of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    U8(Vec<u8>),
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl TensorData {
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
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

    fn new(shape: &[usize], data: TensorData) -> Self {
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
