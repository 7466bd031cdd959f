//! The parts of a process that take videos in, run their jobs and sweep up after them.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::blobs::Blobs;
use crate::cli::{FrontArgs, StoreArgs};
use crate::jobs::queue::{Options, Queue};
use crate::jobs::service::Jobs;
use crate::signalling::room::Room;
use crate::signalling::uploads::Videos;
use crate::telemetry::metrics::Metrics;
#[cfg(feature = "media")]
use {
    super::recognition::Recognition, crate::cli::WorkerArgs, crate::files::jobs::Runner,
    std::fs::TryLockError, std::path::Path,
};

/// The file in a store's folder that the one process holds which takes up what another left.
#[cfg(feature = "media")]
const LOCK: &str = ".alone";

/// The video jobs of a process.
pub struct VideoJobs {
    jobs: Arc<Jobs>,
    /// Told when the process is to end.
    leaving: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
    tending: JoinHandle<()>,
    /// Keeps other processes from running again what this one has in its queue.
    _lock: Option<File>,
}

impl VideoJobs {
    /// Opens store and queue of one process of several; nothing where they have no queue in common.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub async fn shared(args: &StoreArgs, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let Some(url) = &args.nats_url else {
            tracing::info!("no videos are annotated: that needs --nats-url and a shared --store");
            return Ok(None);
        };
        let queue = Queue::nats(url, Options::default()).await.context("opening the queue (--nats-url)")?;
        Self::open(args, queue, metrics).map(Some)
    }

    fn open(args: &StoreArgs, queue: Queue, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let place = &args.store;
        let blobs = Blobs::open(place).with_context(|| {
            format!("opening the store {place} (--store; --video-jobs 0 does without videos)")
        })?;
        let expiry = Duration::from_secs_f64(args.video_expiry_hours * 3600.0);
        let jobs = Arc::new(Jobs::new(blobs, queue, expiry, Arc::clone(metrics)));
        let tended = Arc::clone(&jobs);
        let tending = tokio::spawn(async move { tended.tend().await });
        Ok(Self { jobs, leaving: watch::Sender::new(false), running: None, tending, _lock: None })
    }

    /// What the front needs to take videos in.
    pub fn front(&self, args: &FrontArgs, room: Room) -> Arc<Videos> {
        let (asked, most) = (args.max_upload_bytes, self.jobs.blobs().max_content_bytes());
        if asked > most {
            tracing::warn!(
                asked,
                taken = most,
                "--max-upload-bytes is more than a bucket can make one file of: longer videos are refused"
            );
        }
        let closing = self.leaving.subscribe();
        Arc::new(Videos::new(Arc::clone(&self.jobs), asked.min(most), room, closing))
    }

    /// Ends the progress streams, and hands the jobs that run here back, within `limit`.
    async fn leave(mut self, limit: Duration) {
        self.leaving.send_replace(true);
        self.tending.abort();
        if let Some(running) = self.running.take()
            && tokio::time::timeout(limit, running).await.is_err()
        {
            tracing::warn!("a video job was not handed back in time: it runs again elsewhere");
        }
    }
}

/// What is left to processes with workers: to take up and to run.
#[cfg(feature = "media")]
impl VideoJobs {
    /// Opens store and queue of a process that serves alone; nothing where it is to run no jobs and nobody else can.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub async fn alone(
        args: &StoreArgs,
        worker: &WorkerArgs,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Option<Self>> {
        if args.nats_url.is_some() {
            return Self::shared(args, metrics).await;
        }
        if worker.video_jobs == 0 {
            tracing::info!("no videos are annotated: --video-jobs is 0");
            return Ok(None);
        }
        let mut alone = Self::open(args, Queue::local(Options::default()), metrics)?;
        alone.recover(&args.store).await?;
        Ok(Some(alone))
    }

    /// Queues again what the last process left, and clears what it was writing, unless it still lives.
    async fn recover(&mut self, place: &str) -> anyhow::Result<()> {
        if !place.contains("://") {
            let path = Path::new(place).join(LOCK);
            let lock = File::create(&path).with_context(|| format!("locking the store {place} (--store)"))?;
            match lock.try_lock() {
                Ok(()) => self._lock = Some(lock),
                Err(TryLockError::WouldBlock) => {
                    tracing::warn!(
                        store = place,
                        "another vigie uses this store: what it leaves is not taken up"
                    );
                    return Ok(());
                }
                Err(TryLockError::Error(error)) => return Err(error).context("locking the store (--store)"),
            }
        }
        self.jobs.blobs().sweep(Duration::ZERO).await.context("clearing the store (--store)")?;
        let count = self.jobs.recover().await.context("reading the jobs in the store (--store)")?;
        if count > 0 {
            tracing::info!(count, "video jobs that were left go on");
        }
        Ok(())
    }

    /// Begins to run jobs here.
    pub fn start(&mut self, args: &WorkerArgs, recognition: &Recognition, metrics: &Arc<Metrics>) {
        let runner = Runner {
            jobs: Arc::clone(&self.jobs),
            handle: recognition.handle(),
            models: recognition.models(),
            lanes: recognition.lanes(),
            metrics: Arc::clone(metrics),
            max_result_bytes: args.max_video_result_bytes,
        };
        let (places, leaving) = (args.video_jobs, self.leaving.subscribe());
        self.running = Some(tokio::spawn(async move { runner.run(places, &leaving).await }));
    }
}

/// Takes leave of what video jobs a process has.
pub async fn leave(jobs: Option<VideoJobs>, limit: Duration) {
    if let Some(jobs) = jobs {
        jobs.leave(limit).await;
    }
}
