//! coturn with the repository's configuration, started for real: whose credentials it takes, and where it
//! refuses to relay to. Needs Debian's `coturn`, which ./test installs.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "common/cluster.rs"]
mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use serde_json::Value;
use sha1::Sha1;
use vigie::cluster::token::ClusterToken;
use vigie::ids::SessionId;
use vigie::signalling::ice::Credential;

use process::{Process, vigie};

const CLUSTER_TOKEN: &str = "0123456789abcdef";
const SECRET: &str = "the-secret-of-this-test";
/// What the configuration under test may relay to.
const WORKERS: &str = "10.77.0.0-10.77.0.255";

/// A coturn that ends with the test.
struct TurnServer {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl TurnServer {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/turn/start"));
        command.env("TMPDIR", folder.path()).env("VIGIE_TURN_SECRET", SECRET);
        command.env("VIGIE_TURN_WORKERS", WORKERS).args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"]);
        command.arg(format!("--listening-port={}", address.port())).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, address, _folder: folder };
        // It is up when it answers a plain question.
        let client = Client::new(server.address, &Credential::sign(SECRET, "nobody", 0));
        let answer = client.exchange(&message(BINDING, [1; 12], &[], None));
        assert!(answer.is_success(), "coturn answers: is the package coturn installed?");
        server
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that is free for UDP and TCP: coturn cannot choose one itself.
fn free_address() -> SocketAddr {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

// STUN and TURN as RFC 8489 §5 and RFC 8656 §18 write them.
const BINDING: u16 = 0x0001;
const ALLOCATE: u16 = 0x0003;
const CREATE_PERMISSION: u16 = 0x0008;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const TCP: [u8; 4] = [6, 0, 0, 0];
const UDP: [u8; 4] = [17, 0, 0, 0];
const IPV6: [u8; 4] = [2, 0, 0, 0];

type Attribute = (u16, Vec<u8>);

fn message(kind: u16, transaction: [u8; 12], attributes: &[Attribute], key: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &transaction].concat();
    for (name, value) in attributes {
        bytes.extend(name.to_be_bytes());
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    // The length that is signed counts the signature (RFC 8489 §14.5).
    let length = bytes.len() - 20 + if key.is_some() { 24 } else { 0 };
    bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    if let Some(key) = key {
        let signature = Hmac::<Sha1>::new_from_slice(key).unwrap().chain_update(&bytes).finalize();
        bytes.extend(MESSAGE_INTEGRITY.to_be_bytes());
        bytes.extend(20_u16.to_be_bytes());
        bytes.extend(signature.into_bytes());
    }
    bytes
}

/// An address, masked with the cookie and the transaction (RFC 8489 §14.2).
fn xor_address(address: IpAddr, port: u16, transaction: &[u8; 12]) -> Vec<u8> {
    let mask = [&COOKIE[..], transaction].concat();
    let (family, octets) = match address {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let port = port.to_be_bytes();
    let masked = octets.iter().zip(&mask).map(|(octet, mask)| octet ^ mask);
    [0, family, port[0] ^ mask[0], port[1] ^ mask[1]].into_iter().chain(masked).collect()
}

struct Answer {
    kind: u16,
    attributes: Vec<Attribute>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let mut attributes = Vec::new();
        let mut rest = &bytes[20..];
        while let [n0, n1, l0, l1, tail @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            attributes.push((u16::from_be_bytes([*n0, *n1]), tail[..length].to_vec()));
            rest = &tail[length.next_multiple_of(4).min(tail.len())..];
        }
        Self { kind: u16::from_be_bytes([bytes[0], bytes[1]]), attributes }
    }

    fn is_success(&self) -> bool {
        self.kind & 0x0110 == 0x0100
    }

    fn attribute(&self, wanted: u16) -> Vec<u8> {
        let found = self.attributes.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// The error's code, or 200.
    fn status(&self) -> u16 {
        match self.attribute(ERROR_CODE)[..] {
            [_, _, class, number, ..] => u16::from(class) * 100 + u16::from(number),
            _ => 200,
        }
    }
}

/// A TURN client over UDP, as small as can be.
struct Client {
    socket: UdpSocket,
    credential: Credential,
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

impl Client {
    fn new(server: SocketAddr, credential: &Credential) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Self { socket, credential: credential.clone(), realm: Vec::new(), nonce: Vec::new() }
    }

    /// Sends until an answer comes.
    fn exchange(&self, request: &[u8]) -> Answer {
        let mut buffer = [0; 2000];
        for _ in 0..50 {
            let outcome = self.socket.send(request).and_then(|_| self.socket.recv(&mut buffer));
            match outcome {
                // An answer to an earlier transaction may come late.
                Ok(length) if length >= 20 && buffer[8..20] == request[8..20] => {
                    return Answer::read(&buffer[..length]);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // Nobody listens there yet.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        panic!("no answer");
    }

    fn key(&self) -> Vec<u8> {
        let realm = String::from_utf8_lossy(&self.realm);
        let text = format!("{}:{realm}:{}", self.credential.username, self.credential.credential);
        Md5::digest(text).to_vec()
    }

    fn sign(&self, kind: u16, transaction: [u8; 12], mut attributes: Vec<Attribute>) -> Vec<u8> {
        attributes.push((USERNAME, self.credential.username.clone().into_bytes()));
        attributes.push((REALM, self.realm.clone()));
        attributes.push((NONCE, self.nonce.clone()));
        message(kind, transaction, &attributes, Some(&self.key()))
    }

    /// Asks for a relay address of the family; the status.
    fn allocate(&mut self, family: Option<[u8; 4]>) -> u16 {
        let mut attributes = vec![(REQUESTED_TRANSPORT, UDP.to_vec())];
        attributes.extend(family.map(|family| (REQUESTED_ADDRESS_FAMILY, family.to_vec())));
        // The first question is for the realm and the nonce.
        let challenge = self.exchange(&message(ALLOCATE, rand::random(), &attributes, None));
        assert_eq!(challenge.status(), 401, "nobody is let in without credentials");
        (self.realm, self.nonce) = (challenge.attribute(REALM), challenge.attribute(NONCE));
        self.exchange(&self.sign(ALLOCATE, rand::random(), attributes)).status()
    }

    /// Asks for leave to send to a peer; the status.
    fn permit(&self, peer: IpAddr) -> u16 {
        let transaction = rand::random();
        let address = xor_address(peer, 50_000, &transaction);
        self.exchange(&self.sign(CREATE_PERMISSION, transaction, vec![(XOR_PEER_ADDRESS, address)])).status()
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
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
        let status = Client::new(server.address, &credential).allocate(None);
        assert!(status == expected || (expected == 401 && status == 400), "{what}: {status}");
    }
}

#[test]
fn a_request_that_was_overheard_opens_nothing() {
    let server = TurnServer::start(&[]);
    let mut honest = Client::new(server.address, &valid());
    assert_eq!(honest.allocate(None), 200);
    let overheard = honest.sign(ALLOCATE, rand::random(), vec![(REQUESTED_TRANSPORT, UDP.to_vec())]);
    let thief = Client::new(server.address, &valid());
    let status = thief.exchange(&overheard).status();
    assert!(status == 401 || status == 438, "{status}");
}

#[test]
fn nothing_but_workers_can_be_reached_through_the_relay() {
    let server = TurnServer::start(&["--relay-ip=::1"]);
    let allocation = |family| {
        let mut client = Client::new(server.address, &valid());
        (client.allocate(family), client)
    };
    let (status, over_ipv4) = allocation(None);
    assert_eq!(status, 200);
    for worker in ["10.77.0.0", "10.77.0.5", "10.77.0.255"] {
        assert_eq!(over_ipv4.permit(worker.parse().unwrap()), 200, "{worker}");
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
        assert_eq!(over_ipv4.permit(peer.parse().unwrap()), 403, "{peer}");
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
    let (status, over_ipv6) = allocation(Some(IPV6));
    // Without IPv6 on the machine there is nothing to relay from, and the mismatch of families is the refusal.
    let (client, expected) = if status == 200 { (&over_ipv6, 403) } else { (&over_ipv4, 443) };
    for peer in forbidden {
        assert_eq!(client.permit(peer.parse().unwrap()), expected, "{peer}");
    }
}

#[test]
fn the_relay_opens_no_connections() {
    let server = TurnServer::start(&[]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut exchange = |request: Vec<u8>| {
        stream.write_all(&request).unwrap();
        let mut answer = vec![0; 20];
        stream.read_exact(&mut answer).unwrap();
        let length = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
        answer.resize(20 + length, 0);
        stream.read_exact(&mut answer[20..]).unwrap();
        Answer::read(&answer)
    };
    for (transport, expected) in [(TCP, 442), (UDP, 200)] {
        let attributes = vec![(REQUESTED_TRANSPORT, transport.to_vec())];
        let challenge = exchange(message(ALLOCATE, rand::random(), &attributes, None));
        let mut client = Client::new(server.address, &valid());
        (client.realm, client.nonce) = (challenge.attribute(REALM), challenge.attribute(NONCE));
        let status = exchange(client.sign(ALLOCATE, rand::random(), attributes)).status();
        assert_eq!(status, expected, "a relay of protocol {}", transport[0]);
    }
}

#[test]
fn one_page_cannot_use_the_relay_up() {
    let server = TurnServer::start(&[]);
    let credential = valid();
    let mut clients: Vec<Client> = (0..33).map(|_| Client::new(server.address, &credential)).collect();
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.allocate(None)).collect();
    assert_eq!(statuses[..32], [200; 32]);
    assert_eq!(statuses[32], 486, "the quota of one name is reached");
    let (_, holder) = credential.username.split_once(':').unwrap();
    let fresh = Credential::sign(SECRET, holder, unix_now() + 3600);
    assert_ne!(fresh.username, credential.username);
    let status = Client::new(server.address, &fresh).allocate(None);
    assert_eq!(status, 486, "a fresh credential of the same session is the same quota's");
    let other = Credential::sign(SECRET, "another-page", unix_now() + 60);
    assert_eq!(Client::new(server.address, &other).allocate(None), 200);
}
