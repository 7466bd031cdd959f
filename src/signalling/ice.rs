//! Which STUN and TURN servers a page is to use, with credentials that soon expire.
//!
//! The TURN server is never told about a page: it checks the credential against the secret that both
//! sides share (draft-uberti-behave-turn-rest-00, coturn's `use-auth-secret`).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;

use super::error::ApiError;
use super::router::Front;
use crate::ids::SessionId;

/// How long a page may keep an answer without credentials.
const PLAIN_TTL: Duration = Duration::from_secs(600);

/// What pages are told.
#[derive(Clone, Debug, Default)]
pub struct IceConfig {
    pub stun_urls: Vec<String>,
    pub turn: Option<TurnConfig>,
}

/// The relay, and what it shares with us.
#[derive(Clone)]
pub struct TurnConfig {
    /// One server over its transports, such as `turn:turn.example.org:3478?transport=udp`.
    pub urls: Vec<String>,
    /// coturn's `static-auth-secret`.
    pub secret: String,
    /// How long a credential opens new allocations; one that stands is kept beyond.
    pub ttl: Duration,
}

impl fmt::Debug for TurnConfig {
    /// Without the secret: it does not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TurnConfig({:?}, {:?})", self.urls, self.ttl)
    }
}

/// One entry as `RTCConfiguration.iceServers` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IceServer {
    pub urls: Vec<String>,
    #[serde(flatten)]
    pub credential: Option<Credential>,
}

/// A name and its password, which the TURN server can verify by itself until the name's time is up.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Credential {
    pub username: String,
    pub credential: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, …)", self.username)
    }
}

impl Credential {
    /// The credential of `holder` until `expires_s`, seconds of Unix time.
    pub fn sign(secret: &str, holder: &str, expires_s: u64) -> Self {
        let username = format!("{expires_s}:{holder}");
        let key = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        let credential = BASE64_STANDARD.encode(key.chain_update(&username).finalize().into_bytes());
        Self { username, credential }
    }
}

impl IceConfig {
    /// The servers for a session at `now`, and how long its page may use them; without one, those that take no credential.
    pub fn servers(&self, session: Option<&SessionId>, now: SystemTime) -> IceServers {
        self.servers_of(session.map(holder), now)
    }

    fn servers_of(&self, holder: Option<&str>, now: SystemTime) -> IceServers {
        let stun = self.stun_urls.iter().map(|url| IceServer { urls: vec![url.clone()], credential: None });
        let turn = self.turn.as_ref().zip(holder).map(|(turn, holder)| {
            let expires = now + turn.ttl;
            let expires_s = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let credential = Credential::sign(&turn.secret, holder, expires_s);
            IceServer { urls: turn.urls.clone(), credential: Some(credential) }
        });
        let ttl = self.turn.as_ref().map_or(PLAIN_TTL, |turn| turn.ttl);
        IceServers { ice_servers: stun.chain(turn).collect(), ttl_seconds: ttl.as_secs() }
    }
}

/// Who is told of the servers by `Link` headers.
#[derive(Clone, Copy, Debug)]
pub enum Client<'a> {
    Publisher(&'a SessionId),
    /// All viewers of a session have one quota, and not that of who is watched.
    Viewer(&'a SessionId),
}

impl IceConfig {
    /// The servers for one client as `Link` headers (RFC 9725 §4.6).
    pub fn links(&self, client: Client<'_>, now: SystemTime) -> Vec<String> {
        let holder = match client {
            Client::Publisher(session) => holder(session).to_owned(),
            Client::Viewer(session) => format!("{}.watch", holder(session)),
        };
        let link = |url: &String, credential: &Option<Credential>| match credential {
            None => format!("<{url}>; rel=\"ice-server\""),
            Some(Credential { username, credential }) => format!(
                "<{url}>; rel=\"ice-server\"; username=\"{username}\"; credential=\"{credential}\"; \
                 credential-type=\"password\""
            ),
        };
        let servers = self.servers_of(Some(&holder), now).ice_servers;
        servers
            .iter()
            .flat_map(|server| server.urls.iter().map(|url| link(url, &server.credential)))
            .collect()
    }
}

#[derive(Debug, Serialize)]
pub struct IceServers {
    pub ice_servers: Vec<IceServer>,
    ttl_seconds: u64,
}

/// Whose credential a session's is: coturn counts quotas by what follows the expiry, so that a session has one quota
/// however often its page asks. Without the id's signature, since the relay logs it.
fn holder(session: &SessionId) -> &str {
    session.as_str().rsplit_once('.').map_or("", |(name, _)| name)
}

#[derive(Deserialize)]
pub struct IceQuery {
    session: Option<String>,
}

/// `GET /api/ice-servers?session=`: fresh credentials for a session, such as for an ICE restart. Without one, what
/// needs no credential: the relay is for sessions.
pub async fn list(
    State(front): State<Front>,
    query: Result<Query<IceQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidOption { reason: error.body_text() })?;
    let session = query.session.as_deref().map(|id| front.session_key.read_session(id)).transpose();
    let session = session.map_err(|_| ApiError::InvalidSession)?;
    let servers = front.ice.servers(session.as_ref(), SystemTime::now());
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(servers)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionKey;

    #[test]
    fn a_credential_is_what_coturn_computes() {
        // python3: base64(hmac.new(b"north", b"1795247580:0123456789abcdef", sha1).digest())
        let signed = Credential::sign("north", "0123456789abcdef", 1_795_247_580);
        assert_eq!(signed.username, "1795247580:0123456789abcdef");
        assert_eq!(signed.credential, "gnElw3AFHEIkgdPxcWQ4AYLel+c=");
    }

    #[test]
    fn pages_are_told_what_rtc_peer_connection_takes() {
        let turn = TurnConfig {
            urls: vec!["turn:t.example:3478?transport=udp".into(), "turns:t.example:5349".into()],
            secret: "north".into(),
            ttl: Duration::from_secs(600),
        };
        assert!(!format!("{turn:?}").contains("north"));
        let config = IceConfig { stun_urls: vec!["stun:s.example:3478".into()], turn: Some(turn) };
        let session = SessionKey::derive(b"a secret of the cluster").new_session("w1");
        let holder = session.as_str().rsplit_once('.').unwrap().0;
        let username = format!("1795247580:{holder}");
        let credential = Credential::sign("north", holder, 1_795_247_580).credential;
        let now = UNIX_EPOCH + Duration::from_secs(1_795_246_980);
        let told = serde_json::to_value(config.servers(Some(&session), now)).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "ice_servers": [
                    { "urls": ["stun:s.example:3478"] },
                    {
                        "urls": ["turn:t.example:3478?transport=udp", "turns:t.example:5349"],
                        "username": username,
                        "credential": credential
                    }
                ],
                "ttl_seconds": 600
            })
        );
        let links = config.links(Client::Viewer(&session), now);
        let start = format!("<turns:t.example:5349>; rel=\"ice-server\"; username=\"1795247580:{holder}");
        assert_eq!((links.len(), links[0].as_str()), (3, "<stun:s.example:3478>; rel=\"ice-server\""));
        assert!(links[2].starts_with(&format!("{start}.watch\"; credential=\"")), "{}", links[2]);
        assert!(links[2].ends_with("=\"; credential-type=\"password\""), "{}", links[2]);
        let owner = &config.links(Client::Publisher(&session), now)[2];
        assert!(owner.starts_with(&format!("{start}\"; credential=\"")), "{owner}");
        let strangers = serde_json::to_value(config.servers(None, now)).unwrap();
        assert_eq!(strangers["ice_servers"], serde_json::json!([{ "urls": ["stun:s.example:3478"] }]));
    }
}
