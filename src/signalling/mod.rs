//! The front: pages, signalling and probes. It knows no pixels.
//!
//! [`router`] is its table of contents; [`sessions`] carries a page's signalling to a worker,
//! [`predict`] single pictures.

pub mod auth;
pub mod error;
mod health;
pub mod ice;
pub mod limits;
mod pages;
pub mod predict;
pub mod router;
pub mod server;
mod sessions;
pub mod tls;
