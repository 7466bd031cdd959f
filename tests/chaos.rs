//! Faults of what a service stands on: frozen processes, lost servers, full disks, no memory, a clock that jumps.
//!
//! Real processes, real signals. What was accepted must come to its end, who is refused must be told so with a code, and
//! what has nothing to do with the fault must go on. Each test says how long it took; docs/weather.md has the table.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::cluster::{Process, find, next_message, vigie};
use common::outside::{Bucket, Nats, signal};
use common::process::{Reply, request};
use serde_json::Value;
use vigie::load::clip::Clip;
use vigie::load::publisher::{PublisherConfig, publish};

const TOKEN: &str = "a-token-of-the-tests-own";
/// Longer than any job takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
/// As long as a machine that pages, or a virtual one that is moved, stands still.
const FREEZE: Duration = Duration::from_secs(10);

const SLOW: &[&str] = &["--lanes", "1", "--slowdown", "2"];
const QUICK: &[&str] = &["--lanes", "1"];

fn command(role: &[&str], arguments: &[&str]) -> Command {
    let mut command = vigie();
    command.args(role).args(arguments).env("VIGIE_CLUSTER_TOKEN", TOKEN);
    command
}

fn worker(arguments: &[&str]) -> Command {
    command(&["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0"], arguments)
}

fn front(workers: &[&Process]) -> Command {
    let workers: Vec<String> = workers.iter().map(|worker| worker.address.to_string()).collect();
    command(&["signal", "--listen", "127.0.0.1:0", "--workers", &workers.join(",")], &[])
}

fn serve(arguments: &[&str]) -> Command {
    command(&["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0"], arguments)
}

/// A film of a face, ten pictures a second.
fn film(folder: &Path, seconds: &str) -> Vec<u8> {
    let picture = common::data("pictures/astronaut.jpg");
    let input = ["-loop", "1", "-r", "10", "-i", picture.to_str().unwrap()];
    encoded(folder, &input, &["-t", seconds, "-vf", "scale=256:256", "-preset", "ultrafast"])
}

fn encoded(folder: &Path, input: &[&str], options: &[&str]) -> Vec<u8> {
    let path = folder.join("film.mp4");
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y"]).args(input).args(["-c:v", "libx264"]).args(options).arg(&path);
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    std::fs::read(path).unwrap()
}

fn post(address: SocketAddr, film: &[u8]) -> Reply {
    request(address, "POST", "/api/videos?every=5", &[("Content-Type", "video/mp4")], film)
}

/// The id of a job that was accepted.
fn submit(address: SocketAddr, film: &[u8]) -> String {
    find("the video is taken", || {
        let reply = post(address, film);
        let is_queued = reply.status == 201;
        is_queued.then(|| reply.json()["id"].as_str().unwrap().to_owned())
    })
}

/// The job's record, when the store can be asked.
fn job(address: SocketAddr, id: &str) -> Option<Value> {
    let reply = request(address, "GET", &format!("/api/videos/{id}"), &[], &[]);
    (reply.status == 200).then(|| reply.json())
}

fn underway(address: SocketAddr, id: &str) {
    find("the job is under way", || (job(address, id)?["progress"]["frames"].as_u64()? > 0).then_some(()));
}

fn ended(address: SocketAddr, id: &str) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let job = job(address, id);
        if let Some(job) = &job
            && !["queued", "running"].contains(&job["state"].as_str().unwrap())
        {
            return job.clone();
        }
        assert!(Instant::now() < deadline, "the job has not ended: {job:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn recognises(address: SocketAddr) {
    let picture = std::fs::read(common::data("pictures/astronaut.jpg")).unwrap();
    let reply = request(address, "POST", "/predict", &[], &picture);
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
}

fn publisher(server: SocketAddr, duration: Duration) -> PublisherConfig {
    let clip = Arc::new(Clip::built_in());
    let settings = Value::Null;
    PublisherConfig {
        server: server.into(),
        clip,
        rate: 15.0,
        duration,
        settings,
        stop_at_first_report: false,
        reads_counter: false,
    }
}

/// Somebody who wants to see one result, however long that takes on a busy machine.
async fn sees_results(server: SocketAddr) -> bool {
    let config = PublisherConfig { stop_at_first_report: true, ..publisher(server, Duration::from_secs(90)) };
    publish(config).await.is_ok_and(|outcome| !outcome.reports.is_empty())
}

fn code(reply: &Reply) -> String {
    reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_while_a_worker_stands_still_is_led_to_another() {
    let named = |name| Process::start(&mut worker(&["--lanes", "1", "--name", name]));
    let (frozen, other) = (named("frozen"), named("other"));
    let front = Process::start(&mut front(&[&frozen, &other]));
    signal(&frozen.child, "STOP");
    let stopped = Instant::now();
    let mut slowest = Duration::ZERO;
    while stopped.elapsed() < FREEZE {
        let asked = Instant::now();
        let mut socket = front.socket("").await.unwrap();
        let welcome = next_message(&mut socket).await;
        assert!(welcome["session"].as_str().unwrap().starts_with("other."), "{welcome}");
        slowest = slowest.max(asked.elapsed());
        recognises(front.address);
    }
    signal(&frozen.child, "CONT");
    let woken = Instant::now();
    find("the front knows it again", || {
        front.get("/metrics").contains("vigie_workers{state=\"admitting\"} 2").then_some(())
    });
    eprintln!(
        "a frozen worker: the slowest join took {slowest:?}; it was back {:?} after it woke",
        woken.elapsed()
    );
    assert!(sees_results(front.address).await);
}

#[test]
fn a_store_that_does_not_answer_costs_no_accepted_job() {
    let (bucket, inputs) = (Bucket::start(), tempfile::tempdir().unwrap());
    let mut command = serve(SLOW);
    bucket.give(&mut command);
    let service = Process::start(&mut command);
    let film = film(inputs.path(), "6");
    let (first, second) = (submit(service.address, &film), submit(service.address, &film));
    underway(service.address, &first);
    signal(&bucket.child, "STOP");
    let stopped = Instant::now();
    // What needs no store goes on.
    recognises(service.address);
    let refused = post(service.address, &film);
    let told = stopped.elapsed();
    assert_eq!(refused.status, 503, "{}", String::from_utf8_lossy(&refused.body));
    assert!(!code(&refused).is_empty());
    assert!(service.is_ready(), "live sessions need no store");
    recognises(service.address);
    signal(&bucket.child, "CONT");
    let back = Instant::now();
    for id in [&first, &second] {
        let job = ended(service.address, id);
        assert_eq!(job["state"], "done", "{job}");
    }
    eprintln!(
        "a store that does not answer: refused with {} after {told:?}; both jobs done {:?} after it did",
        code(&refused),
        back.elapsed()
    );
}

#[test]
fn a_queue_that_is_killed_costs_no_accepted_job() {
    let (mut nats, inputs) = (Nats::start(), tempfile::tempdir().unwrap());
    let store = inputs.path().join("store").display().to_string();
    let shared = ["--store", &store, "--nats-url", &nats.url];
    let one = Process::start(&mut worker(&[SLOW, &shared].concat()));
    let service = Process::start(front(&[&one]).args(shared));
    let film = film(inputs.path(), "6");
    let (first, second) = (submit(service.address, &film), submit(service.address, &film));
    underway(service.address, &first);
    nats.kill();
    let killed = Instant::now();
    // Soon nobody is told that a job was taken which is not.
    let refused =
        find("it is noticed", || Some(post(service.address, &film)).filter(|reply| reply.status != 201));
    let told = killed.elapsed();
    assert_eq!(refused.status, 503, "{}", String::from_utf8_lossy(&refused.body));
    recognises(service.address);
    nats.restart();
    let back = Instant::now();
    for id in [&first, &second] {
        let job = ended(service.address, id);
        assert_eq!(job["state"], "done", "{job}");
    }
    eprintln!(
        "a queue that is killed: refused with {} after {told:?}; both jobs done {:?} after it was back",
        code(&refused),
        back.elapsed()
    );
    let id = submit(service.address, &film);
    assert_eq!(ended(service.address, &id)["state"], "done");
}

#[test]
fn a_disk_that_fills_during_a_job_is_told_and_the_service_goes_on() {
    let inputs = tempfile::tempdir().unwrap();
    let store = inputs.path().join("store");
    std::fs::create_dir(&store).unwrap();
    // A third as large as what will be written of it.
    let moving = ["-f", "lavfi", "-i", "testsrc2=size=480x360:rate=10"];
    let film = encoded(inputs.path(), &moving, &["-t", "6", "-preset", "slow", "-crf", "40"]);
    // A file system of its own, with room for the film and half of that.
    let mount = format!("mount -t tmpfs -o size={} none \"$0\" && exec \"$@\"", film.len() + (96 << 10));
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", &mount]).arg(&store);
    command.args([env!("CARGO_BIN_EXE_vigie"), "serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0"]);
    command.arg("--store").arg(&store).args(QUICK);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let service = Process::start(&mut command);
    let id = submit(service.address, &film);
    let job = ended(service.address, &id);
    recognises(service.address);
    assert!(service.is_ready());
    eprintln!("a disk that fills: the job ends as {} {}", job["state"], job["error"]);
    // Space may come back: it is tried again, and then fails with the reason.
    assert_eq!(
        (job["state"].as_str(), job["error"]["code"].as_str(), job["tries"].as_u64()),
        (Some("failed"), Some("store_full"), Some(3)),
        "{job}"
    );
    assert!(job["error"]["message"].as_str().unwrap().contains("has no room for its results"), "{job}");
    let scratch = format!("/proc/{}/root{}/scratch", service.child.id(), store.display());
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0, "nothing is left of the tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_memory_takes_nobody_along() {
    let named = |name| Process::start(&mut worker(&["--lanes", "1", "--name", name]));
    let (mut short, other) = (named("short"), named("other"));
    let service = Process::start(&mut front(&[&short, &other]));
    let status = std::fs::read_to_string(format!("/proc/{}/status", short.child.id())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    // What it has it keeps; more it does not get.
    let limit = format!("--as={}", (kib + 8 * 1024) * 1024);
    let pid = short.child.id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    // Until it has been asked for more than there is, or has refused.
    let (mut seen, mut ended) = (0, false);
    for _ in 0..8 {
        seen += usize::from(sees_results(service.address).await);
        ended = short.child.try_wait().unwrap().is_some();
    }
    eprintln!(
        "a worker without memory: it {}; {seen} of 8 visits saw results",
        if ended { "ended" } else { "lived on" }
    );
    assert!(seen >= 2, "{seen} of 8 visits saw results");
    if ended {
        assert!(service.is_ready());
    }
    recognises(service.address);
    assert!(sees_results(service.address).await);
}

#[test]
fn a_device_that_cannot_be_used_is_told_and_the_processor_serves() {
    let service = Process::start(&mut serve(&["--lanes", "1", "--device", "cuda:7"]));
    recognises(service.address);
    let metrics = service.get("/metrics");
    assert!(metrics.contains("vigie_inference_device{device=\"cpu\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_disturbs_no_session_and_no_job() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    assert!(Path::new(library).exists(), "Debian's libfaketime is installed");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    // Written whole: the library reads it at every look at the clock.
    let set = |offset: &str| {
        std::fs::write(folder.path().join("next"), offset).unwrap();
        std::fs::rename(folder.path().join("next"), &clock).unwrap();
    };
    set("+0");
    let store = folder.path().join("store").display().to_string();
    let mut command = serve(&["--lanes", "1", "--store", &store]);
    // Only the wall clock: the monotonic one never jumps, whatever somebody sets.
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    command.envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
    let service = Process::start(&mut command);
    let session = tokio::spawn(publish(publisher(service.address, Duration::from_secs(9))));
    let film = film(folder.path(), "6");
    let id = submit(service.address, &film);
    for offset in ["+3h", "-3h", "+0"] {
        let before = service.metric("vigie_sessions_total");
        set(offset);
        recognises(service.address);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(service.metric("vigie_sessions_total"), before, "nobody had to come back");
    }
    assert_eq!(ended(service.address, &id)["state"], "done");
    let outcome = session.await.unwrap().unwrap();
    let times: Vec<Duration> = outcome.reports.iter().map(|report| report.at).collect();
    assert!(!times.is_empty(), "no result came");
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    eprintln!("a clock that jumps: {} reports, the longest pause {longest:?}", times.len());
}
