//! The job queue in this process and on a real nats-server, by the same tests; and what only NATS has to stand.

#![allow(clippy::unwrap_used, reason = "a test that cannot reach its queue has failed")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use common::cluster::eventually;
use common::outside::Nats;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use vigie::blobs::Blobs;
use vigie::jobs::id::JobId;
use vigie::jobs::queue::{Delivery, Depth, Options, Queue, QueueError};
use vigie::jobs::record::{self, Job, State, Upload};
use vigie::jobs::service::Jobs;
use vigie::jobs::tus::TusError;
use vigie::telemetry::metrics::Metrics;

/// Longer than a loaded machine stalls, shorter than anybody's patience.
const ACK_WAIT: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { ack_wait: ACK_WAIT, max_tries: 3, capacity: 50 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_in_this_process_keeps_its_promises() {
    let queue = Queue::local(options());
    keeps_promises(&queue, &queue.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_over_nats_keeps_its_promises() {
    let server = Nats::start();
    keeps_promises(&connect(&server).await, &connect(&server).await).await;
}

/// `one` and `other` are handles of the same queue, over NATS of different connections.
async fn keeps_promises(one: &Queue, other: &Queue) {
    one.ready().unwrap();
    several_takers_share_the_work(one, other).await;
    tries_are_counted(one, other).await;
    what_is_given_back_was_no_try(one, other).await;
    who_goes_without_a_word_is_followed(one, other).await;
    a_full_queue_refuses(one, other).await;
}

async fn several_takers_share_the_work(one: &Queue, other: &Queue) {
    let jobs: Vec<JobId> = (0..40).map(|_| JobId::random()).collect();
    let (seen, mut sightings) = tokio::sync::mpsc::channel(100);
    let mut takers = JoinSet::new();
    for n in 0..6 {
        let queue = if n % 2 == 0 { one.clone() } else { other.clone() };
        let seen = seen.clone();
        takers.spawn(async move {
            loop {
                let delivery = queue.take().await;
                seen.send((delivery.job, delivery.tries)).await.unwrap();
                sleep(Duration::from_millis(5)).await;
                delivery.done().await.unwrap();
            }
        });
    }
    for job in &jobs {
        one.push(*job, 0).await.unwrap();
    }
    let mut counts = BTreeMap::new();
    for _ in &jobs {
        let (job, tries) = timeout(LONG, sightings.recv()).await.unwrap().unwrap();
        assert_eq!(tries, 1);
        *counts.entry(job).or_insert(0) += 1;
    }
    empties(other).await;
    takers.shutdown().await;
    assert!(sightings.try_recv().is_err(), "something was done twice");
    assert_eq!(counts, jobs.iter().map(|job| (*job, 1)).collect());
}

async fn tries_are_counted(one: &Queue, other: &Queue) {
    let job = JobId::random();
    one.push(job, 0).await.unwrap();
    for (try_, queue) in [(1, one), (2, other), (3, one)] {
        let delivery = taken(queue).await;
        assert_eq!((delivery.job, delivery.tries, delivery.spent()), (job, try_, false));
        assert_eq!(one.depth().await.unwrap(), Depth { waiting: 0, taken: 1 });
        delivery.retry(Duration::from_millis(50)).await;
    }
    let delivery = taken(other).await;
    assert_eq!((delivery.job, delivery.tries, delivery.spent()), (job, 4, true));
    delivery.park("no picture in it").await.unwrap();
    empties(one).await;

    // As after a restart, when the job's record says how often it was tried.
    one.push(job, 2).await.unwrap();
    let delivery = taken(other).await;
    assert_eq!((delivery.tries, delivery.spent()), (3, false));
    delivery.retry(Duration::ZERO).await;
    let delivery = taken(one).await;
    assert!(delivery.spent());
    delivery.park("no picture in it").await.unwrap();
    empties(one).await;
}

async fn what_is_given_back_was_no_try(one: &Queue, other: &Queue) {
    let job = JobId::random();
    one.push(job, 1).await.unwrap();
    for queue in [one, other, one, other, one] {
        let delivery = taken(queue).await;
        assert_eq!((delivery.job, delivery.tries, delivery.spent()), (job, 2, false));
        delivery.give_back().await;
    }
    taken(other).await.done().await.unwrap();
    empties(one).await;
}

async fn who_goes_without_a_word_is_followed(one: &Queue, other: &Queue) {
    let job = JobId::random();
    one.push(job, 0).await.unwrap();
    let delivery = taken(one).await;
    let fell = tokio::spawn(async move {
        let _held = delivery;
        panic!("a taker fell over, as this test wants it to");
    });
    assert!(fell.await.unwrap_err().is_panic());
    let delivery = taken(other).await;
    assert_eq!((delivery.job, delivery.tries), (job, 2));
    delivery.done().await.unwrap();

    // Who stops waiting takes nothing along, not even when a job was on its way.
    for n in 0..20 {
        let waiting = tokio::spawn({
            let queue = other.clone();
            async move { queue.take().await }
        });
        sleep(Duration::from_millis(n)).await;
        one.push(job, 0).await.unwrap();
        waiting.abort();
        let delivery = match waiting.await {
            Ok(delivery) => delivery,
            Err(_) => taken(one).await,
        };
        assert_eq!((delivery.job, delivery.tries), (job, 1));
        delivery.done().await.unwrap();
    }
    empties(one).await;
}

async fn a_full_queue_refuses(one: &Queue, other: &Queue) {
    for _ in 0..options().capacity {
        one.push(JobId::random(), 0).await.unwrap();
    }
    // Also to whoever has not pushed: a video is refused before it is sent.
    for queue in [one, other] {
        let is_full = || matches!(queue.ready(), Err(QueueError::Full { capacity: 50 }));
        eventually("it is known to be full", is_full).await;
    }
    let held = taken(other).await;
    for queue in [one, other] {
        let refused = queue.push(JobId::random(), 0).await;
        assert!(matches!(refused, Err(QueueError::Full { capacity: 50 })), "{refused:?}");
    }
    held.done().await.unwrap();
    one.push(JobId::random(), 0).await.unwrap();
    for _ in 0..options().capacity {
        taken(other).await.done().await.unwrap();
    }
    empties(one).await;
    for queue in [one, other] {
        eventually("it is known to have room", || queue.ready().is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_queue_has_lost_is_queued_again_and_no_other() {
    let (server, folder) = (Nats::start(), tempfile::tempdir().unwrap());
    let queue = connect(&server).await;
    let jobs = jobs(folder.path(), &queue, LONG);
    let waiting = keep(&jobs, State::Queued, 0, 2).await;
    let running = keep(&jobs, State::Running, 1, 2).await;
    for (state, hours) in [(State::Queued, 0), (State::Running, 0), (State::Failed, 2)] {
        keep(&jobs, state, 1, hours).await;
    }
    // As long as something waits, they may be what waits.
    let next = JobId::random();
    queue.push(next, 0).await.unwrap();
    becomes(&queue, Depth { waiting: 1, taken: 0 }).await;
    jobs.sweep().await.unwrap();
    let delivery = taken(&queue).await;
    assert_eq!(delivery.job, next);
    delivery.done().await.unwrap();
    empties(&queue).await;

    jobs.sweep().await.unwrap();
    let mut queued = BTreeMap::new();
    for _ in 0..2 {
        let delivery = taken(&queue).await;
        queued.insert(delivery.job, delivery.tries);
        assert_eq!(jobs.find(delivery.job).await.unwrap().state, State::Queued);
        delivery.done().await.unwrap();
    }
    assert_eq!(queued, BTreeMap::from([(waiting, 1), (running, 2)]));
    empties(&queue).await;

    // Once: what comes next is what is pushed next.
    jobs.sweep().await.unwrap();
    queue.push(next, 0).await.unwrap();
    assert_eq!(taken(&queue).await.job, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_goes_on_where_the_queue_takes_nothing() {
    let (server, folder) = (Nats::start(), tempfile::tempdir().unwrap());
    let queue = Queue::nats(&server.url, Options { capacity: 1, ..options() }).await.unwrap();
    eventually("the queue is ready", || queue.ready().is_ok()).await;
    queue.push(JobId::random(), 0).await.unwrap();
    // Full, and nothing waits.
    let _held = taken(&queue).await;
    becomes(&queue, Depth { waiting: 0, taken: 1 }).await;
    let jobs = jobs(folder.path(), &queue, Duration::ZERO);
    keep(&jobs, State::Queued, 0, 2).await;
    let wanted = record::Options::read(None, None, None).unwrap();
    let (expired, _) = jobs.announce(1, "film", wanted).await.unwrap();
    jobs.sweep().await.unwrap();
    assert!(matches!(jobs.announced(expired).await, Err(TusError::Unknown)));
}

/// The jobs of a store in this folder.
fn jobs(folder: &Path, queue: &Queue, expiry: Duration) -> Jobs {
    let blobs = Blobs::open(folder.to_str().unwrap()).unwrap();
    Jobs::new(blobs, queue.clone(), expiry, Arc::new(Metrics::new()))
}

/// Keeps the record of a job that was last written so many hours ago.
async fn keep(jobs: &Jobs, state: State, tries: u32, hours: u64) -> JobId {
    let upload = Upload { bytes: 1, sha256: "00".repeat(32) };
    let wanted = record::Options::read(None, None, None).unwrap();
    let written = Utc::now() - Duration::from_secs(hours * 3600);
    let a_day = Duration::from_secs(24 * 3600);
    let mut job = Job::new(JobId::random(), &upload, "film", wanted, written, a_day);
    (job.state, job.tries) = (state, tries);
    let text = serde_json::to_vec(&job).unwrap();
    jobs.blobs().create(&format!("jobs/{}/job.json", job.id), text.into()).await.unwrap();
    job.id
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_working_keeps_a_job_for_as_long_as_it_takes() {
    let server = Nats::start();
    let (one, other) = (connect(&server).await, connect(&server).await);
    let job = JobId::random();
    one.push(job, 0).await.unwrap();
    let delivery = taken(&one).await;
    let until = Instant::now() + 3 * ACK_WAIT;
    let working = async {
        while Instant::now() < until {
            delivery.working().await;
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = working => {}
        second = other.take() => panic!("{} was given to two", second.job),
    }
    assert_eq!(other.depth().await.unwrap(), Depth { waiting: 0, taken: 1 });

    // And who hangs loses it, though its process lives and its connection stands.
    let second = taken(&other).await;
    assert_eq!((second.job, second.tries), (job, 2));
    // What the first one did is done nevertheless.
    delivery.done().await.unwrap();
    empties(&other).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_job_goes_to_another_until_it_killed_three() {
    let server = Nats::start();
    let queue = connect(&server).await;
    let job = JobId::random();
    queue.push(job, 0).await.unwrap();
    for try_ in 1..=3 {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command.args(["--exact", "take_and_hang", "--nocapture"]).env("VIGIE_TEST_NATS", &server.url);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = tokio::task::block_in_place(|| lines.find(|line| line.contains("took")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(line.unwrap().split("took ").nth(1), Some(format!("{job} {try_}").as_str()));
    }
    let delivery = taken(&queue).await;
    assert_eq!((delivery.job, delivery.tries, delivery.spent()), (job, 4, true));
    delivery.park("ended its worker three times").await.unwrap();
    empties(&queue).await;
    // Nothing comes any more, however long one waits.
    assert!(timeout(2 * ACK_WAIT, queue.take()).await.is_err());
}

/// A worker of the test above, in a process of its own; it is killed.
#[tokio::test]
async fn take_and_hang() {
    let Ok(url) = std::env::var("VIGIE_TEST_NATS") else { return };
    let queue = Queue::nats(&url, options()).await.unwrap();
    let delivery = taken(&queue).await;
    println!("took {} {}", delivery.job, delivery.tries);
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_has_lost_nothing() {
    let mut server = Nats::start();
    let queue = connect(&server).await;
    let jobs: Vec<JobId> = (0..5).map(|_| JobId::random()).collect();
    for job in &jobs {
        queue.push(*job, 0).await.unwrap();
    }
    let (ended, held) = (taken(&queue).await, taken(&queue).await);
    let held_job = held.job;
    server.kill();
    eventually("the queue is not ready", || queue.ready().is_err()).await;
    let asked = Instant::now();
    let refused = queue.push(JobId::random(), 0).await;
    assert!(matches!(refused, Err(QueueError::Unreachable { .. })), "{refused:?}");
    assert!(queue.depth().await.is_err());
    assert!(asked.elapsed() < LONG, "whoever asks is answered");
    held.working().await;
    // A taker that waits through all of it.
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take().await }
    });

    server.restart();
    eventually("the queue is ready again", || queue.ready().is_ok()).await;
    ended.done().await.unwrap();
    drop(held);
    let mut seen = BTreeMap::new();
    let mut delivery = timeout(LONG, waiting).await.unwrap().unwrap();
    for _ in 0..4 {
        seen.insert(delivery.job, delivery.tries);
        delivery.done().await.unwrap();
        if seen.len() == 4 {
            break;
        }
        delivery = taken(&queue).await;
    }
    empties(&queue).await;
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.keys().all(|job| jobs.contains(job)));
    // A server that is killed may forget that it had handed a job out; it does not forget the job.
    assert!(matches!(seen[&held_job], 1 | 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_is_waited_for() {
    let port = free_port();
    let url = format!("nats://127.0.0.1:{port}");
    let queue = Queue::nats(&url, options()).await.unwrap();
    let Err(QueueError::Unreachable { .. }) = queue.ready() else { panic!("nobody is there") };
    assert!(matches!(queue.push(JobId::random(), 0).await, Err(QueueError::Unreachable { .. })));
    eventually("the reason is told", || says(&queue, &format!("no connection with 127.0.0.1:{port}: ")))
        .await;
    let _server = Nats::start_at(port);
    eventually("the queue is ready", || queue.ready().is_ok()).await;
    let job = JobId::random();
    queue.push(job, 0).await.unwrap();
    assert_eq!(taken(&queue).await.job, job);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_server_is_told() {
    for url in ["", "http://127.0.0.1:4222", "nats://me:secret@", "nats://127.0.0.1:99999"] {
        let Err(error) = Queue::nats(url, options()).await else { panic!("{url} was taken") };
        assert!(matches!(error, QueueError::InvalidUrl { .. }), "{url}: {error:?}");
    }

    let without = Nats::start_with(&[]);
    let queue = Queue::nats(&without.url, options()).await.unwrap();
    eventually("JetStream is missing", || says(&queue, "nats-server -js")).await;

    let closed = Nats::start_with(&["-js", "--user", "vigie", "--pass", "a-secret@"]);
    let address = closed.url.strip_prefix("nats://").unwrap();
    let queue = Queue::nats(&format!("nats://vigie:wrong-secret@{address}"), options()).await.unwrap();
    eventually("the password is wrong", || says(&queue, "authorization")).await;
    assert!(!says(&queue, "secret"));
    let queue = Queue::nats(&format!("nats://vigie:a-secret%40@{address}"), options()).await.unwrap();
    eventually("the password is right", || queue.ready().is_ok()).await;
}

fn says(queue: &Queue, words: &str) -> bool {
    queue.ready().is_err_and(|error| error.to_string().to_lowercase().contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_into_the_stream_hurts_nobody() {
    let server = Nats::start();
    let queue = connect(&server).await;
    let client = async_nats::connect(&server.url).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    for junk in ["", "{}", "{\"job\":\"../../etc\",\"tries\":0}", "\u{0}\u{0}"] {
        jetstream.publish("vigie.jobs", junk.into()).await.unwrap().await.unwrap();
    }
    let job = JobId::random();
    queue.push(job, 0).await.unwrap();
    let delivery = taken(&queue).await;
    assert_eq!(delivery.job, job);
    delivery.done().await.unwrap();
    empties(&queue).await;

    // A stream that is deleted is made anew, and one that is none of ours is left alone.
    jetstream.delete_stream("VIGIE_JOBS").await.unwrap();
    let deadline = Instant::now() + LONG;
    while queue.push(job, 0).await.is_err() {
        assert!(Instant::now() < deadline, "the stream is not made anew");
        sleep(Duration::from_millis(100)).await;
    }
    taken(&queue).await.done().await.unwrap();
    drop(queue);
    jetstream.delete_stream("VIGIE_JOBS").await.unwrap();
    let foreign = async_nats::jetstream::stream::Config {
        name: "VIGIE_JOBS".to_owned(),
        subjects: vec!["somebody.elses".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(foreign).await.unwrap();
    let queue = Queue::nats(&server.url, options()).await.unwrap();
    eventually("the stream is not ours", || says(&queue, "no work queue of vigie.jobs")).await;
}

async fn taken(queue: &Queue) -> Delivery {
    timeout(LONG, queue.take()).await.expect("a job comes")
}

async fn empties(queue: &Queue) {
    becomes(queue, Depth::default()).await;
}

async fn becomes(queue: &Queue, depth: Depth) {
    let deadline = Instant::now() + LONG;
    while queue.depth().await.unwrap() != depth {
        assert!(Instant::now() < deadline, "{:?}", queue.depth().await);
        sleep(Duration::from_millis(20)).await;
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A connection of its own that is ready.
async fn connect(server: &Nats) -> Queue {
    let queue = Queue::nats(&server.url, options()).await.unwrap();
    eventually("the queue is ready", || queue.ready().is_ok()).await;
    queue
}
