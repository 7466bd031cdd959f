//! vigie: real-time recognition over WebRTC.
//!
//! A frame's journey: a browser's packets reach [`live`], [`rtp`] puts them in order and joins them
//! into frames, [`codec`] decodes, a [`mailbox`] keeps the newest picture, [`pipeline`] recognises,
//! tracks, draws and reports, [`inference`] runs the models, and results go back to the browser.
//! [`signalling`] never sees a pixel; [`cluster`] is how it reaches the worker that does.

pub mod blobs;
pub mod cli;
pub mod cluster;
pub mod codec;
pub mod commands;
pub mod container;
pub mod files;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod ids;
pub mod imgproc;
pub mod inference;
pub mod jobs;
pub mod live;
pub mod load;
pub mod mailbox;
pub mod measures;
pub mod models;
pub mod oip;
pub mod pipeline;
pub mod rtp;
pub mod serving;
pub mod shutdown;
pub mod signalling;
pub mod telemetry;
pub mod trials;
