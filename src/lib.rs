//! vigie: real-time recognition over WebRTC.
//!
//! A frame's journey: a browser's packets reach [`live`], [`rtp`] puts them in order and joins them
//! into frames, [`codec`] decodes, a [`mailbox`] keeps the newest picture, [`pipeline`] recognises,
//! tracks, draws and reports, [`inference`] runs the models, and results go back to the browser.
//! [`signalling`] never sees a pixel; [`cluster`] is how it reaches the worker that does. Without the feature
//! `media` the library holds the parts of a front alone.

pub mod blobs;
pub mod cli;
pub mod cluster;
#[cfg(feature = "media")]
pub mod codec;
pub mod commands;
pub mod container;
#[cfg(feature = "media")]
pub mod files;
pub mod frame;
#[cfg(all(feature = "media", any(test, feature = "fuzzing")))]
pub mod fuzz;
pub mod ids;
#[cfg(feature = "media")]
pub mod imgproc;
pub mod inference;
pub mod jobs;
#[cfg(feature = "media")]
pub mod live;
#[cfg(feature = "media")]
pub mod load;
#[cfg(feature = "media")]
pub mod mailbox;
pub mod measures;
pub mod models;
#[cfg(feature = "media")]
pub mod oip;
#[cfg(feature = "media")]
pub mod pipeline;
#[cfg(feature = "media")]
pub mod rtp;
#[cfg(feature = "media")]
pub mod serving;
pub mod shutdown;
pub mod signalling;
pub mod telemetry;
#[cfg(feature = "media")]
pub mod trials;
