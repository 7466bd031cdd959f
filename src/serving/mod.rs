//! Serving: a worker's models follow the traffics of the registry while sessions run.
//!
//! A thread of low priority looks at the traffics every two seconds, fetches and loads what they name, beside the lanes
//! and one version at a time, and has the slots use it ([`plan`]) from the next picture on. What nobody uses any longer is
//! freed. What cannot be loaded is counted, shown and tried again after a while; what served before goes on. A version that
//! breaks its traffic's bounds ([`watch`]) is taken out of the traffic, by compare-and-swap, for every worker.
//!
//! It neither decides who gets what (that is [`Traffic`](crate::models::traffic::Traffic)) nor runs anything itself.

mod engines;
mod gauges;
mod loader;
mod plan;
mod watch;

pub use engines::{Workshop, loading_of, take_gpu_steps};
pub use gauges::Names;
pub use loader::{Loaded, Loader, Setup};
