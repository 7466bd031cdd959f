//! Shadows: models that look at a share of a session's pictures beside those that serve it, to be compared and never shown.
//!
//! One runs only where that keeps nobody waiting, and a session has one picture of each slot with its shadow at a time.

use std::sync::Arc;

use crate::frame::{Detection, Kind, Picture};
use crate::models::manifest::Manifest;
use crate::models::traffic::{Share, Slot};
use crate::pipeline::agree::compare;
use crate::pipeline::labels::label_of;
use crate::pipeline::recognise::{Model, RecogniseError, Recogniser, Shadowing};

/// What was found in a picture by the models that serve.
#[derive(Default)]
pub(super) struct Seen {
    pub detections: Vec<Detection>,
    pub found_by: Vec<(Kind, Arc<Manifest>)>,
}

/// The shadows of a session's slots.
#[derive(Default)]
pub(super) struct Shadows {
    faces: Shadow,
    objects: Shadow,
    /// Never asked.
    text: Shadow,
}

#[derive(Default)]
struct Shadow {
    /// Percents of pictures that it has been owed since its last run, up to one picture.
    owed: u8,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    shadowing: Shadowing,
    stable: Vec<Detection>,
    found_by: Arc<Manifest>,
    threshold: Option<f32>,
}

/// What pictures are asked for one after the other.
const KINDS: [Kind; 2] = [Kind::Face, Kind::Object];

fn slot_of(kind: Kind) -> Slot {
    match kind {
        Kind::Face => Slot::Faces,
        Kind::Object => Slot::Objects,
        Kind::Text => Slot::TextDetect,
    }
}

impl Shadows {
    fn of(&mut self, kind: Kind) -> &mut Shadow {
        match kind {
            Kind::Face => &mut self.faces,
            Kind::Object => &mut self.objects,
            Kind::Text => &mut self.text,
        }
    }

    /// Whether there is any at all: what was found need not be kept otherwise.
    pub fn are_wanted(recogniser: &Recogniser) -> bool {
        KINDS.iter().any(|kind| recogniser.models().shadow(&slot_of(*kind)).is_some())
    }

    /// Has the shadows look at a picture whose turn it is; `threshold` (0 to 1) is the session's.
    pub fn begin(&mut self, recogniser: &Recogniser, picture: &Picture, seen: &Seen, threshold: Option<f32>) {
        for (kind, found_by) in &seen.found_by {
            let Some(Share { model, percent }) = recogniser.models().shadow(&slot_of(*kind)) else {
                continue;
            };
            let shadow = self.of(*kind);
            shadow.owed = (shadow.owed + percent).min(100);
            if shadow.owed < 100 || shadow.under_way.is_some() || Arc::ptr_eq(&model.manifest, found_by) {
                continue;
            }
            match recogniser.begin_shadow(model, picture) {
                Ok(Some(shadowing)) => {
                    let least = threshold.unwrap_or(found_by.thresholds.score);
                    let shown = |detection: &&Detection| detection.kind == *kind && detection.score >= least;
                    shadow.owed = 0;
                    shadow.under_way = Some(UnderWay {
                        shadowing,
                        stable: seen.detections.iter().filter(shown).cloned().collect(),
                        found_by: Arc::clone(found_by),
                        threshold,
                    });
                }
                Ok(None) => {}
                Err(error) => note(&error),
            }
        }
    }

    /// Compares what has been answered.
    pub fn collect(&mut self, recogniser: &Recogniser) {
        for kind in KINDS {
            let place = &mut self.of(kind).under_way;
            let Some(answered) = place.take_if(|under_way| under_way.shadowing.is_answered()) else {
                continue;
            };
            let UnderWay { shadowing, stable, found_by, threshold } = answered;
            let shadow: Model = shadowing.model().clone();
            match recogniser.finish_shadow(shadowing, threshold) {
                Ok(other) => {
                    let is_same = |a, b| label_of(&found_by, a) == label_of(&shadow.manifest, b);
                    shadow.figures.agreed(&compare(&stable, &other, is_same));
                }
                Err(error) => note(&error),
            }
        }
    }
}

/// What a shadow meets is its own affair: it is counted in its figures, by which its guard judges it.
fn note(error: &RecogniseError) {
    tracing::debug!(error = error as &dyn std::error::Error, "a shadow");
}
