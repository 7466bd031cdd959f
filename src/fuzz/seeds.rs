//! Good inputs that are made rather than kept in `tests/data/fuzz`.

use super::media;
use super::onnx_writer::{FLOAT, Graph, INT64, Message, Model, floats, function, integers, node, value};
use super::texts::{ADMIN_SECRET, CLUSTER_TOKEN, SESSION_SECRET};
use crate::cluster::protocol::SessionTerms;
use crate::cluster::token::ClusterToken;
use crate::frame::Codec;
use crate::jobs::id::JobId;
use crate::models::catalogue;
use crate::rtp::clips;
use crate::signalling::auth::{Claims, TokenKey};

/// A browser's offer, shortened to one payload type a codec.
pub(super) const OFFER: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
a=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS camera\r\n\
m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 103 45\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=ice-options:trickle\r\n\
a=fingerprint:sha-256 8B:87:09:8A:5D:C2:F3:33:EF:C5:B1:F6:84:3A:3D:D6:A3:E2:9C:17:4C:E7:46:3B:1B:CE:84:98:DD:8E:AF:7B\r\n\
a=setup:actpass\r\na=mid:0\r\na=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
a=sendrecv\r\na=msid:camera track\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 ccm fir\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\n\
a=rtpmap:103 H264/90000\r\na=fmtp:103 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
a=rtpmap:45 AV1/90000\r\na=ssrc-group:FID 1001 1002\r\na=ssrc:1001 cname:c\r\na=ssrc:1002 cname:c\r\n\
m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
a=fingerprint:sha-256 8B:87:09:8A:5D:C2:F3:33:EF:C5:B1:F6:84:3A:3D:D6:A3:E2:9C:17:4C:E7:46:3B:1B:CE:84:98:DD:8E:AF:7B\r\n\
a=setup:actpass\r\na=mid:1\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

const CANDIDATE: &str =
    "candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1";

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub fn sdp() -> Vec<Vec<u8>> {
    let trickle = format!(
        "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 X 0\r\na=mid:0\r\na={CANDIDATE}\r\na=end-of-candidates\r\n"
    );
    let publisher = OFFER.replace("a=sendrecv", &format!("a=sendonly\r\na={CANDIDATE}"));
    texts([OFFER, &publisher, &trickle, "\"a\", \"etag\", *"])
}

pub fn peer() -> Vec<Vec<u8>> {
    // A binding request (RFC 8489 §5), the head of a DTLS ClientHello (RFC 9147 §4), and of an RTP packet.
    let stun = b"u\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl".as_slice();
    let dtls = b"u\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x01\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04abcd";
    let rtp = b"u\x80\x60\x00\x01\x00\x00\x00\x01\x00\x00\x03\xe9abcdefgh";
    let candidate = format!("c{CANDIDATE}");
    let tcp = "ccandidate:1 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active";
    let local = "ccandidate:1 1 udp 2113937151 4f1c8f2a-5b6d-4f4b-9a3e-0d7f3a4c2b11.local 51234 typ host";
    let relay = "ccandidate:2 1 udp 41885439 198.51.100.7 50000 typ relay raddr 192.0.2.1 rport 61764";
    let again = format!("o{}", OFFER.replace("EsAw", "ysXw"));
    let parts: [&[u8]; 6] =
        [b"", candidate.as_bytes(), tcp.as_bytes(), local.as_bytes(), relay.as_bytes(), rtp];
    vec![
        OFFER.into(),
        parts.join(&0),
        // Zeros within a datagram part it: pieces are datagrams too where they begin so.
        [b"".as_slice(), stun].join(&0),
        [b"".as_slice(), dtls].join(&0),
        [OFFER.as_bytes(), again.as_bytes()].join(&0),
    ]
}

pub fn signal() -> Vec<Vec<u8>> {
    let offer = serde_json::json!({ "type": "offer", "sdp": OFFER }).to_string();
    let publish = serde_json::json!({ "sdp": "v=0", "terms": {},
        "wishes": { "tasks": { "faces": true, "gender": false, "objects": true }, "threshold": 0.5, "max_rate": 10 } });
    let candidate = serde_json::json!({ "type": "candidate", "candidate": CANDIDATE, "sdpMid": "0", "sdpMLineIndex": 0,
        "usernameFragment": null });
    let messages = [
        offer,
        candidate.to_string(),
        publish.to_string(),
        r#"{"type":"bye"}"#.into(),
        r#"{"fragment":"a=end-of-candidates","if_match":"*"}"#.into(),
    ];
    let mut seeds: Vec<Vec<u8>> = messages.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.push(messages[1..].iter().flat_map(|text| frame(0x81, text.as_bytes())).collect());
    let ping = [
        frame(0x89, b"still there?"),
        frame(0x01, b"{\"type\":"),
        frame(0x80, b"\"bye\"}"),
        frame(0x88, &[3, 232]),
    ];
    seeds.push(ping.concat());
    seeds
}

/// A client's frame (RFC 6455 §5.2), masked with zeros so that mutations hit the text.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![head];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

pub fn control() -> Vec<Vec<u8>> {
    texts([
        r#"{"type":"settings","tasks":{"gender":true,"objects":false},"threshold":0.4}"#,
        "{\"type\":\"settings\",\"output\":\"both\",\"max_rate\":12.5}\n{\"type\":\"settings\",\"threshold\":null}",
        r#"{"tasks":{"faces":true,"gender":true,"objects":true},"threshold":0.5,"max_rate":1}"#,
    ])
}

/// Issued when time began, and good for longer than this will be in use.
fn token(secret: &str, is_admin: bool) -> String {
    const LIFETIME_S: u64 = 1 << 40;
    let key = TokenKey::new(secret).expect("it is long enough");
    let claims = match is_admin {
        true => Claims::admin("somebody", 0, LIFETIME_S),
        false => Claims::session("somebody", 0, LIFETIME_S, SessionTerms::default()),
    };
    key.mint(&claims)
}

pub fn ids() -> Vec<Vec<u8>> {
    let cluster = ClusterToken::new(CLUSTER_TOKEN).expect("it is long enough");
    let key = cluster.session_key();
    let session = key.new_session("worker-1");
    let (resume, watch) = (key.resume_token(session.clone()), key.watch_token(session.clone()));
    texts([
        session.as_str(),
        &resume.to_string(),
        &watch.to_string(),
        &JobId::random().to_string(),
        &cluster.bearer(),
        &token(SESSION_SECRET, false),
        &token(ADMIN_SECRET, true),
        ADMIN_SECRET,
        r#"{"sub":"a","aud":"vigie","iat":0,"exp":9999999999,"tasks":["faces"],"max_seconds":60}"#,
    ])
}

pub fn config() -> Vec<Vec<u8>> {
    texts([
        "serve\n--listen\n127.0.0.1:0\n--media\n0.0.0.0:0,[::1]:0\n--turn-url\nturn:a:3478?transport=udp\n--turn-secret\ns",
        "signal\n--workers\na:1,b:2\n--cluster-token\n0123456789abcdef\n--trusted-proxies\n10.0.0.0/8\n--session-secret\nx\n--admin-token\ny",
        "worker\n--cluster-token\n0123456789abcdef\n--min-rate\n0.5\n--annotated-codecs\nvp8\n--device\ncuda:1\n--video-expiry-hours\n1.5",
        "token\n--subject\nalice\n--hours\n8",
        "load\nhttps://127.0.0.1:8443/\n--sessions\n4",
    ])
}

pub fn manifest() -> Vec<Vec<u8>> {
    let manifests = catalogue::MODELS.iter().map(|entry| entry.manifest().to_json().into_bytes());
    manifests.chain([b"yolo-v8_n.2".to_vec()]).collect()
}

pub fn onnx() -> Vec<Vec<u8>> {
    let filter = floats("w", &[4, 3, 1, 1], &[0.5; 12]);
    let graph = Graph {
        nodes: vec![
            node("Conv", &["x", "w"], &["c"]).with_ints("kernel_shape", &[1, 1]).with_int("group", 1),
            node("Relu", &["c"], &["y"]),
        ],
        initialisers: vec![filter],
        inputs: vec![value("x", FLOAT, &[-1, 3, 8, 8])],
        outputs: vec![value("y", FLOAT, &[-1, 4, 8, 8])],
        ..Graph::default()
    };
    let body = Graph {
        nodes: vec![node("Identity", &["go_on"], &["again"]), node("Relu", &["kept"], &["next"])],
        inputs: vec![value("turn", INT64, &[]), value("go_on", 9, &[]), value("kept", FLOAT, &[1, 4])],
        outputs: vec![value("again", 9, &[]), value("next", FLOAT, &[1, 4])],
        ..Graph::default()
    };
    let looped = Graph {
        nodes: vec![node("Loop", &["times", "", "x"], &["y"]).with_graph("body", &body)],
        initialisers: vec![integers("times", &[], &[3])],
        inputs: vec![value("x", FLOAT, &[1, 4])],
        outputs: vec![value("y", FLOAT, &[1, 4])],
        ..Graph::default()
    };
    let mut with_function = Model::of(Graph {
        nodes: vec![node("Twice", &["x"], &["y"]).in_domain("own")],
        inputs: vec![value("x", FLOAT, &[1, 4])],
        outputs: vec![value("y", FLOAT, &[1, 4])],
        ..Graph::default()
    });
    with_function.opsets.push(("own".into(), 1));
    with_function.functions = vec![function("own", "Twice", &[node("Add", &["x", "x"], &["y"])])];
    let named =
        Model::of(graph).with_metadata(&[("names", "{0: 'person', 1: 'cat'}"), ("imgsz", "[640, 640]")]);
    vec![named.bytes(), Model::of(looped).bytes(), with_function.bytes(), Message::default().int(1, 8).0]
}

pub fn http() -> Vec<Vec<u8>> {
    let bearer = format!("Authorization: Bearer {}\r\n", token(SESSION_SECRET, false));
    let admin = format!("Authorization: Bearer {ADMIN_SECRET}\r\n");
    let cluster = ClusterToken::new(CLUSTER_TOKEN).expect("it is long enough");
    let key = cluster.session_key();
    let session = key.new_session("worker-1");
    let (resume, watch) = (key.resume_token(session.clone()), key.watch_token(session));
    let request = |line: &str, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
    };
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp4\"\r\nContent-Type: video/mp4\r\n\r\n\
                \0\0\0\x18ftypmp42\0\0\0\0mp42isom\r\n--b--\r\n";
    let multipart = format!("{bearer}Content-Type: multipart/form-data; boundary=b\r\n");
    let fragment = format!("a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na={CANDIDATE}\r\n");
    let trickle = "Content-Type: application/trickle-ice-sdpfrag\r\nIf-Match: \"1\"\r\n";
    let sdp = format!("{bearer}Content-Type: application/sdp\r\n");
    let tus = format!("{bearer}Tus-Resumable: 1.0.0\r\n");
    let upgrade = format!(
        "{bearer}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    let job = JobId::random();
    let socket =
        request("GET /api/session", &upgrade, "").replace("Connection: close", "Connection: Upgrade");
    let two =
        request("GET /livez", "", "").replace("close", "keep-alive") + &request("GET /metrics", &admin, "");
    [
        request("POST /whip?tasks=faces&threshold=0.5&max_rate=5", &sdp, OFFER),
        request(&format!("PATCH /whip/{resume}"), trickle, &fragment),
        request(&format!("DELETE /whip/{resume}"), "", ""),
        request(&format!("POST /whep/{watch}"), "Content-Type: application/sdp\r\n", OFFER),
        request(
            "POST /predict?tasks=faces,gender&threshold=0.5&annotate=1&model=yolo@3",
            &format!("{multipart}Accept: image/png;q=0.5, image/jpeg\r\n"),
            form,
        ),
        request("POST /api/videos?tasks=faces&every=4", &multipart, form),
        request(
            "POST /api/uploads",
            &format!(
                "{tus}Upload-Length: 28\r\nUpload-Metadata: filename YS5tcDQ=,every NA==,tasks ZmFjZXM=\r\n"
            ),
            "",
        ),
        request(
            &format!("PATCH /api/uploads/{job}"),
            &format!("{tus}Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"),
            "abcdefgh",
        ),
        request(
            &format!("GET /api/videos/{job}/annotated.mp4"),
            "Range: bytes=0-99,200-\r\nIf-None-Match: \"a\"\r\n",
            "",
        ),
        request(&format!("GET /api/videos?ids={job},{job}"), "Origin: http://localhost\r\n", ""),
        request("GET /api/ice-servers?session=a", &bearer, ""),
        request("GET /js/session.js", "If-None-Match: \"a\"\r\nAccept-Encoding: gzip\r\n", ""),
        request(
            "OPTIONS /whip",
            "Origin: https://example.org\r\nAccess-Control-Request-Method: POST\r\n",
            "",
        ),
        socket,
        two,
    ]
    .map(String::into_bytes)
    .into()
}

pub fn vp8() -> Vec<Vec<u8>> {
    packets(Codec::Vp8)
}

pub fn vp9() -> Vec<Vec<u8>> {
    packets(Codec::Vp9)
}

pub fn h264() -> Vec<Vec<u8>> {
    packets(Codec::H264)
}

pub fn av1() -> Vec<Vec<u8>> {
    packets(Codec::Av1)
}

/// A clip's first two frames, and all of it.
fn packets(codec: Codec) -> Vec<Vec<u8>> {
    let all = clips::packets(codec);
    let frames = all.iter().filter(|packet| packet.timestamp <= 6000).cloned().collect::<Vec<_>>();
    vec![media::write(&frames), media::write(&all)]
}
