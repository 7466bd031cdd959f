//! The annotation of one job's video, on a thread of its own: its files, its pace, and what it failed by.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::super::video::{self, Engines, Summary, VideoError, VideoOptions};
use crate::blobs::BlobError;
use crate::jobs::record::{Fault, Options, Progress, Task};
use crate::jobs::service::ResultFile;
use crate::pipeline::recognise::Tasks;
use crate::pipeline::report::FrameReport;

/// The longest video that is annotated for others: a file of a few bytes can claim any length.
const MAX_DURATION: Duration = Duration::from_secs(8 * 3600);
/// How often progress is told.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// The first pictures wait for threads and decoders, and say nothing of those that follow.
const WARMING_UP: Duration = Duration::from_secs(1);
/// Over how long pictures a second are averaged.
const FPS_WINDOW: Duration = Duration::from_secs(5);

/// How a run ended.
pub enum Ended {
    Annotated(Box<Summary>),
    Failed(VideoError),
    /// The results became more than they may be.
    TooLarge,
    /// The results could not be written here.
    Scratch(BlobError),
    Panicked,
}

/// What the thread that annotates and the task that tells of it share.
pub struct Shared {
    pub progress: watch::Sender<Progress>,
    pub is_over: AtomicBool,
}

pub fn video_options(options: &Options) -> VideoOptions {
    let tasks = Tasks {
        faces: options.wants(Task::Faces),
        gender: options.wants(Task::Gender),
        objects: options.wants(Task::Objects),
        text: options.wants(Task::Text),
    };
    VideoOptions {
        tasks,
        every: options.every,
        threshold: options.threshold,
        max_duration: Some(MAX_DURATION),
        background: true,
        ..VideoOptions::default()
    }
}

/// A line of `detections.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    time_s: f64,
    #[serde(flatten)]
    report: &'a FrameReport,
}

/// Annotates from end to end, and tells of it. The results are written to `folder`, which holds nothing else, and have `max_bytes`
/// together at most.
pub fn annotate(
    source: &Path,
    folder: &Path,
    max_bytes: u64,
    engines: &Engines,
    options: &VideoOptions,
    shared: &Shared,
) -> Ended {
    let [target, lines] =
        [ResultFile::Annotated, ResultFile::Detections].map(|file| folder.join(file.name()));
    let mut lines = match File::create(lines) {
        Ok(file) => BufWriter::new(file),
        Err(error) => return Ended::Scratch(BlobError::of_file(error)),
    };
    let mut pace = Pace::new(Instant::now());
    let (mut failed, mut is_too_large) = (None, false);
    let annotated = video::annotate(source, &target, engines, options, &mut |progress| {
        if let Some(report) = progress.report {
            let line = Line { time_s: progress.at.as_secs_f64(), report };
            let written = serde_json::to_writer(&mut lines, &line).map_err(std::io::Error::from);
            failed = written.and_then(|()| lines.write_all(b"\n")).err();
        }
        if let Some(told) = pace.step(Instant::now(), progress) {
            shared.progress.send_replace(told);
            // As often as it is told: in half a second no disk fills.
            is_too_large = bytes_in(folder) > max_bytes;
        }
        if failed.is_some() || is_too_large || shared.is_over.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let failed = failed.or_else(|| lines.flush().err());
    // What was written since the last look counts too.
    is_too_large |= annotated.is_ok() && bytes_in(folder) > max_bytes;
    match (failed, annotated) {
        (Some(error), _) => Ended::Scratch(BlobError::of_file(error)),
        (None, _) if is_too_large => Ended::TooLarge,
        (None, Ok(summary)) => Ended::Annotated(Box::new(summary)),
        (None, Err(error)) => Ended::Failed(error),
    }
}

/// The bytes of all files in a folder, whatever they are called: a video has another name until it is whole.
fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
}

/// How fast a job goes, and how long it will take.
struct Pace {
    began: Instant,
    told: Option<Instant>,
    /// Some seconds ago, and how many pictures were done then.
    mark: (Instant, u64),
    fps: f64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { began: now, told: None, mark: (now, 0), fps: 0.0 }
    }

    /// The progress to tell of after a picture, about twice a second.
    fn step(&mut self, now: Instant, progress: &video::Progress<'_>) -> Option<Progress> {
        let total = progress.info.duration.map(|duration| duration.as_secs_f64());
        self.tell(now, progress.frames, progress.at.as_secs_f64(), total, progress.info.rate)
    }

    fn tell(
        &mut self,
        now: Instant,
        frames: u64,
        media_s: f64,
        duration_s: Option<f64>,
        rate: f64,
    ) -> Option<Progress> {
        if self.told.is_some_and(|told| now.duration_since(told) < TELL_INTERVAL) {
            return None;
        }
        self.told = Some(now);
        let (since, before) = self.mark;
        let passed = now.duration_since(since);
        if passed >= FPS_WINDOW || self.fps == 0.0 || since == self.began {
            self.fps = (frames - before) as f64 / passed.as_secs_f64().max(0.001);
        }
        if passed >= FPS_WINDOW {
            self.mark = (now, frames);
        }
        let of_frames = duration_s.map(|duration| ((duration * rate).round() as u64).max(frames));
        let is_known = now.duration_since(self.began) > WARMING_UP;
        let left = of_frames.filter(|_| is_known).map(|of| (of - frames) as f64 / self.fps.max(0.001));
        Some(Progress {
            frames,
            of_frames,
            fps: round(self.fps),
            seconds_left: left.filter(|left| *left < 1e6).map(round),
            media_s,
            duration_s,
        })
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Why a video can never be annotated, in words for whoever sent it; nothing where another try may help.
pub fn fault_of(error: &VideoError) -> Option<Fault> {
    match error.code() {
        "internal" | Fault::STORE_FULL | "cancelled" => None,
        code => Some(Fault::new(code, format!("the file cannot be annotated: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FileError;

    #[test]
    fn the_pace_is_told_twice_a_second_and_estimates_the_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        let first = pace.tell(at(100), 1, 0.0, Some(10.0), 30.0).unwrap();
        assert_eq!((first.frames, first.of_frames, first.seconds_left), (1, Some(300), None));
        assert!(pace.tell(at(200), 2, 0.0, Some(10.0), 30.0).is_none());
        let later = pace.tell(at(2000), 100, 3.3, Some(10.0), 30.0).unwrap();
        assert_eq!((later.fps, later.seconds_left), (50.0, Some(4.0)));
        // More pictures than the file spoke of, and a file that speaks of none.
        let over = pace.tell(at(8000), 400, 13.0, Some(10.0), 30.0).unwrap();
        assert_eq!((over.of_frames, over.seconds_left), (Some(400), Some(0.0)));
        let unknown = pace.tell(at(9000), 450, 15.0, None, 30.0).unwrap();
        assert_eq!((unknown.of_frames, unknown.seconds_left), (None, None));
    }

    #[test]
    fn results_are_weighed_under_whatever_names() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(bytes_in(folder.path()), 0);
        for (name, bytes) in [(".vigie-1.part", 3000), (ResultFile::Detections.name(), 500)] {
            std::fs::write(folder.path().join(name), vec![7; bytes]).unwrap();
        }
        assert_eq!(bytes_in(folder.path()), 3500);
        assert_eq!(bytes_in(&folder.path().join("missing")), 0);
    }

    #[test]
    fn only_the_files_own_faults_are_final() {
        let fault = fault_of(&VideoError::File(FileError::AudioOnly)).unwrap();
        assert_eq!(
            fault,
            Fault::new("no_video", "the file cannot be annotated: it has no video, only audio")
        );
        let read = FileError::Read(std::io::Error::other("the disk"));
        assert_eq!(fault_of(&VideoError::File(read)), None);
        let full = FileError::Create(std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(fault_of(&VideoError::File(full)), None, "room may come back");
        assert_eq!(fault_of(&VideoError::NoPictures).unwrap().code, "corrupt");
    }
}
