//! Synthetic browsers: real ICE, DTLS, SRTP and SCTP from an independent WebRTC implementation.
//!
//! `vigie bench` and the integration tests publish a [`clip`] with them and take the results back.

pub mod clip;
pub mod publisher;
