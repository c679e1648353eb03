//! What control tells a shard, and what a shard tells control: values that change hands, no shared state.
//!
//! Commands arrive in order and take effect at the start of a turn. One that carries an [`Ack`] is answered
//! by [`Event::Done`] once the data plane has it, which is what lets the API say 200 and mean it.

use crossbeam_channel::Sender;

use crate::forward::rewrite::SendCodec;
use crate::forward::select::Selection;
use crate::forward::speech::Loudness;
use crate::id::{LegId, MediaKind, Mid, Rid, SessionSlot, ShardId, TrackKey};
use crate::io::Path;
use crate::rtp::codec::VideoCodec;
use crate::rtp::extension::ExtensionMap;
use crate::rtp::srtp::{Opener, Sealer};
use crate::stats::ShardSnapshot;

/// Names the command that an [`Event::Done`] answers.
pub type Ack = u64;

/// Control to shard.
pub enum Command {
    /// A session comes to this shard. Legal for a free slot.
    AddSession {
        slot: SessionSlot,
        rtcp_ssrc: u32,
        cname: String,
    },
    /// Datagrams from this address belong to the session: ICE has verified it. A nominated path is also
    /// where media goes from now on.
    AddPath {
        slot: SessionSlot,
        path: Path,
        nominated: bool,
    },
    /// DTLS is done. Replaces earlier keys: a new association starts new SRTP state on both sides.
    SetKeys {
        slot: SessionSlot,
        contexts: Box<(Sealer, Opener)>,
    },
    /// Packets of this m-line become a track.
    Publish {
        slot: SessionSlot,
        publication: Box<PublicationConfig>,
        ack: Ack,
    },
    /// The m-line carries the track no longer.
    Unpublish {
        slot: SessionSlot,
        track: TrackKey,
        ack: Ack,
    },
    /// This shard will hold subscribers of the track (or its publisher does). Legal before any `Subscribe`.
    AddTrack {
        track: Box<TrackConfig>,
    },
    /// No subscriber and no publisher here any more, and no other shard sends packets of it.
    RemoveTrack {
        track: TrackKey,
        ack: Ack,
    },
    /// The session gets the track from the next packet on. Goes on in the numbers of a resumable leg of the same
    /// SSRC, if there was one.
    Subscribe {
        slot: SessionSlot,
        leg: Box<LegConfig>,
        ack: Ack,
    },
    /// The session wants other encodings of a track it gets.
    Select {
        slot: SessionSlot,
        leg: LegId,
        track: TrackKey,
        selection: Selection,
        ack: Ack,
    },
    /// A leg that is there, of track `from`, goes on with another track under the same SSRC. Legal after an
    /// `AddTrack` of the other one.
    Redirect {
        slot: SessionSlot,
        from: TrackKey,
        leg: Box<LegConfig>,
        ack: Ack,
    },
    Unsubscribe {
        slot: SessionSlot,
        leg: LegId,
        track: TrackKey,
        ack: Ack,
    },
    /// Asks what the shard knows of a session; answered before the acknowledgement, unless the session is gone.
    Inspect {
        slot: SessionSlot,
        reply: Sender<Inspection>,
        ack: Ack,
    },
    /// Forgets the session, its publications and its legs.
    RemoveSession {
        slot: SessionSlot,
        ack: Ack,
    },
    /// Ends the shard after this turn.
    Stop,
}

/// What a shard knows of a session that control does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// What the path to the client is estimated to carry, in bits per second; none for who is sent no video.
    pub available_bps: Option<u64>,
}

/// Shard to control.
pub enum Event {
    Done(Ack),
    /// The first packet of a track, or the first after a silence.
    TrackActive(TrackKey),
    /// No packet of a track for the media timeout.
    TrackSilent(TrackKey),
    /// How loud a track is: when speaking begins or ends, and else once a second if it has changed.
    Loudness(TrackKey, Loudness),
    /// Once a second, by value.
    Snapshot(Box<ShardSnapshot>),
}

/// A track as every shard that touches it must know it.
#[derive(Debug, Clone)]
pub struct TrackConfig {
    pub key: TrackKey,
    pub kind: MediaKind,
    /// The shard its publisher's packets arrive at.
    pub publisher: ShardId,
    /// One per simulcast rid, the best first; one for a plain track.
    pub encodings: u8,
    /// The publisher's payload types whose payload we can read.
    pub codecs: Vec<(u8, VideoCodec)>,
    /// The ids of the publisher's session, in which packets are stored.
    pub extensions: ExtensionMap,
}

impl TrackConfig {
    /// The codec of a publisher's payload type, if it is one whose payload we can read.
    pub fn codec(&self, payload_type: u8) -> Option<VideoCodec> {
        self.codecs.iter().find(|(number, _)| *number == payload_type).map(|(_, codec)| *codec)
    }
}

/// An m-line that receives.
#[derive(Debug, Clone)]
pub struct PublicationConfig {
    pub track: TrackKey,
    pub kind: MediaKind,
    pub mid: Mid,
    pub codecs: Vec<ReceiveCodec>,
    /// The best first.
    pub encodings: Vec<EncodingConfig>,
    pub extensions: ExtensionMap,
    /// Send transport-wide feedback for what carries its sequence number.
    pub transport_cc: bool,
}

/// A payload type of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveCodec {
    pub payload_type: u8,
    pub rtx_payload_type: Option<u8>,
    /// Hz.
    pub clock_rate: u32,
    /// Losses are asked for again.
    pub nack: bool,
    /// Key frames can be asked for.
    pub pli: bool,
}

/// One stream of a publication; SSRCs are there if the offer named them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingConfig {
    pub rid: Option<Rid>,
    pub ssrc: Option<u32>,
    pub rtx_ssrc: Option<u32>,
}

/// A subscription.
#[derive(Debug, Clone)]
pub struct LegConfig {
    pub id: LegId,
    pub track: TrackKey,
    pub ssrc: u32,
    /// Absent if the subscriber takes no RTX.
    pub rtx_ssrc: Option<u32>,
    /// First sequence numbers, below 2^15 so that early losses cannot hide a wrap (RFC 3711 §3.3.1).
    pub first_sequence: u16,
    pub first_rtx_sequence: u16,
    pub mid: Mid,
    pub codecs: Vec<SendCodec>,
    /// The ids of the subscriber's session that its m-line negotiated.
    pub extensions: ExtensionMap,
    pub selection: Selection,
    /// Another leg may follow under this SSRC when this one has ended: its numbers are kept for that.
    pub is_resumable: bool,
}
