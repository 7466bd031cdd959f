//! The servers that vigie leans on, as processes: NATS and a bucket that speaks S3; and what is done to processes.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Sends a signal by its name, such as `STOP`.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// Debian's nats-server, with a store that ends with the test.
pub struct Nats {
    pub child: Child,
    pub url: String,
    port: u16,
    arguments: Vec<String>,
    store: TempDir,
}

impl Nats {
    /// With JetStream.
    pub fn start() -> Self {
        Self::start_with(&["-js"])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        // Chosen by the server.
        Self::launch(None, arguments)
    }

    /// With JetStream, on this port.
    pub fn start_at(port: u16) -> Self {
        Self::launch(Some(port), &["-js"])
    }

    fn launch(port: Option<u16>, arguments: &[&str]) -> Self {
        let store = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (child, port) = Self::spawn(store.path(), port, &arguments);
        Self { child, url: format!("nats://127.0.0.1:{port}"), port, arguments, store }
    }

    /// As a crash ends it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again with the same store, on the same port.
    pub fn restart(&mut self) {
        self.child = Self::spawn(self.store.path(), Some(self.port), &self.arguments).0;
    }

    fn spawn(store: &Path, port: Option<u16>, arguments: &[String]) -> (Child, u16) {
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let mut command = Command::new("nats-server");
        command
            .args(["-a", "127.0.0.1", "-p", &port, "-sd"])
            .arg(store)
            .args(arguments)
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("nats-server is installed (Debian's package of that name)");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut port = None;
        for line in lines.by_ref() {
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                port = address.rsplit(':').next().and_then(|port| port.trim().parse().ok());
            }
            if line.contains("Server is ready") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        (child, port.expect("nats-server says where it listens"))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that speaks S3, with one bucket, `store`, until the test ends.
pub struct Bucket {
    pub child: Child,
    endpoint: String,
}

impl Bucket {
    pub fn start() -> Self {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/serve"));
        command.arg(env!("CARGO_TARGET_TMPDIR")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let endpoint =
            lines.find_map(|line| line.split_once("Running on ").map(|(_, at)| at.trim().to_owned()));
        std::thread::spawn(move || lines.for_each(drop));
        let bucket = Self { child, endpoint: endpoint.expect("the server says where it listens") };
        let address = bucket.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "PUT /store HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").unwrap();
        stream.read_to_string(&mut String::new()).unwrap();
        bucket
    }

    /// Lets a vigie use it.
    pub fn give(&self, command: &mut Command) {
        command.args(["--store", "s3://store"]);
        command.envs([
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]);
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // One that was stopped must be able to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
