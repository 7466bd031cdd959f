//! Models sent over HTTP to real services: what is taken, what is refused with which code, and what others see of it.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use vigie::load::publisher::publish;

use crate::common::cluster::{Process, eventually};
use crate::common::process::{Reply, Service, read_reply, request, vigie};
use crate::common::s3::{S3, settings};
use crate::hostile::{corpus, sound, trial_corpus};
use crate::onnx::{Model, floats};
use crate::own::{assert_square, picture, yolo_v8};
use crate::runtime_path;

const SESSION_SECRET: &str = "the-session-secret-of-these-tests-0123";
const ADMIN_TOKEN: &str = "the-admin-token-of-these-tests-0123456";

/// A field of a form: its name, its file's name if it is one, and its content.
type Part<'a> = (&'a str, Option<&'a str>, Vec<u8>);

fn form(parts: &[Part<'_>]) -> (String, Vec<u8>) {
    let boundary = "the-boundary-of-these-tests";
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes(),
        );
        body.extend(content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

fn file(onnx: Vec<u8>) -> Part<'static> {
    ("file", Some("model.onnx"), onnx)
}

fn text(name: &'static str, text: &str) -> Part<'static> {
    (name, None, text.into())
}

fn square() -> Part<'static> {
    let mut png = std::io::Cursor::new(Vec::new());
    picture([255; 3]).write_to(&mut png, image::ImageFormat::Png).unwrap();
    ("picture", Some("square.png"), png.into_inner())
}

fn send(address: SocketAddr, name: &str, parts: &[Part<'_>]) -> Reply {
    let (content_type, body) = form(parts);
    request(address, "POST", &format!("/api/models/{name}"), &[("Content-Type", &content_type)], &body)
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Reply {
    request(address, method, path, &[], b"")
}

#[track_caller]
fn assert_refused(reply: &Reply, status: u16, code: &str) {
    let body = reply.json();
    assert_eq!((reply.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
}

/// A `vigie serve` with a store of its own; arguments after.
fn serve(store: &Path, arguments: &[&str]) -> Service {
    let mut all = vec!["--lanes", "1", "--store", store.to_str().unwrap()];
    all.extend(arguments);
    Service::start(&all)
}

/// Files of a store that are left of an upload in the making.
fn leftovers(store: &Path) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => walk(&path, found),
                path => found.push(path.display().to_string()),
            }
        }
    }
    let mut found = Vec::new();
    walk(&store.join("intake"), &mut found);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_sent_tried_listed_given_out_and_removed() {
    let store = tempfile::tempdir().unwrap();
    let service = serve(store.path(), &[]);
    let address = service.address;
    assert_eq!(service.get_json("/api/models")["models"], json!([]));

    let onnx = yolo_v8().bytes();
    let reply = send(address, "lamps", &[text("labels", "dark, lamp"), square(), file(onnx.clone())]);
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    let receipt = reply.json();
    assert_eq!((&receipt["version"], &receipt["was_known"]), (&json!(1), &json!(false)));
    assert_eq!(receipt["manifest"]["labels"], json!(["dark", "lamp"]));
    assert_eq!(receipt["manifest"]["provenance"]["source"], "uploaded");
    assert_eq!(receipt["file"]["bytes"], onnx.len());
    assert_square(&receipt, "lamp");
    assert!(receipt["trial"]["p50_ms"].as_f64().unwrap() > 0.0 && receipt["notes"].is_array());

    // The order of a form's fields does not matter, and what is sent again is known again.
    let reply = send(address, "lamps", &[file(onnx.clone()), text("labels", "dark, lamp"), square()]);
    assert_eq!(
        (reply.status, &reply.json()["was_known"], &reply.json()["version"]),
        (201, &json!(true), &json!(1))
    );
    let reply = send(address, "lamps", &[file(onnx.clone()), text("score", "0.9"), text("source", "a test")]);
    assert_eq!(
        (&reply.json()["version"], &reply.json()["manifest"]["thresholds"]["iou"]),
        (&json!(2), &receipt["manifest"]["thresholds"]["iou"])
    );
    assert_eq!(reply.json()["manifest"]["provenance"]["source"], "a test");
    eventually("nothing is left of the uploads", || leftovers(store.path()).is_empty()).await;

    let list = service.get_json("/api/models");
    let versions = list["models"][0]["versions"].as_array().unwrap();
    assert_eq!((list["models"].as_array().unwrap().len(), versions.len()), (1, 2));
    assert_eq!(list["traffic"], json!([]));
    assert_eq!(list["serving"]["objects"], "centernet@1");
    let first = &versions[0];
    assert_eq!(*first, service.get_json("/api/models/lamps/versions/1"));
    for (field, value) in receipt["manifest"].as_object().unwrap() {
        assert_eq!(first[field], *value);
    }
    assert_eq!((&first["size_bytes"], &first["state"]["workers"]), (&json!(onnx.len()), &json!(0)));
    assert_eq!(first["picture"], receipt["picture"]);
    let drawn = ask(address, "GET", receipt["picture"].as_str().unwrap());
    assert_eq!(drawn.header("content-type"), Some("image/jpeg"));
    assert_eq!(image::load_from_memory(&drawn.body).unwrap().into_rgb8().dimensions(), (128, 128));
    assert_eq!(ask(address, "GET", "/api/models/lamps/versions/1/model.onnx").body, onnx);

    assert_eq!(ask(address, "DELETE", "/api/models/lamps/versions/1").status, 204);
    assert_refused(&ask(address, "DELETE", "/api/models/lamps/versions/1"), 404, "not_found");
    let reply = send(address, "lamps", &[text("labels", "dark, lamp"), square(), file(onnx)]);
    assert_eq!(reply.json()["version"], 3, "the number of a removed version is not given again");

    // The registry is in the store: another process has it.
    drop(service);
    let service = serve(store.path(), &[]);
    let versions = service.get_json("/api/models")["models"][0]["versions"].clone();
    let numbers: Vec<_> =
        versions.as_array().unwrap().iter().map(|version| version["version"].clone()).collect();
    assert_eq!(numbers, [2, 3]);
    // What a traffic names stays.
    let traffic = r#"{"slot":"objects","revision":1,"stable":"lamps@2"}"#;
    std::fs::create_dir_all(store.path().join("traffic")).unwrap();
    std::fs::write(store.path().join("traffic/objects.json"), traffic).unwrap();
    assert_refused(&ask(service.address, "DELETE", "/api/models/lamps/versions/2"), 409, "in_use");
    assert_eq!(service.get_json("/api/models")["traffic"][0]["stable"], "lamps@2");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_cannot_be_a_model_is_refused_and_leaves_nothing() {
    let store = tempfile::tempdir().unwrap();
    let service = serve(store.path(), &[]);
    let address = service.address;
    let onnx = || file(Model::of(sound()).bytes());
    for (name, status, code) in [
        ("..", 400, "invalid_name"),
        ("%2e%2e", 400, "invalid_name"),
        ("..%2f..%2fetc", 400, "invalid_name"),
        ("UPPER", 400, "invalid_name"),
        ("a%00b", 400, "invalid_name"),
        ("%ff", 400, "bad_request"),
        (&"x".repeat(65), 400, "invalid_name"),
        ("centernet", 409, "reserved_name"),
    ] {
        let reply = send(address, name, &[onnx()]);
        assert_eq!((name, reply.status), (name, status));
        if reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
            assert_refused(&reply, status, code);
        }
    }
    for (what, parts, status, code) in [
        ("nothing", vec![], 400, "body_unreadable"),
        ("no file", vec![text("labels", "a,b")], 400, "body_unreadable"),
        ("two files", vec![onnx(), onnx()], 400, "body_unreadable"),
        ("a field twice", vec![text("head", "yolo"), text("head", "yolo"), onnx()], 400, "body_unreadable"),
        ("a field that is none", vec![text("lables", "a"), onnx()], 400, "invalid_option"),
        (
            "a field's name that is long",
            vec![(&*"y".repeat(500), None, vec![]), onnx()],
            400,
            "invalid_option",
        ),
        ("a wrong head", vec![text("head", "yolov99"), onnx()], 400, "invalid_option"),
        ("a wrong size", vec![onnx(), text("size", "9999999")], 400, "invalid_option"),
        ("text that is none", vec![("labels", None, vec![0xff, 0xfe]), onnx()], 400, "body_unreadable"),
        ("endless labels", vec![("labels", None, vec![b'a'; 5 << 20]), onnx()], 413, "too_large"),
        ("a picture that is none", vec![("picture", Some("p"), b"GIF89a".to_vec()), onnx()], 422, "picture"),
    ] {
        let reply = send(address, "m", &parts);
        let body = reply.json();
        assert_eq!((reply.status, body["error"]["code"].as_str()), (status, Some(code)), "{what}: {body}");
    }
    let (_, body) = form(&[onnx()]);
    let reply =
        request(address, "POST", "/api/models/m", &[("Content-Type", "application/octet-stream")], &body);
    assert_refused(&reply, 400, "body_unreadable");
    let reply = request(address, "PUT", "/api/models/m", &[], b"");
    assert_refused(&reply, 405, "method_not_allowed");
    for version in ["0", "01", "-1", "x", "99999999999", "1"] {
        assert_refused(&ask(address, "GET", &format!("/api/models/m/versions/{version}")), 404, "not_found");
    }

    // A length that is too much is refused before it is sent.
    let (content_type, _) = form(&[]);
    let length = ("Content-Length", "700000000");
    let reply = request(address, "POST", "/api/models/m", &[("Content-Type", &content_type), length], b"");
    assert_refused(&reply, 413, "too_large");
    // Of a client that goes in the middle nothing is left; nor of one that ends its form there.
    let (content_type, body) = form(&[file(vec![7; 3 << 20])]);
    for whole in [false, true] {
        let mut stream = TcpStream::connect(address).unwrap();
        let half = &body[..body.len() / 2];
        let length = if whole { half.len() } else { body.len() };
        let head = format!(
            "POST /api/models/m HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(half).unwrap();
        if whole {
            assert_refused(&read_reply(&mut stream), 400, "body_unreadable");
        } else {
            eventually("it is being taken in", || !leftovers(store.path()).is_empty()).await;
            stream.shutdown(Shutdown::Both).unwrap();
        }
        eventually("nothing is left", || leftovers(store.path()).is_empty()).await;
    }
    assert_eq!(service.get_json("/api/models")["models"], json!([]));
    let broken = service.metric("vigie_model_uploads_total{outcome=\"broken_off\"}");
    assert!(broken >= 1.0, "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_hostile_corpus_is_refused_while_a_session_goes_on() {
    let store = tempfile::tempdir().unwrap();
    let service = serve(store.path(), &["--trial-seconds", "5", "--trial-memory", "1024"]);
    let address = service.address;
    let watching = tokio::spawn(publish(service.publisher(Duration::from_secs(20), Value::Null)));
    let refusing = tokio::task::spawn_blocking(move || {
        // Those that use up their trial first, so that they run beside the session.
        for (what, onnx, code) in trial_corpus().into_iter().chain(corpus()) {
            let reply = send(address, "hostile", &[file(onnx)]);
            let body = reply.json();
            let told = body["error"]["code"].as_str();
            // A busy machine may not give it its seconds of CPU time in as many as may pass.
            let is_late = code == "cpu_time" && told == Some("wall_time");
            assert!(reply.status == 422 && (told == Some(code) || is_late), "{what}: {body}");
        }
    });
    refusing.await.unwrap();
    let outcome = watching.await.unwrap().unwrap();
    assert!(outcome.reports.len() > 10, "{} reports", outcome.reports.len());
    assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
    // In each quarter of its time it was told something: there was no pause while models were tried.
    for quarter in 0..4_u64 {
        let (from, to) = (Duration::from_secs(5 * quarter), Duration::from_secs(5 * quarter + 5));
        let told = outcome.reports.iter().filter(|report| report.at >= from && report.at < to).count();
        assert!(told > 0, "nothing was told from {from:?} to {to:?}");
    }
    assert_eq!(service.metric("vigie_session_panics_total"), 0.0);
    assert_eq!(service.get_json("/api/models")["models"], json!([]));
    eventually("nothing is left of the uploads", || leftovers(store.path()).is_empty()).await;
    // It is none the worse for it.
    let reply = send(address, "lamps", &[file(yolo_v8().bytes())]);
    assert_eq!(reply.status, 201);
}

fn keyed(command: &mut Command) -> &mut Command {
    command.env("VIGIE_SESSION_SECRET", SESSION_SECRET).env("VIGIE_ADMIN_TOKEN", ADMIN_TOKEN)
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_change_models_and_sessions_only_see_them() {
    let store = tempfile::tempdir().unwrap();
    let mut command = vigie();
    command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    let service = Process::start(keyed(command.arg("--store").arg(store.path())));
    let address = service.address;
    let session = keyed(vigie().args(["token", "--subject", "somebody"])).output().unwrap();
    let session = String::from_utf8(session.stdout).unwrap();
    let (content_type, body) = form(&[file(yolo_v8().bytes())]);
    let asked = |method: &str, path: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {}", token.trim()));
        let mut headers = vec![("Content-Type", content_type.as_str())];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        request(address, method, path, &headers, if method == "POST" { &body } else { b"" })
    };
    let version = "/api/models/lamps/versions/1";
    let onnx = format!("{version}/model.onnx");
    let drawn = format!("{version}/picture");
    for (token, status, code) in [
        (None, 401, "token_required"),
        (Some("wrong"), 401, "token_invalid"),
        (Some(session.as_str()), 403, "admin_only"),
    ] {
        assert_refused(&asked("POST", "/api/models/lamps", token), status, code);
        assert_refused(&asked("DELETE", version, token), status, code);
        assert_refused(&asked("GET", &onnx, token), status, code);
    }
    assert_eq!(asked("POST", "/api/models/lamps", Some(ADMIN_TOKEN)).status, 201);
    for path in ["/api/models", version, &drawn] {
        assert_eq!(asked("GET", path, None).status, 401, "{path}");
        assert_eq!(asked("GET", path, Some(&session)).status, 200, "{path}");
        assert_eq!(asked("GET", path, Some(ADMIN_TOKEN)).status, 200, "{path}");
    }
    assert_eq!(asked("GET", &onnx, Some(ADMIN_TOKEN)).status, 200);
    assert_eq!(asked("DELETE", version, Some(ADMIN_TOKEN)).status, 204);
}

/// Runs vigie with the admin's token: whether it did it, all that it said, its standard output.
fn run(arguments: &[&str]) -> (bool, String, Vec<u8>) {
    let mut command = vigie();
    // Nothing of a worker is needed to ask a service.
    command.args(arguments).env("VIGIE_ORT_LIBRARY", "/nowhere").env("VIGIE_TOKEN", ADMIN_TOKEN);
    let output = command.output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said, output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_adds_to_a_running_service() {
    let store = tempfile::tempdir().unwrap();
    let mut command = vigie();
    command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    let service = Process::start(keyed(command.arg("--store").arg(store.path())));
    let url = format!("http://{}", service.address);
    let path = store.path().join("Lamps.onnx");
    std::fs::write(&path, yolo_v8().bytes()).unwrap();
    let add = |more: &[&str]| run(&[&["models", "add", path.to_str().unwrap(), "--to", &url], more].concat());
    let (added, said, _) = add(&["--labels", "dark,a lamp", "--licence", "none"]);
    assert!(added, "{said}");
    for part in ["added as lamps@1", "dark, a lamp", "/api/models/lamps/versions/1/picture"] {
        assert!(said.contains(part), "{said} does not say {part}");
    }
    let (added, _, stdout) = add(&["--labels", "dark,a lamp", "--licence", "none", "--json"]);
    let receipt: Value = serde_json::from_slice(&stdout).unwrap();
    assert!(added && receipt["was_known"] == json!(true), "{receipt}");
    assert_eq!(
        receipt["manifest"]["provenance"],
        json!({ "source": "added from the file Lamps.onnx", "upstream": "", "licence": "none" })
    );
    let (added, said, _) = add(&["--token", "wrong"]);
    assert!(!added && said.contains("(token_invalid)"), "{said}");
    let (added, said, _) = add(&["--name", "../x"]);
    assert!(!added && said.contains("../x"), "{said}");
    std::fs::write(&path, b"<html>").unwrap();
    let (added, said, stdout) = add(&["--json"]);
    let body: Value = serde_json::from_slice(&stdout).unwrap();
    assert!(!added && said.contains("was not added") && body["error"]["code"] == "not_onnx", "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_and_removes_what_a_running_service_has() {
    let store = tempfile::tempdir().unwrap();
    let mut command = vigie();
    command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    let service = Process::start(keyed(command.arg("--store").arg(store.path())));
    let url = format!("http://{}", service.address);
    let models = |arguments: &[&str]| run(&[&["models"], arguments, &["--to", &url]].concat());
    let (listed, said, stdout) = models(&["list"]);
    assert!(listed && stdout.is_empty() && said.contains("models add"), "{said}");

    let path = store.path().join("lamps.onnx");
    std::fs::write(&path, yolo_v8().bytes()).unwrap();
    let (added, said, _) =
        models(&["add", path.to_str().unwrap(), "--labels", "dark,lamp", "--licence", "MIT"]);
    assert!(added, "{said}");
    let row = || {
        let (listed, said, _) = models(&["list"]);
        assert!(listed, "{said}");
        let row = said.lines().nth(1).unwrap_or_default().to_owned();
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(), ["lamps", "1", "objects", "64x64", "2", "MIT", "0", "-"]);

    let (changed, said, _) = run(&["models", "traffic", &url, "objects", "--stable", "lamps@1"]);
    assert!(changed, "{said}");
    eventually("a worker has it", || row()[6..] == ["1", "objects"]).await;
    let (removed, said, _) = models(&["remove", "lamps@1"]);
    assert!(!removed && said.contains("(in_use)"), "{said}");
    let (changed, said, _) = run(&["models", "traffic", &url, "objects", "--reset"]);
    assert!(changed, "{said}");
    let (removed, said, _) = models(&["remove", "lamps@1", "--token", "wrong"]);
    assert!(!removed && said.contains("(token_invalid)"), "{said}");
    let (removed, said, _) = models(&["remove", "lamps@1"]);
    assert!(removed && said.contains("lamps@1 is removed"), "{said}");
    let (removed, said, _) = models(&["remove", "lamps@1"]);
    assert!(!removed && said.contains("(not_found)"), "{said}");
    assert!(row().is_empty());
    let (removed, said, _) = models(&["remove", "lamps"]);
    assert!(!removed && said.contains("as yolo@3"), "{said}");
}

/// A front and a worker as processes of their own, each with its store.
fn cluster(front_store: &str, worker_store: &str, environment: &[(String, String)]) -> (Process, Process) {
    let token = "the-token-of-the-cluster-of-these-tests";
    let mut worker = vigie();
    worker.args([
        "worker",
        "--control",
        "127.0.0.1:0",
        "--media",
        "127.0.0.1:0",
        "--lanes",
        "1",
        "--store",
        worker_store,
    ]);
    worker
        .envs(environment.iter().cloned())
        .env("VIGIE_CLUSTER_TOKEN", token)
        .env("VIGIE_ORT_LIBRARY", runtime_path());
    let worker = Process::start(&mut worker);
    let mut front = vigie();
    front.args([
        "signal",
        "--listen",
        "127.0.0.1:0",
        "--store",
        front_store,
        "--workers",
        &worker.address.to_string(),
    ]);
    // A front has no runtime.
    front
        .envs(environment.iter().cloned())
        .env("VIGIE_CLUSTER_TOKEN", token)
        .env("VIGIE_ORT_LIBRARY", "/nowhere");
    (Process::start(&mut front), worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn fronts_and_workers_share_a_folder_or_say_that_they_do_not() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (one.path().to_str().unwrap(), other.path().to_str().unwrap());
    let (front, worker) = cluster(one, one, &[]);
    let reply = send(front.address, "lamps", &[file(yolo_v8().bytes())]);
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(front.get_json("/api/models")["models"][0]["name"], "lamps");
    // The worker's own address takes nothing from strangers.
    let reply = request(worker.address, "POST", "/control/v1/models/lamps", &[], b"{}");
    assert_eq!(reply.status, 401);
    drop(worker);
    assert_refused(&send(front.address, "lamps", &[file(yolo_v8().bytes())]), 503, "no_worker");
    assert!(leftovers(Path::new(one)).is_empty());

    let (front, _worker) = cluster(one, other, &[]);
    let reply = send(front.address, "lamps", &[file(yolo_v8().bytes())]);
    assert_refused(&reply, 503, "store_not_shared");
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_shared_by_all() {
    let server = S3::start();
    let (front, _worker) =
        cluster("s3://store/models-test", "s3://store/models-test", &settings(&server.endpoint));
    // More than a part of an upload.
    let mut model = yolo_v8();
    model.graph.initialisers.push(floats("ballast", &[2_000_000], &vec![0.5; 2_000_000]));
    let onnx = model.bytes();
    let reply = send(front.address, "lamps", &[text("labels", "dark, lamp"), square(), file(onnx.clone())]);
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    assert_square(&reply.json(), "lamp");
    let reply = send(front.address, "lamps", &[text("labels", "dark, lamp"), square(), file(onnx.clone())]);
    assert_eq!(reply.json()["was_known"], true);
    assert_eq!(ask(front.address, "GET", "/api/models/lamps/versions/1/model.onnx").body, onnx);
    assert_refused(&send(front.address, "page", &[file(b"<html>".to_vec())]), 422, "not_onnx");
    assert_eq!(ask(front.address, "DELETE", "/api/models/lamps/versions/1").status, 204);
    assert_eq!(front.get_json("/api/models")["models"], json!([]));
    let left = || server.bucket("store/models-test");
    let listed =
        futures_util::TryStreamExt::try_collect::<Vec<_>>(left().list("intake").unwrap()).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}
