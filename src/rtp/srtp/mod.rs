//! SRTP and SRTCP (RFC 3711, RFC 7714): seals what leaves, opens what arrives.
//!
//! Pure and without allocation per packet. Relies on `aws-lc-rs` for GCM and on RustCrypto for counter mode
//! and SHA-1. Deliberately absent: MKI, re-keying and key derivation rates, which DTLS-SRTP as browsers
//! speak it never uses (RFC 5764 §4.1.2), encrypted header extensions (RFC 6904, RFC 9335), and sending
//! RTCP in clear.
//!
//! Counter mode turns a repeated (key, SSRC, index) into the XOR of two plaintexts, and GCM into the
//! authentication key itself. This keeps it from happening:
//!
//! 1. *A key seals in one place.* A session's [`Sealer`] is made once, cannot be cloned, and is moved to
//!    the session's shard; both it and the counter of SRTCP indexes live and die there. Enforced by the
//!    types here and by `shard/session.rs`, the only owner. `str0m` holds the same keys and has no media to
//!    seal; `control/transport.rs` drops SRTP that it might nevertheless emit.
//! 2. *An (SSRC, index) is sealed once, or with the same bytes.* A track ring takes each index once and
//!    `forward/leg.rs` maps it to one of the leg's; a retransmission is RTX with an SSRC and a count of its
//!    own.
//! 3. *Both ends count rollovers from the join.* A receiver takes its first packet as rollover counter 0
//!    ([`RtpReplay::estimate`]), so a leg begins with rollover counter 0 and with a sequence number below
//!    2^15, far enough from a wrap that losing the first packets does no harm (`control/media.rs`).
//! 4. *An SSRC never starts over under the same key.* A track that is closed and opened again gets a new
//!    SSRC or goes on counting (`control/verbs/pull.rs`, which gives out SSRCs).
//! 5. *Keys leave no trace.* Everything here that holds one wipes it when dropped and has no `Debug`.
//!    Copies that the compiler spilled to the stack are not hunted down.
//!
//! Reading order: this page; `packet` (where what is); `gcm` and `ctr_hmac` (the two kinds of suite) with
//! `key_derivation` and `hmac_sha1` below them; `replay`.

mod ctr_hmac;
mod gcm;
mod hmac_sha1;
mod key_derivation;
mod packet;
mod replay;

use std::fmt;

use zeroize::Zeroizing;

use self::ctr_hmac::CtrHmac;
use self::gcm::Gcm;
use self::key_derivation::KeyDerivation;
use self::packet::{RTCP_HEADER_LEN, Srtcp, Srtp};
use self::replay::RtcpReplay;
pub use self::replay::RtpReplay;
use crate::drop_reason::DropReason;

/// What DTLS agreed on to protect media with; the names are those of RFC 5764 §4.1.2 and RFC 7714 §14.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    Aes128CmHmacSha1_80,
    AeadAes128Gcm,
    AeadAes256Gcm,
}

/// The E flag and the 31-bit index at the end of every SRTCP packet.
const RTCP_INDEX_LEN: usize = 4;

impl Profile {
    /// Bytes of one master key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128CmHmacSha1_80 | Self::AeadAes128Gcm => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of one master salt.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::Aes128CmHmacSha1_80 => 14,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
        }
    }

    /// Bytes that DTLS exports: key and salt for each direction.
    pub const fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }

    /// Bytes by which an SRTP packet is longer than its RTP packet.
    pub const fn rtp_overhead(self) -> usize {
        match self {
            Self::Aes128CmHmacSha1_80 => hmac_sha1::TAG_LEN,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => gcm::TAG_LEN,
        }
    }

    /// Bytes by which an SRTCP packet is longer than its compound RTCP packet.
    pub const fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + RTCP_INDEX_LEN
    }
}

/// Our side of the DTLS handshake: it decides which half of the keying material is ours to seal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    Client,
    Server,
}

/// Master keys as DTLS exports them: client key, server key, client salt, server salt (RFC 5764 §4.2).
pub struct KeyingMaterial {
    profile: Profile,
    /// As many as the profile needs; the rest are zeros.
    bytes: Zeroizing<[u8; KEYING_MATERIAL_LEN_MAX]>,
}

const KEYING_MATERIAL_LEN_MAX: usize = Profile::AeadAes256Gcm.keying_material_len();

/// The exported keying material does not have the length of its profile, so the profile is not the
/// negotiated one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongLength {
    pub profile: Profile,
    /// Bytes.
    pub len: usize,
}

impl fmt::Display for WrongLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, len } = self;
        let expected = profile.keying_material_len();
        write!(
            f,
            "{profile:?} needs {expected} bytes of keying material, DTLS gave {len}: profiles got mixed up"
        )
    }
}

impl std::error::Error for WrongLength {}

impl KeyingMaterial {
    pub fn from_dtls(profile: Profile, exported: &[u8]) -> Result<Self, WrongLength> {
        let len = exported.len();
        if len != profile.keying_material_len() {
            return Err(WrongLength { profile, len });
        }
        let mut bytes = Zeroizing::new([0; KEYING_MATERIAL_LEN_MAX]);
        bytes[..len].copy_from_slice(exported);
        Ok(Self { profile, bytes })
    }

    /// What we send with and what we receive with. Consumes the keys: a second pair would count SRTCP
    /// indexes anew.
    pub fn into_contexts(self, ours: DtlsRole) -> (Sealer, Opener) {
        let Self { profile, bytes } = self;
        let (keys, salts) = bytes[..profile.keying_material_len()].split_at(2 * profile.key_len());
        let (client_key, server_key) = keys.split_at(profile.key_len());
        let (client_salt, server_salt) = salts.split_at(profile.salt_len());
        let client = Suite::new(profile, &KeyDerivation::new(client_key, client_salt));
        let server = Suite::new(profile, &KeyDerivation::new(server_key, server_salt));
        let (ours, theirs) = match ours {
            DtlsRole::Client => (client, server),
            DtlsRole::Server => (server, client),
        };
        (
            Sealer { profile, suite: ours, next_rtcp_index: 0 },
            Opener { profile, suite: theirs, rtcp_replay: RtcpReplay::new() },
        )
    }
}

/// The session keys of one direction. The enum is matched once per packet; a trait object would be, too.
enum Suite {
    Gcm(Gcm),
    /// Boxed: its two AES key schedules reserve 1.4 KB for the software fallback.
    CtrHmac(Box<CtrHmac>),
}

impl Suite {
    fn new(profile: Profile, derivation: &KeyDerivation) -> Self {
        match profile {
            Profile::Aes128CmHmacSha1_80 => Self::CtrHmac(Box::new(CtrHmac::new(derivation))),
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => Self::Gcm(Gcm::new(profile, derivation)),
        }
    }
}

/// The sending half of a session. The caller owns the RTP index of each SSRC; the SRTCP index lives in
/// here.
pub struct Sealer {
    profile: Profile,
    suite: Suite,
    /// One counter for all our SSRCs: allowed, since each then sees it rise.
    next_rtcp_index: u32,
}

/// The last index that 31 bits can say; one more and SRTCP would repeat itself (RFC 3711 §9.2).
const RTCP_INDEX_MAX: u32 = (1 << 31) - 1;

impl Sealer {
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// See [`Profile::rtp_overhead`].
    pub fn rtp_overhead(&self) -> usize {
        self.profile.rtp_overhead()
    }

    /// Seals an RTP packet where it lies.
    ///
    /// `packet[..header_len]` is the header with its CSRCs and extensions, then comes the plaintext, and
    /// the last [`rtp_overhead`](Self::rtp_overhead) bytes are overwritten by the tag. `index` is the
    /// rollover counter (32 bits) and the header's sequence number (16 bits), never used before with this
    /// SSRC unless for these very bytes.
    ///
    /// Panics if the packet has no room for header and tag.
    pub fn protect_rtp(&self, packet: &mut [u8], header_len: usize, index: u64) {
        debug_assert_eq!(
            packet[2..4],
            (index as u16).to_be_bytes(),
            "the index ends with the sequence number"
        );
        debug_assert!(index < 1 << 48, "an index has 48 bits");
        match &self.suite {
            Suite::Gcm(gcm) => gcm.protect_rtp(packet, header_len, index),
            Suite::CtrHmac(ctr_hmac) => ctr_hmac.protect_rtp(packet, header_len, index),
        }
    }

    /// Seals the compound RTCP packet `packet[..len]` where it lies and returns the length of the SRTCP
    /// packet, which is [`Profile::rtcp_overhead`] bytes more.
    ///
    /// `None` once the key has sealed 2^31 packets: there is no index left, and the session has to be set
    /// up anew. At 50 reports a second this takes 16 months.
    ///
    /// Panics if `len` is below 8 or the overhead does not fit behind it.
    pub fn protect_rtcp(&mut self, packet: &mut [u8], len: usize) -> Option<usize> {
        let index = self.next_rtcp_index;
        if index > RTCP_INDEX_MAX {
            return None;
        }
        self.next_rtcp_index += 1;

        let total = len + self.profile.rtcp_overhead();
        let packet = &mut packet[..total];
        let ssrc = u32::from_be_bytes(*packet[4..RTCP_HEADER_LEN].first_chunk().expect("4 bytes"));
        match &self.suite {
            Suite::Gcm(gcm) => gcm.protect_rtcp(packet, ssrc, index),
            Suite::CtrHmac(ctr_hmac) => ctr_hmac.protect_rtcp(packet, ssrc, index),
        }
        Some(total)
    }
}

/// The receiving half of a session. Each incoming SSRC has its [`RtpReplay`] beside it; that of SRTCP lives
/// in here.
pub struct Opener {
    profile: Profile,
    suite: Suite,
    rtcp_replay: RtcpReplay,
}

impl Opener {
    /// Verifies an SRTP packet and decrypts it into `out`: its header, then the plaintext. Returns their
    /// length.
    ///
    /// `index` is what [`RtpReplay::estimate`] says; the replay check is the caller's, before and after.
    ///
    /// Fails with `MalformedRtp` if the packet cannot hold the header and a tag, `TooLarge` if `out` is
    /// shorter than header and plaintext, `AuthenticationFailed` if any bit or the index is not the
    /// sender's. Nothing of a packet that failed is in `out`.
    pub fn unprotect_rtp(
        &self,
        packet: &[u8],
        header_len: usize,
        index: u64,
        out: &mut [u8],
    ) -> Result<usize, DropReason> {
        let packet = Srtp::parse(packet, header_len, self.profile.rtp_overhead())?;
        let len = packet.message.len();
        let out = out.get_mut(..len).ok_or(DropReason::TooLarge)?;
        match &self.suite {
            Suite::Gcm(gcm) => gcm.unprotect_rtp(&packet, index, out)?,
            Suite::CtrHmac(ctr_hmac) => ctr_hmac.unprotect_rtp(&packet, index, out)?,
        }
        Ok(len)
    }

    /// Verifies an SRTCP packet and decrypts it into `out`, which is as long as `packet` or longer. Returns
    /// the length of the compound RTCP packet. One that is authenticated but not encrypted (E flag 0) is as
    /// good.
    ///
    /// Fails with `MalformedRtcp` if the packet is too short, `Replayed` or `TooOld` by its sender's
    /// window, `TooLarge` if `out` is too short, `AuthenticationFailed` if any bit is not the sender's.
    /// Nothing of a packet that failed is in `out`.
    pub fn unprotect_rtcp(&mut self, packet: &[u8], out: &mut [u8]) -> Result<usize, DropReason> {
        let out = out.get_mut(..packet.len()).ok_or(DropReason::TooLarge)?;
        let packet = Srtcp::parse(self.profile, packet)?;
        self.rtcp_replay.check(packet.ssrc, packet.index())?;
        match &self.suite {
            Suite::Gcm(gcm) => gcm.unprotect_rtcp(&packet, out)?,
            Suite::CtrHmac(ctr_hmac) => ctr_hmac.unprotect_rtcp(&packet, &mut out[..packet.message.len()])?,
        }
        self.rtcp_replay.accept(packet.ssrc, packet.index());
        Ok(packet.message.len())
    }
}

/// The bytes that `digits` spell, for test vectors.
#[cfg(test)]
fn hex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2));
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[cfg(test)]
mod tests;
