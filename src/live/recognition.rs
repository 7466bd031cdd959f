//! The recognition thread of a session: takes the newest picture, recognises, tracks, reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::audience::Audience;
use super::peer::Feedback;
use super::settings::{ControlReply, Settings};
use crate::frame::{Kind, Picture};
use crate::inference::engine::EngineError;
use crate::mailbox::Latest;
use crate::pipeline::follow::{classify, track_config};
use crate::pipeline::recognise::{Found, MinScores, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::{FrameReport, Timings};
use crate::pipeline::track::{TrackConfig, Tracker, Tracks};
use crate::rtp::Unwrapper;
use crate::telemetry::metrics::{Metrics, Stage};

/// Everything the recognition thread is connected to.
pub struct Recognition {
    pub pictures: Latest<Picture>,
    pub recogniser: Recogniser,
    pub settings: watch::Receiver<Settings>,
    pub tracks: watch::Sender<Tracks>,
    pub audience: Arc<Audience>,
    pub notices: mpsc::Sender<ControlReply>,
    pub feedback: Feedback,
    pub metrics: Arc<Metrics>,
}

impl Recognition {
    /// Runs until the mailbox is closed.
    pub fn run(mut self) {
        let mut tracker = Tracker::new(TrackConfig::default());
        let mut clock = Unwrapper::default();
        let mut seq = 0;
        let mut next_start = Instant::now();
        let mut is_failing = false;
        // Waiting before taking, so that what is taken then is the newest.
        while self.pictures.pause_until(next_start) {
            let Some(picture) = self.pictures.take() else { return };
            let settings = self.settings.borrow().clone();
            next_start = Instant::now() + Duration::from_secs_f32(1.0 / settings.max_rate);

            let at = clock.unwrap(picture.rtp_timestamp);
            match self.recognise(&picture, &settings, &mut tracker, at) {
                Ok((timings, models)) => {
                    is_failing = false;
                    self.report(seq, &picture, &tracker, at, timings, models);
                    seq += 1;
                }
                Err(RecogniseError::Infer { source: EngineError::Stopped, .. }) => return,
                Err(error) => {
                    self.metrics.frame_dropped(Stage::Infer);
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "recognition fails");
                        let text = "recognition fails on the server; see its log";
                        let _ = self.notices.try_send(ControlReply::error("recognition_failed", text));
                    }
                }
            }
        }
    }

    /// Everything between the mailbox and the report.
    fn recognise(
        &mut self,
        picture: &Picture,
        settings: &Settings,
        tracker: &mut Tracker,
        at: Duration,
    ) -> Result<(Timings, BTreeMap<String, String>), RecogniseError> {
        let taken = Instant::now();
        let tasks = Tasks {
            faces: settings.tasks.faces,
            gender: settings.tasks.faces && settings.tasks.gender,
            objects: settings.tasks.objects,
        };
        let config = track_config(self.recogniser.models(), settings.threshold);
        // The tracker also wants what scores too low to be reported: often it is a known thing, half hidden.
        let scores =
            MinScores { faces: Some(config.faces.low_score), objects: Some(config.objects.low_score) };
        let Found { detections, prepare, mut infer, mut models } =
            self.recogniser.detect(picture, &tasks, &scores)?;

        let tracking = Instant::now();
        tracker.reconfigure(config);
        for (kind, is_wanted) in [(Kind::Face, tasks.faces), (Kind::Object, tasks.objects)] {
            if !is_wanted {
                tracker.forget(kind);
            }
        }
        if !tasks.gender {
            tracker.forget_gender();
        }
        tracker.update(&detections, at);
        let mut track = tracking.elapsed();

        if tasks.gender {
            let classifying = Instant::now();
            classify(&mut self.recogniser, tracker, picture, at, &mut models)?;
            infer += classifying.elapsed();
        }
        let publishing = Instant::now();
        self.tracks.send_replace(tracker.snapshot());
        track += publishing.elapsed();

        for detected in tracker.tracks() {
            self.metrics.detections_total.with_label_values(&[detected.kind.name()]).inc();
        }
        let receive = picture.decode_started.saturating_duration_since(picture.received);
        let decode = picture.decoded.saturating_duration_since(picture.decode_started);
        let queue = taken.saturating_duration_since(picture.decoded);
        let measured =
            [(Stage::Queue, queue), (Stage::Prepare, prepare), (Stage::Infer, infer), (Stage::Track, track)];
        for (stage, took) in measured {
            self.metrics.observe(stage, took);
        }
        let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
        let timings = Timings {
            receive: ms(receive),
            decode: ms(decode),
            queue: ms(queue),
            prepare: ms(prepare),
            infer: ms(infer),
            track: ms(track),
            total: 0.0,
        };
        Ok((timings, models))
    }

    fn report(
        &self,
        seq: u64,
        picture: &Picture,
        tracker: &Tracker,
        at: Duration,
        mut timings: Timings,
        models: BTreeMap<String, String>,
    ) {
        let total = picture.received.elapsed();
        self.metrics.observe(Stage::Total, total);
        timings.total = total.as_secs_f32() * 1000.0;
        if !self.audience.has_readers() {
            return;
        }
        let (width, height) = (picture.width, picture.height);
        let tracks = tracker.tracks().iter().map(|track| {
            track.report(&self.recogniser.models().label(track.kind, track.class), at, width, height)
        });
        let report = FrameReport {
            seq,
            rtp_timestamp: picture.rtp_timestamp,
            captured_ms: self.feedback.captured_ms(picture.rtp_timestamp),
            width: width as u32,
            height: height as u32,
            tracks: tracks.collect(),
            models,
            timings_ms: timings,
            dropped: self.pictures.replaced(),
        };
        self.audience.tell(serde_json::to_string(&report).expect("a report is always JSON"));
    }
}
