//! coturn with the repository's configuration, as a process of its own.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vigie::load::turn::Client;
use vigie::signalling::ice::Credential;

pub const SECRET: &str = "the-secret-of-this-test";
/// What the configuration under test may relay to.
pub const WORKERS: &str = "10.77.0.0-10.77.0.255";

/// A coturn that ends with the test.
pub struct TurnServer {
    child: Child,
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl TurnServer {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/turn/start"));
        command.env("TMPDIR", folder.path()).env("VIGIE_TURN_SECRET", SECRET);
        command.envs(environment.iter().copied());
        command.env("VIGIE_TURN_WORKERS", WORKERS).args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"]);
        command.arg(format!("--listening-port={}", address.port())).args(arguments);
        Self::run(command, address, folder)
    }

    /// A coturn as somebody might set it up by hand: it knows the secret, and denies no address.
    pub fn start_careless() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let mut command = Command::new("turnserver");
        command.args(["-n", "--use-auth-secret", "--realm=careless", "--no-cli", "--no-tls", "--no-dtls"]);
        command.args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--log-file=stdout"]);
        command
            .arg(format!("--static-auth-secret={SECRET}"))
            .arg(format!("--listening-port={}", address.port()));
        command.arg(format!("--userdb={}", folder.path().join("users").display()));
        command.arg(format!("--pidfile={}", folder.path().join("pid").display()));
        Self::run(command, address, folder)
    }

    fn run(mut command: Command, address: SocketAddr, folder: tempfile::TempDir) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, address, _folder: folder };
        // It is up when it answers a plain question.
        let answer = Client::udp(address, &Credential::sign(SECRET, "nobody", 0)).unwrap().bind().unwrap();
        assert!(answer.is_success(), "coturn answers: is the package coturn installed?");
        await_tcp(address);
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
pub fn free_address() -> SocketAddr {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until somebody listens.
pub fn await_tcp(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A certificate for loopback that nobody has signed, and its key.
pub fn certificate(folder: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate.display().to_string(), key.display().to_string())
}
