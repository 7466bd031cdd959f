//! WHIP and WHEP over real fronts, workers and WebRTC: the protocol to the letter, and what is refused.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "common/peer.rs"]
mod peer;
#[path = "common/cluster.rs"]
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use peer::{Peer, credentials};
use process::{PATIENCE, Process, Socket, eventually, find, next_message, vigie};

const SDP: (&str, &str) = ("Content-Type", "application/sdp");
const FRAGMENT: (&str, &str) = ("Content-Type", "application/trickle-ice-sdpfrag");

fn worker(arguments: &[&str]) -> Process {
    let mut command = vigie();
    command.args(["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "1"]);
    command.args(["--name", "w1"]).args(arguments);
    Process::start(command.env("VIGIE_CLUSTER_TOKEN", "the-token-of-the-tests-own-cluster"))
}

fn front(worker: &Process, arguments: &[&str]) -> Process {
    let mut command = vigie();
    command.args(["signal", "--listen", "127.0.0.1:0", "--workers", &worker.address.to_string()]);
    command.args(arguments);
    Process::start(command.env("VIGIE_CLUSTER_TOKEN", "the-token-of-the-tests-own-cluster"))
}

/// An HTTP answer.
struct Reply {
    status: u16,
    /// Names in lower case; several of one name are kept apart by newlines.
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn refusal(&self) -> (u16, String) {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body));
        assert!(body["error"]["message"].is_string(), "{body}");
        (self.status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut stream = TcpStream::connect(to).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    head += &format!("Content-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = BTreeMap::new();
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
        let all: &mut String = headers.entry(name.to_lowercase()).or_default();
        all.push_str(if all.is_empty() { "" } else { "\n" });
        all.push_str(value);
    }
    Reply { status, headers, body: body.to_owned() }
}

/// Publishes and connects; returns what the front said.
async fn publish(front: &Process, query: &str) -> (Peer, Reply) {
    let mut peer = Peer::publisher().await;
    peer.add_candidate();
    let created = ask(front.address, "POST", &format!("/whip{query}"), &[SDP], &peer.offer());
    assert_eq!(created.status, 201, "{}", created.body);
    peer.accept(&created.body);
    peer.run_until("connected", |peer| peer.is_connected).await;
    (peer, created)
}

/// A DTLS record (RFC 9147 §4.1) as anybody can write it: of epoch 0, which is neither encrypted nor authenticated.
fn plain_record(kind: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&[kind, 254, 253, 0, 0, 0, 0, 0, 0, 0, sequence][..], &length, body].concat()
}

#[tokio::test]
async fn who_is_no_peer_cannot_meddle_with_the_handshake() {
    let worker = worker(&[]);
    let front = front(&worker, &[]);
    let mut peer = Peer::publisher().await;
    peer.add_candidate();
    let created = ask(front.address, "POST", "/whip", &[SDP], &peer.offer());
    assert_eq!(created.status, 201, "{}", created.body);
    let candidate = created.body.lines().find(|line| line.starts_with("a=candidate:")).unwrap();
    let words: Vec<&str> = candidate.split(' ').collect();
    let port: SocketAddr = format!("{}:{}", words[4], words[5]).parse().unwrap();
    // Somebody else at the same port, from before the handshake until after it: fatal alerts, a hello, nonsense.
    let is_over = Arc::new(AtomicBool::new(false));
    let meddler = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let hello = [
                &[1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 42, 254, 253][..],
                &[7; 32],
                &[0, 0, 0, 2, 0xc0, 0x2b, 1, 0],
            ]
            .concat();
            let mut sent = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let sequence = sent as u8;
                for record in [
                    plain_record(21, sequence, &[2, 40]),
                    plain_record(22, sequence, &hello),
                    plain_record(20, sequence, &[1]),
                ] {
                    let _ = socket.send_to(&record, port);
                }
                sent += 1;
                std::thread::sleep(Duration::from_micros(500));
            }
            sent
        }
    });
    peer.accept(&created.body);
    peer.run_until("connected", |peer| peer.is_connected).await;
    peer.run_for(Duration::from_secs(2)).await;
    is_over.store(true, Ordering::Relaxed);
    assert!(meddler.join().unwrap() > 100);
    eventually("frames are recognised", || {
        worker.get("/metrics").contains("vigie_frames_total{stage=\"total\"}")
    })
    .await;
    assert_eq!(worker.metric("vigie_sessions_active"), 1.0);
}

/// Opens a session as a page does, with an offer of the peer's or a forgery of it.
async fn join(front: &Process, peer: &mut Peer, offer: &str) -> Socket {
    let mut socket = front.socket("").await.unwrap();
    socket.send(Message::text(json!({ "type": "offer", "sdp": offer }).to_string())).await.unwrap();
    peer.add_candidate();
    loop {
        let told = next_message(&mut socket).await;
        match told["type"].as_str().unwrap() {
            "welcome" => {}
            "answer" => peer.accept(told["sdp"].as_str().unwrap()),
            "candidate" if told["candidate"] == "" => return socket,
            "candidate" => peer.hear(told["candidate"].as_str().unwrap()),
            other => panic!("{other}: {told}"),
        }
    }
}

#[tokio::test]
async fn who_has_another_certificate_than_it_said_gets_no_session() {
    let worker = worker(&[]);
    let front = front(&worker, &[]);
    let mut peer = Peer::page().await;
    let offer = peer.offer();
    let announced = offer.lines().find_map(|line| line.strip_prefix("a=fingerprint:sha-256 ")).unwrap();
    let digit = if announced.starts_with('0') { "1" } else { "0" };
    let forged = offer.replace(announced, &format!("{digit}{}", &announced[1..]));
    let mut socket = join(&front, &mut peer, &forged).await;
    let told = tokio::select! {
        told = next_message(&mut socket) => told,
        () = peer.run_for(PATIENCE) => panic!("the page is told nothing"),
    };
    assert_eq!((&told["type"], &told["code"]), (&json!("error"), &json!("never_connected")), "{told}");
    assert!(!peer.is_connected && !peer.is_open);
    // bad_certificate (RFC 5246 §7.2.2).
    assert!(peer.fault.as_ref().is_some_and(|fault| fault.contains("description=42")), "{:?}", peer.fault);
    eventually("the session is gone", || worker.metric("vigie_sessions_active") == 0.0).await;
    let metrics = worker.get("/metrics");
    for stage in ["receive", "decode", "total"] {
        assert!(!metrics.contains(&format!("stage=\"{stage}\"")), "nothing was let in: {metrics}");
    }

    // With the same offer unchanged it is let in.
    let mut peer = Peer::page().await;
    let offer = peer.offer();
    let _socket = join(&front, &mut peer, &offer).await;
    peer.run_until("reports", |peer| peer.is_connected && peer.is_open && peer.reports > 0).await;
}

#[tokio::test]
async fn candidates_trickle_ice_restarts_and_a_goodbye_frees_everything() {
    let worker = worker(&[]);
    let front = front(&worker, &[]);
    let recognised = || worker.get("/metrics").contains("vigie_frames_total{stage=\"total\"}");

    let mut peer = Peer::publisher().await;
    let offer = peer.offer();
    assert!(!offer.contains("a=candidate"), "the candidates come later");
    let created = ask(front.address, "POST", "/whip", &[SDP], &offer);
    assert_eq!((created.status, created.header("content-type")), (201, "application/sdp"));
    assert_eq!(created.header("accept-patch"), "application/trickle-ice-sdpfrag");
    assert!(created.body.contains("a=recvonly") && created.body.contains("a=end-of-candidates"));
    let (session, etag) = (created.header("location").to_owned(), created.header("etag").to_owned());
    assert!(session.starts_with("/whip/w1.") && etag.starts_with('"') && etag.len() > 5, "{session} {etag}");
    peer.accept(&created.body);

    peer.add_candidate();
    let patch = |if_match: &str, body: &str| {
        ask(front.address, "PATCH", &session, &[FRAGMENT, ("If-Match", if_match)], body)
    };
    let unusable = "a=candidate:1 1 tcp 9 nowhere.invalid 9 typ host tcptype active\r\n";
    let trickled = patch(&etag, &format!("{}{unusable}a=end-of-candidates\r\n", peer.fragment(&offer)));
    assert_eq!((trickled.status, trickled.body.as_str(), trickled.header("etag")), (204, "", ""));
    peer.run_until("recognised", |_| recognised()).await;

    // A fragment that says nothing new of who we are is no restart, whatever it is matched with.
    assert_eq!(patch("*", &peer.fragment(&offer)).status, 204);
    let offer = peer.offer_restart();
    let stale = patch("\"another\"", &peer.fragment(&offer));
    assert_eq!(stale.refusal(), (412, "ice_session_changed".into()));
    let restarted = patch("*", &peer.fragment(&offer));
    assert_eq!(restarted.status, 200, "{}", restarted.body);
    assert_eq!(restarted.header("content-type"), "application/trickle-ice-sdpfrag");
    assert_ne!(restarted.header("etag"), etag);
    let ((old, _), (new, _)) = (credentials(&created.body), credentials(&restarted.body));
    assert_ne!(old, new);
    assert!(restarted.body.contains("a=candidate:"), "{}", restarted.body);
    assert_eq!(patch(&etag, "a=end-of-candidates\r\n").refusal().0, 412);
    assert_eq!(patch(restarted.header("etag"), "a=end-of-candidates\r\n").status, 204);

    peer.accept_restart(&created.body, &restarted.body);
    peer.run_until("connected anew", |peer| peer.was_reconnected).await;
    let before = worker.metric("vigie_stage_seconds_count{stage=\"total\"}");
    peer.run_until("recognised again", |_| {
        worker.metric("vigie_stage_seconds_count{stage=\"total\"}") > before + 3.0
    })
    .await;

    assert_eq!(worker.metric("vigie_sessions_active"), 1.0);
    let ended = ask(front.address, "DELETE", &session, &[], "");
    assert_eq!((ended.status, worker.metric("vigie_sessions_active")), (200, 0.0));
    assert_eq!(ask(front.address, "DELETE", &session, &[], "").refusal(), (404, "unknown_session".into()));
    assert_eq!(patch("*", "a=end-of-candidates\r\n").refusal(), (404, "unknown_session".into()));
    assert_eq!(worker.metric("vigie_session_panics_total"), 0.0);
}

#[tokio::test]
async fn viewers_are_let_in_up_to_a_number_and_leave_nothing() {
    let worker = worker(&["--max-viewers", "1"]);
    let front = front(&worker, &[]);
    let mut early = Peer::publisher().await;
    let created = ask(front.address, "POST", "/whip", &[SDP], &early.offer());
    let watch = |created: &Reply, offer: &str| {
        ask(front.address, "POST", created.header("vigie-watch"), &[SDP], offer)
    };
    let mut viewer = Peer::viewer().await;
    let offer = viewer.offer();
    let refused = watch(&created, &offer);
    assert_eq!(refused.refusal(), (409, "not_live".into()), "nobody has connected");
    assert_eq!(refused.header("retry-after"), "3");
    assert_eq!(ask(front.address, "DELETE", created.header("location"), &[], "").status, 200);
    assert_eq!(watch(&created, &offer).refusal(), (404, "unknown_session".into()));

    let (mut publisher, created) = publish(&front, "").await;
    let mut admitted = None;
    publisher
        .run_until("live", |_| {
            let reply = watch(&created, &offer);
            assert!(reply.status == 201 || reply.status == 409, "{}", reply.body);
            admitted = (reply.status == 201).then_some(reply);
            admitted.is_some()
        })
        .await;
    let admitted = admitted.unwrap();
    assert!(admitted.body.contains("a=sendonly") && !admitted.header("etag").is_empty());
    assert_eq!(watch(&created, &offer).refusal(), (503, "too_many_viewers".into()));
    let publishing = tokio::spawn(async move {
        publisher.run_for(Duration::from_secs(60)).await;
    });

    viewer.accept(&admitted.body);
    viewer.add_candidate();
    let place = admitted.header("location");
    let patch = |etag: &str, body: &str| {
        ask(front.address, "PATCH", place, &[FRAGMENT, ("If-Match", etag)], body).status
    };
    assert_eq!(patch(admitted.header("etag"), &viewer.fragment(&offer)), 204);
    viewer.run_until("pictures and reports", |peer| peer.pictures > 10 && peer.reports > 2).await;
    assert_eq!(worker.metric("vigie_viewers_active"), 1.0);

    let offer = viewer.offer_restart();
    let headers = [FRAGMENT, ("If-Match", "*")];
    let restarted = ask(front.address, "PATCH", place, &headers, &viewer.fragment(&offer));
    assert_eq!(restarted.status, 200, "{}", restarted.body);
    viewer.accept_restart(&admitted.body, &restarted.body);
    viewer.run_until("connected anew", |peer| peer.was_reconnected).await;
    let seen = viewer.pictures;
    viewer.run_until("more pictures", |peer| peer.pictures > seen + 10).await;

    // Another name, and a name with another session's token, are nobody.
    let other = format!("{}{}", &place[..place.len() - 1], if place.ends_with('0') { "1" } else { "0" });
    for path in [other.as_str(), &format!("{place}0"), &place.replace("w1.", "w2.")] {
        assert_eq!(ask(front.address, "DELETE", path, &[], "").refusal().0, 404, "{path}");
    }
    assert_eq!(ask(front.address, "DELETE", place, &[], "").status, 200);
    assert_eq!(worker.metric("vigie_viewers_active"), 0.0);
    assert_eq!(ask(front.address, "DELETE", place, &[], "").refusal(), (404, "unknown_viewer".into()));

    assert_eq!(ask(front.address, "DELETE", created.header("location"), &[], "").status, 200);
    assert_eq!(worker.metric("vigie_sessions_active"), 0.0);
    publishing.abort();
}

#[tokio::test]
async fn viewers_that_break_off_while_they_join_leave_nothing() {
    let worker = worker(&["--max-viewers", "100"]);
    let front = front(&worker, &[]);
    let offer = Peer::viewer().await.offer();
    let (mut publisher, created) = publish(&front, "").await;
    let watch = created.header("vigie-watch");
    let mut place = String::new();
    publisher
        .run_until("live", |_| {
            let reply = ask(front.address, "POST", watch, &[SDP], &offer);
            place = reply.header("location").to_owned();
            reply.status == 201
        })
        .await;
    assert_eq!(ask(front.address, "DELETE", &place, &[], "").status, 200);
    let publishing = tokio::spawn(async move {
        publisher.run_for(Duration::from_secs(120)).await;
    });
    let open_files = || fs::read_dir(format!("/proc/{}/fd", worker.child.id())).unwrap().count();
    let before = open_files();
    let mut most = before;
    for round in 0..60 {
        let mut stream = TcpStream::connect(front.address).unwrap();
        let head =
            format!("POST {watch} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/sdp\r\n", front.address);
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{offer}", offer.len()).as_bytes()).unwrap();
        // At another moment of the joining each time.
        tokio::time::sleep(Duration::from_millis(round % 20)).await;
        drop(stream);
        most = most.max(open_files());
    }
    assert!(most > before + 2, "nobody came far enough to leave anything");
    // A few connections to the front are kept for the next request.
    eventually("those who came far enough are given up", || worker.metric("vigie_viewers_active") == 0.0)
        .await;
    eventually("the viewers' sockets are closed", || open_files() <= before + 2).await;
    publishing.abort();
}

#[tokio::test]
async fn a_worker_that_is_to_stop_does_not_wait_for_publishers() {
    // They cannot be told to move; closed, they come back by themselves, to another worker.
    let mut worker = worker(&["--drain-seconds", "600"]);
    let front = front(&worker, &[]);
    let (_publisher, _) = publish(&front, "").await;
    let told = std::process::Command::new("kill").arg(worker.child.id().to_string()).status().unwrap();
    assert!(told.success());
    eventually("the worker ends", || worker.child.try_wait().unwrap().is_some()).await;
}

#[tokio::test]
async fn settings_come_with_the_offer() {
    let worker = worker(&[]);
    let front = front(&worker, &[]);
    let (mut publisher, created) = publish(&front, "?tasks=objects&max_rate=2").await;
    let mut viewer = Peer::viewer().await;
    viewer.add_candidate();
    let offer = viewer.offer();
    let mut answer = String::new();
    publisher
        .run_until("live", |_| {
            let reply = ask(front.address, "POST", created.header("vigie-watch"), &[SDP], &offer);
            answer = reply.body;
            reply.status == 201
        })
        .await;
    let publishing = tokio::spawn(async move { publisher.run_for(Duration::from_secs(60)).await });
    viewer.accept(&answer);
    viewer.run_until("reports of objects", |peer| peer.kinds.contains("object")).await;
    assert!(!viewer.kinds.contains("face"), "{:?}", viewer.kinds);
    let (reports, began) = (viewer.reports, Instant::now());
    viewer.run_for(Duration::from_secs(4)).await;
    let at_most = 2.0 * began.elapsed().as_secs_f64() + 4.0;
    assert!(
        ((viewer.reports - reports) as f64) < at_most,
        "two reports a second: {}",
        viewer.reports - reports
    );
    publishing.abort();
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_and_counted() {
    let worker = worker(&["--max-sessions", "1"]);
    let front = front(&worker, &["--allowed-origins", "https://friend.example"]);
    let offer = Peer::publisher().await.offer();
    let post = |path: &str, headers: &[(&str, &str)], body: &str| {
        ask(front.address, "POST", path, headers, body).refusal()
    };
    let long = "x".repeat(100_000);
    let audio = offer.replace("m=video", "m=audio").replace("VP8", "opus");
    let odd = offer.replace("VP8/90000", "VP7/90000").replace("H264/", "H263/");
    let odd = odd.replace("VP9/", "VP5/").replace("AV1/", "AV0/");
    let watched = Peer::viewer().await.offer();
    let cut = offer.split("a=fingerprint").next().unwrap();
    let mute = offer.replace("a=sendonly", "a=inactive");
    type Case<'a> = (&'a str, (&'a str, &'a str), &'a str, (u16, &'a str));
    let table: &[Case] = &[
        ("/whip", ("Content-Type", "application/json"), &offer, (415, "unsupported_content_type")),
        ("/whip", ("Accept", "*/*"), &offer, (415, "unsupported_content_type")),
        ("/whip", SDP, &long, (413, "body_too_large")),
        ("/whip", SDP, "", (400, "offer_refused")),
        ("/whip", SDP, "v=0\r\nnonsense", (400, "offer_refused")),
        ("/whip", SDP, cut, (400, "offer_refused")),
        ("/whip", SDP, &audio, (406, "codec_unsupported")),
        ("/whip", SDP, &odd, (406, "codec_unsupported")),
        ("/whip", SDP, &mute, (406, "codec_unsupported")),
        ("/whip", SDP, &watched, (406, "codec_unsupported")),
        ("/whip?tasks=ears", SDP, &offer, (400, "invalid_option")),
        ("/whip?threshold=7", SDP, &offer, (400, "invalid_option")),
        ("/whip?threshold=NaN", SDP, &offer, (400, "invalid_option")),
        ("/whip?max_rate=0", SDP, &offer, (400, "invalid_option")),
        ("/whip?stream=1", SDP, &offer, (400, "invalid_option")),
        ("/whip", ("Origin", "https://stranger.example"), &offer, (403, "origin_refused")),
        ("/whep/garbage", SDP, &offer, (404, "unknown_session")),
    ];
    for (path, header, body, expected) in table {
        let headers = if header.0 == "Origin" { vec![SDP, *header] } else { vec![*header] };
        // The one place may still be taken by the offer before, which is on its way out.
        let (status, code) = find("an answer but busy", || {
            Some(post(path, &headers, body)).filter(|(_, code)| code != "busy")
        });
        let start: String = body.chars().take(40).collect();
        assert_eq!((status, code.as_str()), *expected, "{path} {header:?} {start:?}");
    }
    eventually("none of them left a session", || worker.metric("vigie_sessions_active") == 0.0).await;
    let refused = front.get("/metrics");
    for (_, _, _, (_, code)) in table {
        assert!(refused.contains(&format!("vigie_refusals_total{{reason=\"{code}\"}}")), "{code}");
    }

    let created = ask(front.address, "POST", "/whip", &[SDP], &offer);
    let session = created.header("location").to_owned();
    assert_eq!(post("/whip", &[SDP], &offer), (503, "busy".into()));
    let watch = created.header("vigie-watch").to_owned();
    assert_eq!(post(&watch, &[SDP], &offer), (406, "codec_unsupported".into()), "it only sends");

    // A watch token watches; it neither changes nor ends what it watches.
    let as_owner = watch.replace("/whep/", "/whip/");
    let tampered = session.replace("w1.", "w2.");
    for path in [as_owner.as_str(), &tampered, "/whip/garbage", "/whip/w1.0123456789abcdef.00~00"] {
        assert_eq!(ask(front.address, "DELETE", path, &[], "").refusal(), (404, "unknown_session".into()));
    }
    let patch =
        |headers: &[(&str, &str)], body: &str| ask(front.address, "PATCH", &session, headers, body).refusal();
    let (any, end) = (("If-Match", "*"), "a=end-of-candidates\r\n");
    assert_eq!(patch(&[FRAGMENT], end), (428, "precondition_required".into()));
    assert_eq!(patch(&[FRAGMENT, ("If-Match", "\"no\"")], end), (412, "ice_session_changed".into()));
    assert_eq!(patch(&[SDP, any], end), (415, "unsupported_content_type".into()));
    assert_eq!(patch(&[FRAGMENT, any], "nonsense"), (400, "fragment_unreadable".into()));
    assert_eq!(patch(&[FRAGMENT, any], &long), (413, "body_too_large".into()));
    for method in ["PUT", "POST"] {
        let refused = ask(front.address, method, &session, &[SDP], &offer);
        assert_eq!(refused.refusal(), (405, "method_not_allowed".into()));
        assert!(refused.header("allow").contains("PATCH"), "{:?}", refused.headers);
    }
    assert_eq!(ask(front.address, "PUT", "/whip", &[SDP], &offer).refusal().0, 405);
    assert_eq!(ask(front.address, "GET", &session, &[], "").status, 204);
    assert_eq!(worker.metric("vigie_sessions_active"), 1.0, "and it is still there");
    assert_eq!(ask(front.address, "DELETE", &session, &[("If-Match", "\"old\"")], "").status, 200);
    eventually("the place is free", || worker.metric("vigie_sessions_active") == 0.0).await;
}

#[tokio::test]
async fn a_token_is_needed_to_publish_and_holds_the_session_to_its_terms() {
    let worker = worker(&[]);
    let (session, admin) = ("s".repeat(32), "a".repeat(32));
    let front = front(&worker, &["--session-secret", &session, "--admin-token", &admin]);
    let mint = |arguments: &[&str]| {
        let mut command = vigie();
        command.args(["token", "--subject", "camera-1"]).args(arguments);
        let minted = command.env("VIGIE_SESSION_SECRET", &session).env("VIGIE_ADMIN_TOKEN", &admin).output();
        let minted = minted.unwrap();
        assert!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr));
        format!("Bearer {}", String::from_utf8(minted.stdout).unwrap().trim())
    };
    let mut publisher = Peer::publisher().await;
    publisher.add_candidate();
    let offer = publisher.offer();
    let post = |path: &str, bearer: Option<&str>| {
        let headers: Vec<_> = [SDP].into_iter().chain(bearer.map(|token| ("Authorization", token))).collect();
        ask(front.address, "POST", path, &headers, &offer)
    };
    let refused = post("/whip", None);
    assert_eq!(refused.refusal(), (401, "token_required".into()));
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(post("/whip", Some("Bearer nonsense")).refusal(), (401, "token_invalid".into()));
    let only_objects = mint(&["--tasks", "objects"]);
    assert_eq!(post("/whip?tasks=faces", Some(&only_objects)).refusal(), (403, "task_not_allowed".into()));

    let created = post("/whip", Some(&only_objects));
    assert_eq!(created.status, 201, "{}", created.body);
    publisher.accept(&created.body);

    // Its own address is what a watch token opens, and what the owner's token ends.
    let mut viewer = Peer::viewer().await;
    viewer.add_candidate();
    let offer = viewer.offer();
    let mut answer = String::new();
    publisher
        .run_until("live", |_| {
            let reply = ask(front.address, "POST", created.header("vigie-watch"), &[SDP], &offer);
            answer = reply.body;
            reply.status == 201
        })
        .await;
    let publishing = tokio::spawn(async move { publisher.run_for(Duration::from_secs(60)).await });
    viewer.accept(&answer);
    viewer.run_until("reports of objects", |peer| peer.kinds.contains("object")).await;
    assert!(!viewer.kinds.contains("face"), "the token allows no faces: {:?}", viewer.kinds);
    assert_eq!(ask(front.address, "DELETE", created.header("location"), &[], "").status, 200);
    publishing.abort();
}

#[tokio::test]
async fn other_origins_and_ice_servers_are_told_as_the_standards_have_it() {
    let worker = worker(&[]);
    let turn = "turn:turn.example.org:3478?transport=udp,turns:turn.example.org:5349";
    let arguments = ["--allowed-origins", "https://friend.example", "--stun", "stun:stun.example.org:3478"];
    let arguments = [&arguments[..], &["--turn-url", turn, "--turn-secret", "north"]].concat();
    let front = front(&worker, &arguments);
    let friend = ("Origin", "https://friend.example");

    let asked = [friend, ("Access-Control-Request-Method", "POST")];
    let preflight = ask(front.address, "OPTIONS", "/whip", &asked, "");
    assert_eq!((preflight.status, preflight.header("accept-post")), (200, "application/sdp"));
    assert_eq!(preflight.header("access-control-allow-origin"), "https://friend.example");
    for (list, name) in [
        ("access-control-allow-methods", "PATCH"),
        ("access-control-allow-headers", "if-match"),
        ("access-control-allow-headers", "authorization"),
    ] {
        assert!(preflight.header(list).contains(name), "{list}: {}", preflight.header(list));
    }
    let stranger = ask(front.address, "OPTIONS", "/whip", &[("Origin", "https://stranger.example")], "");
    assert_eq!((stranger.status, stranger.header("access-control-allow-origin")), (403, ""));

    let offer = Peer::publisher().await.offer();
    let created =
        ask(front.address, "POST", "/whip", &[SDP, friend, ("Authorization", "Bearer any")], &offer);
    assert_eq!(created.status, 201, "{}", created.body);
    assert_eq!(created.header("access-control-allow-origin"), "https://friend.example");
    assert!(created.header("access-control-expose-headers").contains("location"));
    let links: Vec<&str> = created.header("link").lines().collect();
    assert_eq!(links.len(), 3, "{links:?}");
    assert_eq!(links[0], "<stun:stun.example.org:3478>; rel=\"ice-server\"");
    for (link, url) in links[1..].iter().zip(turn.split(',')) {
        assert!(link.starts_with(&format!("<{url}>; rel=\"ice-server\"; username=\"")), "{link}");
        assert!(link.contains("\"; credential=\"") && link.ends_with("; credential-type=\"password\""));
    }
    // A player is told before it makes its offer; a preflight, which no script reads, is not.
    let watch = created.header("vigie-watch");
    let told = ask(front.address, "OPTIONS", watch, &[], "");
    assert_eq!(told.header("link").lines().count(), 3, "{:?}", told.headers);
    assert!(told.header("link").contains(".watch\"; credential=\""), "{:?}", told.headers);
    assert_eq!(ask(front.address, "OPTIONS", watch, &asked, "").header("link"), "");
    assert_eq!(ask(front.address, "OPTIONS", "/whep/garbage", &[], "").refusal().0, 404);
    let refused = ask(front.address, "POST", "/whip", &[SDP, friend], "nonsense");
    assert_eq!(refused.header("access-control-allow-origin"), "https://friend.example");
}
