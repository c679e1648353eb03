//! Packet memory that the kernel works in: equal frames, each either ours or the kernel's.
//!
//! The first part is for receiving, the second for sending. Who owns a frame is told by where its number is:
//! in a list of ours, or in a ring. Nothing here knows the kernel, so that frames for a packet socket, which
//! the kernel reads only during a call, are the same frames.
//!
//! Deliberately absent: chunks that are not a power of two, and datagrams longer than one.
#![allow(
    unsafe_code,
    reason = "the kernel shares this memory: no reference may cover a frame that is its own"
)]

use std::io::{self, Error};
use std::ptr::{self, NonNull};
use std::slice;

use super::frame::HEADER_BYTES_MAX;

/// Bytes of a huge page on most hosts; memory of whole ones may be backed by them.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Before a payload, for the longest header, so that every payload begins a cache line.
const HEADROOM_BYTES: usize = 64;

const _: () = assert!(HEADER_BYTES_MAX <= HEADROOM_BYTES);

/// Payloads begin at one of this many cache lines of their frames: else the first lines of all frames, the only
/// ones that short packets use, would compete for the same few sets of the caches.
const COLOURS: usize = 8;

const LINE_BYTES: usize = 64;

/// What the kernel keeps free before a received packet (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM_BYTES: usize = 256;

/// Frames in one mapping.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    mapped_bytes: usize,
    frame_bytes: usize,
    frames: usize,
}

// SAFETY: it owns its mapping, and all access goes through `&self` and `&mut self` of one owner at a time.
unsafe impl Send for Memory {}

/// The number of a frame; it stands for the frame's ownership, so it is neither `Copy` nor `Clone`.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(u32);

impl Memory {
    /// Zeroed memory for `frames` frames that hold packets of an interface of this MTU, or as much of them as
    /// a frame of 4 KiB can.
    pub fn new(frames: usize, mtu: usize) -> io::Result<Self> {
        let frame_bytes = frame_bytes_at(mtu);
        let mapped_bytes = (frames * frame_bytes).next_multiple_of(HUGE_PAGE_BYTES);
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), mapped_bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        // SAFETY: the mapping just made. It is advice: where there are no huge pages, small ones do.
        let _ = unsafe { libc::madvise(start, mapped_bytes, libc::MADV_HUGEPAGE) };
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at 0 unless told to");
        Ok(Self { start, mapped_bytes, frame_bytes, frames })
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn len(&self) -> usize {
        self.frames * self.frame_bytes
    }

    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// The longest payload that [`Self::payload`] can hold.
    pub fn payload_bytes_max(&self) -> usize {
        self.frame_bytes - HEADROOM_BYTES - (COLOURS - 1) * LINE_BYTES
    }

    /// The longest packet that can be received where the interface has this MTU.
    pub fn received_bytes_max_at(mtu: usize) -> usize {
        frame_bytes_at(mtu) - KERNEL_HEADROOM_BYTES
    }

    /// All frames with their numbers from `from` on.
    pub fn frames(&self, from: usize) -> Vec<Frame> {
        (from..self.frames).map(|number| Frame(number as u32)).collect()
    }

    /// Where the payload of a frame to be sent begins, counted from the start of the memory.
    fn payload_at(&self, frame: &Frame) -> usize {
        let number = frame.0 as usize;
        number * self.frame_bytes + HEADROOM_BYTES + number % COLOURS * LINE_BYTES
    }

    /// Room for a payload of `len` bytes.
    #[inline]
    pub fn payload(&mut self, frame: &Frame, len: usize) -> &mut [u8] {
        assert!(len <= self.payload_bytes_max(), "the caller has compared");
        let at = self.payload_at(frame);
        // SAFETY: within the frame, which is ours while its `Frame` is, and within the mapping.
        unsafe { slice::from_raw_parts_mut(self.start.add(at).as_ptr(), len) }
    }

    /// The frame with `header` bytes before a payload of `len`, and where it begins.
    #[inline]
    pub fn packet(&mut self, frame: &Frame, header: usize, len: usize) -> (u64, &mut [u8]) {
        assert!(header <= HEADROOM_BYTES && len <= self.payload_bytes_max(), "the caller has compared");
        let at = self.payload_at(frame) - header;
        // SAFETY: as for `payload`; what is before the payload belongs to the same frame.
        let bytes = unsafe { slice::from_raw_parts_mut(self.start.add(at).as_ptr(), header + len) };
        (at as u64, bytes)
    }

    /// `len` bytes received at `address`, in a frame that the kernel has given to us.
    #[inline]
    pub fn received(&self, frame: &Frame, address: u64, len: usize) -> &[u8] {
        let at = address as usize;
        let end = (frame.0 as usize + 1) * self.frame_bytes;
        assert!(
            at / self.frame_bytes == frame.0 as usize && len <= end - at,
            "the kernel stays within a frame"
        );
        // SAFETY: within the frame, which is ours while its `Frame` is.
        unsafe { slice::from_raw_parts(self.start.add(at).as_ptr(), len) }
    }

    /// The frame that an address from a ring lies in: it is ours from here on.
    #[inline]
    pub fn frame_at(&self, address: u64) -> Frame {
        let number = address as usize / self.frame_bytes;
        assert!(number < self.frames, "the kernel returns what it was given");
        Frame(number as u32)
    }

    /// The address that gives a frame to the kernel to receive into.
    #[inline]
    pub fn give(&self, frame: Frame) -> u64 {
        u64::from(frame.0) * self.frame_bytes as u64
    }
}

/// The kernel wants a power of two, and no frame beyond a page.
fn frame_bytes_at(mtu: usize) -> usize {
    if mtu <= 1_500 { 2_048 } else { 4_096 }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no borrow of it outlives `self`. A socket that had registered it
        // keeps the pages by itself (`xdp_umem_pin_pages`).
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_stay_within_their_frames_whatever_their_length() {
        for mtu in [1_500, 9_000] {
            let mut memory = Memory::new(20, mtu).unwrap();
            for frame in memory.frames(0) {
                let longest = memory.payload_bytes_max();
                let (first, bytes) = memory.packet(&frame, HEADER_BYTES_MAX, longest);
                let last = first + bytes.len() as u64 - 1;
                assert_eq!((memory.frame_at(first), memory.frame_at(last)), (Frame(frame.0), Frame(frame.0)));
            }
            assert!(memory.payload_bytes_max() >= 1_472 && Memory::received_bytes_max_at(mtu) >= 1_514);
        }
    }

    #[test]
    fn a_payload_begins_a_cache_line_and_its_header_ends_there() {
        let mut memory = Memory::new(4, 1_500).unwrap();
        for frame in memory.frames(0) {
            memory.payload(&frame, 3).copy_from_slice(b"abc");
            assert_eq!(memory.payload(&frame, 3).as_ptr() as usize % LINE_BYTES, 0);
            assert_eq!(memory.packet(&frame, 42, 3).1[42..], *b"abc");
        }
    }
}
