//! The control plane.

pub mod request;
