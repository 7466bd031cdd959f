//! Models on disk: what they are ([`manifest`]), where they lie ([`store`]), which ones vigie brings
//! ([`catalogue`]), where those come from ([`tarball`], [`wheel`]) and how they become ONNX ([`convert`]); and how
//! others are taken in ([`intake`]), once they are checked ([`check`]) and tried ([`trial`]), and how good they are
//! ([`eval`]). What was uploaded to a service is in its [`registry`]; [`traffic`] says which version is used for whom.

pub mod catalogue;
pub mod check;
pub mod convert;
pub mod eval;
pub mod heads;
pub mod intake;
pub mod manifest;
pub mod receipt;
pub mod registry;
pub mod store;
pub mod tarball;
pub mod traffic;
pub mod trial;
pub mod wheel;
