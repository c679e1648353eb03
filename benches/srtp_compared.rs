//! Sealing by us, by str0m and by libsrtp2 on the same packets: one RTP packet, header to tag, with the key schedule
//! kept.
//!
//! * **str0m** seals in its `SrtpContext`, which is private. What it does there is repeated with its public parts,
//!   line by line (`src/rtp/srtp.rs`): a new vector, its cipher, its HMAC.
//! * **libsrtp2** (Debian: `libsrtp2-1`) is loaded at run time, so that no build depends on it; without it, its
//!   rows are left out, and said so. Like ours it seals in place. Unlike ours it keeps its own replay and rollover
//!   state per stream, which a sender needs somewhere.
#![allow(unsafe_code, reason = "a C library is called")]

use std::ffi::{c_int, c_uchar, c_uint, c_ulong, c_void};
use std::hint::black_box;
use std::ptr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanline::rtp::srtp::{DtlsRole, KeyingMaterial, Profile, Sealer};
use libloading::{Library, Symbol};
use str0m::crypto::{AeadAes128Gcm, Aes128CmSha1_80, CryptoProvider, from_feature_flags};

const PROFILES: [Profile; 2] = [Profile::AeadAes128Gcm, Profile::Aes128CmHmacSha1_80];

/// Bytes of the RTP packet before the tag.
const SIZES: [usize; 2] = [120, 1_200];

/// One extension element of one byte.
const HEADER_LEN: usize = 20;
const SSRC: u32 = 0x5a5a_5a5a;
const KEY: [u8; 16] = [0x5a; 16];
const TAG_LEN_MAX: usize = 16;

/// A valid header (libsrtp reads its extension), then filler.
fn rtp_packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; size + TAG_LEN_MAX];
    packet[..HEADER_LEN].copy_from_slice(&[
        0x90, 111, 0, 0, 0, 0, 0, 0, 0x5a, 0x5a, 0x5a, 0x5a, 0xbe, 0xde, 0, 1, 0x10, 1, 0, 0,
    ]);
    packet
}

fn set_sequence(packet: &mut [u8], index: u64) {
    packet[2..4].copy_from_slice(&(index as u16).to_be_bytes());
}

fn ours(profile: Profile) -> Sealer {
    let exported = vec![0x5a; profile.keying_material_len()];
    let material = KeyingMaterial::from_dtls(profile, &exported).expect("the length is the profile's");
    material.into_contexts(DtlsRole::Server).0
}

/// One packet of `size` bytes in `packet` with this index, sealed.
type Seal = Box<dyn FnMut(&mut [u8], usize, u64)>;

fn by_fanline(profile: Profile) -> Seal {
    let sealer = ours(profile);
    let overhead = sealer.rtp_overhead();
    Box::new(move |packet, size, index| sealer.protect_rtp(&mut packet[..size + overhead], HEADER_LEN, index))
}

fn by_str0m(provider: &CryptoProvider, profile: Profile) -> Seal {
    match profile {
        Profile::AeadAes128Gcm => {
            let mut cipher = provider.srtp_provider.aead_aes_128_gcm().create_cipher(KEY, true);
            Box::new(move |packet, size, index| {
                let (header, input) = packet[..size].split_at(HEADER_LEN);
                let roc = (index >> 16) as u32;
                let iv = AeadAes128Gcm::rtp_iv([0x5a; 12], SSRC, roc, index as u16);
                let mut output = vec![0; size + AeadAes128Gcm::TAG_LEN];
                cipher.encrypt(&iv, header, input, &mut output[HEADER_LEN..]).expect("it has room");
                output[..HEADER_LEN].copy_from_slice(header);
                black_box(output);
            })
        }
        _ => {
            let mut cipher = provider.srtp_provider.aes_128_cm_sha1_80().create_cipher(KEY, true);
            let hmac = provider.sha1_hmac_provider;
            Box::new(move |packet, size, index| {
                const CTR_PADDING: usize = 5;
                let (header, input) = packet[..size].split_at(HEADER_LEN);
                let iv = Aes128CmSha1_80::rtp_iv([0x5a; 14], SSRC, index);
                let mut output = vec![0; size + Aes128CmSha1_80::HMAC_TAG_LEN + CTR_PADDING];
                cipher.encrypt(&iv, input, &mut output[HEADER_LEN..]).expect("it has room");
                output[..HEADER_LEN].copy_from_slice(header);
                let sha1 = |key: &[u8], parts: &[&[u8]]| hmac.sha1_hmac(key, parts);
                Aes128CmSha1_80::rtp_hmac(sha1, &[0x5a; 20], &mut output, index, size);
                output.truncate(size + Aes128CmSha1_80::HMAC_TAG_LEN);
                black_box(output);
            })
        }
    }
}

/// `srtp_crypto_policy_t` of `srtp.h`, libsrtp 2.x.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CryptoPolicy {
    cipher_type: u32,
    cipher_key_len: c_int,
    auth_type: u32,
    auth_key_len: c_int,
    auth_tag_len: c_int,
    sec_serv: c_uint,
}

/// `srtp_policy_t`.
#[repr(C)]
struct Policy {
    ssrc_type: c_uint,
    ssrc_value: c_uint,
    rtp: CryptoPolicy,
    rtcp: CryptoPolicy,
    key: *mut c_uchar,
    keys: *mut *mut c_void,
    num_master_keys: c_ulong,
    deprecated_ekt: *mut c_void,
    window_size: c_ulong,
    allow_repeat_tx: c_int,
    enc_xtn_hdr: *mut c_int,
    enc_xtn_hdr_count: c_int,
    next: *mut Policy,
}

const SSRC_ANY_OUTBOUND: c_uint = 3;

type SetPolicy = unsafe extern "C" fn(*mut CryptoPolicy);
type Create = unsafe extern "C" fn(*mut *mut c_void, *const Policy) -> c_int;
type Protect = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_int) -> c_int;

/// The library, initialised. It stays loaded, and its sessions alive, until the process ends.
fn libsrtp() -> Option<&'static Library> {
    // SAFETY: its initialisers do nothing that concerns this process.
    let library = unsafe { Library::new("libsrtp2.so.1") }.ok()?;
    // SAFETY: `srtp_err_status_t srtp_init(void)`.
    let initialised = unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"srtp_init\0").ok()?() };
    (initialised == 0).then(|| &*Box::leak(Box::new(library)))
}

fn by_libsrtp(library: &'static Library, profile: Profile) -> Option<Seal> {
    let set: &[u8] = match profile {
        Profile::AeadAes128Gcm => b"srtp_crypto_policy_set_aes_gcm_128_16_auth\0",
        _ => b"srtp_crypto_policy_set_rtp_default\0",
    };
    let mut crypto = CryptoPolicy::default();
    // SAFETY: `void …(srtp_crypto_policy_t *)` fills the one policy that it is given.
    unsafe { library.get::<SetPolicy>(set).ok()?(&raw mut crypto) };
    let mut key = [0x5a; 46];
    let policy = Policy {
        ssrc_type: SSRC_ANY_OUTBOUND,
        ssrc_value: 0,
        rtp: crypto,
        rtcp: crypto,
        key: key.as_mut_ptr(),
        keys: ptr::null_mut(),
        num_master_keys: 0,
        deprecated_ekt: ptr::null_mut(),
        window_size: 128,
        allow_repeat_tx: 0,
        enc_xtn_hdr: ptr::null_mut(),
        enc_xtn_hdr_count: 0,
        next: ptr::null_mut(),
    };
    let mut session = ptr::null_mut();
    // SAFETY: `srtp_create(srtp_t *, const srtp_policy_t *)` copies the policy and the key that it points to.
    let created =
        unsafe { library.get::<Create>(b"srtp_create\0").ok()?(&raw mut session, &raw const policy) };
    if created != 0 {
        return None;
    }
    // SAFETY: `srtp_err_status_t srtp_protect(srtp_t, void *, int *)`.
    let protect: Symbol<'static, Protect> = unsafe { library.get(b"srtp_protect\0") }.ok()?;
    Some(Box::new(move |packet, size, _| {
        let mut len = size as c_int;
        // SAFETY: the packet has room for a tag behind its `size` bytes, and the session is ours alone.
        let status = unsafe { protect(session, packet.as_mut_ptr().cast(), &raw mut len) };
        assert_eq!(status, 0, "libsrtp seals every packet");
    }))
}

fn compare(c: &mut Criterion) {
    let provider = from_feature_flags();
    let library = libsrtp();
    if library.is_none() {
        eprintln!("left out: libsrtp2.so.1 is not installed (Debian: apt-get install libsrtp2-1)");
    }
    for profile in PROFILES {
        let mut group = c.benchmark_group(format!("seal/{profile:?}"));
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let ways = [
                Some(("fanline", by_fanline(profile))),
                Some(("str0m", by_str0m(&provider, profile))),
                library.and_then(|library| Some(("libsrtp2", by_libsrtp(library, profile)?))),
            ];
            for (name, mut seal) in ways.into_iter().flatten() {
                let mut packet = rtp_packet(size);
                let mut index = 0_u64;
                group.bench_function(BenchmarkId::new(name, size), |b| {
                    b.iter(|| {
                        index += 1;
                        set_sequence(&mut packet, index);
                        seal(black_box(&mut packet), size, index);
                    });
                });
            }
        }
    }
}

criterion_group!(benches, compare);
criterion_main!(benches);
