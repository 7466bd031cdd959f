//! The Open Inference Protocol, version 2, for every loaded model: tensors in, tensors out.
//!
//! Of the protocol's text and bytes [`request`], [`tensors`], [`metadata`] and [`answer`] know everything and do
//! nothing: they are given bytes and give bytes. [`runner`] has requests run on the lanes, behind live sessions, and
//! [`control`] puts HTTP around it: with the cluster token for fronts, without on a worker that was asked to serve
//! it openly. Pictures, heads and labels are not looked at here: who sends tensors reads tensors.

pub mod answer;
mod coding;
pub mod control;
pub mod error;
pub mod metadata;
mod numbers;
pub mod request;
pub mod runner;
mod shapes;
pub mod tensors;
