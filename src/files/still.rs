//! Recognises one picture by itself: no track, no vote, what the models say of it.
//!
//! Between [`image`](super::image) and the answer. It blocks its caller while the engines run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::frame::{Detection, Gender, I420Buffer, Kind, Picture};
use crate::models::heads::ctc::LineText;
use crate::models::traffic::Slot;
use crate::pipeline::draw::{DrawnTrack, caption_of, colour_of, draw};
use crate::pipeline::follow::{questions, reading_models, slot_of};
use crate::pipeline::labels::Labels;
use crate::pipeline::recognise::{Found, MinScores, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::{Attributes, GenderReport, LabelReport};
use crate::pipeline::text::{Effort, Place};
use crate::pipeline::track::{Answer, Attribute, GenderConfig, Question};

/// Crops classified before the next are asked for, so that a crowd does not fill the queue.
const CROPS_AT_A_TIME: usize = 32;
/// Things of one label that are read in one picture, the surest.
const MAX_THINGS_READ: usize = 16;

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
    /// Faces first, then objects, each best first; then lines of text, in reading order.
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
    if wanted.tasks.text && !recogniser.models().can_read() {
        return Err(RecogniseError::NoModel(Slot::TextRead));
    }
    let scores = MinScores { faces: wanted.threshold, objects: wanted.threshold };
    let Found { mut detections, prepare, mut infer, mut models, found_by } =
        recogniser.detect(picture, &wanted.tasks, &scores)?;
    let mut labels = Labels::default();
    for (kind, finder) in &found_by {
        labels.adopt(*kind, finder);
    }
    let asking = Instant::now();
    let mut said = vec![Attributes::default(); detections.len()];
    for question in questions(recogniser.models(), &wanted.tasks) {
        let slot = slot_of(recogniser.models(), &question);
        match (slot, question.kind) {
            (Some(slot), _) => {
                let used = classify(recogniser, picture, &question, &slot, &detections, &mut said)?;
                models.extend(used);
            }
            (None, Kind::Text) => {
                for (line, text) in read_lines(recogniser, picture)? {
                    detections.push(line);
                    said.push(Attributes { text: Some(text), ..Attributes::default() });
                }
                models.extend(reading_models(recogniser.models()));
            }
            (None, _) => {
                read_things(recogniser, picture, &question, &detections, &mut said)?;
                models.extend(reading_models(recogniser.models()));
            }
        }
    }
    infer += asking.elapsed();
    let reports = detections.iter().zip(said).map(|(detection, attributes)| {
        let bbox = detection.bbox.clipped(picture.width as f32, picture.height as f32);
        DetectionReport {
            kind: detection.kind,
            label: labels.of(detection.kind, detection.class).to_owned(),
            score: detection.score,
            bbox: [bbox.x, bbox.y, bbox.w, bbox.h],
            attributes,
        }
    });
    let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
    let report = StillReport {
        width: picture.width as u32,
        height: picture.height as u32,
        detections: reports.collect(),
        models,
        timings_ms: StillTimings {
            decode: ms(picture.decoded.saturating_duration_since(picture.decode_started)),
            prepare: ms(prepare),
            infer: ms(infer),
            total: ms(picture.decode_started.elapsed()),
        },
    };
    Ok(Recognised { report, detections })
}

/// The indices of what a question is about.
fn asked_about(question: &Question, detections: &[Detection]) -> Vec<usize> {
    let is_asked = |index: &usize| question.is_about(detections[*index].kind, detections[*index].class);
    (0..detections.len()).filter(is_asked).collect()
}

/// Asks one classifier, and says which, if there was anything to ask about.
fn classify(
    recogniser: &Recogniser,
    picture: &Picture,
    question: &Question,
    slot: &Slot,
    detections: &[Detection],
    said: &mut [Attributes],
) -> Result<Option<(String, String)>, RecogniseError> {
    let asked = asked_about(question, detections);
    for some in asked.chunks(CROPS_AT_A_TIME) {
        let crops: Vec<Detection> = some.iter().map(|&index| detections[index].clone()).collect();
        for (&index, answer) in some.iter().zip(recogniser.classify(slot, picture, &crops)?) {
            match (&question.attribute, answer) {
                (Attribute::ApparentGender(config), Some(Answer::Male(p_male))) => {
                    said[index].apparent_gender = Some(judged(p_male, config));
                }
                (Attribute::Class(name), Some(Answer::Label(label, score))) => {
                    let report = LabelReport { label: label.to_string(), score };
                    said[index].classes.insert(name.to_string(), report);
                }
                _ => {}
            }
        }
    }
    let model = recogniser.models().find(slot).filter(|_| !asked.is_empty());
    Ok(model.map(|model| (model.manifest.name.clone(), model.manifest.version.to_string())))
}

/// The lines of the whole picture that could be read, in reading order.
fn read_lines(
    recogniser: &Recogniser,
    picture: &Picture,
) -> Result<Vec<(Detection, LabelReport)>, RecogniseError> {
    let lines = recogniser.find_lines(picture, Effort::FILE)?;
    let places: Vec<Place> = lines.iter().map(|line| Place::Line(line.place)).collect();
    let texts = recogniser.read_places(picture, &places, Effort::FILE)?;
    let read = lines.iter().zip(texts).filter_map(|(line, text)| Some((line.detection(), report_of(text)?)));
    Ok(read.collect())
}

/// Reads what is written on the surest of the things that a question is about.
fn read_things(
    recogniser: &Recogniser,
    picture: &Picture,
    question: &Question,
    detections: &[Detection],
    said: &mut [Attributes],
) -> Result<(), RecogniseError> {
    let mut asked = asked_about(question, detections);
    asked.truncate(MAX_THINGS_READ);
    let places: Vec<Place> = asked.iter().map(|&index| Place::Box(detections[index].bbox)).collect();
    for (index, text) in asked.into_iter().zip(recogniser.read_places(picture, &places, Effort::FILE)?) {
        said[index].text = report_of(text);
    }
    Ok(())
}

fn report_of(line: LineText) -> Option<LabelReport> {
    let LineText { text, score } = line;
    (!text.is_empty()).then_some(LabelReport { label: text, score })
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
