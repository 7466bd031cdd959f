//! What live sessions and video files have in common between detecting and reporting.
//!
//! How tracks are born by the models' thresholds, and the classification of the faces that the tracker is
//! not sure of. It keeps nothing: the tracker is its caller's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::recognise::{ModelSet, RecogniseError, Recogniser};
use super::track::{KindConfig, TrackConfig, Tracker};
use crate::frame::{Detection, Picture};
use crate::models::manifest::{Task, Thresholds};

/// The models' own thresholds, or `threshold` (0 to 1) in their place.
pub fn track_config(models: &ModelSet, threshold: Option<f32>) -> TrackConfig {
    let of = |task: Task| -> Thresholds {
        models.find(task).map(|model| model.manifest.thresholds.clone()).unwrap_or_default()
    };
    let config = TrackConfig::of_models(&of(Task::Faces), &of(Task::Objects), &of(Task::Gender));
    match threshold {
        Some(score) => {
            TrackConfig { faces: KindConfig::above(score), objects: KindConfig::above(score), ..config }
        }
        None => config,
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
    let ids = tracker.needs_gender(at);
    if ids.is_empty() {
        return Ok(());
    }
    let tracks = tracker.tracks().iter().filter(|track| ids.contains(&track.id));
    let (ids, faces): (Vec<u64>, Vec<Detection>) = tracks
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
    for (id, p_male) in ids.into_iter().zip(recogniser.genders(picture, &faces)?) {
        if let Some(p_male) = p_male {
            tracker.vote_gender(id, p_male, at);
        }
    }
    if let Some(model) = recogniser.models().find(Task::Gender) {
        used.insert(model.manifest.name.clone(), model.manifest.version.to_string());
    }
    Ok(())
}
