//! `vigie doctor` against real deployments: one that is well, and several that are broken on purpose.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "common/cluster.rs"]
mod process;
#[path = "common/turn.rs"]
mod turn;

use std::process::Command;

use process::{Process, eventually, vigie};
use serde_json::Value;
use turn::{SECRET, TurnServer, WORKERS, await_tcp, certificate, free_address};

const CLUSTER: &str = "the-cluster-of-this-test";

/// What the doctor found, and whether it was content.
struct Diagnosis {
    content: bool,
    findings: Vec<Value>,
}

impl Diagnosis {
    /// Verdict and text of each finding of a check.
    fn of(&self, check: &str) -> Vec<(String, String)> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let found = self.findings.iter().filter(|finding| finding["check"] == check);
        found.map(|finding| (text(finding, "verdict"), text(finding, "what"))).collect()
    }

    fn verdicts(&self, check: &str) -> Vec<String> {
        self.of(check).into_iter().map(|(verdict, _)| verdict).collect()
    }

    fn has(&self, check: &str, verdict: &str, part: &str) -> bool {
        self.of(check).iter().any(|(found, what)| found == verdict && what.contains(part))
    }
}

fn doctor(prepare: impl FnOnce(&mut Command)) -> Diagnosis {
    let mut command = vigie();
    command.args(["doctor", "--json"]).env_remove("VIGIE_TURN_SECRET");
    prepare(&mut command);
    let run = command.output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error} in {text:?}: {}", String::from_utf8_lossy(&run.stderr));
    });
    for finding in told["findings"].as_array().unwrap() {
        assert_eq!(
            finding["verdict"] == "ok",
            finding["advice"].is_null(),
            "advice for what is wrong: {finding}"
        );
    }
    Diagnosis { content: run.status.success(), findings: told["findings"].as_array().unwrap().clone() }
}

fn worker() -> Process {
    let mut command = vigie();
    command.args(["worker", "--control=127.0.0.1:0", "--media=127.0.0.1:0", "--lanes=1"]);
    Process::start(command.env("VIGIE_CLUSTER_TOKEN", CLUSTER))
}

fn front(worker: &str, relays: &[String], secret: &str) -> Process {
    let mut command = vigie();
    command.args(["signal", "--listen=127.0.0.1:0", "--workers", worker]).env("VIGIE_CLUSTER_TOKEN", CLUSTER);
    if !relays.is_empty() {
        command.args(["--turn-url", &relays.join(",")]).env("VIGIE_TURN_SECRET", secret);
    }
    Process::start(&mut command)
}

fn url(front: &Process) -> String {
    format!("http://{}", front.address)
}

#[tokio::test]
async fn a_deployment_that_is_well_passes_over_every_transport() {
    let folder = tempfile::tempdir().unwrap();
    let (pem, key) = certificate(folder.path());
    let tls = free_address();
    let environment = [("VIGIE_TURN_CERTIFICATE", pem.as_str()), ("VIGIE_TURN_KEY", key.as_str())];
    let relay = TurnServer::start_with(&[&format!("--tls-listening-port={}", tls.port())], &environment);
    await_tcp(tls);
    let worker = worker();
    let relays = [
        format!("turn:{}?transport=udp", relay.address),
        format!("turn:{}?transport=tcp", relay.address),
        format!("turns:{tls}?transport=tcp"),
    ];
    let front = front(&worker.address.to_string(), &relays, SECRET);
    eventually("the front is ready", || front.is_ready()).await;

    let found = doctor(|command| {
        command.args([&url(&front), "--skip-machine", "--ca", &pem, "--turn-workers", WORKERS]);
        command.env("VIGIE_TURN_SECRET", SECRET);
    });
    assert!(found.content, "{:#?}", found.findings);
    assert_eq!(found.verdicts("session"), ["ok"]);
    assert_eq!(found.verdicts("turn"), ["ok"; 3]);
    assert_eq!(found.verdicts("turn reach"), ["ok"; 3]);
    assert_eq!(found.verdicts("turn credentials"), ["ok"; 3]);
    assert!(
        found.of("turn credentials").iter().all(|(_, what)| what.contains("expired")),
        "{found:?}",
        found = found.of("turn credentials")
    );

    // Without the certificate's authority the same relay cannot be believed, and without the secret less is known.
    let found = doctor(|command| {
        command.args([&url(&front), "--skip-machine"]);
    });
    assert!(!found.content);
    assert!(found.has("turn", "fail", "TLS"), "{:?}", found.of("turn"));
    assert!(found.has("turn credentials", "warn", "not checked"));
}

#[tokio::test]
async fn a_front_with_another_secret_than_its_relay_fails() {
    let relay = TurnServer::start(&[]);
    let worker = worker();
    let urls = [format!("turn:{}?transport=udp", relay.address)];
    let front = front(&worker.address.to_string(), &urls, "not-the-relays-secret");
    eventually("the front is ready", || front.is_ready()).await;
    let found = doctor(|command| {
        command.args([&url(&front), "--skip-machine"]);
    });
    assert!(!found.content);
    assert!(found.has("turn", "fail", "refuses the credential"), "{:#?}", found.findings);
    assert_eq!(found.verdicts("session"), ["ok"], "which has nothing to do with the relay");
}

#[tokio::test]
async fn a_relay_to_everywhere_fails() {
    let relay = TurnServer::start_careless();
    let worker = worker();
    let urls = [format!("turn:{}?transport=udp", relay.address)];
    let front = front(&worker.address.to_string(), &urls, SECRET);
    eventually("the front is ready", || front.is_ready()).await;
    let found = doctor(|command| {
        command.args([&url(&front), "--skip-machine"]);
    });
    assert!(!found.content);
    assert_eq!(found.verdicts("turn"), ["ok"], "it does relay");
    for open in ["10.0.0.1", "192.168.0.1", "169.254.169.254", "172.16.0.1", "100.64.0.1"] {
        assert!(found.has("turn reach", "fail", open), "{open}: {:#?}", found.of("turn reach"));
    }
}

#[test]
fn a_front_without_workers_and_a_service_that_is_not_there_fail() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let front = front(&closed, &[], SECRET);
    let found = doctor(|command| {
        command.args([&url(&front), "--skip-machine"]);
    });
    assert!(!found.content);
    assert_eq!(found.verdicts("service"), ["ok"]);
    assert!(found.has("readiness", "fail", "no worker"), "{:#?}", found.findings);
    assert_eq!(found.verdicts("session"), ["fail"]);
    assert_eq!(found.verdicts("turn"), ["warn"], "there is no relay");

    let found = doctor(|command| {
        command.args([&format!("http://{closed}"), "--skip-machine"]);
    });
    assert!(!found.content);
    assert_eq!(found.verdicts("service"), ["fail"]);
}

#[test]
fn this_machine_is_well_and_one_without_models_is_not() {
    let well = doctor(|_| {});
    assert!(well.content, "{:#?}", well.findings);
    for check in ["models", "onnxruntime", "gpu", "codecs", "processors", "open files", "udp"] {
        assert!(!well.of(check).is_empty(), "{check} is looked at");
    }

    let empty = tempfile::tempdir().unwrap();
    let found = doctor(|command| {
        command.arg("--models").arg(empty.path()).args(["--ort-library", "Cargo.toml"]);
    });
    assert!(!found.content);
    assert_eq!(found.verdicts("models"), ["fail"; 3]);
    assert_eq!(found.verdicts("onnxruntime"), ["fail"]);
}
