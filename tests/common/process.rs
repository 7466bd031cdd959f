//! `vigie serve` as a process, and what tests ask of a running one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use vigie::load::clip::Clip;
use vigie::load::publisher::PublisherConfig;

use super::cluster::{Process, Socket};

pub use super::cluster::vigie;

/// An HTTP answer.
pub struct Reply {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// A header's value, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error} in {:?}", String::from_utf8_lossy(&self.body[..self.body.len().min(300)]))
        })
    }
}

/// Sends a request with these headers, and reads the whole answer.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    read_reply(&mut stream)
}

/// Reads an answer to its end.
pub fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_lowercase(), body: answer.split_off(end + 4) }
}

/// A `vigie serve` that ends with the test.
pub struct Service(Process);

impl Deref for Service {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl DerefMut for Service {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.0
    }
}

impl Service {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(&[], arguments)
    }

    /// With these variables in its environment.
    pub fn start_with(variables: &[(String, String)], arguments: &[&str]) -> Self {
        let mut command = vigie();
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0"]).args(arguments);
        Self(Process::start(&mut command))
    }

    /// Posts `body` with these headers, and reads the whole answer.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        request(self.address, "POST", path, headers, body)
    }

    /// Waits until no session is left.
    pub async fn emptied(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.metric("vigie_sessions_active") != 0.0 {
            assert!(Instant::now() < deadline, "sessions are left");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn publisher(&self, duration: Duration, settings: Value) -> PublisherConfig {
        PublisherConfig {
            server: self.address.into(),
            clip: Arc::new(Clip::built_in()),
            rate: 30.0,
            duration,
            settings,
            stop_at_first_report: false,
            reads_counter: false,
        }
    }

    pub async fn socket(&self) -> Socket {
        self.0.socket("").await.unwrap()
    }
}
