//! Work that outlives the request that asked for it: video files to be annotated.

pub mod id;
pub mod queue;
