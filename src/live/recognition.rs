//! The recognition thread of a session: takes the newest picture, recognises, tracks, reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::peer::Feedback;
use super::settings::{ControlReply, Settings};
use crate::frame::{Detection, Kind, Picture};
use crate::mailbox::Latest;
use crate::pipeline::recognise::{Found, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::{FrameReport, Timings, track_report};
use crate::pipeline::track::{Tracker, Tracks};
use crate::rtp::clock::Unwrapper;
use crate::telemetry::metrics::{Metrics, Stage};

/// Everything the recognition thread is connected to.
pub struct Recognition {
    pub pictures: Latest<Picture>,
    pub recogniser: Recogniser,
    pub tracker: Tracker,
    pub settings: watch::Receiver<Settings>,
    pub tracks: watch::Sender<Tracks>,
    pub reports: mpsc::Sender<String>,
    pub notices: mpsc::Sender<ControlReply>,
    pub feedback: Feedback,
    pub metrics: Arc<Metrics>,
}

impl Recognition {
    /// Runs until the mailbox is closed.
    pub fn run(mut self) {
        let mut clock = Unwrapper::default();
        let mut seq = 0;
        let mut next_start = Instant::now();
        let mut failing = false;
        loop {
            // Waiting before taking, so that what is taken then is the newest.
            if !self.pictures.pause_until(next_start) {
                return;
            }
            let Some(picture) = self.pictures.take() else { return };
            let settings = self.settings.borrow().clone();
            let started = Instant::now();
            next_start = started + Duration::from_secs_f32(1.0 / settings.max_rate);

            let at = clock.unwrap(picture.rtp_timestamp);
            match self.recognise(&picture, &settings, at, started) {
                Ok((timings, models)) => {
                    failing = false;
                    self.report(seq, &picture, timings, models);
                    seq += 1;
                }
                Err(RecogniseError::Stopped) => return,
                Err(error) => {
                    self.metrics.frame_dropped(Stage::Infer);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "recognition fails");
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
        at: Duration,
        started: Instant,
    ) -> Result<(Timings, BTreeMap<String, String>), RecogniseError> {
        let switches = settings.tasks;
        let tasks = Tasks { faces: switches.faces, gender: switches.gender, objects: switches.objects };
        let found = self.recogniser.detect(picture, &tasks, settings.threshold)?;
        let Found { detections, prepare, mut infer, models } = found;

        let tracking = Instant::now();
        for (kind, wanted) in [(Kind::Face, tasks.faces), (Kind::Object, tasks.objects)] {
            if !wanted {
                self.tracker.forget(kind);
            }
        }
        self.tracker.update(&detections, at);
        let mut track = tracking.elapsed();

        if tasks.gender {
            let classifying = Instant::now();
            self.classify(picture, at)?;
            infer += classifying.elapsed();
        }
        let publishing = Instant::now();
        self.tracks.send_replace(self.tracker.snapshot());
        track += publishing.elapsed();

        for detection in &detections {
            self.metrics.detections_total.with_label_values(&[detection.kind.name()]).inc();
        }
        let queue = started.saturating_duration_since(picture.decoded);
        self.metrics.observe(Stage::Queue, queue);
        self.metrics.observe(Stage::Prepare, prepare);
        self.metrics.observe(Stage::Infer, infer);
        self.metrics.observe(Stage::Track, track);
        let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
        let timings = Timings {
            receive: ms(picture.decode_started.saturating_duration_since(picture.received)),
            decode: ms(picture.decoded.saturating_duration_since(picture.decode_started)),
            queue: ms(queue),
            prepare: ms(prepare),
            infer: ms(infer),
            track: ms(track),
            total: 0.0,
        };
        Ok((timings, models))
    }

    /// Apparent gender of the faces that the tracker is unsure of.
    fn classify(&mut self, picture: &Picture, at: Duration) -> Result<(), RecogniseError> {
        let ids = self.tracker.needs_gender(at);
        if ids.is_empty() {
            return Ok(());
        }
        let faces: Vec<(u64, Detection)> = self.tracker.faces(&ids);
        let crops: Vec<Detection> = faces.iter().map(|(_, face)| face.clone()).collect();
        for ((id, face), p_male) in faces.iter().zip(self.recogniser.genders(picture, &crops)?) {
            if let Some(p_male) = p_male {
                self.tracker.vote_gender(*id, p_male, face.bbox.w, at);
            }
        }
        Ok(())
    }

    fn report(&self, seq: u64, picture: &Picture, mut timings: Timings, models: BTreeMap<String, String>) {
        let total = picture.received.elapsed();
        self.metrics.observe(Stage::Total, total);
        timings.total = total.as_secs_f32() * 1000.0;
        let report = FrameReport {
            seq,
            rtp_timestamp: picture.rtp_timestamp,
            captured_ms: self.feedback.captured_ms(picture.rtp_timestamp),
            width: picture.width as u32,
            height: picture.height as u32,
            tracks: self.tracker.tracks().iter().map(|t| track_report(t, self.recogniser.labels())).collect(),
            models,
            timings_ms: timings,
            dropped: self.pictures.replaced(),
        };
        let json = serde_json::to_string(&report).expect("a report is always JSON");
        // Results are for now: when the channel is behind, this one is lost and the next will do.
        if self.reports.try_send(json).is_err() {
            self.metrics.frame_dropped(Stage::Send);
        }
    }
}
