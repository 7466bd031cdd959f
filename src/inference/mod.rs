//! Running models: batches across sessions, on threads that own their engines.
//!
//! A session submits a tensor and waits on a ticket; [`batcher`] decides what runs next;
//! one thread a lane owns its engines and runs them. Knows nothing of pictures.

pub mod batcher;
pub mod engine;
mod handle;
#[cfg(feature = "media")]
pub mod ort;
pub mod rows;
pub mod service;
#[cfg(test)]
mod simulation;
pub mod tensor;
mod ticket;
pub mod turns;
