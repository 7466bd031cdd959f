//! Chooses the head that reads a detector's outputs.

use crate::frame::{Detection, Kind};
use crate::inference::tensor::Outputs;
use crate::models::heads::boxes::Corners;
use crate::models::heads::{
    HeadError, Placement, Reading, anchors, blazeface, boxes, centernet, detr, fastestdet, yolo, yolox,
};
use crate::models::manifest::{Head, Manifest, Task};

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
    let kind = if manifest.task == Task::Faces { Kind::Face } else { Kind::Object };
    let classes = manifest.labels.len();
    let reading = Reading { outputs, placement, kind, classes, min_score, iou };
    match manifest.head {
        Head::Blazeface => blazeface::decode(outputs, placement, min_score, iou),
        Head::Centernet => centernet::decode(outputs, placement, min_score, iou, classes),
        Head::Yolo => yolo::decode(&reading),
        Head::YoloV5 => yolo::decode_v5(&reading),
        Head::YoloEnd2end => yolo::decode_end2end(&reading),
        Head::DetrRows => yolo::decode_detr_rows(&reading),
        Head::DetrEnd2end => yolo::decode_detr_end2end(&reading),
        Head::Yolox => yolox::decode(&reading, false),
        Head::YoloxDecoded => yolox::decode(&reading, true),
        Head::Detr => detr::decode(&reading),
        Head::Boxes => boxes::decode(&reading, Corners::Pixels),
        Head::Ssd => boxes::decode(&reading, Corners::Parts),
        Head::Fastestdet => fastestdet::decode(&reading),
        Head::Yunet => anchors::decode_yunet(&reading),
        Head::Scrfd => anchors::decode_scrfd(&reading),
        Head::Retinaface => anchors::decode_retinaface(&reading),
        Head::Faceres | Head::Classifier | Head::Db | Head::Ctc => {
            Err(HeadError::NotADetector { head: manifest.head.name() })
        }
    }
}
