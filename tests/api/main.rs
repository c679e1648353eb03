//! The API as a client meets it: the program itself, HTTP over TCP, media over UDP.
//!
//! Each test starts a server of its own on free ports, with the waits it can afford, so that tests run side
//! by side and none sees the sessions of another. The peers are str0m `Rtc`s, which write the offers and
//! judge the answers. What only HTTP adds (limits, preflights, hostile bodies) is claimed in
//! `tests/api_http.rs` against a pretended control; what browsers make of it, in `tests/browser`.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

mod bidirectional;
mod client;
mod close;
mod datachannels;
mod extensions;
mod limits;
#[path = "../support/netns.rs"]
mod netns;
mod peer;
mod pull;
mod push;
mod server;
mod sessions;
mod stop;
mod thirdparty;
mod update;
mod xdp;
