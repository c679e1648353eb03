//! Fanline: a selective forwarding unit.

pub mod control;
pub mod drop_reason;
pub mod id;
pub mod rtp;
pub mod sdp;
pub mod time;
