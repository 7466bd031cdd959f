//! The middle of the path, in frame order: decode, prepare, detect, track, draw, encode, report.
//!
//! Live sessions, video files and images all go through these stages.

pub mod agree;
pub mod animals;
pub mod detect;
pub mod draw;
pub mod follow;
pub mod labels;
pub mod prepare;
pub mod read;
pub mod recognise;
pub mod report;
pub mod text;
pub mod track;
