//! The ICE session of a client that speaks by single requests (RFC 9725 §4.3): it is told every candidate
//! at once, adds its own as it finds them, and may begin anew.

use super::peer::{Peer, PeerError};
use super::sdp::{self, Credentials, Fragment, OfferError};
use crate::cluster::protocol::Candidate;
use crate::cluster::whip::{Answer, IceChange, IceRestarted, WhipFault, WhipRefusal};

/// What both sides agreed on last.
pub struct IceSession {
    /// The offer in force, with its credentials.
    offer: String,
    remote: Credentials,
    etag: String,
}

impl IceSession {
    /// Answers the first offer.
    pub async fn begin(peer: &Peer, offer: &str) -> Result<(Self, Answer), WhipFault> {
        let remote = Credentials::of(offer).ok_or_else(|| refuse_offer(&OfferError::Malformed))?;
        peer.answer(offer).await.map_err(|error| refuse_peer(&error))?;
        let sdp = peer.gathered_answer().await;
        let etag = etag_of(&sdp)?;
        let session = Self { offer: offer.to_owned(), remote, etag: etag.clone() };
        Ok((session, Answer { sdp, etag }))
    }

    /// Takes the candidates of a PATCH, or restarts; `None` when there is nothing to answer.
    pub async fn change(
        &mut self,
        peer: &Peer,
        change: &IceChange,
    ) -> Result<Option<IceRestarted>, WhipFault> {
        let fragment = Fragment::read(&change.fragment)
            .map_err(|error| WhipFault::new(WhipRefusal::FragmentUnreadable, error))?;
        if !sdp::is_matched(&change.if_match, &self.etag) {
            let reason = "If-Match names another ICE session than the present one";
            return Err(WhipFault::new(WhipRefusal::IceSessionChanged, reason));
        }
        match fragment.credentials {
            Some(credentials) if credentials != self.remote => {
                self.restart(peer, credentials, &fragment.candidates).await.map(Some)
            }
            _ => {
                self.add(peer, fragment.candidates).await;
                Ok(None)
            }
        }
    }

    /// Those that cannot be used are passed over, as the RFC wants.
    async fn add(&self, peer: &Peer, candidates: Vec<String>) {
        for candidate in candidates {
            let candidate = Candidate {
                candidate,
                // Everything is bundled on the first media section.
                sdp_mid: None,
                sdp_m_line_index: Some(0),
                username_fragment: None,
            };
            if let Err(error) = peer.add_candidate(candidate).await {
                tracing::debug!(%error, "a candidate of no use");
            }
        }
    }

    /// The session goes on as it is when this fails.
    async fn restart(
        &mut self,
        peer: &Peer,
        credentials: Credentials,
        candidates: &[String],
    ) -> Result<IceRestarted, WhipFault> {
        let offer = sdp::restarted(&self.offer, &credentials, candidates);
        peer.answer(&offer).await.map_err(|error| WhipFault::new(WhipRefusal::RestartRefused, error))?;
        let answer = peer.gathered_answer().await;
        self.etag = etag_of(&answer)?;
        (self.offer, self.remote) = (offer, credentials);
        Ok(IceRestarted { fragment: sdp::of_answer(&answer), etag: self.etag.clone() })
    }
}

/// The worker's own username fragment is random and new in each ICE session: it can name it.
fn etag_of(answer: &str) -> Result<String, WhipFault> {
    let credentials = Credentials::of(answer);
    credentials
        .map(|own| own.ufrag)
        .ok_or_else(|| WhipFault::new(WhipRefusal::Internal, "no answer was made"))
}

pub fn refuse_offer(error: &OfferError) -> WhipFault {
    let code = match error {
        OfferError::Malformed => WhipRefusal::OfferRefused,
        OfferError::NoVideo
        | OfferError::ManyVideos
        | OfferError::SendsNothing
        | OfferError::ReceivesNothing => WhipRefusal::CodecUnsupported,
    };
    WhipFault::new(code, error)
}

pub fn refuse_peer(error: &PeerError) -> WhipFault {
    let code = match error {
        PeerError::NoVideo => WhipRefusal::CodecUnsupported,
        PeerError::Offer(_) | PeerError::Candidate(_) => WhipRefusal::OfferRefused,
        PeerError::Setup(_) => WhipRefusal::Internal,
    };
    WhipFault::new(code, error)
}
