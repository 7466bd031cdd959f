//! A running service, asked as a page would: pages, readiness, ICE servers, a session from end to end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Response};
use serde::Deserialize;
use serde_json::Value;

use super::finding::Findings;
use super::{DoctorArgs, explain, relay};
use crate::load::clip::Clip;
use crate::load::publisher::{Outcome, Publisher, PublisherConfig, Until};
use crate::load::target::{Target, TargetError};
use crate::signalling::ice::Credential;

/// A session that has no result by then does not work.
const SESSION_LIMIT: Duration = Duration::from_secs(30);
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
    let session = session(&target, findings).await;
    let relays = ice_servers(&target, session.as_deref(), findings).await;
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

/// Asks as a page asks: credentials are for sessions.
async fn ice_servers(target: &Target, session: Option<&str>, findings: &mut Findings) -> Vec<Relay> {
    let query = session.map(|session| format!("?session={session}")).unwrap_or_default();
    let told = match get(target, &format!("/api/ice-servers{query}")).await {
        Ok(answer) if answer.status().is_success() => serde_json::from_slice::<Told>(answer.body()).ok(),
        Ok(answer) => {
            findings.fail(
                "ice servers",
                format!("refused with {}", answer.status()),
                "does it need --token?",
            );
            return Vec::new();
        }
        Err(error) => {
            findings.fail("ice servers", explain(&error), "look at the front's log");
            return Vec::new();
        }
    };
    let Some(told) = told else {
        findings.fail("ice servers", "the answer cannot be read", "is a proxy in between?");
        return Vec::new();
    };
    let urls: usize = told.ice_servers.iter().map(|server| server.urls.len()).sum();
    findings.ok("ice servers", format!("{urls} URLs"));
    let relays = told.ice_servers.into_iter().filter_map(|server| {
        let credential = Credential { username: server.username?, credential: server.credential? };
        Some(Relay { urls: server.urls, credential })
    });
    relays.collect()
}

/// Holds a session until its first report; its id, if it got one.
async fn session(target: &Target, findings: &mut Findings) -> Option<String> {
    let config = PublisherConfig {
        server: target.clone(),
        clip: Arc::new(Clip::built_in_small()),
        rate: 15.0,
        duration: SESSION_LIMIT,
        settings: Value::Null,
        stop_at_first_report: true,
        reads_counter: false,
    };
    let advice = "pages on this network would fail as well: open the workers' UDP ports, or give pages a relay \
                  (--turn-url). This check speaks to workers directly only";
    let mut publisher = match Publisher::open(config).await {
        Ok(publisher) => publisher,
        Err(error) => {
            findings.fail("session", explain(&error), "is a token needed (--token), or the service full?");
            return None;
        }
    };
    let stopped = publisher.run(Until::FirstReport).await;
    publisher.leave().await;
    match stopped {
        Ok(_) => note_session(&publisher.outcome, findings, advice),
        Err(error) => findings.fail("session", explain(&error), advice),
    }
    publisher.outcome.session
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
