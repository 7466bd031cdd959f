//! How a front reaches a worker.
//!
//! [`protocol`] is what they (and the page) say to each other; [`remote`] is the front's side of a
//! worker's control API. Neither looks at a pixel.

pub mod protocol;
pub mod remote;
