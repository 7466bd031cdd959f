//! A running service, asked as a page would: pages, readiness, ICE servers, a session from end to end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::{Method, Response};
use serde::Deserialize;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::finding::Findings;
use super::{DoctorArgs, explain, relay};
use crate::load::clip::Clip;
use crate::load::publisher::{Outcome, PublisherConfig, publish};
use crate::load::target::{Target, TargetError};
use crate::signalling::ice::Credential;

/// A session that has no result by then does not work.
const SESSION_LIMIT: Duration = Duration::from_secs(30);
/// How long a first message on a signalling socket may take.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
/// A first result later than this is slow even over a slow network.
const SLOW: Duration = Duration::from_secs(3);

pub async fn check(url: &str, args: &DoctorArgs, findings: &mut Findings) {
    let target = match args.access.target(url).await {
        Ok(target) => target,
        Err(error) => {
            findings.fail("service", format!("{error:#}"), "check the URL, --ca and --token");
            return;
        }
    };
    if !pages(&target, findings).await {
        return;
    }
    readiness(&target, findings).await;
    let relays = ice_servers(&target, findings).await;
    session(&target, findings).await;
    relay::check(relays, args, findings).await;
}

async fn get(target: &Target, path: &str) -> Result<Response<Bytes>, TargetError> {
    target.ask(Method::GET, path, &[], Bytes::new()).await
}

async fn pages(target: &Target, findings: &mut Findings) -> bool {
    let url = target.url();
    match get(target, "/").await {
        Ok(answer) if answer.status().is_success() => {
            findings.ok("service", format!("{url} answers with its page"));
        }
        Ok(answer) => {
            let advice = "is this vigie's address, or does a proxy stand before it?";
            findings.fail("service", format!("{url} answers {} instead of a page", answer.status()), advice);
        }
        Err(error) => {
            findings.fail(
                "service",
                explain(&error),
                "is the service running, and does the address lead to it?",
            );
            return false;
        }
    }
    if url.starts_with("http:") && !target.address.ip().is_loopback() {
        findings.warn(
            "camera",
            "browsers open the camera only on secure pages, and this one is plain HTTP on another machine",
            "serve it by HTTPS",
        );
    }
    true
}

async fn readiness(target: &Target, findings: &mut Findings) {
    match get(target, "/readyz").await {
        Ok(answer) if answer.status().is_success() => findings.ok("readiness", "new sessions are taken"),
        Ok(answer) => {
            let text = String::from_utf8_lossy(answer.body()).trim().chars().take(200).collect::<String>();
            let advice = "are workers running, known to the front (--workers) and of the same cluster token?";
            findings.fail("readiness", format!("{}: {text}", answer.status()), advice);
        }
        Err(error) => findings.fail("readiness", explain(&error), "look at the front's log"),
    }
}

/// A TURN server as pages are told of it.
#[derive(Clone, Debug)]
pub struct Relay {
    pub urls: Vec<String>,
    pub credential: Credential,
}

#[derive(Deserialize)]
struct Told {
    ice_servers: Vec<ToldServer>,
}

#[derive(Deserialize)]
struct ToldServer {
    urls: Vec<String>,
    username: Option<String>,
    credential: Option<String>,
}

/// What the service tells a session of its own: credentials are given to sessions only.
async fn ice_servers(target: &Target, findings: &mut Findings) -> Vec<Relay> {
    let told = match tokio::time::timeout(WELCOME_LIMIT, welcome(target)).await {
        Ok(Ok(told)) => told,
        Ok(Err(said)) => {
            findings.fail("ice servers", said, "does it need --token? is it full?");
            return Vec::new();
        }
        Err(_) => {
            findings.fail("ice servers", "no welcome on the signalling socket", "look at the front's log");
            return Vec::new();
        }
    };
    let urls: usize = told.ice_servers.iter().map(|server| server.urls.len()).sum();
    findings.ok("ice servers", format!("{urls} URLs"));
    let relays = told.ice_servers.into_iter().filter_map(|server| {
        let credential = Credential { username: server.username?, credential: server.credential? };
        Some(Relay { urls: server.urls, credential })
    });
    relays.collect()
}

async fn welcome(target: &Target) -> Result<Told, String> {
    let mut socket = target.socket(None).await.map_err(|error| explain(&error))?;
    let said = socket.next().await;
    let _ = socket.close(None).await;
    let Some(Ok(Message::Text(text))) = said else {
        return Err("the signalling socket closed without a word".into());
    };
    serde_json::from_str(&text).map_err(|_| text.chars().take(200).collect())
}

async fn session(target: &Target, findings: &mut Findings) {
    let config = PublisherConfig {
        server: target.clone(),
        clip: Arc::new(Clip::built_in_small()),
        rate: 15.0,
        duration: SESSION_LIMIT,
        settings: Value::Null,
        stop_at_first_report: true,
    };
    let advice = "pages on this network would fail as well: open the workers' UDP ports, or give pages a relay \
                  (--turn-url). This check speaks to workers directly only";
    match publish(config).await {
        Ok(outcome) => note_session(&outcome, findings, advice),
        Err(error) => findings.fail("session", explain(&error), advice),
    }
}

fn note_session(outcome: &Outcome, findings: &mut Findings, advice: &str) {
    let joining = &outcome.joining;
    let ms =
        |step: Option<Duration>| step.map_or("never".into(), |d| format!("{:.0} ms", d.as_secs_f64() * 1e3));
    let steps = format!(
        "answer {}, ICE {}, DTLS {}, first result {}",
        ms(joining.answer),
        ms(joining.ice),
        ms(joining.dtls),
        ms(joining.first_report)
    );
    match joining.first_report {
        Some(first) if first > SLOW => {
            findings.warn(
                "session",
                steps,
                "slow: is the machine busy? compare with `vigie bench live` there",
            );
        }
        Some(_) => findings.ok("session", steps),
        None if joining.ice.is_none() => {
            findings.fail("session", format!("no UDP path to a worker ({steps})"), advice)
        }
        None if joining.dtls.is_none() => {
            findings.fail(
                "session",
                steps,
                "UDP passes, encryption does not come about: look at the worker's log",
            );
        }
        None => findings.fail(
            "session",
            steps,
            "media flows, but nothing is recognised: look at the worker's log",
        ),
    }
}
