//! The secret that the services of one cluster share: fronts show it to workers, and ids are signed with
//! a key derived from it.

use std::fmt;
use std::sync::Arc;

use crate::ids::SessionKey;

/// Characters of the shortest token that nobody guesses, if it is random.
const MIN_LENGTH: usize = 16;
const MAX_LENGTH: usize = 512;

/// Text that cannot be a cluster token. The text itself is not repeated: it may be a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster token must have {MIN_LENGTH} to {MAX_LENGTH} visible ASCII characters, for example those of `openssl rand -hex 32`"
)]
pub struct InvalidToken;

/// A cluster's shared secret.
#[derive(Clone)]
pub struct ClusterToken(Arc<str>);

impl ClusterToken {
    /// A token for services that live and die together.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()).into())
    }

    /// Takes a token that was configured.
    ///
    /// # Errors
    /// When it is too short, too long, or cannot stand in a header.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let is_fit = (MIN_LENGTH..=MAX_LENGTH).contains(&text.len());
        if is_fit && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidToken)
        }
    }

    /// What a front sends as its `Authorization` header.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether an `Authorization` header shows this token.
    pub fn is_shown_by(&self, header: &str) -> bool {
        let Some(given) = header.strip_prefix("Bearer ") else { return false };
        // Compared in full, so that the time taken tells nothing about the token.
        given.len() == self.0.len()
            && given.bytes().zip(self.0.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }

    pub fn session_key(&self) -> SessionKey {
        SessionKey::derive(self.0.as_bytes())
    }
}

impl fmt::Debug for ClusterToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_by_itself_only() {
        let token = ClusterToken::new(" 0123456789abcdef\n").unwrap();
        assert!(token.is_shown_by(&token.bearer()));
        let others =
            ["", "Bearer ", "Bearer 0123456789abcdeF", "0123456789abcdef", "Bearer 0123456789abcdef0"];
        for other in others {
            assert!(!token.is_shown_by(other), "{other}");
        }
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn what_can_be_guessed_or_sent_in_no_header_is_refused() {
        for text in
            ["", "short", "0123456789 abcdef0", "0123456789\nabcdef0", "0123456789abcdéf", &"x".repeat(513)]
        {
            assert_eq!(ClusterToken::new(text).unwrap_err(), InvalidToken, "{text}");
        }
    }
}
