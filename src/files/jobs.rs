//! Runs video jobs: takes one off the queue, annotates its upload, and puts the results in the store.
//!
//! Each place has one job at a time, on threads of low priority that ask the lanes in their own name, so that
//! live sessions keep their turns. While a job runs its record is written about once a second, and whether it is
//! to stop is looked for as often. A worker that has to go hands its jobs back.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::video::{self, Engines, Summary, VideoError, VideoOptions};
use crate::blobs::BlobError;
use crate::codec::{CodecError, FileError};
use crate::inference::service::{Handle, lower_priority};
use crate::jobs::queue::Delivery;
use crate::jobs::record::{Fault, Options, Progress, Task};
use crate::jobs::run::{Begin, Run, Verdict};
use crate::jobs::service::{Jobs, JobsError, ResultFile};
use crate::pipeline::recognise::{ModelSet, Tasks};
use crate::pipeline::report::FrameReport;
use crate::telemetry::metrics::Metrics;

/// How often progress is written and the queue told that the job is in work.
const TICK: Duration = Duration::from_secs(1);
/// A record is written at least so often, so that the run is believed to live.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a place waits when somebody else has its job, or the store cannot be used.
const PAUSE: Duration = Duration::from_secs(5);
/// Over how long pictures a second are averaged.
const FPS_WINDOW: Duration = Duration::from_secs(5);

/// Sessions count from 1, posted pictures from 1 << 63: no number is used twice.
const FIRST_ASKER: u64 = 1 << 62;

/// What runs the jobs of a worker.
pub struct Runner {
    pub jobs: Arc<Jobs>,
    pub handle: Handle,
    pub models: ModelSet,
    pub lanes: usize,
    pub metrics: Arc<Metrics>,
}

/// How a run ended.
enum Ended {
    Annotated(Box<Summary>),
    Failed(VideoError),
    /// The results could not be written here.
    Scratch(std::io::Error),
    Panicked,
}

/// What the thread that annotates and the task that tells of it share.
struct Shared {
    progress: watch::Sender<Progress>,
    is_over: AtomicBool,
}

/// Why the job was stopped from here.
#[derive(Clone, Copy, PartialEq)]
enum Stopped {
    By(Verdict),
    Leaving,
}

impl Runner {
    /// Runs up to `places` jobs at a time until told to stop; what runs then is handed back.
    pub async fn run(&self, places: u16, is_stopping: &watch::Receiver<bool>) {
        join_all((0..places).map(|place| self.fill(place, is_stopping.clone()))).await;
    }

    async fn fill(&self, place: u16, mut is_stopping: watch::Receiver<bool>) {
        loop {
            let delivery = tokio::select! {
                biased;
                _ = is_stopping.wait_for(|is| *is) => return,
                delivery = self.jobs.queue().take() => delivery,
            };
            let id = delivery.job;
            if let Err(error) = self.serve(place, delivery, &mut is_stopping).await {
                // Dropped without a word, the job comes back.
                tracing::error!(job = %id, error = &error as &dyn std::error::Error, "a video job's run ended badly");
                pause(&mut is_stopping).await;
            }
        }
    }

    async fn serve(
        &self,
        place: u16,
        delivery: Delivery,
        is_stopping: &mut watch::Receiver<bool>,
    ) -> Result<(), JobsError> {
        let run = loop {
            match self.jobs.begin(&delivery).await? {
                Begin::Run(run) => break run,
                Begin::Over => return Ok(delivery.done().await?),
                Begin::Spent(error) => return Ok(delivery.park(&error).await?),
                Begin::Elsewhere => {
                    pause(is_stopping).await;
                    if *is_stopping.borrow() {
                        delivery.give_back().await;
                        return Ok(());
                    }
                    delivery.working().await;
                }
            }
        };
        self.metrics.jobs.with_label_values(&["running"]).inc();
        let began = Instant::now();
        let outcome = self.work(place, run, &delivery, is_stopping).await;
        self.metrics.job_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.jobs.with_label_values(&["running"]).dec();
        match outcome? {
            Settled::Over => delivery.done().await?,
            Settled::Again => {
                self.metrics.jobs_total.with_label_values(&["retried"]).inc();
                delivery.retry(PAUSE).await;
            }
            Settled::Back => delivery.give_back().await,
        }
        Ok(())
    }

    /// Runs a job that has begun, and writes how it ended.
    async fn work(
        &self,
        place: u16,
        mut run: Run,
        delivery: &Delivery,
        is_stopping: &mut watch::Receiver<bool>,
    ) -> Result<Settled, JobsError> {
        let files = match self.files(&run).await {
            Ok(files) => files,
            Err(BlobError::NotFound { .. }) => {
                let fault = Fault::new("upload_lost", "the uploaded video is not in the store any more");
                self.jobs.refuse(run, fault).await?;
                return Ok(Settled::Over);
            }
            Err(error) => return self.again(run, trouble(&error)).await,
        };
        let (shared, mut ended) = self.start(place, &run.job.options, &files);
        let stopped = self.attend(&mut run, delivery, &shared, &mut ended, is_stopping).await;
        // Whatever was told: the thread has ended when its files go.
        shared.is_over.store(true, Ordering::Relaxed);
        let (stopped, ended) = match stopped {
            Attended::Ended(ended) => (None, ended),
            Attended::Stopped(stopped) => (Some(stopped), ended.await.unwrap_or(Ended::Panicked)),
        };
        match (stopped, ended) {
            (Some(Stopped::By(verdict)), _) => {
                self.jobs.leave(run, verdict).await?;
                Ok(Settled::Over)
            }
            (Some(Stopped::Leaving), _) => {
                self.jobs.requeue(run, None).await?;
                Ok(Settled::Back)
            }
            (None, Ended::Annotated(summary)) => self.store(run, delivery, &files, &summary).await,
            (None, Ended::Failed(error)) => match fault_of(&error) {
                Some(fault) => {
                    self.jobs.refuse(run, fault).await?;
                    Ok(Settled::Over)
                }
                None => self.again(run, trouble(&error)).await,
            },
            (None, Ended::Scratch(error)) => self.again(run, trouble(&error)).await,
            (None, Ended::Panicked) => {
                self.again(run, Fault::new("internal", "vigie failed at it by a fault of its own")).await
            }
        }
    }

    /// Has a job tried again whose run ended through no fault of its file.
    async fn again(&self, run: Run, fault: Fault) -> Result<Settled, JobsError> {
        self.jobs.requeue(run, Some(fault)).await?;
        Ok(Settled::Again)
    }

    async fn files(&self, run: &Run) -> Result<Files, BlobError> {
        let blobs = self.jobs.blobs();
        let upload = blobs.fetch(&self.jobs.upload_key(&run.job)).await?;
        Ok(Files { upload, scratch: blobs.scratch().await? })
    }

    /// Starts the thread that annotates.
    fn start(&self, place: u16, options: &Options, files: &Files) -> (Arc<Shared>, oneshot::Receiver<Ended>) {
        let engines = Engines {
            handle: self.handle.clone(),
            models: self.models.clone(),
            lanes: self.lanes,
            first_asker: FIRST_ASKER + u64::from(place) * video::askers(self.lanes),
        };
        let options = video_options(options);
        let shared = Arc::new(Shared { progress: watch::Sender::default(), is_over: AtomicBool::new(false) });
        let (tell, ended) = oneshot::channel();
        let source = files.upload.path().to_owned();
        let (target, lines) = (files.path(ResultFile::Annotated), files.path(ResultFile::Detections));
        let teller = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("video-{place}"));
        let spawned = thread.spawn(move || {
            // Every thread that it starts for decoding, detecting and encoding inherits this.
            lower_priority();
            // Decoders of other people's formats must not take the place with them.
            let annotated = catch_unwind(AssertUnwindSafe(|| {
                annotate(&source, &target, &lines, &engines, &options, &teller)
            }));
            let _ = tell.send(annotated.unwrap_or(Ended::Panicked));
        });
        if let Err(error) = spawned {
            // The sender is gone with the closure: the run counts as failed.
            tracing::error!(%error, "there is no thread for a video job");
        }
        (shared, ended)
    }

    /// Tells of a run until it ends or is to stop.
    async fn attend(
        &self,
        run: &mut Run,
        delivery: &Delivery,
        shared: &Shared,
        ended: &mut oneshot::Receiver<Ended>,
        is_stopping: &mut watch::Receiver<bool>,
    ) -> Attended {
        let mut tick = tokio::time::interval(TICK);
        let mut written = Instant::now();
        let mut is_told = true;
        loop {
            tokio::select! {
                biased;
                outcome = &mut *ended => return Attended::Ended(outcome.unwrap_or(Ended::Panicked)),
                _ = is_stopping.wait_for(|is| *is) => return Attended::Stopped(Stopped::Leaving),
                _ = tick.tick() => {}
            }
            let progress = *shared.progress.borrow();
            let is_due = progress != run.job.progress || written.elapsed() > HEARTBEAT;
            let verdict = if is_due {
                written = Instant::now();
                self.jobs.report(run, progress).await
            } else {
                self.jobs.verdict(run.job.id).await
            };
            match verdict {
                Ok(Verdict::GoOn) => is_told = true,
                Ok(verdict) => return Attended::Stopped(Stopped::By(verdict)),
                // The run goes on without its record; the results show whether the store is back.
                Err(error) if is_told => {
                    is_told = false;
                    tracing::warn!(job = %run.job.id, error = &error as &dyn std::error::Error, "progress not written");
                }
                Err(_) => {}
            }
            delivery.working().await;
        }
    }

    /// Puts the results in the store and the job at its end, and keeps telling that it is in work.
    async fn store(
        &self,
        run: Run,
        delivery: &Delivery,
        files: &Files,
        summary: &Summary,
    ) -> Result<Settled, JobsError> {
        let storing = async {
            let text = serde_json::to_vec(summary).map_err(std::io::Error::from);
            let path = files.path(ResultFile::Summary);
            let written = text.and_then(|text| std::fs::write(&path, text));
            written.map_err(|error| BlobError::Io { source: error.into() })?;
            for file in ResultFile::ALL {
                self.jobs.blobs().upload_from(&files.path(file), &file.key(run.job.id)).await?;
            }
            Ok::<_, BlobError>(())
        };
        let telling = async {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                delivery.working().await;
            }
        };
        let stored = tokio::select! {
            stored = storing => stored,
            never = telling => never,
        };
        match stored {
            Ok(()) => {
                self.jobs.complete(run).await?;
                Ok(Settled::Over)
            }
            Err(error) => self.again(run, trouble(&error)).await,
        }
    }
}

/// What becomes of a delivery.
enum Settled {
    Over,
    Again,
    Back,
}

enum Attended {
    Ended(Ended),
    Stopped(Stopped),
}

/// The files of a run; those in the scratch folder go with this.
struct Files {
    upload: crate::blobs::Fetched,
    scratch: tempfile::TempDir,
}

impl Files {
    fn path(&self, file: ResultFile) -> PathBuf {
        self.scratch.path().join(file.name())
    }
}

/// What is no fault of the file's: logged in full, and told in short.
fn trouble(error: &(dyn std::error::Error + 'static)) -> Fault {
    tracing::error!(error, "a video job's run failed");
    Fault::new("internal", error.to_string())
}

async fn pause(is_stopping: &mut watch::Receiver<bool>) {
    let _ = tokio::time::timeout(PAUSE, is_stopping.wait_for(|is| *is)).await;
}

fn video_options(options: &Options) -> VideoOptions {
    let tasks = Tasks {
        faces: options.wants(Task::Faces),
        gender: options.wants(Task::Gender),
        objects: options.wants(Task::Objects),
    };
    VideoOptions { tasks, every: options.every, threshold: options.threshold }
}

/// A line of `detections.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    time_s: f64,
    #[serde(flatten)]
    report: &'a FrameReport,
}

fn annotate(
    source: &Path,
    target: &Path,
    lines: &Path,
    engines: &Engines,
    options: &VideoOptions,
    shared: &Shared,
) -> Ended {
    let mut lines = match File::create(lines) {
        Ok(file) => BufWriter::new(file),
        Err(error) => return Ended::Scratch(error),
    };
    let mut pace = Pace::new(Instant::now());
    let mut failed = None;
    let annotated = video::annotate(source, target, engines, options, &mut |progress| {
        if let Some(report) = progress.report {
            let line = Line { time_s: progress.at.as_secs_f64(), report };
            let written = serde_json::to_writer(&mut lines, &line).map_err(std::io::Error::from);
            failed = written.and_then(|()| lines.write_all(b"\n")).err();
        }
        if let Some(told) = pace.step(Instant::now(), progress) {
            shared.progress.send_replace(told);
        }
        if failed.is_some() || shared.is_over.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let failed = failed.or_else(|| lines.flush().err());
    match (failed, annotated) {
        (Some(error), _) => Ended::Scratch(error),
        (None, Ok(summary)) => Ended::Annotated(Box::new(summary)),
        (None, Err(error)) => Ended::Failed(error),
    }
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
        if self.told.is_some_and(|told| now.duration_since(told) < TICK / 2) {
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
        let left = of_frames.map(|of| (of - frames) as f64 / self.fps.max(0.001));
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
fn fault_of(error: &VideoError) -> Option<Fault> {
    let (code, message) = match error {
        VideoError::File(file) => match file {
            FileError::Empty { .. } => ("empty", "the file is empty"),
            FileError::UnsupportedType { .. } => {
                ("unsupported_type", "the file is no MP4, MOV, WebM, Matroska, AVI or MPEG-TS video")
            }
            FileError::Headers { .. } => {
                ("corrupt", "the file is damaged or cut off: its headers cannot be read")
            }
            FileError::AudioOnly { .. } => ("no_video", "the file has no video, only audio"),
            FileError::NoVideo { .. } => ("no_video", "the file has no video"),
            FileError::UnsupportedCodec { .. } => {
                ("unsupported_codec", "the file's video is in a format that cannot be decoded")
            }
            FileError::Codec(CodecError::TooLarge { .. }) => {
                ("too_large", "the video's pictures have more pixels than are taken")
            }
            FileError::SizeChanged { .. } | FileError::Codec(_) => {
                ("corrupt", "the file's video cannot be decoded")
            }
            FileError::Io { .. } | FileError::Write { .. } => return None,
        },
        VideoError::NoPictures => ("corrupt", "not one picture in the file could be decoded"),
        VideoError::Recognise(_) | VideoError::Cancelled => return None,
    };
    Some(Fault::new(code, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_told_twice_a_second_and_estimates_the_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        let first = pace.tell(at(100), 1, 0.0, Some(10.0), 30.0).unwrap();
        assert_eq!((first.frames, first.of_frames), (1, Some(300)));
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
    fn what_is_the_files_fault_is_told_and_never_with_a_path() {
        let path = PathBuf::from("/store/secret");
        let fault = fault_of(&VideoError::File(FileError::AudioOnly { path: path.clone() })).unwrap();
        assert_eq!(fault, Fault::new("no_video", "the file has no video, only audio"));
        let source = std::io::Error::other("disk");
        assert_eq!(fault_of(&VideoError::File(FileError::Io { path, source })), None);
        assert_eq!(fault_of(&VideoError::NoPictures).unwrap().code, "corrupt");
    }
}
