//! One file a subcommand: builds the parts, connects them, waits for the end.

pub mod annotate;
pub mod bench;
mod cascades;
pub mod doctor;
pub mod guard;
pub mod load;
pub mod models;
pub mod recognition;
pub mod registry;
pub mod serve;
pub mod service;
pub mod signal;
pub mod token;
mod videos;
pub mod worker;
