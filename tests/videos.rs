//! Video jobs, from the upload to the results, through the processes that users run, killed for real.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::cluster::{PATIENCE, find};
use common::outside::Nats;
use common::process::{Reply, Service, read_reply, request, vigie};
use common::s3::{self, S3};
use serde_json::Value;
use tempfile::TempDir;
use vigie::cluster::protocol::{SessionTerms, TaskList};
use vigie::signalling::auth::{Claims, TokenKey, now_s};

/// Inference that takes long enough to act in the middle of a job.
const SLOW: &[&str] = &["--lanes", "1", "--slowdown", "4"];
const QUICK: &[&str] = &["--lanes", "1"];

struct Store(TempDir);

impl Store {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn serve(&self, arguments: &[&str]) -> Service {
        Service::start(&[&["--store", self.path()], arguments].concat())
    }

    /// Everything in it but locks.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            // What goes meanwhile is gone.
            for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path(), &mut found);
        found.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
        found
    }

    fn empties(&self) {
        find("the store is empty", || self.files().is_empty().then_some(()));
    }
}

fn ffmpeg(arguments: &[&str]) {
    let status =
        Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments).stdin(Stdio::null()).status();
    assert!(status.expect("the ffmpeg program is there").success(), "{arguments:?}");
}

/// A film of a face, at ten pictures a second, with sound.
fn film(folder: &Path, name: &str, seconds: &str) -> Vec<u8> {
    let path = folder.join(name);
    let picture = common::data("pictures/astronaut.jpg");
    let inputs = ["-loop", "1", "-r", "10", "-i", picture.to_str().unwrap(), "-f", "lavfi", "-i", "sine=440"];
    let codecs =
        ["-t", seconds, "-vf", "scale=256:256", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"];
    ffmpeg(&[&inputs[..], &codecs, &[path.to_str().unwrap()]].concat());
    std::fs::read(path).unwrap()
}

fn post(address: SocketAddr, query: &str, bytes: &[u8]) -> Reply {
    request(address, "POST", &format!("/api/videos{query}"), &[("Content-Type", "video/mp4")], bytes)
}

/// Posts a video and gives its job's id.
fn submit(address: SocketAddr, query: &str, bytes: &[u8]) -> String {
    let reply = post(address, query, bytes);
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    let job = reply.json();
    assert_eq!(job["state"], "queued");
    let id = job["id"].as_str().unwrap().to_owned();
    assert_eq!(reply.header("location"), Some(format!("/api/videos/{id}").as_str()));
    id
}

fn get(address: SocketAddr, path: &str) -> Reply {
    request(address, "GET", path, &[], &[])
}

fn job(address: SocketAddr, id: &str) -> Value {
    let reply = get(address, &format!("/api/videos/{id}"));
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

fn frames(job: &Value) -> u64 {
    job["progress"]["frames"].as_u64().unwrap()
}

/// Waits until pictures of the job are done.
fn underway(address: SocketAddr, id: &str) {
    find("the job is under way", || {
        let job = job(address, id);
        assert!(matches!(job["state"].as_str(), Some("queued" | "running")), "too quick to act on: {job}");
        (job["state"] == "running" && frames(&job) > 0).then_some(())
    });
}

fn ended(address: SocketAddr, id: &str) -> Value {
    find("the job has ended", || {
        let job = job(address, id);
        (!matches!(job["state"].as_str(), Some("queued" | "running"))).then_some(job)
    })
}

/// Every event of a job's stream, which must end by itself.
fn events(address: SocketAddr, id: &str) -> Vec<Value> {
    let reply = get(address, &format!("/api/videos/{id}/events"));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let text = String::from_utf8(reply.body).unwrap();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    events.map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn result(address: SocketAddr, id: &str, file: &str, headers: &[(&str, &str)]) -> Reply {
    request(address, "GET", &format!("/api/videos/{id}/{file}"), headers, &[])
}

/// Asks for parts of an annotated video of which this is the whole.
fn as_players_ask(address: SocketAddr, id: &str, whole: &[u8]) {
    let length = whole.len();
    let ask = |headers: &[(&str, &str)]| result(address, id, "annotated.mp4", headers);
    let part = ask(&[("Range", "bytes=4-7")]);
    assert_eq!((part.status, &part.body[..]), (206, &b"ftyp"[..]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 4-7/{length}").as_str()));
    assert_eq!(part.header("accept-ranges"), Some("bytes"));
    let rest = ask(&[("Range", &format!("bytes={}-", length / 2))]);
    assert_eq!((rest.status, &rest.body[..]), (206, &whole[length / 2..]));
    assert_eq!(ask(&[("Range", "bytes=-10")]).body, whole[length - 10..]);
    assert_eq!(ask(&[("Range", "bytes=99999999-")]).status, 416);
    let etag = part.header("etag").unwrap().to_owned();
    assert_eq!(ask(&[("If-None-Match", &etag)]).status, 304);
    assert_eq!(ask(&[("Range", "bytes=0-1"), ("If-Range", "\"another\"")]).status, 200);
}

#[test]
fn results_are_served_from_a_bucket_in_parts() {
    let server = S3::start();
    let place = ["--store", "s3://store/videos", "--log", "warn"];
    let service = Service::start_with(
        &s3::settings(&server.endpoint),
        &[&place[..], QUICK, &["--max-upload-bytes", "10737418240"]].concat(),
    );
    let address = service.address;
    // No more than a bucket can make one file of.
    let told = request(address, "OPTIONS", "/api/uploads", &[("Tus-Resumable", "1.0.0")], &[]);
    assert_eq!(told.header("tus-max-size"), Some("5368709120"));
    let folder = tempfile::tempdir().unwrap();
    let id = submit(address, "?tasks=faces&every=5", &film(folder.path(), "film.mp4", "2"));
    let done = ended(address, &id);
    assert_eq!(done["state"], "done", "{done}");
    let whole = result(address, &id, "annotated.mp4", &[]);
    assert_eq!((whole.status, &whole.body[4..8]), (200, &b"ftyp"[..]));
    as_players_ask(address, &id, &whole.body);
    assert_eq!(result(address, &id, "summary.json", &[]).json(), done["summary"]);
    assert!(server.request("GET", "/store?list-type=2").contains("annotated.mp4"), "it is in the bucket");
    assert_eq!(request(address, "DELETE", &format!("/api/videos/{id}"), &[], &[]).status, 204);
    assert!(!server.request("GET", "/store?list-type=2").contains("<Key>"), "nothing is left");
}

#[test]
fn a_video_comes_back_annotated() {
    let store = Store::new();
    let service = store.serve(QUICK);
    let address = service.address;
    let film = film(store.0.path(), "film.mp4", "2");
    std::fs::remove_file(store.0.path().join("film.mp4")).unwrap();
    let boundary = "5c0f2a6e6bd9b0a1";
    let disposition = "form-data; name=\"file\"; filename=\"C:\\\\a day.mp4\"";
    let mut form = format!("--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n").into_bytes();
    form.extend(&film);
    form.extend(format!("\r\n--{boundary}--\r\n").bytes());
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let reply = service.post("/api/videos?every=2&threshold=0.4", &[("Content-Type", &content_type)], &form);
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    let made = reply.json();
    assert_eq!((made["name"].as_str(), made["bytes"].as_u64()), (Some("a day.mp4"), Some(film.len() as u64)));
    assert_eq!(made["options"]["tasks"], serde_json::json!(["faces", "gender", "objects"]));
    let id = made["id"].as_str().unwrap().to_owned();

    let told = events(address, &id);
    let last = told.last().unwrap();
    assert_eq!((last["state"].as_str(), frames(last)), (Some("done"), 20), "{last}");
    assert!(told.iter().all(|job| job["id"] == id.as_str() && job.get("error").is_none()));
    assert!(told.windows(2).all(|two| frames(&two[0]) <= frames(&two[1])));
    assert_eq!(last["summary"]["recognised"], 10);
    assert_eq!(last["summary"]["audio"], "copied");
    assert!(last["summary"]["counts"]["face"].as_u64().unwrap() >= 1, "{last}");
    assert_eq!(job(address, &id), *last);

    let annotated = result(address, &id, "annotated.mp4", &[]);
    assert_eq!((annotated.status, annotated.header("content-type")), (200, Some("video/mp4")));
    let path = store.0.path().join(".annotated.mp4");
    std::fs::write(&path, &annotated.body).unwrap();
    let place = |kind: &[u8]| annotated.body.windows(4).position(|four| four == kind).unwrap();
    assert!(place(b"moov") < place(b"mdat"), "it plays while it loads");
    let entries = ["-v", "error", "-show_entries", "stream=codec_name,nb_frames", "-of", "csv=p=0"];
    let probed = Command::new("ffprobe").args(entries).arg(&path).output().unwrap();
    let probed = String::from_utf8(probed.stdout).unwrap();
    assert!(probed.contains("h264,20") && probed.contains("aac,"), "{probed}");

    let lines = result(address, &id, "detections.jsonl", &[]).body;
    let lines: Vec<Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert!(lines.iter().all(|line| line["time_s"].is_number() && line["tracks"].is_array()));
    assert_eq!(result(address, &id, "summary.json", &[]).json(), last["summary"]);

    as_players_ask(address, &id, &annotated.body);
    let saved = result(address, &id, "annotated.mp4?download=1", &[]);
    assert!(saved.header("content-disposition").unwrap().contains("filename=\"a day-annotated.mp4\""));
    assert_eq!(result(address, &id, "job.json", &[]).status, 404);
    std::fs::remove_file(path).unwrap();

    // The same video again is kept once, until nobody refers to it.
    let again = submit(address, "?tasks=faces&every=5&name=again", &film);
    assert_eq!(ended(address, &again)["state"], "done");
    let uploads = || store.files().iter().filter(|path| path.parent().unwrap().ends_with("uploads")).count();
    assert_eq!(uploads(), 1);
    let list = get(address, &format!("/api/videos?ids={id},{again},{},nonsense", "0".repeat(32))).json();
    let names: Vec<_> = list["jobs"].as_array().unwrap().iter().map(|job| &job["name"]).collect();
    assert_eq!(names, ["a day.mp4", "again"]);
    let delete = |id: &str| request(address, "DELETE", &format!("/api/videos/{id}"), &[], &[]).status;
    assert_eq!(delete(&id), 204);
    assert_eq!((delete(&id), get(address, &format!("/api/videos/{id}")).status), (404, 404));
    assert_eq!(result(address, &id, "annotated.mp4", &[]).status, 404);
    assert_eq!(uploads(), 1);
    assert_eq!(delete(&again), 204);
    assert_eq!(store.files(), Vec::<PathBuf>::new());
}

#[test]
fn jobs_are_cancelled_and_deleted_while_they_run_and_while_they_wait() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let service = store.serve(SLOW);
    let address = service.address;
    let film = film(inputs.path(), "long.mp4", "60");
    let running = submit(address, "", &film);
    let [cancelled, deleted, next] =
        ["?name=b", "?name=c", "?name=d"].map(|name| submit(address, name, &film));
    underway(address, &running);

    let cancel = |id: &str| request(address, "POST", &format!("/api/videos/{id}/cancel"), &[], &[]).json();
    assert_eq!(cancel(&cancelled)["state"], "cancelled");
    assert_eq!(request(address, "DELETE", &format!("/api/videos/{deleted}"), &[], &[]).status, 204);
    assert_eq!(cancel(&running)["state"], "running");
    let told = events(address, &running);
    assert_eq!(told.last().unwrap()["state"], "cancelled");
    assert_eq!(result(address, &running, "annotated.mp4", &[]).status, 404);
    assert_eq!(cancel(&running)["state"], "cancelled", "once more changes nothing");

    underway(address, &next);
    assert_eq!(request(address, "DELETE", &format!("/api/videos/{next}"), &[], &[]).status, 204);
    assert_eq!(get(address, &format!("/api/videos/{next}")).status, 404);
    for id in [&running, &cancelled] {
        assert_eq!(request(address, "DELETE", &format!("/api/videos/{id}"), &[], &[]).status, 204);
    }
    // The runner has stopped, and wrote nothing more.
    find("nothing runs", || (service.metric("vigie_jobs{state=\"running\"}") == 0.0).then_some(()));
    store.empties();
}

#[test]
fn a_restart_costs_no_job() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let film = film(inputs.path(), "long.mp4", "12");
    let mut service = store.serve(SLOW);
    let first = submit(service.address, "?every=3", &film);
    let second = submit(service.address, "?every=12", &film);
    underway(service.address, &first);
    service.kill();
    assert!(store.files().iter().any(|path| path.to_str().unwrap().contains("scratch")), "it was at work");

    let service = store.serve(QUICK);
    for (id, tries) in [(&first, 2), (&second, 1)] {
        let job = ended(service.address, id);
        assert_eq!((job["state"].as_str(), job["tries"].as_u64()), (Some("done"), Some(tries)), "{job}");
        assert_eq!(frames(&job), 120);
    }
    let left = store.files();
    assert!(left.iter().all(|path| !path.to_str().unwrap().contains("scratch")), "{left:?}");
}

#[test]
fn a_job_that_is_handed_back_has_not_been_tried() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let film = film(inputs.path(), "long.mp4", "12");
    let mut service = store.serve(SLOW);
    let id = submit(service.address, "?every=3", &film);
    underway(service.address, &id);
    let pid = service.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    service.child.wait().unwrap();

    let service = store.serve(QUICK);
    let job = ended(service.address, &id);
    assert_eq!((job["state"].as_str(), job["tries"].as_u64()), (Some("done"), Some(1)), "{job}");
}

#[test]
fn a_job_that_ends_its_worker_three_times_is_given_up() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let film = film(inputs.path(), "long.mp4", "30");
    let mut service = store.serve(SLOW);
    let id = submit(service.address, "", &film);
    for tries in 1..=3 {
        underway(service.address, &id);
        assert_eq!(job(service.address, &id)["tries"], tries);
        service.kill();
        service = store.serve(SLOW);
    }
    let job = ended(service.address, &id);
    assert_eq!((job["state"].as_str(), job["error"]["code"].as_str()), (Some("failed"), Some("gave_up")));
    assert!(job["error"]["message"].as_str().unwrap().contains("tried 3 times"), "{job}");
}

#[test]
fn what_is_no_video_is_refused_at_the_door() {
    let store = Store::new();
    let service = store.serve(&["--max-upload-bytes", "100000"]);
    let address = service.address;
    let code = |reply: &Reply| (reply.status, reply.json()["error"]["code"].as_str().unwrap().to_owned());
    let mut film = b"\0\0\0\x20ftypisom".to_vec();
    film.resize(100_001, 7);
    let picture = std::fs::read(common::data("pictures/astronaut.jpg")).unwrap();
    for (what, bytes, expected) in [
        ("nothing", &b""[..], (422, "empty")),
        ("a playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n/etc/passwd\n", (415, "unsupported_type")),
        ("a concat script", b"ffconcat version 1.0\nfile /etc/passwd\n", (415, "unsupported_type")),
        ("a picture", &picture[..50_000], (415, "unsupported_type")),
        ("too much", &film, (413, "too_large")),
    ] {
        let (status, expected) = (expected.0, expected.1.to_owned());
        assert_eq!(code(&post(address, "", bytes)), (status, expected.clone()), "{what}");
        // Without a length, too.
        let mut stream = TcpStream::connect(address).unwrap();
        let head = "POST /api/videos HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for piece in bytes.chunks(777) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
            stream.write_all(piece).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(code(&read_reply(&mut stream)), (status, expected), "{what}, in chunks");
    }
    for (query, expected) in [
        ("?tasks=ears", "invalid_option"),
        ("?threshold=2", "invalid_option"),
        ("?every=0", "invalid_option"),
        ("?every=x", "invalid_option"),
        ("?what=ever", "invalid_option"),
    ] {
        assert_eq!(code(&post(address, query, &film[..100])), (400, expected.to_owned()), "{query}");
    }
    let foreign = [("Origin", "https://elsewhere.example")];
    assert_eq!(code(&request(address, "POST", "/api/videos", &foreign, &film[..100])).1, "origin_refused");
    let form = [("Content-Type", "multipart/form-data; boundary=b")];
    let other = b"--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\r\n--b--\r\n";
    assert_eq!(code(&request(address, "POST", "/api/videos", &form, other)), (400, "body_unreadable".into()));
    let cut = b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n\0\0\0\x20ftypisom";
    assert_eq!(code(&request(address, "POST", "/api/videos", &form, cut)).0, 400);
    store.empties();
    assert!(service.metric("vigie_uploads_total{outcome=\"refused\"}") >= 10.0);
}

#[test]
fn a_refusal_comes_before_the_rest_of_the_body() {
    let store = Store::new();
    let service = store.serve(&[]);
    let ask = |length: u64, start: &[u8]| {
        let mut stream = TcpStream::connect(service.address).unwrap();
        let head =
            format!("POST /api/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(start).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    assert_eq!(ask(10 << 30, b""), "HTTP/1.1 413");
    assert_eq!(ask(1 << 30, &[b'#'; 2000]), "HTTP/1.1 415");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let store = Store::new();
    let service = store.serve(&[]);
    let mut film = b"\0\0\0\x20ftypisom".to_vec();
    film.resize(20 << 20, 7);
    for form in [false, true] {
        let mut stream = TcpStream::connect(service.address).unwrap();
        let content_type = if form { "multipart/form-data; boundary=b" } else { "video/mp4" };
        let head = format!(
            "POST /api/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            100 << 20
        );
        stream.write_all(head.as_bytes()).unwrap();
        if form {
            let part = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
            stream.write_all(part).unwrap();
        }
        stream.write_all(&film).unwrap();
        find("some of it is in the store", || (!store.files().is_empty()).then_some(()));
        drop(stream);
        store.empties();
    }
    assert_eq!(service.metric("vigie_uploads_total{outcome=\"broken_off\"}"), 2.0);
}

#[test]
fn a_full_store_is_said_and_nothing_is_left() {
    let store = Store::new();
    // No file of this process grows beyond 2 MiB: to it the disk is full.
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 4096; exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_vigie"), "serve", "--listen", "127.0.0.1:0"]);
    command.args(["--media", "127.0.0.1:0", "--store", store.path()]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let service = common::cluster::Process::start(&mut command);
    let mut film = b"\0\0\0\x20ftypisom".to_vec();
    film.resize(30 << 20, 7);
    let reply = post(service.address, "", &film);
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (507, Some("store_full")));
    store.empties();
}

#[test]
fn bad_videos_end_as_failed_jobs_that_say_why() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let service = store.serve(QUICK);
    let whole = film(inputs.path(), "whole.mp4", "3");
    let live = film(inputs.path(), "live.mkv", "3");
    let sound = inputs.path().join("sound.m4a");
    ffmpeg(&["-f", "lavfi", "-i", "sine=440", "-t", "1", "-c:a", "aac", sound.to_str().unwrap()]);
    let mut noise = b"\0\0\0\x20ftypisom".to_vec();
    noise.extend((0..50_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    for (what, bytes, expected) in [
        ("sound only", std::fs::read(sound).unwrap(), "no_video"),
        ("without its index", whole[..whole.len() / 2].to_vec(), "truncated"),
        ("noise", noise, "corrupt"),
    ] {
        let job = ended(service.address, &submit(service.address, "", &bytes));
        assert_eq!(
            (job["state"].as_str(), job["error"]["code"].as_str()),
            (Some("failed"), Some(expected)),
            "{what}: {job}"
        );
        let message = job["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("the file") && !message.contains(store.path()), "{message}");
        assert_eq!(job["tries"], 1, "{what}");
    }
    let half = ended(service.address, &submit(service.address, "?every=4", &live[..live.len() / 2]));
    assert_eq!(
        (half["state"].as_str(), half["summary"]["cut_off"].as_bool()),
        (Some("done"), Some(true)),
        "{half}"
    );
}

#[test]
fn a_video_whose_results_become_too_large_fails_at_once() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let service = store.serve(&[QUICK, &["--max-video-result-bytes", "1000"]].concat());
    let id = submit(service.address, "?every=5", &film(inputs.path(), "film.mp4", "1"));
    let job = ended(service.address, &id);
    assert_eq!(
        (job["state"].as_str(), job["error"]["code"].as_str(), job["tries"].as_u64()),
        (Some("failed"), Some("too_large"), Some(1)),
        "{job}"
    );
    let message = job["error"]["message"].as_str().unwrap();
    for said in ["1000 bytes", "--max-video-result-bytes", "shorter"] {
        assert!(message.contains(said), "{message}");
    }
    let left = store.files();
    assert!(left.iter().all(|path| !path.to_str().unwrap().contains("scratch")), "{left:?}");
    assert_eq!(result(service.address, &id, "annotated.mp4", &[]).status, 404);
}

#[test]
fn jobs_expire() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let service = store.serve(&[QUICK, &["--video-expiry-hours", "0.001"]].concat());
    let film = film(inputs.path(), "film.mp4", "1");
    let id = submit(service.address, "?every=5", &film);
    // An upload that nobody ends, too.
    let length = film.len().to_string();
    let tus = [("Tus-Resumable", "1.0.0"), ("Upload-Length", length.as_str())];
    let announced = request(service.address, "POST", "/api/uploads", &tus, &[]);
    assert_eq!(announced.status, 201);
    find("the job is gone", || {
        (get(service.address, &format!("/api/videos/{id}")).status == 404).then_some(())
    });
    store.empties();
    assert_eq!(service.metric("vigie_jobs_total{outcome=\"expired\"}"), 1.0);
}

#[test]
fn fronts_without_a_queue_say_what_is_missing() {
    let mut command = vigie();
    command.args(["signal", "--listen", "127.0.0.1:0", "--workers", "127.0.0.1:1"]);
    let front =
        common::cluster::Process::start(command.env("VIGIE_CLUSTER_TOKEN", "a-token-of-the-tests-own"));
    for (method, path) in [("POST", "/api/videos"), ("GET", "/api/videos?ids=a"), ("OPTIONS", "/api/uploads")]
    {
        let reply = request(front.address, method, path, &[], &[]);
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, error["code"].as_str()),
            (503, Some("videos_unavailable")),
            "{method} {path}"
        );
        assert!(error["message"].as_str().unwrap().contains("--nats-url"));
    }
    // A queue that cannot be reached is said before a video is sent.
    command.args(["--nats-url", "nats://127.0.0.1:1"]);
    let front = common::cluster::Process::start(&mut command);
    let reply = post(front.address, "", b"\0\0\0\x20ftypisom");
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("queue_unavailable")));
    assert!(reply.header("retry-after").is_some());
}

#[test]
fn who_sends_a_video_needs_a_token_and_who_knows_a_job_none() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let (session, admin) = ("s".repeat(32), "a".repeat(32));
    let service = store.serve(&[QUICK, &["--session-secret", &session, "--admin-token", &admin]].concat());
    let film = film(inputs.path(), "film.mp4", "1");
    let terms =
        SessionTerms { tasks: Some(TaskList { faces: true, ..TaskList::NONE }), ..SessionTerms::default() };
    let token = TokenKey::new(&session).unwrap().mint(&Claims::session("alice", now_s(), 600, terms));
    let bearer = format!("Bearer {token}");
    let length = film.len().to_string();
    let tus = [("Tus-Resumable", "1.0.0"), ("Upload-Length", length.as_str())];
    let may = [("Authorization", bearer.as_str())];

    for (path, headers) in [("/api/videos", &[][..]), ("/api/uploads", &tus[..])] {
        let refused = request(service.address, "POST", path, headers, &film);
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (401, Some("token_required")));
        // A page of a stranger may not even with a token that it came by.
        let foreign = [&[("Origin", "https://elsewhere.example")], headers, &may[..]].concat();
        assert_eq!(request(service.address, "POST", path, &foreign, &film).status, 403);
    }
    let refused = request(service.address, "POST", "/api/videos?tasks=objects", &may, &film);
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (403, Some("task_not_allowed")));
    let announced = request(service.address, "POST", "/api/uploads", &[&tus[..], &may].concat(), &[]);
    assert_eq!(announced.status, 201, "{}", String::from_utf8_lossy(&announced.body));
    let made = request(service.address, "POST", "/api/videos?every=5", &may, &film).json();
    assert_eq!(made["options"]["tasks"], serde_json::json!(["faces"]), "{made}");
    let id = made["id"].as_str().unwrap();
    assert_eq!(events(service.address, id).last().unwrap()["state"], "done");
    assert_eq!(result(service.address, id, "annotated.mp4", &[]).status, 200);
    let foreign = [("Origin", "https://elsewhere.example")];
    let delete = |headers: &[(&str, &str)]| {
        request(service.address, "DELETE", &format!("/api/videos/{id}"), headers, &[]).status
    };
    assert_eq!((delete(&foreign), delete(&[])), (403, 204));
}

#[test]
fn a_killed_workers_job_is_done_by_another() {
    let (nats, store, inputs) = (Nats::start(), Store::new(), tempfile::tempdir().unwrap());
    let common = |command: &mut Command| {
        command.args(["--store", store.path(), "--nats-url", &nats.url]);
        command.env("VIGIE_CLUSTER_TOKEN", "a-token-of-the-tests-own");
    };
    let worker = |arguments: &[&str]| {
        let mut command = vigie();
        command.args(["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0"]).args(arguments);
        common(&mut command);
        common::cluster::Process::start(&mut command)
    };
    let front = |worker: &common::cluster::Process| {
        let mut command = vigie();
        command.args(["signal", "--listen", "127.0.0.1:0", "--workers", &worker.address.to_string()]);
        common(&mut command);
        common::cluster::Process::start(&mut command)
    };
    let mut doomed = worker(SLOW);
    let fronts = [front(&doomed), front(&doomed)];
    let film = film(inputs.path(), "long.mp4", "12");

    // One front is sent the first half, the other the second.
    let length = film.len().to_string();
    let announced = [("Tus-Resumable", "1.0.0"), ("Upload-Length", length.as_str())];
    let announced = find("the queue is reached", || {
        let reply = request(fronts[0].address, "POST", "/api/uploads", &announced, &[]);
        (reply.status == 201).then_some(reply)
    });
    let place = announced.header("location").unwrap().to_owned();
    let half = film.len() / 2;
    for (front, offset, piece) in [(&fronts[0], 0, &film[..half]), (&fronts[1], half, &film[half..])] {
        let offset = offset.to_string();
        let headers = [
            ("Tus-Resumable", "1.0.0"),
            ("Content-Type", "application/offset+octet-stream"),
            ("Upload-Offset", offset.as_str()),
        ];
        assert_eq!(request(front.address, "PATCH", &place, &headers, piece).status, 204);
    }
    let id = place.rsplit('/').next().unwrap();
    underway(fronts[0].address, id);
    doomed.kill();

    let _heir = worker(QUICK);
    // Told by the front that did not make the job, while another worker does it.
    let told = events(fronts[0].address, id);
    let last = told.last().unwrap();
    assert_eq!((last["state"].as_str(), last["tries"].as_u64()), (Some("done"), Some(2)), "{last}");
    assert_eq!(frames(last), 120);
}

#[test]
fn pieces_come_when_and_as_they_come() {
    let (store, inputs) = (Store::new(), tempfile::tempdir().unwrap());
    let mut service = store.serve(&[QUICK, &["--max-upload-bytes", "50000000"]].concat());
    let film = film(inputs.path(), "film.mp4", "1");
    let tus = |service: &Service, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let headers = [&[("Tus-Resumable", "1.0.0")], headers].concat();
        let reply = request(service.address, method, path, &headers, body);
        assert_eq!(reply.header("tus-resumable"), Some("1.0.0"));
        reply
    };
    let code = |reply: &Reply| (reply.status, reply.json()["error"]["code"].as_str().unwrap().to_owned());
    let length = film.len().to_string();
    let metadata = "filename ZmlsbS5tcDQ=,tasks ZmFjZXM=,every NQ==,filetype dmlkZW8vbXA0";

    let told = tus(&service, "OPTIONS", "/api/uploads", &[], &[]);
    assert_eq!((told.status, told.header("tus-max-size")), (204, Some("50000000")));
    assert!(told.header("tus-extension").unwrap().contains("creation"));
    let old = [("Tus-Resumable", "0.2.2"), ("Upload-Length", "1")];
    let old = request(service.address, "POST", "/api/uploads", &old, &[]);
    assert_eq!((old.status, old.header("tus-version")), (412, Some("1.0.0")));
    for (headers, expected) in [
        (vec![], (400, "invalid_header")),
        (vec![("Upload-Length", "-1")], (400, "invalid_header")),
        (vec![("Upload-Length", "0")], (422, "empty")),
        (vec![("Upload-Length", "50000001")], (413, "too_large")),
        (vec![("Upload-Length", "9"), ("Upload-Metadata", "tasks ZWFycw==")], (400, "invalid_option")),
    ] {
        let reply = tus(&service, "POST", "/api/uploads", &headers, &[]);
        assert_eq!(code(&reply), (expected.0, expected.1.into()), "{headers:?}");
    }
    assert_eq!(store.files(), Vec::<PathBuf>::new());

    let announced = [("Upload-Length", length.as_str()), ("Upload-Metadata", metadata)];
    let announced = tus(&service, "POST", "/api/uploads", &announced, &[]);
    assert_eq!(announced.status, 201);
    assert!(announced.header("upload-expires").unwrap().ends_with("gmt"));
    let place = announced.header("location").unwrap().to_owned();
    let send = |service: &Service, place: &str, offset: usize, piece: &[u8]| {
        let offset = offset.to_string();
        let kind = ("Content-Type", "application/offset+octet-stream");
        tus(service, "PATCH", place, &[kind, ("Upload-Offset", &offset)], piece)
    };
    let offset = |service: &Service, place: &str| {
        let reply = tus(service, "HEAD", place, &[], &[]);
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
        reply.header("upload-offset").unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(offset(&service, &place), 0);
    assert_eq!(send(&service, &place, 0, &film[..100]).header("upload-offset"), Some("100"));
    assert_eq!(code(&send(&service, &place, 0, &film[..100])), (409, "wrong_offset".into()));
    assert_eq!(code(&send(&service, &place, 200, &film[200..])), (409, "wrong_offset".into()));
    let untyped = tus(&service, "PATCH", &place, &[("Upload-Offset", "100")], &film[100..]);
    assert_eq!(code(&untyped), (415, "not_a_piece".into()));
    assert_eq!(offset(&service, &place), 100);

    // A connection that breaks off in a piece: what has come is kept.
    let mut stream = TcpStream::connect(service.address).unwrap();
    let head = format!(
        "PATCH {place} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 100\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {}\r\n\r\n",
        film.len() - 100
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&film[100..5000]).unwrap();
    find("it is being taken", || (service.metric("vigie_upload_bytes_total") >= 4900.0).then_some(()));
    // The client comes back while the server still waits on the dead connection.
    assert_eq!(offset(&service, &place), 5000);
    drop(stream);

    // A server that is killed loses nothing that it had said to have.
    service.kill();
    let service = store.serve(QUICK);
    assert_eq!(offset(&service, &place), 5000);
    let too_long = [&film[5000..], b"x"].concat();
    assert_eq!(code(&send(&service, &place, 5000, &too_long)), (413, "too_large".into()));
    let last = send(&service, &place, offset(&service, &place), &film[5000..]);
    assert_eq!(last.status, 204, "{}", String::from_utf8_lossy(&last.body));
    let id = last.header("vigie-job").unwrap().to_owned();
    let job = ended(service.address, &id);
    assert_eq!((job["state"].as_str(), job["name"].as_str()), (Some("done"), Some("film.mp4")), "{job}");
    assert_eq!(job["options"], serde_json::json!({ "tasks": ["faces"], "every": 5 }));
    let whole = tus(&service, "HEAD", &place, &[], &[]);
    assert_eq!(whole.header("vigie-job"), Some(id.as_str()));
    assert_eq!(whole.header("upload-offset"), Some(length.as_str()));
    let counted = |outcome: &str| service.metric(&format!("vigie_uploads_total{{outcome=\"{outcome}\"}}"));
    assert_eq!(counted("taken"), 1.0, "and asked about again");

    // With the first piece in the announcement; no video, however small its pieces; given up.
    let kind = ("Content-Type", "application/offset+octet-stream");
    let at_once = tus(&service, "POST", "/api/uploads", &[kind, ("Upload-Length", &length)], &film);
    assert_eq!((at_once.status, at_once.header("vigie-job").is_some()), (201, true));
    assert_eq!(counted("taken"), 2.0);
    let announce = |length: &str| {
        let reply = tus(&service, "POST", "/api/uploads", &[("Upload-Length", length)], &[]);
        reply.header("location").unwrap().to_owned()
    };
    let playlist = announce("2000");
    let text = [&b"#EXTM3U\n"[..], &[b'a'; 1992]].concat();
    assert_eq!(send(&service, &playlist, 0, &text[..500]).status, 204);
    assert_eq!(code(&send(&service, &playlist, 500, &text[500..])), (415, "unsupported_type".into()));
    assert_eq!(tus(&service, "HEAD", &playlist, &[], &[]).status, 404);
    let at_first_sight = announce("2000");
    assert_eq!(code(&send(&service, &at_first_sight, 0, &text)), (415, "unsupported_type".into()));
    let unwanted = announce("2000");
    assert_eq!(send(&service, &unwanted, 0, &film[..500]).status, 204);
    assert_eq!(tus(&service, "DELETE", &unwanted, &[], &[]).status, 204);
    assert_eq!(tus(&service, "HEAD", &unwanted, &[], &[]).status, 404);
    let unknown = format!("/api/uploads/{}", "0".repeat(32));
    assert_eq!(code(&send(&service, &unknown, 0, b"x")), (404, "not_found".into()));
    // Who only asks sends nothing that could be refused.
    let refused = counted("refused");
    for method in ["HEAD", "DELETE"] {
        assert_eq!(tus(&service, method, &unknown, &[], &[]).status, 404);
    }
    assert_eq!(counted("refused"), refused);
    assert_eq!(tus(&service, "HEAD", "/api/uploads/nonsense", &[], &[]).status, 404);
}
