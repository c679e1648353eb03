//! Why a datagram, packet or record was let go.
//!
//! A drop is not an error: nothing failed, the packet path decided. Each reason is counted per shard
//! and shown as `fanline_drops_total{reason="…"}`; its documentation is what an operator should do.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:expr])+ $name:ident = $label:literal,)+) => {
        /// Why something was dropped; the documentation of each variant is the remedy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];
            pub const COUNT: usize = Self::ALL.len();

            /// The label of the metric, in snake case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The datagram is empty or its first byte belongs to no protocol we speak (RFC 7983). Noise from the
    /// internet is normal; a high rate is a scan or an attack: filter it before it reaches the port.
    NotOurs = "not_ours",
    /// SRTP or SRTCP from an address that no session has verified by ICE. Expected for a moment when a
    /// client's address changes; otherwise someone sends to a port that is not theirs.
    UnknownSource = "unknown_source",
    /// SRTP or SRTCP before the DTLS handshake gave keys. Expected for the first packets of a fast client.
    NoKeys = "no_keys",
    /// An RTP header that ends before its own lengths say. A broken or hostile sender.
    MalformedRtp = "malformed_rtp",
    /// An RTCP packet that ends before its own lengths say, or feedback that announces more packets than can be out. A
    /// broken or hostile sender.
    MalformedRtcp = "malformed_rtcp",
    /// The authentication tag does not match: corrupted on the way, forged, or sealed with other keys.
    AuthenticationFailed = "authentication_failed",
    /// An index seen before (RFC 3711 §3.3.2). A duplicating network or a replay attack.
    Replayed = "replayed",
    /// Older than the replay window can tell. A path with extreme reordering.
    TooOld = "too_old",
    /// RTP whose SSRC, MID and RID lead to no published track. Normal just after a track was closed.
    UnknownStream = "unknown_stream",
    /// A payload type that the publisher's answer did not contain.
    UnknownPayloadType = "unknown_payload_type",
    /// The subscriber did not accept the codec this packet is in. Publish a codec that all viewers decode.
    CodecNotNegotiated = "codec_not_negotiated",
    /// An RTX packet too short to hold an original sequence number, or for a packet we already have.
    UselessRetransmission = "useless_retransmission",
    /// A packet larger than a track ring accepts. The publisher exceeds the path MTU.
    TooLarge = "too_large",
    /// No room in the ring to another shard: that shard cannot keep up. Use more shards or fewer subscribers.
    ShardRingFull = "shard_ring_full",
    /// No room in the ring to the control thread: a flood of STUN or DTLS. Media is not affected.
    PuntRingFull = "punt_ring_full",
    /// The subscriber has no usable path or keys yet, or any more.
    SubscriberNotReady = "subscriber_not_ready",
    /// A packet from before the subscriber joined, or for an encoding it does not receive.
    BeforeJoin = "before_join",
    /// A packet of a layer that is above what the subscriber's bandwidth allows. Normal on slow links.
    LayerLeftOut = "layer_left_out",
    /// A picture for a subscriber whose packets already wait for a second until its path can take them. It gets
    /// a key frame when it has caught up, later each time that this happens again soon. Publish simulcast or layers for subscribers on slow links.
    SubscriberBehind = "subscriber_behind",
    /// A packet left the track ring while it waited for its subscriber's pacer: the publisher sends far more than
    /// the subscriber's path carries. Or more waits on the shard than it has room for. As for `subscriber_behind`.
    PacedTooLate = "paced_too_late",
    /// The socket or the NIC ring had no room. Raise `net.core.wmem_max` or use more shards.
    SendBufferFull = "send_buffer_full",
    /// The kernel refused the datagram (unreachable, not permitted). See the debug log for the error.
    SendFailed = "send_failed",
    /// A retransmission was asked for by a client that negotiated no RTX stream.
    NackWithoutRtx = "nack_without_rtx",
    /// A retransmission was asked for a packet that has left the track ring.
    NackTooLate = "nack_too_late",
    /// The same retransmission was asked for again within a round trip.
    NackRepeated = "nack_repeated",
    /// A subscriber's losses ask for more than the part of its bandwidth that is set aside for retransmissions. Its
    /// path is congested; it gets key frames instead.
    RetransmissionBudget = "retransmission_budget",
    /// A record for a track that closed while it was in flight.
    TrackGone = "track_gone",
}

/// Drops by reason, counted by the thread that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::COUNT]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropCounts {
    pub fn count(&mut self, reason: DropReason) {
        self.count_many(reason, 1);
    }

    pub fn count_many(&mut self, reason: DropReason, n: u64) {
        if let Some(slot) = self.0.get_mut(reason as usize) {
            *slot += n;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_snake_case() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert!(labels.iter().all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::COUNT);
    }
}
