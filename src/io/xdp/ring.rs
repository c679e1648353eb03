//! The rings between this process and an AF_XDP socket (`Documentation/networking/af_xdp.rst`).
//!
//! A ring is memory of the kernel, mapped here: two positions, a word of flags, and a power of two of entries.
//! Each side writes one position and reads the other. As in our own rings, a side keeps a copy of the
//! other's position, looks again only when that copy says full (or empty), and publishes a batch by one store.
#![allow(unsafe_code, reason = "the kernel shares these rings")]

use std::io::{self, Error};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// Which ring of a socket, and so where it is mapped and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Receive,
    Transmit,
    /// Frames for the kernel to receive into.
    Fill,
    /// Frames that have been sent.
    Completion,
}

impl Kind {
    fn page_offset(self) -> libc::off_t {
        match self {
            Self::Receive => libc::XDP_PGOFF_RX_RING,
            Self::Transmit => libc::XDP_PGOFF_TX_RING,
            Self::Fill => libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
            Self::Completion => libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
        }
    }
}

/// A mapped ring of `T`, from either side.
#[derive(Debug)]
struct Ring<T> {
    mapping: NonNull<libc::c_void>,
    mapped_bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Entries less one.
    mask: u32,
}

// SAFETY: the pointers lead into the mapping, which the ring owns; one thread at a time uses it.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `size` entries, a power of two, that the socket has been told to have.
    fn map(
        socket: BorrowedFd<'_>,
        kind: Kind,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let mapped_bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let (fd, at) = (socket.as_raw_fd(), kind.page_offset());
        // SAFETY: a new mapping at a place of the kernel's choice.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), mapped_bytes, protection, flags, fd, at) };
        if mapping == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let mapping = NonNull::new(mapping).expect("the kernel maps nothing at 0 unless told to");
        // SAFETY: the kernel tells where in the mapping its parts are, each aligned to its type.
        let at = |offset: u64| unsafe { mapping.byte_add(offset as usize) };
        Ok(Self {
            mapping,
            mapped_bytes,
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            entries: at(offsets.desc).cast(),
            mask: size - 1,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, which lives as long as `self`; the kernel too accesses it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, position: u32) -> NonNull<T> {
        // SAFETY: masked, the position is an index within the mapping.
        unsafe { self.entries.add((position & self.mask) as usize) }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, used by nobody but `self`.
        let _ = unsafe { libc::munmap(self.mapping.as_ptr(), self.mapped_bytes) };
    }
}

/// A ring that we write: transmit or fill.
#[derive(Debug)]
pub struct Producer<T> {
    ring: Ring<T>,
    /// Ours: one behind the last entry written.
    at: u32,
    /// As last seen.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    pub fn map(
        socket: BorrowedFd<'_>,
        kind: Kind,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, kind, offsets, size)?, at: 0, consumed: 0 })
    }

    /// Writes an entry, to be shown by [`Self::publish`]; gives it back if the ring is full.
    #[inline]
    pub fn push(&mut self, entry: T) -> Result<(), T> {
        if self.at.wrapping_sub(self.consumed) > self.ring.mask {
            // Acquire: the kernel has read the entries before this one is written over them.
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
            if self.at.wrapping_sub(self.consumed) > self.ring.mask {
                return Err(entry);
            }
        }
        // SAFETY: the kernel has consumed this place and reads it only after `publish`.
        unsafe { self.ring.entry(self.at).write(entry) };
        self.at = self.at.wrapping_add(1);
        Ok(())
    }

    /// Shows the kernel all that was pushed.
    #[inline]
    pub fn publish(&mut self) {
        // Release: the entries are whole before the position that shows them.
        self.ring.producer().store(self.at, Ordering::Release);
    }

    /// Entries that the kernel has yet to take.
    pub fn pending(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.at.wrapping_sub(self.consumed)
    }

    /// Whether the kernel looks at this ring only when called.
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that we read: receive or completion.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: Ring<T>,
    at: u32,
    /// As last seen.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub fn map(
        socket: BorrowedFd<'_>,
        kind: Kind,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, kind, offsets, size)?, at: 0, produced: 0 })
    }

    /// The next entry; its place goes back to the kernel by [`Self::release`].
    #[inline]
    pub fn next(&mut self) -> Option<T> {
        if self.at == self.produced {
            // Acquire: the entries before the position are whole.
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.at == self.produced {
                return None;
            }
        }
        // SAFETY: the kernel has produced this place and writes it again only after `release`.
        let entry = unsafe { self.ring.entry(self.at).read() };
        self.at = self.at.wrapping_add(1);
        Some(entry)
    }

    /// Gives back the places of all entries taken.
    #[inline]
    pub fn release(&mut self) {
        // Release: our reads are over before the kernel writes there again.
        self.ring.consumer().store(self.at, Ordering::Release);
    }
}
