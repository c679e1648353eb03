//! Session keys from a master key and salt (RFC 3711 §4.3, with AES-256 by RFC 6188).
//!
//! The key derivation rate is 0, as DTLS-SRTP fixes it: everything is derived once, and nothing here runs
//! per packet. There is no MKI and no re-keying: a new DTLS association makes new contexts.

use aes::cipher::{InnerIvInit, KeyInit, StreamCipherCore};
use aes::{Aes128, Aes256};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use zeroize::{Zeroize, Zeroizing};

/// What a derived key is for (RFC 3711 §4.3.1 and §4.3.2).
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// The pseudo-random function of one direction: AES in counter mode, keyed with the master key.
pub(super) struct KeyDerivation {
    master_key: MasterKey,
    master_salt: Zeroizing<u128>,
}

enum MasterKey {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl KeyDerivation {
    /// `key` has 16 or 32 bytes, `salt` 14, or 12 for GCM, whose salt is padded with zeros on the right
    /// (RFC 7714 §11).
    pub fn new(key: &[u8], salt: &[u8]) -> Self {
        let master_key = match key.len() {
            16 => MasterKey::Aes128(Aes128::new_from_slice(key).expect("16 bytes")),
            _ => MasterKey::Aes256(Aes256::new_from_slice(key).expect("a master key has 16 or 32 bytes")),
        };
        Self { master_key, master_salt: counter_block_salt(salt) }
    }

    pub fn derive<const N: usize>(&self, label: Label) -> Zeroizing<[u8; N]> {
        // x = (label || 48-bit index 0) XOR salt, 16 bits left for the block counter (§4.3.1, §4.3.3).
        let mut start = (*self.master_salt ^ (label as u128) << 64).to_be_bytes();
        let mut key = Zeroizing::new([0; N]);
        match &self.master_key {
            MasterKey::Aes128(aes) => CtrCore::<_, Ctr128BE>::inner_iv_init(aes, &start.into())
                .apply_keystream_partial(key.as_mut_slice().into()),
            MasterKey::Aes256(aes) => CtrCore::<_, Ctr128BE>::inner_iv_init(aes, &start.into())
                .apply_keystream_partial(key.as_mut_slice().into()),
        }
        start.zeroize();
        key
    }
}

/// A salt of at most 14 bytes in the place it has in AES-CM's counter block: leftmost.
pub(super) fn counter_block_salt(salt: &[u8]) -> Zeroizing<u128> {
    let mut block = Zeroizing::new([0; 16]);
    block.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
    Zeroizing::new(u128::from_be_bytes(*block))
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    #[test]
    fn rfc_3711_appendix_b_3_gives_its_session_keys() {
        let keys = KeyDerivation::new(
            &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
            &hex("0EC675AD498AFEEBB6960B3AABE6"),
        );
        assert_eq!(keys.derive::<16>(Label::RtpEncryption)[..], hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(keys.derive::<14>(Label::RtpSalt)[..], hex("30CBBC08863D8C85D49DB34A9AE1"));
        let authentication = keys.derive::<48>(Label::RtpAuthentication);
        assert_eq!(
            authentication[..],
            hex(concat!(
                "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF",
                "3C34E2359E6CDBCEE049646C43D9327AD175578EF7227098",
            ))
        );
    }

    #[test]
    fn rfc_6188_section_7_2_gives_its_session_keys_of_aes_256() {
        let keys = KeyDerivation::new(
            &hex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6"),
            &hex("3b04803de51ee7c96423ab5b78d2"),
        );
        assert_eq!(
            keys.derive::<32>(Label::RtpEncryption)[..],
            hex("5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4")
        );
        assert_eq!(keys.derive::<14>(Label::RtpSalt)[..], hex("fa31791685ca444a9e07c6c64e93"));
    }

    #[test]
    fn a_short_salt_is_padded_on_the_right() {
        let key = [7; 16];
        let short = KeyDerivation::new(&key, &[9; 12]).derive::<16>(Label::RtcpEncryption);
        let padded = [[9; 12].as_slice(), &[0; 2]].concat();
        assert_eq!(short, KeyDerivation::new(&key, &padded).derive::<16>(Label::RtcpEncryption));
    }
}
