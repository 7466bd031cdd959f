//! What a recognised graph leaves unsaid, as its kind's authors have it: labels, normalisation, fit,
//! thresholds.

use super::{Feed, FitWish, Found, Looked, Recognised, Unclear};
use crate::models::catalogue::COCO;
use crate::models::check::Port;
use crate::models::heads::names;
use crate::models::manifest::{Channels, Fit, FloatFormat, Head, Input, InputFormat, Task, Thresholds};

/// What letterboxes are filled with in the YOLO family's training.
const GREY: u8 = 114;

impl Looked<'_> {
    pub(super) fn complete(&self, Found { head, classes }: Found) -> Result<Recognised, Unclear> {
        let mut notes = Vec::new();
        if matches!(head, Head::Yolo | Head::YoloEnd2end)
            && matches!(self.written("task"), "segment" | "pose")
        {
            notes
                .push(format!("of a model for \"{}\" only boxes and classes are read", self.written("task")));
        }
        let labels = self.complete_labels(head, classes, &mut notes)?;
        let is_face = labels.len() == 1 && labels[0].eq_ignore_ascii_case("face");
        let natural = if is_face && head.serves(Task::Faces) { Task::Faces } else { head.task() };
        let task = self.wishes.task.unwrap_or(natural);
        if !head.serves(task) {
            let problem = format!("a {} head is not for {}", head.name(), task.name());
            return Err(self.unclear(problem, "leave --task out"));
        }
        let input = self.complete_input(head, &mut notes);
        let (score, iou) = usual_thresholds(head);
        let thresholds = Thresholds {
            score: self.wishes.score.unwrap_or(score),
            iou: self.wishes.iou.unwrap_or(iou),
            unsure: (task == Task::Gender).then_some((0.35, 0.65)),
            min_width: 0.0,
        };
        Ok(Recognised { head, task, labels, input, thresholds, notes })
    }

    fn complete_labels(
        &self,
        head: Head,
        classes: Option<usize>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<String>, Unclear> {
        if head.task() == Task::Faces {
            return Ok(vec!["face".to_owned()]);
        }
        if let Some(labels) = self.labels() {
            return match classes.is_none_or(|classes| classes == labels.len()) {
                true => Ok(names::unique(labels)),
                false => {
                    let problem =
                        format!("there are {} labels for {} classes", labels.len(), classes.unwrap_or(0));
                    Err(self.unclear(problem, "give as many with --labels as the model has classes"))
                }
            };
        }
        let coco = || COCO.map(str::to_owned).to_vec();
        match classes {
            Some(80) | None => {
                notes.push("the labels are taken to be COCO's 80: give others with --labels".to_owned());
                Ok(coco())
            }
            Some(91) if head == Head::Detr => {
                notes.push(
                    "the labels are taken to be COCO's by category number: give others with --labels"
                        .to_owned(),
                );
                Ok(coco_by_category())
            }
            Some(1) => {
                notes.push("its one class is called \"object\": name it with --labels".to_owned());
                Ok(vec!["object".to_owned()])
            }
            Some(classes) => {
                notes.push(format!("the file does not name its {classes} classes: give --labels"));
                Ok((0..classes).map(|class| format!("class {class}")).collect())
            }
        }
    }

    fn complete_input(&self, head: Head, notes: &mut Vec<String>) -> Input {
        let Feed { name, layout, width, height, is_free, stride, batch, size_input } = self.feed.clone();
        // Queries that stand for places, and lists of anchors made at export, hold for one size only.
        let can_shrink =
            matches!(head, Head::Yolo | Head::YoloV5 | Head::YoloEnd2end | Head::Yunet | Head::Centernet);
        let is_free = is_free && can_shrink && width == height;
        let corner = |fill| match is_free {
            true => Fit::TopLeft { fill, multiple: stride },
            false => Fit::TopLeft { fill, multiple: width },
        };
        let natural = match head {
            Head::Yolo | Head::YoloV5 | Head::YoloEnd2end if is_free => corner(GREY),
            Head::Yolo | Head::YoloV5 | Head::YoloEnd2end => Fit::Centre { fill: GREY },
            Head::Yolox | Head::YoloxDecoded | Head::Centernet => corner(GREY),
            Head::Yunet | Head::Scrfd | Head::Retinaface => corner(0),
            Head::Blazeface => Fit::Centre { fill: 0 },
            _ => Fit::Stretch,
        };
        let fit = match self.wishes.fit {
            None => natural,
            Some(FitWish::Centre) => Fit::Centre { fill: GREY },
            Some(FitWish::TopLeft) => corner(GREY),
            Some(FitWish::Stretch) => Fit::Stretch,
        };
        let format = layout.map_or(InputFormat::RgbU8Nhwc, |layout| {
            let (channels, mean, std) = usual_pixels(head, &self.signature.outputs);
            let channels = self.wishes.channels.unwrap_or(channels);
            if self.wishes.mean.is_none() && self.wishes.std.is_none() {
                notes.push(format!("pixels are given as {}", told(channels, mean, std)));
            }
            let (mean, std) = (self.wishes.mean.unwrap_or(mean), self.wishes.std.unwrap_or(std));
            InputFormat::Float(FloatFormat { layout, channels, mean, std })
        });
        let shrinks = matches!(fit, Fit::TopLeft { multiple, .. } if multiple < width);
        let height = (!shrinks && width != height).then_some(height);
        Input { name, format, size: width, height, batch, size_input, fit }
    }
}

/// How the authors of a kind of model feed it: order, mean and standard deviation of pixels from 0 to 255.
fn usual_pixels(head: Head, outputs: &[Port]) -> (Channels, [f32; 3], [f32; 3]) {
    const IMAGENET: ([f32; 3], [f32; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
    let is_rf_detr = outputs.iter().any(|port| port.name == "dets");
    match head {
        Head::Yunet | Head::Yolox | Head::YoloxDecoded => (Channels::Bgr, [0.0; 3], [1.0; 3]),
        Head::Fastestdet => (Channels::Bgr, [0.0; 3], [255.0; 3]),
        Head::Retinaface => (Channels::Bgr, [104.0, 117.0, 123.0], [1.0; 3]),
        Head::Scrfd => (Channels::Rgb, [127.5; 3], [128.0; 3]),
        Head::Detr if is_rf_detr => (Channels::Rgb, IMAGENET.0, IMAGENET.1),
        Head::Classifier if !outputs.iter().any(|port| port.name == "output0") => {
            (Channels::Rgb, IMAGENET.0, IMAGENET.1)
        }
        _ => (Channels::Rgb, [0.0; 3], [255.0; 3]),
    }
}

fn told(channels: Channels, mean: [f32; 3], std: [f32; 3]) -> String {
    let order = if channels == Channels::Rgb { "RGB" } else { "BGR" };
    format!("{order}, (pixel - {mean:?}) / {std:?}: change it with --channels, --mean and --std")
}

/// Least score and most overlap.
fn usual_thresholds(head: Head) -> (f32, f32) {
    match head {
        Head::Yunet => (0.6, 0.3),
        Head::Fastestdet => (0.5, 0.45),
        Head::Scrfd | Head::Retinaface | Head::Blazeface => (0.5, 0.4),
        Head::Ssd | Head::Boxes => (0.5, 0.6),
        Head::Detr | Head::DetrRows | Head::DetrEnd2end => (0.45, 0.8),
        Head::YoloEnd2end => (0.35, 0.8),
        _ => (0.35, 0.5),
    }
}

/// COCO's labels where the dataset's own numbers, with their gaps, are the classes.
pub(super) fn coco_by_category() -> Vec<String> {
    const UNUSED: [usize; 11] = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83];
    let mut labels = COCO.iter();
    let named = |category: usize| match UNUSED.contains(&category) {
        true => None,
        false => labels.next(),
    };
    let mut named = named;
    (0..91)
        .map(|category| {
            named(category).map_or_else(|| format!("unused {category}"), |label| (*label).to_owned())
        })
        .collect()
}
