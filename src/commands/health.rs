//! `vigie health`: asks the service in the same container whether it lives, since an image without a shell has
//! nothing else that could.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

const PATIENCE: Duration = Duration::from_secs(2);
/// The answer's first line fits in this many bytes.
const MOST_BYTES: u64 = 256;

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where a worker listens.
    #[arg(long, env = "VIGIE_CONTROL")]
    pub control: Option<SocketAddr>,
    /// Where a front listens, when there is no worker.
    #[arg(long, env = "VIGIE_LISTEN", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080))]
    pub listen: SocketAddr,
}

/// Succeeds when the service answers `/livez`. One that speaks TLS answers a question in the clear with an alert, and
/// lives as well.
///
/// # Errors
/// When it does not answer in time, or with anything but 200.
pub fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let address = here(args.control.unwrap_or(args.listen));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("nobody listens on {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let ask = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes())?;
    let mut answer = Vec::new();
    // A peer that resets after its answer has answered all the same.
    let read = stream.take(MOST_BYTES).read_to_end(&mut answer);
    if is_alive(&answer) {
        return Ok(());
    }
    read.with_context(|| format!("{address} does not answer"))?;
    bail!(
        "{address} answers {:?}",
        String::from_utf8_lossy(answer.split(|&b| b == b'\r').next().unwrap_or(&[]))
    )
}

fn is_alive(answer: &[u8]) -> bool {
    const TLS_ALERT: u8 = 21; // RFC 8446 §5.1
    answer.starts_with(b"HTTP/1.1 200 ") || answer.first() == Some(&TLS_ALERT)
}

/// The address by which this machine reaches a listener of its own.
fn here(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn asked(answer: &'static [u8]) -> anyhow::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let listen = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        let outcome = run(&HealthArgs { control: None, listen });
        server.join().unwrap();
        outcome
    }

    #[test]
    fn a_service_lives_when_it_says_so_or_speaks_tls() {
        assert!(asked(b"HTTP/1.1 200 OK\r\n\r\nok\n").is_ok());
        assert!(asked(&[21, 3, 3, 0, 2, 2, 10]).is_ok());
    }

    #[test]
    fn any_other_answer_and_silence_are_named() {
        let said = |answer| asked(answer).unwrap_err().to_string();
        assert!(said(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").contains("503"));
        assert!(said(b"").contains("answers"));
        let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        assert!(run(&HealthArgs { control: None, listen: nobody }).is_err());
    }

    #[test]
    fn a_listener_on_every_interface_is_asked_on_loopback() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (listening, asked) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            assert_eq!(here(address(listening)), address(asked));
        }
    }
}
