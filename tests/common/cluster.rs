//! Any service of vigie as a process of its own, for tests that start several, ask and kill them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what a test waits for.
const LOOK: Duration = Duration::from_millis(20);

pub type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

pub fn vigie() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vigie"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    // Nobody's own videos are looked at.
    command.env("VIGIE_STORE", concat!(env!("CARGO_TARGET_TMPDIR"), "/store"));
    command
}

/// A running vigie, which ends with the test.
pub struct Process {
    pub child: Child,
    /// Where it said that it listens.
    pub address: SocketAddr,
}

impl Process {
    /// Starts a command and waits until it says that it is ready.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap_or_default().parse();
        let address = address.unwrap_or_else(|_| panic!("no address in {line:?}: are the models there?"));
        Self { child, address }
    }

    /// The response to a GET, head and body.
    pub fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// The same with more header lines, each ended by `\r\n`.
    pub fn get_with(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let host = self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// The JSON body of the response to a GET.
    pub fn get_json(&self, path: &str) -> Value {
        let response = self.get(path);
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {response}"))
    }

    pub fn is_ready(&self) -> bool {
        self.get("/readyz").starts_with("HTTP/1.1 200")
    }

    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Opens a signalling socket; `query` may carry a resume token.
    pub async fn socket(&self, query: &str) -> Result<Socket, Error> {
        let url = format!("ws://{}/api/session{query}", self.address);
        tokio_tungstenite::connect_async(url).await.map(|(socket, _)| socket)
    }

    /// As the kernel or a power cut ends it: without a last word.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// How long a process may take to write down what it ran.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Drop for Process {
    fn drop(&mut self) {
        // What a killed process has run is not told to who measures coverage.
        if std::env::var_os("LLVM_PROFILE_FILE").is_some() {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let deadline = Instant::now() + LAST_WORDS;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(LOOK);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until the answer is yes.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks until something is found, in a test without a runtime.
pub fn find<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The next JSON message, or `Null` when the socket closes first.
pub async fn next_message(socket: &mut Socket) -> Value {
    let waiting = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
        Value::Null
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("an answer in time")
}
