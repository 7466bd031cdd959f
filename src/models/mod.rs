//! Models on disk: what they are ([`manifest`]), where they lie ([`store`]), which ones vigie brings
//! ([`catalogue`]), where those come from ([`tarball`]) and how they become ONNX ([`convert`]).

pub mod catalogue;
pub mod check;
pub mod convert;
pub mod heads;
pub mod manifest;
pub mod store;
pub mod tarball;
