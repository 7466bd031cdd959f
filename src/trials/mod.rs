//! The part of a worker that takes uploaded models in: from the store, through check and trial, into the registry.

pub mod control;
pub mod desk;
