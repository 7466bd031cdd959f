//! What second-stage models are asked about tracks, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use super::vote::{GenderConfig, GenderVotes, LabelConfig, LabelVotes};
use crate::frame::Kind;
use crate::models::manifest::Thresholds;
use crate::pipeline::report::Attributes;

/// Something that is asked about tracks of one kind, or of one class of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub attribute: Attribute,
    pub kind: Kind,
    /// Without one, tracks of every class.
    pub class: Option<u16>,
    pub pace: Pace,
}

/// What is wanted to be known.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    ApparentGender(GenderConfig),
    /// What the classifier of this name says.
    Class(Arc<str>),
    /// What is written there.
    Text,
}

/// How often a question is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Pixels: narrower things are not asked about.
    pub min_width: f32,
    /// Crops asked for per recognised frame, at most.
    pub per_frame: usize,
    /// Between two crops of a track that has not settled; nearer ones show the same picture again.
    pub unsettled_every: Duration,
    /// Between two crops of a settled track.
    pub settled_every: Duration,
    /// A settled track is asked about sooner when it has grown to so many times the width that it had: what
    /// could not be made out may be legible now.
    pub grown: Option<f32>,
}

impl Pace {
    /// For classifiers, which take little.
    pub fn of_classifier(thresholds: &Thresholds) -> Self {
        Self {
            min_width: thresholds.min_width,
            per_frame: 4,
            unsettled_every: Duration::from_millis(100),
            settled_every: Duration::from_secs(2),
            grown: None,
        }
    }

    /// For reading, which takes long and says the same of every picture in which it can be read.
    pub fn of_reader() -> Self {
        Self {
            min_width: 12.0,
            per_frame: 4,
            unsettled_every: Duration::from_secs(1),
            settled_every: Duration::from_secs(10),
            grown: Some(1.5),
        }
    }
}

impl Question {
    /// Apparent gender of faces, by a model with these thresholds.
    pub fn gender(thresholds: &Thresholds) -> Self {
        let pace = Pace::of_classifier(thresholds);
        let attribute = Attribute::ApparentGender(GenderConfig::of_model(thresholds));
        Self { attribute, kind: Kind::Face, class: None, pace }
    }

    /// Whether it is asked about things of this kind and class.
    pub fn is_about(&self, kind: Kind, class: u16) -> bool {
        self.kind == kind && self.class.is_none_or(|wanted| wanted == class)
    }
}

/// A second-stage model's answer for one crop.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The probability that a face looks male, 0 to 1.
    Male(f32),
    /// A label and its score, 0 to 1; an empty label says that there is nothing to be seen or read.
    Label(Arc<str>, f32),
}

/// How readings of text settle: two that agree are enough.
const TEXT: LabelConfig = LabelConfig { clear_count: 2, clear_score: 0.75, most: 5 };

/// How classes settle.
const CLASS: LabelConfig = LabelConfig { clear_count: 3, clear_score: 0.9, most: 8 };

/// The votes on one question about one track.
#[derive(Clone, Debug)]
pub(super) struct Votes {
    attribute: Attribute,
    kept: Kept,
    /// When a crop was last asked for or answered, and how wide the thing was.
    asked: Option<Duration>,
    width: f32,
}

#[derive(Clone, Debug)]
enum Kept {
    Gender(GenderVotes),
    Label(LabelVotes),
}

impl Votes {
    pub(super) fn on(attribute: &Attribute) -> Self {
        let kept = match attribute {
            Attribute::ApparentGender(_) => Kept::Gender(GenderVotes::default()),
            Attribute::Class(_) | Attribute::Text => Kept::Label(LabelVotes::default()),
        };
        Self { attribute: attribute.clone(), kept, asked: None, width: 0.0 }
    }

    pub(super) fn attribute(&self) -> &Attribute {
        &self.attribute
    }

    /// Whether they are votes on this; with other thresholds it is the same question.
    pub(super) fn are_on(&self, attribute: &Attribute) -> bool {
        match (&self.attribute, attribute) {
            (Attribute::ApparentGender(_), Attribute::ApparentGender(_)) => true,
            (ours, theirs) => ours == theirs,
        }
    }

    /// Counts the answer for a thing of `width` pixels that was detected with `score`, and writes down what is
    /// thought now.
    pub(super) fn count(
        &mut self,
        attribute: &Attribute,
        answer: &Answer,
        width: f32,
        score: f32,
        said: &mut Attributes,
    ) {
        match (&mut self.kept, attribute, answer) {
            (Kept::Gender(votes), Attribute::ApparentGender(config), Answer::Male(p_male)) => {
                votes.count(*p_male, width, score, config);
                said.apparent_gender = votes.report();
            }
            (Kept::Label(votes), Attribute::Class(name), Answer::Label(label, score)) => {
                votes.count(label, *score, width, &CLASS);
                match votes.report() {
                    Some(report) => said.classes.insert(name.to_string(), report),
                    None => said.classes.remove(&**name),
                };
            }
            (Kept::Label(votes), Attribute::Text, Answer::Label(label, score)) => {
                votes.count(label, *score, width, &TEXT);
                said.text = votes.report();
            }
            // The slot's model has just become another.
            _ => {}
        }
    }

    /// How urgently a crop of a thing of `width` pixels is wanted at `at`, if at all; smaller is more urgent.
    pub(super) fn urgency(&self, at: Duration, width: f32, pace: &Pace) -> Option<(u8, Duration)> {
        let Some(asked) = self.asked else {
            return Some((0, Duration::ZERO));
        };
        let (count, is_settled) = match &self.kept {
            Kept::Gender(votes) => (votes.crops(), votes.is_settled()),
            Kept::Label(votes) => (votes.readings(), votes.is_settled()),
        };
        let has_grown = pace.grown.is_some_and(|times| width >= self.width * times);
        let (rank, every) = match (count, is_settled && !has_grown) {
            (0, _) => (1, pace.unsettled_every),
            (_, false) => (2, pace.unsettled_every),
            (_, true) => (3, pace.settled_every),
        };
        (at.saturating_sub(asked) >= every).then_some((rank, asked))
    }

    /// Notes that a crop of the picture of `at` was asked for or answered, so that it is not asked for twice
    /// while the answer is on its way.
    pub(super) fn ask(&mut self, at: Duration, width: f32) {
        self.asked = self.asked.max(Some(at));
        self.width = width;
    }
}

/// Takes back what was said on `attribute`.
pub(super) fn take_back(attribute: &Attribute, said: &mut Attributes) {
    match attribute {
        Attribute::ApparentGender(_) => said.apparent_gender = None,
        Attribute::Class(name) => drop(said.classes.remove(&**name)),
        Attribute::Text => said.text = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str, score: f32) -> Answer {
        Answer::Label(text.into(), score)
    }

    /// A track of 100 pixels whose crops are answered at once, in pictures of 10 a second: when it was asked about.
    fn asked_at(
        attribute: &Attribute,
        pace: &Pace,
        seconds: u64,
        answer: impl Fn(u64) -> Answer,
    ) -> Vec<u64> {
        let (mut votes, mut said) = (Votes::on(attribute), Attributes::default());
        let mut asked = Vec::new();
        for step in 0..seconds * 10 {
            let at = Duration::from_millis(step * 100);
            if votes.urgency(at, 100.0, pace).is_some() {
                votes.ask(at, 100.0);
                votes.count(attribute, &answer(step * 100), 100.0, 0.9, &mut said);
                asked.push(step * 100);
            }
        }
        asked
    }

    #[test]
    fn text_is_read_twice_and_then_rarely() {
        let pace = Pace::of_reader();
        let asked = asked_at(&Attribute::Text, &pace, 60, |_| label("STOP", 0.95));
        assert_eq!(asked, [0, 1000, 11_000, 21_000, 31_000, 41_000, 51_000]);
        let nothing = asked_at(&Attribute::Text, &pace, 60, |_| label("", 0.0));
        assert_eq!(nothing.len(), 7, "{nothing:?}");
    }

    #[test]
    fn text_that_is_never_the_same_is_not_read_for_ever() {
        let pace = Pace::of_reader();
        let asked = asked_at(&Attribute::Text, &pace, 60, |at| label(&at.to_string(), 0.95));
        assert!(asked.len() <= 30, "{asked:?}");
    }

    #[test]
    fn what_has_grown_is_read_again() {
        let pace = Pace::of_reader();
        let mut votes = Votes::on(&Attribute::Text);
        let mut said = Attributes::default();
        for at in [0, 1] {
            votes.ask(Duration::from_secs(at), 30.0);
            votes.count(&Attribute::Text, &label("", 0.0), 30.0, 0.9, &mut said);
        }
        let at = Duration::from_secs(3);
        assert_eq!(votes.urgency(at, 40.0, &pace), None);
        assert!(votes.urgency(at, 45.0, &pace).is_some());
    }

    #[test]
    fn answers_of_another_sort_are_passed_over() {
        let mut said = Attributes::default();
        let gender = Question::gender(&Thresholds::default()).attribute;
        Votes::on(&gender).count(&gender, &label("male", 1.0), 80.0, 0.9, &mut said);
        Votes::on(&Attribute::Text).count(&Attribute::Text, &Answer::Male(0.9), 80.0, 0.9, &mut said);
        assert!(said.is_empty());
    }
}
