//! A relay: does it let pages through, and nobody else, and to workers only?

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use super::deployment::Relay;
use super::finding::Findings;
use super::ranges::{FORBIDDEN, FORBIDDEN_V6, Range, probes};
use super::{DoctorArgs, explain};
use crate::load::target::resolve;
use crate::load::tls;
use crate::load::turn::{self, Client, Family, SUCCESS, Transport, TurnError, TurnUrl};
use crate::signalling::ice::Credential;

const CREDENTIALS: &str = "turn credentials";
const REACH: &str = "turn reach";

pub async fn check(relays: Vec<Relay>, args: &DoctorArgs, findings: &mut Findings) {
    if relays.is_empty() {
        findings.warn(
            "turn",
            "pages are given no relay",
            "fine on one network; over the internet run coturn as turn/README.md shows, and give its --turn-url",
        );
        return;
    }
    if args.turn_secret.is_none() {
        findings.warn(
            CREDENTIALS,
            "not checked that credentials which have expired are refused",
            "give the relay's secret as VIGIE_TURN_SECRET",
        );
    }
    for relay in relays {
        for url in &relay.urls {
            match find(url, args).await {
                Ok(server) => {
                    let (relay, args) = (relay.clone(), args.clone());
                    // The client blocks, and the answers of one server are few.
                    let checking = tokio::task::spawn_blocking(move || check_server(&server, &relay, &args));
                    match checking.await {
                        Ok(found) => findings.append(found),
                        Err(error) => {
                            findings.fail("turn", error.to_string(), "this is a fault of the doctor's")
                        }
                    }
                }
                Err(reason) => {
                    findings.fail("turn", format!("{url}: {reason}"), "check the front's --turn-url")
                }
            }
        }
    }
}

/// One transport of a TURN server.
struct Server {
    url: String,
    at: TurnUrl,
    address: SocketAddr,
    tls: Option<std::sync::Arc<tls::ClientConfig>>,
}

async fn find(url: &str, args: &DoctorArgs) -> Result<Server, String> {
    let at: TurnUrl = url.parse().map_err(|error: TurnError| explain(&error))?;
    let address = resolve(&at.host, at.port).await.map_err(|error| explain(&error))?;
    let tls = match at.transport {
        Transport::Tls => Some(tls::client(args.access.trust()).map_err(|error| explain(&error))?),
        Transport::Udp | Transport::Tcp => None,
    };
    Ok(Server { url: url.to_owned(), at, address, tls })
}

impl Server {
    fn client(&self, credential: &Credential) -> Result<Client, TurnError> {
        match (&self.at.transport, &self.tls) {
            (Transport::Tls, Some(tls)) => Client::tls(self.address, &self.at.host, tls.clone(), credential),
            (Transport::Udp, _) => Client::udp(self.address, credential),
            _ => Client::tcp(self.address, credential),
        }
    }

    fn allocate(&self, credential: &Credential) -> Result<u16, TurnError> {
        let mut client = self.client(credential)?;
        let status = client.allocate(None, turn::Relay::Udp)?;
        if status == SUCCESS {
            client.release()?;
        }
        Ok(status)
    }
}

fn check_server(server: &Server, relay: &Relay, args: &DoctorArgs) -> Findings {
    let mut findings = Findings::default();
    let url = &server.url;
    match server.allocate(&relay.credential) {
        Ok(SUCCESS) => findings.ok("turn", format!("{url} relays over {}", server.at.transport)),
        Ok(401 | 441) => {
            let what = format!("{url} refuses the credential that pages are given (401)");
            findings.fail(
                "turn",
                what,
                "front and coturn must share one secret, and their clocks must agree",
            );
            return findings;
        }
        Ok(status) => {
            let advice = "486 or 508: its quotas are used up; else look at coturn's log";
            findings.fail("turn", format!("{url} answers {status}"), advice);
            return findings;
        }
        Err(error @ TurnError::Unchallenged(_)) => {
            let advice =
                "anybody can relay through it: coturn needs use-auth-secret, see turn/turnserver.conf";
            findings.fail("turn", format!("{url}: {}", explain(&error)), advice);
            return findings;
        }
        Err(error) => {
            let advice = match server.at.transport {
                Transport::Tls => {
                    "is the port open, and the certificate one that browsers trust (--ca for this check)?"
                }
                _ => "is coturn running, and its port open?",
            };
            findings.fail("turn", format!("{url}: {}", explain(&error)), advice);
            return findings;
        }
    }
    credentials(server, relay, args, &mut findings);
    if let Err(error) = reach(server, relay, &args.turn_workers, &mut findings) {
        findings.fail(REACH, format!("{url}: {}", explain(&error)), "look at coturn's log");
    }
    findings
}

/// Credentials that must not open the relay.
fn bad_credentials(own: &Credential, secret: Option<&str>) -> Vec<(&'static str, Credential)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (_, holder) = own.username.split_once(':').unwrap_or(("", &own.username));
    let named = |username: String| Credential { username, credential: own.credential.clone() };
    let mut bad = vec![
        ("of another secret", Credential::sign("no-secret-of-this-relay", holder, now + 600)),
        ("prolonged by its holder", named(format!("{}:{holder}", now + 86_400))),
        ("of another page", named(format!("{}:somebody-else", now + 600))),
        ("that is empty", Credential { username: String::new(), credential: String::new() }),
    ];
    if let Some(secret) = secret {
        bad.push(("that has expired", Credential::sign(secret, holder, now.saturating_sub(60))));
    }
    bad
}

fn credentials(server: &Server, relay: &Relay, args: &DoctorArgs, findings: &mut Findings) {
    let url = &server.url;
    let secret = args.turn_secret.as_ref().map(|secret| secret.0.as_str());
    let advice = "anybody could relay through it: coturn needs use-auth-secret, see turn/turnserver.conf";
    let bad = bad_credentials(&relay.credential, secret);
    let mut refused = Vec::new();
    for (which, credential) in bad {
        match server.allocate(&credential) {
            // RFC 8489 §9.2.4 lets a server call a username that it cannot read a bad request.
            Ok(400 | 401 | 441) => refused.push(which),
            Ok(SUCCESS) => findings.fail(CREDENTIALS, format!("{url} takes a credential {which}"), advice),
            Ok(status) => {
                findings.warn(
                    CREDENTIALS,
                    format!("{url} answers {status} to a credential {which}"),
                    "401 is expected",
                );
            }
            Err(error) => findings.fail(CREDENTIALS, format!("{url}: {which}: {}", explain(&error)), advice),
        }
    }
    match replay(server, relay) {
        Ok(401 | 438 | 441) => refused.push("that was overheard"),
        Ok(status) => findings.fail(
            CREDENTIALS,
            format!("{url} answers {status} to a request that was overheard and sent again by another"),
            "nonces must belong to one client: is this coturn, and stale-nonce set?",
        ),
        Err(error) => findings.fail(CREDENTIALS, format!("{url}: {}", explain(&error)), advice),
    }
    findings.ok(CREDENTIALS, format!("{url} refuses one {}", refused.join(", one ")));
}

/// Sends one client's signed request from another's address; the status.
fn replay(server: &Server, relay: &Relay) -> Result<u16, TurnError> {
    let mut honest = server.client(&relay.credential)?;
    honest.allocate(None, turn::Relay::Udp)?;
    let overheard = honest.signed_allocation();
    let status = server.client(&relay.credential)?.exchange(&overheard)?.status();
    honest.release()?;
    Ok(status)
}

/// Tries to relay to everything that must not be reached.
fn reach(
    server: &Server,
    relay: &Relay,
    workers: &[Range],
    findings: &mut Findings,
) -> Result<(), TurnError> {
    let mut over_ipv4 = server.client(&relay.credential)?;
    over_ipv4.allocate(None, turn::Relay::Udp)?;
    let mut let_through = Vec::new();
    let mut count = 0;
    let mut ask = |client: &mut Client, refusal: &[u16], probes: Vec<(&'static str, IpAddr)>| {
        for (range, address) in probes {
            count += 1;
            let status = client.permit(address)?;
            if !refusal.contains(&status) {
                let_through.push(format!("{address} ({range}): {status}"));
            }
        }
        Ok::<(), TurnError>(())
    };
    ask(&mut over_ipv4, &[403], probes(FORBIDDEN, workers))?;
    let mut over_ipv6 = server.client(&relay.credential)?;
    let has_ipv6 = over_ipv6.allocate(Some(Family::V6), turn::Relay::Udp)? == SUCCESS;
    // Without an IPv6 relay address the mismatch of families (RFC 8656 §9.2) is the refusal.
    match has_ipv6 {
        true => ask(&mut over_ipv6, &[403], probes(FORBIDDEN_V6, workers))?,
        false => ask(&mut over_ipv4, &[403, 443], probes(FORBIDDEN_V6, workers))?,
    }
    over_ipv4.release()?;
    if has_ipv6 {
        over_ipv6.release()?;
    }
    let url = &server.url;
    if let_through.is_empty() {
        findings.ok(REACH, format!("{url} refuses all {count} addresses that it must not reach"));
    } else {
        findings.fail(
            REACH,
            format!("{url} would relay to {} of {count} forbidden addresses: {}", let_through.len(), let_through.join(", ")),
            "a stranger reaches these through it: deny all and allow the workers only, as turn/turnserver.conf does; \
             if workers are there, name their range with --turn-workers",
        );
    }
    Ok(())
}
