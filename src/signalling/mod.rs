//! The front: pages, signalling and probes. It knows no pixels.
//!
//! [`router`] is its table of contents; [`sessions`] carries a page's signalling to a worker,
//! [`predict`] single pictures. [`videos`] and [`tus`] take video files in, and [`results`] gives them out.

pub mod error;
mod health;
pub mod ice;
mod pages;
pub mod predict;
mod results;
pub mod router;
mod sessions;
mod tus;
pub mod uploads;
mod videos;
