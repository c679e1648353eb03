//! Fanline: a selective forwarding unit.

pub mod config;
pub mod control;
pub mod drop_reason;
pub mod id;
pub mod rtp;
pub mod server;
pub mod time;
