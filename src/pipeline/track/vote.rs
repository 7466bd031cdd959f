//! Second-stage votes: what a face track looks like, from the classifier's answers for its recent crops.
//!
//! One crop says little: blur, a turned head or a bad alignment flips it. So a track's label is the
//! weighted mean of the evidence of its last crops, with hysteresis, and a track whose label has
//! settled is looked at rarely, which saves most of the classifier's work. Pure: it never sees a
//! pixel, and the classifier is run elsewhere.

use std::time::Duration;

use crate::frame::Gender;
use crate::models::manifest::Thresholds;
use crate::pipeline::report::GenderReport;

/// Crops that take part in a vote; older ones are forgotten.
const CROPS: usize = 8;

/// Crops after which a label that is not "unsure" has settled.
const SETTLING_CROPS: usize = 5;

/// Crops that are enough when they are at least [`CLEAR`].
const CLEAR_CROPS: usize = 3;

/// Mean p(male), or p(female), that settles a track early.
const CLEAR: f32 = 0.9;

/// One crop's p(male) counts as no further from 0.5 than this, so that none outvotes the others.
const EXTREME: f32 = 0.98;

/// Pixels: the width from which a face's crop counts in full.
const FULL_WIDTH: f32 = 64.0;

/// When faces are classified and how the answers become a label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenderConfig {
    /// p(male): at or below the first "female", at or above the second "male", between them "unsure".
    pub unsure: (f32, f32),
    /// How far back past its threshold p(male) must fall before a label turns "unsure" again.
    pub hysteresis: f32,
    /// Pixels: narrower faces are not classified.
    pub min_width: f32,
    /// Classifications asked for per recognised frame, at most.
    pub per_frame: usize,
    /// Between two crops of a track that has not settled; nearer ones show the same picture again.
    pub unsettled_every: Duration,
    /// Between two crops of a settled track.
    pub settled_every: Duration,
}

impl Default for GenderConfig {
    fn default() -> Self {
        Self {
            unsure: (0.35, 0.65),
            hysteresis: 0.1,
            min_width: 24.0,
            per_frame: 4,
            unsettled_every: Duration::from_millis(100),
            settled_every: Duration::from_secs(2),
        }
    }
}

impl GenderConfig {
    /// The default with a model's own thresholds.
    pub fn of_model(thresholds: &Thresholds) -> Self {
        let default = Self::default();
        let (a, b) = thresholds.unsure.unwrap_or(default.unsure);
        Self { unsure: (a.min(b), a.max(b)), min_width: thresholds.min_width, ..default }
    }
}

/// The answer for one crop.
#[derive(Clone, Copy, Debug, Default)]
struct Crop {
    /// Natural logarithm of p(male) / p(female).
    evidence: f32,
    weight: f32,
}

/// The votes of one face track.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GenderVotes {
    crops: [Crop; CROPS],
    /// Crops ever counted; the newest stands at `(count - 1) % CROPS`.
    count: usize,
    label: Option<Gender>,
    /// When a crop was last asked for or answered.
    asked: Option<Duration>,
}

impl GenderVotes {
    /// Counts one crop: `p_male` is 0 to 1, `width` the face's in pixels, `score` the detector's.
    pub(super) fn count(&mut self, p_male: f32, width: f32, score: f32, config: &GenderConfig) {
        if !p_male.is_finite() {
            return;
        }
        let p_male = p_male.clamp(1.0 - EXTREME, EXTREME);
        let weight = (width / FULL_WIDTH).clamp(0.1, 1.0) * score.clamp(0.1, 1.0);
        self.crops[self.count % CROPS] = Crop { evidence: (p_male / (1.0 - p_male)).ln(), weight };
        self.count += 1;
        self.label = Some(self.judge(config));
    }

    fn known(&self) -> &[Crop] {
        &self.crops[..self.count.min(CROPS)]
    }

    /// p(male) by the weighted mean of the evidence; 0.5 without any.
    fn p_male(&self) -> f32 {
        let (sum, weight) = self.known().iter().fold((0.0, 0.0), |(sum, weight), crop| {
            (sum + crop.evidence * crop.weight, weight + crop.weight)
        });
        if weight > 0.0 { 1.0 / (1.0 + (-sum / weight).exp()) } else { 0.5 }
    }

    fn judge(&self, config: &GenderConfig) -> Gender {
        let p_male = self.p_male();
        let (lower, upper) = config.unsure;
        match self.label {
            _ if p_male >= upper => Gender::Male,
            _ if p_male <= lower => Gender::Female,
            Some(Gender::Male) if p_male > upper - config.hysteresis => Gender::Male,
            Some(Gender::Female) if p_male < lower + config.hysteresis => Gender::Female,
            _ => Gender::Unsure,
        }
    }

    /// The label and the confidence in it (for "unsure": in the likelier one); `None` before the first crop.
    pub(super) fn report(&self) -> Option<GenderReport> {
        let p_male = self.p_male();
        let label = self.label?;
        let score = match label {
            Gender::Male => p_male,
            Gender::Female => 1.0 - p_male,
            Gender::Unsure => p_male.max(1.0 - p_male),
        };
        Some(GenderReport { label, score: score.clamp(0.5, 1.0) })
    }

    /// Whether more crops would hardly change the label: a clear one after few, any after all.
    fn is_settled(&self) -> bool {
        let p_male = self.p_male();
        match self.count {
            0..CLEAR_CROPS => false,
            CLEAR_CROPS..SETTLING_CROPS => p_male.max(1.0 - p_male) >= CLEAR,
            SETTLING_CROPS..CROPS => self.label != Some(Gender::Unsure),
            _ => true,
        }
    }

    /// How urgently a crop is wanted at `at`, if at all; smaller is more urgent.
    pub(super) fn urgency(&self, at: Duration, config: &GenderConfig) -> Option<(u8, Duration)> {
        let Some(asked) = self.asked else {
            return Some((0, Duration::ZERO));
        };
        let (rank, every) = match (self.count, self.is_settled()) {
            (0, _) => (1, config.unsettled_every),
            (_, false) => (2, config.unsettled_every),
            (_, true) => (3, config.settled_every),
        };
        (at.saturating_sub(asked) >= every).then_some((rank, asked))
    }

    /// Notes that a crop of the picture of `at` was asked for or answered, so that it is not asked for twice while the answer is on its way.
    pub(super) fn ask(&mut self, at: Duration) {
        self.asked = self.asked.max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes_for(answers: &[f32]) -> GenderVotes {
        let mut votes = GenderVotes::default();
        for &p_male in answers {
            votes.count(p_male, 80.0, 0.9, &GenderConfig::default());
        }
        votes
    }

    #[test]
    fn labels_follow_the_mean_of_recent_crops() {
        let cases: [(&[f32], Option<Gender>); 9] = [
            (&[], None),
            (&[0.9], Some(Gender::Male)),
            (&[0.1], Some(Gender::Female)),
            (&[0.5], Some(Gender::Unsure)),
            (&[0.9, 0.1], Some(Gender::Unsure)),
            (&[0.1, 0.1, 0.1, 0.95, 0.1], Some(Gender::Female)),
            // The first eight are forgotten.
            (
                &[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],
                Some(Gender::Male),
            ),
            (&[0.0, 1.0, 1.0], Some(Gender::Male)),
            (&[f32::NAN, f32::INFINITY], None),
        ];
        for (answers, label) in cases {
            let report = votes_for(answers).report();
            assert_eq!(report.map(|report| report.label), label, "{answers:?}");
            assert!(report.is_none_or(|report| (0.5..=1.0).contains(&report.score)));
        }
    }

    #[test]
    fn answers_around_a_threshold_do_not_make_the_label_flicker() {
        let mut votes = votes_for(&[0.7, 0.7, 0.7]);
        for step in 0..100 {
            votes.count(if step % 2 == 0 { 0.56 } else { 0.68 }, 80.0, 0.9, &GenderConfig::default());
            assert_eq!(votes.report().map(|report| report.label), Some(Gender::Male), "crop {step}");
        }
        let mut votes = votes_for(&[0.6, 0.6, 0.6]);
        for step in 0..100 {
            votes.count(if step % 2 == 0 { 0.56 } else { 0.68 }, 80.0, 0.9, &GenderConfig::default());
            assert_eq!(votes.report().map(|report| report.label), Some(Gender::Unsure), "crop {step}");
        }
    }

    #[test]
    fn wide_faces_outvote_narrow_ones() {
        let mut votes = GenderVotes::default();
        votes.count(0.1, 100.0, 0.9, &GenderConfig::default());
        votes.count(0.9, 24.0, 0.9, &GenderConfig::default());
        votes.count(0.9, 12.0, 0.9, &GenderConfig::default());
        assert_eq!(votes.report().map(|report| report.label), Some(Gender::Female));
    }

    #[test]
    fn settled_tracks_are_examined_rarely() {
        let config = GenderConfig::default();
        let (soon, late) = (Duration::from_millis(1100), Duration::from_millis(3000));
        let cases: [(&[f32], bool); 6] = [
            (&[], true),
            (&[0.97, 0.97], true),
            (&[0.97, 0.97, 0.97], false),
            (&[0.7, 0.7, 0.7, 0.7], true),
            (&[0.7, 0.7, 0.7, 0.7, 0.7], false),
            (&[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], true),
        ];
        for (answers, wanted_soon) in cases {
            let mut votes = votes_for(answers);
            assert!(votes.urgency(Duration::ZERO, &config).is_some(), "never asked: {answers:?}");
            votes.ask(Duration::from_secs(1));
            assert!(votes.urgency(Duration::from_millis(1010), &config).is_none(), "just asked: {answers:?}");
            assert_eq!(votes.urgency(soon, &config).is_some(), wanted_soon, "{answers:?}");
            assert!(votes.urgency(late, &config).is_some(), "{answers:?}");
        }
    }

    #[test]
    fn thresholds_come_from_the_model() {
        let thresholds = Thresholds { unsure: Some((0.2, 0.8)), min_width: 32.0, ..Default::default() };
        let config = GenderConfig::of_model(&thresholds);
        assert_eq!((config.unsure, config.min_width), ((0.2, 0.8), 32.0));
        assert_eq!(GenderConfig::of_model(&Thresholds::default()).unsure, (0.35, 0.65));
    }
}
