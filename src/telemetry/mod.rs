//! What vigie says of itself: metrics for Prometheus and structured logs.

#[cfg(feature = "media")]
pub mod gpus;
pub mod logging;
pub mod metrics;
