//! Fanline: a selective forwarding unit.

pub mod api;
pub mod control;
pub mod drop_reason;
pub mod id;
pub mod rtp;
pub mod stats;
pub mod time;
