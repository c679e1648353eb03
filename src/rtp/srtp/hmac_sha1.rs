//! HMAC-SHA1 with both pads hashed once per key.
//!
//! A keyed-per-packet HMAC spends two of its compressions on the pads, which never change: for an audio
//! packet that is a third of the work. So the SHA-1 states after the inner and the outer pad are kept (40
//! bytes), and a tag costs the message's own blocks and one more. This is why `sha1`'s block function is
//! used rather than a `Digest`: only that one lets a state be a plain copyable array.

use sha1::block_api::compress;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::drop_reason::DropReason;

const BLOCK: usize = 64;

/// The initial SHA-1 state (FIPS 180-4 §5.3.1).
const INITIAL: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];

/// Bytes of the HMAC that SRTP sends: the leftmost 80 bits (RFC 3711 §4.2.1).
pub(super) const TAG_LEN: usize = 10;

/// Longest `trailer`: the rollover counter of SRTP, or the index word of SRTCP.
const TRAILER_LEN: usize = 4;

/// An HMAC-SHA1 key, as the two hash states it leads to.
pub(super) struct HmacSha1 {
    inner: [u32; 5],
    outer: [u32; 5],
}

impl HmacSha1 {
    /// 20 bytes: the key length of SRTP's HMAC-SHA1 (RFC 3711 §5.2).
    pub fn new(key: &[u8; 20]) -> Self {
        Self { inner: after_pad(key, 0x36), outer: after_pad(key, 0x5c) }
    }

    /// The tag over `message || trailer`.
    pub fn tag(&self, message: &[u8], trailer: [u8; TRAILER_LEN]) -> [u8; TAG_LEN] {
        let mac = self.mac(message, trailer);
        *mac.first_chunk().expect("20 bytes hold 10")
    }

    /// Fails unless `tag` is the tag over `message || trailer`, in a time that does not tell where it
    /// differs.
    pub fn verify(&self, message: &[u8], trailer: [u8; TRAILER_LEN], tag: &[u8]) -> Result<(), DropReason> {
        let matches: bool = self.tag(message, trailer).as_slice().ct_eq(tag).into();
        matches.then_some(()).ok_or(DropReason::AuthenticationFailed)
    }

    fn mac(&self, message: &[u8], trailer: [u8; TRAILER_LEN]) -> [u8; 20] {
        let mut state = self.inner;
        let (whole, rest) = message.as_chunks::<BLOCK>();
        compress(&mut state, whole);

        // What is left, at most 63 + 4 bytes, its end mark and its length fit in two blocks.
        let mut tail = [0; 2 * BLOCK];
        let end = rest.len() + TRAILER_LEN;
        tail[..rest.len()].copy_from_slice(rest);
        tail[rest.len()..end].copy_from_slice(&trailer);
        finish(&mut state, &mut tail, end, BLOCK + message.len() + TRAILER_LEN);

        let digest = to_bytes(state);
        let mut state = self.outer;
        let mut block = [0; BLOCK];
        block[..digest.len()].copy_from_slice(&digest);
        finish(&mut state, &mut block, digest.len(), BLOCK + digest.len());
        to_bytes(state)
    }
}

impl Drop for HmacSha1 {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

fn after_pad(key: &[u8; 20], pad: u8) -> [u32; 5] {
    let mut block = Zeroizing::new([pad; BLOCK]);
    block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    let mut state = INITIAL;
    compress(&mut state, &[*block]);
    state
}

/// Pads `tail[..end]` (FIPS 180-4 §5.1.1) and hashes it as the end of a text of `len` bytes.
fn finish(state: &mut [u32; 5], tail: &mut [u8], end: usize, len: usize) {
    tail[end] = 0x80;
    let last = (end + 1 + 8).next_multiple_of(BLOCK);
    tail[last - 8..last].copy_from_slice(&(8 * len as u64).to_be_bytes());
    let (blocks, _) = tail[..last].as_chunks();
    compress(state, blocks);
}

fn to_bytes(state: [u32; 5]) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (to, word) in bytes.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::hmac;

    #[test]
    fn tag_is_that_of_another_implementation_at_every_length_over_three_blocks() {
        let key: [u8; 20] = std::array::from_fn(|i| i as u8 * 11);
        let ours = HmacSha1::new(&key);
        let theirs = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
        let text: Vec<u8> = (0..3 * BLOCK + 1).map(|i| i as u8).collect();
        for len in 0..text.len() {
            let trailer = (len as u32).to_be_bytes();
            let expected = hmac::sign(&theirs, &[&text[..len], &trailer].concat());
            assert_eq!(ours.mac(&text[..len], trailer), expected.as_ref(), "{len} bytes");
        }
    }
}
