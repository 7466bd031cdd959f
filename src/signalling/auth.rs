//! Who may come in, and what they may do.
//!
//! A session token is a JWT (RFC 7519, HS256) that is signed with the session secret; it opens sessions within its
//! terms. Admins show the admin secret itself or a JWT signed with it, so that a site that mints sessions mints
//! no admins. Without secrets everybody is let in, which is for loopback. Tokens stand in headers, never in
//! addresses, and are never logged.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::limits::{self, ClientAddress, Rate};
use super::router::Front;
use crate::cluster::protocol::SessionTerms;

/// The subprotocol that a socket agrees on; a browser offers it with its token, `vigie.token.<jwt>`, since it can
/// set no other header.
pub const SUBPROTOCOL: &str = "vigie";
const SUBPROTOCOL_TOKEN: &str = "vigie.token.";

/// The `aud` of tokens that open sessions, and of those that administer.
const SESSION_AUDIENCE: &str = "vigie";
const ADMIN_AUDIENCE: &str = "vigie-admin";
/// Characters: HS256 wants a key at least as long as its hash (RFC 7518 §3.2).
const MIN_SECRET_LENGTH: usize = 32;
/// Seconds by which the clocks of who mints and who checks may differ.
const LEEWAY_S: u64 = 10;
/// Characters: longer text is no token of ours.
const MAX_TOKEN_LENGTH: usize = 4096;
/// Characters of a subject.
const MAX_SUBJECT_LENGTH: usize = 256;

/// What a token says. `nbf` is held to as well, where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub sub: String,
    pub aud: String,
    /// Seconds of Unix time.
    pub iat: u64,
    pub exp: u64,
    #[serde(flatten)]
    pub terms: SessionTerms,
}

impl Claims {
    pub fn session(subject: &str, issued_s: u64, lifetime_s: u64, terms: SessionTerms) -> Self {
        Self::new(subject, SESSION_AUDIENCE, issued_s, lifetime_s, terms)
    }

    pub fn admin(subject: &str, issued_s: u64, lifetime_s: u64) -> Self {
        Self::new(subject, ADMIN_AUDIENCE, issued_s, lifetime_s, SessionTerms::default())
    }

    fn new(subject: &str, audience: &str, issued_s: u64, lifetime_s: u64, terms: SessionTerms) -> Self {
        let (sub, aud) = (subject.to_owned(), audience.to_owned());
        Self { sub, aud, iat: issued_s, exp: issued_s.saturating_add(lifetime_s), terms }
    }
}

/// Seconds of Unix time.
pub fn now_s() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// Text that cannot be a secret. The text itself is not repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret must have at least {MIN_SECRET_LENGTH} visible ASCII characters, for example those of `openssl rand -hex 32`"
)]
pub struct WeakSecret;

/// A secret that signs tokens of one kind.
#[derive(Clone)]
pub struct TokenKey(Arc<str>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl TokenKey {
    /// # Errors
    /// When the text can be guessed, or cannot stand in a header.
    pub fn new(text: &str) -> Result<Self, WeakSecret> {
        let text = text.trim();
        let is_fit = text.len() >= MIN_SECRET_LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_fit { Ok(Self(text.into())) } else { Err(WeakSecret) }
    }

    pub fn mint(&self, claims: &Claims) -> String {
        jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(self.0.as_bytes()))
            .expect("claims are JSON, and a secret signs with HS256")
    }

    fn read(&self, token: &str, audience: &str) -> Result<Claims, JwtError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_S;
        let key = DecodingKey::from_secret(self.0.as_bytes());
        jsonwebtoken::decode(token, &key, &validation).map(|data| data.claims)
    }

    /// In a time that does not depend on where the two differ.
    fn equals(&self, text: &str) -> bool {
        text.len() == self.0.len()
            && text.bytes().zip(self.0.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

/// What the bearer of a request may do. Handlers behind [`require_session`] take it as an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Who it is, by the token; nobody in particular where no token is wanted.
    pub subject: Option<String>,
    pub terms: SessionTerms,
    pub is_admin: bool,
}

/// How the front tells who may come in.
#[derive(Clone, Debug)]
pub enum Door {
    /// Everybody is let in, as admin too; on loopback only under names that are this machine's.
    Open {
        is_loopback: bool,
    },
    Keyed {
        session: TokenKey,
        admin: TokenKey,
    },
}

/// Why a token does not open the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    Missing,
    Expired,
    Invalid,
}

impl Door {
    /// What a request with these headers may do.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Grant, TokenFault> {
        let Self::Keyed { session, admin } = self else {
            return Ok(Grant { is_admin: true, ..Grant::default() });
        };
        let token = presented(headers).ok_or(TokenFault::Missing)?;
        if admin.equals(token) {
            return Ok(Grant { is_admin: true, ..Grant::default() });
        }
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(TokenFault::Invalid);
        }
        let (claims, is_admin) = match session.read(token, SESSION_AUDIENCE) {
            Ok(claims) => (claims, false),
            Err(fault) => match admin.read(token, ADMIN_AUDIENCE) {
                Ok(claims) => (claims, true),
                // Time is looked at only where the signature was right.
                Err(other) if is_expiry(&fault) || is_expiry(&other) => return Err(TokenFault::Expired),
                Err(_) => return Err(TokenFault::Invalid),
            },
        };
        if claims.sub.is_empty() || claims.sub.chars().count() > MAX_SUBJECT_LENGTH {
            return Err(TokenFault::Invalid);
        }
        Ok(Grant { subject: Some(claims.sub), terms: claims.terms, is_admin })
    }
}

fn is_expiry(error: &JwtError) -> bool {
    matches!(error.kind(), ErrorKind::ExpiredSignature)
}

/// The token that a request shows, if any.
fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(token.trim());
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offered.find_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL_TOKEN))
}

/// Lets those in who may open sessions; what they may do stands in the request as its [`Grant`].
pub async fn require_session(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    match admit(&front, &request) {
        Ok(grant) => {
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        Err(refusal) => refuse(request, refusal).await,
    }
}

/// Lets admins in.
pub async fn require_admin(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    let admitted = admit(&front, &request)
        .and_then(|grant| if grant.is_admin { Ok(grant) } else { Err(ApiError::AdminOnly) });
    match admitted {
        Ok(grant) => {
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        Err(refusal) => refuse(request, refusal).await,
    }
}

/// Lets pages of this service in, and programs; strangers' pages are kept out.
pub async fn require_own_page(State(front): State<Front>, request: Request, next: Next) -> Response {
    match check_page(&front, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refuse(request, refusal).await,
    }
}

/// Answers before the body is read, and reads on for a while: a client that is still sending when its connection
/// closes never sees the answer.
async fn refuse(request: Request, refusal: ApiError) -> Response {
    limits::drain(request.into_body()).await;
    refusal.into_response()
}

fn check_page(front: &Front, headers: &HeaderMap) -> Result<(), ApiError> {
    if let Door::Open { is_loopback: true } = front.door {
        check_host(front, headers)?;
    }
    check_origin(front, headers)
}

fn admit(front: &Front, request: &Request) -> Result<Grant, ApiError> {
    check_page(front, request.headers())?;
    front.door.admit(request.headers()).map_err(|fault| {
        let address = ClientAddress::of(request.extensions());
        if fault == TokenFault::Missing {
            return ApiError::TokenRefused(fault);
        }
        match front.limits.check(Rate::WrongToken, address) {
            Ok(()) => ApiError::TokenRefused(fault),
            Err(retry_after_s) => ApiError::TooManyRequests { retry_after_s },
        }
    })
}

/// Browsers let any page open a WebSocket or send a form anywhere: only the page's own host, and those
/// allowed, may.
fn check_origin(front: &Front, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    let own = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host(headers)));
    if own || front.allowed_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    Err(ApiError::OriginRefused { origin: origin.chars().take(100).collect() })
}

/// Where no token is wanted, a page of a stranger could call itself by a name that it has led to this machine: only
/// addresses, `localhost` and the hosts of allowed origins are ours.
fn check_host(front: &Front, headers: &HeaderMap) -> Result<(), ApiError> {
    let host = host(headers);
    let uri = host.parse::<Uri>().ok();
    let name = uri.as_ref().and_then(Uri::host).unwrap_or_default().trim_end_matches('.');
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_local =
        name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    let allowed = |origin: &String| {
        let uri = origin.parse::<Uri>().ok();
        uri.and_then(|uri| uri.authority().map(|authority| authority.as_str().eq_ignore_ascii_case(host)))
            .unwrap_or_default()
    };
    if is_address || is_local || front.allowed_origins.iter().any(allowed) {
        return Ok(());
    }
    Err(ApiError::HostRefused { host: host.chars().take(100).collect() })
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

impl<S: Sync> FromRequestParts<S> for Grant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // A route without a door in front of it grants nothing.
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::TokenRefused(TokenFault::Missing))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::cluster::protocol::{Attributes, TaskList};

    fn key(text: &str) -> TokenKey {
        TokenKey::new(&text.repeat(32)).unwrap()
    }

    fn door() -> Door {
        Door::Keyed { session: key("s"), admin: key("a") }
    }

    fn bearing(token: &str) -> HeaderMap {
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn a_session_token_grants_its_terms() {
        let only_faces = TaskList { faces: true, ..TaskList::NONE };
        let terms = SessionTerms {
            tasks: Some(only_faces),
            max_seconds: Some(60),
            attributes: Attributes::from_text("cohort:b").unwrap(),
            sticky: None,
        };
        let token = key("s").mint(&Claims::session("alice", now_s(), 3600, terms.clone()));
        let granted = Grant { subject: Some("alice".into()), terms, is_admin: false };
        assert_eq!(door().admit(&bearing(&token)), Ok(granted.clone()));
        let offered = HeaderValue::try_from(format!("vigie, vigie.token.{token}")).unwrap();
        let offered = HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, offered)]);
        assert_eq!(door().admit(&offered), Ok(granted));
    }

    #[test]
    fn the_admin_shows_the_secret_or_what_it_signed() {
        assert!(door().admit(&bearing(&"a".repeat(32))).unwrap().is_admin);
        let token = key("a").mint(&Claims::admin("root", now_s(), 60));
        assert!(door().admit(&bearing(&token)).unwrap().is_admin);
        let token = key("s").mint(&Claims::admin("mallory", now_s(), 60));
        assert_eq!(door().admit(&bearing(&token)), Err(TokenFault::Invalid), "sessions' key mints no admins");
        assert_eq!(door().admit(&bearing(&"s".repeat(32))), Err(TokenFault::Invalid));
    }

    #[test]
    fn what_is_not_a_token_of_ours_opens_nothing() {
        let good = key("s").mint(&Claims::session("alice", now_s(), 3600, SessionTerms::default()));
        let expired = key("s").mint(&Claims::session("alice", now_s() - 7200, 3600, SessionTerms::default()));
        let other = key("o").mint(&Claims::session("alice", now_s(), 3600, SessionTerms::default()));
        let elsewhere =
            Claims { aud: "elsewhere".into(), ..Claims::session("a", now_s(), 60, SessionTerms::default()) };
        let nobody = Claims::session("", now_s(), 60, SessionTerms::default());
        let (_, rest) = good.split_once('.').unwrap();
        let (claims, signature) = rest.split_once('.').unwrap();
        let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let forged = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"x","aud":"vigie","iat":0,"exp":99999999999}"#);
        let head = good.split('.').next().unwrap();
        for (token, fault) in [
            (expired.as_str(), TokenFault::Expired),
            (&other, TokenFault::Invalid),
            (&key("s").mint(&elsewhere), TokenFault::Invalid),
            (&key("s").mint(&nobody), TokenFault::Invalid),
            (&format!("{none}.{claims}."), TokenFault::Invalid),
            (&format!("{none}.{claims}.{signature}"), TokenFault::Invalid),
            (&format!("{head}.{forged}.{signature}"), TokenFault::Invalid),
            (&good[..good.len() - 1], TokenFault::Invalid),
            ("", TokenFault::Invalid),
            ("..", TokenFault::Invalid),
            (&"x".repeat(100_000), TokenFault::Invalid),
        ] {
            assert_eq!(door().admit(&bearing(token)), Err(fault), "{token:.200}");
        }
        assert_eq!(door().admit(&HeaderMap::new()), Err(TokenFault::Missing));
    }

    #[test]
    fn secrets_are_long_and_not_shown() {
        assert_eq!(TokenKey::new(&"x".repeat(31)).unwrap_err(), WeakSecret);
        assert_eq!(TokenKey::new(&"x ".repeat(32)).unwrap_err(), WeakSecret);
        assert!(!format!("{:?}", door()).contains("ssss"));
    }
}
