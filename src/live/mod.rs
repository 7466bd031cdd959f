//! The worker's side of a live session, from its packets to its results.
//!
//! [`control`] lets fronts in, [`worker`] keeps the table, [`session`] owns one session's
//! [`peer`] connection and its threads: [`ingest`] (a task) → [`media`] (a thread) →
//! [`recognition`] (a thread). [`settings`], [`governor`], [`pace`] and [`headroom`] are the pure decisions among
//! them; [`usage`] measures for the last. What is annotated goes to the [`audience`]: the session's page,
//! and any [`viewer`]. [`whip`] lets fronts bring publishers and viewers that have no socket, whose [`ice`]
//! sessions change by single requests.

pub(crate) mod audience;
pub mod control;
mod governor;
pub mod headroom;
mod ice;
pub(crate) mod ingest;
pub(crate) mod media;
mod pace;
pub mod peer;
pub mod readers;
pub(crate) mod recognition;
pub(crate) mod sdp;
pub mod session;
pub mod settings;
mod usage;
mod viewer;
pub mod whip;
pub mod worker;
