//! The server in virtual time: real shards and the real control plane, a network in memory, and str0m
//! clients that a stranger could have written. One thread, and nothing happens but by [`world::World::step`].
//!
//! Each test is a claim about what people hear and see. It runs once per seed; `FANLINE_SIM_SEED=7` runs it
//! for that seed alone, and a failure prints the seed and the virtual time. The seed decides the network
//! (loss, order, delay) and the server's choices. Key material, ICE transactions and SSRCs of the clients
//! come from their own crypto library, so datagrams differ between runs while their schedule repeats.
//!
//! Deliberately absent: HTTP (`tests/api_http.rs` has it), real sockets (`tests/io.rs`), decoding of media.
//! A payload is a note with a checksum: every client can tell what it has missed, and when it was said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic, helpers included")]

mod bandwidth;
mod client;
mod coalescing;
mod feedback;
mod hostile;
mod late;
mod leaving;
mod loss;
mod matrix;
mod media;
mod meeting;
mod moving;
mod numbering;
mod pacing;
mod simulcast;
mod speech;
mod steps;
mod time;
mod world;
