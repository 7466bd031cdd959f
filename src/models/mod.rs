//! Models on disk: what they are ([`manifest`]), where they lie and where they come from.

pub mod heads;
pub mod manifest;
