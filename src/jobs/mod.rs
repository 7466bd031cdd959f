//! Video jobs: what is kept of them, who may change it, and how they reach a worker.
//!
//! A front takes an upload in ([`intake`], or in pieces [`tus`]) and makes a job of it, a worker runs it
//! ([`run`]); neither knows the other. They meet in the blob store, where a job's [`record`] lies, and at the
//! [`queue`]. Nothing here knows HTTP or pixels.

pub mod id;
pub mod intake;
pub mod queue;
pub mod record;
pub mod run;
pub mod service;
mod sweep;
pub mod tus;
