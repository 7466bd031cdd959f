//! Tells from a graph's inputs, outputs and metadata how it is to be fed and read.
//!
//! Two steps, since many exports leave their outputs' shapes free: [`input`] says what to run it on, and
//! [`head`] what the shapes of a real run mean. What a person said ([`Wishes`]) is always taken; where
//! neither says enough, [`Unclear`] says what was seen and what to say. Nothing is guessed that would give
//! wrong boxes without an error.

mod complete;
pub mod fields;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{anchors, boxes, detr, names, yolox};
use crate::models::check::{Element, Port, Summary};
use crate::models::manifest::{Channels, Head, Input, Layout, Task, Thresholds};

/// Pixels: the side of an input whose size is free and that nothing is said about.
const USUAL_SIDE: u32 = 640;
/// YuNet is as quick as it is at this size.
const YUNET_SIDE: u32 = 320;
/// What the sides of a free input are multiples of, unless metadata says otherwise.
const USUAL_STRIDE: u32 = 32;

/// What a person says of a model; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wishes {
    pub task: Option<Task>,
    pub head: Option<Head>,
    pub labels: Option<Vec<String>>,
    /// Width and height in pixels, for inputs whose size is free.
    pub size: Option<(u32, u32)>,
    pub channels: Option<Channels>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    pub fit: Option<FitWish>,
    pub score: Option<f32>,
    pub iou: Option<f32>,
}

/// How a picture is to be brought to the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitWish {
    Centre,
    TopLeft,
    Stretch,
}

/// What is known of the graph before anything is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub metadata: BTreeMap<String, String>,
    pub operators: BTreeSet<String>,
}

impl Signature {
    pub fn of(summary: &Summary) -> Self {
        Self {
            inputs: summary.inputs.clone(),
            outputs: summary.outputs.clone(),
            metadata: summary.metadata.clone(),
            operators: summary.operators.keys().cloned().collect(),
        }
    }
}

/// An output as a run gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub name: String,
    pub shape: Vec<usize>,
}

/// How the graph is to be fed, before it is known what it finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed {
    pub name: String,
    /// `None` for bytes.
    pub layout: Option<Layout>,
    pub width: u32,
    pub height: u32,
    /// Whether both sides can be any multiple of `stride`.
    pub is_free: bool,
    pub stride: u32,
    pub batch: Option<u32>,
    pub size_input: Option<String>,
}

/// What a graph turned out to be: the parts of a manifest that it decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Recognised {
    pub head: Head,
    pub task: Task,
    pub labels: Vec<String>,
    pub input: Input,
    pub thresholds: Thresholds,
    /// What was taken for granted, one sentence each.
    pub notes: Vec<String>,
}

/// A graph that is not clear enough to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{problem}; it has {saw}; {advice}")]
pub struct Unclear {
    pub problem: String,
    /// Inputs and outputs with their shapes.
    pub saw: String,
    /// What would settle it.
    pub advice: String,
}

fn shown(ports: &[Port]) -> String {
    let side = |side: &Option<usize>| side.map_or("?".to_owned(), |side| side.to_string());
    let port = |port: &Port| {
        let shape = port.shape.as_ref().map(|shape| shape.iter().map(side).collect::<Vec<_>>().join(", "));
        let element = port.element.map_or("?".to_owned(), |element| format!("{element:?}").to_lowercase());
        format!("{} {element} [{}]", port.name, shape.unwrap_or_else(|| "…".to_owned()))
    };
    ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// How the graph is to be fed.
///
/// # Errors
/// [`Unclear`] when it has no single input that a picture fits in.
pub fn input(signature: &Signature, wishes: &Wishes) -> Result<Feed, Unclear> {
    let unclear = |problem: &str, advice: &str| Unclear {
        problem: problem.to_owned(),
        saw: format!("inputs {}", shown(&signature.inputs)),
        advice: advice.to_owned(),
    };
    let is_size = |port: &&Port| {
        port.element == Some(Element::Int64)
            && matches!(port.shape.as_deref(), Some([_, Some(2)] | [_, None]))
    };
    let (sizes, pictures): (Vec<&Port>, Vec<&Port>) = signature.inputs.iter().partition(is_size);
    let one = "export it with one input for the picture (a second one, int64 [N, 2], may ask for its size)";
    let ([picture], true) = (pictures.as_slice(), sizes.len() <= 1) else {
        return Err(unclear("the graph does not have one input for a picture", one));
    };
    let shape = picture.shape.as_deref().unwrap_or_default();
    let (layout, height, width) = match (picture.element, shape) {
        (Some(Element::Float), [_, Some(3), height, width]) => (Some(Layout::Nchw), *height, *width),
        (Some(Element::Float), [_, height, width, Some(3)]) => (Some(Layout::Nhwc), *height, *width),
        (Some(Element::Uint8), [_, height, width, Some(3)]) => (None, *height, *width),
        // Nothing but the rank is said: the order that PyTorch exports.
        (Some(Element::Float), [_, None, height, width]) => (Some(Layout::Nchw), *height, *width),
        _ => {
            let advice =
                "inputs that can be fed are float [N, 3, H, W], float [N, H, W, 3] and uint8 [N, H, W, 3]";
            return Err(unclear("the input is no colour picture that vigie can make", advice));
        }
    };
    let batch = shape[0].map(|batch| batch as u32);
    if batch.is_some_and(|batch| batch != 1) {
        return Err(unclear(
            "the graph is for batches of a fixed size",
            "export it for one picture, or for any number",
        ));
    }
    let stride = signature.metadata.get("stride").and_then(|text| names::numbers(text));
    let stride = stride.and_then(|stride| stride.into_iter().max()).map(|stride| stride as u32);
    let stride = stride.filter(|stride| (1..=256).contains(stride)).unwrap_or(USUAL_STRIDE).max(USUAL_STRIDE);
    let (wide, high) = usual_size(signature, wishes);
    let fit =
        |side: Option<usize>, usual: u32| side.map_or(usual.next_multiple_of(stride), |side| side as u32);
    let feed = Feed {
        name: picture.name.clone(),
        layout,
        width: fit(width, wide),
        height: fit(height, high),
        is_free: width.is_none() && height.is_none(),
        stride,
        batch,
        size_input: sizes.first().map(|port| port.name.clone()),
    };
    let is_bearable = |side: u32| (32..=2048).contains(&side);
    if !is_bearable(feed.width) || !is_bearable(feed.height) {
        return Err(unclear("the input's sides are not from 32 to 2048 pixels", "export it at another size"));
    }
    Ok(feed)
}

/// Width and height of inputs that leave them free.
fn usual_size(signature: &Signature, wishes: &Wishes) -> (u32, u32) {
    let written = signature.metadata.get("imgsz").and_then(|text| names::numbers(text));
    let written = written.as_deref().and_then(|sizes| match *sizes {
        [height, width] => Some((width as u32, height as u32)),
        [side] => Some((side as u32, side as u32)),
        _ => None,
    });
    let is_yunet =
        wishes.head == Some(Head::Yunet) || signature.outputs.iter().any(|port| port.name == "obj_8");
    let usual = if is_yunet { YUNET_SIDE } else { USUAL_SIDE };
    wishes.size.or(written).unwrap_or((usual, usual))
}

/// What the outputs of a run mean.
///
/// # Errors
/// [`Unclear`] when they fit no head, or more than one.
pub fn head(
    signature: &Signature,
    feed: &Feed,
    outputs: &[Shape],
    wishes: &Wishes,
) -> Result<Recognised, Unclear> {
    let looked = Looked { signature, feed, outputs, wishes };
    let found = match wishes.head {
        Some(head) => looked.as_wished(head)?,
        None => looked.guess()?,
    };
    looked.complete(found)
}

/// A head and how many classes its outputs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    head: Head,
    /// `None` where the outputs do not say.
    classes: Option<usize>,
}

struct Looked<'a> {
    signature: &'a Signature,
    feed: &'a Feed,
    outputs: &'a [Shape],
    wishes: &'a Wishes,
}

impl Looked<'_> {
    fn unclear(&self, problem: impl Into<String>, advice: impl Into<String>) -> Unclear {
        let outputs = self.outputs.iter().map(|output| format!("{} {:?}", output.name, output.shape));
        Unclear {
            problem: problem.into(),
            saw: format!("outputs {}", outputs.collect::<Vec<_>>().join(", ")),
            advice: advice.into(),
        }
    }

    /// Labels that are given or written in the file.
    fn labels(&self) -> Option<Vec<String>> {
        let written = || {
            let keys = ["names", "labels", "classes", "class_names"];
            keys.iter().find_map(|key| names::labels(self.signature.metadata.get(*key)?))
        };
        self.wishes.labels.clone().or_else(written)
    }

    fn any(&self, fits: impl Fn(&str, &[usize]) -> bool) -> Option<&[usize]> {
        self.outputs
            .iter()
            .find(|output| fits(&output.name, &output.shape))
            .map(|output| output.shape.as_slice())
    }

    fn has_named(&self, name: &str) -> bool {
        self.outputs.iter().any(|output| output.name == name)
    }

    fn written(&self, key: &str) -> &str {
        self.signature.metadata.get(key).map_or("", String::as_str)
    }

    fn guess(&self) -> Result<Found, Unclear> {
        let of = |head, classes| Found { head, classes };
        if self.has_named("obj_8") && self.has_named("cls_8") && self.has_named("bbox_8") {
            return Ok(of(Head::Yunet, Some(1)));
        }
        if self.has_named("detections") && self.any(|_, shape| matches!(shape, &[1, 100, 6])).is_some() {
            return Ok(of(Head::Centernet, None));
        }
        if let (Some(_), Some(&[_, _, classes])) = (self.any(detr::is_boxes), self.any(detr::is_logits)) {
            return Ok(of(Head::Detr, Some(classes)));
        }
        let three = self.any(boxes::is_boxes).is_some()
            && self.any(boxes::is_scores).is_some()
            && self.any(boxes::is_classes).is_some();
        if three {
            return Ok(of(self.boxes_or_ssd()?, None));
        }
        if self.are_scrfd() {
            return Ok(of(Head::Scrfd, Some(1)));
        }
        if self.are_retinaface() {
            return Ok(of(Head::Retinaface, Some(1)));
        }
        match self.outputs {
            [Shape { shape, .. }] => self.single(shape),
            // Masks or their like behind the detections.
            [Shape { shape, .. }, ..] if !self.written("task").is_empty() => self.single(shape),
            _ => Err(self.unknown()),
        }
    }

    fn unknown(&self) -> Unclear {
        let heads = Head::ALL.map(Head::name).join(", ");
        let advice = format!(
            "if you know what they are, say it with --head (one of {heads}), else export the model as one of those do"
        );
        self.unclear("the outputs are none that vigie knows", advice)
    }

    fn boxes_or_ssd(&self) -> Result<Head, Unclear> {
        let is_tensorflow = self.outputs.iter().any(|output| output.name.contains("detection_boxes"));
        let tells_size = self.feed.size_input.is_some();
        let is_torchvision =
            self.any(|name, shape| boxes::is_boxes(name, shape) && shape.len() == 2).is_some();
        match (is_tensorflow, tells_size || is_torchvision) {
            (true, _) => Ok(Head::Ssd),
            (false, true) => Ok(Head::Boxes),
            _ => Err(self.unclear(
                "these are boxes, scores and classes, but not how the boxes are written",
                "say --head boxes if they are x0, y0, x1, y1 in pixels of the input, --head ssd if they are y0, x0, y1, \
                 x1 from 0 to 1",
            )),
        }
    }

    fn are_scrfd(&self) -> bool {
        let (width, height) = (self.feed.width as usize, self.feed.height as usize);
        anchors::STRIDES.iter().all(|stride| {
            let rows = width.div_ceil(*stride) * height.div_ceil(*stride) * anchors::ANCHORS;
            [1, 4].iter().all(|values| {
                self.any(|_, shape| shape == [1, rows, *values] || shape == [rows, *values]).is_some()
            })
        })
    }

    fn are_retinaface(&self) -> bool {
        let rows = anchors::count(self.feed.width as usize, self.feed.height as usize);
        [2, 4, 10].iter().all(|values| self.any(|_, shape| shape == [1, rows, *values]).is_some())
    }

    /// A graph with one output that counts.
    fn single(&self, shape: &[usize]) -> Result<Found, Unclear> {
        let of = |head, classes| Ok(Found { head, classes: Some(classes) });
        let labels = self.labels().map(|labels| labels.len());
        match (self.written("task"), shape) {
            ("obb", _) => Err(self.unclear("its boxes are turned", "export a detector with upright boxes")),
            ("classify", _) | (_, [1, _] | [1, _, 1, 1]) => of(Head::Classifier, shape.iter().product()),
            (_, &[1, planes, _, _]) if planes > 5 => of(Head::Fastestdet, planes - 5),
            (_, &[1, first, second]) => self.rows(first, second, labels),
            _ => Err(self.unknown()),
        }
    }

    /// One output of three axes: the YOLO family, told apart by how many rows the input's grids give.
    fn rows(&self, first: usize, second: usize, labels: Option<usize>) -> Result<Found, Unclear> {
        let of = |head, classes| Ok(Found { head, classes: Some(classes) });
        let cells = yolox::cells(self.feed.width as usize, self.feed.height as usize);
        let is_ultralytics =
            !self.written("task").is_empty() || self.written("author").contains("Ultralytics");
        let with_more = matches!(self.written("task"), "segment" | "pose");
        // Anchors in columns: no other kind does that.
        if second == cells && first > 4 && first < second {
            let classes = labels.filter(|labels| first == labels + 4 || with_more && first > labels + 4);
            return of(Head::Yolo, classes.unwrap_or(first - 4));
        }
        if first == 3 * cells && second > 5 {
            return of(Head::YoloV5, second - 5);
        }
        if first == cells && second > 5 {
            let is_transposed = labels.is_some_and(|labels| labels + 4 == second) || is_ultralytics;
            return match is_transposed {
                true => of(Head::Yolo, second - 4),
                // The offsets of a graph that decodes them itself go through an exponential.
                false if self.signature.operators.contains("Exp") => of(Head::YoloxDecoded, second - 5),
                false => of(Head::Yolox, second - 5),
            };
        }
        let is_rtdetr = self.written("head") == "RTDETRDecoder"
            || is_ultralytics && self.written("description").to_lowercase().contains("rtdetr");
        if is_rtdetr && second == 6 {
            return self.rtdetr_of_six(labels);
        }
        if is_rtdetr && second > 4
            || is_ultralytics
                && first == 300
                && second != 6
                && labels.is_some_and(|labels| labels + 4 == second)
        {
            return of(Head::DetrRows, second - 4);
        }
        // What follows the six are a mask's coefficients or keypoints.
        let is_finished_with_more = with_more && second > 6 && labels.is_some();
        if (second == 6 || is_finished_with_more) && first <= 1000 {
            // Score and class stand in each row, so that the number of classes has to be told.
            return match labels {
                Some(labels) => of(Head::YoloEnd2end, labels),
                None => Err(self.unclear(
                    "these look like finished detections, which do not say how many classes there are",
                    "give the labels with --labels",
                )),
            };
        }
        Err(self.unknown())
    }

    /// RT-DETR with six numbers a query: finished detections, or boxes and the scores of two classes.
    fn rtdetr_of_six(&self, labels: Option<usize>) -> Result<Found, Unclear> {
        // Files that name their head were written after the change.
        let is_finished = !self.written("head").is_empty();
        match labels {
            Some(2) if !is_finished => Err(self.unclear(
                "this is RT-DETR of two classes, whose older and newer exports look alike",
                "say --head detr-rows if a row is a box and two scores, --head detr-end2end if it is a box, a score and a \
                 class (Ultralytics 8.4 and later)",
            )),
            Some(labels) => Ok(Found { head: Head::DetrEnd2end, classes: Some(labels) }),
            None => Err(self.unclear(
                "these look like finished detections, which do not say how many classes there are",
                "give the labels with --labels",
            )),
        }
    }

    /// A head that a person named: its classes are counted, if its outputs tell.
    fn as_wished(&self, head: Head) -> Result<Found, Unclear> {
        let last =
            |rank: usize| self.any(|_, shape| shape.len() == rank).and_then(|shape| shape.last().copied());
        let less = |count: Option<usize>, by: usize| count.and_then(|count| count.checked_sub(by));
        let yolo = || {
            let shape = self.any(|_, shape| shape.len() == 3)?;
            shape[1].min(shape[2]).checked_sub(4)
        };
        let classes = match head {
            Head::Yolo => yolo(),
            Head::YoloV5 | Head::Yolox | Head::YoloxDecoded => less(last(3), 5),
            Head::DetrRows => less(last(3), 4),
            Head::Detr => self.any(detr::is_logits).and_then(|shape| shape.last().copied()),
            Head::Fastestdet => less(self.any(|_, shape| shape.len() == 4).map(|shape| shape[1]), 5),
            Head::Classifier => self.outputs.first().map(|output| output.shape.iter().product()),
            Head::Yunet | Head::Scrfd | Head::Retinaface | Head::Blazeface => Some(1),
            Head::YoloEnd2end | Head::DetrEnd2end | Head::Boxes | Head::Ssd | Head::Centernet => {
                return Ok(Found { head, classes: None });
            }
            Head::Faceres => Some(2),
            Head::Db => Some(1),
            // The labels are its characters, and class 0 is none of them.
            Head::Ctc => None,
        };
        match classes.filter(|classes| *classes > 0) {
            Some(classes) => Ok(Found { head, classes: Some(classes) }),
            None => Err(self.unclear(
                format!("these are not the outputs of a {} head", head.name()),
                "see docs/models.md",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
