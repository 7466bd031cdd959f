//! How a front finds and reaches workers.
//!
//! [`protocol`] is what they (and the page) say to each other; [`fleet`] knows the workers and asks them
//! for their load, [`placement`] chooses among them; [`remote`] is the front's side of one worker's
//! control API, [`whip`] the part of it that needs no socket, [`relay`] hands requests on as they come in, both over
//! `connections` that are kept, and [`token`] is the secret that both sides share. None looks at a pixel.

mod connections;
pub mod figures;
pub mod fleet;
pub mod models;
pub mod placement;
pub mod protocol;
pub mod relay;
pub mod remote;
pub mod token;
pub mod whip;
