//! One file a subcommand: builds the parts, connects them, waits for the end.

#[cfg(feature = "media")]
pub mod annotate;
#[cfg(feature = "media")]
pub mod bench;
#[cfg(feature = "media")]
mod cascades;
#[cfg(feature = "media")]
pub mod doctor;
pub mod guard;
pub mod health;
#[cfg(feature = "media")]
pub mod load;
#[cfg(feature = "media")]
mod media;
#[cfg(feature = "media")]
pub mod models;
#[cfg(feature = "media")]
pub mod recognition;
pub mod registry;
#[cfg(feature = "media")]
pub mod serve;
pub mod service;
pub mod signal;
pub mod token;
mod videos;
#[cfg(feature = "media")]
pub mod worker;
