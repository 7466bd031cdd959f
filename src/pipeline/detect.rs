//! Chooses the head that reads a detector's outputs.

use crate::frame::Detection;
use crate::inference::tensor::Outputs;
use crate::models::heads::{HeadError, Placement, blazeface, centernet};
use crate::models::manifest::{Head, Manifest};

/// Reads what a detector found in one picture, in picture pixels, best first.
///
/// `min_score` (0 to 1) stands in for the manifest's threshold when it is given and a number.
///
/// # Errors
/// [`HeadError`] when the outputs are not those of the manifest's head, or it is not a detector's.
pub fn detect(
    outputs: &Outputs,
    manifest: &Manifest,
    placement: &Placement,
    min_score: Option<f32>,
) -> Result<Vec<Detection>, HeadError> {
    let iou = manifest.thresholds.iou;
    let min_score = min_score.filter(|score| !score.is_nan()).unwrap_or(manifest.thresholds.score);
    match manifest.head {
        Head::Blazeface => blazeface::decode(outputs, placement, min_score, iou),
        Head::Centernet => centernet::decode(outputs, placement, min_score, iou, manifest.labels.len()),
        Head::Faceres => Err(HeadError::NotADetector { head: "faceres" }),
    }
}
