//! Fanline: a selective forwarding unit.

pub mod api;
pub mod config;
pub mod control;
pub mod demo;
pub mod drop_reason;
pub mod forward;
pub mod id;
pub mod io;
pub mod ring;
pub mod rtp;
pub mod sdp;
pub mod server;
pub mod shard;
pub mod stats;
pub mod sync;
pub mod table;
pub mod time;
pub mod wiring;
