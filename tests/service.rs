//! The program as its users run it: started as a process, joined over real WebRTC, killed for real.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::process::{Service, vigie};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use vigie::codec::{Encoder, EncoderConfig, Speed};
use vigie::frame::{Codec, I420Buffer};
use vigie::load::clip::Clip;
use vigie::load::publisher::publish;

/// The next JSON message of a type, or `Null` when the socket closes first.
async fn next_of_type(
    socket: &mut (impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
    wanted: &str,
) -> Value {
    let waiting = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == wanted {
                    return value;
                }
            }
        }
        Value::Null
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("an answer in time")
}

#[tokio::test]
async fn a_session_gets_reports_and_annotated_video_and_leaves_nothing_behind() {
    let service = Service::start(&[]);
    let settings = json!({ "output": "both" });
    let outcome = publish(service.publisher(Duration::from_secs(8), settings)).await.unwrap();

    assert!(
        outcome.reports.len() > 10,
        "{} reports of {} frames",
        outcome.reports.len(),
        outcome.sent_at.len()
    );
    assert!(outcome.reports.iter().any(|report| report.tracks >= 2), "a face and an object at least");
    assert!(outcome.annotated.len() > 30, "{} annotated pictures", outcome.annotated.len());
    for report in &outcome.reports {
        let t = report.timings;
        let parts = t.receive + t.decode + t.queue + t.prepare + t.infer + t.track;
        assert!(parts <= t.total + 1.0, "stages add up to no more than the whole: {t:?}");
    }
    service.emptied().await;
    assert_eq!(service.metric("vigie_session_panics_total"), 0.0);
}

#[tokio::test]
async fn settings_switch_tasks_and_outputs_live() {
    let service = Service::start(&[]);
    let nothing = json!({ "tasks": { "faces": false, "gender": false, "objects": false }, "max_rate": 5 });
    let outcome = publish(service.publisher(Duration::from_secs(5), nothing)).await.unwrap();
    assert!(outcome.annotated.is_empty(), "nobody asked for the annotated track");
    let settled: Vec<_> = outcome.reports.iter().filter(|r| r.at > Duration::from_secs(3)).collect();
    assert!(!settled.is_empty(), "reports flow with every task off");
    assert!(settled.iter().all(|report| report.tracks == 0), "and are empty");
    assert!(settled.len() <= 12, "{} reports in two seconds at a rate of five", settled.len());
}

/// A clip of pictures of these sizes, one after another, `each` frames long.
fn clip_of(sizes: &[(usize, usize)], each: usize) -> Clip {
    let mut frames = Vec::new();
    for &(width, height) in sizes {
        let config = EncoderConfig {
            codec: Codec::Vp8,
            width,
            height,
            bitrate_kbps: 500,
            fps_hint: 30,
            threads: 2,
            speed: Speed::Fastest,
        };
        let mut encoder = Encoder::open(config).unwrap();
        let black = I420Buffer::black(width, height);
        for index in 0..each {
            frames.extend(encoder.encode(&black, index as u32 * 3000, index == 0).unwrap().map(|f| f.data));
        }
    }
    Clip { width: 0, height: 0, frames }
}

#[tokio::test]
async fn pictures_of_any_size_are_served_and_sizes_change_in_mid_call() {
    let service = Service::start(&[]);
    let sizes = [(640, 480), (480, 640), (1, 1), (321, 241), (4096, 2160)];
    let mut config = service.publisher(Duration::from_secs(12), json!({ "output": "both" }));
    config.clip = Arc::new(clip_of(&sizes, 20));
    let outcome = publish(config).await.unwrap();
    let seen: BTreeSet<_> = outcome.reports.iter().map(|report| report.size).collect();
    let expected: BTreeSet<_> = sizes.iter().map(|&(w, h)| (w as u32, h as u32)).collect();
    assert_eq!(seen, expected);
    assert!(outcome.reports.iter().all(|report| report.tracks == 0), "nothing is seen in the dark");

    let mut config = service.publisher(Duration::from_secs(5), Value::Null);
    config.clip = Arc::new(clip_of(&[(5000, 3000)], 3));
    let outcome = publish(config).await.unwrap();
    assert!(outcome.notices.contains(&"picture_too_large".into()), "{:?}", outcome.notices);
    assert!(outcome.reports.is_empty());
    service.emptied().await;
    assert_eq!(service.metric("vigie_session_panics_total"), 0.0);
}

/// A clip that takes long to decode and little to send: each field of each picture has another brightness than before.
fn restless_clip(width: usize, height: usize, count: usize) -> Clip {
    let config = EncoderConfig {
        codec: Codec::Vp8,
        width,
        height,
        bitrate_kbps: 20_000,
        fps_hint: 30,
        threads: 2,
        speed: Speed::Fastest,
    };
    let (mut encoder, mut picture) = (Encoder::open(config).unwrap(), I420Buffer::black(width, height));
    let mut frames = Vec::new();
    for index in 0..count {
        for (y, row) in picture.data[..width * height].chunks_mut(width).enumerate() {
            for (x, luma) in row.iter_mut().enumerate() {
                *luma = 64 + ((x / 64 * 37 + y / 64 * 91 + index * 53) % 128) as u8;
            }
        }
        frames.extend(encoder.encode(&picture, index as u32 * 3000, index == 0).unwrap().map(|f| f.data));
    }
    Clip { width: width as u16, height: height as u16, frames }
}

#[tokio::test]
async fn who_sends_more_than_can_be_decoded_is_asked_for_less() {
    let service = Service::start(&["--lanes", "1"]);
    let nothing = json!({ "tasks": { "faces": false, "gender": false, "objects": false } });
    let mut config = service.publisher(Duration::from_secs(14), nothing);
    config.clip = Arc::new(restless_clip(4096, 2160, 6));
    config.rate = 200.0;
    // On a machine that is busy with other tests as well, a sender may not get to send too much.
    let mut outcome = publish(config.clone()).await.unwrap();
    for _ in 0..3 {
        if outcome.notices.contains(&"camera_half_rate".into()) {
            break;
        }
        outcome = publish(config.clone()).await.unwrap();
    }
    assert!(outcome.notices.contains(&"camera_half_rate".into()), "{:?}", outcome.notices);
    assert!(service.metric("vigie_frames_dropped_total{stage=\"decode\"}") > 0.0);
    // Half of what it was told to send, not of what it sent: a busy machine does not bring it to 200 a second.
    let last = Duration::from_secs(11)..Duration::from_secs(14);
    let sent = outcome.sent_at.iter().filter(|at| last.contains(*at)).count();
    assert!((1..=3 * 110).contains(&sent), "{sent} frames in the last three seconds");
}

#[tokio::test]
async fn slow_models_drop_pictures_and_nothing_else() {
    let service = Service::start(&["--slowdown", "8"]);
    let settings = json!({ "output": "both" });
    let outcome = publish(service.publisher(Duration::from_secs(8), settings)).await.unwrap();
    assert!(outcome.dropped > 0 && !outcome.reports.is_empty());
    assert!(
        outcome.annotated.len() > 2 * outcome.reports.len(),
        "video goes on at its own rate: {} pictures, {} reports",
        outcome.annotated.len(),
        outcome.reports.len()
    );
}

#[tokio::test]
async fn garbage_gets_an_error_and_disturbs_nobody() {
    let service = Service::start(&[]);
    let neighbour = tokio::spawn(publish(service.publisher(Duration::from_secs(10), Value::Null)));

    let mut socket = service.socket().await;
    assert_eq!(next_of_type(&mut socket, "welcome").await["tasks"]["faces"], true);
    for garbage in ["", "nonsense", "{}", r#"{"type":"nonsense"}"#, "[[[[", "\u{0}\u{1}"] {
        socket.send(Message::text(garbage)).await.unwrap();
        assert_eq!(next_of_type(&mut socket, "error").await["code"], "message_unreadable", "{garbage:?}");
    }
    let offers = ["", "v=0", "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "a=rtpmap:96 VP8/90000\r\n"];
    for sdp in offers {
        socket.send(Message::text(json!({ "type": "offer", "sdp": sdp }).to_string())).await.unwrap();
        let code = next_of_type(&mut socket, "error").await["code"].clone();
        assert!(code == "codec_unsupported" || code == "offer_refused", "{sdp:?}: {code}");
    }
    let candidate = json!({ "type": "candidate", "candidate": "candidate:x" });
    socket.send(Message::text(candidate.to_string())).await.unwrap();
    assert_eq!(next_of_type(&mut socket, "error").await["code"], "no_offer");
    drop(socket); // abruptly

    let mut socket = service.socket().await;
    let huge = format!(r#"{{"type":"offer","sdp":"{}"}}"#, "x".repeat(5 << 20));
    // The service may have closed before all of it was sent.
    let _ = socket.send(Message::text(huge)).await;
    while let Some(Ok(_)) = socket.next().await {}

    let mut socket = service.socket().await;
    for _ in 0..20 {
        if socket.send(Message::binary(vec![0; 1000])).await.is_err() {
            break;
        }
    }
    while let Some(Ok(_)) = socket.next().await {}

    let outcome = neighbour.await.unwrap().unwrap();
    assert!(outcome.reports.len() > 10, "the neighbour noticed nothing");
    service.emptied().await;
    assert!(service.get("/health").contains("200 OK"));
}

#[tokio::test]
async fn fifty_fast_joins_and_leaves_end_at_zero() {
    let service = Service::start(&["--max-sessions", "4"]);
    let mut memory_after_10 = 0.0;
    for joined in 0..50 {
        if joined == 10 {
            service.emptied().await;
            memory_after_10 = service.metric("process_resident_memory_bytes");
        }
        let mut config = service.publisher(Duration::from_secs(15), Value::Null);
        config.stop_at_first_report = true;
        let outcome = publish(config).await.unwrap();
        assert!(outcome.joining.first_report.is_some(), "each join brings a report: {:?}", outcome.joining);
    }
    service.emptied().await;
    assert_eq!(service.metric("vigie_sessions_total"), 50.0);
    let memory = service.metric("process_resident_memory_bytes");
    assert!(memory < 1.15 * memory_after_10, "from {memory_after_10} to {memory} bytes");
}

#[tokio::test]
async fn a_full_service_says_so_and_takes_the_next_when_there_is_room() {
    let service = Service::start(&["--max-sessions", "1"]);
    let mut first = service.socket().await;
    next_of_type(&mut first, "welcome").await;
    assert!(service.get("/readyz").contains("503"));

    let mut second = service.socket().await;
    let refused = next_of_type(&mut second, "error").await;
    assert_eq!((refused["code"].as_str(), refused["retry_after_s"].as_u64()), (Some("busy"), Some(3)));

    first.send(Message::text(r#"{"type":"bye"}"#)).await.unwrap();
    service.emptied().await;
    let mut third = service.socket().await;
    assert!(next_of_type(&mut third, "welcome").await["session"].is_string());
}

#[tokio::test]
async fn a_page_comes_back_to_its_session_with_its_token_only() {
    let service = Service::start(&[]);
    let mut socket = service.socket().await;
    let welcome = next_of_type(&mut socket, "welcome").await;
    let resume = |token: &str| {
        let url = format!("ws://{}/api/session?resume={token}", service.address);
        tokio_tungstenite::connect_async(url)
    };
    let token = welcome["resume"].as_str().unwrap();
    let mut back = resume(token).await.unwrap().0;
    assert_eq!(next_of_type(&mut back, "welcome").await["session"], welcome["session"]);

    // Another session's proof, and the id of a session that nobody signed.
    let mut other = service.socket().await;
    let other = next_of_type(&mut other, "welcome").await;
    let (id, proof) = (welcome["session"].as_str().unwrap(), other["resume"].as_str().unwrap());
    let proof = proof.split_once('~').unwrap().1;
    for forged in [format!("{id}~{proof}"), format!("{id}~{:032x}", 7), token.replacen("w1", "w2", 1)] {
        let Err(tokio_tungstenite::tungstenite::Error::Http(refused)) = resume(&forged).await else {
            panic!("{forged} was taken");
        };
        assert_eq!(refused.status(), 400);
        let body: Value = serde_json::from_slice(refused.body().as_deref().unwrap()).unwrap();
        assert_eq!(body["error"]["code"], "invalid_resume_token");
    }
    assert!(resume("garbage").await.is_err());
}

#[tokio::test]
async fn another_page_may_not_open_sessions() {
    let service = Service::start(&["--allowed-origins", "https://friend.example"]);
    let connect = |origin: String| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut request = format!("ws://{}/api/session", service.address).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        tokio_tungstenite::connect_async(request)
    };
    assert!(connect("https://stranger.example".into()).await.is_err());
    assert!(connect("null".into()).await.is_err());
    assert!(connect(format!("http://{}", service.address)).await.is_ok());
    assert!(connect("https://friend.example".into()).await.is_ok());
}

#[tokio::test]
async fn told_to_stop_it_sends_sessions_home_and_exits_cleanly() {
    let mut service = Service::start(&[]);
    let session = tokio::spawn(publish(service.publisher(Duration::from_secs(30), Value::Null)));
    let deadline = Instant::now() + Duration::from_secs(10);
    while service.metric("vigie_sessions_active") != 1.0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let killed = Command::new("kill").arg(service.child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let ended = session.await.unwrap().expect_err("the session is told");
    assert!(format!("{ended:#}").contains("shutting down"), "{ended:#}");
    assert!(service.child.wait().unwrap().success());
}

/// Runs to its end; returns what was said on standard error.
fn refused(arguments: &[&str]) -> String {
    let output = vigie().args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Copies the models and spoils one; returns the copy's path.
fn copy_models(to: &Path, spoil: impl Fn(&mut Vec<u8>)) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(".vigie/models");
    for name in ["blazeface", "faceres", "centernet"] {
        let (from, to) = (from.join(name).join("1"), to.join(name).join("1"));
        std::fs::create_dir_all(&to).unwrap();
        std::fs::copy(from.join("manifest.json"), to.join("manifest.json")).unwrap();
        let mut model = std::fs::read(from.join("model.onnx")).unwrap();
        if name == "centernet" {
            spoil(&mut model);
        }
        std::fs::write(to.join("model.onnx"), model).unwrap();
    }
    to.to_str().unwrap().to_owned()
}

#[test]
fn what_keeps_it_from_starting_is_said_plainly() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let broken = tempfile::tempdir().unwrap();
    let broken = copy_models(broken.path(), |model| model.truncate(model.len() / 2));
    let other = tempfile::tempdir().unwrap();
    let other = copy_models(other.path(), |model| model[1000] ^= 1);
    let table: &[(&[&str], &str)] = &[
        (&["serve", "--listen", &address], "cannot listen on"),
        (&["serve", "--listen", "0.0.0.0:0"], "--insecure-open"),
        (&["serve", "--listen", "127.0.0.1:0", "--models", empty], "vigie models pull"),
        (&["serve", "--listen", "127.0.0.1:0", "--models", &broken], "cut short"),
        (&["serve", "--listen", "127.0.0.1:0", "--models", &other], "vigie models pull"),
        (
            &["serve", "--listen", "127.0.0.1:0", "--ort-library", "/nowhere/libonnxruntime.so"],
            "/nowhere/libonnxruntime.so",
        ),
        (&["serve", "--listen", "127.0.0.1:0", "--device", "abacus"], "abacus"),
        (&["serve", "--listen", "127.0.0.1:0", "--object-size", "333"], "multiple of 32"),
    ];
    for (arguments, expected) in table {
        let said = refused(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
