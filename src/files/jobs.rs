//! Runs video jobs: takes one off the queue, annotates its upload, and puts the results in the store.
//!
//! Each place has one job at a time, on threads of low priority that ask the lanes in their own name, so that
//! live sessions keep their turns. While a job runs its record is written about once a second, and whether it is
//! to stop is looked for as often. A worker that has to go hands its jobs back.

mod annotation;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};

use super::video::{Engines, Summary};
use crate::blobs::{BlobError, Fetched};
use crate::inference::service::Handle;
use crate::jobs::queue::Delivery;
use crate::jobs::record::{Fault, Options};
use crate::jobs::run::{Begin, Run, Verdict};
use crate::jobs::service::{Jobs, JobsError, ResultFile};
use crate::pipeline::recognise::ModelSet;
use crate::telemetry::metrics::Metrics;
use annotation::{Ended, Shared, annotate, fault_of, video_options};

/// How often progress is written and the queue told that the job is in work.
const TICK: Duration = Duration::from_secs(1);
/// A record is written at least so often, so that the run is believed to live.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a place waits when somebody else has its job, or the store cannot be used.
const PAUSE: Duration = Duration::from_secs(5);

/// What runs the jobs of a worker.
pub struct Runner {
    pub jobs: Arc<Jobs>,
    pub handle: Handle,
    pub models: ModelSet,
    pub lanes: usize,
    pub metrics: Arc<Metrics>,
    /// Of the results of one video together.
    pub max_result_bytes: u64,
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
        while let Some(delivery) = unless_stopping(&mut is_stopping, self.jobs.queue().take()).await {
            self.serve(place, delivery, &mut is_stopping).await;
        }
    }

    /// Sees a delivery to its end.
    async fn serve(&self, place: u16, delivery: Delivery, is_stopping: &mut watch::Receiver<bool>) {
        let settled = match self.admit(&delivery, is_stopping).await {
            Ok(Admitted::Run(run)) => self.measured(place, *run, &delivery, is_stopping).await,
            Ok(Admitted::Settled(settled)) => settled,
            Err(error @ JobsError::Record { .. }) => Settled::Parked(text_of(&error)),
            Err(error) => {
                // The store's fault, and no try of the job.
                tracing::error!(error = &error as &dyn Error, "a video job could not be begun");
                pause(is_stopping).await;
                Settled::Back
            }
        };
        let told = match settled {
            Settled::Over => delivery.done().await,
            Settled::Parked(error) => delivery.park(&error).await,
            Settled::Again => {
                self.metrics.jobs_total.with_label_values(&["retried"]).inc();
                delivery.retry(PAUSE).await;
                Ok(())
            }
            Settled::Back => {
                delivery.give_back().await;
                Ok(())
            }
        };
        if let Err(error) = told {
            // Delivered again, the job is found to have ended.
            tracing::warn!(error = &error as &dyn Error, "the queue was not told");
        }
    }

    /// Begins a run, or says what becomes of the delivery without one.
    async fn admit(
        &self,
        delivery: &Delivery,
        is_stopping: &mut watch::Receiver<bool>,
    ) -> Result<Admitted, JobsError> {
        loop {
            match self.jobs.begin(delivery).await? {
                Begin::Run(run) => return Ok(Admitted::Run(run)),
                Begin::Over => return Ok(Admitted::Settled(Settled::Over)),
                Begin::Spent(error) => return Ok(Admitted::Settled(Settled::Parked(error))),
                Begin::Elsewhere => {}
            }
            pause(is_stopping).await;
            if *is_stopping.borrow() {
                return Ok(Admitted::Settled(Settled::Back));
            }
            delivery.working().await;
        }
    }

    async fn measured(
        &self,
        place: u16,
        run: Run,
        delivery: &Delivery,
        is_stopping: &mut watch::Receiver<bool>,
    ) -> Settled {
        self.metrics.jobs.with_label_values(&["running"]).inc();
        let began = Instant::now();
        let outcome = self.work(place, run, delivery, is_stopping).await;
        self.metrics.job_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.jobs.with_label_values(&["running"]).dec();
        outcome.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn Error, "how a video job ended could not be written");
            Settled::Again
        })
    }

    /// Runs a job that has begun, and writes how it ended.
    async fn work(
        &self,
        place: u16,
        mut run: Run,
        delivery: &Delivery,
        is_stopping: &mut watch::Receiver<bool>,
    ) -> Result<Settled, JobsError> {
        let upload = self.jobs.upload_key(&run.job);
        let fetching = unless_stopping(is_stopping, self.files(&upload));
        let files = match keep_alive(&self.jobs, &mut run, delivery, fetching).await {
            Ok(Some(Ok(files))) => files,
            Ok(Some(Err(BlobError::NotFound { .. }))) => {
                let fault = Fault::new("upload_lost", "the uploaded video is not in the store any more");
                return self.refuse(run, fault).await;
            }
            Ok(Some(Err(error))) => return self.again(run, store_trouble(&error)).await,
            Ok(None) => {
                self.jobs.requeue(run, None).await?;
                return Ok(Settled::Back);
            }
            Err(verdict) => {
                self.jobs.leave(run, verdict).await?;
                return Ok(Settled::Over);
            }
        };
        let (shared, mut ended) = self.start(place, &run.job.options, &files);
        let attended = self.attend(&mut run, delivery, &shared, &mut ended, is_stopping).await;
        shared.is_over.store(true, Ordering::Relaxed);
        match attended {
            Attended::Ended(ended) => self.settle(run, delivery, files, ended).await,
            Attended::Stopped(Stopped::By(verdict)) => {
                let left = self.jobs.leave(run, verdict).await;
                // The place is taken until the thread has stopped, which may take some pictures.
                let _ = ended.await;
                left.map(|()| Settled::Over)
            }
            Attended::Stopped(Stopped::Leaving) => {
                // The next worker need not wait for it, nor may the end of this process.
                tokio::spawn(async move {
                    let _ = ended.await;
                    drop(files);
                });
                self.jobs.requeue(run, None).await?;
                Ok(Settled::Back)
            }
        }
    }

    /// Writes how a run ended that nobody stopped.
    async fn settle(
        &self,
        run: Run,
        delivery: &Delivery,
        files: Files,
        ended: Ended,
    ) -> Result<Settled, JobsError> {
        let fault = match ended {
            Ended::Annotated(summary) => return self.store(run, delivery, files, &summary).await,
            Ended::Failed(error) => match fault_of(&error) {
                Some(fault) => return self.refuse(run, fault).await,
                None => trouble(&error, error.code() == Fault::STORE_FULL),
            },
            Ended::TooLarge => {
                // As below.
                drop(files);
                let fault = too_large(self.max_result_bytes, "as --max-video-result-bytes has it here");
                return self.refuse(run, fault).await;
            }
            Ended::Scratch(error) => store_trouble(&error),
            Ended::Panicked => Fault::new("internal", "vigie failed at it by a fault of its own"),
        };
        // On a full disk they stand where the record is to be written.
        drop(files);
        self.again(run, fault).await
    }

    /// Has a job tried again whose run ended through no fault of its file.
    async fn again(&self, run: Run, fault: Fault) -> Result<Settled, JobsError> {
        self.jobs.requeue(run, Some(fault)).await?;
        Ok(Settled::Again)
    }

    /// Ends a job for good that no other try would help.
    async fn refuse(&self, run: Run, fault: Fault) -> Result<Settled, JobsError> {
        self.jobs.refuse(run, fault).await?;
        Ok(Settled::Over)
    }

    async fn files(&self, upload: &str) -> Result<Files, BlobError> {
        let blobs = self.jobs.blobs();
        let upload = blobs.fetch(upload).await?;
        Ok(Files { upload, scratch: blobs.scratch().await? })
    }

    /// Starts the thread that annotates.
    fn start(&self, place: u16, options: &Options, files: &Files) -> (Arc<Shared>, oneshot::Receiver<Ended>) {
        let engines = Engines { handle: self.handle.clone(), models: self.models.clone(), lanes: self.lanes };
        let options = video_options(options);
        let shared = Arc::new(Shared { progress: watch::Sender::default(), is_over: AtomicBool::new(false) });
        let (tell, ended) = oneshot::channel();
        let (source, folder) = (files.upload.path().to_owned(), files.scratch.path().to_owned());
        let max_bytes = self.max_result_bytes;
        let teller = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("video-{place}"));
        let spawned = thread.spawn(move || {
            // Decoders of other people's formats must not take the place with them.
            let annotated = catch_unwind(AssertUnwindSafe(|| {
                annotate(&source, &folder, max_bytes, &engines, &options, &teller)
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
                    tracing::warn!(job = %run.job.id, error = &error as &dyn Error, "progress not written");
                }
                Err(_) => {}
            }
            delivery.working().await;
        }
    }

    /// Puts the results in the store and the job at its end. Somebody who has to go ends with this first, if there is time.
    async fn store(
        &self,
        mut run: Run,
        delivery: &Delivery,
        files: Files,
        summary: &Summary,
    ) -> Result<Settled, JobsError> {
        run.job.progress.frames = summary.frames;
        run.job.progress.of_frames = Some(summary.frames);
        run.job.progress.media_s = summary.duration_s;
        run.job.progress.seconds_left = None;
        let id = run.job.id;
        let storing = async {
            let text = serde_json::to_vec(summary).map_err(std::io::Error::from);
            let path = files.path(ResultFile::Summary);
            let written = text.and_then(|text| std::fs::write(&path, text));
            written.map_err(BlobError::of_file)?;
            for file in ResultFile::ALL {
                self.jobs.blobs().upload_from(&files.path(file), &file.key(id)).await?;
            }
            Ok::<_, BlobError>(())
        };
        let error = match keep_alive(&self.jobs, &mut run, delivery, storing).await {
            Ok(Ok(())) => {
                self.jobs.complete(run).await?;
                return Ok(Settled::Over);
            }
            Ok(Err(error)) => error,
            Err(verdict) => {
                self.jobs.leave(run, verdict).await?;
                return Ok(Settled::Over);
            }
        };
        // As in `settle`.
        drop(files);
        match error {
            BlobError::TooLarge { max_bytes } => {
                self.refuse(run, too_large(max_bytes, "the most that the store takes of a file")).await
            }
            error => self.again(run, store_trouble(&error)).await,
        }
    }
}

/// What `work` brings, unless this worker has to go first.
async fn unless_stopping<T>(
    is_stopping: &mut watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        _ = is_stopping.wait_for(|is| *is) => None,
        done = work => Some(done),
    }
}

/// Does what may take long before and after a video is annotated, and says meanwhile that the run goes on, to the queue and in
/// the record: who is silent in one of them is taken for dead.
///
/// # Errors
/// Why the run is to stop; `work` is given up then.
async fn keep_alive<T>(
    jobs: &Jobs,
    run: &mut Run,
    delivery: &Delivery,
    work: impl Future<Output = T>,
) -> Result<T, Verdict> {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(HEARTBEAT, work.as_mut()).await {
            return Ok(done);
        }
        // Not beside the work: cut off at its end, a record that was written would seem to be another's.
        delivery.working().await;
        let progress = run.job.progress;
        match jobs.report(run, progress).await {
            Ok(Verdict::GoOn) => {}
            Ok(verdict) => return Err(verdict),
            // As in `attend`.
            Err(error) => {
                tracing::warn!(job = %run.job.id, error = &error as &dyn Error, "progress not written");
            }
        }
    }
}

enum Admitted {
    Run(Box<Run>),
    Settled(Settled),
}

/// What becomes of a delivery.
enum Settled {
    Over,
    /// Not to be delivered again, for this reason.
    Parked(String),
    Again,
    Back,
}

enum Attended {
    Ended(Ended),
    Stopped(Stopped),
}

/// The files of a run; those in the scratch folder go with this.
struct Files {
    upload: Fetched,
    scratch: tempfile::TempDir,
}

impl Files {
    fn path(&self, file: ResultFile) -> PathBuf {
        self.scratch.path().join(file.name())
    }
}

/// What is no fault of the file's: logged in full, and told in short.
fn trouble(error: &(dyn Error + 'static), is_full: bool) -> Fault {
    tracing::error!(error, "a video job's run failed");
    match is_full {
        true => Fault::new(Fault::STORE_FULL, "the server's disk or store has no room for its results"),
        false => Fault::new("internal", error.to_string()),
    }
}

/// The results are more than is kept, as `why` says, and what helps.
fn too_large(max_bytes: u64, why: &str) -> Fault {
    let advice = "send the video in shorter pieces, or with smaller pictures";
    Fault::new("too_large", format!("its results have more than {max_bytes} bytes, {why}: {advice}"))
}

fn store_trouble(error: &BlobError) -> Fault {
    trouble(error, matches!(error, BlobError::Full))
}

/// An error with its causes.
fn text_of(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", text_of(cause)),
        None => error.to_string(),
    }
}

async fn pause(is_stopping: &mut watch::Receiver<bool>) {
    let _ = tokio::time::timeout(PAUSE, is_stopping.wait_for(|is| *is)).await;
}

#[cfg(test)]
mod tests;
