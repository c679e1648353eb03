//! Fanline: a selective forwarding unit.

pub mod control;
pub mod drop_reason;
pub mod id;
pub mod io;
pub mod rtp;
pub mod time;
