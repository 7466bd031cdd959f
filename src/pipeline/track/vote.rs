//! Second-stage votes: what a track looks like or says, from the answers for its recent crops.
//!
//! One crop says little: blur, a turned head or a bad alignment flips it. So a track's label comes from
//! its last crops together, and a track whose label has settled is looked at rarely, which saves most of
//! the work. Apparent gender is the weighted mean of the crops' evidence, with hysteresis; other labels are
//! voted for. Pure: it never sees a pixel, and the models are run elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::frame::Gender;
use crate::models::manifest::Thresholds;
use crate::pipeline::report::{GenderReport, LabelReport};

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

/// Pixels: the width from which a crop counts in full.
const FULL_WIDTH: f32 = 64.0;

/// How answers about apparent gender become a label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenderConfig {
    /// p(male): at or below the first "female", at or above the second "male", between them "unsure".
    pub unsure: (f32, f32),
    /// How far back past its threshold p(male) must fall before a label turns "unsure" again.
    pub hysteresis: f32,
}

impl Default for GenderConfig {
    fn default() -> Self {
        Self { unsure: (0.35, 0.65), hysteresis: 0.1 }
    }
}

impl GenderConfig {
    /// The default with a model's own thresholds.
    pub fn of_model(thresholds: &Thresholds) -> Self {
        let default = Self::default();
        let (a, b) = thresholds.unsure.unwrap_or(default.unsure);
        Self { unsure: (a.min(b), a.max(b)), ..default }
    }
}

/// The answer for one crop.
#[derive(Clone, Copy, Debug, Default)]
struct Crop {
    /// Natural logarithm of p(male) / p(female).
    evidence: f32,
    weight: f32,
}

/// The votes on the apparent gender of one face track.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GenderVotes {
    crops: [Crop; CROPS],
    /// Crops ever counted; the newest stands at `(count - 1) % CROPS`.
    count: usize,
    label: Option<Gender>,
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
    pub(super) fn is_settled(&self) -> bool {
        let p_male = self.p_male();
        match self.count {
            0..CLEAR_CROPS => false,
            CLEAR_CROPS..SETTLING_CROPS => p_male.max(1.0 - p_male) >= CLEAR,
            SETTLING_CROPS..CROPS => self.label != Some(Gender::Unsure),
            _ => true,
        }
    }

    /// Crops ever counted.
    pub(super) fn crops(&self) -> usize {
        self.count
    }
}

/// When votes for a label have settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct LabelConfig {
    /// Answers that are enough when they agree.
    pub clear_count: usize,
    /// From which score on they do.
    pub clear_score: f32,
    /// Answers that are enough in any case.
    pub most: usize,
}

/// What an answer that there is nothing counts for: less than anything that was made out.
const NOTHING: f32 = 0.4;

/// The votes for a label of one track.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelVotes {
    /// Label, score and weight of the last crops, oldest first.
    crops: VecDeque<(Arc<str>, f32, f32)>,
    count: usize,
    /// Answers since the votes last rested.
    restless: usize,
    is_settled: bool,
}

impl LabelVotes {
    /// Counts one crop of `width` pixels; an empty label says that there was nothing.
    pub(super) fn count(&mut self, label: &Arc<str>, score: f32, width: f32, config: &LabelConfig) {
        let score = if label.is_empty() { NOTHING } else { score };
        if !score.is_finite() {
            return;
        }
        if self.crops.len() == config.most.clamp(1, CROPS) {
            self.crops.pop_front();
        }
        let weight = (width / FULL_WIDTH).clamp(0.1, 1.0);
        self.crops.push_back((Arc::clone(label), score.clamp(0.0, 1.0), weight));
        self.count += 1;
        self.restless += 1;
        self.is_settled = self.agree(config) || self.restless >= config.most;
        if self.is_settled {
            self.restless = 0;
        }
    }

    /// Whether the last crops say one thing, clearly: one that says another thing has to be looked into.
    fn agree(&self, config: &LabelConfig) -> bool {
        let Some((winner, score)) = self.winner() else { return false };
        let last = self.crops.iter().rev().take(config.clear_count);
        let is_clear = score >= config.clear_score || winner.is_empty();
        is_clear
            && last.clone().count() == config.clear_count
            && last.clone().all(|(label, ..)| label == winner)
    }

    /// The label with the most behind it, and the weighted mean of the scores that the crops gave it.
    fn winner(&self) -> Option<(&Arc<str>, f32)> {
        let total: f32 = self.crops.iter().map(|(.., weight)| weight).sum();
        let behind = |wanted: &Arc<str>| -> f32 {
            let same = self.crops.iter().filter(|(label, ..)| label == wanted);
            same.map(|(_, score, weight)| score * weight).sum()
        };
        let candidates = self.crops.iter().map(|(label, ..)| (label, behind(label) / total));
        candidates.max_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// `None` before the first crop, and where there is nothing.
    pub(super) fn report(&self) -> Option<LabelReport> {
        let (label, score) = self.winner().filter(|(label, _)| !label.is_empty())?;
        Some(LabelReport { label: label.to_string(), score })
    }

    /// Crops ever counted.
    pub(super) fn readings(&self) -> usize {
        self.count
    }

    /// Whether more crops would hardly change the label.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
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
    fn clear_labels_settle_early() {
        let cases: [(&[f32], bool); 6] = [
            (&[], false),
            (&[0.97, 0.97], false),
            (&[0.97, 0.97, 0.97], true),
            (&[0.7, 0.7, 0.7, 0.7], false),
            (&[0.7, 0.7, 0.7, 0.7, 0.7], true),
            (&[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], false),
        ];
        for (answers, is_settled) in cases {
            assert_eq!(votes_for(answers).is_settled(), is_settled, "{answers:?}");
        }
    }

    #[test]
    fn labels_are_voted_for() {
        const CONFIG: LabelConfig = LabelConfig { clear_count: 2, clear_score: 0.75, most: 5 };
        /// Label and score of each crop; the label that wins; whether that has settled.
        type Case = (&'static [(&'static str, f32)], Option<&'static str>, bool);
        let cases: [Case; 9] = [
            (&[], None, false),
            (&[("STOP", 0.9)], Some("STOP"), false),
            (&[("STOP", 0.9), ("STOP", 0.95)], Some("STOP"), true),
            (&[("ST0P", 0.6), ("STOP", 0.95)], Some("STOP"), false),
            (&[("STOP", 0.6), ("STOP", 0.6)], Some("STOP"), false),
            (&[("", 0.0), ("STOP", 0.6)], Some("STOP"), false),
            (&[("", 0.0), ("", 0.0)], None, true),
            (&[("a", 0.5), ("b", 0.5), ("c", 0.5), ("d", 0.5), ("e", 0.9)], Some("e"), true),
            // A sign that changes is believed after a while.
            (
                &[("12:00", 0.9), ("12:00", 0.9), ("12:01", 0.9), ("12:01", 0.9), ("12:01", 0.9)],
                Some("12:01"),
                false,
            ),
        ];
        for (crops, label, is_settled) in cases {
            let mut votes = LabelVotes::default();
            for &(label, score) in crops {
                votes.count(&label.into(), score, 80.0, &CONFIG);
            }
            assert_eq!(votes.report().map(|report| report.label).as_deref(), label, "{crops:?}");
            assert_eq!(votes.is_settled(), is_settled, "{crops:?}");
        }
        let mut votes = LabelVotes::default();
        votes.count(&"STOP".into(), f32::NAN, 80.0, &CONFIG);
        assert_eq!(votes.report(), None);
    }

    #[test]
    fn thresholds_come_from_the_model() {
        let thresholds = Thresholds { unsure: Some((0.2, 0.8)), ..Default::default() };
        assert_eq!(GenderConfig::of_model(&thresholds).unsure, (0.2, 0.8));
        assert_eq!(GenderConfig::of_model(&Thresholds::default()).unsure, (0.35, 0.65));
    }
}
