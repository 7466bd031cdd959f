//! Identifiers of sessions, signed so that any front of a cluster can tell them from invented ones.
//!
//! All signatures are made with one [`SessionKey`]; which sessions are alive only their worker knows.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Whether `text` is a word that needs no escaping anywhere: 1 to 64 of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`.
pub fn is_word(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// Bytes of a signature: half of HMAC-SHA256's, which RFC 2104 §5 allows and nobody guesses.
const SIGNATURE_BYTES: usize = 16;

/// Names a session and the worker that has it: `<worker>.<16 hexadecimal digits>.<signature>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

/// Text that is no session id or resume token of this cluster.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this cluster")]
pub struct InvalidId;

impl SessionId {
    pub fn worker(&self) -> &str {
        self.0.split_once('.').map_or("", |(worker, _)| worker)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Proves the right to a session: its id and a proof that only its page was told.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeToken {
    pub session: SessionId,
    proof: String,
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.session, self.proof)
    }
}

impl fmt::Debug for ResumeToken {
    /// Without the proof: tokens do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResumeToken({}~…)", self.session)
    }
}

/// Proves the right to watch a session, and to nothing else: its id and a proof of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct WatchToken {
    pub session: SessionId,
    proof: String,
}

impl fmt::Display for WatchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.session, self.proof)
    }
}

impl fmt::Debug for WatchToken {
    /// Without the proof: tokens do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchToken({}~…)", self.session)
    }
}

/// Signs and verifies ids; every front and worker of a cluster derives the same one.
#[derive(Clone)]
pub struct SessionKey(Hmac<Sha256>);

impl SessionKey {
    /// The key that belongs to a cluster's shared secret.
    pub fn derive(secret: &[u8]) -> Self {
        // A key of its own, so that a signature says nothing about what else the secret is used for.
        let key = keyed(secret).chain_update("vigie session ids 1").finalize().into_bytes();
        Self(keyed(&key))
    }

    /// A new, unguessable id of a session on `worker`.
    pub fn new_session(&self, worker: &str) -> SessionId {
        let name = format!("{worker}.{:016x}", rand::random::<u64>());
        let signature = hexadecimal(&self.sign("session", &name));
        SessionId(format!("{name}.{signature}"))
    }

    /// The token of a session's owner.
    pub fn resume_token(&self, session: SessionId) -> ResumeToken {
        ResumeToken { proof: self.prove("resume", &session), session }
    }

    /// The token of those who may watch a session.
    pub fn watch_token(&self, session: SessionId) -> WatchToken {
        WatchToken { proof: self.prove("watch", &session), session }
    }

    /// Reads an id that a peer presents.
    ///
    /// # Errors
    /// When the text is no id, or was not signed with this key.
    pub fn read_session(&self, text: &str) -> Result<SessionId, InvalidId> {
        let (name, signature) = text.rsplit_once('.').ok_or(InvalidId)?;
        let (worker, number) = name.split_once('.').ok_or(InvalidId)?;
        let is_number = number.len() == 16 && number.bytes().all(is_hexadecimal);
        if !is_worker_name(worker) || !is_number {
            return Err(InvalidId);
        }
        self.verify("session", name, signature)?;
        Ok(SessionId(text.to_owned()))
    }

    /// Reads a resume token that a peer presents.
    ///
    /// # Errors
    /// When the text is no token, or was not signed with this key.
    pub fn read_resume_token(&self, text: &str) -> Result<ResumeToken, InvalidId> {
        let (session, proof) = self.read_proof("resume", text)?;
        Ok(ResumeToken { session, proof })
    }

    /// Reads a watch token that a peer presents.
    ///
    /// # Errors
    /// When the text is no token, or was not signed with this key.
    pub fn read_watch_token(&self, text: &str) -> Result<WatchToken, InvalidId> {
        let (session, proof) = self.read_proof("watch", text)?;
        Ok(WatchToken { session, proof })
    }

    fn prove(&self, purpose: &str, session: &SessionId) -> String {
        hexadecimal(&self.sign(purpose, session.as_str()))
    }

    fn read_proof(&self, purpose: &str, text: &str) -> Result<(SessionId, String), InvalidId> {
        let (session, proof) = text.split_once('~').ok_or(InvalidId)?;
        let session = self.read_session(session)?;
        self.verify(purpose, session.as_str(), proof)?;
        Ok((session, proof.to_owned()))
    }

    fn sign(&self, purpose: &str, text: &str) -> [u8; SIGNATURE_BYTES] {
        let whole = self.message(purpose, text).finalize().into_bytes();
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(&whole[..SIGNATURE_BYTES]);
        signature
    }

    fn verify(&self, purpose: &str, text: &str, signature: &str) -> Result<(), InvalidId> {
        let signature = from_hexadecimal(signature).ok_or(InvalidId)?;
        // In constant time: what is wrong about a guess must not show in how long it took.
        self.message(purpose, text).verify_truncated_left(&signature).map_err(|_| InvalidId)
    }

    /// A session's id must never pass for a proof, nor the other way round.
    fn message(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(purpose).chain_update([0]).chain_update(text)
    }
}

/// Whether a worker may be called so: what DNS allows in a label (RFC 1123 §2.1), in lower case.
pub fn is_worker_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn is_hexadecimal(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hexadecimal(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    if text.len() != 2 * SIGNATURE_BYTES || !text.bytes().all(is_hexadecimal) {
        return None;
    }
    let mut bytes = [0; SIGNATURE_BYTES];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SessionKey {
        SessionKey::derive(b"a secret of the cluster")
    }

    #[test]
    fn ids_and_tokens_are_read_wherever_the_secret_is_known() {
        let id = key().new_session("w-1");
        assert_eq!(key().read_session(id.as_str()), Ok(id.clone()));
        assert_eq!(id.worker(), "w-1");
        let token = key().resume_token(id);
        assert_eq!(key().read_resume_token(&token.to_string()), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.proof));
    }

    #[test]
    fn another_secret_signs_differently() {
        let other = SessionKey::derive(b"a secret of another cluster");
        let token = other.resume_token(other.new_session("w1"));
        assert_eq!(key().read_session(token.session.as_str()), Err(InvalidId));
        assert_eq!(key().read_resume_token(&token.to_string()), Err(InvalidId));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let token = key().resume_token(key().new_session("w1")).to_string();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(key().read_resume_token(&changed), Err(InvalidId), "{changed}");
        }
        for end in 0..token.len() {
            assert_eq!(key().read_resume_token(&token[..end]), Err(InvalidId), "{}", &token[..end]);
        }
    }

    #[test]
    fn a_signature_serves_one_purpose() {
        let id = key().new_session("w1");
        let (_, signature) = id.as_str().rsplit_once('.').unwrap();
        assert_eq!(key().read_resume_token(&format!("{id}~{signature}")), Err(InvalidId));
        let (owner, viewer) = (key().resume_token(id.clone()), key().watch_token(id));
        assert_eq!(key().read_watch_token(&viewer.to_string()), Ok(viewer.clone()));
        assert_eq!(key().read_resume_token(&viewer.to_string()), Err(InvalidId));
        assert_eq!(key().read_watch_token(&owner.to_string()), Err(InvalidId));
        assert!(!format!("{viewer:?}").contains(&viewer.proof));
    }

    #[test]
    fn names_and_numbers_must_be_well_formed_even_when_signed() {
        for name in ["", ".", "w1", "w1.", ".0123456789abcdef", "W1.0123456789abcdef", "w/1.0123456789abcdef"]
        {
            let signature = hexadecimal(&key().sign("session", name));
            assert_eq!(key().read_session(&format!("{name}.{signature}")), Err(InvalidId), "{name}");
        }
    }
}
