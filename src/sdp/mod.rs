//! Offer/answer for one API session: what m-lines exist, which way media flows on each, and under which
//! payload types and header extension ids.
//!
//! Fanline is the simplest peer RFC 9429 (JSEP) allows: one transport (BUNDLE, rtcp-mux), ICE-lite towards
//! clients, no trickle, no transcoding. What is left is bookkeeping, and it is ours because the API promises
//! things no general stack gives: mids counted in request order, closed m-lines used again, the publisher's
//! payload types and format parameters passed on.
//!
//! Reading order: [`Remote`] (`parse`) is what the client said; [`Negotiation`] (`session`) is the memory of
//! one session and its verbs: `answer`, `offer`, `apply_answer`, `abandon_offer`, `close`; `line` is what
//! two sides agree on for one m-line; `codec` decides which formats are the same; `write` is the only file
//! that spells SDP. The grammar of RFC 8866 is left to `sdp-types`.
//!
//! Pure: no clock, no randomness, no sockets. Deliberately absent: ICE and DTLS themselves (control hands
//! in a [`LocalTransport`]), trickle, `a=rtcp-fb` kinds we never send (REMB), FEC.

mod codec;
mod error;
mod line;
mod parse;
mod session;
mod write;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use crate::id::{MediaKind, Mid, Rid};
use crate::rtp::extension::{Extension, ExtensionMap};

pub use codec::{Codec, Feedback};
pub use error::{Place, SdpError};
pub use line::{Encoding, Line, LineState, Receive, SendCodec, Sending};
pub use parse::{Fingerprint, HashAlgorithm, Remote};
pub use session::Negotiation;

/// M-lines of one description. A page that watches 500 streams at once is past what a browser decodes.
pub const LINES_MAX: usize = 512;
/// Text lines of one description: a Chromium video section has about 190, so this is room for `LINES_MAX`.
pub const TEXT_LINES_MAX: usize = 131_072;
/// Formats of one m-line: payload types have seven bits.
pub const FORMATS_MAX: usize = 128;
/// Simulcast encodings of one m-line; browsers send three.
pub const ENCODINGS_MAX: usize = 8;
/// SSRCs remembered per m-line: a primary and an RTX stream per encoding, and as many of FEC.
pub const SSRCS_MAX: usize = 4 * ENCODINGS_MAX;
/// Remote candidates kept; only a session that is not ICE-lite reads them.
pub const CANDIDATES_MAX: usize = 64;
/// Largest data channel message we take, in bytes: what Chromium announces.
pub const MESSAGE_SIZE_MAX: u32 = 262_144;
/// The SCTP port every known implementation uses over DTLS (RFC 8841 leaves it free).
pub const SCTP_PORT: u16 = 5_000;

/// Which half of an exchange a description is. Port 0 with `bundle-only` is alive in an offer only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Offer,
    Answer,
}

/// What an m-line carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    Media(MediaKind),
    /// SCTP data channels (RFC 8841).
    Application,
    /// Something we do not speak; always answered with port 0.
    Other,
}

/// Which way media flows, seen by the side that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }

    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    pub fn reversed(self) -> Self {
        Self::of(self.receives(), self.sends())
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive]
            .into_iter()
            .find(|direction| direction.as_str().eq_ignore_ascii_case(name))
    }
}

/// `a=setup` (RFC 8842): who opens the DTLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    ActPass,
    Active,
    Passive,
}

/// What we are in DTLS. Fixed by the first exchange of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    /// We send the ClientHello.
    Active,
    /// We are the server, and so choose the SRTP profile.
    Passive,
}

/// What our side of the one transport is, as told to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTransport {
    pub ufrag: String,
    pub pwd: String,
    /// As it stands in SDP: `sha-256 AA:BB:…`.
    pub fingerprint: String,
    /// Host UDP candidates, the preferred first. There are no others, and no trickle.
    pub candidates: Vec<SocketAddr>,
    pub ice_lite: bool,
}

/// One m-line as the peer described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteLine {
    /// The m-line's index as text if the peer wrote no `a=mid`.
    pub mid: Mid,
    pub kind: LineKind,
    /// Port 0, and not the `bundle-only` of an offer.
    pub rejected: bool,
    /// Seen by the peer.
    pub direction: Direction,
    /// In the peer's order, supported or not; RTX is folded into the codec it repairs.
    pub codecs: Vec<Codec>,
    /// Only those we know by name.
    pub extensions: Vec<RemoteExtension>,
    /// What the peer would send, in its order of `a=simulcast`.
    pub rids: Vec<Rid>,
    /// Streams the peer announced by `a=ssrc`: one, or several with `rids` or a SIM group.
    pub ssrcs: Vec<RemoteSsrc>,
    pub cname: Option<String>,
    pub msid: Option<Msid>,
    pub sctp_port: Option<u16>,
    /// Bytes; 0 means any size (RFC 8841 §6).
    pub max_message_size: Option<u64>,
    mid_is_explicit: bool,
    media: String,
    protocol: String,
    formats: String,
}

/// `a=extmap` of an extension we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteExtension {
    pub id: u8,
    pub extension: Extension,
    /// Seen by the peer (RFC 8285 §5); `SendRecv` if it wrote none.
    pub direction: Direction,
}

/// A primary stream and, by its FID group, the stream that repairs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteSsrc {
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
}

/// The names a browser gives to a MediaStream and a track in it (RFC 8830).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msid {
    pub stream_id: String,
    pub track_id: String,
}

/// What control wants of an m-line of a client's offer. Each adds to what the line already does, except
/// `Close`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// The client publishes here.
    Receive,
    /// The client is sent a track here.
    Send(Send),
    SendReceive(Send),
    /// Both directions end. Answered with port 0 if the client rejected the line, else `inactive`:
    /// rejecting a section may take the transport with it.
    Close,
}

/// What an offer of ours adds: an m-line on which the client is sent a track, publishes one, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewLine {
    Send(Send),
    Receive(MediaKind),
    SendReceive(Send),
}

/// A track to be sent to this session: what its publisher negotiated, and its identity here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    pub kind: MediaKind,
    /// The publisher's, under the publisher's payload types, preferred first. Empty while it is undecided what
    /// will be sent.
    pub codecs: Vec<Codec>,
    /// The publisher's, under the publisher's ids.
    pub extensions: ExtensionMap,
    pub ssrc: u32,
    /// `None` leaves RTX out; always so for audio.
    pub rtx_ssrc: Option<u32>,
    pub cname: String,
    pub stream_id: String,
    pub track_id: String,
    /// Whether the receiver shall report by transport-cc: 20 packets a second from it, so not for audio alone.
    pub transport_cc: bool,
}

impl Send {
    /// The source of an m-line that is to send, before it is known what. Every codec that both sides have is
    /// agreed on; [`Negotiation::redirect`] then gives it a track.
    pub fn undecided(kind: MediaKind, ssrcs: (u32, u32), stream_id: String, track_id: String) -> Self {
        let mut extensions = ExtensionMap::default();
        for (&extension, id) in Extension::ALL.iter().zip(1..) {
            extensions.set(extension, id);
        }
        Self {
            kind,
            codecs: Vec::new(),
            extensions,
            ssrc: ssrcs.0,
            rtx_ssrc: (kind == MediaKind::Video).then_some(ssrcs.1),
            cname: stream_id.clone(),
            stream_id,
            track_id,
            transport_cc: false,
        }
    }

    fn is_undecided(&self) -> bool {
        self.codecs.is_empty()
    }

    /// Whether we would write this extension into packets of the track.
    fn carries(&self, extension: Extension) -> bool {
        match extension {
            Extension::Mid => true,
            Extension::TransportCc => self.transport_cc,
            other => other.is_forwarded() && self.extensions.id(other).is_some(),
        }
    }
}
