//! RTP header extensions: which ones we know, the ids a session gave them, and their wire form (RFC 8285).
//!
//! Ids are negotiated per session, so an id means nothing without its [`ExtensionMap`]. A forwarder that
//! copied ids from publisher to subscriber would play nothing and report nothing: they are translated.
//! Here too are the values that a forwarder reads or writes itself; all others pass as bytes.

use crate::time::Time;

macro_rules! extensions {
    ($($(#[doc = $doc:expr])+ $name:ident = $uri:literal, $forwarded:literal;)+) => {
        /// A header extension by meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Extension {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Extension {
            pub const ALL: &'static [Extension] = &[$(Extension::$name,)+];
            pub const COUNT: usize = Self::ALL.len();

            pub fn uri(self) -> &'static str {
                match self {
                    $(Self::$name => $uri,)+
                }
            }

            pub fn from_uri(uri: &str) -> Option<Self> {
                match uri {
                    $($uri => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Whether the publisher's element is passed on to subscribers. The others are about one hop
            /// only: we consume them on the way in and, where wanted, write our own on the way out.
            pub fn is_forwarded(self) -> bool {
                match self {
                    $(Self::$name => $forwarded,)+
                }
            }
        }
    };
}

extensions! {
    /// Media identification (RFC 9143 §15).
    Mid = "urn:ietf:params:rtp-hdrext:sdes:mid", false;
    /// RtpStreamId (RFC 8852).
    Rid = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", false;
    /// RepairedRtpStreamId (RFC 8852), on RTX packets.
    RepairedRid = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id", false;
    /// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportCc = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", false;
    /// Absolute send time, 6.18 fixed-point seconds.
    AbsSendTime = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", false;
    /// Client-to-mixer audio level (RFC 6464).
    AudioLevel = "urn:ietf:params:rtp-hdrext:ssrc-audio-level", true;
    /// Coordination of video orientation (3GPP TS 26.114 §7.4.5).
    VideoOrientation = "urn:3gpp:video-orientation", true;
    /// Bounds for the receiver's playout delay.
    PlayoutDelay = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay", true;
    /// Absolute capture time.
    AbsCaptureTime = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time", true;
    /// AV1 dependency descriptor, used with every codec.
    DependencyDescriptor = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension", true;
    /// Screen share or camera.
    VideoContentType = "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type", true;
    /// Encoder and pacer timing of a frame.
    VideoTiming = "http://www.webrtc.org/experiments/rtp-hdrext/video-timing", true;
    /// Colour space and HDR metadata.
    ColorSpace = "http://www.webrtc.org/experiments/rtp-hdrext/color-space", true;
    /// Which layers the encoder sends at which bitrate; for the forwarder, not for viewers.
    VideoLayersAllocation = "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00", false;
    /// Transmission time offset (RFC 5450).
    TransmissionOffset = "urn:ietf:params:rtp-hdrext:toffset", false;
}

/// The id of each extension in one session or m-line; ids are 1..=255, absent ones are not negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ExtensionMap([u8; Extension::COUNT]);

impl ExtensionMap {
    pub fn id(&self, extension: Extension) -> Option<u8> {
        self.0.get(extension as usize).copied().filter(|&id| id != 0)
    }

    pub fn extension(&self, id: u8) -> Option<Extension> {
        let index = self.0.iter().position(|&known| known == id && id != 0)?;
        Extension::ALL.get(index).copied()
    }

    /// `id` 0 removes the extension.
    pub fn set(&mut self, extension: Extension, id: u8) {
        if let Some(slot) = self.0.get_mut(extension as usize) {
            *slot = id;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Extension, u8)> + '_ {
        Extension::ALL.iter().filter_map(|&extension| Some((extension, self.id(extension)?)))
    }
}

/// The value of an abs-send-time element: `now` in 6.18 fixed-point seconds, wrapping every 64 s.
pub fn abs_send_time(now: Time) -> [u8; 3] {
    // Bits 14..38 of the 32.32 NTP timestamp are the low 6 bits of seconds and the high 18 of the fraction.
    let [.., high, middle, low] = (now.ntp() >> 14).to_be_bytes();
    [high, middle, low]
}

/// How loud the audio of a packet is (RFC 6464 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// The sender's detector believes the packet holds voice.
    pub voice: bool,
    /// The level in -dBov, 0 (loudest) to 127 (silence).
    pub level_dbov: u8,
}

impl AudioLevel {
    /// Reads the element's value; `None` if it is empty.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let &byte = value.first()?;
        Some(Self { voice: byte & 0x80 != 0, level_dbov: byte & 0x7f })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abs_send_time_counts_quarter_seconds_and_wraps_after_64() {
        // 2,208,988,800 s from 1900 to 1970 are a multiple of 64.
        assert_eq!(abs_send_time(Time(250_000)), [0x01, 0x00, 0x00]);
        assert_eq!(abs_send_time(Time(63_000_000)), [0xfc, 0x00, 0x00]);
        assert_eq!(abs_send_time(Time(64_000_000)), [0x00, 0x00, 0x00]);
    }

    #[test]
    fn audio_level_is_a_voice_bit_and_seven_bits_below_overload() {
        assert_eq!(AudioLevel::parse(&[0x80 | 30]), Some(AudioLevel { voice: true, level_dbov: 30 }));
        assert_eq!(AudioLevel::parse(&[127, 0]), Some(AudioLevel { voice: false, level_dbov: 127 }));
        assert_eq!(AudioLevel::parse(&[]), None);
    }
}
