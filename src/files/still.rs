//! Recognises one picture by itself: no track, no vote, what the models say of it.
//!
//! Between [`image`](super::image) and the answer. It blocks its caller while the engines run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::frame::{Detection, Gender, I420Buffer, Kind, Picture};
use crate::models::traffic::Slot;
use crate::pipeline::draw::{DrawnTrack, caption_of, colour_of, draw};
use crate::pipeline::labels::Labels;
use crate::pipeline::recognise::{MinScores, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::{Attributes, GenderReport};
use crate::pipeline::track::GenderConfig;

/// Faces classified before the next are asked for, so that a crowd does not fill the queue.
const FACES_AT_A_TIME: usize = 32;

/// What is wanted of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub tasks: Tasks,
    /// 0 to 1; without one, each model's own.
    pub threshold: Option<f32>,
}

/// What was found in a picture: a [`FrameReport`](crate::pipeline::report::FrameReport) without tracks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StillReport {
    /// Pixels, upright.
    pub width: u32,
    pub height: u32,
    /// Faces first, then objects, each best first.
    pub detections: Vec<DetectionReport>,
    /// Model name → version that produced this report.
    pub models: BTreeMap<String, String>,
    pub timings_ms: StillTimings,
}

/// One thing found in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectionReport {
    pub kind: Kind,
    pub label: String,
    /// 0 to 1.
    pub score: f32,
    /// `[x, y, w, h]` in pixels of the upright picture.
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
}

/// Milliseconds spent on a picture, by stage, in path order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StillTimings {
    pub decode: f32,
    /// Resize and letterbox.
    pub prepare: f32,
    /// Waiting for, and running in, the engines.
    pub infer: f32,
    /// From the start of decoding to the end of recognition.
    pub total: f32,
}

/// A recognised picture.
pub struct Recognised {
    pub report: StillReport,
    detections: Vec<Detection>,
}

/// Finds what is wanted in `picture`.
///
/// # Errors
/// As [`Recogniser::detect`].
pub fn recognise(
    recogniser: &mut Recogniser,
    picture: &Picture,
    wanted: &Wanted,
) -> Result<Recognised, RecogniseError> {
    let scores = MinScores { faces: wanted.threshold, objects: wanted.threshold };
    let mut found = recogniser.detect(picture, &wanted.tasks, &scores)?;
    let mut infer = found.infer;
    let faces: Vec<Detection> =
        found.detections.iter().filter(|detection| detection.kind == Kind::Face).cloned().collect();
    let mut genders = Vec::with_capacity(faces.len());
    if wanted.tasks.gender && !faces.is_empty() {
        let classifying = Instant::now();
        for some in faces.chunks(FACES_AT_A_TIME) {
            genders.extend(recogniser.genders(picture, some)?);
        }
        infer += classifying.elapsed();
        if let Some(model) = recogniser.models().find(&Slot::Gender) {
            found.models.insert(model.manifest.name.clone(), model.manifest.version.to_string());
        }
    }
    let mut labels = Labels::default();
    for (kind, finder) in &found.found_by {
        labels.adopt(*kind, finder);
    }
    let thresholds = recogniser.models().find(&Slot::Gender).map(|model| model.manifest.thresholds.clone());
    let config = GenderConfig::of_model(&thresholds.unwrap_or_default());
    let mut genders = genders.into_iter();
    let reports = found.detections.iter().map(|detection| {
        let p_male = if detection.kind == Kind::Face { genders.next().flatten() } else { None };
        let bbox = detection.bbox;
        DetectionReport {
            kind: detection.kind,
            label: labels.of(detection.kind, detection.class).to_owned(),
            score: detection.score,
            bbox: [bbox.x, bbox.y, bbox.w, bbox.h],
            attributes: Attributes { apparent_gender: p_male.map(|p_male| judged(p_male, &config)) },
        }
    });
    let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
    let report = StillReport {
        width: picture.width as u32,
        height: picture.height as u32,
        detections: reports.collect(),
        models: found.models,
        timings_ms: StillTimings {
            decode: ms(picture.decoded.saturating_duration_since(picture.decode_started)),
            prepare: ms(found.prepare),
            infer: ms(infer),
            total: ms(picture.decode_started.elapsed()),
        },
    };
    Ok(Recognised { report, detections: found.detections })
}

/// Apparent gender by a single look, p(male) from 0 to 1.
fn judged(p_male: f32, config: &GenderConfig) -> GenderReport {
    let (lower, upper) = config.unsure;
    let label = match p_male {
        p if p >= upper => Gender::Male,
        p if p <= lower => Gender::Female,
        _ => Gender::Unsure,
    };
    GenderReport { label, score: p_male.max(1.0 - p_male).clamp(0.5, 1.0) }
}

impl Recognised {
    /// A copy of `picture` with what was found drawn on it.
    pub fn annotated(&self, picture: &Picture) -> Picture {
        let mut canvas = I420Buffer::black(picture.width, picture.height);
        canvas.copy_from(picture);
        let drawn =
            self.report.detections.iter().zip(&self.detections).map(|(report, detection)| DrawnTrack {
                bbox: detection.bbox,
                label: caption_of(&report.label, report.score, &report.attributes),
                colour: colour_of(detection.kind, detection.class),
            });
        draw(&mut canvas, &drawn.collect::<Vec<_>>());
        canvas.into_picture(picture.rtp_timestamp, picture.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_look_is_judged_by_the_models_thresholds() {
        let config = GenderConfig { unsure: (0.3, 0.6), ..GenderConfig::default() };
        for (p_male, label, score) in [
            (0.0, Gender::Female, 1.0),
            (0.3, Gender::Female, 0.7),
            (0.31, Gender::Unsure, 0.69),
            (0.55, Gender::Unsure, 0.55),
            (0.6, Gender::Male, 0.6),
            (1.0, Gender::Male, 1.0),
        ] {
            let report = judged(p_male, &config);
            assert_eq!(report.label, label, "{p_male}");
            assert!((report.score - score).abs() < 1e-6, "{p_male}: {}", report.score);
        }
    }
}
