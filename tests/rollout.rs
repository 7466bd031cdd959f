//! Versions rolled out under live sessions: processes, a store, WebRTC, and graphs whose answers are known.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;
#[path = "models/onnx.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod onnx;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use vigie::blobs::Blobs;
use vigie::load::clip::Clip;
use vigie::load::publisher::{Outcome, PublisherConfig, VisitError, publish};
use vigie::models::manifest::{
    Channels, Fit, FloatFormat, Head, Input, InputFormat, Layout, Manifest, Provenance, Task, Thresholds,
};
use vigie::models::registry::Registry;

use common::cluster::{Process, eventually, next_message, vigie};
use common::process::{Reply, request};
use onnx::{constant, constant_detector, node};

const TOKEN: &str = "the-token-of-the-tests-own-cluster";
const SIDE: i64 = 64;

/// What a graph makes of a picture.
#[derive(Clone, Copy)]
enum Answer {
    /// One thing, always at the same place.
    Thing { x: f32, class: usize },
    /// No numbers.
    Nan,
}

fn graph(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Thing { x, class } => {
            let mut rows = [x, 32.0, 16.0, 16.0, 0.0, 0.0];
            rows[4 + class] = 0.9;
            constant_detector(SIDE, rows, 0.0, "Identity").bytes()
        }
        Answer::Nan => constant_detector(SIDE, [-1.0; 6], -1.0, "Log").bytes(),
    }
}

/// A classifier of crops that says the second of two labels of whatever it sees, with 0.88.
fn classifier() -> Vec<u8> {
    let softmax = node("Softmax", &["sum"], &["output0"]).with_int("axis", 1);
    constant(("crops", &[1, 3, 32, 32]), &[1, 2], &[0.0, 2.0], softmax).bytes()
}

fn manifest(name: &str, labels: [&str; 2]) -> Manifest {
    let format =
        FloatFormat { layout: Layout::Nchw, channels: Channels::Rgb, mean: [0.0; 3], std: [255.0; 3] };
    Manifest {
        name: name.into(),
        version: 1,
        task: Task::Objects,
        labels: labels.map(str::to_owned).to_vec(),
        input: Input {
            name: "images".into(),
            format: InputFormat::Float(format),
            size: SIDE as u32,
            height: None,
            batch: Some(1),
            size_input: None,
            fit: Fit::Stretch,
        },
        head: Head::Yolo,
        thresholds: Thresholds { score: 0.5, iou: 0.5, unsure: None, min_width: 0.0 },
        provenance: Provenance {
            source: "test".into(),
            upstream: "test".into(),
            licence: "test".into(),
            licence_note: String::new(),
        },
        sha256: String::new(),
        trial: None,
    }
}

/// A store with a registry in it.
struct Store {
    folder: TempDir,
}

impl Store {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a version, and returns what it is called.
    async fn add(&self, name: &str, answer: Answer, labels: [&str; 2]) -> String {
        let registry = Registry::new(Blobs::open(self.path().to_str().unwrap()).unwrap());
        let drawn = Bytes::from_static(b"no picture");
        let (added, _) = registry.add(&manifest(name, labels), graph(answer).into(), drawn).await.unwrap();
        format!("{}@{}", added.name, added.version)
    }

    fn serve(&self, arguments: &[&str]) -> Process {
        let mut command = vigie();
        command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--video-jobs", "0"]);
        Process::start(command.args(arguments).env("VIGIE_STORE", self.path()))
    }

    fn worker(&self, name: &str) -> Process {
        let mut command = vigie();
        command.args(["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
        command.args(["--name", name]).env("VIGIE_CLUSTER_TOKEN", TOKEN);
        Process::start(command.env("VIGIE_STORE", self.path()))
    }

    fn front(&self, workers: &[&Process]) -> Process {
        let workers: Vec<String> = workers.iter().map(|worker| worker.address.to_string()).collect();
        let mut command = vigie();
        command.args(["signal", "--listen", "127.0.0.1:0", "--workers", &workers.join(",")]);
        Process::start(command.env("VIGIE_CLUSTER_TOKEN", TOKEN).env("VIGIE_STORE", self.path()))
    }
}

fn send(service: &Process, method: &str, path: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json")];
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    request(service.address, method, path, &headers, &body)
}

/// Sets the traffic of objects.
#[track_caller]
fn put(service: &Process, traffic: &Value) -> Value {
    put_in("objects", service, traffic)
}

/// Sets the traffic of a slot.
#[track_caller]
fn put_in(slot: &str, service: &Process, traffic: &Value) -> Value {
    let reply = send(service, "PUT", &format!("/api/traffic/{slot}"), traffic);
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

fn read(service: &Process, path: &str) -> Value {
    send(service, "GET", path, &Value::Null).json()
}

/// The figures of a version, once there are any.
fn figures(service: &Process, model: &str) -> Value {
    figures_in("objects", service, model)
}

/// The same, of any slot.
fn figures_in(slot: &str, service: &Process, model: &str) -> Value {
    let all = read(service, &format!("/api/traffic/{slot}/figures"));
    all["versions"].as_array().unwrap().iter().find(|v| v["model"] == model).cloned().unwrap_or_default()
}

/// The model that a new session is told of.
async fn welcomed(service: &Process, query: &str) -> String {
    let mut socket = service.socket(query).await.unwrap();
    let welcome = next_message(&mut socket).await;
    welcome["models"]["objects"].as_str().unwrap_or_else(|| panic!("{welcome}")).to_owned()
}

async fn serves(service: &Process, model: &str) {
    eventually(&format!("{model} serves"), || read(service, "/api/traffic")["serving"]["objects"] == model)
        .await;
}

/// Until the test has seen enough.
const LONG: Duration = Duration::from_secs(60);

fn publisher(service: &Process, duration: Duration) -> PublisherConfig {
    PublisherConfig {
        server: service.address.into(),
        clip: Arc::new(Clip::built_in_small()),
        rate: 15.0,
        duration,
        settings: json!({ "tasks": { "faces": false, "gender": false, "objects": true } }),
        stop_at_first_report: false,
        reads_counter: false,
    }
}

type Visit = tokio::task::JoinHandle<Result<Outcome, VisitError>>;

/// What reports say of objects: a session's first pictures may come before its settings, and be looked at for faces too.
fn of_objects(outcome: &Outcome) -> (Vec<&str>, Vec<(&str, &str)>) {
    let is_brought = |model: &str| model.starts_with("blazeface@") || model.starts_with("faceres@");
    let models = outcome.models.keys().map(String::as_str).filter(|model| !is_brought(model));
    let labels = outcome.labels.iter().map(|(model, label)| (model.as_str(), label.as_str()));
    let labels = labels.filter(|(model, label)| !is_brought(model) && *label != "face");
    (models.collect(), labels.collect())
}

/// Sessions that go on for a while.
fn sessions(service: &Process, count: usize, duration: Duration) -> Vec<Visit> {
    (0..count).map(|_| tokio::spawn(publish(publisher(service, duration)))).collect()
}

fn runs(service: &Process, model: &str) -> u64 {
    figures(service, model)["runs"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_drops_no_session_and_tracks_keep_their_names() {
    let store = Store::new();
    let first = store.add("one", Answer::Thing { x: 20.0, class: 0 }, ["lamp", "door"]).await;
    // The same thing at the same place, by labels in another order; and something else.
    let second = store.add("two", Answer::Thing { x: 20.0, class: 1 }, ["door", "lamp"]).await;
    let service = store.serve(&["--lanes", "1"]);
    put(&service, &json!({ "stable": first }));
    serves(&service, &first).await;
    let visits = sessions(&service, 2, Duration::from_secs(12));
    eventually("the first serves both", || figures(&service, &first)["sessions"] == 2).await;
    eventually("the first has run", || runs(&service, &first) > 10).await;

    put(&service, &json!({ "stable": second }));
    eventually("the second serves both", || figures(&service, &second)["sessions"] == 2).await;
    for visit in visits {
        let outcome = visit.await.unwrap().expect("no session ends by a swap");
        let swapped = outcome.models[&second];
        let (models, labels) = of_objects(&outcome);
        assert!(outcome.models[&first] < swapped && models == [&first, &second], "{:?}", outcome.models);
        assert!(outcome.reports.iter().any(|report| report.at > swapped), "reports go on");
        assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
        let expected = [(first.as_str(), "lamp"), (second.as_str(), "lamp")];
        assert_eq!(labels, expected, "what is a lamp stays one");
    }
    // What nobody uses is freed.
    let unloaded = || service.get("/metrics").contains("vigie_model_loads_total{outcome=\"unloaded\"} 2");
    eventually("the default and the first are freed", unloaded).await;

    let taken = send(&service, "DELETE", "/api/traffic/objects", &Value::Null);
    assert_eq!(taken.status, 204);
    eventually("the default is back", || {
        read(&service, "/api/traffic")["serving"]["objects"].as_str().unwrap().starts_with("centernet@")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_shared_out_and_keep_their_side() {
    let store = Store::new();
    let stable = store.add("one", Answer::Thing { x: 20.0, class: 0 }, ["a", "b"]).await;
    let canary = store.add("one", Answer::Thing { x: 30.0, class: 0 }, ["a", "b"]).await;
    let variant = store.add("two", Answer::Thing { x: 40.0, class: 0 }, ["a", "b"]).await;
    assert_eq!(canary, "one@2");
    let (left, right) = (store.worker("left"), store.worker("right"));
    let front = store.front(&[&left, &right]);
    put(
        &front,
        &json!({
            "stable": stable,
            "canary": { "model": canary, "percent": 50 },
            "variants": [{ "model": variant, "attribute": "cohort", "equals": "b" }],
        }),
    );
    let loaded = |worker: &Process| {
        let status = worker.get_with("/control/v1/status", &format!("Authorization: Bearer {TOKEN}\r\n"));
        [&stable, &canary, &variant].iter().all(|model| status.contains(&format!("\"{model}\"")))
    };
    eventually("both workers have all", || loaded(&left) && loaded(&right)).await;

    // One that comes later begins with what the traffic says.
    let late = store.worker("late");
    assert_eq!(welcomed(&store.front(&[&late]), "?attributes=cohort:b").await, variant);
    drop(late);

    let mut sides = Vec::new();
    for number in 0..24 {
        let query = format!("?sticky=tab-{number}");
        let side = welcomed(&front, &query).await;
        // Wherever the next session of the page is opened.
        for _ in 0..3 {
            assert_eq!(welcomed(&front, &query).await, side, "{query}");
        }
        sides.push(side);
    }
    let of_canary = sides.iter().filter(|side| **side == canary).count();
    assert!((4..=20).contains(&of_canary), "{of_canary} of 24 for 50 %");
    assert!(sides.iter().all(|side| *side == canary || *side == stable));
    for (number, side) in sides.iter().enumerate().take(6) {
        assert_eq!(welcomed(&front, &format!("?sticky=tab-{number}&attributes=cohort:b")).await, variant);
        assert_eq!(welcomed(&front, &format!("?sticky=tab-{number}&attributes=cohort:c")).await, *side);
    }
    let mut socket = front.socket("?sticky=tab-1").await.unwrap();
    let welcome = next_message(&mut socket).await;
    let resume = format!("?resume={}", welcome["resume"].as_str().unwrap());
    let mut back = front.socket(&resume).await.unwrap();
    assert_eq!(next_message(&mut back).await["models"], welcome["models"], "who returns sees the same");
    assert!(front.socket("?attributes=no-pair").await.is_err());

    // Promoted, it is everybody's; rolled back, nobody's.
    let promoted =
        send(&front, "POST", "/api/traffic/objects/promote", &json!({ "why": "it is better" })).json();
    assert_eq!((&promoted["stable"], &promoted["previous"]), (&json!(canary), &json!(stable)));
    assert_eq!(promoted["history"][1]["why"], "it is better (an admin)");
    serves(&front, &canary).await;
    let stale = send(&front, "PUT", "/api/traffic/objects", &json!({ "stable": variant, "revision": 1 }));
    assert_eq!((stale.status, &stale.json()["error"]["code"]), (409, &json!("traffic_changed")));
    let again = send(&front, "POST", "/api/traffic/objects/promote", &Value::Null);
    assert_eq!((again.status, &again.json()["error"]["code"]), (409, &json!("nothing_to_promote")));
    send(&front, "POST", "/api/traffic/objects/rollback", &Value::Null);
    serves(&front, &stable).await;
    for number in 0..4 {
        assert_eq!(welcomed(&front, &format!("?sticky=tab-{number}")).await, stable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_compared_and_never_shown() {
    let store = Store::new();
    let stable = store.add("one", Answer::Thing { x: 20.0, class: 0 }, ["lamp", "door"]).await;
    let same = store.add("same", Answer::Thing { x: 20.0, class: 1 }, ["door", "lamp"]).await;
    let other = store.add("other", Answer::Thing { x: 44.0, class: 0 }, ["lamp", "door"]).await;
    let service = store.serve(&["--lanes", "2"]);
    put(&service, &json!({ "stable": stable, "shadow": { "model": same, "percent": 100 } }));
    serves(&service, &stable).await;
    let visits = sessions(&service, 1, Duration::from_secs(14));
    let compared = |model: &str| figures(&service, model)["agreement"]["pictures"].as_u64().unwrap_or(0);
    eventually("the first shadow is compared", || compared(&same) >= 5).await;
    let seen = figures(&service, &same);
    assert_eq!((&seen["role"], &seen["agreement"]["f1"]), (&json!("shadow"), &json!(1.0)), "{seen}");
    assert_eq!(seen["sessions"], 0, "it serves nobody");

    put(&service, &json!({ "stable": stable, "shadow": { "model": other, "percent": 100 } }));
    eventually("the second shadow is compared", || compared(&other) >= 5).await;
    assert_eq!(figures(&service, &other)["agreement"]["f1"], 0.0);
    let agreement = "vigie_shadow_agreement_ratio{model=\"other\",slot=\"objects\",version=\"1\"} 0";
    eventually("its agreement is a metric", || service.get("/metrics").contains(agreement)).await;
    for visit in visits {
        let outcome = visit.await.unwrap().unwrap();
        let (models, labels) = of_objects(&outcome);
        assert_eq!((models, labels), (vec![stable.as_str()], vec![(stable.as_str(), "lamp")]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_classifier_looks_at_the_things_of_its_label() {
    let store = Store::new();
    let detector = store.add("one", Answer::Thing { x: 20.0, class: 0 }, ["lamp", "door"]).await;
    let service = store.serve(&["--lanes", "1"]);
    put(&service, &json!({ "stable": detector }));
    serves(&service, &detector).await;
    let file = store.path().join("classifier.onnx");
    std::fs::write(&file, classifier()).unwrap();
    let url = format!("http://{}", service.address);
    for (name, labels) in [("switch", "off,on"), ("mood", "dull,warm"), ("lock", "shut,open")] {
        let mut command = vigie();
        command.args(["models", "add", file.to_str().unwrap(), "--name", name, "--labels", labels]);
        let output = command.args(["--to", &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let visits = sessions(&service, 1, LONG);
    eventually("the session has begun", || runs(&service, &detector) > 5).await;

    // Under the live session: one looks at lamps, another at doors, of which there is none.
    let of = |slot: &str, model: &str, what: &str| figures_in(slot, &service, model)[what].as_u64();
    put_in("classify:lamp", &service, &json!({ "stable": "switch@1" }));
    put_in("classify:door", &service, &json!({ "stable": "lock@1" }));
    eventually("lamps are classified", || of("classify:lamp", "switch@1", "runs") >= Some(3)).await;
    eventually("doors would be", || of("classify:door", "lock@1", "runs").is_some()).await;
    assert_eq!(of("classify:lamp", "switch@1", "sessions"), Some(1));
    put_in("classify:lamp", &service, &json!({ "stable": "mood@1" }));
    eventually("they are by another", || of("classify:lamp", "mood@1", "runs") >= Some(3)).await;
    assert_eq!(of("classify:lamp", "mood@1", "sessions"), Some(1));
    let tells = |line: &str| service.get("/metrics").contains(line);
    let sessions_of_mood = "vigie_model_sessions{model=\"mood\",version=\"1\"} 1";
    eventually("its metric says so", || tells(sessions_of_mood)).await;
    assert_eq!(of("classify:door", "lock@1", "runs"), Some(0), "no door was there");
    assert_eq!(of("classify:door", "lock@1", "sessions"), Some(0));

    // What is taken away is asked no more, and freed: as are the slot's first, and the default detector.
    assert_eq!(send(&service, "DELETE", "/api/traffic/classify:lamp", &Value::Null).status, 204);
    eventually("it is freed", || tells("vigie_model_loads_total{outcome=\"unloaded\"} 3")).await;
    for visit in visits {
        assert!(!visit.is_finished(), "the session has lived through it all");
        visit.abort();
    }

    // A session that comes later is answered too.
    put_in("classify:lamp", &service, &json!({ "stable": "switch@1" }));
    eventually("lamps are classified again", || of("classify:lamp", "switch@1", "runs").is_some()).await;
    let visits = sessions(&service, 1, Duration::from_secs(6));
    for visit in visits {
        let outcome = visit.await.unwrap().unwrap();
        let answers: Vec<_> =
            outcome.answers.iter().map(|answer| answer.each_ref().map(String::as_str)).collect();
        assert_eq!(answers, [["lamp", "switch", "on"]]);
        assert!(outcome.models.contains_key("switch@1"), "{:?}", outcome.models);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_is_rolled_back() {
    let store = Store::new();
    let stable = store.add("one", Answer::Thing { x: 20.0, class: 0 }, ["lamp", "door"]).await;
    let broken = store.add("broken", Answer::Nan, ["lamp", "door"]).await;
    let service = store.serve(&["--lanes", "1"]);
    put(&service, &json!({ "stable": stable }));
    serves(&service, &stable).await;
    let visits = sessions(&service, 1, LONG);
    eventually("it runs", || runs(&service, &stable) > 5).await;
    let guard = json!({ "max_error_ratio": 0.1, "min_runs": 20 });
    put(
        &service,
        &json!({ "stable": stable, "canary": { "model": broken, "percent": 100 }, "guard": guard }),
    );
    let canary = || read(&service, "/api/traffic/objects")["canary"].is_null();
    eventually("the canary is taken out", canary).await;
    let traffic = read(&service, "/api/traffic/objects");
    let last = traffic["history"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["what"], format!("rolled back {broken}"));
    assert!(last["why"].as_str().unwrap().contains("runs failed, more than 10.0 %"), "{last}");
    assert_eq!(traffic["stable"], json!(stable));
    let before = runs(&service, &stable);
    eventually("the session goes on", || runs(&service, &stable) > before + 5).await;

    // The same as a stable version that came in one step.
    put(&service, &json!({ "stable": broken, "guard": guard }));
    let is_back = || read(&service, "/api/traffic/objects")["stable"] == json!(stable);
    eventually("the stable version is taken back", is_back).await;
    let before = runs(&service, &stable);
    eventually("the session goes on again", || runs(&service, &stable) > before + 5).await;
    assert_eq!(service.metric("vigie_rollbacks_total{slot=\"objects\"}"), 2.0);
    assert!(service.metric("vigie_inference_errors_total{model=\"broken\",version=\"1\"}") >= 4.0);
    for visit in visits {
        assert!(!visit.is_finished(), "the session has lived through it all");
        visit.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_leaves_what_serves() {
    let store = Store::new();
    let good = store.add("one", Answer::Thing { x: 20.0, class: 0 }, ["lamp", "door"]).await;
    let corrupt = store.add("two", Answer::Thing { x: 20.0, class: 0 }, ["lamp", "door"]).await;
    let file = store.path().join("models/two/1/model.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, bytes).unwrap();
    let service = store.serve(&["--lanes", "1"]);
    put(&service, &json!({ "stable": good }));
    serves(&service, &good).await;
    put(&service, &json!({ "stable": corrupt }));
    let failed = || service.get("/metrics").contains("vigie_model_loads_total{outcome=\"failed\"} 1\n");
    eventually("the load has failed", failed).await;
    assert_eq!(welcomed(&service, "").await, good, "what served goes on");
    // A look or two later it has not been tried again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(failed(), "no tight loop");
    let why = read(&service, "/api/traffic")["not_loaded"][&corrupt].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("corrupt"), "{why}");
    assert_eq!(welcomed(&service, "").await, good);

    for (wish, code) in [
        (json!({ "stable": "nobody@1" }), "unknown_version"),
        (json!({ "stable": "blazeface@1" }), "other_task"),
        (json!({ "stable": good, "canary": { "model": good, "percent": 10 } }), "invalid_traffic"),
        (json!({ "stable": good, "canary": { "model": corrupt, "percent": 0 } }), "invalid_traffic"),
        (json!({ "stable": good, "cannary": {} }), "body_unreadable"),
        (json!({ "stable": "../../etc@1" }), "body_unreadable"),
    ] {
        let refused = send(&service, "PUT", "/api/traffic/objects", &wish);
        assert_eq!(refused.json()["error"]["code"], code, "{wish}");
        assert!((400..500).contains(&refused.status));
    }
    for (path, status) in
        [("/api/traffic/nothing", 404), ("/api/traffic/faces", 404), ("/api/traffic/classify:", 404)]
    {
        assert_eq!(send(&service, "GET", path, &Value::Null).status, status, "{path}");
    }
    put(&service, &json!({ "stable": good }));
    serves(&service, &good).await;
}
