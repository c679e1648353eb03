//! RTP header extensions: which ones we know, the ids a session gave them, and their wire form (RFC 8285).
//!
//! Ids are negotiated per session, so an id means nothing without its [`ExtensionMap`]. A forwarder that
//! copied ids from publisher to subscriber would play nothing and report nothing: they are translated.

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
