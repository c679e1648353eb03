//! What became of the sends of a flush, for the backends that send through a kernel socket: each is counted, and
//! the log hears of failures rarely.
//!
//! GSO is given up only on evidence. `EIO` and `EINVAL` can mean that a device cannot segment, but also that
//! one path is bad (port 0, a source address that is no longer ours), and a stranger can cause the latter. So
//! the run is sent again one by one, and only if its first datagram then leaves was GSO to blame.

use std::io::Error;

use tracing::{debug, info, trace};

use super::batch::Run;
use super::{IoCounters, Path};

/// What one socket's sends have shown so far.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Sends that failed; says which failures are worth a line in the log.
    failed: u64,
    /// Whether runs must no longer be sent as such.
    pub(super) gso_is_broken: bool,
}

impl Outcomes {
    /// Counts what became of `run`. If segmenting may be to blame, `one_by_one` sends its datagrams again, each by
    /// itself and in order, and says what became of each.
    pub(super) fn settle<R>(
        &mut self,
        counters: &mut IoCounters,
        run: &Run<'_>,
        outcome: Result<(), Error>,
        one_by_one: impl FnOnce() -> R,
    ) where
        R: IntoIterator<Item = Result<(), Error>>,
    {
        match outcome {
            Ok(()) => counters.count_sent(run.segments() as u64, run.bytes.len()),
            Err(error) if run.segments() > 1 && may_be_about_gso(&error) => {
                if self.settle_singly(counters, run, one_by_one()) && !self.gso_is_broken {
                    info!(%error, "segmentation offload does not work here; going on without");
                    self.gso_is_broken = true;
                }
            }
            Err(error) => self.failed(counters, run, run.segments(), &error),
        }
    }

    /// Counts datagrams that were sent without GSO; whether the first one left.
    fn settle_singly(
        &mut self,
        counters: &mut IoCounters,
        run: &Run<'_>,
        outcomes: impl IntoIterator<Item = Result<(), Error>>,
    ) -> bool {
        let mut first_left = None;
        for (datagram, outcome) in run.datagrams().zip(outcomes) {
            first_left.get_or_insert(outcome.is_ok());
            match outcome {
                Ok(()) => counters.count_sent(1, datagram.len()),
                Err(error) => self.failed(counters, run, 1, &error),
            }
        }
        first_left == Some(true)
    }

    fn failed(&mut self, counters: &mut IoCounters, run: &Run<'_>, datagrams: usize, error: &Error) {
        counters.send_failures.count(error, datagrams as u64);
        self.failed += 1;
        self.say_rarely(&run.path, error);
    }

    /// Logs the 1st, 2nd, 4th, 8th … failure: a flood of them is a few lines, and no clock is needed.
    fn say_rarely(&self, path: &Path, error: &Error) {
        if self.failed.is_power_of_two() {
            debug!(remote = %path.remote, %error, times = self.failed, "sending failed");
        } else {
            trace!(remote = %path.remote, %error, "sending failed");
        }
    }
}

/// What the kernel answers where a device or a path cannot segment (`udp_send_skb`).
fn may_be_about_gso(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(bytes: &[u8]) -> Run<'_> {
        Run { path: Path { remote: ([10, 0, 0, 1], 4_000).into(), local: None }, segment_size: 100, bytes }
    }

    fn refused(code: i32) -> Result<(), Error> {
        Err(Error::from_raw_os_error(code))
    }

    #[test]
    fn a_path_that_takes_nothing_does_not_cost_gso() {
        let (mut outcomes, mut counters) = (Outcomes::default(), IoCounters::default());
        let one_by_one = || (0..3).map(|_| refused(libc::EINVAL));
        outcomes.settle(&mut counters, &run_of(&[7; 300]), refused(libc::EINVAL), one_by_one);
        assert!(!outcomes.gso_is_broken);
        assert_eq!((counters.sent_datagrams, counters.send_failures.other), (0, 3));
    }

    #[test]
    fn datagrams_that_leave_singly_and_not_as_a_run_show_that_gso_is_broken() {
        let (mut outcomes, mut counters) = (Outcomes::default(), IoCounters::default());
        let one_by_one = || [Ok(()), refused(libc::EAGAIN), Ok(())];
        outcomes.settle(&mut counters, &run_of(&[7; 250]), refused(libc::EIO), one_by_one);
        assert!(outcomes.gso_is_broken);
        assert_eq!((counters.sent_datagrams, counters.sent_bytes, counters.send_calls), (2, 150, 2));
        assert_eq!(counters.send_failures.buffer_full, 1);
    }

    #[test]
    fn a_full_buffer_is_not_sent_again() {
        let (mut outcomes, mut counters) = (Outcomes::default(), IoCounters::default());
        let nobody = || -> [_; 0] { panic!("sent again") };
        outcomes.settle(&mut counters, &run_of(&[7; 300]), refused(libc::EAGAIN), nobody);
        assert_eq!((counters.sent_datagrams, counters.send_failures.buffer_full), (0, 3));
    }
}
