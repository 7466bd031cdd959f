//! The front: pages, signalling and probes. It knows no pixels.
//!
//! [`router`] is its table of contents; [`sessions`] carries a page's signalling to a worker,
//! [`predict`] single pictures; [`whip`] and [`whep`] bring publishers and viewers that have no page.

pub mod error;
mod exchange;
mod health;
pub mod ice;
mod pages;
pub mod predict;
pub mod router;
mod sessions;
mod whep;
mod whip;
