//! The selective forwarding middlebox (RFC 7667 §3.7): what to do with the packets of a track.
//!
//! Pure: packets and `now` come in, decisions and the bytes of feedback go out. Deliberately absent are
//! sockets, threads and clocks, which are the shard's, and wire formats, which are `rtp`'s.
//!
//! The receive side, in the order a packet meets it: [`transport_cc`] notes its arrival for the publisher's
//! bandwidth estimate, [`receive`] keeps the statistics and asks for what is missing, and [`keyframe`]
//! asks for a fresh start when asking for packets is of no use.
//!
//! The send side: [`glance`] says once what a packet is, [`rewrite`] builds headers, [`leg`] numbers packets for one
//! subscriber with [`select`], [`layers`] and [`picture`] to help it, and [`coalesce`] puts what goes to one
//! subscriber in the order that costs least; [`pace`] says how much of it leaves now. Beside it, a few times a second, [`allocate`] shares a subscriber's
//! bandwidth among its videos by what [`rates`] has measured.

pub mod allocate;
pub mod coalesce;
pub mod estimate;
pub mod gaps;
pub mod glance;
pub mod keyframe;
pub mod layers;
pub mod leg;
pub mod pace;
pub mod picture;
pub mod rates;
pub mod receive;
pub mod rewrite;
pub mod select;
pub mod speech;
pub mod track_ring;
pub mod transport_cc;
