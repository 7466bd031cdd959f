//! A TURN client, as small as can be: enough to tell whose credentials a server takes and where it relays to.
//!
//! STUN and TURN messages as RFC 8489 §5 and RFC 8656 §18 write them, over UDP, TCP and TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::signalling::ice::Credential;

const BINDING: u16 = 0x0001;
const ALLOCATE: u16 = 0x0003;
const REFRESH: u16 = 0x0004;
const CREATE_PERMISSION: u16 = 0x0008;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const HEADER_BYTES: usize = 20;

/// The status of an answer that is no error.
pub const SUCCESS: u16 = 200;

/// How long an answer is waited for in all; over UDP the question is repeated meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const REPEAT_AFTER: Duration = Duration::from_millis(200);

type Attribute = (u16, Vec<u8>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error("{0:?} is not a TURN URL, such as turn:turn.example.org:3478?transport=udp")]
    Url(String),
    #[error("{0} cannot be reached")]
    Unreachable(SocketAddr, #[source] io::Error),
    #[error("TLS with {host} failed: {reason}")]
    Tls { host: String, reason: String },
    #[error("{0} did not answer")]
    Silent(SocketAddr),
    #[error("the connection broke off")]
    Broken(#[source] io::Error),
    #[error("the answer is not a STUN message")]
    Unreadable,
    #[error("the server lets in everybody: it asked for no credential, and answered {0}")]
    Unchallenged(u16),
}

/// How packets reach the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        })
    }
}

/// Where a TURN URL leads (RFC 7065).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnUrl {
    pub host: String,
    pub port: u16,
    pub transport: Transport,
}

impl std::str::FromStr for TurnUrl {
    type Err = TurnError;

    fn from_str(text: &str) -> Result<Self, TurnError> {
        let wrong = || TurnError::Url(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (place, transport) = match rest.split_once("?transport=") {
            Some((place, transport)) => (place, Some(transport)),
            None => (rest, None),
        };
        let (transport, default_port) = match (scheme, transport) {
            ("turn", None | Some("udp")) => (Transport::Udp, 3478),
            ("turn", Some("tcp")) => (Transport::Tcp, 3478),
            ("turns", None | Some("tcp")) => (Transport::Tls, 5349),
            _ => return Err(wrong()),
        };
        // The colon of a port stands behind the bracket of an IPv6 address.
        let colon = place.rfind(':').filter(|at| *at > place.rfind(']').unwrap_or_default());
        let (host, port) = match colon {
            Some(at) => (&place[..at], place[at + 1..].parse().map_err(|_| wrong())?),
            None => (place, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { host, port, transport })
    }
}

/// Which family of addresses an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What an allocation relays to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    Udp,
    /// RFC 6062; browsers never ask for it.
    Tcp,
}

fn message(kind: u16, transaction: [u8; 12], attributes: &[Attribute], key: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &transaction].concat();
    for (name, value) in attributes {
        bytes.extend(name.to_be_bytes());
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    // The length that is signed counts the signature (RFC 8489 §14.5).
    let length = bytes.len() - HEADER_BYTES + if key.is_some() { 24 } else { 0 };
    bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    if let Some(key) = key {
        let hmac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length");
        let signature = hmac.chain_update(&bytes).finalize();
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

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    kind: u16,
    attributes: Vec<Attribute>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let mut attributes = Vec::new();
        while let [n0, n1, l0, l1, tail @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            attributes.push((u16::from_be_bytes([*n0, *n1]), tail.get(..length)?.to_vec()));
            rest = &tail[length.next_multiple_of(4).min(tail.len())..];
        }
        Some(Self { kind: u16::from_be_bytes([header[0], header[1]]), attributes })
    }

    pub fn is_success(&self) -> bool {
        self.kind & 0x0110 == 0x0100
    }

    fn attribute(&self, wanted: u16) -> Vec<u8> {
        let found = self.attributes.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// The error's code, or [`SUCCESS`].
    pub fn status(&self) -> u16 {
        match self.attribute(ERROR_CODE)[..] {
            [_, _, class, number, ..] => u16::from(class) * 100 + u16::from(number),
            _ => SUCCESS,
        }
    }
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

enum Wire {
    Udp(UdpSocket),
    Stream(Box<dyn ReadWrite>),
}

/// A client of one TURN server, with one credential and at most one allocation.
pub struct Client {
    wire: Wire,
    server: SocketAddr,
    pub credential: Credential,
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

impl Client {
    /// A client over UDP.
    pub fn udp(server: SocketAddr, credential: &Credential) -> Result<Self, TurnError> {
        let unreachable = |source| TurnError::Unreachable(server, source);
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).map_err(unreachable)?;
        socket.connect(server).map_err(unreachable)?;
        socket.set_read_timeout(Some(REPEAT_AFTER)).map_err(unreachable)?;
        Ok(Self::over(Wire::Udp(socket), server, credential))
    }

    /// A client over TCP.
    pub fn tcp(server: SocketAddr, credential: &Credential) -> Result<Self, TurnError> {
        let stream = connect(server)?;
        Ok(Self::over(Wire::Stream(Box::new(stream)), server, credential))
    }

    /// A client over TLS; `host` is what the server's certificate must name.
    pub fn tls(
        server: SocketAddr,
        host: &str,
        config: Arc<ClientConfig>,
        credential: &Credential,
    ) -> Result<Self, TurnError> {
        let failed = |reason: String| TurnError::Tls { host: host.to_owned(), reason };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
        let session = ClientConnection::new(config, name).map_err(|error| failed(error.to_string()))?;
        let mut stream = StreamOwned::new(session, connect(server)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| failed(error.to_string()))?;
        }
        Ok(Self::over(Wire::Stream(Box::new(stream)), server, credential))
    }

    fn over(wire: Wire, server: SocketAddr, credential: &Credential) -> Self {
        Self { wire, server, credential: credential.clone(), realm: Vec::new(), nonce: Vec::new() }
    }

    /// Sends a request until its answer comes.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer, TurnError> {
        let answer = match &mut self.wire {
            Wire::Udp(socket) => exchange_datagrams(socket, request, self.server)?,
            Wire::Stream(stream) => exchange_on_stream(stream, request, self.server)?,
        };
        Answer::read(&answer).ok_or(TurnError::Unreadable)
    }

    /// A plain STUN question, which needs no credential.
    pub fn bind(&mut self) -> Result<Answer, TurnError> {
        self.exchange(&message(BINDING, rand::random(), &[], None))
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

    /// Asks for a relay address; the status.
    ///
    /// # Errors
    /// [`TurnError::Unchallenged`] when the server wants no credential.
    pub fn allocate(&mut self, family: Option<Family>, relay: Relay) -> Result<u16, TurnError> {
        let attributes = allocation(family, relay);
        // The first question is for the realm and the nonce.
        let challenge = self.exchange(&message(ALLOCATE, rand::random(), &attributes, None))?;
        if challenge.status() != 401 {
            return Err(TurnError::Unchallenged(challenge.status()));
        }
        (self.realm, self.nonce) = (challenge.attribute(REALM), challenge.attribute(NONCE));
        Ok(self.exchange(&self.sign(ALLOCATE, rand::random(), attributes))?.status())
    }

    /// A signed request for an allocation, as somebody on its path could overhear it.
    pub fn signed_allocation(&self) -> Vec<u8> {
        self.sign(ALLOCATE, rand::random(), allocation(None, Relay::Udp))
    }

    /// Asks for leave to send to a peer; the status.
    pub fn permit(&mut self, peer: IpAddr) -> Result<u16, TurnError> {
        let transaction = rand::random();
        let address = xor_address(peer, 50_000, &transaction);
        let request = self.sign(CREATE_PERMISSION, transaction, vec![(XOR_PEER_ADDRESS, address)]);
        Ok(self.exchange(&request)?.status())
    }

    /// Gives the relay address back; the status.
    pub fn release(&mut self) -> Result<u16, TurnError> {
        let request = self.sign(REFRESH, rand::random(), vec![(LIFETIME, vec![0; 4])]);
        Ok(self.exchange(&request)?.status())
    }
}

fn allocation(family: Option<Family>, relay: Relay) -> Vec<Attribute> {
    // IANA protocol numbers, and the families of RFC 8656 §18.6.
    let protocol = match relay {
        Relay::Udp => 17,
        Relay::Tcp => 6,
    };
    let family = family.map(|family| match family {
        Family::V4 => (REQUESTED_ADDRESS_FAMILY, vec![1, 0, 0, 0]),
        Family::V6 => (REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]),
    });
    [(REQUESTED_TRANSPORT, vec![protocol, 0, 0, 0])].into_iter().chain(family).collect()
}

fn connect(server: SocketAddr) -> Result<TcpStream, TurnError> {
    let unreachable = |source| TurnError::Unreachable(server, source);
    let stream = TcpStream::connect_timeout(&server, ANSWER_LIMIT).map_err(unreachable)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(unreachable)?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(unreachable)?;
    Ok(stream)
}

fn exchange_datagrams(socket: &UdpSocket, request: &[u8], server: SocketAddr) -> Result<Vec<u8>, TurnError> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    let mut buffer = [0; 2000];
    while Instant::now() < deadline {
        match socket.send(request).and_then(|_| socket.recv(&mut buffer)) {
            // An answer to an earlier transaction may come late.
            Ok(length) if length >= HEADER_BYTES && buffer[8..20] == request[8..20] => {
                return Ok(buffer[..length].to_vec());
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // Nobody listens there yet.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    Err(TurnError::Silent(server))
}

fn exchange_on_stream(
    stream: &mut Box<dyn ReadWrite>,
    request: &[u8],
    server: SocketAddr,
) -> Result<Vec<u8>, TurnError> {
    let broken = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => TurnError::Silent(server),
        _ => TurnError::Broken(error),
    };
    stream.write_all(request).and_then(|()| stream.flush()).map_err(broken)?;
    let mut answer = vec![0; HEADER_BYTES];
    stream.read_exact(&mut answer).map_err(broken)?;
    let length = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
    answer.resize(HEADER_BYTES + length, 0);
    stream.read_exact(&mut answer[HEADER_BYTES..]).map_err(broken)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_rfc_7065_writes_them() {
        let table: &[(&str, &str, u16, Transport)] = &[
            ("turn:t.example", "t.example", 3478, Transport::Udp),
            ("turn:t.example:9?transport=udp", "t.example", 9, Transport::Udp),
            ("turn:[::1]:9?transport=tcp", "::1", 9, Transport::Tcp),
            ("turns:[::1]", "::1", 5349, Transport::Tls),
            ("turns:127.0.0.1:443?transport=tcp", "127.0.0.1", 443, Transport::Tls),
        ];
        for (text, host, port, transport) in table {
            let url: TurnUrl = text.parse().expect(text);
            assert_eq!((url.host.as_str(), url.port, url.transport), (*host, *port, *transport), "{text}");
        }
        for text in
            ["", "turn:", "stun:t.example", "turn:t:x", "turns:t?transport=udp", "turn:t?transport=sctp"]
        {
            assert!(text.parse::<TurnUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_that_lies_about_its_lengths_is_none() {
        let mut answer = message(0x0103, [1; 12], &[(REALM, b"vigie".to_vec())], None);
        assert!(Answer::read(&answer).is_some_and(|answer| answer.is_success()));
        answer[23] = 200;
        assert!(Answer::read(&answer).is_none());
        assert!(Answer::read(&answer[..10]).is_none());
    }
}
