//! The front's door, against those who should not come in or ask for too much: real processes, real sockets.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "common/cluster.rs"]
mod process;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use vigie::cluster::protocol::SessionTerms;
use vigie::cluster::token::ClusterToken;
use vigie::signalling::auth::{Claims, TokenKey, now_s};

use process::{Process, Socket, eventually, next_message, vigie};

const SESSION_SECRET: &str = "the-session-secret-of-this-test-0";
const ADMIN_TOKEN: &str = "the-admin-token-of-this-test-00000";
const CLUSTER_TOKEN: &str = "the-cluster-of-this-test";
const WAIT: Duration = Duration::from_secs(60);

/// A front without workers, which is enough for its door.
fn front(arguments: &[&str]) -> Command {
    let mut command = vigie();
    command.args(["signal", "--listen", "127.0.0.1:0", "--workers", "127.0.0.1:1"]).args(arguments);
    command.env("VIGIE_CLUSTER_TOKEN", CLUSTER_TOKEN).stderr(Stdio::null());
    command
}

/// A whole service.
fn serve(arguments: &[&str]) -> Command {
    let mut command = vigie();
    command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    command.args(arguments).stderr(Stdio::null());
    command
}

fn keyed(command: &mut Command) -> &mut Command {
    command.env("VIGIE_SESSION_SECRET", SESSION_SECRET).env("VIGIE_ADMIN_TOKEN", ADMIN_TOKEN)
}

/// What `vigie token` prints.
fn mint(arguments: &[&str]) -> String {
    let output = keyed(vigie().arg("token").args(arguments)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }

    /// The stable error body's code; empty where there is none.
    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        assert!(body["error"]["message"].is_string() || body["error"].is_null(), "{body}");
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Connects from one of the many addresses of loopback.
async fn connect_from(last: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    socket.connect(to).await
}

/// Sends bytes and reads until the other side closes.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // A refused connection may be closed while this is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(WAIT, stream.read_to_end(&mut answer)).await.expect("an end in time");
    answer
}

async fn ask_from(last: u8, to: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {to}\r\n") };
    let head = format!("{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n");
    let length = if length > 0 { format!("Content-Length: {length}\r\n") } else { String::new() };
    let request = [format!("{head}{length}\r\n").as_bytes(), body].concat();
    let answer = exchange(connect_from(last, to).await.unwrap(), &request).await;
    Answer::read(&answer).unwrap_or_else(|| panic!("{method} {path}: {:?}", String::from_utf8_lossy(&answer)))
}

async fn ask(to: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    ask_from(1, to, method, path, headers, body).await
}

async fn get(to: SocketAddr, path: &str, headers: &str) -> Answer {
    ask(to, "GET", path, headers, b"").await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// How often requests were refused for `reason`, asked from an address of its own.
async fn refusals(of: &Process, reason: &str) -> u64 {
    let text = ask_from(9, of.address, "GET", "/metrics", &bearer(ADMIN_TOKEN), b"").await.body;
    let line = format!("vigie_refusals_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

fn open_files(of: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", of.child.id())).unwrap().count()
}

const UPGRADE: &str =
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

/// Opens a signalling socket as a browser does: with the token among the subprotocols.
async fn socket_with(to: SocketAddr, token: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{to}/api/session").into_client_request().unwrap();
    let offered = format!("vigie, vigie.token.{token}").parse().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", offered);
    let (socket, response) = tokio_tungstenite::connect_async(request).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "vigie", "the token is not sent back");
    Ok(socket)
}

#[tokio::test]
async fn tokens_open_the_door_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = front(&["--log", "vigie=trace,info"]);
    let front = Process::start(keyed(&mut command).stderr(fs::File::create(&log).unwrap()));
    let at = front.address;

    let good = mint(&["--subject", "alice", "--hours", "1"]);
    let admin = mint(&["--subject", "root", "--admin"]);
    let session = TokenKey::new(SESSION_SECRET).unwrap();
    let terms = SessionTerms::default;
    let expired = session.mint(&Claims::session("alice", now_s() - 7200, 3600, terms()));
    let elsewhere =
        session.mint(&Claims { aud: "elsewhere".into(), ..Claims::session("alice", now_s(), 3600, terms()) });
    let another = TokenKey::new(&"another-secret".repeat(3)).unwrap();
    let another = another.mint(&Claims::session("alice", now_s(), 3600, terms()));
    let self_made_admin = session.mint(&Claims::admin("mallory", now_s(), 3600));
    let claims = good.split('.').nth(1).unwrap();
    let none = format!("{}.{claims}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    let cut = &good[..good.len() - 2];

    for (headers, status, code) in [
        (String::new(), 401, "token_required"),
        ("Authorization: Basic eDp5\r\n".into(), 401, "token_required"),
        (bearer(&expired), 401, "token_expired"),
        (bearer(&elsewhere), 401, "token_invalid"),
        (bearer(&another), 401, "token_invalid"),
        (bearer(&self_made_admin), 401, "token_invalid"),
        (bearer(&none), 401, "token_invalid"),
        (bearer(cut), 401, "token_invalid"),
        (bearer("x"), 401, "token_invalid"),
        (bearer(&good), 200, ""),
        (bearer(&admin), 200, ""),
        (bearer(ADMIN_TOKEN), 200, ""),
    ] {
        let answer = get(at, "/api/ice-servers", &headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{headers}");
        assert_eq!(answer.head.contains("www-authenticate: bearer"), status == 401, "{headers}");
        let answer = get(at, "/api/session", &format!("{headers}Upgrade: none\r\n{UPGRADE}")).await;
        assert_eq!(answer.status == 401, status == 401, "{headers}");
        let answer = ask(at, "POST", "/predict", &headers, &[0xff; 100_000]).await;
        assert_eq!(answer.status, if status == 401 { 401 } else { 503 }, "{headers}: {}", answer.body);
    }
    for (headers, status, code) in [
        (String::new(), 401, "token_required"),
        (bearer(&good), 403, "admin_only"),
        (bearer(&admin), 200, ""),
        (bearer(ADMIN_TOKEN), 200, ""),
    ] {
        let answer = get(at, "/metrics", &headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{headers}");
    }
    for open in ["/health", "/livez", "/"] {
        assert_eq!(get(at, open, "").await.status, 200, "{open}");
    }

    let mut socket = socket_with(at, &good).await.unwrap();
    assert_eq!(next_message(&mut socket).await["code"], "no_worker", "the door was passed");
    let Err(Error::Http(refused)) = socket_with(at, &expired).await else {
        panic!("an expired token was taken")
    };
    assert_eq!(refused.status(), 401);
    assert!(refusals(&front, "token_expired").await >= 4);

    let log = fs::read_to_string(&log).unwrap();
    for secret in [SESSION_SECRET, ADMIN_TOKEN, &good, &admin, &expired] {
        assert!(!log.contains(secret), "a secret was logged: {secret}");
    }
}

#[tokio::test]
async fn a_token_says_what_its_sessions_may_do_and_for_how_long() {
    let service = Process::start(keyed(&mut serve(&[])));
    let token = mint(&["--subject", "alice", "--tasks", "faces", "--max-seconds", "3"]);
    let mut socket = socket_with(service.address, &token).await.unwrap();
    let welcome = next_message(&mut socket).await;
    assert_eq!(welcome["tasks"], json!({ "faces": true, "gender": false, "objects": false, "text": false }));
    let end = next_message(&mut socket).await;
    assert_eq!((end["type"].as_str(), end["reason"].as_str()), (Some("bye"), Some("its time is up")));
    assert_eq!(next_message(&mut socket).await, Value::Null);

    let picture =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures/astronaut.jpg")).unwrap();
    let headers = bearer(&token);
    let answer = ask(service.address, "POST", "/predict", &headers, &picture).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let report: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(answer.body.contains("face") && !answer.body.contains("apparent_gender"), "{report}");
    assert!(!answer.body.contains("\"object\""), "{report}");
    let answer = ask(service.address, "POST", "/predict?tasks=faces,objects", &headers, &picture).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "task_not_allowed"));
}

#[tokio::test]
async fn what_is_malformed_is_refused_in_one_form() {
    let service = Process::start(&mut serve(&[]));
    let at = service.address;
    let sessions = ClusterToken::new(CLUSTER_TOKEN).unwrap().session_key();
    let foreign = sessions.new_session("w1");
    let by_foreign = format!("/api/ice-servers?session={foreign}");
    let resume_foreign = format!("/api/session?resume={}", sessions.resume_token(foreign));
    let json = "Content-Type: application/json\r\n";
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);
    let table: &[Row<'_>] = &[
        ("GET", "/nowhere", "", b"", 404, "not_found"),
        ("POST", "/nowhere", "", b"x", 404, "not_found"),
        ("POST", "/", "", b"x", 405, "method_not_allowed"),
        ("DELETE", "/api/session", "", b"", 405, "method_not_allowed"),
        ("GET", "/predict", "", b"", 405, "method_not_allowed"),
        ("GET", "/api/session", "", b"", 426, "upgrade_expected"),
        ("GET", "/api/session?resume=garbage", UPGRADE, b"", 400, "invalid_resume_token"),
        ("GET", &resume_foreign, UPGRADE, b"", 400, "invalid_resume_token"),
        ("GET", "/api/session?resume=a&resume=b", UPGRADE, b"", 400, "invalid_option"),
        ("GET", &by_foreign, "", b"", 400, "invalid_session"),
        ("GET", "/api/ice-servers?session=%00", "", b"", 400, "invalid_session"),
        ("GET", "/api/ice-servers", "Host: rebound.example\r\n", b"", 403, "host_refused"),
        ("GET", "/metrics", "Host: 127.0.0.1.rebound.example:80\r\n", b"", 403, "host_refused"),
        ("GET", "/api/ice-servers", "Origin: https://stranger.example\r\n", b"", 403, "origin_refused"),
        ("POST", "/predict", "Origin: null\r\n", b"x", 403, "origin_refused"),
        ("POST", "/predict?tasks=ears", "", b"x", 400, "invalid_option"),
        ("POST", "/predict?%ff=%", "", b"x", 400, "invalid_option"),
        ("POST", "/predict", "Content-Type: multipart/form-data\r\n", b"x", 400, "body_unreadable"),
        (
            "POST",
            "/predict",
            "Content-Type: multipart/form-data; boundary=b\r\n",
            b"--b\r\nx",
            400,
            "body_unreadable",
        ),
        ("POST", "/predict", json, br#"{"picture":"none"}"#, 415, "unsupported_type"),
        ("POST", "/predict", "Content-Length: 99999999\r\n", b"", 413, "too_large"),
        ("NONSENSE\u{0}", "/", "", b"", 400, ""),
    ];
    for (method, path, headers, body, status, code) in table {
        let answer = ask(at, method, path, headers, body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{method} {path} {}",
            answer.body
        );
        let shows_methods = answer.head.contains("allow: ");
        assert_eq!(shows_methods, *status == 405, "{method} {path}: {}", answer.head);
        if *status != 404 && !code.is_empty() {
            assert!(refusals(&service, code).await > 0, "{code} is counted");
        }
    }

    // As long as a head may be, and not at its end: all of it has been read when it is refused.
    let mut endless = format!("GET / HTTP/1.1\r\nHost: {at}\r\nX-Long: ").into_bytes();
    endless.resize(32 << 10, b'x');
    let answer = Answer::read(&exchange(connect_from(1, at).await.unwrap(), &endless).await).unwrap();
    assert_eq!(answer.status, 431);

    let mut socket = service.socket("").await.unwrap();
    assert_eq!(next_message(&mut socket).await["type"], "welcome");
    for malformed in
        ["{", r#"{"type":"offer"}"#, r#"{"type":"offer","sdp":7}"#, r#"{"type":"candidate"}"#, "[]"]
    {
        socket.send(Message::text(malformed)).await.unwrap();
        assert_eq!(next_message(&mut socket).await["code"], "message_unreadable", "{malformed}");
    }
    let huge = json!({ "type": "offer", "sdp": "x".repeat(65 << 10) }).to_string();
    let _ = socket.send(Message::text(huge)).await;
    assert_eq!(next_message(&mut socket).await["code"], "message_unreadable");
    assert_eq!(next_message(&mut socket).await, Value::Null, "the socket is closed");
    assert_eq!(refusals(&service, "message_unreadable").await, 6);
    eventually("no session is left", || service.metric("vigie_sessions_active") == 0.0).await;

    let mut socket = service.socket("").await.unwrap();
    let resume = next_message(&mut socket).await["resume"].as_str().unwrap().to_owned();
    socket.send(Message::text(r#"{"type":"bye"}"#)).await.unwrap();
    eventually("the session has ended", || service.metric("vigie_sessions_active") == 0.0).await;
    let mut back = service.socket(&format!("?resume={resume}")).await.unwrap();
    assert_eq!(next_message(&mut back).await["code"], "unknown_session");
    assert_eq!(refusals(&service, "unknown_session").await, 1);
}

#[tokio::test]
async fn a_thousand_connections_of_one_address_leave_another_alone() {
    let service = Process::start(&mut serve(&["--max-connections-per-address", "100"]));
    let at = service.address;
    assert_eq!(get(at, "/health", "").await.status, 200);
    eventually("the front has asked its worker", || service.is_ready()).await;
    let files = open_files(&service);

    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(connect_from(1, at).await.unwrap());
    }
    // Accepted in order, so that the hundredth has its place when a later one is refused.
    let mut told = 0;
    for _ in 100..1000 {
        let answer =
            exchange(connect_from(1, at).await.unwrap(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = Answer::read(&answer).expect("a refused connection is told so");
        assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_connections"));
        assert!(answer.head.contains("retry-after: "), "{}", answer.head);
        told += 1;
    }
    assert_eq!(ask_from(2, at, "GET", "/health", "", b"").await.status, 200);
    let neighbour = connect_from(2, at).await.unwrap();
    let request = format!("ws://{at}/api/session").into_client_request().unwrap();
    let (mut neighbour, _) = tokio_tungstenite::client_async(request, neighbour).await.unwrap();
    let welcome = loop {
        match neighbour.next().await {
            Some(Ok(Message::Text(welcome))) => break welcome,
            // A ping may come first.
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("{other:?} and no welcome"),
        }
    };
    assert!(welcome.contains("welcome"), "{welcome}");
    assert_eq!(refusals(&service, "too_many_connections").await, told);

    drop(held);
    neighbour.send(Message::text(r#"{"type":"bye"}"#)).await.unwrap();
    drop(neighbour);
    eventually("there is room again", || {
        std::net::TcpStream::connect(at).is_ok() && service.get("/health").contains(" 200 ")
    })
    .await;
    eventually("no session is left", || service.metric("vigie_sessions_active") == 0.0).await;
    // The control connections between front and worker come and go.
    eventually("no file is left open", || open_files(&service) <= files + 2).await;
}

/// Writes one byte after another until the other side has enough; returns what that said.
async fn trickle(to: SocketAddr, head: &str, slowly: &str) -> String {
    let mut stream = connect_from(3, to).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut answers, mut requests) = stream.split();
    let writing = async {
        for byte in slowly.bytes().cycle() {
            if requests.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let reading = async {
        let _ = answers.read_to_end(&mut answer).await;
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        () = tokio::time::sleep(Duration::from_secs(120)) => panic!("never ended: {head:?} {slowly:?}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn sockets_that_dawdle_are_closed() {
    let service = Process::start(&mut serve(&[]));
    let at = service.address;
    eventually("the front has asked its worker", || service.is_ready()).await;
    let files = open_files(&service);

    let many = |head: String, slowly: &'static str| async move {
        let slow = (0..20).map(|_| trickle(at, &head, slowly));
        futures_util::future::join_all(slow).await
    };
    let silent = async {
        let mut stream = connect_from(3, at).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(120), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a connection that says nothing is closed");
    };
    // Opened, and never read from again: no ping is answered.
    let mute = async {
        let mut stream = connect_from(3, at).await.unwrap();
        let open = format!("GET /api/session HTTP/1.1\r\nHost: {at}\r\nConnection: Upgrade\r\n{UPGRADE}\r\n");
        stream.write_all(open.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(120), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a socket that answers no ping is closed");
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&answer));
    };
    // Asks for more and more, and takes none of it.
    let greedy = async {
        let mut stream = connect_from(3, at).await.unwrap();
        let request = format!("GET /js/main.js HTTP/1.1\r\nHost: {at}\r\n\r\n");
        let asking = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
        let ended = tokio::time::timeout(Duration::from_secs(120), asking).await;
        assert!(ended.is_ok(), "a connection that takes no answers is closed");
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(ask_from(2, at, "GET", "/health", "", b"").await.status, 200);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let body = format!("POST /predict HTTP/1.1\r\nHost: {at}\r\nContent-Length: 1000000\r\n\r\n");
    let (heads, bodies, (), (), (), ()) = tokio::join!(
        many(format!("GET / HTTP/1.1\r\nHost: {at}\r\nX-Slow: "), "x"),
        many(body, "x"),
        silent,
        mute,
        greedy,
        others
    );
    assert!(heads.iter().all(String::is_empty), "{heads:?}");
    for answer in bodies {
        let answer = Answer::read(answer.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (408, "upload_timed_out"));
    }
    assert_eq!(refusals(&service, "upload_timed_out").await, 20);
    assert!(refusals(&service, "request_timed_out").await >= 20);
    eventually("no session is left", || service.metric("vigie_sessions_active") == 0.0).await;
    eventually("no file is left open", || open_files(&service) <= files + 2).await;
}

#[tokio::test]
async fn a_flood_of_messages_ends_its_own_session_only() {
    let service = Process::start(&mut serve(&[]));
    let mut calm = service.socket("").await.unwrap();
    assert_eq!(next_message(&mut calm).await["type"], "welcome");

    let flood = service.socket("").await.unwrap();
    let (mut to, mut from) = flood.split();
    let writing = async {
        let candidate =
            json!({ "type": "candidate", "candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host" });
        for _ in 0..20_000 {
            if to.send(Message::text(candidate.to_string())).await.is_err() {
                break;
            }
        }
    };
    let mut codes = Vec::new();
    let reading = async {
        while let Some(Ok(message)) = from.next().await {
            if let Message::Text(text) = message {
                codes.push(serde_json::from_str::<Value>(&text).unwrap()["code"].to_string());
            }
        }
    };
    tokio::time::timeout(WAIT, async { tokio::join!(writing, reading) }).await.expect("the socket is closed");
    assert_eq!(refusals(&service, "too_many_messages").await, 1);
    assert!(codes.len() < 1000, "{} answers", codes.len());
    eventually("the flood's session is gone", || service.metric("vigie_sessions_active") == 1.0).await;

    calm.send(Message::text("{")).await.unwrap();
    assert_eq!(next_message(&mut calm).await["code"], "message_unreadable", "the other goes on");
}

#[tokio::test]
async fn each_address_has_its_own_rates() {
    let mut command = front(&["--trusted-proxies", "127.0.0.1/32"]);
    let front = Process::start(keyed(&mut command));
    let at = front.address;
    let forwarded = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let mut wrong = Vec::new();
    for _ in 0..30 {
        let answer = get(at, "/api/ice-servers", &(forwarded("192.0.2.1") + &bearer("guess"))).await;
        assert_eq!(answer.head.contains("retry-after: "), answer.status == 429);
        wrong.push(answer.code());
    }
    assert_eq!(wrong[0], "token_invalid");
    assert!(wrong.contains(&"too_many_requests".to_owned()), "guessing is slowed down");
    let answer = get(at, "/api/ice-servers", &(forwarded("192.0.2.2") + &bearer("guess"))).await;
    assert_eq!(answer.code(), "token_invalid", "another address has its own rate");

    let token = mint(&["--subject", "alice"]);
    let open = |client: String| {
        let headers = forwarded(&client) + &bearer(&token);
        async move { get(at, "/api/session", &headers).await.code() }
    };
    let mut opened = Vec::new();
    for _ in 0..60 {
        opened.push(open("192.0.2.3".into()).await);
    }
    assert_eq!(opened[0], "upgrade_expected");
    assert!(opened.contains(&"too_many_requests".to_owned()), "{opened:?}");
    assert_eq!(open("192.0.2.4".into()).await, "upgrade_expected");
    // Whom nobody trusts speaks for itself.
    for _ in 0..60 {
        let answer =
            ask_from(2, at, "GET", "/api/session", &(forwarded("192.0.2.3") + &bearer(&token)), b"").await;
        assert_eq!(answer.code(), "upgrade_expected");
    }
}

#[tokio::test]
async fn an_address_has_only_so_many_sockets() {
    let service = Process::start(&mut serve(&["--max-sockets-per-address", "3"]));
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = service.socket("").await.unwrap();
        assert_eq!(next_message(&mut socket).await["type"], "welcome");
        sockets.push(socket);
    }
    let Err(Error::Http(refused)) = service.socket("").await else { panic!("a fourth was taken") };
    assert_eq!(refused.status(), 429);
    assert!(
        refused
            .body()
            .as_deref()
            .is_some_and(|body| String::from_utf8_lossy(body).contains("too_many_sockets"))
    );
    assert_eq!(refusals(&service, "too_many_sockets").await, 1);
    drop(sockets);
    let mut deadline = 0;
    while service.socket("").await.is_err() {
        deadline += 1;
        assert!(deadline < 200, "places become free");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn curl(arguments: &[&str]) -> Output {
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap()
}

/// The fingerprint that OpenSSL's client is shown.
fn fingerprint(at: SocketAddr) -> String {
    let script = format!(
        "openssl s_client -connect {at} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256"
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split_once('=').unwrap_or_default().1.to_owned()
}

#[tokio::test]
async fn a_certificate_of_its_own_is_made_shown_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let log = folder.path().join("log");
    let mut command = front(&["--tls-self-signed", "--tls-folder", made.to_str().unwrap()]);
    let self_signed = Process::start(command.stderr(fs::File::create(&log).unwrap()));
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| made.join(name));
    let trusted = certificate.to_str().unwrap();
    let port = self_signed.address.port();
    for host in ["127.0.0.1", "localhost"] {
        let output = curl(&["--include", "--cacert", trusted, &format!("https://{host}:{port}/")]);
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(
            text.starts_with("http/1.1 200"),
            "{host}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!text.contains("strict-transport-security"), "nobody could click a warning away");
    }
    assert!(!curl(&[&format!("https://localhost:{port}/")]).status.success(), "nobody trusts it unasked");
    let outdated = ["--cacert", trusted, "--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0"];
    assert!(!curl(&[&outdated[..], &[&format!("https://localhost:{port}/")]].concat()).status.success());
    let shown = fingerprint(self_signed.address);
    let said = fs::read_to_string(&log).unwrap();
    assert!(!shown.is_empty() && said.contains(&shown), "{shown}: {said}");

    // Plain HTTP, and nothing at all, end without an answer.
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b""] {
        let answer = exchange(connect_from(1, self_signed.address).await.unwrap(), bytes).await;
        assert!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
    }

    // The next start has the same, unless the machine got another address in between, as others' tests may give it.
    let start_again = || {
        let front =
            Process::start(&mut front(&["--tls-self-signed", "--tls-folder", made.to_str().unwrap()]));
        fingerprint(front.address)
    };
    let mut shown = shown;
    let is_kept = (0..5).any(|_| std::mem::replace(&mut shown, start_again()) == shown);
    assert!(is_kept, "each start made a certificate");

    // Another's certificate, replaced under the running service.
    let other = folder.path().join("other");
    let other_front =
        Process::start(&mut front(&["--tls-self-signed", "--tls-folder", other.to_str().unwrap()]));
    let own = Process::start(&mut front(&["--tls-cert", trusted, "--tls-key", key.to_str().unwrap()]));
    assert_eq!(fingerprint(own.address), shown);
    let url = format!("https://localhost:{}/", own.address.port());
    let answer = curl(&["--include", "--cacert", trusted, &url]);
    assert!(String::from_utf8_lossy(&answer.stdout).contains("strict-transport-security: max-age="));
    fs::write(&certificate, "half a certi").unwrap();
    let hang_up = || {
        let sent = Command::new("kill").args(["-HUP", &own.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    hang_up();
    assert_eq!(fingerprint(own.address), shown, "what cannot be read replaces nothing");
    fs::copy(other.join("key.pem"), &key).unwrap();
    fs::copy(other.join("certificate.pem"), &certificate).unwrap();
    hang_up();
    let wanted = fingerprint(other_front.address);
    assert_ne!(wanted, shown);
    eventually("the new certificate is shown", || fingerprint(own.address) == wanted).await;
}

#[test]
fn what_would_leave_the_door_open_is_not_started() {
    let refused = |command: &mut Command| {
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(!output.status.success(), "{command:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let anywhere = ["--listen", "0.0.0.0:0"];
    let said = refused(
        vigie()
            .args(["signal", "--workers", "127.0.0.1:1"])
            .args(anywhere)
            .env("VIGIE_CLUSTER_TOKEN", CLUSTER_TOKEN),
    );
    assert!(said.contains("VIGIE_SESSION_SECRET") && said.contains("--insecure-open"), "{said}");
    for (session, admin, expected) in [
        ("short", ADMIN_TOKEN, "at least 32"),
        (SESSION_SECRET, "short", "at least 32"),
        (SESSION_SECRET, SESSION_SECRET, "the same"),
    ] {
        let mut command = front(&[]);
        let said = refused(command.env("VIGIE_SESSION_SECRET", session).env("VIGIE_ADMIN_TOKEN", admin));
        assert!(said.contains(expected) && !said.contains(ADMIN_TOKEN), "{said}");
    }
    assert!(refused(front(&[]).env("VIGIE_SESSION_SECRET", SESSION_SECRET)).contains("--admin-token"));
    assert!(refused(vigie().args(["token", "--subject", "x"])).contains("VIGIE_SESSION_SECRET"));
    assert!(refused(keyed(vigie().args(["token", "--subject", "x", "--tasks", "ears"]))).contains("ears"));
}

/// OWASP ASVS 5.0, 3.4.3 to 3.4.6: whatever is asked for, and whatever comes of it.
#[tokio::test]
async fn every_answer_keeps_a_page_to_itself() {
    let front = Process::start(&mut front(&[]));
    let asked = [
        ("GET", "/"),
        ("GET", "/js/main.js"),
        ("GET", "/nothing"),
        ("POST", "/predict"),
        ("GET", "/metrics"),
    ];
    for (method, path) in asked {
        let head = ask(front.address, method, path, "", b"").await.head.to_lowercase();
        let value = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default()
        };
        let policy = value("content-security-policy");
        for rule in ["default-src 'self'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{method} {path}: {head}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(value("x-content-type-options"), "nosniff", "{method} {path}");
        assert_eq!(value("referrer-policy"), "no-referrer", "{method} {path}");
        assert!(value("permissions-policy").contains("camera=(self)"), "{method} {path}");
    }
}
