//! Why a description was refused, in a sentence a client's developer can act on.

use std::fmt;

use super::{Kind, LINES_MAX, TEXT_LINES_MAX};
use crate::id::Mid;

/// An m-line, by its index in the description and its mid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub index: usize,
    pub mid: Mid,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m-line {} (mid \"{}\")", self.index, self.mid)
    }
}

/// A description, or a step of the exchange, that cannot be taken. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SdpError {
    /// The parser's own words.
    NotSdp(String),
    ControlCharacter {
        text_line: usize,
    },
    TooManyTextLines(usize),
    TooManyLines(usize),
    /// An offer where an answer was due, or the other way round.
    WrongKind {
        expected: Kind,
    },
    NoIceUfrag,
    BadIceCredentials,
    NoFingerprint,
    BadFingerprint(String),
    NoSetup,
    BadSetup(String),
    NotBundled {
        lines: usize,
    },
    OutsideBundle(Place),
    NoRtcpMux(Place),
    BadMid {
        index: usize,
        mid: String,
    },
    DuplicateMid(Place),
    BadRid {
        at: Place,
        rid: String,
    },
    /// An offer of ours waits for its answer.
    OfferPending,
    NoOfferPending,
    /// The description has fewer m-lines than agreed before, or an answer has another number than its offer.
    LineCount {
        expected: usize,
        found: usize,
    },
    MidChanged {
        at: Place,
        expected: Mid,
    },
    KindChanged(Place),
    RoleConflict,
    NoSuchMid(Mid),
    /// The wish needs the peer to send (`true`) or to receive (`false`) here.
    Direction {
        at: Place,
        peer_must_send: bool,
    },
    KindMismatch(Place),
    NoCommonCodec(Place),
    PayloadTypeConflict {
        at: Place,
        payload_type: u8,
        codec: String,
    },
    /// All dynamic payload types of this session have a meaning already.
    NoPayloadTypeLeft,
}

const MAX_BUNDLE: &str = "create the RTCPeerConnection with bundlePolicy \"max-bundle\"";

impl fmt::Display for SdpError {
    /// What is wrong, then what to do about it. One arm per error, so that none is forgotten.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSdp(why) => write!(f, "the session description is not SDP: {why}"),
            Self::ControlCharacter { text_line } => {
                write!(f, "line {text_line} of the SDP holds a control character: end lines with CR LF only")
            }
            Self::TooManyTextLines(lines) => {
                write!(f, "the SDP has {lines} lines, more than {TEXT_LINES_MAX}: split it over sessions")
            }
            Self::TooManyLines(lines) => {
                write!(f, "{lines} m-lines are more than {LINES_MAX}: close tracks or open another session")
            }
            Self::WrongKind { expected: Kind::Offer } => {
                f.write_str("an answer came where an offer is due: send type \"offer\"")
            }
            Self::WrongKind { expected: Kind::Answer } => {
                f.write_str("an offer came where an answer is due: send type \"answer\"")
            }
            Self::NoIceUfrag => f.write_str("SDP contains no ice-ufrag"),
            Self::BadIceCredentials => f.write_str(
                "ice-ufrag needs 4 to 256 characters and ice-pwd 22 to 256 (RFC 8839): post the SDP unedited",
            ),
            Self::NoFingerprint => f.write_str(
                "the SDP has no a=fingerprint of sha-256, sha-384 or sha-512: media goes by DTLS-SRTP only",
            ),
            Self::BadFingerprint(value) => {
                write!(f, "a=fingerprint:{value} is no hash of that name in hexadecimal pairs")
            }
            Self::NoSetup => f.write_str("the SDP has no a=setup: offer actpass, answer active or passive"),
            Self::BadSetup(value) => {
                write!(f, "a=setup:{value} cannot be used here: offer actpass, answer active or passive")
            }
            Self::RoleConflict => f.write_str(
                "the offer asks for the DTLS role we have since the first exchange: offer a=setup:actpass",
            ),
            Self::NotBundled { lines } => {
                write!(f, "the SDP bundles nothing although it has {lines} m-lines: {MAX_BUNDLE}")
            }
            Self::OutsideBundle(at) => write!(f, "{at} is outside the BUNDLE group: {MAX_BUNDLE}"),
            Self::NoRtcpMux(at) => {
                write!(
                    f,
                    "{at} lacks a=rtcp-mux: create the RTCPeerConnection with rtcpMuxPolicy \"require\""
                )
            }
            Self::BadMid { index, mid } => {
                write!(f, "m-line {index} has a=mid:{mid}: a mid is 1 to 16 printable characters")
            }
            Self::DuplicateMid(at) => write!(f, "{at} has the mid of an earlier m-line: mids must differ"),
            Self::BadRid { at, rid } => {
                write!(f, "{at} has rid {rid}: a rid is 1 to 16 letters, digits, - or _")
            }
            Self::OfferPending => {
                f.write_str("an offer of this session waits: PUT its answer to renegotiate first")
            }
            Self::NoOfferPending => {
                f.write_str("no offer of this session waits for an answer: do not replay one")
            }
            Self::LineCount { expected, found } => write!(
                f,
                "the SDP has {found} m-lines where {expected} are due: stopped ones stay, with port 0"
            ),
            Self::MidChanged { at, expected } => write!(
                f,
                "{at} stands where mid \"{expected}\" is alive: keep the order of the last exchange"
            ),
            Self::KindChanged(at) => {
                write!(f, "{at} changed its media type: stop the transceiver and add another")
            }
            Self::NoSuchMid(mid) => {
                write!(
                    f,
                    "no live m-line of the offer has mid \"{mid}\": create the offer, then read the mid"
                )
            }
            Self::Direction { at, peer_must_send: true } => {
                write!(f, "{at} does not send: set its transceiver to sendonly or sendrecv before the offer")
            }
            Self::Direction { at, peer_must_send: false } => {
                write!(
                    f,
                    "{at} does not receive: set its transceiver to recvonly or sendrecv before the offer"
                )
            }
            Self::KindMismatch(at) => {
                write!(f, "{at} is of another kind than the track: use a transceiver of its kind")
            }
            Self::NoCommonCodec(at) => write!(f, "{at} offers no codec that both ends of the track have"),
            Self::PayloadTypeConflict { at, payload_type, codec } => write!(
                f,
                "{at} uses payload type {payload_type} for {codec}, but it means another codec on a bundled \
                 m-line: give each codec its own number"
            ),
            Self::NoPayloadTypeLeft => {
                f.write_str("all dynamic payload types of this session are taken: open another session")
            }
        }
    }
}

impl std::error::Error for SdpError {}
