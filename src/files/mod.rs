//! Recognition of what is not live: pictures and video files.
//!
//! [`image`] is the way in and out for pictures, [`still`] recognises one, [`desk`] does so for many at
//! once on threads of its own, and [`control`] lets fronts ask. [`video`] annotates a file from end to
//! end, and [`jobs`] does so for those who sent one to a front. All of it waits where live sessions drop.

pub mod control;
pub mod desk;
pub mod image;
pub mod jobs;
pub mod still;
pub mod video;
