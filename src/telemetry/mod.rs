//! What vigie says of itself: metrics for Prometheus and structured logs.

pub mod logging;
pub mod metrics;
