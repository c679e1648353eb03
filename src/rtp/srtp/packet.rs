//! Where SRTP and SRTCP packets keep what: cut apart here once, for every suite.
//!
//! Only what protection needs is read. RTP headers are parsed by the caller, who brings their length; of
//! RTCP only the first eight bytes matter, since a compound packet is protected as a whole.

use super::{Profile, RTCP_INDEX_LEN};
use crate::drop_reason::DropReason;

/// The part of an RTP header that every packet has (RFC 3550 §5.1).
pub(super) const RTP_HEADER_LEN: usize = 12;

/// The part of a compound RTCP packet that stays in clear: up to the sender's SSRC (RFC 3711 §3.4).
pub(super) const RTCP_HEADER_LEN: usize = 8;

/// The flag above the 31 bits of an SRTCP index that says whether the packet is encrypted (E).
const ENCRYPTED: u32 = 1 << 31;

/// A received SRTP packet: header, encrypted body, tag.
pub(super) struct Srtp<'a> {
    pub header: &'a [u8],
    pub body: &'a [u8],
    pub tag: &'a [u8],
    /// Header and body together.
    pub message: &'a [u8],
    pub ssrc: u32,
}

impl<'a> Srtp<'a> {
    /// Fails if the packet cannot hold an RTP header of `header_len` bytes and a tag of `tag_len`.
    pub fn parse(packet: &'a [u8], header_len: usize, tag_len: usize) -> Result<Self, DropReason> {
        let message_len = packet.len().checked_sub(tag_len).ok_or(DropReason::MalformedRtp)?;
        let (message, tag) = packet.split_at(message_len);
        let (header, body) = message.split_at_checked(header_len).ok_or(DropReason::MalformedRtp)?;
        let ssrc = rtp_ssrc(header).ok_or(DropReason::MalformedRtp)?;
        Ok(Self { header, body, tag, message, ssrc })
    }
}

/// A received SRTCP packet: a compound packet whose first eight bytes are clear, its index and its tag.
pub(super) struct Srtcp<'a> {
    /// Everything but index word and tag.
    pub message: &'a [u8],
    /// The E flag and the index.
    pub word: [u8; RTCP_INDEX_LEN],
    pub tag: &'a [u8],
    /// The sender of the first packet in the compound.
    pub ssrc: u32,
}

impl<'a> Srtcp<'a> {
    /// Fails if there is no room for eight bytes, index and tag. The tag comes last with HMAC (RFC 3711
    /// §3.4), the index with GCM (RFC 7714 §9.2).
    pub fn parse(profile: Profile, packet: &'a [u8]) -> Result<Self, DropReason> {
        Self::cut(profile, packet).ok_or(DropReason::MalformedRtcp)
    }

    fn cut(profile: Profile, packet: &'a [u8]) -> Option<Self> {
        let message_len = packet.len().checked_sub(profile.rtcp_overhead())?;
        let (message, trailer) = packet.split_at_checked(message_len)?;
        let (word, tag) = match profile {
            Profile::Aes128CmHmacSha1_80 => trailer.split_first_chunk()?,
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => {
                let (tag, word) = trailer.split_last_chunk()?;
                (word, tag)
            }
        };
        let ssrc = u32::from_be_bytes(*message.get(4..RTCP_HEADER_LEN)?.first_chunk()?);
        Some(Self { message, word: *word, tag, ssrc })
    }

    pub fn is_encrypted(&self) -> bool {
        u32::from_be_bytes(self.word) & ENCRYPTED != 0
    }

    /// 31 bits.
    pub fn index(&self) -> u32 {
        u32::from_be_bytes(self.word) & !ENCRYPTED
    }
}

/// What follows an encrypted SRTCP packet with this index.
pub(super) fn encrypted_index_word(index: u32) -> [u8; RTCP_INDEX_LEN] {
    (ENCRYPTED | index).to_be_bytes()
}

/// The SSRC of an RTP header, if it is long enough to be one.
pub(super) fn rtp_ssrc(header: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*header.get(8..RTP_HEADER_LEN)?.first_chunk()?))
}
