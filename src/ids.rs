//! Identifiers of sessions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names a session and the worker that has it: `<worker>.<16 hexadecimal digits>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(String);

/// Text that is no session id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session id")]
pub struct InvalidId;

impl SessionId {
    /// A new, unguessable id of a session on `worker`.
    pub fn random(worker: &str) -> Self {
        Self(format!("{worker}.{:016x}", rand::random::<u64>()))
    }

    pub fn worker(&self) -> &str {
        self.0.split_once('.').map_or("", |(worker, _)| worker)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (worker, number) = text.split_once('.').ok_or(InvalidId)?;
        let is_name = !worker.is_empty()
            && worker.len() <= 63
            && worker.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let is_number = number.len() == 16 && number.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_name && is_number { Ok(Self(text.to_owned())) } else { Err(InvalidId) }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Proves the right to a session: its id and a secret that only its page was told.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeToken {
    pub session: SessionId,
    secret: String,
}

impl ResumeToken {
    pub fn random(session: SessionId) -> Self {
        Self { session, secret: format!("{:032x}", rand::random::<u128>()) }
    }
}

impl FromStr for ResumeToken {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (session, secret) = text.split_once('~').ok_or(InvalidId)?;
        let is_secret = secret.len() == 32 && secret.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_secret {
            return Err(InvalidId);
        }
        Ok(Self { session: session.parse()?, secret: secret.to_owned() })
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.session, self.secret)
    }
}

impl fmt::Debug for ResumeToken {
    /// Without the secret: tokens do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResumeToken({}~…)", self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tokens_read_what_they_write() {
        let id = SessionId::random("w-1");
        assert_eq!(id.as_str().parse::<SessionId>(), Ok(id.clone()));
        assert_eq!(id.worker(), "w-1");
        let token = ResumeToken::random(id);
        assert_eq!(token.to_string().parse::<ResumeToken>(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ".",
            "w1",
            "w1.",
            ".0123456789abcdef",
            "W1.0123456789abcdef",
            "w1.0123456789abcdeg",
            "w1.0123",
            "w/1.0123456789abcdef",
        ] {
            assert_eq!(text.parse::<SessionId>(), Err(InvalidId), "{text}");
            assert_eq!(format!("{text}~{:032x}", 1).parse::<ResumeToken>(), Err(InvalidId), "{text}");
        }
    }
}
