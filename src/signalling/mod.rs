//! The front: pages, signalling and probes. It knows no pixels.
//!
//! [`router`] is its table of contents; [`sessions`] carries a page's signalling to a worker,
//! [`predict`] single pictures. [`videos`] and [`tus`] take video files in, and [`results`] gives them out.
//! [`models`] tells of uploaded models, and [`model_upload`] takes them in; `oip` hands tensors on.
//! [`whip`] and [`whep`] bring publishers and viewers that have no page.

pub mod auth;
pub mod error;
mod exchange;
mod health;
pub mod ice;
pub mod limits;
mod model_upload;
pub mod models;
mod oip;
mod pages;
pub mod predict;
mod results;
pub mod room;
pub mod router;
pub mod server;
mod sessions;
pub mod tls;
mod traffic;
mod tus;
pub mod uploads;
mod videos;
mod whep;
mod whip;
