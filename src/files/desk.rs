//! The threads that recognise posted pictures: a bounded queue before them, the lanes behind them.
//!
//! They run at the lanes' low priority and ask the lanes in their own name, so that live sessions keep
//! their turns however many pictures are posted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::image::{self, EncodeError, Format, ImageError};
use super::still::{self, StillReport, Wanted};
use crate::inference::engine::EngineError;
use crate::inference::service::{Handle, lower_priority};
use crate::pipeline::recognise::{Model, ModelSet, RecogniseError, Recogniser};
use crate::telemetry::metrics::Metrics;

/// Pictures that wait, beside those at work; more are refused.
const QUEUE: usize = 64;

/// Threads that ask the lanes under one number; together they stay below what an asker may have waiting.
const THREADS_PER_ASKER: usize = 4;

/// Sessions count from 1, so that no number is used twice.
const FIRST_ASKER: u64 = 1 << 63;

/// Why a picture was not recognised.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("the picture is not readable")]
    Image(#[from] ImageError),
    #[error("the picture was not recognised")]
    Recognise(#[from] RecogniseError),
    #[error("the result could not be written")]
    Encode(#[from] EncodeError),
    #[error("{asked:?} is not in use: there are {}", in_use.join(", "))]
    UnknownModel {
        asked: String,
        /// `name@version`.
        in_use: Vec<String>,
    },
    #[error("{QUEUE} pictures wait already")]
    Full,
    #[error("the service is stopping")]
    Stopped,
    #[error("recognising the picture failed by a fault of vigie's own")]
    Panicked,
}

impl DeskError {
    /// Whether trying again later may help.
    pub fn is_busy(&self) -> bool {
        let overloaded =
            matches!(self, Self::Recognise(RecogniseError::Infer { source: EngineError::Overloaded, .. }));
        overloaded || matches!(self, Self::Full | Self::Stopped)
    }
}

/// One picture to recognise.
pub struct Order {
    pub bytes: Bytes,
    pub wanted: Wanted,
    /// `name` or `name@version` of models that must be the ones in use.
    pub models: Vec<String>,
    /// What to draw the result on; without it the report is the answer.
    pub annotated: Option<Format>,
}

/// The answer to an order.
#[derive(Debug)]
pub enum Answer {
    Report(Box<StillReport>),
    Annotated(Vec<u8>),
}

type Outcome = Result<Answer, DeskError>;

struct Job {
    order: Order,
    answer: oneshot::Sender<Outcome>,
}

/// Takes pictures in and answers. Dropping it ends its threads after the picture that each has at work.
pub struct Desk {
    /// `None` only while it is dropped.
    queue: Option<SyncSender<Job>>,
    models: ModelSet,
    threads: Vec<JoinHandle<()>>,
}

impl Desk {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    /// The operating system's, when it has no thread to give.
    pub fn start(
        threads: usize,
        handle: &Handle,
        models: &ModelSet,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut desk = Self { queue: Some(queue), models: models.clone(), threads: Vec::new() };
        for index in 0..threads.max(1) {
            let asker = FIRST_ASKER + (index / THREADS_PER_ASKER) as u64;
            let clerk = Clerk {
                recogniser: Recogniser::new(handle.clone(), models.clone(), asker),
                metrics: Arc::clone(metrics),
            };
            let jobs = Arc::clone(&jobs);
            let thread = std::thread::Builder::new().name(format!("picture-{index}"));
            desk.threads.push(thread.spawn(move || clerk.run(&jobs))?);
        }
        Ok(desk)
    }

    /// Has a picture recognised.
    ///
    /// Dropping the future withdraws the picture if its turn has not come.
    ///
    /// # Errors
    /// [`DeskError::Full`] and [`DeskError::UnknownModel`] at once.
    pub async fn recognise(&self, order: Order) -> Outcome {
        self.check_models(&order.models)?;
        let (answer, outcome) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(DeskError::Stopped)?;
        queue.try_send(Job { order, answer }).map_err(|error| match error {
            TrySendError::Full(_) => DeskError::Full,
            TrySendError::Disconnected(_) => DeskError::Stopped,
        })?;
        outcome.await.unwrap_or(Err(DeskError::Stopped))
    }
}

impl Desk {
    fn check_models(&self, asked: &[String]) -> Result<(), DeskError> {
        let loaded: Vec<Model> = self.models.list().into_iter().map(|(_, model)| model).collect();
        let full = |model: &Model| model.version().to_string();
        let is_used =
            |asked: &str| loaded.iter().any(|model| asked == model.manifest.name || asked == full(model));
        match asked.iter().find(|asked| !is_used(asked)) {
            None => Ok(()),
            Some(asked) => Err(DeskError::UnknownModel {
                asked: asked.clone(),
                in_use: loaded.iter().map(full).collect(),
            }),
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One thread's part.
struct Clerk {
    recogniser: Recogniser,
    metrics: Arc<Metrics>,
}

impl Clerk {
    fn run(mut self, jobs: &Mutex<Receiver<Job>>) {
        lower_priority();
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { order, answer }) = next else { return };
            if answer.is_closed() {
                self.count("withdrawn");
                continue;
            }
            // Decoders of other people's formats must not take the thread with them.
            let done = catch_unwind(AssertUnwindSafe(|| self.serve(&order)));
            let outcome = done.unwrap_or(Err(DeskError::Panicked));
            self.count(match &outcome {
                Ok(_) => "recognised",
                Err(DeskError::Image(_)) => "unreadable",
                Err(_) => "failed",
            });
            // The asker may have gone meanwhile.
            let _ = answer.send(outcome);
        }
    }

    fn serve(&mut self, order: &Order) -> Outcome {
        let picture = image::decode(&order.bytes)?;
        let recognised = still::recognise(&mut self.recogniser, &picture, &order.wanted)?;
        for detection in &recognised.report.detections {
            self.metrics.detections_total.with_label_values(&[detection.kind.name()]).inc();
        }
        let timings = recognised.report.timings_ms;
        for (stage, ms) in [
            ("decode", timings.decode),
            ("prepare", timings.prepare),
            ("infer", timings.infer),
            ("total", timings.total),
        ] {
            let seconds = self.metrics.picture_seconds.with_label_values(&[stage]);
            seconds.observe(f64::from(ms) / 1000.0);
        }
        match order.annotated {
            None => Ok(Answer::Report(Box::new(recognised.report))),
            Some(format) => {
                let annotated = recognised.annotated(&picture);
                drop(picture);
                Ok(Answer::Annotated(image::encode(&annotated, format)?))
            }
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.pictures_total.with_label_values(&[outcome]).inc();
    }
}
