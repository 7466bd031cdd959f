//! The threads that read text for live sessions, and a session's end of them.
//!
//! Reading takes a hundred times as long as a picture may: so it is done beside recognition, by fewer threads than there
//! are lanes, at their low priority and in the background of their queue. A session has one piece of work there at a
//! time; what finds no place is asked for again later. What was read joins the tracks, and shows from the next report on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::frame::Picture;
use crate::inference::service::lower_priority;
use crate::mailbox::Latest;
use crate::pipeline::read::{Done, Reading, Work};
use crate::pipeline::recognise::{RecogniseError, Recogniser};
use crate::pipeline::text::Effort;
use crate::pipeline::track::{Answer, Tracker};
use crate::telemetry::metrics::Metrics;

/// Pieces of work that wait; their pictures are kept meanwhile.
const QUEUE: usize = 16;

/// The threads of one worker; clones share them, and they end when the last is dropped.
#[derive(Clone)]
pub struct Readers(Arc<Threads>);

struct Threads {
    /// `None` only while it is dropped.
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Job {
    work: Work,
    picture: Picture,
    recogniser: Recogniser,
    /// Where the answer goes; whose session has ended is not read for.
    answer: Weak<Answers>,
}

/// Nothing comes of what ended in a panic.
type Answers = Latest<Option<(Picture, Result<Done, RecogniseError>)>>;

impl Readers {
    /// Starts as many threads as leave others half of so many lanes, at least one.
    ///
    /// # Errors
    /// The operating system's, when it has no thread to give.
    pub fn start(lanes: usize, metrics: &Arc<Metrics>) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Threads { queue: Some(queue), threads: Vec::new() };
        for index in 0..(lanes / 2).max(1) {
            let (jobs, metrics) = (Arc::clone(&jobs), Arc::clone(metrics));
            // Not by a name that counts as media.
            let thread = std::thread::Builder::new().name(format!("reader-{index}"));
            threads.threads.push(thread.spawn(move || read_all(&jobs, &metrics))?);
        }
        Ok(Self(Arc::new(threads)))
    }

    fn ask(&self, job: Job) -> bool {
        self.0.queue.as_ref().is_some_and(|queue| queue.try_send(job).is_ok())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn read_all(jobs: &Mutex<Receiver<Job>>, metrics: &Metrics) {
    lower_priority();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { work, picture, recogniser, answer }) = next else { return };
        if answer.strong_count() == 0 {
            continue;
        }
        let read = || work.run(&recogniser, &picture, Effort::LIVE);
        // A fault of ours must not take the thread with it.
        let done = catch_unwind(AssertUnwindSafe(read)).ok();
        count(metrics, done.as_ref());
        if let Some(answer) = answer.upgrade() {
            answer.put(done.map(|done| (picture, done)));
        }
    }
}

fn count(metrics: &Metrics, done: Option<&Result<Done, RecogniseError>>) {
    let add = |outcome: &str, count: usize| {
        metrics.text_reads_total.with_label_values(&[outcome]).inc_by(count as u64);
    };
    match done {
        Some(Ok(Done::Found(_))) => add("searched", 1),
        Some(Ok(Done::Read(answers))) => {
            let is_text = |answer: &Answer| matches!(answer, Answer::Label(label, _) if !label.is_empty());
            let read = answers.iter().filter(|(_, answer)| is_text(answer)).count();
            add("read", read);
            add("nothing", answers.len() - read);
        }
        Some(Err(_)) | None => add("failed", 1),
    }
}

/// A session's reading of text; owned by its recognition thread.
pub struct SessionReader {
    readers: Readers,
    recogniser: Recogniser,
    metrics: Arc<Metrics>,
    reading: Reading,
    answers: Arc<Answers>,
    is_under_way: bool,
    /// The time of the last picture that the tracker saw.
    at: Duration,
    is_failing: bool,
}

impl SessionReader {
    /// For the calling thread, which is unparked when something was read; `recogniser` asks in the background.
    pub fn new(readers: Readers, recogniser: Recogniser, metrics: Arc<Metrics>) -> Self {
        let answers = Arc::new(Answers::default());
        answers.listen();
        Self {
            readers,
            recogniser,
            metrics,
            reading: Reading::default(),
            answers,
            is_under_way: false,
            at: Duration::ZERO,
            is_failing: false,
        }
    }

    /// Has the tracker take in what was read meanwhile, and says whether there was anything.
    pub fn collect(&mut self, tracker: &mut Tracker) -> bool {
        let Some(answer) = self.answers.try_take() else { return false };
        self.is_under_way = false;
        match answer {
            None => false,
            Some((picture, Ok(done))) => {
                self.is_failing = false;
                self.reading.take(tracker, picture, done, self.at);
                // Lines that were just found are read in the picture that they were found in.
                self.ask(tracker, None);
                true
            }
            Some((_, Err(error))) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "reading text fails");
                }
                false
            }
        }
    }

    /// Has what is due read in `picture` of media time `at`, the last one that the tracker saw.
    pub fn begin(&mut self, tracker: &mut Tracker, picture: &Picture, at: Duration) {
        self.at = at;
        if !self.is_under_way {
            self.ask(tracker, Some(picture));
        }
    }

    fn ask(&mut self, tracker: &mut Tracker, picture: Option<&Picture>) {
        let Some((picture, work)) = self.reading.next(tracker, picture, self.at) else { return };
        let recogniser = self.recogniser.clone();
        self.is_under_way =
            self.readers.ask(Job { work, picture, recogniser, answer: Arc::downgrade(&self.answers) });
        if !self.is_under_way {
            self.metrics.text_reads_total.with_label_values(&["refused"]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::frame::{I420Buffer, Kind};
    use crate::inference::service::{Options, Service};
    use crate::pipeline::recognise::ModelSet;
    use crate::pipeline::track::{Attribute, Pace, Question, TrackConfig};

    fn whole_picture() -> TrackConfig {
        let pace = Pace::of_reader();
        let question = Question { attribute: Attribute::Text, kind: Kind::Text, class: None, pace };
        TrackConfig { questions: vec![question], ..TrackConfig::default() }
    }

    fn picture() -> Picture {
        I420Buffer::black(64, 48).into_picture(0, Instant::now())
    }

    fn count(metrics: &Metrics, outcome: &str) -> u64 {
        metrics.text_reads_total.with_label_values(&[outcome]).get()
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_asked_for_again() {
        let service = Service::start(Options { lanes: 1, ..Options::default() }, Arc::new(())).unwrap();
        let metrics = Arc::new(Metrics::new());
        let readers = Readers::start(1, &metrics).unwrap();
        // There is no model.
        let recogniser = Recogniser::new(service.handle(), ModelSet::default(), 1);
        let mut reader = SessionReader::new(readers, recogniser, Arc::clone(&metrics));
        let mut tracker = Tracker::new(whole_picture());
        for look in 1..=2 {
            let at = Duration::from_secs(2 * look);
            reader.begin(&mut tracker, &picture(), at);
            assert!(reader.is_under_way);
            // Another picture does not ask twice.
            reader.begin(&mut tracker, &picture(), at + Duration::from_secs(1));
            while reader.is_under_way {
                std::thread::park();
                assert!(!reader.collect(&mut tracker), "nothing was read");
            }
            assert_eq!(count(&metrics, "failed"), look);
        }
        assert_eq!(count(&metrics, "refused"), 0);
    }

    #[test]
    fn a_session_that_has_ended_is_not_read_for_and_a_full_queue_refuses() {
        let service = Service::start(Options { lanes: 1, ..Options::default() }, Arc::new(())).unwrap();
        let metrics = Arc::new(Metrics::new());
        let (queue, jobs) = sync_channel(1);
        let readers = Readers(Arc::new(Threads { queue: Some(queue), threads: Vec::new() }));
        let recogniser = Recogniser::new(service.handle(), ModelSet::default(), 1);
        let session = || SessionReader::new(readers.clone(), recogniser.clone(), Arc::clone(&metrics));
        let mut tracker = Tracker::new(whole_picture());
        let mut first = session();
        first.begin(&mut tracker, &picture(), Duration::ZERO);
        let mut second = session();
        second.begin(&mut tracker, &picture(), Duration::ZERO);
        assert!(first.is_under_way && !second.is_under_way);
        assert_eq!(count(&metrics, "refused"), 1);
        drop((first, second));
        drop(readers);
        let jobs = Mutex::new(jobs);
        read_all(&jobs, &metrics);
        assert_eq!(count(&metrics, "failed"), 0, "nobody was there to be read for");
    }
}
