//! The worker's side of a live session, from its packets to its results.
//!
//! [`control`] lets fronts in, [`worker`] keeps the table, [`session`] owns one session's
//! [`peer`] connection and its threads: [`ingest`] (a task) → [`media`] (a thread) →
//! [`recognition`] (a thread). [`settings`], [`governor`] and [`headroom`] are the pure decisions among
//! them; [`usage`] measures for the last.

pub mod control;
mod governor;
pub mod headroom;
mod ingest;
mod media;
pub mod peer;
mod recognition;
pub mod session;
pub mod settings;
mod usage;
pub mod worker;
