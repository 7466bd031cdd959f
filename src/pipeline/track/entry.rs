//! What the tracker keeps of one track, and how it changes when the track is found or missed.
//!
//! It does not decide which detection is taken: that is the association, one level up.

use std::sync::Arc;
use std::time::Duration;

use super::config::KindConfig;
use super::kalman::{Motion, carried};
use super::question::{Answer, Attribute, Votes, take_back};
use super::{LONGEST_GAP, Track, seconds_between};
use crate::frame::{BBox, Detection};

/// How far a hidden track is carried when it is looked for; its owner may have turned by then.
const SEARCH_CARRY: Duration = Duration::from_millis(500);

/// Things that turned or sped up are looked for in boxes grown on every side by this many standard
/// deviations of where they may be (after the buffered IoU of Yang et al., 2023).
const REACH: f32 = 1.5;

/// Such boxes grow by no more than this part of their size.
const MAX_REACH: f32 = 0.8;

/// The weight of the newest score in a track's score, and of the newest class in its vote.
const SMOOTHING: f32 = 0.3;

/// Recognitions that a track which is not established yet may miss.
const TENTATIVE_MISSES: u32 = 1;

/// What the tracker knows of a track beyond what it reports.
pub(super) struct Entry {
    /// Its id is 0 until the track is established.
    pub(super) track: Track,
    motion: Motion,
    classes: ClassVotes,
    pub(super) hits: u32,
    /// Recognitions in a row that did not find it.
    pub(super) misses: u32,
    votes: Vec<Votes>,
}

impl Entry {
    pub(super) fn new(detection: &Detection, at: Duration) -> Self {
        let track = Track {
            id: 0,
            kind: detection.kind,
            class: detection.class,
            score: detection.score,
            bbox: detection.bbox,
            velocity: [0.0; 4],
            landmarks: detection.landmarks,
            first_seen: at,
            last_seen: at,
            attributes: None,
        };
        let classes = ClassVotes::new(detection.class, detection.score);
        let motion = Motion::new(&detection.bbox);
        Self { track, motion, classes, hits: 1, misses: 0, votes: Vec::new() }
    }

    pub(super) fn is_established(&self) -> bool {
        self.track.id != 0
    }

    /// The votes on an attribute, those of nobody if there were none.
    pub(super) fn votes(&mut self, attribute: &Attribute) -> &mut Votes {
        let known = self.votes.iter().position(|votes| votes.are_on(attribute));
        let place = known.unwrap_or_else(|| {
            self.votes.push(Votes::on(attribute));
            self.votes.len() - 1
        });
        &mut self.votes[place]
    }

    /// Counts an answer, and writes it down.
    pub(super) fn count(&mut self, attribute: &Attribute, answer: &Answer) {
        let (width, score) = (self.track.bbox.w, self.track.score);
        let mut said = self.track.attributes.take().unwrap_or_default();
        self.votes(attribute).count(attribute, answer, width, score, Arc::make_mut(&mut said));
        self.track.attributes = Some(said).filter(|said| !said.is_empty());
    }

    /// Forgets what is no longer asked.
    pub(super) fn keep_votes_on(&mut self, is_asked: impl Fn(&Attribute) -> bool) {
        let gone: Vec<Votes> = self.votes.extract_if(.., |votes| !is_asked(votes.attribute())).collect();
        for votes in gone {
            if let Some(said) = &mut self.track.attributes {
                take_back(votes.attribute(), Arc::make_mut(said));
            }
        }
        self.track.attributes = self.track.attributes.take().filter(|said| !said.is_empty());
    }

    /// Where the track is looked for at `at`.
    pub(super) fn expected(&self, at: Duration) -> BBox {
        let seconds = seconds_between(self.track.last_seen, at, SEARCH_CARRY);
        carried(&self.track.bbox, self.track.velocity, seconds)
    }

    /// How far around that, in parts of its size, it may be after all.
    pub(super) fn reach(&self, at: Duration) -> f32 {
        let seconds = seconds_between(self.track.last_seen, at, LONGEST_GAP);
        (REACH * self.motion.spread(seconds.abs())).min(MAX_REACH)
    }

    pub(super) fn take(&mut self, detection: &Detection, at: Duration) {
        let seconds = seconds_between(self.track.last_seen, at, LONGEST_GAP);
        let searched = seconds_between(self.track.last_seen, at, SEARCH_CARRY);
        self.motion.correct(&detection.bbox, seconds, searched);
        self.classes.count(detection.class, detection.score);
        self.hits = self.hits.saturating_add(1);
        self.misses = 0;
        let track = &mut self.track;
        track.bbox = self.motion.bbox();
        track.velocity = self.motion.rates();
        track.class = self.classes.winner();
        track.score += SMOOTHING * (detection.score - track.score);
        track.landmarks = detection.landmarks;
        track.last_seen = at;
    }

    /// Has its classes counted as another model's; whether that one knows such a thing.
    pub(super) fn translate(&mut self, class: &impl Fn(u16) -> Option<u16>) -> bool {
        let Some(own) = class(self.track.class) else { return false };
        self.track.class = own;
        self.classes.translate(class);
        true
    }

    pub(super) fn is_alive(&self, at: Duration, config: &KindConfig) -> bool {
        let unseen = at.saturating_sub(self.track.last_seen);
        match self.misses {
            0 => true,
            misses => (self.is_established() || misses <= TENTATIVE_MISSES) && unseen <= config.max_age,
        }
    }

    pub(super) fn is_shown(&self, at: Duration, config: &KindConfig) -> bool {
        let unseen = at.saturating_sub(self.track.last_seen);
        self.is_established() && unseen <= config.max_age && (self.misses <= 1 || unseen <= config.hold)
    }
}

/// A decaying vote of the classes that a track was detected as.
#[derive(Clone, Copy, Debug)]
struct ClassVotes {
    /// Class and weight; an unused place has weight 0.
    places: [(u16, f32); 4],
}

impl ClassVotes {
    fn new(class: u16, score: f32) -> Self {
        Self { places: [(class, score), (0, 0.0), (0, 0.0), (0, 0.0)] }
    }

    fn count(&mut self, class: u16, score: f32) {
        for (_, weight) in &mut self.places {
            *weight *= 1.0 - SMOOTHING;
        }
        let known = self.places.iter_mut().position(|&mut (known, weight)| known == class && weight > 0.0);
        let lightest = || (0..4).min_by(|&a, &b| self.places[a].1.total_cmp(&self.places[b].1)).unwrap_or(0);
        match known {
            Some(place) => self.places[place].1 += SMOOTHING * score,
            None => self.places[lightest()] = (class, SMOOTHING * score),
        }
    }

    fn translate(&mut self, class: &impl Fn(u16) -> Option<u16>) {
        for place in &mut self.places {
            *place = class(place.0).map_or((0, 0.0), |class| (class, place.1));
        }
    }

    fn winner(&self) -> u16 {
        let mut best = self.places[0];
        for &place in &self.places[1..] {
            if place.1 > best.1 {
                best = place;
            }
        }
        best.0
    }
}
