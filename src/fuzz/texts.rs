//! What comes as text: signalling, settings, ids, manifests, the command line.

use std::io::{self, Cursor, Read, Write};

use clap::Parser;
use hyper::http::{HeaderMap, HeaderValue, header};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use crate::cli::Cli;
use crate::cluster::protocol::{
    ClientMessage, MAX_MESSAGE_BYTES, ServerMessage, SessionTerms, TaskList, WorkerStatus,
};
use crate::cluster::token::ClusterToken;
use crate::cluster::whip::{IceChange, Publish, Wishes};
use crate::jobs::id::JobId;
use crate::live::peer::offered_codecs;
use crate::live::sdp::{self, Credentials, Flow, Fragment};
use crate::live::settings::{self, ControlReply, Settings, SettingsPatch};
use crate::models::manifest::Manifest;
use crate::signalling::auth::{Claims, Door, TokenKey};

pub(super) const CLUSTER_TOKEN: &str = "a-cluster-token-for-fuzzing";
pub(super) const SESSION_SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(super) const ADMIN_SECRET: &str = "fedcba9876543210fedcba9876543210";

/// The SDP of publishers and viewers, as the pure part of intake sees it.
pub fn sdp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for flow in [Flow::Send, Flow::Receive] {
        let _ = sdp::check_offer(text, flow);
    }
    let _ = (offered_codecs(text), sdp::of_answer(text), sdp::is_matched(text, "etag"));
    let credentials = Credentials::of(text);
    if let Ok(fragment) = Fragment::read(text) {
        let credentials = fragment.credentials.or(credentials);
        if let Some(credentials) = &credentials {
            let again = sdp::restarted(text, credentials, &fragment.candidates);
            // One line for each that was there, and one for each candidate.
            assert!(again.lines().count() <= text.lines().count() + fragment.candidates.len());
        }
    }
}

/// A client's bytes on a WebSocket, through the frames into messages.
pub fn signal(data: &[u8]) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(data)), Role::Server, Some(config));
    while let Ok(message) = socket.read() {
        if let Message::Text(text) = message {
            assert!(text.len() <= MAX_MESSAGE_BYTES);
            message_text(text.as_str());
        }
    }
    // Most mutations break the frame: what would be in it is read without one too.
    if let Ok(text) = std::str::from_utf8(data) {
        message_text(text);
    }
}

fn message_text(text: &str) {
    if let Ok(message) = serde_json::from_str::<ClientMessage>(text) {
        let json = serde_json::to_string(&message).expect("a message is always JSON");
        assert_eq!(serde_json::from_str::<ClientMessage>(&json).ok(), Some(message));
    }
    let _ = serde_json::from_str::<ServerMessage>(text);
    let _ = serde_json::from_str::<WorkerStatus>(text);
    let _ = serde_json::from_str::<IceChange>(text);
    if let Ok(publish) = serde_json::from_str::<Publish>(text) {
        let _ = Settings::default().patched(&SettingsPatch::from(&publish.wishes));
    }
}

/// Bytes to be read; what is written goes nowhere.
struct Wire<'d>(Cursor<&'d [u8]>);

impl Read for Wire<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages on the `control` channel, one a line.
pub fn control(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut settings = Settings::default();
    let allowed = TaskList { faces: true, gender: false, objects: true };
    for line in text.lines() {
        let reply = settings::apply(&mut settings, allowed, line);
        serde_json::from_str::<Value>(&reply.to_json()).expect("a reply is JSON");
        if let ControlReply::Error { code, message } = &reply {
            assert!(!code.is_empty() && !message.is_empty());
        }
        assert!(!settings.tasks.gender || line.is_empty() || settings == Settings::default());
        assert!((0.1..=120.0).contains(&settings.max_rate));
        assert!(settings.threshold.is_none_or(|score| (0.05..=0.95).contains(&score)));
    }
    if let Ok(wishes) = serde_json::from_slice::<Wishes>(data) {
        let _ = Settings::default().patched(&SettingsPatch::from(&wishes));
    }
}

/// Signed ids, resume and watch tokens, job ids, and the bearer tokens of the door.
pub fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let token = ClusterToken::new(CLUSTER_TOKEN).expect("it is long enough");
    let key = token.session_key();
    if let Ok(id) = key.read_session(text) {
        assert_eq!(id.as_str(), text);
        assert!(crate::ids::is_worker_name(id.worker()));
    }
    if let Ok(token) = key.read_resume_token(text) {
        assert_eq!(token.to_string(), text);
    }
    if let Ok(token) = key.read_watch_token(text) {
        assert_eq!(token.to_string(), text);
        assert!(key.read_resume_token(text).is_err(), "who may watch is no owner");
    }
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.to_string(), text);
    }
    assert!(!token.is_shown_by(text) || text.ends_with(CLUSTER_TOKEN));
    if let Ok(terms) = serde_json::from_str::<Claims>(text) {
        let _: SessionTerms = terms.terms;
    }
    door(text);
}

/// What the front's door makes of `text` where a token should stand.
fn door(text: &str) {
    let key = |secret| TokenKey::new(secret).expect("it is long enough");
    let door = Door::Keyed { session: key(SESSION_SECRET), admin: key(ADMIN_SECRET) };
    for (name, value) in [
        (header::AUTHORIZATION, format!("Bearer {text}")),
        (header::AUTHORIZATION, text.to_owned()),
        (header::SEC_WEBSOCKET_PROTOCOL, format!("vigie, vigie.token.{text}")),
    ] {
        let Ok(value) = HeaderValue::from_str(&value) else { continue };
        let grant = door.admit(&HeaderMap::from_iter([(name, value)]));
        // The secret itself is the one key that is short; all others are signed, and expire.
        let is_admin = grant.is_ok_and(|grant| grant.is_admin && grant.subject.is_none());
        assert!(!is_admin || text.contains(ADMIN_SECRET));
    }
}

/// A command line, an argument a line.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let arguments = text.lines().take(64).map(str::to_owned);
    if let Err(error) = Cli::try_parse_from(std::iter::once("vigie".to_owned()).chain(arguments)) {
        assert!(!error.to_string().is_empty());
    }
}

/// A model's manifest.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::read(data) {
        manifest.validate().expect("what is read is valid");
        let again = Manifest::read(manifest.to_json().as_bytes());
        assert_eq!(again.expect("what is written is read"), manifest);
    }
    if let Ok(name) = std::str::from_utf8(data)
        && Manifest::check_name(name).is_ok()
    {
        // It becomes a folder's name.
        assert!(!name.contains(['/', '\\', '\0']) && !name.starts_with('.'), "{name:?}");
    }
}
