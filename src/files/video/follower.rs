//! Tracks what was detected, in the order of the pictures, and draws it.
//!
//! It is the one stage that sees every picture in turn, so it also keeps the tale of the video.

use std::sync::mpsc::{Receiver, RecvError, SyncSender};
use std::time::{Duration, Instant};

use super::summary::{AudioOutcome, Ending, Sightings, Summary};
use super::{Decoded, Each, Output, Progress, VideoError, ms, ms_since, patiently};
use crate::codec::VideoInfo;
use crate::frame::{I420Buffer, Picture};
use crate::pipeline::draw::{DrawnTrack, colour_of, draw, label_of};
use crate::pipeline::follow::{classify, follow, reading_models};
use crate::pipeline::labels::Labels;
use crate::pipeline::read::Reading;
use crate::pipeline::recognise::{Found, RecogniseError, Recogniser};
use crate::pipeline::report::{FrameReport, Timings};
use crate::pipeline::text::Effort;
use crate::pipeline::track::{TrackConfig, Tracker, Tracks};

pub(super) struct Follower<'a> {
    recogniser: Recogniser,
    labels: Labels,
    tracker: Tracker,
    reading: Reading,
    config: TrackConfig,
    info: &'a VideoInfo,
    /// Of the last recognition.
    tracks: Tracks,
    sightings: Sightings,
    frames: u64,
    recognised: u64,
    last: Duration,
}

impl<'a> Follower<'a> {
    pub fn new(recogniser: Recogniser, config: TrackConfig, info: &'a VideoInfo) -> Self {
        Self {
            recogniser,
            labels: Labels::default(),
            tracker: Tracker::new(config.clone()),
            reading: Reading::default(),
            config,
            info,
            tracks: Tracks::default(),
            sightings: Sightings::default(),
            frames: 0,
            recognised: 0,
            last: Duration::ZERO,
        }
    }

    /// Pictures that were followed.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Follows `decoded` to its end; canvases come back by `spare` once they are encoded.
    pub fn run(
        &mut self,
        decoded: Receiver<Decoded>,
        output: SyncSender<Output>,
        spare: Receiver<I420Buffer>,
        each: &mut Each<'_>,
    ) -> Result<(), VideoError> {
        for Decoded { picture, at, found } in decoded {
            let report = match found.map(|found| found.recv()) {
                Some(Ok((found, queue))) => Some(self.follow(&picture, at, found?, queue)?),
                None => None,
                // A thread that detects has panicked, which is told when it is joined.
                Some(Err(RecvError)) => return Ok(()),
            };
            self.frames += 1;
            self.last = at;
            let canvas = spare.try_recv().unwrap_or_else(|_| I420Buffer::black(0, 0));
            let canvas = self.drawn(&picture, at, canvas);
            drop(picture);
            if output.send(Output::Picture(canvas, at)).is_err() {
                return Ok(()); // The encoder has failed, and says why.
            }
            let progress = Progress { info: self.info, frames: self.frames, at, report: report.as_ref() };
            if each(&progress).is_break() {
                return Err(VideoError::Cancelled);
            }
        }
        Ok(())
    }

    fn follow(
        &mut self,
        picture: &Picture,
        at: Duration,
        found: Found,
        queue: Duration,
    ) -> Result<FrameReport, RecogniseError> {
        let tracking = Instant::now();
        self.tracker.reconfigure(self.config.clone());
        follow(&mut self.tracker, &mut self.labels, &found, at);
        let track = ms_since(tracking);
        let (mut models, mut infer) = (found.models, found.infer);
        let asking = Instant::now();
        let Self { recogniser, tracker, reading, .. } = self;
        patiently(|| classify(recogniser, tracker, picture, at, &mut models))?;
        while let Some((picture, work)) = reading.next(tracker, Some(picture), at) {
            let done = patiently(|| work.clone().run(recogniser, &picture, Effort::FILE))?;
            reading.take(tracker, picture, done, at);
            models.extend(reading_models(recogniser.models()));
        }
        infer += asking.elapsed();
        self.tracks = self.tracker.snapshot(&self.labels);
        let (width, height) = (picture.width, picture.height);
        let reports = self
            .tracker
            .tracks()
            .iter()
            .map(|track| track.report(self.labels.of(track.kind, track.class), at, width, height));
        let report = FrameReport {
            seq: self.recognised,
            rtp_timestamp: picture.rtp_timestamp,
            captured_ms: None,
            width: width as u32,
            height: height as u32,
            tracks: reports.collect(),
            models,
            timings_ms: Timings {
                receive: 0.0,
                decode: ms(picture.decoded.saturating_duration_since(picture.decode_started)),
                queue: ms(queue),
                prepare: ms(found.prepare),
                infer: ms(infer),
                track,
                total: ms_since(picture.received),
            },
            dropped: 0,
        };
        self.recognised += 1;
        self.sightings.note(&report, at.as_secs_f64());
        Ok(report)
    }

    /// A copy of `picture` on `canvas`, with the tracks drawn where they are at `at`.
    fn drawn(&self, picture: &Picture, at: Duration, mut canvas: I420Buffer) -> I420Buffer {
        canvas.copy_from(picture);
        let drawn = self.tracks.at(at).map(|(track, bbox)| {
            let label = self.tracks.label(track);
            DrawnTrack {
                bbox,
                label: label_of(&track.report(label, at, picture.width, picture.height)),
                colour: colour_of(track.kind, track.class),
            }
        });
        draw(&mut canvas, &drawn.collect::<Vec<_>>());
        canvas
    }

    pub fn summary(&self, ending: &Ending, audio: AudioOutcome) -> Summary {
        Summary {
            width: self.info.width,
            height: self.info.height,
            frames: self.frames,
            recognised: self.recognised,
            duration_s: self.last.as_secs_f64(),
            cut_off: ending.cut_off,
            stopped: ending.stopped.as_ref().map(ToString::to_string),
            damaged_frames: ending.damaged,
            rescaled_frames: ending.rescaled,
            audio,
            tracks: self.sightings.tracks(),
            counts: self.sightings.counts(),
            apparent_genders: self.sightings.apparent_genders(),
        }
    }
}
