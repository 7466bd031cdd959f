//! A video file into an annotated one: every picture decoded, recognised, tracked, drawn on and encoded.
//!
//! The same stages as in a live session, overlapped on threads with bounded queues between them:
//!
//! decode → [lanes' threads, in turn] → track, draw (the caller's thread) → encode
//!
//! Everything waits for what comes after it, and no picture is dropped.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::codec::{AudioPacket, FileError, Piece, VideoConfig, VideoFile, VideoInfo, VideoWriter};
use crate::frame::{I420Buffer, Kind, Picture};
use crate::inference::service::Handle;
use crate::pipeline::draw::{DrawnTrack, colour_of, draw, label_of};
use crate::pipeline::follow::{classify, track_config};
use crate::pipeline::recognise::{Found, MinScores, ModelSet, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::{FrameReport, GenderReport, Timings};
use crate::pipeline::track::{TrackConfig, Tracker, Tracks};

/// Pictures and packets between two stages.
const QUEUE: usize = 4;
/// Pictures of one group that wait for their turn, at most.
const MAX_GROUP: u64 = 4;
/// Threads that ask the lanes under one number, as in [`desk`](super::desk).
const THREADS_PER_ASKER: usize = 4;

/// Why a video was not annotated.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("a picture was not recognised")]
    Recognise(#[from] RecogniseError),
    #[error("not one picture in it could be decoded")]
    NoPictures,
    #[error("it was cancelled")]
    Cancelled,
}

/// How a video is annotated.
#[derive(Clone, Copy, Debug)]
pub struct VideoOptions {
    pub tasks: Tasks,
    /// Recognise every so many pictures, at least 1; boxes are carried over those between.
    pub every: u64,
    /// 0 to 1; without one, each model's own.
    pub threshold: Option<f32>,
}

/// What recognises pictures.
pub struct Engines {
    pub handle: Handle,
    pub models: ModelSet,
    pub lanes: usize,
    /// The lowest number that the lanes are asked under; [`askers`] follow on it.
    pub first_asker: u64,
}

/// How many numbers a video on so many lanes asks under.
pub fn askers(lanes: usize) -> u64 {
    (lanes / THREADS_PER_ASKER) as u64 + 1
}

/// How far a video has come.
#[derive(Debug)]
pub struct Progress<'a> {
    pub info: &'a VideoInfo,
    /// Pictures done, this one included.
    pub frames: u64,
    /// This picture's media time.
    pub at: Duration,
    /// Of a picture that was recognised.
    pub report: Option<&'a FrameReport>,
}

/// What a video showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub width: usize,
    pub height: usize,
    pub frames: u64,
    pub recognised: u64,
    /// Media time of the last picture.
    pub duration_s: f64,
    /// The file ended before it said it would.
    pub cut_off: bool,
    /// Why the rest was not annotated, if something kept it from being.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Frames that were damaged and gave no picture.
    pub damaged_frames: u64,
    pub audio: AudioOutcome,
    /// In the order of appearance.
    pub tracks: Vec<TrackSummary>,
    /// Tracks by label.
    pub counts: BTreeMap<String, u64>,
    /// Face tracks by the label of their apparent gender.
    pub apparent_genders: BTreeMap<String, u64>,
}

/// What became of the audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AudioOutcome {
    None,
    Copied,
    /// MP4 cannot hold it.
    LeftOut,
}

/// One thing that a video showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrackSummary {
    pub id: u64,
    pub kind: Kind,
    pub label: String,
    pub first_s: f64,
    pub last_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparent_gender: Option<GenderReport>,
}

/// A decoded picture on its way to recognition.
struct Decoded {
    picture: Picture,
    at: Duration,
    is_wanted: bool,
}

/// A picture that has been looked at.
struct Detected {
    picture: Picture,
    at: Duration,
    found: Option<(Result<Found, RecogniseError>, Duration)>,
}

enum Output {
    Picture(I420Buffer, Duration),
    Audio(AudioPacket),
}

/// How the reading of a file ended.
#[derive(Default)]
struct Ending {
    cut_off: bool,
    damaged: u64,
    stopped: Option<FileError>,
}

/// Writes `source` annotated to `target`, an MP4 file, and tells `each` of every picture, which may end it
/// by a [`Break`](ControlFlow::Break).
///
/// What is left of a file that was cut off is annotated, and the summary says so.
///
/// # Errors
/// [`VideoError`]; nothing is left at `target` then.
pub fn annotate(
    source: &Path,
    target: &Path,
    engines: &Engines,
    options: &VideoOptions,
    each: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Summary, VideoError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut file = VideoFile::open(source, threads)?;
    let info = *file.info();
    let audio = file.audio().map_err(FileError::from)?;
    let config = VideoConfig { width: info.width, height: info.height, rate: info.rate, threads };
    let mut writer = VideoWriter::create(target, &config, audio.as_ref())?;
    let audio = match (info.has_audio, writer.has_audio()) {
        (false, _) => AudioOutcome::None,
        (true, true) => AudioOutcome::Copied,
        (true, false) => AudioOutcome::LeftOut,
    };
    let every = options.every.max(1);
    let lanes = engines.lanes.max(1);
    let group = every.min(MAX_GROUP) as usize + 1;
    let config = track_config(&engines.models, options.threshold);
    let scores = MinScores { faces: Some(config.faces.low_score), objects: Some(config.objects.low_score) };
    let recogniser = |index: usize| {
        let asker = engines.first_asker + (index / THREADS_PER_ASKER) as u64;
        Recogniser::new(engines.handle.clone(), engines.models.clone(), asker)
    };

    thread::scope(|scope| {
        let (output, outputs) = sync_channel(QUEUE);
        let encoding = scope.spawn(move || write_all(&outputs, &mut writer).map(|()| writer));
        let (mut to_detect, mut detected) = (Vec::new(), Vec::new());
        for index in 0..lanes {
            let (give, take) = sync_channel::<Decoded>(group);
            let (answer, answers) = sync_channel::<Detected>(group);
            let (mut recogniser, tasks) = (recogniser(index), options.tasks);
            scope.spawn(move || detect_all(&take, &answer, &mut recogniser, &tasks, &scores));
            to_detect.push(give);
            detected.push(answers);
        }
        let to_encode = output.clone();
        let decoding = scope.spawn(move || read_all(&mut file, &to_detect, &to_encode, every));
        let mut follower = Follower {
            recogniser: recogniser(lanes),
            models: &engines.models,
            tracker: Tracker::new(config),
            config,
            tasks: options.tasks,
            info: &info,
            tracks: Tracks::default(),
            summaries: BTreeMap::new(),
            frames: 0,
            recognised: 0,
            last: Duration::ZERO,
        };
        // The queues end with this call, whatever its outcome, and so do the other threads.
        let followed = follower.run(detected, output, every, each);
        let ending = decoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let writer = encoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        followed?;
        if follower.frames == 0 {
            return Err(ending.stopped.map_or(VideoError::NoPictures, VideoError::File));
        }
        writer.finish()?;
        Ok(follower.summary(&ending, audio))
    })
}

/// Decodes to the end, and deals the pictures out: a recognised one and those up to the next to each in turn.
fn read_all(
    file: &mut VideoFile,
    to_detect: &[SyncSender<Decoded>],
    to_encode: &SyncSender<Output>,
    every: u64,
) -> Ending {
    let mut index = 0;
    let mut ending = Ending::default();
    loop {
        let is_taken = match file.read() {
            Ok(Some(Piece::Picture(picture, at))) => {
                let lane = (index / every) as usize % to_detect.len();
                let is_wanted = index.is_multiple_of(every);
                index += 1;
                to_detect[lane].send(Decoded { picture, at, is_wanted }).is_ok()
            }
            Ok(Some(Piece::Audio(packet))) => to_encode.send(Output::Audio(packet)).is_ok(),
            Ok(None) => break,
            Err(error) => {
                ending.stopped = Some(error);
                break;
            }
        };
        // Whoever comes after has failed, and says why.
        if !is_taken {
            break;
        }
    }
    ending.cut_off = file.is_cut_off();
    ending.damaged = file.damaged();
    ending
}

fn detect_all(
    pictures: &Receiver<Decoded>,
    answers: &SyncSender<Detected>,
    recogniser: &mut Recogniser,
    tasks: &Tasks,
    scores: &MinScores,
) {
    for Decoded { picture, at, is_wanted } in pictures {
        let found = is_wanted.then(|| {
            let queue = picture.decoded.elapsed();
            (recogniser.detect(&picture, tasks, scores), queue)
        });
        if answers.send(Detected { picture, at, found }).is_err() {
            return;
        }
    }
}

fn write_all(outputs: &Receiver<Output>, writer: &mut VideoWriter) -> Result<(), FileError> {
    for output in outputs {
        match output {
            Output::Picture(picture, at) => writer.write(&picture, at)?,
            Output::Audio(packet) => writer.write_audio(&packet)?,
        }
    }
    Ok(())
}

/// Tracks what was detected, in the order of the pictures, and draws it.
struct Follower<'a> {
    recogniser: Recogniser,
    models: &'a ModelSet,
    tracker: Tracker,
    config: TrackConfig,
    tasks: Tasks,
    info: &'a VideoInfo,
    /// Of the last recognition.
    tracks: Tracks,
    summaries: BTreeMap<u64, TrackSummary>,
    frames: u64,
    recognised: u64,
    last: Duration,
}

impl Follower<'_> {
    fn run(
        &mut self,
        detected: Vec<Receiver<Detected>>,
        output: SyncSender<Output>,
        every: u64,
        each: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(), VideoError> {
        loop {
            let lane = (self.frames / every) as usize % detected.len();
            let Detected { picture, at, found } = match detected[lane].recv() {
                Ok(detected) => detected,
                Err(RecvError) => return Ok(()),
            };
            self.frames += 1;
            self.last = at;
            let report = match found {
                Some((found, queue)) => Some(self.follow(&picture, at, found?, queue)?),
                None => None,
            };
            let canvas = self.drawn(&picture, at);
            if output.send(Output::Picture(canvas, at)).is_err() {
                return Ok(()); // The encoder has failed, and says why.
            }
            let progress = Progress { info: self.info, frames: self.frames, at, report: report.as_ref() };
            if each(&progress).is_break() {
                return Err(VideoError::Cancelled);
            }
        }
    }

    fn follow(
        &mut self,
        picture: &Picture,
        at: Duration,
        found: Found,
        queue: Duration,
    ) -> Result<FrameReport, RecogniseError> {
        let tracking = Instant::now();
        self.tracker.reconfigure(self.config);
        self.tracker.update(&found.detections, at);
        let track = tracking.elapsed();
        let (mut models, mut infer) = (found.models, found.infer);
        if self.tasks.gender {
            let classifying = Instant::now();
            let Self { recogniser, tracker, .. } = self;
            classify(recogniser, tracker, picture, at, &mut models)?;
            infer += classifying.elapsed();
        }
        self.tracks = self.tracker.snapshot();
        let (width, height) = (picture.width, picture.height);
        let reports = self
            .tracker
            .tracks()
            .iter()
            .map(|track| track.report(&self.models.label(track.kind, track.class), at, width, height));
        let ms = |duration: Duration| duration.as_secs_f32() * 1000.0;
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
                track: ms(track),
                total: ms(picture.received.elapsed()),
            },
            dropped: 0,
        };
        self.recognised += 1;
        for track in &report.tracks {
            let seconds = at.as_secs_f64();
            let summary = self.summaries.entry(track.id).or_insert_with(|| TrackSummary {
                id: track.id,
                kind: track.kind,
                label: String::new(),
                first_s: seconds,
                last_s: seconds,
                apparent_gender: None,
            });
            // A track's label is a vote: the last word counts.
            summary.label.clone_from(&track.label);
            summary.last_s = seconds;
            summary.apparent_gender = track.attributes.apparent_gender.or(summary.apparent_gender);
        }
        Ok(report)
    }

    fn drawn(&self, picture: &Picture, at: Duration) -> I420Buffer {
        let mut canvas = I420Buffer::black(picture.width, picture.height);
        canvas.copy_from(picture);
        let drawn = self.tracks.at(at).map(|(track, bbox)| {
            let label = self.models.label(track.kind, track.class);
            DrawnTrack {
                bbox,
                label: label_of(&track.report(&label, at, picture.width, picture.height)),
                colour: colour_of(track.kind, track.class),
            }
        });
        draw(&mut canvas, &drawn.collect::<Vec<_>>());
        canvas
    }

    fn summary(&self, ending: &Ending, audio: AudioOutcome) -> Summary {
        let mut counts = BTreeMap::new();
        let mut apparent_genders = BTreeMap::new();
        for track in self.summaries.values() {
            *counts.entry(track.label.clone()).or_default() += 1;
            if let Some(gender) = track.apparent_gender {
                let label = format!("{:?}", gender.label).to_lowercase();
                *apparent_genders.entry(label).or_default() += 1;
            }
        }
        Summary {
            width: self.info.width,
            height: self.info.height,
            frames: self.frames,
            recognised: self.recognised,
            duration_s: self.last.as_secs_f64(),
            cut_off: ending.cut_off,
            stopped: ending.stopped.as_ref().map(ToString::to_string),
            damaged_frames: ending.damaged,
            audio,
            tracks: self.summaries.values().cloned().collect(),
            counts,
            apparent_genders,
        }
    }
}
