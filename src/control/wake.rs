//! Lets the control thread's runtime sleep on a bell that shards ring.

#![expect(unsafe_code, reason = "registering a descriptor with the runtime asserts that it stays open")]

use std::io;

use tokio::io::unix::AsyncFd;

use crate::io::Bell;

/// Registers the bell with the current runtime.
///
/// # Errors
/// What epoll says: out of watches or memory.
pub fn watch(bell: Bell) -> io::Result<AsyncFd<Bell>> {
    // SAFETY: the `Bell` owns a share of the eventfd, moves into the `AsyncFd` and is dropped with it, so the
    // descriptor is open and the same for as long as it is registered.
    unsafe { AsyncFd::register(bell) }.map_err(io::Error::from)
}
