//! AES128_CM_HMAC_SHA1_80: AES in counter mode, then HMAC-SHA1 over the result (RFC 3711 §4.1.1, §4.2.1).
//!
//! What WebRTC peers without GCM fall back to. AES round keys and HMAC pads are kept between packets, so a
//! packet costs its own blocks only. From about 1,000 bytes on SHA-1 is the floor.

use aes::Aes128;
use aes::cipher::inout::InOutBuf;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipherCore};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use zeroize::Zeroizing;

use super::hmac_sha1::{HmacSha1, TAG_LEN};
use super::key_derivation::{KeyDerivation, Label, counter_block_salt};
use super::packet::{RTCP_HEADER_LEN, Srtcp, Srtp, encrypted_index_word, rtp_ssrc};
use crate::drop_reason::DropReason;

/// The session keys of one direction.
pub(super) struct CtrHmac {
    rtp: Keys,
    rtcp: Keys,
}

impl CtrHmac {
    pub fn new(derivation: &KeyDerivation) -> Self {
        use Label::*;
        Self {
            rtp: Keys::new(
                &derivation.derive(RtpEncryption),
                &derivation.derive(RtpSalt),
                &derivation.derive(RtpAuthentication),
            ),
            rtcp: Keys::new(
                &derivation.derive(RtcpEncryption),
                &derivation.derive(RtcpSalt),
                &derivation.derive(RtcpAuthentication),
            ),
        }
    }

    /// `packet` is header, plaintext, and room for the tag.
    pub fn protect_rtp(&self, packet: &mut [u8], header_len: usize, index: u64) {
        let ssrc = rtp_ssrc(packet).expect("we build RTP headers of 12 bytes and more");
        let (message, tag) = packet.split_last_chunk_mut::<TAG_LEN>().expect("room for the tag was left");
        self.rtp.apply_keystream(ssrc, index, (&mut message[header_len..]).into());
        *tag = self.rtp.hmac.tag(message, rollover_counter(index));
    }

    /// `packet` is a compound packet, and room for index and tag.
    pub fn protect_rtcp(&self, packet: &mut [u8], ssrc: u32, index: u32) {
        let (rest, tag) = packet.split_last_chunk_mut::<TAG_LEN>().expect("room for the tag was left");
        let (message, word) = rest.split_last_chunk_mut().expect("room for the index was left");
        *word = encrypted_index_word(index);
        self.rtcp.apply_keystream(ssrc, index.into(), (&mut message[RTCP_HEADER_LEN..]).into());
        *tag = self.rtcp.hmac.tag(message, *word);
    }

    /// `out` is as long as header and body.
    pub fn unprotect_rtp(&self, packet: &Srtp, index: u64, out: &mut [u8]) -> Result<(), DropReason> {
        self.rtp.hmac.verify(packet.message, rollover_counter(index), packet.tag)?;
        self.rtp.decrypt(packet.ssrc, index, packet.header, packet.body, out);
        Ok(())
    }

    /// `out` is as long as the compound packet.
    pub fn unprotect_rtcp(&self, packet: &Srtcp, out: &mut [u8]) -> Result<(), DropReason> {
        self.rtcp.hmac.verify(packet.message, packet.word, packet.tag)?;
        let clear_len = if packet.is_encrypted() { RTCP_HEADER_LEN } else { packet.message.len() };
        let (clear, body) = packet.message.split_at(clear_len);
        self.rtcp.decrypt(packet.ssrc, packet.index().into(), clear, body, out);
        Ok(())
    }
}

#[cfg(test)]
impl CtrHmac {
    /// The tag of a compound packet that is sent in clear.
    pub fn rtcp_tag(&self, message: &[u8], word: [u8; 4]) -> [u8; TAG_LEN] {
        self.rtcp.hmac.tag(message, word)
    }
}

struct Keys {
    aes: Aes128,
    salt: Zeroizing<u128>,
    hmac: HmacSha1,
}

impl Keys {
    fn new(cipher: &[u8; 16], salt: &[u8; 14], authentication: &[u8; 20]) -> Self {
        Self {
            aes: Aes128::new(cipher.into()),
            salt: counter_block_salt(salt),
            hmac: HmacSha1::new(authentication),
        }
    }

    /// IV = salt·2^16 XOR SSRC·2^64 XOR index·2^16 (RFC 3711 §4.1.1); the lowest 16 bits count blocks, so
    /// one packet may have 1 MB.
    fn apply_keystream(&self, ssrc: u32, index: u64, body: InOutBuf<'_, '_, u8>) {
        let iv = *self.salt ^ u128::from(ssrc) << 64 ^ u128::from(index) << 16;
        CtrCore::<_, Ctr128BE>::inner_iv_init(&self.aes, &iv.to_be_bytes().into())
            .apply_keystream_partial(body);
    }

    fn decrypt(&self, ssrc: u32, index: u64, clear: &[u8], body: &[u8], out: &mut [u8]) {
        let (out_clear, out_body) = out.split_at_mut(clear.len());
        out_clear.copy_from_slice(clear);
        let body = InOutBuf::new(body, out_body).expect("the output is as long as the message");
        self.apply_keystream(ssrc, index, body);
    }
}

/// The tag covers the rollover counter although the packet does not carry it (RFC 3711 §4.2).
fn rollover_counter(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    #[test]
    fn rfc_3711_appendix_b_2_gives_its_keystream() {
        let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
        let salt = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD");
        let keys = Keys::new(&key.try_into().unwrap(), &salt.try_into().unwrap(), &[0; 20]);
        let mut stream = vec![0; 16 * 0xff02];
        keys.apply_keystream(0, 0, stream.as_mut_slice().into());
        for (block, expected) in [
            (0, "E03EAD0935C95E80E166B16DD92B4EB4"),
            (1, "D23513162B02D0F72A43A2FE4A5F97AB"),
            (2, "41E95B3BB0A2E8DD477901E4FCA894C0"),
            (0xfeff, "EC8CDF7398607CB0F2D21675EA9EA1E4"),
            (0xff00, "362B7C3C6773516318A077D7FC5073AE"),
            (0xff01, "6A2CC3787889374FBEB4C81B17BA6C44"),
        ] {
            assert_eq!(stream[16 * block..][..16], hex(expected), "block {block:#x}");
        }
    }
}
