//! Models on disk: what they are ([`manifest`]), where they lie ([`store`]), which ones vigie brings
//! ([`catalogue`]), where those come from ([`tarball`], [`wheel`]) and how they become ONNX ([`convert`]);
//! which of them are used for whom ([`traffic`]); and how
//! others are taken in ([`intake`]), once they are checked ([`check`]) and tried ([`trial`]).

pub mod catalogue;
pub mod check;
pub mod convert;
pub mod heads;
pub mod intake;
pub mod manifest;
pub mod store;
pub mod tarball;
pub mod traffic;
pub mod trial;
pub mod wheel;
