//! AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714), on `aws-lc-rs`.
//!
//! `LessSafeKey` leaves the nonce to us, which is what SRTP needs: both sides compute it from SSRC and
//! index. A nonce used twice gives away the authentication key, hence the rules at the top of [`super`].
//! `aws-lc` wipes a key's memory when it frees it.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::key_derivation::{KeyDerivation, Label};
use super::packet::{RTCP_HEADER_LEN, Srtcp, Srtp, encrypted_index_word, rtp_ssrc};
use super::{Profile, RTCP_INDEX_LEN};
use crate::drop_reason::DropReason;

/// Bytes of the authentication tag (RFC 7714 §13.1).
pub(super) const TAG_LEN: usize = 16;

/// The session keys of one direction.
pub(super) struct Gcm {
    rtp: Keys,
    rtcp: Keys,
}

impl Gcm {
    /// `profile` is one of the two GCM profiles.
    pub fn new(profile: Profile, derivation: &KeyDerivation) -> Self {
        use Label::*;
        let (rtp_salt, rtcp_salt) = (derivation.derive(RtpSalt), derivation.derive(RtcpSalt));
        if profile.key_len() == 16 {
            Self {
                rtp: Keys::new(&*derivation.derive::<16>(RtpEncryption), &rtp_salt),
                rtcp: Keys::new(&*derivation.derive::<16>(RtcpEncryption), &rtcp_salt),
            }
        } else {
            Self {
                rtp: Keys::new(&*derivation.derive::<32>(RtpEncryption), &rtp_salt),
                rtcp: Keys::new(&*derivation.derive::<32>(RtcpEncryption), &rtcp_salt),
            }
        }
    }

    /// `packet` is header, plaintext, and room for the tag.
    pub fn protect_rtp(&self, packet: &mut [u8], header_len: usize, index: u64) {
        let ssrc = rtp_ssrc(packet).expect("we build RTP headers of 12 bytes and more");
        let (message, tag) = packet.split_last_chunk_mut().expect("room for the tag was left");
        let (header, body) = message.split_at_mut(header_len);
        self.rtp.seal(ssrc, index, header, body, tag);
    }

    /// `packet` is a compound packet, and room for tag and index, in this order (RFC 7714 §9.2).
    pub fn protect_rtcp(&self, packet: &mut [u8], ssrc: u32, index: u32) {
        let (rest, word) = packet.split_last_chunk_mut().expect("room for the index was left");
        let (message, tag) = rest.split_last_chunk_mut().expect("room for the tag was left");
        let (header, body) = message.split_first_chunk_mut().expect("an RTCP packet has 8 bytes");
        *word = encrypted_index_word(index);
        self.rtcp.seal(ssrc, index.into(), &rtcp_aad(header, word), body, tag);
    }

    /// `out` is as long as header and body.
    pub fn unprotect_rtp(&self, packet: &Srtp, index: u64, out: &mut [u8]) -> Result<(), DropReason> {
        let (out_header, out_body) = out.split_at_mut(packet.header.len());
        self.rtp.open(packet.ssrc, index, packet.header, packet.body, packet.tag, out_body)?;
        out_header.copy_from_slice(packet.header);
        Ok(())
    }

    /// `out` is as long as the compound packet, and an index word longer.
    pub fn unprotect_rtcp(&self, packet: &Srtcp, out: &mut [u8]) -> Result<(), DropReason> {
        if packet.is_encrypted() {
            self.unprotect_encrypted_rtcp(packet, out)
        } else {
            self.unprotect_clear_rtcp(packet, out)
        }
    }

    fn unprotect_encrypted_rtcp(&self, packet: &Srtcp, out: &mut [u8]) -> Result<(), DropReason> {
        let (header, body) = packet.message.split_first_chunk().expect("an SRTCP packet has 8 clear bytes");
        let (out_header, out_body) = out[..packet.message.len()].split_at_mut(header.len());
        let aad = rtcp_aad(header, &packet.word);
        self.rtcp.open(packet.ssrc, packet.index().into(), &aad, body, packet.tag, out_body)?;
        out_header.copy_from_slice(header);
        Ok(())
    }

    /// Without encryption all is associated data: the compound packet and the index word (RFC 7714 §9.3).
    /// The tag between them makes a copy necessary, and the output is where it is going anyway.
    fn unprotect_clear_rtcp(&self, packet: &Srtcp, out: &mut [u8]) -> Result<(), DropReason> {
        let aad = &mut out[..packet.message.len() + RTCP_INDEX_LEN];
        let (message, word) = aad.split_at_mut(packet.message.len());
        message.copy_from_slice(packet.message);
        word.copy_from_slice(&packet.word);
        let opened = self.rtcp.open(packet.ssrc, packet.index().into(), aad, &[], packet.tag, &mut []);
        if opened.is_err() {
            aad.fill(0);
        }
        opened
    }
}

struct Keys {
    aead: LessSafeKey,
    /// 96 bits.
    salt: Zeroizing<u128>,
}

impl Keys {
    fn new(key: &[u8], salt: &[u8; 12]) -> Self {
        let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        let key = UnboundKey::new(algorithm, key).expect("an AES key has 16 or 32 bytes");
        let salt = salt.iter().fold(0, |salt, &byte| salt << 8 | u128::from(byte));
        Self { aead: LessSafeKey::new(key), salt: Zeroizing::new(salt) }
    }

    fn seal(&self, ssrc: u32, index: u64, aad: &[u8], body: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        self.aead
            .seal_in_place_scatter(self.nonce(ssrc, index), Aad::from(aad), body, &[], tag)
            .expect("AES-GCM seals anything below 64 GB");
    }

    /// Leaves `out` zeroed on failure.
    fn open(
        &self,
        ssrc: u32,
        index: u64,
        aad: &[u8],
        body: &[u8],
        tag: &[u8],
        out: &mut [u8],
    ) -> Result<(), DropReason> {
        self.aead.open_separate_gather(self.nonce(ssrc, index), Aad::from(aad), body, tag, out).map_err(
            |_| {
                out.fill(0);
                DropReason::AuthenticationFailed
            },
        )
    }

    /// 16 zero bits, SSRC and 48 bits of index, XOR the salt (RFC 7714 §8.1; §9.1 is the same with the
    /// 31-bit index of SRTCP).
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let value = (u128::from(ssrc) << 48 | u128::from(index)) ^ *self.salt;
        Nonce::assume_unique_for_key(*value.to_be_bytes().last_chunk().expect("16 bytes hold 12"))
    }
}

fn rtcp_aad(header: &[u8; RTCP_HEADER_LEN], word: &[u8; RTCP_INDEX_LEN]) -> [u8; 12] {
    let mut aad = [0; 12];
    aad[..RTCP_HEADER_LEN].copy_from_slice(header);
    aad[RTCP_HEADER_LEN..].copy_from_slice(word);
    aad
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    const SALT: [u8; 12] = *b"Quid pro quo";
    const RTP: &str = "8040f17b8041f8d35501a0b247616c6c696120657374206f\
                       6d6e69732064697669736120696e207061727465732074726573";
    const RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000\
                        042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";
    const RTCP_INDEX: u32 = 0x5d4;

    /// The vectors of RFC 7714 §16 and §17: SRTP, SRTCP, and SRTCP that is only authenticated.
    struct Vectors {
        key_len: u8,
        srtp: &'static str,
        srtcp: &'static str,
        tagged: &'static str,
    }

    const VECTORS: [Vectors; 2] = [
        Vectors {
            key_len: 16,
            srtp: "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f\
                   42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
            srtcp: "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1\
                    730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
            tagged: "841dd9683dd78ec92ae58790125f62b3000005d4",
        },
        Vectors {
            key_len: 32,
            srtp: "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3\
                   b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
            srtcp: "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1\
                    110555be8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
            tagged: "91db4afbfeee5a978fab4393ed2615fe000005d4",
        },
    ];

    fn session(key_len: u8) -> Gcm {
        let key: Vec<u8> = (0..key_len).collect();
        Gcm { rtp: Keys::new(&key, &SALT), rtcp: Keys::new(&key, &SALT) }
    }

    #[test]
    fn rfc_7714_section_16_seals_and_opens_srtp() {
        for vector in VECTORS {
            let (gcm, plain, sealed) = (session(vector.key_len), hex(RTP), hex(vector.srtp));
            let mut packet = [plain.as_slice(), &[0; TAG_LEN]].concat();
            gcm.protect_rtp(&mut packet, 12, 0xf17b);
            assert_eq!(packet, sealed);

            let mut out = vec![0; plain.len()];
            gcm.unprotect_rtp(&Srtp::parse(&sealed, 12, TAG_LEN).unwrap(), 0xf17b, &mut out).unwrap();
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn rfc_7714_section_17_seals_and_opens_srtcp() {
        for vector in VECTORS {
            let (gcm, plain, sealed) = (session(vector.key_len), hex(RTCP), hex(vector.srtcp));
            let mut packet = [plain.as_slice(), &[0; TAG_LEN + RTCP_INDEX_LEN]].concat();
            gcm.protect_rtcp(&mut packet, 0x4d61_7273, RTCP_INDEX);
            assert_eq!(packet, sealed);
            assert_eq!(open(&gcm, &sealed).unwrap(), plain);
        }
    }

    #[test]
    fn rfc_7714_section_17_verifies_srtcp_in_clear() {
        for vector in VECTORS {
            let (gcm, plain) = (session(vector.key_len), hex(RTCP));
            let mut tagged = [plain.clone(), hex(vector.tagged)].concat();
            assert_eq!(open(&gcm, &tagged).unwrap(), plain);
            for position in 0..tagged.len() {
                tagged[position] ^= 1;
                assert_eq!(open(&gcm, &tagged), Err(DropReason::AuthenticationFailed), "byte {position}");
                tagged[position] ^= 1;
            }
        }
    }

    fn open(gcm: &Gcm, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        let packet = Srtcp::parse(Profile::AeadAes128Gcm, packet)?;
        let mut out = vec![0; packet.message.len() + RTCP_INDEX_LEN];
        let opened = gcm.unprotect_rtcp(&packet, &mut out);
        if opened.is_err() {
            assert!(out.iter().all(|&byte| byte == 0), "nothing of a forged packet is left");
        }
        out.truncate(packet.message.len());
        opened.map(|()| out)
    }
}
