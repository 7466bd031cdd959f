//! coturn with the repository's configuration, started for real: whose credentials it takes, and where it
//! refuses to relay to. Needs Debian's `coturn`, which ./test installs.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "common/cluster.rs"]
mod process;
#[path = "common/turn.rs"]
mod turn;

use std::path::Path;

use serde_json::Value;
use vigie::cluster::token::ClusterToken;
use vigie::ids::SessionId;
use vigie::load::tls::{self, Trust};
use vigie::load::turn::{Client, Family, Relay, SUCCESS, TurnError};
use vigie::signalling::ice::Credential;

use process::{Process, vigie};
use turn::{SECRET, TurnServer, await_tcp, certificate, free_address, unix_now};

const CLUSTER_TOKEN: &str = "0123456789abcdef";

fn udp(server: &TurnServer, credential: &Credential) -> Client {
    Client::udp(server.address, credential).unwrap()
}

/// Asks for a relay address over UDP; the status.
fn allocate(client: &mut Client) -> u16 {
    client.allocate(None, Relay::Udp).unwrap()
}

fn valid() -> Credential {
    Credential::sign(SECRET, "test", unix_now() + 60)
}

/// A front that hands out credentials for the server; it needs no worker for that.
fn front(server: &TurnServer) -> Process {
    let urls = ["udp", "tcp"].map(|transport| format!("turn:{}?transport={transport}", server.address));
    let mut command = vigie();
    command.args([
        "signal",
        "--listen",
        "127.0.0.1:0",
        "--workers",
        "127.0.0.1:1",
        "--turn-url",
        &urls.join(","),
    ]);
    command.env("VIGIE_CLUSTER_TOKEN", CLUSTER_TOKEN).env("VIGIE_TURN_SECRET", SECRET);
    Process::start(&mut command)
}

#[test]
fn the_fronts_credentials_open_the_relay_and_no_others_do() {
    let server = TurnServer::start(&[]);
    let front = front(&server);
    let key = ClusterToken::new(CLUSTER_TOKEN).unwrap().session_key();
    let told_to = |session: &SessionId| front.get_json(&format!("/api/ice-servers?session={session}"));
    let session = key.new_session("w1");
    let told = told_to(&session);
    assert_eq!(told["ttl_seconds"], 600);
    let relay = &told["ice_servers"][0];
    assert_eq!(relay["urls"].as_array().unwrap().len(), 2);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let own = Credential { username: text(&relay["username"]), credential: text(&relay["credential"]) };
    let (expires, holder) = own.username.split_once(':').unwrap();
    let expires: u64 = expires.parse().unwrap();
    assert!((590..=600).contains(&(expires - unix_now())), "{}", own.username);
    assert!(session.as_str().starts_with(holder), "{holder} is the session's, on which quotas are counted");
    let second = told_to(&key.new_session("w1"));
    assert!(!text(&second["ice_servers"][0]["username"]).ends_with(holder), "each session has its own");
    assert_eq!(
        front.get_json("/api/ice-servers")["ice_servers"],
        serde_json::json!([]),
        "none without a session"
    );
    let forged = session.as_str().replacen("w1", "w2", 1);
    let refused = front.get_json(&format!("/api/ice-servers?session={forged}"));
    assert_eq!(refused["error"]["code"], "invalid_session");

    let other_name = |username: String| Credential { username, credential: own.credential.clone() };
    let table = [
        ("as handed out", own.clone(), 200),
        ("expired", Credential::sign(SECRET, holder, unix_now() - 1), 401),
        ("of another secret", Credential::sign("another", holder, expires), 401),
        ("prolonged", other_name(format!("{}:{holder}", expires + 3600)), 401),
        ("of another holder", other_name(format!("{expires}:somebody")), 401),
        ("without a time", Credential { username: holder.to_owned(), ..own.clone() }, 401),
        ("empty", Credential { username: String::new(), credential: String::new() }, 401),
    ];
    for (what, credential, expected) in table {
        // RFC 8489 §9.2.4 lets a server call a username that it cannot read a bad request.
        let status = allocate(&mut udp(&server, &credential));
        assert!(status == expected || (expected == 401 && status == 400), "{what}: {status}");
    }
}

#[test]
fn a_request_that_was_overheard_opens_nothing() {
    let server = TurnServer::start(&[]);
    let mut honest = udp(&server, &valid());
    assert_eq!(allocate(&mut honest), SUCCESS);
    let overheard = honest.signed_allocation();
    let status = udp(&server, &valid()).exchange(&overheard).unwrap().status();
    assert!(status == 401 || status == 438, "{status}");
}

#[test]
fn nothing_but_workers_can_be_reached_through_the_relay() {
    let server = TurnServer::start(&["--relay-ip=::1"]);
    let allocation = |family| {
        let mut client = udp(&server, &valid());
        (client.allocate(family, Relay::Udp).unwrap(), client)
    };
    let (status, mut over_ipv4) = allocation(None);
    assert_eq!(status, 200);
    for worker in ["10.77.0.0", "10.77.0.5", "10.77.0.255"] {
        assert_eq!(over_ipv4.permit(worker.parse().unwrap()).unwrap(), 200, "{worker}");
    }
    let forbidden = [
        "0.0.0.0",
        "0.0.0.1",
        "10.0.0.1",
        "10.76.255.255",
        "10.77.1.0",
        "100.64.0.1",
        "127.0.0.1",
        "127.1.2.3",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.254",
        "192.0.0.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "8.8.8.8",
    ];
    for peer in forbidden {
        assert_eq!(over_ipv4.permit(peer.parse().unwrap()).unwrap(), 403, "{peer}");
    }

    let forbidden = [
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "2002:7f00:1::1",
    ];
    let (status, mut over_ipv6) = allocation(Some(Family::V6));
    // Without IPv6 on the machine there is nothing to relay from, and the mismatch of families is the refusal.
    let (client, expected) = if status == 200 { (&mut over_ipv6, 403) } else { (&mut over_ipv4, 443) };
    for peer in forbidden {
        assert_eq!(client.permit(peer.parse().unwrap()).unwrap(), expected, "{peer}");
    }
}

#[test]
fn the_relay_opens_no_connections() {
    let server = TurnServer::start(&[]);
    for (relay, expected) in [(Relay::Tcp, 442), (Relay::Udp, SUCCESS)] {
        let mut client = Client::tcp(server.address, &valid()).unwrap();
        assert_eq!(client.allocate(None, relay).unwrap(), expected, "{relay:?}");
    }
}

#[test]
fn the_relay_is_reached_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let tls_address = free_address();
    let port = format!("--tls-listening-port={}", tls_address.port());
    let environment = [("VIGIE_TURN_CERTIFICATE", certificate.as_str()), ("VIGIE_TURN_KEY", &key)];
    let server = TurnServer::start_with(&[&port], &environment);

    await_tcp(tls_address);
    let allocate = |trust, host, credential: &Credential| {
        let config = tls::client(trust).unwrap();
        Client::tls(tls_address, host, config, credential).and_then(|mut c| c.allocate(None, Relay::Udp))
    };
    let own = Trust::File(Path::new(&certificate));
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(allocate(own, host, &valid()).unwrap(), SUCCESS, "{host}");
    }
    let expired = Credential::sign(SECRET, "test", unix_now() - 1);
    assert_eq!(allocate(own, "localhost", &expired).unwrap(), 401);
    assert_eq!(allocate(Trust::Anybody, "other.example", &valid()).unwrap(), SUCCESS);
    for (trust, host) in [(Trust::System, "localhost"), (own, "other.example")] {
        let refused = allocate(trust, host, &valid());
        assert!(matches!(refused, Err(TurnError::Tls { .. })), "{host}: {refused:?}");
    }
    drop(server);
}

#[test]
fn one_page_cannot_use_the_relay_up() {
    let server = TurnServer::start(&[]);
    let credential = valid();
    let mut clients: Vec<Client> = (0..33).map(|_| udp(&server, &credential)).collect();
    let statuses: Vec<u16> = clients.iter_mut().map(allocate).collect();
    assert_eq!(statuses[..32], [200; 32]);
    assert_eq!(statuses[32], 486, "the quota of one name is reached");
    let (_, holder) = credential.username.split_once(':').unwrap();
    let fresh = Credential::sign(SECRET, holder, unix_now() + 3600);
    assert_ne!(fresh.username, credential.username);
    assert_eq!(
        allocate(&mut udp(&server, &fresh)),
        486,
        "a fresh credential of the same session is the same quota's"
    );
    let other = Credential::sign(SECRET, "another-page", unix_now() + 60);
    assert_eq!(allocate(&mut udp(&server, &other)), SUCCESS);
}
