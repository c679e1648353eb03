//! Both halves of a session against each other, for every profile.

use proptest::prelude::*;

use super::*;

const PROFILES: [Profile; 3] = [Profile::Aes128CmHmacSha1_80, Profile::AeadAes128Gcm, Profile::AeadAes256Gcm];

/// A sender report of SSRC 0xcafebabe.
const SENDER_REPORT: &str = "80c80006cafebabee8d5c1a2800000000001e240000000640000fa00";

fn keys(profile: Profile, seed: u8) -> KeyingMaterial {
    let exported: Vec<u8> =
        (0..profile.keying_material_len()).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
    KeyingMaterial::from_dtls(profile, &exported).unwrap()
}

/// What the DTLS server seals with and what its client opens with.
fn pair(profile: Profile) -> (Sealer, Opener) {
    let (sealer, _) = keys(profile, 1).into_contexts(DtlsRole::Server);
    let (_, opener) = keys(profile, 1).into_contexts(DtlsRole::Client);
    (sealer, opener)
}

/// An RTP packet whose header and body come out as asked for; the index decides its sequence number.
fn rtp(header_len: usize, body: &[u8], ssrc: u32, index: u64) -> Vec<u8> {
    let mut packet = vec![0x80, 0x6f];
    packet.extend((index as u16).to_be_bytes());
    packet.extend([1, 2, 3, 4]);
    packet.extend(ssrc.to_be_bytes());
    packet.resize(header_len, 0xee);
    packet.extend(body);
    packet
}

fn seal(sealer: &Sealer, plain: &[u8], header_len: usize, index: u64) -> Vec<u8> {
    let mut packet = plain.to_vec();
    packet.resize(plain.len() + sealer.rtp_overhead(), 0);
    sealer.protect_rtp(&mut packet, header_len, index);
    packet
}

fn seal_rtcp(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut packet = plain.to_vec();
    packet.resize(plain.len() + 64, 0);
    let len = sealer.protect_rtcp(&mut packet, plain.len()).unwrap();
    packet.truncate(len);
    packet
}

/// Opens, and checks that a failure leaves nothing behind.
fn open(opener: &Opener, packet: &[u8], header_len: usize, index: u64) -> Result<Vec<u8>, DropReason> {
    let mut out = vec![0; packet.len()];
    let opened = opener.unprotect_rtp(packet, header_len, index, &mut out);
    settle(opened, out)
}

fn open_rtcp(opener: &mut Opener, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut out = vec![0; packet.len()];
    let opened = opener.unprotect_rtcp(packet, &mut out);
    settle(opened, out)
}

fn settle(opened: Result<usize, DropReason>, mut out: Vec<u8>) -> Result<Vec<u8>, DropReason> {
    match opened {
        Ok(len) => out.truncate(len),
        Err(_) => assert!(out.iter().all(|&byte| byte == 0), "a packet that failed left something behind"),
    }
    opened.map(|_| out)
}

#[test]
fn keying_material_of_another_profile_is_refused() {
    for (profile, len) in PROFILES.into_iter().zip([60, 56, 88]) {
        assert_eq!(profile.keying_material_len(), len);
        let refused = KeyingMaterial::from_dtls(profile, &vec![0; len + 1]).err();
        assert_eq!(refused, Some(WrongLength { profile, len: len + 1 }));
    }
}

#[test]
fn client_and_server_seal_with_different_keys() {
    for profile in PROFILES {
        let (client, client_opens) = keys(profile, 1).into_contexts(DtlsRole::Client);
        let (server, server_opens) = keys(profile, 1).into_contexts(DtlsRole::Server);
        let plain = rtp(12, b"hello", 7, 0);
        let (from_client, from_server) = (seal(&client, &plain, 12, 0), seal(&server, &plain, 12, 0));
        assert_ne!(from_client, from_server);
        assert_eq!(open(&server_opens, &from_client, 12, 0), Ok(plain.clone()));
        assert_eq!(open(&client_opens, &from_server, 12, 0), Ok(plain));
        assert_eq!(open(&client_opens, &from_client, 12, 0), Err(DropReason::AuthenticationFailed));
    }
}

/// The packets that libsrtp checks itself with at start; RFC 3711 has none for the whole transform.
#[test]
fn counter_mode_gives_the_packets_libsrtp_gives() {
    let material = hex(concat!(
        "e1f97a0d3e018be0d64fa32c06de4139",
        "e1f97a0d3e018be0d64fa32c06de4139",
        "0ec675ad498afeebb6960b3aabe6",
        "0ec675ad498afeebb6960b3aabe6",
    ));
    let keys = KeyingMaterial::from_dtls(Profile::Aes128CmHmacSha1_80, &material).unwrap();
    let (mut sealer, _) = keys.into_contexts(DtlsRole::Server);

    let plain = hex("800f1234decafbadcafebabeabababababababababababababababab");
    let sealed = hex("800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb");
    assert_eq!(seal(&sealer, &plain, 12, 0x1234), sealed);

    sealer.next_rtcp_index = 1;
    let plain = hex("81c8000bcafebabeabababababababababababababababab");
    let sealed = hex("81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798");
    assert_eq!(seal_rtcp(&mut sealer, &plain), sealed);
}

#[test]
fn any_changed_byte_of_srtp_fails_authentication_and_leaves_nothing() {
    for profile in PROFILES {
        let (sealer, opener) = pair(profile);
        let mut packet = seal(&sealer, &rtp(20, &[9; 50], 7, 3), 20, 3);
        for position in 0..packet.len() {
            packet[position] ^= 0x80;
            let opened = open(&opener, &packet, 20, 3);
            assert_eq!(opened, Err(DropReason::AuthenticationFailed), "{profile:?}, byte {position}");
            packet[position] ^= 0x80;
        }
        assert!(open(&opener, &packet, 20, 3).is_ok());
    }
}

#[test]
fn wrong_rollover_counter_fails_authentication() {
    for profile in PROFILES {
        let (sealer, opener) = pair(profile);
        let packet = seal(&sealer, &rtp(12, &[9; 50], 7, 3), 12, 3);
        assert_eq!(open(&opener, &packet, 12, 3 + (1 << 16)), Err(DropReason::AuthenticationFailed));
    }
}

/// The highest bits, because one of them is the E flag.
#[test]
fn any_changed_byte_of_srtcp_fails_authentication_and_opens_no_window() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let plain = hex(SENDER_REPORT);
        let mut packet = seal_rtcp(&mut sealer, &plain);
        for position in 0..packet.len() {
            packet[position] ^= 0x80;
            let opened = open_rtcp(&mut opener, &packet);
            assert_eq!(opened, Err(DropReason::AuthenticationFailed), "{profile:?}, byte {position}");
            packet[position] ^= 0x80;
        }
        assert_eq!(open_rtcp(&mut opener, &packet), Ok(plain));
    }
}

#[test]
fn repeated_srtcp_is_refused_and_a_late_one_is_not() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let plain = hex(SENDER_REPORT);
        let packets: Vec<_> = (0..100).map(|_| seal_rtcp(&mut sealer, &plain)).collect();
        assert_eq!(open_rtcp(&mut opener, &packets[99]), Ok(plain.clone()));
        assert_eq!(open_rtcp(&mut opener, &packets[98]), Ok(plain));
        assert_eq!(open_rtcp(&mut opener, &packets[99]), Err(DropReason::Replayed));
        assert_eq!(open_rtcp(&mut opener, &packets[0]), Err(DropReason::TooOld));
    }
}

#[test]
fn srtcp_in_clear_is_opened_when_its_tag_is_right() {
    let plain = hex(SENDER_REPORT);
    let word = 5_u32.to_be_bytes();
    let (sealer, mut opener) = pair(Profile::Aes128CmHmacSha1_80);
    let Suite::CtrHmac(ctr_hmac) = &sealer.suite else { unreachable!() };
    let mut packet = [plain.clone(), word.into(), ctr_hmac.rtcp_tag(&plain, word).into()].concat();
    let last = packet.len() - 1;
    packet[last] ^= 1;
    assert_eq!(open_rtcp(&mut opener, &packet), Err(DropReason::AuthenticationFailed));
    packet[last] ^= 1;
    assert_eq!(open_rtcp(&mut opener, &packet), Ok(plain));
}

#[test]
fn srtcp_indexes_end_instead_of_starting_over() {
    let (mut sealer, mut opener) = pair(Profile::AeadAes128Gcm);
    sealer.next_rtcp_index = RTCP_INDEX_MAX;
    let plain = hex(SENDER_REPORT);
    let last = seal_rtcp(&mut sealer, &plain);
    assert_eq!(open_rtcp(&mut opener, &last), Ok(plain.clone()));
    let mut packet = [plain.as_slice(), &[0; 20]].concat();
    assert_eq!(sealer.protect_rtcp(&mut packet, plain.len()), None);
    assert_eq!(packet[..plain.len()], plain, "nothing was sealed");
}

#[test]
fn output_too_short_is_a_drop() {
    for profile in PROFILES {
        let (mut sealer, mut opener) = pair(profile);
        let packet = seal(&sealer, &rtp(12, &[9; 50], 7, 3), 12, 3);
        assert_eq!(opener.unprotect_rtp(&packet, 12, 3, &mut [0; 61]), Err(DropReason::TooLarge));
        assert_eq!(opener.unprotect_rtp(&packet, 12, 3, &mut [0; 62]), Ok(62));
        let packet = seal_rtcp(&mut sealer, &hex(SENDER_REPORT));
        assert_eq!(opener.unprotect_rtcp(&packet, &mut [0; 30]), Err(DropReason::TooLarge));
    }
}

fn profiles() -> impl Strategy<Value = Profile> {
    prop::sample::select(PROFILES.as_slice())
}

proptest! {
    #[test]
    fn every_header_shape_round_trips(
        profile in profiles(), csrcs in 0_usize..16, extension_words in prop::option::of(0_usize..20),
        body in prop::collection::vec(any::<u8>(), 0..1_300), ssrc: u32, index in 0_u64..1 << 48,
    ) {
        let (sealer, opener) = pair(profile);
        let header_len = 12 + 4 * csrcs + extension_words.map_or(0, |words| 4 + 4 * words);
        let plain = rtp(header_len, &body, ssrc, index);
        let packet = seal(&sealer, &plain, header_len, index);
        prop_assert_eq!(&packet[..header_len], &plain[..header_len]);
        prop_assert_eq!(open(&opener, &packet, header_len, index), Ok(plain));
    }

    #[test]
    fn stream_with_loss_and_reordering_opens_across_rollovers(
        profile in profiles(), start in 0_u64..0x8000, steps in prop::collection::vec(1_u64..0x4000, 1..40),
    ) {
        let (sealer, opener) = pair(profile);
        let mut replay = RtpReplay::new();
        let mut index = start;
        for step in steps {
            for index in [index + step, index + step - 1] {
                let packet = seal(&sealer, &rtp(12, &index.to_be_bytes(), 7, index), 12, index);
                let estimate = replay.estimate(u16::from_be_bytes([packet[2], packet[3]]));
                prop_assert_eq!(estimate, index);
                let opened = open(&opener, &packet, 12, estimate);
                prop_assert!(opened.is_ok());
                if replay.check(estimate).is_ok() {
                    replay.accept(estimate);
                }
            }
            index += step;
        }
    }

    #[test]
    fn srtcp_round_trips(profile in profiles(), bodies in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 8..1_300), 1..5)
    ) {
        let (mut sealer, mut opener) = pair(profile);
        for plain in bodies {
            let packet = seal_rtcp(&mut sealer, &plain);
            prop_assert_eq!(packet.len(), plain.len() + profile.rtcp_overhead());
            prop_assert_eq!(open_rtcp(&mut opener, &packet), Ok(plain));
        }
    }

    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(
        profile in profiles(), packet in prop::collection::vec(any::<u8>(), 0..200),
        header_len in 0_usize..300, index: u64, out_len in 0_usize..300,
    ) {
        let (_, mut opener) = pair(profile);
        let mut out = vec![0; out_len];
        prop_assert!(opener.unprotect_rtp(&packet, header_len, index, &mut out).is_err());
        prop_assert!(opener.unprotect_rtcp(&packet, &mut out).is_err());
        prop_assert!(out.iter().all(|&byte| byte == 0));
    }
}
