//! The middle of the path, in frame order: decode, prepare, detect, track, draw, encode, report.
//!
//! Live sessions, video files and images all go through these stages.

pub mod draw;
pub mod report;
pub mod track;
