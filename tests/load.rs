//! `vigie load` as people call it: against a running service, and against one that refuses or is not there.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::process::{Command, Output};

use common::cluster::{Process, eventually};
use common::process::{Service, vigie};
use serde_json::Value;

fn load(url: &str, arguments: &[&str]) -> Output {
    let mut command: Command = vigie();
    command.args(["load", url]).args(arguments).output().unwrap()
}

#[test]
fn sessions_and_pictures_come_back_as_figures() {
    let service = Service::start(&["--max-sessions", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("load.json"), folder.path().join("load.html"));
    let url = format!("http://{}", service.address);
    let run = load(
        &url,
        &[
            "--sessions=3",
            "--ramp=3",
            "--seconds=8",
            "--size=320x240",
            "--max-rate=4",
            "--output=both",
            "--predict=1",
            "--json",
            json.to_str().unwrap(),
            "--html",
            html.to_str().unwrap(),
        ],
    );
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let figures: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let sessions = &figures["sessions"];
    assert_eq!((&sessions["wanted"], &sessions["joined"]), (&3.into(), &2.into()), "{sessions}");
    assert!(
        sessions["failed_tries"]["busy"].as_u64().unwrap() > 0,
        "the third was told to come back: {sessions}"
    );
    assert_eq!(sessions["lost"], serde_json::json!({}));
    assert_eq!(figures["joining"]["first_result_ms"]["count"], 2);
    let video = &figures["video"];
    let fps = |of: &str| video[of]["p50"].as_f64().unwrap();
    assert!(fps("sent_fps") > 5.0 && fps("annotated_fps") > 1.0, "{video}");
    let recognised = fps("recognised_fps");
    assert!(recognised > 0.2 && recognised < 6.0, "the limit of 4 fps is kept: {recognised}");
    assert!(figures["predict"]["answered"].as_u64().unwrap() > 0);
    assert_eq!(figures["seconds"].as_array().unwrap().len(), 9);

    let page = std::fs::read_to_string(html).unwrap();
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(!page.contains("<script") && !page.contains("NaN") && page.contains("of 3 never joined"));
}

#[test]
fn what_cannot_work_is_said_and_fails() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("ws://{closed}");
    for (url, arguments, said) in [
        ("nonsense", &[][..], "is not the address of a service"),
        (closed.as_str(), &["--sessions=1", "--seconds=1"], "no session was joined"),
        (&closed, &["--sessions=0"], "nothing to do"),
        (&closed, &["--rate=0"], "not between 0 and 1000"),
        (&closed, &["--clip=Cargo.toml"], "not an IVF file"),
    ] {
        let run = load(url, arguments);
        let text = String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success() && text.contains(said), "{url} {arguments:?}: {text}");
    }
}

#[tokio::test]
async fn sessions_of_a_killed_worker_are_counted_and_come_back() {
    const TOKEN: &str = "the-cluster-of-this-test";
    let worker = || {
        let mut command = vigie();
        command.args(["worker", "--control=127.0.0.1:0", "--media=127.0.0.1:0", "--lanes=1"]);
        Process::start(command.env("VIGIE_CLUSTER_TOKEN", TOKEN))
    };
    let (mut first, second) = (worker(), worker());
    let mut command = vigie();
    let workers = format!("{},{}", first.address, second.address);
    command.args(["signal", "--listen=127.0.0.1:0", "--workers", &workers]);
    let front = Process::start(command.env("VIGIE_CLUSTER_TOKEN", TOKEN));
    eventually("the front is ready", || front.is_ready()).await;

    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let mut visitors = vigie();
    visitors.args(["load", &format!("http://{}", front.address), "--sessions=4", "--ramp=4", "--seconds=25"]);
    visitors.args(["--size=320x240", "--max-rate=2", "--tasks=faces", "--json"]).arg(&json);
    let mut visitors = visitors.spawn().unwrap();
    let active = |worker: &Process| worker.metric("vigie_sessions_active");
    eventually("four sessions", || active(&first) + active(&second) == 4.0).await;
    // Enough that each of its sessions has had some.
    let reports = |worker: &Process| {
        let metrics = worker.get("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix("vigie_frames_total{stage=\"total\"} "));
        line.map_or(0.0, |count| count.parse::<f64>().unwrap())
    };
    eventually("reports", || reports(&first) >= 12.0).await;
    let moved = active(&first);
    assert!(moved > 0.0, "sessions spread");
    first.kill();
    assert!(visitors.wait().unwrap().success());

    let figures: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let lost = figures["sessions"]["lost"].as_object().unwrap();
    assert_eq!(lost.values().filter_map(Value::as_f64).sum::<f64>(), moved, "{}", figures["sessions"]);
    let held =
        figures["visitors"].as_array().unwrap().iter().map(|visitor| visitor["sessions"].as_u64().unwrap());
    assert_eq!(held.sum::<u64>(), 4 + moved as u64, "each found another worker: {}", figures["sessions"]);
}
