//! Synthetic clients: real ICE, DTLS, SRTP and SCTP from an independent WebRTC implementation, a TURN
//! client, and pictures posted over HTTP.
//!
//! `vigie load`, `vigie doctor`, `vigie bench` and the tests publish a [`clip`] with them and take the
//! results back.

pub mod clip;
pub mod counter;
pub mod poster;
pub mod publisher;
mod signalling;
pub mod target;
pub mod tls;
pub mod turn;
pub mod visitor;
