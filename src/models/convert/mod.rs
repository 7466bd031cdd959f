//! Turns TensorFlow.js graph models into ONNX, without TensorFlow.
//!
//! In the order of the work: [`tfjs`] reads the two files into a typed graph, [`rewrite`] brings that
//! graph to a simpler, equal one, [`emit`] writes each remaining operation in ONNX (with [`kernel`] for
//! the order of weights and [`window`] for padding), [`centernet`] adds the decoding of that detector, and [`onnx`] makes the
//! bytes. It knows the operations of the models that vigie fetches and no others, does no I/O, and
//! writes the same bytes every time.

mod centernet;
mod emit;
mod kernel;
pub mod onnx;
mod rewrite;
mod tfjs;
mod window;

pub(super) use onnx::is_cut_short;

/// How pixels (0 to 255, RGB) become what the network was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalisation {
    /// Taken as they are.
    None,
    /// `pixel * scale + offset`.
    Affine { scale: f32, offset: f32 },
    /// `pixel - mean`, for a network that takes the channels as BGR; `mean_rgb` is in RGB order.
    BgrMinusMean { mean_rgb: [f32; 3] },
}

/// What of the network the ONNX graph gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// These nodes, each under a name of ours: `(node, output)`.
    Nodes(&'static [(&'static str, &'static str)]),
    /// `detections [N, 100, 6]`: x0, y0, x1, y1 in pixels of the input, score, class; best first.
    Centernet { heatmap: &'static str, sizes: &'static str },
}

/// How one model is to be converted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    pub normalisation: Normalisation,
    /// Whether height and width stay free; the network must then be fully convolutional.
    pub free_size: bool,
    pub ending: Ending,
}

/// Why a model could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("the graph is not a TensorFlow.js graph model")]
    Unreadable(#[source] serde_json::Error),
    #[error("the weights end after {actual} bytes, {needed} are described")]
    WeightsCutShort { needed: usize, actual: usize },
    #[error("the weights have {actual} bytes, only {needed} are described")]
    WeightsLeftOver { needed: usize, actual: usize },
    #[error("weight {weight}: {reason}")]
    BadWeight { weight: String, reason: String },
    #[error("node {node}: {reason}")]
    BadNode { node: String, reason: String },
    #[error("the graph has no node {0}")]
    NoSuchNode(String),
    #[error("the graph has {0} inputs, one is expected")]
    Inputs(usize),
}

impl ConvertError {
    fn node(node: &str, reason: impl Into<String>) -> Self {
        Self::BadNode { node: node.to_owned(), reason: reason.into() }
    }
}

/// Converts `graph` (`model.json`) with its `weights` (the one `.bin`) into an ONNX file.
///
/// The ONNX graph takes `input`, `uint8 [N, H, W, 3]` in RGB, and gives what `recipe.ending` says.
///
/// # Errors
/// [`ConvertError`] for files that do not belong together, are damaged, or need what is not known here.
pub fn convert(graph: &[u8], weights: &[u8], recipe: &Recipe) -> Result<Vec<u8>, ConvertError> {
    let mut graph = tfjs::read(graph, weights)?;
    let wanted: Vec<&str> = match recipe.ending {
        Ending::Nodes(outputs) => outputs.iter().map(|(node, _)| *node).collect(),
        Ending::Centernet { heatmap, sizes } => vec![heatmap, sizes],
    };
    rewrite::prune(&mut graph, &wanted)?;
    if matches!(recipe.normalisation, Normalisation::BgrMinusMean { .. }) {
        rewrite::take_rgb(&mut graph)?;
    }
    rewrite::fold_batch_norms(&mut graph, &wanted)?;
    rewrite::fuse_clips(&mut graph, &wanted);
    rewrite::fuse_hard_activations(&mut graph, &wanted);
    rewrite::prune(&mut graph, &wanted)?;
    emit::emit(&graph, recipe)
}
