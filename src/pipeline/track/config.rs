//! How the things of a session are tracked: scores, times, and the limits of the second stage.

use std::time::Duration;

use super::question::Question;
use crate::frame::Kind;
use crate::models::manifest::Thresholds;

/// How the tracks of one kind are born and die.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindConfig {
    /// Detections scored at or above this begin tracks and are matched first.
    pub high_score: f32,
    /// Detections scored below this are ignored; between the two they only continue tracks.
    pub low_score: f32,
    /// A track is shown at once when a detection has at least this score.
    pub instant_score: f32,
    /// A track is shown after this many detections, whatever their scores.
    pub birth_hits: u32,
    /// A track that misses more than one recognition is shown for this long after it was last seen.
    pub hold: Duration,
    /// A track is forgotten when it was not seen for longer than this.
    pub max_age: Duration,
}

impl KindConfig {
    /// The usual life of a track whose detections are to be reported from `score` on.
    pub fn above(score: f32) -> Self {
        Self {
            high_score: score,
            low_score: (score * 0.5).max(score - 0.2),
            instant_score: score + (1.0 - score) * 0.2,
            birth_hits: 2,
            hold: Duration::from_millis(300),
            max_age: Duration::from_secs(2),
        }
    }

    /// For what is looked for about once a second, and is shown until it was looked for in vain a few times.
    pub fn rare(score: f32) -> Self {
        Self {
            birth_hits: 1,
            instant_score: score,
            hold: Duration::from_millis(2500),
            max_age: Duration::from_secs(4),
            ..Self::above(score)
        }
    }

    /// The same for single pictures, where nothing can be confirmed by a second look.
    pub fn still(score: f32) -> Self {
        Self { birth_hits: 1, ..Self::above(score) }
    }
}

/// How a session's things are tracked, and what is asked about them.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackConfig {
    pub faces: KindConfig,
    pub objects: KindConfig,
    pub text: KindConfig,
    pub questions: Vec<Question>,
}

impl TrackConfig {
    /// The configuration for models with these thresholds.
    pub fn of_models(faces: &Thresholds, objects: &Thresholds, questions: Vec<Question>) -> Self {
        let (faces, objects) = (KindConfig::above(faces.score), KindConfig::above(objects.score));
        Self { faces, objects, questions, ..Self::default() }
    }

    pub(super) fn of(&self, kind: Kind) -> &KindConfig {
        match kind {
            Kind::Face => &self.faces,
            Kind::Object => &self.objects,
            Kind::Text => &self.text,
        }
    }
}

impl Default for TrackConfig {
    fn default() -> Self {
        Self {
            faces: KindConfig::above(0.5),
            objects: KindConfig::above(0.35),
            text: KindConfig::rare(0.5),
            questions: Vec::new(),
        }
    }
}
