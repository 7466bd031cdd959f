//! What live sessions and video files have in common between detecting and reporting.
//!
//! How tracks are born by the models' thresholds, and the classification of the faces that the tracker is
//! not sure of. It keeps nothing: the tracker is its caller's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::labels::Labels;
use super::recognise::{Classifying, Found, Model, ModelSet, RecogniseError, Recogniser};
use super::track::{KindConfig, TrackConfig, Tracker};
use crate::frame::{Detection, Picture};
use crate::models::manifest::Thresholds;
use crate::models::traffic::Slot;

/// The models' own thresholds, or `threshold` (0 to 1) in their place.
pub fn track_config(models: &ModelSet, threshold: Option<f32>) -> TrackConfig {
    let of = |slot: &Slot| -> Thresholds {
        models.find(slot).map(|model| model.manifest.thresholds.clone()).unwrap_or_default()
    };
    let config = TrackConfig::of_models(&of(&Slot::Faces), &of(&Slot::Objects), &of(&Slot::Gender));
    match threshold {
        Some(score) => {
            TrackConfig { faces: KindConfig::above(score), objects: KindConfig::above(score), ..config }
        }
        None => config,
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

/// The faces of a picture that are being classified, by their tracks.
pub struct Unsure {
    tracks: Vec<u64>,
    classifying: Classifying,
}

impl Unsure {
    /// What classifies them.
    pub fn model(&self) -> &Model {
        self.classifying.model()
    }

    /// Whether [`vote`] would not wait.
    pub fn is_answered(&self) -> bool {
        self.classifying.is_answered()
    }
}

/// Has the faces classified that the tracker asks for in `picture` of media time `at`, and counts the
/// answers; the model that was asked joins `used` (name → version).
///
/// # Errors
/// As [`Recogniser::genders`].
pub fn classify(
    recogniser: &mut Recogniser,
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

/// Begins what [`vote`] finishes; `None` when the tracker is sure of every face.
///
/// # Errors
/// As [`Recogniser::genders`].
pub fn begin_classifying(
    recogniser: &Recogniser,
    tracker: &mut Tracker,
    picture: &Picture,
    at: Duration,
) -> Result<Option<Unsure>, RecogniseError> {
    let ids = tracker.needs_gender(at);
    if ids.is_empty() {
        return Ok(None);
    }
    let wanted = tracker.tracks().iter().filter(|track| ids.contains(&track.id));
    let (tracks, faces): (Vec<u64>, Vec<Detection>) = wanted
        .map(|track| {
            let face = Detection {
                kind: track.kind,
                class: track.class,
                score: track.score,
                bbox: track.bbox,
                landmarks: track.landmarks,
            };
            (track.id, face)
        })
        .unzip();
    Ok(Some(Unsure { tracks, classifying: recogniser.begin_genders(picture, &faces)? }))
}

/// Waits for the classifier and has the tracker count its answers; the model that was asked joins `used`.
///
/// # Errors
/// As [`Recogniser::genders`].
pub fn vote(
    recogniser: &Recogniser,
    tracker: &mut Tracker,
    unsure: Unsure,
    at: Duration,
    used: &mut BTreeMap<String, String>,
) -> Result<(), RecogniseError> {
    let manifest = Arc::clone(&unsure.model().manifest);
    let answers = recogniser.finish_genders(unsure.classifying)?;
    for (id, p_male) in unsure.tracks.into_iter().zip(answers) {
        if let Some(p_male) = p_male {
            tracker.vote_gender(id, p_male, at);
        }
    }
    used.insert(manifest.name.clone(), manifest.version.to_string());
    Ok(())
}
