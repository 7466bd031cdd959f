//! Identities over time: which detection of this picture is which thing of the last one.
//!
//! It stands after detection and before the report and the drawing. Association is ByteTrack's (Zhang
//! et al., 2022): detections with a high score are matched to tracks first, and what is left of the
//! tracks then takes detections with a low score, which are often the same things half hidden. Each kind
//! is tracked by itself. Between recognitions, and over missed ones, a box is carried on by its speed.
//!
//! It never looks at pixels, so two things that swap places while nobody looks swap their identities.

mod assign;
mod config;
mod entry;
mod kalman;
mod question;
#[cfg(test)]
mod simulation;
mod vote;

use std::sync::Arc;
use std::time::Duration;

use crate::frame::{BBox, Detection, FaceLandmarks, Kind, Point};
use crate::pipeline::labels::Labels;
use crate::pipeline::report::{Attributes, TrackReport};

pub use config::{KindConfig, TrackConfig};
use entry::Entry;
use kalman::carried;
use question::Votes;
pub use question::{Answer, Attribute, Pace, Question};
pub use vote::GenderConfig;

/// Detections of one kind that are looked at in one picture; those with the lowest scores are left out.
pub const MAX_DETECTIONS: usize = 300;

/// Tracks of one kind that are kept; while there are as many, none is born.
pub const MAX_TRACKS: usize = 256;

/// How far a shown box is carried by its speed; after that it holds still.
const CARRY: Duration = Duration::from_millis(300);

/// How long the tracks of one recognition are drawn when no other follows.
const FRESH: Duration = Duration::from_secs(2);

/// The same for lines of text, which are looked for less often.
const FRESH_TEXT: Duration = Duration::from_secs(4);

/// No track outlives a longer gap between two recognitions: nobody knows what happened meanwhile.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// A clock that steps further back than this was restarted; less is jitter and is taken as "now".
const CLOCK_JITTER: Duration = Duration::from_secs(1);

/// Least IoU for a detection with a high score to continue a track (ByteTrack).
const HIGH_IOU: f32 = 0.2;

/// Least IoU for one with a low score: it has to agree better (ByteTrack has 0.5, at 30 Hz).
const LOW_IOU: f32 = 0.4;

/// Least IoU to continue a track that is not established yet (ByteTrack).
const TENTATIVE_IOU: f32 = 0.3;

/// Taken from the IoU where the classes differ, so that one does so only if nothing of its own class is near.
const CLASS_PENALTY: f32 = 0.3;

/// A detection that lies on a track's box by more than this IoU is that thing again, under another class.
const DUPLICATE_IOU: f32 = 0.85;

/// One thing followed through the session, as of the last time it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Unique within the tracker's life, from 1; never reused.
    pub id: u64,
    pub kind: Kind,
    /// Index into the model's labels, by vote of the recent detections.
    pub class: u16,
    /// 0 to 1, smoothed.
    pub score: f32,
    /// Filtered; in picture pixels, and not clipped to the picture.
    pub bbox: BBox,
    /// Pixels a second: of the centre's x and y, of the width and of the height.
    pub velocity: [f32; 4],
    /// As they were detected; faces only.
    pub landmarks: Option<FaceLandmarks>,
    pub first_seen: Duration,
    pub last_seen: Duration,
    /// What second-stage models said, by vote of the crops that they were shown; `None` before the first.
    pub attributes: Option<Arc<Attributes>>,
}

impl Track {
    /// The box at media time `at`, carried by its speed for at most 300 ms either way, then still.
    pub fn bbox_at(&self, at: Duration) -> BBox {
        carried(&self.bbox, self.velocity, seconds_between(self.last_seen, at, CARRY))
    }

    /// As it was last detected.
    pub fn detection(&self) -> Detection {
        let Self { kind, class, score, bbox, landmarks, .. } = *self;
        Detection { kind, class, score, bbox, landmarks }
    }

    /// The landmarks at media time `at`, moved and scaled with the box.
    pub fn landmarks_at(&self, at: Duration) -> Option<FaceLandmarks> {
        let (from, to) = (self.bbox, self.bbox_at(at));
        let moved = |point: Point| Point {
            x: to.x + (point.x - from.x) * to.w / from.w,
            y: to.y + (point.y - from.y) * to.h / from.h,
        };
        self.landmarks.map(|landmarks| FaceLandmarks {
            right_eye: moved(landmarks.right_eye),
            left_eye: moved(landmarks.left_eye),
            nose: moved(landmarks.nose),
            mouth: moved(landmarks.mouth),
        })
    }

    /// What a report says of the track at media time `at`, in a picture of `width` × `height` pixels.
    pub fn report(&self, label: &str, at: Duration, width: usize, height: usize) -> TrackReport {
        let BBox { x, y, w, h } = self.bbox_at(at).clipped(width as f32, height as f32);
        TrackReport {
            id: self.id,
            kind: self.kind,
            label: label.to_owned(),
            score: self.score,
            bbox: [x, y, w, h],
            attributes: self.attributes.as_deref().cloned().unwrap_or_default(),
        }
    }
}

/// The reported tracks of one recognition, for those who draw between recognitions; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracks {
    tracks: Arc<[Track]>,
    labels: Labels,
}

impl Tracks {
    /// The word for what a track is.
    pub fn label(&self, track: &Track) -> &str {
        self.labels.of(track.kind, track.class)
    }

    /// Each track that is still fresh at media time `at`, with its box carried there.
    ///
    /// When recognition stalls, boxes hold still and are gone after two seconds.
    pub fn at(&self, at: Duration) -> impl Iterator<Item = (&Track, BBox)> {
        let fresh = move |track: &&Track| {
            let most = if track.kind == Kind::Text { FRESH_TEXT } else { FRESH };
            at.saturating_sub(track.last_seen) <= most
        };
        self.tracks.iter().filter(fresh).map(move |track| (track, track.bbox_at(at)))
    }
}

/// A track that may take a detection.
#[derive(Clone, Copy)]
struct Candidate {
    /// Index into the tracker's entries.
    entry: usize,
    class: u16,
    /// Where it is expected now.
    bbox: BBox,
    /// How far around that, in parts of its size, it may be after all.
    reach: f32,
    /// Whether the recognition before this one found it.
    is_fresh: bool,
}

impl Candidate {
    fn similarity(&self, detection: &Detection, reach: bool) -> f32 {
        let buffer = if reach { self.reach } else { 0.0 };
        let penalty = if self.class == detection.class { 0.0 } else { CLASS_PENALTY };
        buffered(&self.bbox, buffer).iou(&buffered(&detection.bbox, buffer)) - penalty
    }
}

/// Follows a session's things; owned by the session's recognising thread.
///
/// 1. [`update`](Self::update) after each recognition, with everything that was detected above the
///    kinds' `low_score` and the picture's media time.
/// 2. [`needs`](Self::needs) says for each of its [questions](TrackConfig::questions) which things in that picture
///    to ask about; [`vote`](Self::vote) brings each answer.
/// 3. [`tracks`](Self::tracks) are reported; [`snapshot`](Self::snapshot) goes to whoever draws.
///
/// Time is media time since the session's start. It may stand still or step back a little; when it
/// steps back by more than a second, the source was restarted and all tracks end.
pub struct Tracker {
    config: TrackConfig,
    /// In the order of birth.
    entries: Vec<Entry>,
    reported: Vec<Track>,
    clock: Duration,
    last_id: u64,
}

impl Tracker {
    pub fn new(config: TrackConfig) -> Self {
        Self { config, entries: Vec::new(), reported: Vec::new(), clock: Duration::ZERO, last_id: 0 }
    }

    /// Goes on with other settings; tracks and their ids stay, but for those that a raised score excludes, and
    /// what is no longer asked is no longer said.
    pub fn reconfigure(&mut self, config: TrackConfig) {
        for kind in Kind::ALL {
            let least = config.of(kind).high_score;
            if least > self.config.of(kind).high_score {
                let stays = |track: &Track| track.kind != kind || track.score >= least;
                self.entries.retain(|entry| stays(&entry.track));
                self.reported.retain(stays);
            }
        }
        if config.questions != self.config.questions {
            let is_asked = |attribute: &Attribute| {
                config.questions.iter().any(|question| Votes::on(&question.attribute).are_on(attribute))
            };
            self.entries.iter_mut().for_each(|entry| entry.keep_votes_on(is_asked));
            self.restate();
        }
        self.config = config;
    }

    /// The questions that it has.
    pub fn questions(&self) -> Vec<Question> {
        self.config.questions.clone()
    }

    /// Takes in what was detected in the picture of media time `at`, of every kind but text, which is looked for
    /// at its own rate ([`update_kind`](Self::update_kind)).
    ///
    /// Boxes that are not finite, smaller than a pixel or absurdly far away are ignored.
    pub fn update(&mut self, detections: &[Detection], at: Duration) {
        let at = self.advance(at);
        for kind in [Kind::Face, Kind::Object] {
            self.associate(kind, detections, at);
        }
        self.publish(at);
    }

    /// Takes in the detections of one kind, where each kind is recognised at its own rate: tracks of
    /// the other kinds have not been missed.
    pub fn update_kind(&mut self, kind: Kind, detections: &[Detection], at: Duration) {
        let at = self.advance(at);
        self.associate(kind, detections, at);
        self.publish(at);
    }

    /// The tracks to report: established, and seen just now or not long ago; the oldest first.
    pub fn tracks(&self) -> &[Track] {
        &self.reported
    }

    /// [`tracks`](Self::tracks) as a value for another thread, with the words for them.
    pub fn snapshot(&self, labels: &Labels) -> Tracks {
        Tracks { tracks: self.reported.as_slice().into(), labels: labels.clone() }
    }

    /// Goes on with another model's classes for things of a kind; what that one has no class for ends.
    pub fn translate(&mut self, kind: Kind, class: impl Fn(u16) -> Option<u16>) {
        self.entries.retain_mut(|entry| entry.track.kind != kind || entry.translate(&class));
        self.reported.retain_mut(|track| {
            let Some(translated) = (if track.kind == kind { class(track.class) } else { Some(track.class) })
            else {
                return false;
            };
            track.class = translated;
            true
        });
    }

    /// The tracks to ask `question` about in the picture of media time `at`, the last one given to `update`:
    /// new ones first, then unsettled ones, then settled ones whose turn has come.
    ///
    /// Those returned count as asked about; without an answer they are asked about again after a while.
    pub fn needs(&mut self, question: &Question, at: Duration) -> Vec<u64> {
        let at = at.max(self.clock);
        let Question { attribute, pace, .. } = question;
        // Only what this very picture shows can be cut out of it.
        let seen = self.clock;
        let mut wanted = Vec::new();
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let Track { kind, class, score, last_seen, .. } = entry.track;
            let width = entry.track.bbox.w;
            // What is hardly a face (a cat's, a cup's) is not asked whose it might be.
            let least = self.config.of(kind).high_score;
            let is_fit = entry.is_established() && last_seen == seen && score >= least;
            if is_fit && question.is_about(kind, class) && width >= pace.min_width {
                let urgency = entry.votes(attribute).urgency(at, width, pace);
                wanted.extend(urgency.map(|urgency| (urgency, index)));
            }
        }
        wanted.sort_unstable();
        wanted.truncate(pace.per_frame);
        let ask = |(_, index): (_, usize)| {
            let entry = &mut self.entries[index];
            let width = entry.track.bbox.w;
            entry.votes(attribute).ask(at, width);
            entry.track.id
        };
        wanted.into_iter().map(ask).collect()
    }

    /// Counts the answer to `question` about a track that was asked about at `at`.
    ///
    /// Answers for tracks that have gone, to what is no longer asked, of another sort, or that are not numbers, are
    /// ignored.
    pub fn vote(&mut self, question: &Question, id: u64, answer: &Answer, at: Duration) {
        // What was switched off meanwhile is not said again.
        let is_asked = self.config.questions.contains(question);
        let established = |entry: &&mut Entry| is_asked && entry.track.id == id && entry.is_established();
        let Some(entry) = self.entries.iter_mut().find(established) else {
            return;
        };
        let width = entry.track.bbox.w;
        entry.votes(&question.attribute).ask(at.min(self.clock), width);
        entry.count(&question.attribute, answer);
        self.restate();
    }

    /// Ends all tracks of a kind, for a task that was switched off.
    pub fn forget(&mut self, kind: Kind) {
        self.entries.retain(|entry| entry.track.kind != kind);
        self.reported.retain(|track| track.kind != kind);
    }

    /// Ends all tracks, for another source or a seek; ids go on.
    pub fn reset(&mut self) {
        self.entries.clear();
        self.reported.clear();
        self.clock = Duration::ZERO;
    }

    fn advance(&mut self, at: Duration) -> Duration {
        if self.clock.saturating_sub(at) > CLOCK_JITTER {
            self.reset();
        }
        self.clock = self.clock.max(at);
        self.clock
    }

    fn associate(&mut self, kind: Kind, detections: &[Detection], at: Duration) {
        let config = *self.config.of(kind);
        let too_long_ago = |entry: &Entry| at.saturating_sub(entry.track.last_seen) > LONGEST_GAP;
        self.entries.retain(|entry| entry.track.kind != kind || !too_long_ago(entry));

        let (mut high, mut low) = sorted_out(kind, detections, &config);
        let (mut established, mut tentative) = self.candidates(kind, at);

        let mut pairs = pair_off(&mut established, &mut high, HIGH_IOU, false);
        let mut fresh: Vec<_> = established.extract_if(.., |candidate| candidate.is_fresh).collect();
        pairs.extend(pair_off(&mut fresh, &mut low, LOW_IOU, false));
        pairs.extend(pair_off(&mut tentative, &mut high, TENTATIVE_IOU, false));
        established.append(&mut fresh);
        pairs.extend(pair_off(&mut established, &mut high, HIGH_IOU, true));

        for entry in self.entries.iter_mut().filter(|entry| entry.track.kind == kind) {
            entry.misses = entry.misses.saturating_add(1);
        }
        for (entry, detection) in pairs {
            self.entries[entry].take(detection, at);
            self.establish(entry, detection.score, &config);
        }
        self.entries.retain(|entry| entry.track.kind != kind || entry.is_alive(at, &config));
        for detection in high {
            self.give_birth(detection, at, &config);
        }
    }

    /// The tracks of a kind that detections are looked for: established ones and the others.
    fn candidates(&self, kind: Kind, at: Duration) -> (Vec<Candidate>, Vec<Candidate>) {
        let of_kind = self.entries.iter().enumerate().filter(|(_, entry)| entry.track.kind == kind);
        let candidates = of_kind.map(|(index, entry)| Candidate {
            entry: index,
            class: entry.track.class,
            bbox: entry.expected(at),
            reach: entry.reach(at),
            is_fresh: entry.misses == 0,
        });
        candidates.partition(|candidate| self.entries[candidate.entry].is_established())
    }

    fn give_birth(&mut self, detection: &Detection, at: Duration, config: &KindConfig) {
        let mut of_kind = self.entries.iter().filter(|entry| entry.track.kind == detection.kind);
        if of_kind.clone().count() >= MAX_TRACKS
            || of_kind.any(|entry| entry.misses == 0 && entry.track.bbox.iou(&detection.bbox) > DUPLICATE_IOU)
        {
            return;
        }
        self.entries.push(Entry::new(detection, at));
        self.establish(self.entries.len() - 1, detection.score, config);
    }

    /// Gives the track its id if its detections suffice now.
    fn establish(&mut self, entry: usize, score: f32, config: &KindConfig) {
        let entry = &mut self.entries[entry];
        if !entry.is_established() && (entry.hits >= config.birth_hits || score >= config.instant_score) {
            self.last_id += 1;
            entry.track.id = self.last_id;
        }
    }

    fn publish(&mut self, at: Duration) {
        self.reported.clear();
        let config = &self.config;
        let shown = self.entries.iter().filter(|entry| entry.is_shown(at, config.of(entry.track.kind)));
        self.reported.extend(shown.map(|entry| Track { attributes: None, ..entry.track.clone() }));
        self.restate();
    }

    /// Repeats in the report what is said of the tracks.
    fn restate(&mut self) {
        for track in &mut self.reported {
            // What has come to look hardly like a face is not spoken of as if it were one.
            let is_sure = track.kind != Kind::Face || track.score >= self.config.faces.high_score;
            let entry = self.entries.iter().find(|entry| entry.track.id == track.id).filter(|_| is_sure);
            track.attributes = entry.and_then(|entry| entry.track.attributes.clone());
        }
    }
}

/// The usable detections of a kind with a high and with a low score, the best first.
fn sorted_out<'d>(
    kind: Kind,
    detections: &'d [Detection],
    config: &KindConfig,
) -> (Vec<&'d Detection>, Vec<&'d Detection>) {
    let mut usable: Vec<_> = (detections.iter())
        .filter(|detection| detection.kind == kind && detection.score >= config.low_score)
        .filter(|detection| detection.score <= 1.0 && is_usable(&detection.bbox))
        .collect();
    usable.sort_by(|a, b| b.score.total_cmp(&a.score));
    usable.truncate(MAX_DETECTIONS);
    usable.into_iter().partition(|detection| detection.score >= config.high_score)
}

fn is_usable(bbox: &BBox) -> bool {
    // Far beyond any picture, and small enough that sums of squares stay exact enough in 32 bits.
    let sane = |value: f32| value.abs() <= 100_000.0;
    sane(bbox.x) && sane(bbox.y) && sane(bbox.w) && sane(bbox.h) && bbox.w >= 1.0 && bbox.h >= 1.0
}

/// Makes the best pairs of a candidate's entry and a detection, and takes both from their lists.
fn pair_off<'d>(
    candidates: &mut Vec<Candidate>,
    detections: &mut Vec<&'d Detection>,
    least: f32,
    reach: bool,
) -> Vec<(usize, &'d Detection)> {
    let pairs = assign::assign(candidates.len(), detections.len(), least, &|candidate, detection| {
        candidates[candidate].similarity(detections[detection], reach)
    });
    let paired = pairs.iter().map(|&(c, d)| (candidates[c].entry, detections[d])).collect();
    let (gone_candidates, gone_detections): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    remove(candidates, gone_candidates);
    remove(detections, gone_detections);
    paired
}

/// Removes the values at `places`, keeping the others in their order.
fn remove<T>(values: &mut Vec<T>, mut places: Vec<usize>) {
    places.sort_unstable();
    for place in places.into_iter().rev() {
        values.remove(place);
    }
}

fn buffered(bbox: &BBox, buffer: f32) -> BBox {
    let (w, h) = (bbox.w * buffer, bbox.h * buffer);
    BBox { x: bbox.x - w, y: bbox.y - h, w: bbox.w + 2.0 * w, h: bbox.h + 2.0 * h }
}

/// Seconds from `from` to `to`, negative when it lies before, held within `limit` either way.
fn seconds_between(from: Duration, to: Duration, limit: Duration) -> f32 {
    let later = to.saturating_sub(from).min(limit);
    let earlier = from.saturating_sub(to).min(limit);
    later.as_secs_f32() - earlier.as_secs_f32()
}
