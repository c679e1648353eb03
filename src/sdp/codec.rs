//! Which formats are the same, which we pass on, and which number each has in a session.
//!
//! A payload type means one thing over all m-lines of a BUNDLE (RFC 9143 §9.1), and a subscriber learns the
//! publisher's codecs under numbers of its own session. So a codec needs an identity that survives
//! renumbering: its name, clock, channels and those format parameters that make another bit stream of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::id::MediaKind;

/// A format of an m-line, with the RTX format that repairs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    pub pt: u8,
    /// As the peer spelled it; names compare without case.
    pub name: String,
    pub clock_rate: u32,
    /// 1 for video and wherever the peer wrote none.
    pub channels: u16,
    /// `a=fmtp`, passed on as it came.
    pub fmtp: Option<String>,
    pub feedback: Vec<Feedback>,
    pub rtx_pt: Option<u8>,
}

/// The RTCP feedback we understand (RFC 4585, RFC 5104, transport-cc). REMB is absent: we send none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feedback {
    TransportCc,
    CcmFir,
    Nack,
    NackPli,
}

impl Feedback {
    pub(super) const ALL: [Self; 4] = [Self::TransportCc, Self::CcmFir, Self::Nack, Self::NackPli];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TransportCc => "transport-cc",
            Self::CcmFir => "ccm fir",
            Self::Nack => "nack",
            Self::NackPli => "nack pli",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feedback| feedback.as_str() == name)
    }
}

/// Every codec that we ask for when the offer is ours, the most wanted first, under the numbers that Chromium
/// gives it.
pub(super) fn all(kind: MediaKind) -> Vec<Codec> {
    let of = |&(pt, name, clock_rate, channels, fmtp, rtx_pt): &Known| Codec {
        pt,
        name: name.to_owned(),
        clock_rate,
        channels,
        fmtp: fmtp.map(str::to_owned),
        feedback: Vec::new(),
        rtx_pt,
    };
    match kind {
        MediaKind::Audio => AUDIO.iter().map(of).collect(),
        MediaKind::Video => VIDEO.iter().map(of).collect(),
    }
}

/// Payload type, name, clock in Hz, channels, parameters, payload type of RTX.
type Known = (u8, &'static str, u32, u16, Option<&'static str>, Option<u8>);

const AUDIO: [Known; 3] = [
    (111, "opus", 48_000, 2, Some("minptime=10;useinbandfec=1"), None),
    (0, "PCMU", 8_000, 1, None, None),
    (8, "PCMA", 8_000, 1, None, None),
];

const VIDEO: [Known; 7] = [
    (96, "VP8", 90_000, 1, None, Some(97)),
    (98, "VP9", 90_000, 1, Some("profile-id=0"), Some(99)),
    (108, "H264", 90_000, 1, Some(H264_CONSTRAINED_BASELINE), Some(109)),
    (102, "H264", 90_000, 1, Some(H264_BASELINE), Some(103)),
    (116, "H264", 90_000, 1, Some(H264_MAIN), Some(117)),
    (45, "AV1", 90_000, 1, Some("level-idx=5;profile=0;tier=0"), Some(46)),
    (49, "H265", 90_000, 1, Some("level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"), Some(50)),
];

const H264_CONSTRAINED_BASELINE: &str =
    "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
const H264_BASELINE: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f";
const H264_MAIN: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f";

/// What a codec is, whatever its number. Two with equal keys are one bit stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CodecKey(String);

impl CodecKey {
    /// RTX for `pt`: every repaired format has its own (RFC 4588 §8.6).
    pub(super) fn rtx(pt: u8) -> Self {
        Self(format!("rtx {pt}"))
    }
}

impl Codec {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    pub(super) fn is_red(&self) -> bool {
        self.is("red")
    }

    /// Whether we take this format from a publisher. Out: FEC and video RED (a forwarder repairs by RTX),
    /// comfort noise, and codecs no current browser prefers.
    pub(super) fn is_supported(&self, kind: MediaKind) -> bool {
        let names: &[&str] = match kind {
            MediaKind::Audio => &["opus", "red", "PCMU", "PCMA", "telephone-event"],
            MediaKind::Video => &["VP8", "VP9", "H264", "H265", "AV1"],
        };
        names.iter().any(|name| self.is(name)) && (!self.is_red() || self.clock_rate == 48_000)
    }

    /// `name/clock`, and the channels if there are several: what `a=rtpmap` says.
    pub(super) fn rtpmap(&self) -> String {
        let mut text = format!("{}/{}", self.name, self.clock_rate);
        if self.channels > 1 {
            let _ = write!(text, "/{}", self.channels);
        }
        text
    }

    pub(super) fn key(&self) -> CodecKey {
        let parameter = |name, default| self.parameter(name).unwrap_or(default).to_ascii_lowercase();
        let variant = match self.name.to_ascii_lowercase().as_str() {
            "opus" | "vp8" | "pcmu" | "pcma" | "telephone-event" => String::new(),
            "vp9" => parameter("profile-id", "0"),
            "av1" => parameter("profile", "0"),
            "h264" => format!("{} {}", self.h264_profile(), parameter("packetization-mode", "0")),
            "h265" => format!(
                "{} {} {}",
                parameter("profile-id", "1"),
                parameter("tier-flag", "0"),
                parameter("tx-mode", "srst")
            ),
            _ => self.fmtp.clone().unwrap_or_default(),
        };
        CodecKey(format!("{} {variant}", self.rtpmap().to_ascii_lowercase()))
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.fmtp.as_deref()?.split(';');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then_some(value.trim()))
    }

    /// The H.264 profile that profile_idc and profile_iop spell (RFC 6184 table 5), the level left out.
    /// Absent, libwebrtc takes constrained baseline, and so do we: that is what such senders produce.
    fn h264_profile(&self) -> String {
        let text = self.parameter("profile-level-id").unwrap_or("42e01f");
        let bytes = u32::from_str_radix(text, 16).unwrap_or(0x42_e0_1f).to_be_bytes();
        let [_, idc, iop, _] = bytes;
        let profile = match (idc, iop) {
            (0x42, iop) if iop & 0x4f == 0x40 => "constrained-baseline",
            (0x4d, iop) if iop & 0x8f == 0x80 => "constrained-baseline",
            (0x58, iop) if iop & 0xcf == 0xc0 => "constrained-baseline",
            (0x42, iop) if iop & 0x4f == 0 => "baseline",
            (0x58, iop) if iop & 0xcf == 0x80 => "baseline",
            (0x4d, iop) if iop & 0xaf == 0 => "main",
            _ => return format!("{idc:02x}{iop:02x}"),
        };
        profile.to_owned()
    }

    /// The payload types a RED format (RFC 2198) names in its parameters.
    pub(super) fn red_blocks(&self) -> impl Iterator<Item = u8> + '_ {
        let fmtp = self.fmtp.as_deref().unwrap_or_default();
        fmtp.split('/').filter_map(|number| number.trim().parse().ok())
    }
}

/// The codecs of `offered` that carry `published`, in the publisher's order, as indexes into both.
///
/// RED packets name the payload types of their blocks inside the payload, which we do not rewrite: RED
/// passes only where those numbers mean the same on both sides.
pub(super) fn common(published: &[Codec], offered: &[Codec]) -> Vec<(usize, usize)> {
    let keys: Vec<CodecKey> = offered.iter().map(Codec::key).collect();
    let same_number = |pt: u8| {
        let of = |codecs: &[Codec]| codecs.iter().find(|codec| codec.pt == pt).map(Codec::key);
        of(published).is_some_and(|key| of(offered) == Some(key))
    };
    let pair = |(index, codec): (usize, &Codec)| {
        let key = codec.key();
        let found = keys.iter().position(|offered| *offered == key)?;
        (!codec.is_red() || codec.red_blocks().all(same_number)).then_some((index, found))
    };
    published.iter().enumerate().filter_map(pair).collect()
}

/// Numbers and their meanings over one session: payload types, or header extension ids.
#[derive(Debug, Clone)]
pub(super) struct Numbers<K> {
    meaning: BTreeMap<u8, K>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { meaning: BTreeMap::new() }
    }
}

impl<K: Clone + PartialEq> Numbers<K> {
    pub(super) fn of(&self, key: &K) -> Option<u8> {
        self.meaning.iter().find(|(_, known)| *known == key).map(|(number, _)| *number)
    }

    /// Gives `number` this meaning unless it has another.
    pub(super) fn claim(&mut self, number: u8, key: K) -> bool {
        *self.meaning.entry(number).or_insert_with(|| key.clone()) == key
    }

    /// The number of `key`: the one it has, or `wish` if that is free, or the first of `others` that is.
    pub(super) fn assign(
        &mut self,
        key: K,
        wish: Option<u8>,
        others: impl Iterator<Item = u8>,
    ) -> Option<u8> {
        if let Some(number) = self.of(&key) {
            return Some(number);
        }
        let mut candidates = wish.into_iter().chain(others);
        let number = candidates.find(|number| !self.meaning.contains_key(number))?;
        self.meaning.insert(number, key);
        Some(number)
    }

    /// Takes over what the last description said; older meanings stay where it says nothing.
    pub(super) fn adopt(&mut self, latest: Self) {
        self.meaning.retain(|_, key| latest.of(key).is_none());
        self.meaning.extend(latest.meaning);
    }
}

/// Dynamic payload types: the usual range, then the one below RTCP's (RFC 5761 §4 forbids 64..=95).
pub(super) fn dynamic_payload_types() -> impl Iterator<Item = u8> {
    (96..=127).chain(35..=63)
}

/// Extension ids: those of the one-byte form, then two-byte ones; 15 is reserved (RFC 8285 §4.2).
pub(super) fn extension_ids() -> impl Iterator<Item = u8> {
    (1..=14).chain(16..=255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(pt: u8, rtpmap: &str, fmtp: &str) -> Codec {
        let mut parts = rtpmap.split('/');
        Codec {
            pt,
            name: parts.next().unwrap().into(),
            clock_rate: parts.next().unwrap().parse().unwrap(),
            channels: parts.next().map_or(1, |channels| channels.parse().unwrap()),
            fmtp: (!fmtp.is_empty()).then(|| fmtp.into()),
            feedback: Vec::new(),
            rtx_pt: None,
        }
    }

    #[test]
    fn codecs_are_equal_by_what_changes_the_bit_stream() {
        let same = |a: (&str, &str), b: (&str, &str)| codec(96, a.0, a.1).key() == codec(99, b.0, b.1).key();
        assert!(same(("opus/48000/2", "minptime=10;useinbandfec=1"), ("OPUS/48000/2", "stereo=1")));
        assert!(same(("VP9/90000", ""), ("VP9/90000", "profile-id=0")));
        assert!(!same(("VP9/90000", ""), ("VP9/90000", "profile-id=2")));
        let h264 = |id: &str, mode| format!("packetization-mode={mode};profile-level-id={id}");
        let equal = |a: String, b: String| same(("H264/90000", &a), ("H264/90000", &b));
        assert!(equal(h264("42e01f", 1), h264("42C015", 1)), "constrained baseline, other level");
        assert!(!equal(h264("42e01f", 1), h264("42001f", 1)), "baseline");
        assert!(!equal(h264("42e01f", 1), h264("42e01f", 0)));
        assert!(!equal(h264("42e01f", 1), h264("4d001f", 1)));
        assert!(!equal(h264("4d001f", 1), h264("64001f", 1)));
    }

    #[test]
    fn red_passes_only_where_its_blocks_keep_their_number() {
        let published = [codec(111, "opus/48000/2", ""), codec(63, "red/48000/2", "111/111")];
        let same = [codec(111, "opus/48000/2", ""), codec(70, "red/48000/2", "111/111")];
        assert_eq!(common(&published, &same), [(0, 0), (1, 1)]);
        let other = [codec(109, "opus/48000/2", ""), codec(63, "red/48000/2", "109/109")];
        assert_eq!(common(&published, &other), [(0, 0)]);
    }

    #[test]
    fn a_number_keeps_its_meaning_and_a_codec_its_number() {
        let mut numbers = Numbers::default();
        assert!(numbers.claim(96, "VP8"));
        assert!(!numbers.claim(96, "VP9"));
        assert_eq!(numbers.assign("VP8", Some(120), dynamic_payload_types()), Some(96));
        assert_eq!(numbers.assign("VP9", Some(96), dynamic_payload_types()), Some(97));
        assert_eq!(numbers.assign("AV1", Some(45), dynamic_payload_types()), Some(45));
    }
}
