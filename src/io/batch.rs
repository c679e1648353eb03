//! Transmit memory: datagrams are written one behind the other, so that what goes to one place is already
//! the contiguous run that GSO wants, and nothing is copied to make it so.
//!
//! A run is what one `sendmsg` with `UDP_SEGMENT` may carry (`net/ipv4/udp.c`, `udp_send_skb`): datagrams
//! of equal size but for the last, which may be shorter, at most 64 of them, at most one maximal UDP
//! payload together. Only neighbours join a run: sorting by destination is the caller's business (it
//! processes packets per subscriber), and not doing it here is what keeps order.
//!
//! Pure: no socket and no clock. Memory is allocated once.

use super::{DATAGRAM_BYTES_MAX, Path};

/// `UDP_MAX_SEGMENTS` of Linux 4.18 to 6.8; later kernels accept 128, with no gain at that length.
pub const SEGMENTS_MAX: usize = 64;

/// Bytes per batch: a thousand audio packets or a hundred video packets, and small enough to be in the L2
/// cache still when the kernel copies it. A full batch is flushed, so this bounds memory, not throughput.
const BATCH_BYTES: usize = 128 * 1024;

/// Runs per batch: one per destination in the worst case, an audio packet to each of 1,024 listeners.
pub(super) const BATCH_RUNS: usize = 1_024;

/// Transmit memory and the runs in it.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    /// The committed bytes are those before this.
    filled: usize,
    runs: Vec<Extent>,
    reserved: Option<Reservation>,
    segments_max: usize,
}

/// A run as places in the memory.
#[derive(Debug)]
struct Extent {
    path: Path,
    start: usize,
    end: usize,
    segment_size: usize,
    segments: usize,
}

#[derive(Debug, Clone, Copy)]
struct Reservation {
    path: Path,
    len: usize,
}

/// Datagrams to one path that may leave in one send: `bytes` cut every `segment_size`, only the last piece
/// may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub path: Path,
    pub segment_size: usize,
    pub bytes: &'a [u8],
}

impl<'a> Run<'a> {
    pub fn segments(&self) -> usize {
        self.bytes.len().div_ceil(self.segment_size)
    }

    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks(self.segment_size)
    }
}

impl Batch {
    /// `segments_max` is what the backend can send at once: 1 without GSO, at most [`SEGMENTS_MAX`].
    pub fn new(segments_max: usize) -> Self {
        Self {
            bytes: vec![0; BATCH_BYTES].into_boxed_slice(),
            filled: 0,
            runs: Vec::with_capacity(BATCH_RUNS),
            reserved: None,
            segments_max: segments_max.clamp(1, SEGMENTS_MAX),
        }
    }

    /// Lowers or raises the limit for runs that begin or grow from here on.
    pub fn set_segments_max(&mut self, segments_max: usize) {
        self.segments_max = segments_max.clamp(1, SEGMENTS_MAX);
    }

    /// Whether a datagram of `len` bytes fits without a flush.
    pub fn has_room(&self, len: usize) -> bool {
        self.runs.len() < BATCH_RUNS && len <= self.bytes.len() - self.filled
    }

    /// Exactly `len` bytes behind what is committed; see [`super::Io::reserve`]. `None` if there is no room or
    /// no datagram can be that long.
    pub fn reserve(&mut self, path: &Path, len: usize) -> Option<&mut [u8]> {
        self.reserved = None;
        if len > DATAGRAM_BYTES_MAX || !self.has_room(len) {
            return None;
        }
        let memory = self.bytes.get_mut(self.filled..)?.get_mut(..len)?;
        self.reserved = Some(Reservation { path: *path, len });
        Some(memory)
    }

    /// Makes the first `len` reserved bytes a datagram; see [`super::Io::commit`].
    pub fn commit(&mut self, len: usize) {
        let Some(reservation) = self.reserved.take() else {
            debug_assert!(len == 0, "a commit belongs to a reservation");
            return;
        };
        debug_assert!(len <= reservation.len, "committed more than was reserved");
        let len = len.min(reservation.len);
        if len == 0 {
            return;
        }
        let start = self.filled;
        self.filled += len;
        match self.runs.last_mut() {
            Some(run) if run.takes(&reservation.path, len, self.segments_max) => run.grow(len),
            _ => self.runs.push(Extent::new(reservation.path, start, len)),
        }
    }

    /// The runs, in order of their first commit.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.runs.iter().filter_map(|run| {
            let bytes = self.bytes.get(run.start..run.end)?;
            Some(Run { path: run.path, segment_size: run.segment_size, bytes })
        })
    }

    /// Forgets everything, the open reservation too.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.runs.clear();
        self.reserved = None;
    }
}

impl Extent {
    fn new(path: Path, start: usize, len: usize) -> Self {
        Self { path, start, end: start + len, segment_size: len, segments: 1 }
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether a datagram of `len` bytes may follow in the same send.
    fn takes(&self, path: &Path, len: usize, segments_max: usize) -> bool {
        let ended_by_a_shorter_one = self.len() < self.segments * self.segment_size;
        self.segments < segments_max
            && len <= self.segment_size
            && !ended_by_a_shorter_one
            && self.len() + len <= DATAGRAM_BYTES_MAX
            && self.path == *path
    }

    fn grow(&mut self, len: usize) {
        self.end += len;
        self.segments += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn path(host: u8) -> Path {
        Path { remote: ([10, 0, 0, host], 4_000).into(), local: None }
    }

    fn push(batch: &mut Batch, path: &Path, bytes: &[u8]) -> bool {
        let Some(memory) = batch.reserve(path, bytes.len()) else { return false };
        memory.copy_from_slice(bytes);
        batch.commit(bytes.len());
        true
    }

    fn shape(batch: &Batch) -> Vec<(usize, usize)> {
        batch.runs().map(|run| (run.segment_size, run.bytes.len())).collect()
    }

    #[test]
    fn a_shorter_datagram_ends_its_run() {
        let mut batch = Batch::new(SEGMENTS_MAX);
        for len in [100, 100, 40, 40, 100] {
            assert!(push(&mut batch, &path(1), &vec![7; len]));
        }
        assert_eq!(shape(&batch), [(100, 240), (40, 40), (100, 100)]);
    }

    #[test]
    fn another_path_or_another_source_address_begins_a_run() {
        let mut batch = Batch::new(SEGMENTS_MAX);
        let from_elsewhere = Path { local: Some([10, 0, 0, 9].into()), ..path(1) };
        for to in [path(1), path(2), path(1), from_elsewhere] {
            assert!(push(&mut batch, &to, &[7; 100]));
        }
        assert_eq!(shape(&batch), [(100, 100); 4]);
    }

    #[test]
    fn a_run_holds_at_most_64_segments_and_65507_bytes() {
        let mut batch = Batch::new(1_000);
        (0..65).for_each(|_| assert!(push(&mut batch, &path(1), &[7; 100])));
        assert_eq!(shape(&batch), [(100, 6_400), (100, 100)]);

        let mut batch = Batch::new(SEGMENTS_MAX);
        (0..7).for_each(|_| assert!(push(&mut batch, &path(1), &[7; 10_000])));
        assert_eq!(shape(&batch), [(10_000, 60_000), (10_000, 10_000)]);
    }

    #[test]
    fn without_gso_every_datagram_is_a_run() {
        let mut batch = Batch::new(1);
        (0..3).for_each(|_| assert!(push(&mut batch, &path(1), &[7; 100])));
        assert_eq!(shape(&batch), [(100, 100); 3]);
    }

    #[test]
    fn a_reservation_without_a_commit_leaves_no_trace() {
        let mut batch = Batch::new(SEGMENTS_MAX);
        batch.reserve(&path(1), 1_000).unwrap().fill(1);
        batch.reserve(&path(2), 1_000).unwrap().fill(2);
        batch.commit(300);
        batch.reserve(&path(3), 1_000).unwrap().fill(3);
        batch.commit(0);
        let runs: Vec<_> = batch.runs().collect();
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].path, runs[0].bytes), (path(2), &[2; 300][..]));
    }

    #[test]
    fn too_long_and_full_are_refused_and_a_clear_makes_room() {
        let mut batch = Batch::new(SEGMENTS_MAX);
        assert!(batch.reserve(&path(1), DATAGRAM_BYTES_MAX + 1).is_none());
        assert!(push(&mut batch, &path(1), &[7; DATAGRAM_BYTES_MAX]));
        assert!(push(&mut batch, &path(1), &[7; DATAGRAM_BYTES_MAX]));
        assert!(!push(&mut batch, &path(1), &[7; DATAGRAM_BYTES_MAX]));
        batch.clear();
        assert_eq!(batch.runs().count(), 0);
        for n in 0..BATCH_RUNS {
            assert!(push(&mut batch, &path((n % 2) as u8), &[7; 1]));
        }
        assert!(!push(&mut batch, &path(1), &[7; 1]), "room for no more runs");
    }

    /// Datagrams as (destination, length, how much more was reserved than committed).
    fn datagrams() -> impl Strategy<Value = Vec<(u8, usize, usize)>> {
        let len = prop_oneof![4 => Just(120_usize), 2 => Just(1_200), 2 => 0_usize..1_500, 1 => 10_000_usize..20_000];
        prop::collection::vec((0_u8..3, len, 0_usize..100), 0..200)
    }

    proptest! {
        #[test]
        fn runs_are_legal_for_gso_and_split_into_what_was_committed(
            datagrams in datagrams(), segments_max in 1_usize..100,
        ) {
            let mut batch = Batch::new(segments_max);
            let mut committed: HashMap<Path, Vec<Vec<u8>>> = HashMap::new();
            for (n, &(host, len, spare)) in datagrams.iter().enumerate() {
                let Some(memory) = batch.reserve(&path(host), len + spare) else { continue };
                prop_assert_eq!(memory.len(), len + spare);
                memory.fill(n as u8);
                batch.commit(len);
                if len > 0 {
                    committed.entry(path(host)).or_default().push(vec![n as u8; len]);
                }
            }
            let mut left: HashMap<Path, Vec<Vec<u8>>> = HashMap::new();
            for run in batch.runs() {
                prop_assert!((1..=segments_max.min(SEGMENTS_MAX)).contains(&run.segments()));
                prop_assert!(run.bytes.len() <= DATAGRAM_BYTES_MAX);
                let sizes: Vec<_> = run.datagrams().map(<[u8]>::len).collect();
                let (last, others) = sizes.split_last().unwrap();
                prop_assert!(others.iter().all(|&size| size == run.segment_size));
                prop_assert!((1..=run.segment_size).contains(last));
                left.entry(run.path).or_default().extend(run.datagrams().map(<[u8]>::to_vec));
            }
            prop_assert_eq!(left, committed);
        }
    }
}
