//! Sessions that come and go for a long time, with pictures, videos and new versions of a model beside them: nothing may be left,
//! and nothing grow.
//!
//! A short turn runs with the other tests; `./test --soak MINUTES` (`VIGIE_SOAK_MINUTES`) makes it long. The figures go to
//! standard error, and as JSON lines to `VIGIE_SOAK_OUT`.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;
#[path = "models/onnx.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod onnx;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::cluster::find;
use common::process::{Service, request, vigie};
use onnx::constant_detector;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vigie::load::clip::Clip;
use vigie::load::publisher::{PublisherConfig, publish};

/// Sessions that stay, besides those that come and go.
const RESIDENTS: usize = 4;
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const PREDICT_EVERY: Duration = Duration::from_secs(2);
const UPLOAD_EVERY: Duration = Duration::from_secs(15);
/// Five thousand in an hour.
const JOIN_EVERY: Duration = Duration::from_millis(700);
/// In a short turn there are six.
const SWAP_EVERY: Duration = Duration::from_secs(60);
/// Recognised frames a second that a resident asks for: many sessions share two cores.
const RATE: f64 = 1.0;
/// What the allocator may keep of pages that have gone, MiB, and for each join, bytes.
const SLACK_MIB: u64 = 48;
/// And what may still be coming to pools and allocators in the first minutes, MiB.
const FILLING_MIB: u64 = 128;
const FILLING_MINUTES: f64 = 5.0;
const BYTES_A_JOIN: u64 = 16 << 10;
/// Descriptors and threads that a pool may have made beside those of the beginning.
const POOL: usize = 24;

/// What a process takes up.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    resident_mib: u64,
    descriptors: usize,
    threads: usize,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { resident_mib: field("VmRSS:") >> 10, descriptors, threads: field("Threads:") as usize }
    }

    fn json(self, seconds: f64) -> Value {
        let Self { resident_mib, descriptors, threads } = self;
        json!({ "seconds": seconds, "resident_mib": resident_mib, "descriptors": descriptors, "threads": threads })
    }
}

#[derive(Default)]
struct Counts {
    joins: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    reports: AtomicU64,
    pictures: AtomicU64,
    videos: AtomicU64,
    swaps: AtomicU64,
    is_over: AtomicBool,
}

impl Counts {
    fn add(&self, count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits so long, or until it is over.
    fn rest(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end && !self.is_over() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn visitor(server: SocketAddr, clip: &Arc<Clip>, duration: Duration, stops: bool) -> PublisherConfig {
    PublisherConfig {
        server: server.into(),
        clip: Arc::clone(clip),
        rate: 10.0,
        duration,
        settings: json!({ "max_rate": RATE }),
        stop_at_first_report: stops,
        reads_counter: false,
    }
}

/// One visit; a full service may refuse it.
async fn visit(config: PublisherConfig, counts: &Counts) {
    match publish(config).await {
        Ok(outcome) => {
            counts.add(&counts.joins);
            counts.reports.fetch_add(outcome.reports.len() as u64, Ordering::Relaxed);
        }
        Err(error) if error.code() == "busy" => counts.add(&counts.refused),
        Err(error) => {
            eprintln!("a visit failed: {error}");
            counts.add(&counts.failed);
        }
    }
}

fn predict(address: SocketAddr, counts: &Counts) {
    let picture = std::fs::read(common::data("pictures/astronaut.jpg")).unwrap();
    while !counts.is_over() {
        let reply = request(address, "POST", "/predict", &[], &picture);
        assert!([200, 503].contains(&reply.status), "{}", String::from_utf8_lossy(&reply.body));
        counts.add(&counts.pictures);
        std::thread::sleep(PREDICT_EVERY);
    }
}

/// Has one video after the other annotated, and deletes each.
fn annotate(address: SocketAddr, film: &[u8], counts: &Counts) {
    while !counts.is_over() {
        let reply = request(address, "POST", "/api/videos?every=5", &[("Content-Type", "video/mp4")], film);
        assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
        let path = format!("/api/videos/{}", reply.json()["id"].as_str().unwrap());
        let job = find("the job has ended", || {
            let job = request(address, "GET", &path, &[], &[]).json();
            (!["queued", "running"].contains(&job["state"].as_str().unwrap())).then_some(job)
        });
        assert_eq!(job["state"], "done", "{job}");
        assert_eq!(request(address, "DELETE", &path, &[], &[]).status, 204);
        counts.add(&counts.videos);
        counts.rest(UPLOAD_EVERY);
    }
}

/// Adds one version after the other of a model and has it serve everybody for a while; then the model that vigie brings serves
/// again, and the version goes.
fn swap(address: SocketAddr, folder: &Path, every: Duration, counts: &Counts) {
    let serves = |model: &str| {
        find(&format!("{model} serves"), || {
            let traffic = request(address, "GET", "/api/traffic", &[], &[]).json();
            traffic["serving"]["objects"]
                .as_str()
                .is_some_and(|serving| serving.starts_with(model))
                .then_some(())
        });
        counts.add(&counts.swaps);
    };
    let json = [("Content-Type", "application/json")];
    let file = folder.join("thing.onnx");
    while !counts.is_over() {
        // Versions are told apart by their content.
        let x = 8.0 + counts.swaps.load(Ordering::Relaxed) as f32 / 64.0;
        let onnx = constant_detector(64, [x, 32.0, 16.0, 16.0, 0.9, 0.0], 0.0, "Identity");
        let onnx = onnx.with_metadata(&[("task", "detect"), ("names", "{0: 'thing', 1: 'other'}")]);
        std::fs::write(&file, onnx.bytes()).unwrap();
        let mut add = vigie();
        add.args(["models", "add", "--json", "--name", "thing", "--to", &format!("http://{address}")])
            .arg(&file);
        let added = add.output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let version = serde_json::from_slice::<Value>(&added.stdout).unwrap()["version"].as_u64().unwrap();
        let model = format!("thing@{version}");
        let wish = json!({ "stable": model }).to_string();
        let reply = request(address, "PUT", "/api/traffic/objects", &json, wish.as_bytes());
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        serves(&model);
        counts.rest(every);
        assert_eq!(request(address, "DELETE", "/api/traffic/objects", &[], &[]).status, 204);
        serves("centernet@");
        assert_eq!(
            request(address, "DELETE", &format!("/api/models/thing/versions/{version}"), &[], &[]).status,
            204
        );
        counts.rest(every);
    }
}

fn film(folder: &Path) -> Vec<u8> {
    let path = folder.join("film.mp4");
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10", "-t", "1"]);
    command.args(["-c:v", "libx264", "-preset", "ultrafast"]).arg(&path);
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    std::fs::read(path).unwrap()
}

/// The gauges that must be zero when everybody has gone.
fn left_over(service: &Service) -> BTreeMap<String, String> {
    let gauges = ["vigie_sessions_active ", "vigie_viewers_active ", "vigie_jobs{"];
    let text = service.get("/metrics");
    let lines = text.lines().filter(|line| gauges.iter().any(|gauge| line.starts_with(gauge)));
    let values = lines.filter_map(|line| line.rsplit_once(' '));
    // Jobs that have ended are counted until they expire.
    let is_left = |name: &str, value: &str| value != "0" && !name.contains("done");
    values.filter(|(name, value)| is_left(name, value)).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_come_and_go_leave_nothing_and_nothing_grows() {
    let minutes = std::env::var("VIGIE_SOAK_MINUTES").map_or(0.3, |text| text.parse::<f64>().unwrap());
    let duration = Duration::from_secs_f64(minutes * 60.0);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store").display().to_string();
    let service =
        Service::start(&["--store", &store, "--max-sessions", "64", "--admit", "count", "--lanes", "1"]);
    let (address, pid) = (service.address, service.child.id());
    let (clip, counts) = (Arc::new(Clip::built_in()), Arc::new(Counts::default()));
    // Models are loaded and pools made when somebody has been there.
    for _ in 0..3 {
        visit(visitor(address, &clip, Duration::from_secs(20), true), &counts).await;
    }
    service.emptied().await;
    let before = Footprint::of(pid);
    let began = Instant::now();
    let mut people = JoinSet::new();
    for _ in 0..RESIDENTS {
        let (clip, counts) = (Arc::clone(&clip), Arc::clone(&counts));
        people.spawn(async move { visit(visitor(address, &clip, duration, false), &counts).await });
    }
    let film = film(folder.path());
    let beside = [
        std::thread::spawn({
            let counts = Arc::clone(&counts);
            move || predict(address, &counts)
        }),
        std::thread::spawn({
            let counts = Arc::clone(&counts);
            move || annotate(address, &film, &counts)
        }),
        std::thread::spawn({
            let (folder, counts) = (folder.path().to_owned(), Arc::clone(&counts));
            move || swap(address, &folder, SWAP_EVERY.min(duration / 6), &counts)
        }),
    ];
    let mut samples: Vec<Footprint> = Vec::new();
    let mut lines = std::env::var_os("VIGIE_SOAK_OUT").map(|path| std::fs::File::create(path).unwrap());
    let mut next_sample = began;
    let mut joining = tokio::time::interval(JOIN_EVERY);
    while began.elapsed() < duration {
        joining.tick().await;
        // Half of them go at their first result, half in the middle of things.
        let stops = counts.joins.load(Ordering::Relaxed) % 2 == 0;
        let (clip, counts) = (Arc::clone(&clip), Arc::clone(&counts));
        people.spawn(
            async move { visit(visitor(address, &clip, Duration::from_secs(3), stops), &counts).await },
        );
        while people.try_join_next().is_some() {}
        if Instant::now() >= next_sample {
            next_sample += SAMPLE_EVERY;
            let sample = Footprint::of(pid);
            if let Some(file) = &mut lines {
                writeln!(file, "{}", sample.json(began.elapsed().as_secs_f64())).unwrap();
            }
            samples.push(sample);
        }
    }
    while people.join_next().await.is_some() {}
    counts.is_over.store(true, Ordering::Relaxed);
    for thread in beside {
        thread.join().unwrap();
    }
    service.emptied().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let (after, left) = (Footprint::of(pid), left_over(&service));
        let is_as_before =
            after.descriptors <= before.descriptors + POOL && after.threads <= before.threads + POOL;
        if left.is_empty() && is_as_before {
            break after;
        }
        assert!(Instant::now() < deadline, "left over: {left:?}; {before:?} before, {after:?} after");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let joins = counts.joins.load(Ordering::Relaxed);
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    // From the first quarter on, when allocators and pools have settled.
    let mean =
        |part: &[Footprint]| part.iter().map(|s| s.resident_mib).sum::<u64>() / part.len().max(1) as u64;
    let quarter = samples.len() / 4;
    let (early, late) = (mean(&samples[quarter..2 * quarter]), mean(&samples[samples.len() - quarter..]));
    eprintln!(
        "{minutes} minutes: {joins} sessions, {} refused, {} failed, {} reports, {} pictures, {} videos, {} swaps of models; \
         {before:?} before, {early} MiB in the second quarter, {late} MiB in the last, {after:?} after",
        count(&counts.refused),
        count(&counts.failed),
        count(&counts.reports),
        count(&counts.pictures),
        count(&counts.videos),
        count(&counts.swaps),
    );
    assert!(joins > RESIDENTS as u64 && count(&counts.pictures) > 0 && count(&counts.videos) > 0);
    assert!(count(&counts.swaps) > 0, "no model was swapped");
    assert_eq!(count(&counts.failed), 0, "visits failed");
    assert_eq!(service.metric("vigie_session_panics_total"), 0.0);
    let filling = if minutes < FILLING_MINUTES { FILLING_MIB } else { 0 };
    let allowed = early + filling + SLACK_MIB + ((joins * BYTES_A_JOIN) >> 20);
    assert!(late <= allowed, "{late} MiB, more than {allowed}: memory grows");
    assert!(after.descriptors <= before.descriptors + POOL && after.threads <= before.threads + POOL);
}
