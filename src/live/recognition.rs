//! The recognition thread of a session: takes the newest picture, recognises, tracks, reports.
//!
//! It has one picture under way, and begins a second one only where that keeps nobody waiting: while a lane
//! is idle. What was begun first is finished first, whatever the lanes are done with first.

mod shadow;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::audience::Audience;
use super::media::Timed;
use super::peer::Feedback;
use super::readers::{Readers, SessionReader};
use super::settings::{ControlReply, Settings};
use crate::frame::{Kind, Picture};
use crate::inference::engine::EngineError;
use crate::inference::service::Turn;
use crate::mailbox::Latest;
use crate::models::manifest::Manifest;
use crate::models::traffic::Slot;
use crate::pipeline::follow::{FACE, Unsure, begin_classifying, follow, reading_models, track_config, vote};
use crate::pipeline::labels::Labels;
use crate::pipeline::recognise::figures::Seat;
use crate::pipeline::recognise::{Begun, Found, MinScores, Model, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::{FrameReport, Timings};
use crate::pipeline::track::{TrackConfig, Tracker, Tracks};
use crate::telemetry::metrics::{Metrics, Stage};
use shadow::{Seen, Shadows};

/// Pictures of one session that the lanes may have at the same time.
const MAX_UNDER_WAY: usize = 2;

/// Everything the recognition thread is connected to.
pub struct Recognition {
    pub pictures: Latest<Timed>,
    pub recogniser: Recogniser,
    pub settings: watch::Receiver<Settings>,
    /// What text is read by, where it can be.
    pub readers: Option<(Readers, Recogniser)>,
    pub tracks: watch::Sender<Tracks>,
    pub audience: Arc<Audience>,
    pub notices: mpsc::Sender<ControlReply>,
    pub feedback: Feedback,
    pub metrics: Arc<Metrics>,
}

impl Recognition {
    /// Runs until the mailbox is closed.
    pub fn run(self) {
        self.pictures.listen();
        let metrics = Arc::clone(&self.metrics);
        let reader = (self.readers.clone())
            .map(|(readers, recogniser)| SessionReader::new(readers, recogniser, metrics));
        let mut run = Run {
            connections: self,
            reader,
            tracker: Tracker::new(TrackConfig::default()),
            labels: Labels::default(),
            shadows: Shadows::default(),
            seats: BTreeMap::new(),
            under_way: VecDeque::with_capacity(MAX_UNDER_WAY),
            asked: None,
            next_start: Instant::now(),
            seq: 0,
            report_bytes: 512,
            is_failing: false,
        };
        while !run.connections.pictures.is_closed() {
            match run.step() {
                Ok(Step::Taken) => {}
                Ok(Step::Waiting(None)) => std::thread::park(),
                Ok(Step::Waiting(Some(pause))) => std::thread::park_timeout(pause),
                Err(RecogniseError::Infer { source: EngineError::Stopped, .. }) => return,
                Err(error) => run.note_failure(&error),
            }
        }
    }
}

/// A picture between the mailbox and its report.
struct UnderWay {
    picture: Picture,
    at: Duration,
    tasks: Tasks,
    config: TrackConfig,
    state: State,
    spent: Spent,
    _turn: Turn,
}

enum State {
    Detecting(Begun),
    /// Since when.
    Classifying(Unsure, Instant),
}

/// What a picture's report will say of how it came about.
struct Spent {
    taken: Instant,
    prepare: Duration,
    infer: Duration,
    track: Duration,
    models: BTreeMap<String, String>,
    /// For the shadows, if there are any.
    seen: Seen,
}

impl UnderWay {
    fn is_answered(&self) -> bool {
        match &self.state {
            State::Detecting(begun) => begun.is_answered(),
            State::Classifying(unsure, _) => unsure.is_answered(),
        }
    }
}

enum Step {
    Taken,
    /// Nothing can be done before this thread is unparked, or this time has passed.
    Waiting(Option<Duration>),
}

struct Run {
    connections: Recognition,
    reader: Option<SessionReader>,
    tracker: Tracker,
    /// Of what the tracker follows.
    labels: Labels,
    shadows: Shadows,
    /// The models that the session counts as a user of; of one that fills several slots, once.
    seats: BTreeMap<Slot, (Arc<Manifest>, Arc<Seat>)>,
    /// Oldest first.
    under_way: VecDeque<UnderWay>,
    /// The turn that this session queues for.
    asked: Option<Turn>,
    next_start: Instant,
    seq: u64,
    /// That the last report had room for.
    report_bytes: usize,
    is_failing: bool,
}

impl Run {
    /// Does the next thing that can be done, the oldest picture first.
    fn step(&mut self) -> Result<Step, RecogniseError> {
        self.shadows.collect(&self.connections.recogniser);
        if self.reader.as_mut().is_some_and(|reader| reader.collect(&mut self.tracker)) {
            self.connections.tracks.send_replace(self.tracker.snapshot(&self.labels));
        }
        if self.under_way.front().is_some_and(UnderWay::is_answered)
            && let Some(oldest) = self.under_way.pop_front()
        {
            let unfinished = self.advance(oldest)?;
            unfinished.into_iter().for_each(|picture| self.under_way.push_front(picture));
            return Ok(Step::Taken);
        }
        let may_begin = self.under_way.len() < MAX_UNDER_WAY && self.connections.pictures.is_filled();
        if !may_begin {
            return Ok(Step::Waiting(None));
        }
        let pause = self.next_start.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            return Ok(Step::Waiting(Some(pause)));
        }
        let Some(turn) = self.turn() else { return Ok(Step::Waiting(None)) };
        // Taken only now, so that it is the newest.
        if let Some((picture, at)) = self.connections.pictures.try_take() {
            let begun = self.begin(picture, at, turn)?;
            self.under_way.push_back(begun);
        }
        Ok(Step::Taken)
    }

    /// The right to begin a picture, if its time has come.
    fn turn(&mut self) -> Option<Turn> {
        let recogniser = &self.connections.recogniser;
        if !self.under_way.is_empty() {
            return recogniser.spare_turn();
        }
        let has_come = self.asked.get_or_insert_with(|| recogniser.ask_turn()).has_come();
        if has_come { self.asked.take() } else { None }
    }

    fn begin(&mut self, picture: Picture, at: Duration, turn: Turn) -> Result<UnderWay, RecogniseError> {
        let taken = Instant::now();
        let Recognition { recogniser, settings, .. } = &self.connections;
        let settings = settings.borrow().clone();
        self.next_start = taken + Duration::from_secs_f32(1.0 / settings.max_rate);
        let tasks = Tasks {
            faces: settings.tasks.faces,
            gender: settings.tasks.faces && settings.tasks.gender,
            objects: settings.tasks.objects,
            text: settings.tasks.text,
        };
        let config = track_config(recogniser.models(), &tasks, settings.threshold);
        // The tracker also wants what scores too low to be reported: often it is a known thing, half hidden.
        let scores =
            MinScores { faces: Some(config.faces.low_score), objects: Some(config.objects.low_score) };
        let begun = recogniser.begin(&picture, &tasks, &scores)?;
        for model in begun.models() {
            if let Some(slot) = Slot::of(model.manifest.task) {
                take_seat(&mut self.seats, &slot, model);
            }
        }
        let spent = Spent {
            taken,
            prepare: Duration::ZERO,
            infer: Duration::ZERO,
            track: Duration::ZERO,
            models: BTreeMap::new(),
            seen: Seen::default(),
        };
        Ok(UnderWay { picture, at, tasks, config, state: State::Detecting(begun), spent, _turn: turn })
    }

    /// Takes the answers that have come for a picture; gives it back when it needs more.
    fn advance(&mut self, under_way: UnderWay) -> Result<Option<UnderWay>, RecogniseError> {
        let UnderWay { picture, at, tasks, config, state, mut spent, _turn } = under_way;
        let recogniser = &self.connections.recogniser;
        match state {
            State::Detecting(begun) => {
                let found = recogniser.finish(begun)?;
                let is_shadowed = Shadows::are_wanted(recogniser);
                let tracking = Instant::now();
                self.follow(&found, &tasks, &config, at);
                spent.track = tracking.elapsed();
                let Found { detections, prepare, infer, models, found_by } = found;
                (spent.prepare, spent.infer, spent.models) = (prepare, infer, models);
                if is_shadowed {
                    spent.seen = Seen { detections, found_by };
                }
                let recogniser = &self.connections.recogniser;
                if tasks.text {
                    spent.models.extend(reading_models(recogniser.models()));
                }
                if let Some(unsure) = begin_classifying(recogniser, &mut self.tracker, &picture, at)? {
                    for (slot, model) in unsure.models() {
                        take_seat(&mut self.seats, slot, model);
                    }
                    let state = State::Classifying(unsure, tracking + spent.track);
                    return Ok(Some(UnderWay { picture, at, tasks, config, state, spent, _turn }));
                }
            }
            State::Classifying(unsure, since) => {
                vote(recogniser, &mut self.tracker, unsure, at, &mut spent.models)?;
                spent.infer += since.elapsed();
            }
        }
        self.finish(&picture, at, spent);
        Ok(None)
    }

    fn follow(&mut self, found: &Found, tasks: &Tasks, config: &TrackConfig, at: Duration) {
        let tracker = &mut self.tracker;
        tracker.reconfigure(config.clone());
        let models = self.connections.recogniser.models();
        self.seats.retain(|slot, _| match slot {
            Slot::Faces => tasks.faces,
            Slot::Objects => tasks.objects,
            Slot::Gender => tasks.gender,
            Slot::Classify(label) => {
                let is_wanted = if label == FACE { tasks.faces } else { tasks.objects };
                // Its traffic may have ended.
                is_wanted && models.find(slot).is_some()
            }
            Slot::TextDetect | Slot::TextRead => tasks.text,
        });
        let wanted = [(Kind::Face, tasks.faces), (Kind::Object, tasks.objects), (Kind::Text, tasks.text)];
        for (kind, is_wanted) in wanted {
            if !is_wanted {
                tracker.forget(kind);
            }
        }
        follow(tracker, &mut self.labels, found, at);
    }

    fn finish(&mut self, picture: &Picture, at: Duration, mut spent: Spent) {
        let publishing = Instant::now();
        self.connections.tracks.send_replace(self.tracker.snapshot(&self.labels));
        spent.track += publishing.elapsed();

        let metrics = &self.connections.metrics;
        for detected in self.tracker.tracks() {
            metrics.detections_total.with_label_values(&[detected.kind.name()]).inc();
        }
        let receive = picture.decode_started.saturating_duration_since(picture.received);
        let decode = picture.decoded.saturating_duration_since(picture.decode_started);
        let queue = spent.taken.saturating_duration_since(picture.decoded);
        let measured = [
            (Stage::Queue, queue),
            (Stage::Prepare, spent.prepare),
            (Stage::Infer, spent.infer),
            (Stage::Track, spent.track),
        ];
        for (stage, took) in measured {
            metrics.observe(stage, took);
        }
        let total = picture.received.elapsed();
        metrics.observe(Stage::Total, total);
        let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
        let timings = Timings {
            receive: ms(receive),
            decode: ms(decode),
            queue: ms(queue),
            prepare: ms(spent.prepare),
            infer: ms(spent.infer),
            track: ms(spent.track),
            total: ms(total),
        };
        self.report(picture, at, timings, spent.models);
        if !spent.seen.found_by.is_empty() {
            let threshold = self.connections.settings.borrow().threshold;
            self.shadows.begin(&self.connections.recogniser, picture, &spent.seen, threshold);
        }
        if let Some(reader) = &mut self.reader {
            reader.begin(&mut self.tracker, picture, at);
        }
        self.seq += 1;
        self.is_failing = false;
    }

    fn report(
        &mut self,
        picture: &Picture,
        at: Duration,
        timings: Timings,
        models: BTreeMap<String, String>,
    ) {
        let Recognition { feedback, pictures, audience, .. } = &self.connections;
        if !audience.has_readers() {
            return;
        }
        let (width, height) = (picture.width, picture.height);
        let tracks = self
            .tracker
            .tracks()
            .iter()
            .map(|track| track.report(self.labels.of(track.kind, track.class), at, width, height));
        let report = FrameReport {
            seq: self.seq,
            rtp_timestamp: picture.rtp_timestamp,
            captured_ms: feedback.captured_ms(picture.rtp_timestamp),
            width: width as u32,
            height: height as u32,
            tracks: tracks.collect(),
            models,
            timings_ms: timings,
            dropped: pictures.replaced(),
        };
        let mut json = Vec::with_capacity(self.report_bytes);
        serde_json::to_writer(&mut json, &report).expect("a report is always JSON");
        self.report_bytes = json.capacity();
        let json = String::from_utf8(json).expect("JSON is UTF-8");
        audience.tell(json);
    }

    fn note_failure(&mut self, error: &RecogniseError) {
        self.connections.metrics.frame_dropped(Stage::Infer);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(error = error as &dyn std::error::Error, "recognition fails");
            let text = "recognition fails on the server; see its log";
            let _ = self.connections.notices.try_send(ControlReply::error("recognition_failed", text));
        }
    }
}

/// Counts the session as a user of `model`, in place of what it used in that slot before.
fn take_seat(seats: &mut BTreeMap<Slot, (Arc<Manifest>, Arc<Seat>)>, slot: &Slot, model: &Model) {
    let is_the_same = |manifest: &Arc<Manifest>| Arc::ptr_eq(manifest, &model.manifest);
    if seats.get(slot).is_some_and(|(manifest, _)| is_the_same(manifest)) {
        return;
    }
    let elsewhere = seats.values().find(|(manifest, _)| is_the_same(manifest));
    let seat = elsewhere.map_or_else(|| Arc::new(Seat::at(&model.figures)), |(_, seat)| Arc::clone(seat));
    seats.insert(slot.clone(), (Arc::clone(&model.manifest), seat));
}

#[cfg(test)]
mod tests;
