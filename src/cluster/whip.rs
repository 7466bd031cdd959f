//! WHIP and WHEP between front and worker: one HTTP request for each of a client's, and no socket, so that
//! whichever front a request reaches can serve it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::protocol::{MAX_MESSAGE_BYTES, SessionTerms, TaskList};
use super::remote::{JSON, Remote, RemoteError};
use crate::ids::{ResumeToken, SessionId, WatchToken};

/// The path of the control API under which publishers' sessions lie.
pub const WHIP_PATH: &str = "/control/v1/whip";
/// The path of the control API under which viewers lie.
pub const WHEP_PATH: &str = "/control/v1/whep";

/// Bytes of an answer: an SDP, escaped, with what goes around it.
const MAX_ANSWER_BYTES: usize = 4 * MAX_MESSAGE_BYTES;
/// An answer takes as long as a worker needs to gather its candidates.
const LIMIT: Duration = Duration::from_secs(8);

/// A publisher's offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Publish {
    pub sdp: String,
    pub wishes: Wishes,
    /// Within which its token lets it.
    pub terms: SessionTerms,
}

/// The settings of a session whose owner has no channel to change them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wishes {
    pub tasks: Option<TaskList>,
    pub threshold: Option<f32>,
    pub max_rate: Option<f32>,
}

/// A session that was opened for a publisher.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The owner's token.
    pub resume: String,
    /// The viewers' token.
    pub watch: String,
    pub answer: Answer,
}

/// A viewer's offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    pub sdp: String,
}

/// A viewer that was let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watching {
    /// Names the viewer, and only it was told.
    pub viewer: String,
    pub answer: Answer,
}

/// The answer to an offer, with every candidate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub sdp: String,
    /// Names the ICE session, without quotes.
    pub etag: String,
}

/// More candidates, or an ICE restart (RFC 9725 §4.3).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IceChange {
    pub fragment: String,
    /// The `If-Match` header.
    pub if_match: String,
}

/// The worker's half of a new ICE session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IceRestarted {
    pub fragment: String,
    /// Names the ICE session, without quotes.
    pub etag: String,
}

/// Why a worker refused an offer or a change: the stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhipRefusal {
    OfferRefused,
    CodecUnsupported,
    InvalidOption,
    FragmentUnreadable,
    RestartRefused,
    IceSessionChanged,
    UnknownSession,
    UnknownViewer,
    NotLive,
    TooManyViewers,
    Busy,
    Draining,
    Internal,
}

impl WhipRefusal {
    /// As it is written in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::OfferRefused => "offer_refused",
            Self::CodecUnsupported => "codec_unsupported",
            Self::InvalidOption => "invalid_option",
            Self::FragmentUnreadable => "fragment_unreadable",
            Self::RestartRefused => "restart_refused",
            Self::IceSessionChanged => "ice_session_changed",
            Self::UnknownSession => "unknown_session",
            Self::UnknownViewer => "unknown_viewer",
            Self::NotLive => "not_live",
            Self::TooManyViewers => "too_many_viewers",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with it (RFC 9110 §15, RFC 9725 §4).
    pub fn status(self) -> u16 {
        match self {
            Self::OfferRefused | Self::InvalidOption | Self::FragmentUnreadable => 400,
            Self::UnknownSession | Self::UnknownViewer => 404,
            Self::CodecUnsupported => 406,
            Self::NotLive => 409,
            Self::IceSessionChanged => 412,
            Self::RestartRefused => 422,
            Self::TooManyViewers | Self::Busy | Self::Draining => 503,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn passes(self) -> bool {
        matches!(self, Self::NotLive | Self::TooManyViewers | Self::Busy | Self::Draining)
    }
}

/// A worker's refusal of an offer or a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WhipFault {
    pub code: WhipRefusal,
    pub message: String,
}

impl WhipFault {
    pub fn new(code: WhipRefusal, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

/// Why a request about a publisher or a viewer was not served.
#[derive(Debug, thiserror::Error)]
pub enum WhipError {
    #[error(transparent)]
    Refused(#[from] WhipFault),
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl Remote {
    /// Opens a session for a publisher.
    pub async fn publish(&self, publish: &Publish) -> Result<Published, WhipError> {
        self.post(WHIP_PATH, publish).await
    }

    /// Lets a viewer in.
    pub async fn watch(&self, token: &WatchToken, watch: &Watch) -> Result<Watching, WhipError> {
        self.post(&format!("{WHEP_PATH}/{token}"), watch).await
    }

    /// Changes the ICE session of a publisher or a viewer; `None` when only candidates were added.
    pub async fn change_ice(
        &self,
        party: &Party,
        change: &IceChange,
    ) -> Result<Option<IceRestarted>, WhipError> {
        let body = self.ask(Method::PATCH, &party.path(), json(change)).await?;
        if body.is_empty() { Ok(None) } else { self.read(&body).map(Some) }
    }

    /// Ends a publisher's session, or lets a viewer go.
    pub async fn hang_up(&self, party: &Party) -> Result<(), WhipError> {
        self.ask(Method::DELETE, &party.path(), Bytes::new()).await.map(drop)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, WhipError> {
        let body = self.ask(Method::POST, path, json(body)).await?;
        self.read(&body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, WhipError> {
        serde_json::from_slice(body).map_err(|source| self.unreachable(source).into())
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, WhipError> {
        let answer = timeout(LIMIT, self.exchange(method, path, body)).await;
        let (status, body) = answer.map_err(|_| RemoteError::Silent { address: self.address })??;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<WhipFault>(&body) {
            Ok(fault) => Err(fault.into()),
            Err(_) => Err(self.refused(status).into()),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), RemoteError> {
        let response =
            self.send(method, path, JSON, body).await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|source| self.unreachable(source))?.to_bytes()))
    }
}

fn json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("a request to a worker is always JSON").into()
}

/// Whose ICE session a request is about.
#[derive(Clone, Debug)]
pub enum Party {
    Publisher(ResumeToken),
    Viewer { watch: WatchToken, viewer: String },
}

impl Party {
    pub fn session(&self) -> &SessionId {
        match self {
            Self::Publisher(token) => &token.session,
            Self::Viewer { watch, .. } => &watch.session,
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Publisher(token) => format!("{WHIP_PATH}/{token}"),
            Self::Viewer { watch, viewer } => format!("{WHEP_PATH}/{watch}/{viewer}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_they_are_read() {
        use WhipRefusal::*;
        let all = [
            OfferRefused,
            CodecUnsupported,
            InvalidOption,
            FragmentUnreadable,
            RestartRefused,
            IceSessionChanged,
            UnknownSession,
            UnknownViewer,
            NotLive,
            TooManyViewers,
            Busy,
            Draining,
            Internal,
        ];
        for refusal in all {
            assert_eq!(serde_json::to_value(refusal).expect("JSON"), refusal.code());
            assert!((400..600).contains(&refusal.status()));
        }
    }
}
