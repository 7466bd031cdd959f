//! The worker's side of a live session, from its packets to its results.
//!
//! [`control`] lets fronts in, [`worker`] keeps the table, [`session`] owns one session's
//! [`peer`] connection and its threads: [`ingest`] (a task) → [`media`] (a thread) →
//! [`recognition`] (a thread). [`settings`] and [`governor`] are the pure decisions among them.

pub mod control;
mod governor;
mod ingest;
mod media;
pub mod peer;
mod recognition;
pub mod session;
pub mod settings;
pub mod worker;
