//! RTCP: reading the compound packets of peers and writing our own.
//!
//! Covers what WebRTC peers exchange: sender and receiver reports, SDES and BYE (RFC 3550 §6), NACK and PLI
//! (RFC 4585), FIR (RFC 5104), REMB (draft-alvestrand-rmcat-remb-03), transport-wide feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01) and the receiver reference time of RFC 3611.
//! Reading yields views that borrow the packet; writing goes into the caller's buffer. Deliberately
//! absent: encryption (`srtp`), timing of reports, and any judgement about what a report means.

mod read;
mod transport_feedback;
mod write;

pub use read::{Cnames, FirEntries, NackSequences, Packet, Packets, Reports, Ssrcs, packets};
pub use transport_feedback::{Statuses, TransportFeedback};
pub use write::Writer;

/// Packet types (RFC 3550 §12.1, RFC 4585 §6.1, RFC 3611 §2).
mod packet_type {
    pub const SENDER_REPORT: u8 = 200;
    pub const RECEIVER_REPORT: u8 = 201;
    pub const SOURCE_DESCRIPTION: u8 = 202;
    pub const GOODBYE: u8 = 203;
    pub const TRANSPORT_LAYER_FEEDBACK: u8 = 205;
    pub const PAYLOAD_SPECIFIC_FEEDBACK: u8 = 206;
    pub const EXTENDED_REPORT: u8 = 207;
}

/// Formats of transport layer feedback (RFC 4585 §6.2).
mod transport_format {
    pub const NACK: u8 = 1;
    pub const TRANSPORT_FEEDBACK: u8 = 15;
}

/// Formats of payload-specific feedback (RFC 4585 §6.3, RFC 5104 §4.3).
mod payload_format {
    pub const PICTURE_LOSS_INDICATION: u8 = 1;
    pub const FULL_INTRA_REQUEST: u8 = 4;
    pub const APPLICATION: u8 = 15;
}

/// Marks application feedback as REMB.
const REMB_IDENTIFIER: [u8; 4] = *b"REMB";

/// The SDES item that holds the canonical name (RFC 3550 §6.5.1).
const SDES_CNAME: u8 = 1;

/// The most report blocks, SSRCs or chunks that the five-bit count of one packet can announce.
const COUNT_MAX: usize = 31;

/// How one stream is received, as told to its sender (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream that is reported on.
    pub ssrc: u32,
    /// Packets lost since the previous report, in 1/256 of those expected.
    pub fraction_lost: u8,
    /// Packets lost since the start; 24 bits signed, negative when duplicates outnumber losses.
    pub cumulative_lost: i32,
    /// Extended: the low 16 bits are the sequence number, the high ones its cycles.
    pub highest_sequence: u32,
    /// Interarrival jitter in units of the stream's RTP clock.
    pub jitter: u32,
    /// The middle 32 bits of the NTP time of the last sender report; 0 if there was none.
    pub last_sr: u32,
    /// From that report's arrival to this one's departure, in 1/65536 s; 0 if there was none.
    pub delay_since_last_sr: u32,
}

#[cfg(test)]
mod tests;
