//! What one packet costs to seal and to open, per profile and size: an audio packet and a full video
//! packet.
//!
//! Sealing works in place, as in transmit memory; opening reads one buffer and writes another, as from
//! receive memory into a track ring. Sockets are not in these numbers.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanline::rtp::srtp::{DtlsRole, KeyingMaterial, Opener, Profile, Sealer};

const PROFILES: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];

/// Bytes of the RTP packet, header included.
const SIZES: [usize; 2] = [120, 1_200];

const HEADER_LEN: usize = 20;

fn contexts(profile: Profile, ours: DtlsRole) -> (Sealer, Opener) {
    let exported = vec![0x5a; profile.keying_material_len()];
    KeyingMaterial::from_dtls(profile, &exported).expect("the length is the profile's").into_contexts(ours)
}

fn rtp_packet(len: usize, index: u16) -> Vec<u8> {
    let mut packet = vec![0x5a; len];
    packet[0] = 0x90;
    packet[2..4].copy_from_slice(&index.to_be_bytes());
    packet
}

fn protect(c: &mut Criterion) {
    let mut group = c.benchmark_group("protect_rtp");
    for profile in PROFILES {
        let (sealer, _) = contexts(profile, DtlsRole::Server);
        for size in SIZES {
            let mut packet = rtp_packet(size + sealer.rtp_overhead(), 0);
            let mut index = 0_u64;
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(format!("{profile:?}"), size), |b| {
                b.iter(|| {
                    index += 1;
                    packet[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    sealer.protect_rtp(black_box(&mut packet), HEADER_LEN, index);
                });
            });
        }
    }
}

fn unprotect(c: &mut Criterion) {
    let mut group = c.benchmark_group("unprotect_rtp");
    for profile in PROFILES {
        let (sealer, _) = contexts(profile, DtlsRole::Server);
        let (_, opener) = contexts(profile, DtlsRole::Client);
        for size in SIZES {
            let mut packet = rtp_packet(size + sealer.rtp_overhead(), 7);
            sealer.protect_rtp(&mut packet, HEADER_LEN, 7);
            let mut out = vec![0; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(format!("{profile:?}"), size), |b| {
                b.iter(|| opener.unprotect_rtp(black_box(&packet), HEADER_LEN, 7, black_box(&mut out)));
            });
        }
    }
}

criterion_group!(benches, protect, unprotect);
criterion_main!(benches);
