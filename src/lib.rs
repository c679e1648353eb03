//! Fanline: a selective forwarding unit (SFU, RFC 7667 §3.7) that speaks the sessions/tracks HTTP API of
//! Cloudflare Realtime.
//!
//! Two planes. The *data plane* is one pinned thread per core, a [`shard`], with its own UDP socket and its
//! own memory; it handles SRTP and SRTCP and nothing else. The *control plane* is one thread, [`control`],
//! that serves the HTTP [`api`] and runs ICE, DTLS and SCTP for every session. They share no state that
//! either could hold up the other by:
//!
//! ```text
//! HTTP ──► api ──► control ──Command──► shard 0 … shard n ──► UDP
//!                     ▲   ◄───Event───      │
//!                     └──── punt ring ──────┘   STUN and DTLS datagrams
//! ```
//!
//! # A packet's way
//!
//! A datagram is lent by a backend of [`io`] to `shard::ingress`, which decrypts it ([`rtp::srtp`]) straight
//! into the ring of its track ([`forward::track_ring`]), notes it for reports and feedback
//! ([`forward::receive`], [`forward::transport_cc`]), looks up in the [`table`] which other shards have
//! subscribers and copies it once to each through a [`ring`]. `shard::egress` then builds one header per shape
//! ([`forward::rewrite`]), and for each [`forward::leg`] seals the packet in the backend's transmit memory.
//!
//! # Invariants
//!
//! * One sender per SRTP key: the shard. The transport of a session (str0m) is given no media.
//! * Nothing on the packet path allocates, locks, logs, or reads a clock (`tests/no_alloc.rs`, `tests/tidy.rs`).
//! * An answer of the API with a 2xx means that the data plane has it.
//! * Time, randomness and addresses are arguments, so that `tests/sim` can run it all in virtual time.
//! * `unsafe` lives in [`ring`] and [`table`], both proved with loom, in [`io::uring`] and `io::xdp`, in the bare system calls of
//!   [`bench::kernel`], and in one call of `control`.
//!
//! # Reading order
//!
//! [`shard::Shard::turn`] is the data plane on one screen; `shard/ingress.rs` and `shard/egress/` are its two
//! directions. [`control::request`] is the door into the control plane, `control/verbs` what is behind it.
//! [`wiring`] and [`server`] put the parts together. Dependencies point down:
//!
//! ```text
//! main → server → api → control → shard → forward → rtp      shard → io, ring, table      control → sdp
//! main → bench → control, rtp, io
//! ```

pub mod api;
pub mod backend;
pub mod bench;
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
