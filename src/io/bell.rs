//! Wakes a thread that sleeps, and costs next to nothing while it does not.
//!
//! Threads hand each other work through queues. Waking a sleeping thread costs the waker as much as three
//! sends, so it must happen only if the other side really sleeps, and once per sleep however many ring.
//!
//! The sleeper, and nobody else, does
//!
//! ```text
//! arm()                      from here on a ring is written to the eventfd
//! look at every queue again  work that came before arm() is found here
//! wait (poll, epoll)         work that comes after arm() ends this
//! disarm()
//! ```
//!
//! and everyone who gives it work does `push; ring()`.
//!
//! Why no work is slept through: each side stores one location and then loads the other's (the sleeper
//! `sleeping` then the queue, the ringer the queue then `sleeping`). Release and acquire would let both loads
//! run ahead of both stores, so both could miss: the ringer sees nobody asleep, the sleeper an empty
//! queue. A sequentially consistent fence between store and load on both sides excludes this: one of
//! the two fences is first in their single order, and what was stored before it is seen after the other.
//!
//! The flag orders nothing else. That the sleeper sees the pushed item itself is the queue's own business.
//!
//! Deliberately absent: a count or a message. A ring says "look", and looking twice is harmless.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// A handle to one thread's bell; clones ring and wake the same thread.
///
/// `AsFd` and `AsRawFd` give the eventfd to wait on, for `poll` or for tokio's `AsyncFd`. It becomes
/// readable by a ring after [`Bell::arm`] and stays so until [`Bell::disarm`].
#[derive(Clone, Debug)]
pub struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Set by the sleeper, cleared by the sleeper or by the one ringer who then writes the eventfd.
    sleeping: AtomicBool,
    eventfd: OwnedFd,
}

impl Bell {
    /// Fails when the process or the host is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { sleeping: AtomicBool::new(false), eventfd })))
    }

    /// Announces sleep. Look at every queue once more before sleeping.
    pub fn arm(&self) {
        self.0.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Ends sleep, however it ended: from here on a ring costs the ringer no system call.
    pub fn disarm(&self) {
        self.0.sleeping.store(false, Ordering::Relaxed);
        // Always drained, also when nobody seems to have rung: a ringer may clear the flag and be late to
        // write, and its token would else end every later sleep at once. "Nothing there" is the normal case.
        let _ = rustix::io::read(&self.0.eventfd, &mut [0; 8]);
    }

    /// Wakes the thread if it sleeps or is about to. To be called after the work was made visible. Awake, it
    /// is a fence and a load of a line that nobody writes.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.0.sleeping.load(Ordering::Relaxed) && self.0.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only if the counter would pass 2^64 - 2, and then the eventfd is readable anyway.
            let _ = rustix::io::write(&self.0.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(bell: &Bell, timeout_s: i64) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        let timeout = Timespec { tv_sec: timeout_s, tv_nsec: 0 };
        poll(&mut fds, Some(&timeout)).unwrap() > 0
    }

    #[test]
    fn ring_writes_only_if_somebody_sleeps() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!is_readable(&bell, 0));
        bell.arm();
        assert!(!is_readable(&bell, 0));
        bell.ring();
        assert!(is_readable(&bell, 0));
    }

    #[test]
    fn many_rings_are_one_write_per_sleep() {
        let bell = Bell::new().unwrap();
        bell.arm();
        (0..5).for_each(|_| bell.clone().ring());
        let mut counter = [0; 8];
        rustix::io::read(&bell, &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), 1);
    }

    #[test]
    fn disarm_leaves_nothing_that_would_end_the_next_sleep() {
        let bell = Bell::new().unwrap();
        bell.arm();
        bell.ring();
        bell.disarm();
        bell.arm();
        assert!(!is_readable(&bell, 0));
    }

    #[test]
    fn no_push_is_slept_through() {
        const PUSHES: u64 = 20_000;
        let bell = Bell::new().unwrap();
        let (queue, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for push in 1..=PUSHES {
                    queue.store(push, Ordering::Release);
                    bell.ring();
                    // Lets the sleeper catch up, so that every push meets it on its way to sleep.
                    while taken.load(Ordering::Acquire) < push {
                        thread::yield_now();
                    }
                }
            });
            while taken.load(Ordering::Relaxed) < PUSHES {
                bell.arm();
                if queue.load(Ordering::Acquire) == taken.load(Ordering::Relaxed) {
                    assert!(is_readable(&bell, 20), "slept through a push");
                }
                bell.disarm();
                taken.store(queue.load(Ordering::Acquire), Ordering::Release);
            }
        });
    }
}
