//! What live sessions and video files have in common between detecting and reporting.
//!
//! How tracks are born by the models' thresholds, what second-stage models are asked about them, and the
//! classification of those that the tracker is not sure of. It keeps nothing: the tracker is its caller's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::labels::{Labels, label_of};
use super::recognise::{
    Classifying, Found, Model, ModelSet, RecogniseError, Recogniser, Tasks, WHOLE_PICTURE,
};
use super::track::{Attribute, KindConfig, Pace, Question, TrackConfig, Tracker};
use crate::frame::{Detection, Kind, Picture};
use crate::models::manifest::Thresholds;
use crate::models::traffic::Slot;

/// The label that stands for faces, whatever their detector calls them.
pub const FACE: &str = "face";

/// What no classifier's answers can be called in a report.
const TAKEN: [&str; 2] = ["apparent_gender", "text"];

/// Lines of a whole picture that are read at a time.
const LINES_AT_A_TIME: usize = 8;

/// How things are tracked by the models' own thresholds, or by `threshold` (0 to 1) in their place, and what is
/// asked about them for `tasks`.
pub fn track_config(models: &ModelSet, tasks: &Tasks, threshold: Option<f32>) -> TrackConfig {
    let of = |slot: &Slot| -> Thresholds {
        models.find(slot).map(|model| model.manifest.thresholds.clone()).unwrap_or_default()
    };
    let questions = questions(models, tasks);
    let config = TrackConfig::of_models(&of(&Slot::Faces), &of(&Slot::Objects), questions);
    match threshold {
        Some(score) => {
            TrackConfig { faces: KindConfig::above(score), objects: KindConfig::above(score), ..config }
        }
        None => config,
    }
}

/// What is asked about what was found, for `tasks`.
pub fn questions(models: &ModelSet, tasks: &Tasks) -> Vec<Question> {
    let mut questions = Vec::new();
    for slot in models.slots() {
        let asked = match &slot {
            Slot::Gender if tasks.gender => {
                models.find(&slot).map(|model| Question::gender(&model.manifest.thresholds))
            }
            Slot::Classify(label) => question_of_classifier(models, &slot, label),
            _ => None,
        };
        questions.extend(asked);
    }
    if tasks.text && models.can_read() {
        let on = models.text_on();
        questions.extend(on.into_iter().filter_map(|label| {
            let (kind, class) = subject(models, label)?;
            let of_kind = Pace::of_reader();
            let pace = match kind {
                Kind::Text => Pace { per_frame: LINES_AT_A_TIME, ..of_kind },
                _ => of_kind,
            };
            Some(Question { attribute: Attribute::Text, kind, class, pace })
        }));
    }
    questions
}

fn question_of_classifier(models: &ModelSet, slot: &Slot, label: &str) -> Option<Question> {
    let manifest = models.find(slot)?.manifest;
    let (kind, class) = subject(models, label)?;
    let attribute = Attribute::Class(manifest.name.as_str().into());
    let question = Question { attribute, kind, class, pace: Pace::of_classifier(&manifest.thresholds) };
    (!TAKEN.contains(&&*manifest.name)).then_some(question)
}

/// The tracks that go by a label; `None` where the detectors in use know no such thing.
fn subject(models: &ModelSet, label: &str) -> Option<(Kind, Option<u16>)> {
    match label {
        FACE => Some((Kind::Face, None)),
        WHOLE_PICTURE => Some((Kind::Text, None)),
        _ => {
            let labels = &models.find(&Slot::Objects)?.manifest.labels;
            let class = labels.iter().position(|known| known == label)?;
            Some((Kind::Object, Some(u16::try_from(class).ok()?)))
        }
    }
}

/// The models that read text: name → version.
pub fn reading_models(models: &ModelSet) -> impl Iterator<Item = (String, String)> {
    let found = [Slot::TextDetect, Slot::TextRead].map(|slot| models.find(&slot));
    found
        .into_iter()
        .flatten()
        .map(|Model { manifest, .. }| (manifest.name.clone(), manifest.version.to_string()))
}

/// The slot of the classifier that answers `question`, if one does.
pub fn slot_of(models: &ModelSet, question: &Question) -> Option<Slot> {
    match (&question.attribute, question.kind, question.class) {
        (Attribute::ApparentGender(_), ..) => Some(Slot::Gender),
        (Attribute::Text, ..) => None,
        (Attribute::Class(_), Kind::Face, _) => Some(Slot::Classify(FACE.to_owned())),
        (Attribute::Class(_), _, class) => {
            let objects = models.find(&Slot::Objects)?;
            Some(Slot::Classify(label_of(&objects.manifest, class?).to_owned()))
        }
    }
}

/// Takes in what was found in the picture of media time `at`. Where another model found it than before, what is known is
/// called by that one's labels from now on.
pub fn follow(tracker: &mut Tracker, labels: &mut Labels, found: &Found, at: Duration) {
    for (kind, finder) in &found.found_by {
        if let Some(translation) = labels.adopt(*kind, finder) {
            tracker.translate(*kind, |class| translation.class(class));
        }
    }
    tracker.update(&found.detections, at);
}

/// The things in a picture that are being classified, by what is asked of which tracks.
pub struct Unsure {
    asked: Vec<(Question, Vec<u64>, Classifying)>,
}

impl Unsure {
    /// What classifies them, and in which slot.
    pub fn models(&self) -> impl Iterator<Item = (&Slot, &Model)> {
        self.asked.iter().map(|(_, _, classifying)| (classifying.slot(), classifying.model()))
    }

    /// Whether [`vote`] would not wait.
    pub fn is_answered(&self) -> bool {
        self.asked.iter().all(|(_, _, classifying)| classifying.is_answered())
    }
}

/// Has the things classified that the tracker asks for in `picture` of media time `at`, and counts the
/// answers; the models that were asked join `used` (name → version).
///
/// # Errors
/// As [`Recogniser::classify`].
pub fn classify(
    recogniser: &Recogniser,
    tracker: &mut Tracker,
    picture: &Picture,
    at: Duration,
    used: &mut BTreeMap<String, String>,
) -> Result<(), RecogniseError> {
    match begin_classifying(recogniser, tracker, picture, at)? {
        Some(unsure) => vote(recogniser, tracker, unsure, at, used),
        None => Ok(()),
    }
}

/// Begins what [`vote`] finishes; `None` when the tracker is sure of everything.
///
/// # Errors
/// As [`Recogniser::classify`].
pub fn begin_classifying(
    recogniser: &Recogniser,
    tracker: &mut Tracker,
    picture: &Picture,
    at: Duration,
) -> Result<Option<Unsure>, RecogniseError> {
    let mut asked = Vec::new();
    for question in tracker.questions() {
        let Some(slot) = slot_of(recogniser.models(), &question) else { continue };
        let ids = tracker.needs(&question, at);
        if ids.is_empty() {
            continue;
        }
        let wanted = tracker.tracks().iter().filter(|track| ids.contains(&track.id));
        let (tracks, found): (Vec<u64>, Vec<Detection>) =
            wanted.map(|track| (track.id, track.detection())).unzip();
        let classifying = recogniser.begin_classifying(&slot, picture, &found)?;
        asked.push((question, tracks, classifying));
    }
    Ok((!asked.is_empty()).then_some(Unsure { asked }))
}

/// Waits for the classifiers and has the tracker count their answers; the models that were asked join `used`.
///
/// # Errors
/// As [`Recogniser::classify`].
pub fn vote(
    recogniser: &Recogniser,
    tracker: &mut Tracker,
    unsure: Unsure,
    at: Duration,
    used: &mut BTreeMap<String, String>,
) -> Result<(), RecogniseError> {
    for (question, tracks, classifying) in unsure.asked {
        let manifest = Arc::clone(&classifying.model().manifest);
        let answers = recogniser.finish_classifying(classifying)?;
        for (id, answer) in tracks.into_iter().zip(answers) {
            if let Some(answer) = answer {
                tracker.vote(&question, id, &answer, at);
            }
        }
        used.insert(manifest.name.clone(), manifest.version.to_string());
    }
    Ok(())
}
