//! How good a detector is, against pictures of which it is known what they show: COCO's measure, computed as
//! its authors' program does.
//!
//! [`coco`] reads what is known, [`score`] compares. Running the model stands with the commands, since it goes
//! through the stages of a live frame. Both are pure.

pub mod coco;
pub mod score;
