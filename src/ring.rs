//! How bytes cross from one thread to another: a single-producer, single-consumer ring of
//! variable-length records. Between shards it carries packets and feedback; between a shard and
//! control, punted datagrams and the replies to them.
//!
//! What it costs is what a batch costs: each side keeps its own copy of the other's position and
//! looks again only when that copy says full (or empty), and one release store publishes a whole
//! batch. So the two cache lines that both threads touch move once per batch and not once per record.
//!
//! Layout: every record is one 8-byte word with its length, then its bytes, padded to a word. A record
//! is never split over the end of the memory: the word `WRAP` sends the reader back to the start.
//! Positions count bytes from the ring's creation and are reduced only to address memory, so that
//! full and empty differ; being multiples of 8 they leave bit 0 to say that their owner is gone.
//!
//! Deliberately absent: blocking and waking. A consumer that wants to sleep raises a flag of its own,
//! passes a `SeqCst` fence and asks `is_empty`; the producer calls `publish`, passes a `SeqCst` fence and
//! looks at that flag. Without both fences each can miss the other. `tests/loom` proves the ring and this.
#![allow(
    unsafe_code,
    reason = "two threads share one piece of memory and agree by position whose turn it is"
)]

use std::cell::UnsafeCell;

use crossbeam_utils::CachePadded;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Shadow};

/// The unit of space: length prefixes stay aligned, and a wrap mark fits wherever a record ends.
const WORD: usize = size_of::<u64>();

/// Stands where a length would, when the next record did not fit before the end of the memory.
const WRAP: u64 = u64::MAX;

/// Bit of a position whose owner has been dropped.
const GONE: usize = 1;

/// The smallest ring, in bytes: room for two of its longest records.
const CAPACITY_MIN: usize = 64;

struct Shared {
    /// Written by the producer, read by the consumer: records before it are whole.
    published: CachePadded<AtomicUsize>,
    /// Written by the consumer, read by the producer: memory before it is free again. It need not
    /// agree with `published` at any instant: each only ever runs towards the other's last known value.
    released: CachePadded<AtomicUsize>,
    words: Box<[UnsafeCell<u64>]>,
    shadow: Shadow,
}

// SAFETY: `words` is the only part that is not an atomic. The one `Producer` writes words from
// `published` up to `released` + capacity, the one `Consumer` reads words from `released` up to
// `published`; these ranges are disjoint and pass from one to the other by release and acquire.
unsafe impl Sync for Shared {}

/// The writing end.
pub struct Producer {
    shared: Arc<Shared>,
    /// End of the record that `reserve` has laid out; equal to `committed` if there is none.
    reserved: usize,
    /// End of the last committed record.
    committed: usize,
    /// What the consumer was last told.
    published: usize,
    /// What the consumer had released when this end last looked.
    released_seen: usize,
}

/// The reading end.
pub struct Consumer {
    shared: Arc<Shared>,
    /// Start of the next record.
    at: usize,
    /// What the producer was last told.
    released: usize,
    /// What the producer had published when this end last looked.
    published_seen: usize,
}

/// A ring of at least `capacity_bytes`, rounded up to a power of two. A record of n bytes takes
/// 8 + n, rounded up to 8; the memory is zeroed by the allocator and costs nothing until used.
pub fn ring(capacity_bytes: usize) -> (Producer, Consumer) {
    let capacity = capacity_bytes.max(CAPACITY_MIN).next_power_of_two();
    let shared = Arc::new(Shared {
        published: CachePadded::new(AtomicUsize::new(0)),
        released: CachePadded::new(AtomicUsize::new(0)),
        words: zeroed_words(capacity / WORD),
        shadow: Shadow::new(capacity / WORD),
    });
    let producer =
        Producer { shared: shared.clone(), reserved: 0, committed: 0, published: 0, released_seen: 0 };
    (producer, Consumer { shared, at: 0, released: 0, published_seen: 0 })
}

/// `vec![0; n]` is the safe way to fresh pages that nobody has touched; it knows no `UnsafeCell`.
fn zeroed_words(count: usize) -> Box<[UnsafeCell<u64>]> {
    let words = Box::into_raw(vec![0u64; count].into_boxed_slice());
    // SAFETY: the pointer is the box's own, given up the line above, and `UnsafeCell<u64>` has the
    // same layout as `u64`.
    unsafe { Box::from_raw(words as *mut [UnsafeCell<u64>]) }
}

impl Producer {
    /// Space for one record of exactly `len` bytes, holding whatever was there before; `None` if the
    /// ring is full or `len` exceeds [`max_record`](Self::max_record). Nothing is kept until
    /// [`commit`](Self::commit): reserving again starts over in the same place.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.reserved = self.committed;
        if len > self.max_record() {
            return None;
        }
        let (space, room) = (space_of(len), self.shared.room_before_end(self.committed));
        let start = if space <= room { self.committed } else { self.committed.wrapping_add(room) };
        let end = start.wrapping_add(space);
        if !self.is_free_until(end) {
            return None;
        }
        // SAFETY: the consumer has released the memory that positions up to `end` fall on, and reads none
        // of it again before `publish` covers it.
        unsafe {
            if start != self.committed {
                self.shared.set_word(self.committed, WRAP);
            }
            self.shared.set_word(start, len as u64);
        }
        self.reserved = end;
        let payload = start.wrapping_add(WORD);
        self.shared.shadow.write(words(start, end));
        // SAFETY: as above; the borrow of `self` keeps this end from touching the record meanwhile, and
        // `end` lies at most one capacity after `start` without crossing the end of the memory.
        Some(unsafe { std::slice::from_raw_parts_mut(self.shared.bytes_at(payload), len) })
    }

    /// Keeps the record last reserved, for the next `publish`; without one it does nothing.
    #[inline]
    pub fn commit(&mut self) {
        self.shared.shadow.write(words(self.committed, self.reserved));
        self.committed = self.reserved;
    }

    /// Makes all committed records visible by one store. True if there were any, so that the caller
    /// rings the other thread's bell once per batch. What is committed but not published when this end
    /// is dropped is lost.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.committed == self.published {
            return false;
        }
        self.published = self.committed;
        // Release: the records are whole before the position that shows them.
        self.shared.published.store(self.published, Ordering::Release);
        true
    }

    /// The longest record that an empty ring takes wherever its position happens to be, in bytes:
    /// half the capacity, since up to the other half is skipped at the end of the memory.
    #[inline]
    pub fn max_record(&self) -> usize {
        self.shared.capacity() / 2 - WORD
    }

    /// The consumer was dropped: nobody will read what is published.
    pub fn is_abandoned(&self) -> bool {
        // Relaxed: nothing is read on the strength of it.
        self.shared.released.load(Ordering::Relaxed) & GONE != 0
    }

    #[inline]
    fn is_free_until(&mut self, end: usize) -> bool {
        let capacity = self.shared.capacity();
        if end.wrapping_sub(self.released_seen) > capacity {
            // Acquire: the consumer's reads are over before this end writes there again.
            self.released_seen = self.shared.released.load(Ordering::Acquire) & !GONE;
        }
        end.wrapping_sub(self.released_seen) <= capacity
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Release: a consumer that sees the bit sees all that was published before.
        self.shared.published.store(self.published | GONE, Ordering::Release);
    }
}

impl Consumer {
    /// The next record, in the order of commits; `None` if none is published. Its memory goes back to
    /// the producer only by [`release`](Self::release).
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "an Iterator cannot lend from itself")]
    pub fn next(&mut self) -> Option<&[u8]> {
        if self.at == self.published_seen {
            // Acquire: the records before the position are whole.
            self.published_seen = self.shared.published.load(Ordering::Acquire) & !GONE;
            if self.at == self.published_seen {
                return None;
            }
        }
        // SAFETY: memory from `at` to `published_seen` holds whole records, which the producer leaves
        // alone until `release` passes `at` on; a wrap mark is published only with a record after it.
        let (start, len) = unsafe { self.shared.record_at(self.at) };
        let (payload, end) = (start.wrapping_add(WORD), start.wrapping_add(space_of(len)));
        self.at = end;
        self.shared.shadow.read(words(start, end));
        // SAFETY: as above; `release` needs `&mut self`, so the borrow ends first.
        Some(unsafe { std::slice::from_raw_parts(self.shared.bytes_at(payload), len) })
    }

    /// Gives the memory of all records read so far back to the producer. Once per batch.
    #[inline]
    pub fn release(&mut self) {
        if self.released != self.at {
            self.shared.shadow.read(words(self.released, self.at));
            self.released = self.at;
            // Release: this end's reads are over before the producer writes there again.
            self.shared.released.store(self.released, Ordering::Release);
        }
    }

    /// Nothing is published that `next` has not returned.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: only `next` reads records, and it looks again for itself if it must.
        self.at == self.published_seen && self.at == self.shared.published.load(Ordering::Relaxed) & !GONE
    }

    /// The producer was dropped. Records may be left: all there will ever be, `next` returns.
    pub fn is_abandoned(&self) -> bool {
        // Relaxed: `next` looks at the same atomic again, and never finds an older value.
        self.shared.published.load(Ordering::Relaxed) & GONE != 0
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Release: the producer takes the position from this store too.
        self.shared.released.store(self.released | GONE, Ordering::Release);
    }
}

impl Shared {
    #[inline]
    fn capacity(&self) -> usize {
        self.words.len() * WORD
    }

    /// Where `position` lies in memory, in words.
    #[inline]
    fn index(&self, position: usize) -> usize {
        (position & (self.capacity() - 1)) / WORD
    }

    /// Bytes from `position` to where the memory ends: never 0.
    #[inline]
    fn room_before_end(&self, position: usize) -> usize {
        self.capacity() - (position & (self.capacity() - 1))
    }

    #[inline]
    fn bytes_at(&self, position: usize) -> *mut u8 {
        // The pointer comes from the whole slice: one to a single word must not be used beyond it.
        UnsafeCell::raw_get(self.words.as_ptr().wrapping_add(self.index(position))).cast()
    }

    /// # Safety
    /// The word at `position`, a multiple of 8, is the caller's to write.
    #[inline]
    unsafe fn set_word(&self, position: usize, value: u64) {
        self.shadow.write((position / WORD, 1));
        // SAFETY: `index` lies within `words`, and the caller vouches for the rest.
        unsafe { self.bytes_at(position).cast::<u64>().write(value) }
    }

    /// # Safety
    /// The word at `position`, a multiple of 8, is the caller's to read.
    #[inline]
    unsafe fn word(&self, position: usize) -> u64 {
        self.shadow.read((position / WORD, 1));
        // SAFETY: `index` lies within `words`, and the caller vouches for the rest.
        unsafe { self.bytes_at(position).cast::<u64>().read() }
    }

    /// Start and length of the record at `position`, or behind the wrap mark there.
    ///
    /// # Safety
    /// A published record or wrap mark begins at `position`.
    #[inline]
    unsafe fn record_at(&self, position: usize) -> (usize, usize) {
        // SAFETY: what is published may be read; after a wrap mark comes its record.
        unsafe {
            match self.word(position) {
                WRAP => {
                    let start = position.wrapping_add(self.room_before_end(position));
                    (start, self.word(start) as usize)
                }
                len => (position, len as usize),
            }
        }
    }
}

/// Bytes that a record of `len` takes: its prefix, and itself up to the next word.
#[inline]
fn space_of(len: usize) -> usize {
    WORD + len.next_multiple_of(WORD)
}

/// The words between two positions, as [`Shadow`] counts them: first and how many.
#[inline]
fn words(start: usize, end: usize) -> (usize, usize) {
    (start / WORD, end.wrapping_sub(start) / WORD)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// A ring as it is after `position` bytes, so that positions are seen to overflow.
    fn ring_at(capacity: usize, position: usize) -> (Producer, Consumer) {
        let (mut producer, mut consumer) = ring(capacity);
        producer.shared.published.store(position, Ordering::Relaxed);
        producer.shared.released.store(position, Ordering::Relaxed);
        (producer.reserved, producer.committed) = (position, position);
        (producer.published, producer.released_seen) = (position, position);
        (consumer.at, consumer.released, consumer.published_seen) = (position, position, position);
        (producer, consumer)
    }

    fn put(producer: &mut Producer, record: &[u8]) -> bool {
        let Some(space) = producer.reserve(record.len()) else { return false };
        space.copy_from_slice(record);
        producer.commit();
        true
    }

    #[test]
    fn the_longest_record_fits_an_empty_ring_wherever_it_stands_and_a_longer_one_never() {
        for position in (0..256).step_by(WORD) {
            let (mut producer, mut consumer) = ring_at(128, position);
            let longest = vec![7; producer.max_record()];
            assert_eq!(longest.len(), 56);
            assert!(producer.reserve(longest.len() + 1).is_none());
            assert!(producer.reserve(usize::MAX).is_none());
            assert!(put(&mut producer, &longest) && producer.publish());
            assert_eq!(consumer.next(), Some(&longest[..]));
        }
    }

    #[test]
    fn capacity_is_rounded_up_and_used_to_the_last_byte() {
        let (mut producer, mut consumer) = ring(65);
        assert_eq!(producer.shared.capacity(), 128);
        (0..4).for_each(|n| assert!(put(&mut producer, &[n; 24])));
        assert!(!put(&mut producer, &[]), "the ring is full");
        producer.publish();
        (0..4).for_each(|n| assert_eq!(consumer.next(), Some(&[n; 24][..])));
        assert!(!put(&mut producer, &[]), "read and not released");
        consumer.release();
        assert!(put(&mut producer, &[]));
    }

    #[test]
    fn each_end_knows_that_the_other_is_gone() {
        let (producer, consumer) = ring(64);
        assert!(!producer.is_abandoned() && !consumer.is_abandoned());
        drop(producer);
        assert!(consumer.is_abandoned() && consumer.is_empty());
        let (mut producer, consumer) = ring(64);
        drop(consumer);
        assert!(producer.is_abandoned());
        assert!(put(&mut producer, &[1; 24]) && producer.publish(), "writing on does no harm");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(usize),
        ReserveOnly(usize),
        Publish,
        Next,
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..70).prop_map(Step::Put),
            1 => (0usize..70).prop_map(Step::ReserveOnly),
            2 => Just(Step::Publish),
            4 => Just(Step::Next),
            2 => Just(Step::Release),
        ]
    }

    /// What a ring is supposed to be, and the bytes its records take until they are released.
    #[derive(Default)]
    struct Model {
        committed: Vec<Vec<u8>>,
        published: VecDeque<Vec<u8>>,
        bytes_unreleased: usize,
        bytes_read: usize,
    }

    proptest! {
        #[test]
        fn a_ring_does_what_a_queue_of_vectors_does(
            words_done in prop_oneof![0usize..32, usize::MAX / WORD - 32..usize::MAX / WORD],
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let (mut producer, mut consumer) = ring_at(128, words_done * WORD);
            let mut model = Model::default();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put(len) => {
                        let record = vec![n as u8; len];
                        if put(&mut producer, &record) {
                            model.bytes_unreleased += space_of(len);
                            prop_assert!(model.bytes_unreleased <= 128);
                            model.committed.push(record);
                        } else {
                            prop_assert!(len > producer.max_record() || model.bytes_unreleased > 0);
                        }
                    }
                    Step::ReserveOnly(len) => {
                        producer.reserve(len).into_iter().for_each(|space| space.fill(0xee));
                    }
                    Step::Publish => {
                        prop_assert_eq!(producer.publish(), !model.committed.is_empty());
                        model.published.extend(model.committed.drain(..));
                    }
                    Step::Next => {
                        prop_assert_eq!(consumer.is_empty(), model.published.is_empty());
                        let expected = model.published.pop_front();
                        model.bytes_read += expected.as_ref().map_or(0, |record| space_of(record.len()));
                        prop_assert_eq!(consumer.next(), expected.as_deref());
                    }
                    Step::Release => {
                        consumer.release();
                        model.bytes_unreleased -= std::mem::take(&mut model.bytes_read);
                    }
                }
            }
        }
    }

    /// The `n`th record of the stress test: any length that a ring of 1,024 bytes takes, any batch.
    fn nth_record(n: u64) -> (Vec<u8>, bool) {
        let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let len = (scattered >> 32) as usize % 505;
        (vec![(scattered >> 24) as u8; len], scattered >> 61 == 0)
    }

    #[test]
    fn two_threads_pass_a_hundred_thousand_records_without_losing_or_tearing_one() {
        const RECORDS: u64 = 100_000;
        let (mut producer, mut consumer) = ring(1024);
        let writing = thread::spawn(move || {
            for n in 0..RECORDS {
                let (record, ends_batch) = nth_record(n);
                while !put(&mut producer, &record) {
                    producer.publish();
                    thread::yield_now();
                }
                if ends_batch {
                    producer.publish();
                }
            }
            producer.publish();
        });
        for n in 0..RECORDS {
            let (record, ends_batch) = nth_record(n);
            while consumer.is_empty() {
                consumer.release();
                thread::yield_now();
            }
            assert_eq!(consumer.next(), Some(&record[..]), "record {n}");
            if ends_batch {
                consumer.release();
            }
        }
        writing.join().unwrap();
        assert!(consumer.is_abandoned() && consumer.next().is_none());
    }
}
