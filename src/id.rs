//! The names things go by, so that no bare integer can stand for another.
//!
//! Three families live here: what the API shows (`SessionId`), what control hands to shards
//! (`ShardId`, `SessionSlot`, `TrackKey`, `LegId`), and what goes over the wire (`Mid`, `Rid`).
//! RTP's own numbers (SSRC, sequence, payload type) stay plain integers: their field names carry them.

use std::fmt;
use std::str::FromStr;

/// A session as the API names it: 128 random bits, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not 32 hexadecimal digits, so it names no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASessionId;

impl FromStr for SessionId {
    type Err = NotASessionId;

    fn from_str(text: &str) -> Result<Self, NotASessionId> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotASessionId);
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| NotASessionId)?;
        Ok(Self(value.to_be_bytes()))
    }
}

/// One pinned thread of the data plane, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where a shard keeps one session. Control gives slots out and re-uses one only after the shard
/// has said that it let go of it, so a slot never means two sessions at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionSlot(pub u32);

impl SessionSlot {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A track in the track-subscriber table. `index` is re-used, `generation` never within an index:
/// a record still in flight for a closed track cannot reach the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackKey {
    pub index: u32,
    pub generation: u32,
}

/// One subscription on a shard: the track it reads and the sequence of its creation, unique per process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u32);

/// A label short enough for a one-byte RTP header extension element (16 bytes, RFC 8285 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    bytes: [u8; 16],
    len: u8,
}

/// The media identification of an m-line (RFC 9143).
pub type Mid = Label;

/// The restriction identifier of one simulcast encoding (RFC 8851).
pub type Rid = Label;

/// A mid or rid is empty, longer than 16 bytes, or not printable ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLabel;

impl Label {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadLabel> {
        if bytes.is_empty() || bytes.len() > 16 || !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(BadLabel);
        }
        let mut label = Self { bytes: [0; 16], len: bytes.len() as u8 };
        for (to, from) in label.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(label)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }
}

impl FromStr for Label {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, BadLabel> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Audio or video: what an m-line carries and what decides rings, timers and feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaKind {
    Audio,
    Video,
}

impl MediaKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_round_trips_through_its_text() {
        let id = SessionId([0xab; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "ab", &"+b".repeat(16), &"ab".repeat(17)] {
            assert_eq!(bad.parse::<SessionId>(), Err(NotASessionId), "{bad:?}");
        }
    }

    #[test]
    fn label_refuses_what_a_header_extension_cannot_carry() {
        assert_eq!("video0".parse::<Mid>().map(|m| m.to_string()), Ok("video0".into()));
        for bad in ["", "seventeen-letters", "a b", "é"] {
            assert_eq!(bad.parse::<Mid>(), Err(BadLabel), "{bad:?}");
        }
    }
}
