//! AES-128-GCM of several libraries on the same packets: what the sealing of SRTP could be built on (RFC 7714).
//!
//! Each seals the payload in place, with the RTP header as associated data, a nonce of its own each time, and the tag
//! apart, as `src/rtp/srtp/gcm.rs` does with **aws-lc-rs**. **aws-lc** itself, without the Rust around it, tells what
//! a leaner interface could gain at most. A fan-out seals every packet with another subscriber's key, hence a thousand
//! keys in turn, beside one that stays warm.
//!
//! Before it is measured, each has to give the tag that the others give.
#![allow(unsafe_code, reason = "a C library is called")]

use std::hint::black_box;
use std::mem::MaybeUninit;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aws_lc_rs::aead as aws;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of the RTP packet, header included, tag not.
const SIZES: [usize; 2] = [120, 1_200];
const KEYS: [usize; 2] = [1, 1_000];

const HEADER_LEN: usize = 20;
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;

type Nonce = [u8; NONCE_LEN];
type Tag = [u8; TAG_LEN];

/// One key of one library.
trait Seal {
    const NAME: &'static str;

    fn new(key: [u8; 16]) -> Self;
    fn seal(&self, nonce: Nonce, header: &[u8], payload: &mut [u8]) -> Tag;
}

impl Seal for aws::LessSafeKey {
    const NAME: &'static str = "aws-lc-rs";

    fn new(key: [u8; 16]) -> Self {
        Self::new(aws::UnboundKey::new(&aws::AES_128_GCM, &key).expect("16 bytes"))
    }

    fn seal(&self, nonce: Nonce, header: &[u8], payload: &mut [u8]) -> Tag {
        let nonce = aws::Nonce::assume_unique_for_key(nonce);
        let mut tag = [0; TAG_LEN];
        self.seal_in_place_scatter(nonce, aws::Aad::from(header), payload, &[], &mut tag)
            .expect("it is short");
        tag
    }
}

/// The C library below `aws-lc-rs`.
struct AwsLc(Box<MaybeUninit<aws_lc_sys::EVP_AEAD_CTX>>);

impl Seal for AwsLc {
    const NAME: &'static str = "aws-lc, C alone";

    fn new(key: [u8; 16]) -> Self {
        let mut context = Box::new(MaybeUninit::zeroed());
        // SAFETY: the context is zeroed memory of its type, and the key has the length of the algorithm's.
        let made = unsafe {
            let algorithm = aws_lc_sys::EVP_aead_aes_128_gcm();
            let engine = std::ptr::null_mut();
            aws_lc_sys::EVP_AEAD_CTX_init(
                context.as_mut_ptr(),
                algorithm,
                key.as_ptr(),
                key.len(),
                TAG_LEN,
                engine,
            )
        };
        assert_eq!(made, 1);
        Self(context)
    }

    fn seal(&self, nonce: Nonce, header: &[u8], payload: &mut [u8]) -> Tag {
        let (mut tag, mut tag_len) = ([0; TAG_LEN], 0);
        let (bytes, len) = (payload.as_mut_ptr(), payload.len());
        // SAFETY: the context is initialised; the payload is sealed where it lies, which the function allows; there is
        // no extra input, and the tag has room.
        let sealed = unsafe {
            aws_lc_sys::EVP_AEAD_CTX_seal_scatter(
                self.0.as_ptr(),
                bytes,
                tag.as_mut_ptr(),
                &raw mut tag_len,
                TAG_LEN,
                nonce.as_ptr(),
                NONCE_LEN,
                bytes,
                len,
                std::ptr::null(),
                0,
                header.as_ptr(),
                header.len(),
            )
        };
        assert_eq!(sealed, 1);
        tag
    }
}

impl Drop for AwsLc {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and is not used again.
        unsafe { aws_lc_sys::EVP_AEAD_CTX_cleanup(self.0.as_mut_ptr()) }
    }
}

impl Seal for ring::aead::LessSafeKey {
    const NAME: &'static str = "ring";

    fn new(key: [u8; 16]) -> Self {
        Self::new(ring::aead::UnboundKey::new(&ring::aead::AES_128_GCM, &key).expect("16 bytes"))
    }

    fn seal(&self, nonce: Nonce, header: &[u8], payload: &mut [u8]) -> Tag {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        let tag = self.seal_in_place_separate_tag(nonce, ring::aead::Aad::from(header), payload);
        *tag.expect("it is short").as_ref().first_chunk().expect("a tag has 16 bytes")
    }
}

impl Seal for aes_gcm::Aes128Gcm {
    const NAME: &'static str = "aes-gcm";

    fn new(key: [u8; 16]) -> Self {
        KeyInit::new(&key.into())
    }

    fn seal(&self, nonce: Nonce, header: &[u8], payload: &mut [u8]) -> Tag {
        self.encrypt_inout_detached(&nonce.into(), header, payload.into()).expect("it is short").into()
    }
}

impl Seal for graviola::aead::AesGcm {
    const NAME: &'static str = "graviola";

    fn new(key: [u8; 16]) -> Self {
        Self::new(&key)
    }

    fn seal(&self, nonce: Nonce, header: &[u8], payload: &mut [u8]) -> Tag {
        let mut tag = [0; TAG_LEN];
        self.encrypt(&nonce, header, payload, &mut tag);
        tag
    }
}

fn nonce(index: u64) -> Nonce {
    let mut nonce = [0x5a; NONCE_LEN];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    nonce
}

/// What a library makes of a packet: its tag and its bytes.
fn sealed<S: Seal>(size: usize) -> (Tag, Vec<u8>) {
    let mut payload = vec![0x33; size - HEADER_LEN];
    let tag = S::new([7; 16]).seal(nonce(3), &[0x44; HEADER_LEN], &mut payload);
    (tag, payload)
}

fn measure<S: Seal>(c: &mut Criterion) {
    for size in SIZES {
        assert_eq!(sealed::<S>(size), sealed::<aws::LessSafeKey>(size), "{} differs", S::NAME);
        for count in KEYS {
            let keys: Vec<S> = (0..count).map(|n| S::new([n as u8; 16])).collect();
            let mut packet = vec![0x5a; size];
            let (header, payload) = packet.split_at_mut(HEADER_LEN);
            let mut group = c.benchmark_group(format!("aead/{size}/{count} keys"));
            group.throughput(Throughput::Bytes(size as u64));
            let mut index = 0_u64;
            group.bench_function(BenchmarkId::from_parameter(S::NAME), |b| {
                b.iter(|| {
                    index += 1;
                    let key = &keys[index as usize % count];
                    black_box(key.seal(nonce(index), black_box(header), black_box(payload)))
                });
            });
        }
    }
}

fn compare(c: &mut Criterion) {
    measure::<aws::LessSafeKey>(c);
    measure::<AwsLc>(c);
    measure::<ring::aead::LessSafeKey>(c);
    measure::<aes_gcm::Aes128Gcm>(c);
    measure::<graviola::aead::AesGcm>(c);
}

criterion_group!(benches, compare);
criterion_main!(benches);
