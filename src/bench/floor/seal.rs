//! What SRTP costs per packet: our own [`Sealer`], per profile, with one key that stays in the cache and with a
//! thousand that take turns, as a room has them.

use super::Group;
use super::meter::{Key, Row};
use crate::rtp::srtp::{DtlsRole, KeyingMaterial, Profile, Sealer};

const PROFILES: [(Profile, &str); 3] = [
    (Profile::AeadAes128Gcm, "AEAD_AES_128_GCM"),
    (Profile::AeadAes256Gcm, "AEAD_AES_256_GCM"),
    (Profile::Aes128CmHmacSha1_80, "AES128_CM_HMAC_SHA1_80"),
];

const KEYS: [usize; 2] = [1, 1_000];

/// The fixed header and one extension element, as audio has it.
const HEADER_BYTES: usize = 20;

/// `bytes` are those of the sealed packet, as they are on the wire.
pub fn rows(bytes: usize) -> Vec<Row> {
    PROFILES.iter().flat_map(|(profile, name)| KEYS.map(|keys| row(*profile, name, keys, bytes))).collect()
}

fn row(profile: Profile, path: &'static str, keys: usize, bytes: usize) -> Row {
    let sealers: Vec<Sealer> = (0..keys).map(|n| sealer(profile, n as u8)).collect();
    let mut packet = vec![0x5a; bytes.max(HEADER_BYTES + profile.rtp_overhead())];
    packet.iter_mut().zip([0x90, 111]).for_each(|(to, from)| *to = from);
    let mut index = 0_u64;
    let pass = move || {
        // Many per reading of the clock, whatever the number of keys.
        for _ in 0..1_000 / keys {
            for sealer in &sealers {
                index += 1;
                packet.iter_mut().skip(2).zip((index as u16).to_be_bytes()).for_each(|(to, from)| *to = from);
                sealer.protect_rtp(&mut packet, HEADER_BYTES, index);
            }
        }
        Ok(1_000)
    };
    Row::repeating(Key { group: Group::Seal, stage: "", path, segments: 1, destinations: keys, bytes }, pass)
}

fn sealer(profile: Profile, byte: u8) -> Sealer {
    let exported = vec![byte; profile.keying_material_len()];
    let material = KeyingMaterial::from_dtls(profile, &exported).expect("the length is the profile's");
    material.into_contexts(DtlsRole::Server).0
}
