//! Fronts and workers as processes of their own, joined over real WebRTC and killed for real.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "common/cluster.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message};
use vigie::load::clip::Clip;
use vigie::load::publisher::{PublisherConfig, publish};

use process::{Process, Socket, eventually, next_message, vigie};

const TOKEN: &str = "the token of the test's own cluster";

fn token() -> String {
    TOKEN.replace(' ', "-")
}

fn worker(name: &str, max_sessions: &str) -> Process {
    worker_with(name, max_sessions, &[])
}

fn worker_with(name: &str, max_sessions: &str, arguments: &[&str]) -> Process {
    let mut command = vigie();
    command.args(["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    command.args(["--name", name, "--max-sessions", max_sessions]).args(arguments);
    Process::start(command.env("VIGIE_CLUSTER_TOKEN", token()))
}

fn front_on(listen: SocketAddr, workers: &[&Process]) -> Process {
    let workers: Vec<String> = workers.iter().map(|worker| worker.address.to_string()).collect();
    let mut command = vigie();
    command.args(["signal", "--listen", &listen.to_string(), "--workers", &workers.join(",")]);
    Process::start(command.env("VIGIE_CLUSTER_TOKEN", token()))
}

fn front(workers: &[&Process]) -> Process {
    front_on(SocketAddr::from(([127, 0, 0, 1], 0)), workers)
}

/// Opens a session; its socket and its welcome, or the error that it got.
async fn join(front: &Process) -> (Socket, Value) {
    let mut socket = front.socket("").await.unwrap();
    let first = next_message(&mut socket).await;
    (socket, first)
}

fn worker_of(welcome: &Value) -> String {
    let id = welcome["session"].as_str().unwrap_or_else(|| panic!("no session in {welcome}"));
    id.split('.').next().unwrap().to_owned()
}

fn publisher(server: SocketAddr, duration: Duration) -> PublisherConfig {
    let clip = Arc::new(Clip::built_in());
    PublisherConfig {
        server: server.into(),
        clip,
        rate: 15.0,
        duration,
        settings: Value::Null,
        stop_at_first_report: false,
        reads_counter: false,
    }
}

#[tokio::test]
async fn sessions_spread_and_full_workers_are_passed_over() {
    let (small, large) = (worker("small", "1"), worker("large", "3"));
    let front = front(&[&small, &large]);

    let mut sockets = BTreeMap::<String, Vec<Socket>>::new();
    for _ in 0..4 {
        let (socket, welcome) = join(&front).await;
        sockets.entry(worker_of(&welcome)).or_default().push(socket);
    }
    let spread: Vec<(&str, usize)> = sockets.iter().map(|(name, held)| (name.as_str(), held.len())).collect();
    assert_eq!(spread, [("large", 3), ("small", 1)]);
    assert!(!small.is_ready() && !large.is_ready());
    // Which the front is told.
    eventually("the front has no room", || !front.is_ready()).await;
    assert_eq!(large.metric("vigie_worker_load_ratio"), 1.0);

    let (_, refused) = join(&front).await;
    assert_eq!((refused["code"].as_str(), refused["retry_after_s"].as_u64()), (Some("busy"), Some(3)));

    let mut leaving = sockets.get_mut("small").unwrap().pop().unwrap();
    leaving.send(Message::text(r#"{"type":"bye"}"#)).await.unwrap();
    eventually("the small worker has room", || small.is_ready()).await;
    let (_socket, welcome) = join(&front).await;
    assert_eq!(worker_of(&welcome), "small");
}

#[tokio::test]
async fn equal_workers_share_the_sessions() {
    let (one, two) = (worker("one", "20"), worker("two", "20"));
    let front = front(&[&one, &two]);
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(join(&front).await);
    }
    let on_one = held.iter().filter(|(_, welcome)| worker_of(welcome) == "one").count();
    assert!((4..=8).contains(&on_one), "{on_one} of 12 on one worker");
}

#[tokio::test]
async fn a_killed_worker_is_passed_over_at_once() {
    let (mut doomed, other) = (worker("doomed", "9"), worker("other", "9"));
    let front = front(&[&doomed, &other]);
    let (mut orphan, welcome) = loop {
        let joined = join(&front).await;
        if worker_of(&joined.1) == "doomed" {
            break joined;
        }
    };
    doomed.kill();
    let killed = Instant::now();
    assert_eq!(next_message(&mut orphan).await["code"], "worker_lost");
    assert_eq!(next_message(&mut orphan).await, Value::Null, "the page's socket is closed");
    assert!(killed.elapsed() < Duration::from_secs(1), "after {:?}", killed.elapsed());
    for _ in 0..4 {
        let (_socket, welcome) = join(&front).await;
        assert_eq!(worker_of(&welcome), "other");
    }
    assert!(front.is_ready());
    let unreachable = "vigie_workers{state=\"unreachable\"} 1";
    eventually("the front counts it", || front.get("/metrics").contains(unreachable)).await;

    // The session went with its worker: nothing else answers to its token.
    let mut back = front.socket(&format!("?resume={}", welcome["resume"].as_str().unwrap())).await.unwrap();
    assert_eq!(next_message(&mut back).await["code"], "unknown_session");
}

/// Opens a session on the named worker, however often that takes.
async fn join_on(front: &Process, name: &str) -> (Socket, Value) {
    let mut held = Vec::new();
    for _ in 0..40 {
        let joined = join(front).await;
        if worker_of(&joined.1) == name {
            return joined;
        }
        held.push(joined);
    }
    panic!("{name} is never chosen");
}

/// Sends SIGTERM.
fn terminate(process: &Process) {
    let sent = Command::new("kill").args(["-TERM", &process.child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits for the process to end by itself; whether it was content.
async fn ended(process: &mut Process) -> bool {
    let mut status = None;
    eventually("the process ends", || {
        status = process.child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap().success()
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_has_its_sessions_moved_first() {
    let (mut leaving, other) =
        (worker_with("leaving", "60", &["--drain-seconds", "600"]), worker("other", "60"));
    let front = front(&[&leaving, &other]);
    let (mut moved, welcome) = join_on(&front, "leaving").await;
    let (mut detached, _) = join_on(&front, "leaving").await;
    terminate(&leaving);
    assert_eq!(next_message(&mut moved).await["type"], "migrate");
    assert_eq!(next_message(&mut detached).await["type"], "migrate");
    // The front has heard it as well: nothing is placed there from this moment on.
    for _ in 0..6 {
        let (_socket, welcome) = join(&front).await;
        assert_eq!(worker_of(&welcome), "other");
    }
    assert!(leaving.get("/readyz").contains("shutting down"));
    assert!(leaving.get("/livez").starts_with("HTTP/1.1 200"));
    eventually("the front counts it", || front.get("/metrics").contains("{state=\"draining\"} 1")).await;

    // A page that was between two sockets hears it on the next.
    let resume = format!("?resume={}", welcome["resume"].as_str().unwrap());
    let mut back = front.socket(&resume).await.unwrap();
    assert_eq!(next_message(&mut back).await["type"], "welcome");
    assert_eq!(next_message(&mut back).await["type"], "migrate");

    back.send(Message::text(r#"{"type":"bye"}"#)).await.unwrap();
    eventually("one has gone", || leaving.metric("vigie_sessions_active") < 2.0).await;
    assert!(leaving.child.try_wait().unwrap().is_none(), "it waits for the other");
    detached.send(Message::text(r#"{"type":"bye"}"#)).await.unwrap();
    assert!(ended(&mut leaving).await);
}

#[tokio::test]
async fn sessions_that_cannot_move_are_told_goodbye_at_the_deadline() {
    let mut only = worker_with("only", "4", &["--drain-seconds", "1"]);
    let front = front(&[&only]);
    let (mut staying, _) = join(&front).await;
    terminate(&only);
    assert_eq!(next_message(&mut staying).await["type"], "migrate");
    let (_, refused) = join(&front).await;
    assert_eq!(refused["code"], "busy", "{refused}");
    assert_eq!(next_message(&mut staying).await["type"], "bye");
    assert!(ended(&mut only).await);
}

#[tokio::test]
async fn a_second_request_to_stop_ends_a_worker_at_once() {
    let mut hurried = worker_with("hurried", "4", &["--drain-seconds", "600"]);
    let front = front(&[&hurried]);
    let (mut staying, _) = join(&front).await;
    terminate(&hurried);
    assert_eq!(next_message(&mut staying).await["type"], "migrate");
    terminate(&hurried);
    assert_eq!(next_message(&mut staying).await["type"], "bye");
    assert!(ended(&mut hurried).await);
}

#[tokio::test]
async fn a_worker_that_cannot_keep_the_least_rate_takes_nobody_until_it_can() {
    let short = worker_with("short", "40", &["--slowdown", "10", "--min-rate", "15"]);
    let other = worker("other", "40");
    let (only_short, both) = (front(&[&short]), front(&[&short, &other]));
    let session = tokio::spawn(publish(publisher(only_short.address, Duration::from_secs(600))));
    eventually("the worker is full", || short.metric("vigie_worker_load_ratio") >= 1.0).await;
    assert!(short.get("/readyz").contains("no headroom"));
    for _ in 0..6 {
        let (_socket, welcome) = join(&both).await;
        assert_eq!(worker_of(&welcome), "other");
    }
    let (_, refused) = join(&only_short).await;
    assert_eq!((refused["code"].as_str(), refused["retry_after_s"].as_u64()), (Some("busy"), Some(3)));

    session.abort();
    drop(session);
    eventually("the worker has headroom again", || short.is_ready()).await;
    let (_socket, welcome) = join(&only_short).await;
    assert_eq!(worker_of(&welcome), "short");
}

#[tokio::test]
async fn by_count_a_slow_worker_takes_sessions_all_the_same() {
    let slow = worker_with("slow", "4", &["--slowdown", "10", "--min-rate", "15", "--admit", "count"]);
    let front = front(&[&slow]);
    let session = tokio::spawn(publish(publisher(front.address, Duration::from_secs(600))));
    eventually("reports flow", || slow.get("/metrics").contains("vigie_frames_total{stage=\"total\"}")).await;
    // Longer than measuring would take to close it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(slow.metric("vigie_worker_load_ratio"), 0.25);
    let (_socket, welcome) = join(&front).await;
    assert_eq!(worker_of(&welcome), "slow");
    session.abort();
}

#[tokio::test]
async fn media_outlives_its_front_and_is_found_again_through_another() {
    let worker = worker("w1", "4");
    let mut front = front(&[&worker]);
    let address = front.address;
    let started = Instant::now();
    let session = tokio::spawn(publish(publisher(address, Duration::from_secs(8))));
    eventually("reports flow", || worker.get("/metrics").contains("vigie_frames_total{stage=\"total\"}"))
        .await;
    front.kill();
    let killed = started.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let gone = killed..started.elapsed();
    let front = front_on(address, &[&worker]);

    let outcome = session.await.unwrap().unwrap();
    assert_eq!(outcome.reattached, 1, "the new front leads back to the session");
    let meanwhile = outcome.reports.iter().filter(|report| gone.contains(&report.at)).count();
    assert!(meanwhile > 0, "no report came while there was no front");
    assert_eq!(worker.metric("vigie_sessions_total"), 1.0, "it was the same session all along");
    eventually("the session ends", || worker.metric("vigie_sessions_active") == 0.0).await;
    assert!(front.is_ready());
}

#[test]
fn pictures_go_to_whichever_worker_is_there() {
    let (mut first, second) = (worker("first", "1"), worker("second", "1"));
    let front = front(&[&first, &second]);
    let picture =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pictures/astronaut.jpg")).unwrap();
    let post = || {
        let mut stream = TcpStream::connect(front.address).unwrap();
        let (host, length) = (front.address, picture.len());
        let head = format!("POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n");
        write!(stream, "{head}Content-Type: image/jpeg\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(&picture).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for round in 0..4 {
        if round == 1 {
            first.kill();
        }
        let answer = post();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(r#""label":"person""#),
            "{round}: {answer}"
        );
    }
}

#[tokio::test]
async fn invented_tokens_are_refused_at_the_door() {
    let worker = worker("w1", "4");
    let front = front(&[&worker]);
    let (_socket, welcome) = join(&front).await;
    let token = welcome["resume"].as_str().unwrap();
    let (id, proof) = token.split_once('~').unwrap();
    let tampered = [
        token.replacen("w1", "w2", 1),
        format!("{id}~{:032x}", 7),
        format!("w1.0123456789abcdef.{proof}~{proof}"),
        token.to_uppercase(),
        "garbage".to_owned(),
    ];
    for token in tampered {
        let Err(Error::Http(refused)) = front.socket(&format!("?resume={token}")).await else {
            panic!("{token} was taken");
        };
        assert_eq!(refused.status(), 400, "{token}");
        let body: Value = serde_json::from_slice(refused.body().as_deref().unwrap()).unwrap();
        assert_eq!(body["error"]["code"], "invalid_resume_token");
    }
    assert!(front.get("/metrics").contains("vigie_refusals_total{reason=\"invalid_resume_token\"} 5"));
    let mut back = front.socket(&format!("?resume={token}")).await.unwrap();
    assert_eq!(next_message(&mut back).await["session"], welcome["session"]);
}

#[tokio::test]
async fn strangers_to_the_cluster_get_nothing_of_a_worker() {
    let worker = worker("w1", "4");
    for header in ["", "Authorization: Bearer wrong-but-long-enough\r\n", "Authorization: Basic eDp5\r\n"] {
        for path in ["/control/v1/status", "/control/v1/session"] {
            let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
            let answer = worker.get_with(path, &format!("{header}{upgrade}"));
            assert!(!answer.contains(" 200 ") && !answer.contains(" 101 "), "{path} {header}: {answer}");
        }
        let answer = worker.get_with("/control/v1/status", header);
        assert!(answer.starts_with("HTTP/1.1 401"), "{header}: {answer}");
    }
    let own = worker.get_with("/control/v1/status", &format!("Authorization: Bearer {}\r\n", token()));
    assert!(own.contains(r#""name":"w1","sessions":0,"max_sessions":4,"load_ratio":0."#), "{own}");

    let mut command = vigie();
    command.args(["signal", "--listen", "127.0.0.1:0", "--workers", &worker.address.to_string()]);
    let stranger = Process::start(command.env("VIGIE_CLUSTER_TOKEN", "another-token-altogether"));
    assert!(stranger.get("/readyz").contains("no worker can be reached"));
    let (_socket, refused) = join(&stranger).await;
    assert_eq!(refused["code"], "no_worker");
    assert_eq!(worker.metric("vigie_sessions_total"), 0.0);
}

#[tokio::test]
async fn workers_that_come_later_are_found_by_name() {
    let late = worker("late", "2");
    let name = format!("localhost:{}", late.address.port());
    let mut command = vigie();
    // A name that does not resolve must not keep the others from being found.
    command.args(["signal", "--listen", "127.0.0.1:0", "--workers", &format!("nowhere.invalid:1,{name}")]);
    let front = Process::start(command.env("VIGIE_CLUSTER_TOKEN", token()));
    let (_socket, welcome) = join(&front).await;
    assert_eq!(worker_of(&welcome), "late");
}

#[tokio::test]
async fn a_front_without_workers_becomes_ready_when_one_comes() {
    let first = worker("w1", "2");
    let address = first.address.to_string();
    let front = front(&[&first]);
    drop(first);
    eventually("the front notices", || !front.is_ready()).await;
    let mut command = vigie();
    command.args(["worker", "--control", &address, "--media", "127.0.0.1:0", "--lanes", "1"]);
    let _second = Process::start(command.env("VIGIE_CLUSTER_TOKEN", token()));
    eventually("the front is ready again", || front.is_ready()).await;
}

#[test]
fn secrets_are_neither_shown_nor_guessable() {
    let said = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        (output.status.success(), [output.stdout, output.stderr].concat())
    };
    for subcommand in ["serve", "signal", "worker"] {
        let mut command = vigie();
        command
            .args([subcommand, "--help"])
            .env("VIGIE_CLUSTER_TOKEN", "hush-hush")
            .env("VIGIE_TURN_SECRET", "hush-hush");
        let (_, text) = said(&mut command);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("VIGIE_") && !text.contains("hush"), "{text}");
    }
    let table: &[(&[&str], &str, &str)] = &[
        (&["worker"], "hush-hush", "cluster token must have 16"),
        (&["signal", "--workers", "127.0.0.1:1"], "hush-hush", "cluster token must have 16"),
        (&["worker", "--name", "W/1"], "hush-hush-hush-hush", "--name"),
        (
            &["signal", "--workers", "127.0.0.1:1", "--listen", "0.0.0.0:0"],
            "hush-hush-hush-hush",
            "--insecure-open",
        ),
        (
            &["signal", "--workers", "127.0.0.1:1", "--turn-url", "turn:127.0.0.1"],
            "hush-hush-hush-hush",
            "--turn-secret",
        ),
        (&["signal"], "hush-hush-hush-hush", "--workers"),
    ];
    for (arguments, token, expected) in table {
        let mut command = vigie();
        let (succeeded, text) = said(command.args(*arguments).env("VIGIE_CLUSTER_TOKEN", token));
        let text = String::from_utf8(text).unwrap();
        assert!(!succeeded && text.contains(expected) && !text.contains("hush"), "{arguments:?}: {text}");
    }
    let (succeeded, text) = said(vigie().args(["worker"]).env_remove("VIGIE_CLUSTER_TOKEN"));
    assert!(!succeeded && String::from_utf8(text).unwrap().contains("--cluster-token"));
}
