//! Which shards hold subscribers of a track: the table that control writes and every shard reads, one
//! acquire load per packet and no lock.
//!
//! An entry never changes: control publishes another in its place and retires the old one, which shards
//! may still be reading. It is freed by quiescent-state-based reclamation: every publication advances
//! an epoch; a shard copies the epoch once per turn, when it holds no entry; so a retired entry has no
//! reader once every shard has copied an epoch at least as late. A shard about to block says that it is
//! offline instead, and nobody waits for it.
//!
//! The same wait gives control its promises. When [`Writer::has_passed`] says so of a publication, every
//! shard has seen it: a new subscriber's packets flow, a removed one's shard may let go of it.
//!
//! Relies on: one `Reader` per shard, with `quiescent` called every turn. Deliberately absent: a second
//! writer, growth (the capacity is the server's limit of tracks), and waiting: control asks again later.
#![allow(unsafe_code, reason = "readers hold plain references into memory that another thread frees")]

use std::collections::VecDeque;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use crossbeam_utils::CachePadded;

use crate::id::{ShardId, TrackKey};
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
use crate::sync::{Arc, Shadow};

/// The most shards one process can run: above the cores of any one socket sold, and it keeps a
/// [`ShardSet`] at half a cache line.
pub const MAX_SHARDS: usize = 256;

const SET_WORDS: usize = MAX_SHARDS / u64::BITS as usize;

/// The epoch of a reader that holds no entry and will look afresh: later than any other.
const OFFLINE: u64 = u64::MAX;

/// A set of shards.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardSet([u64; SET_WORDS]);

/// What the table says of one track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: TrackKey,
    pub subscribers: ShardSet,
}

/// An entry where readers find it; aligned so that reading one costs one cache line.
#[repr(align(64))]
struct Node {
    entry: Entry,
    shadow: Shadow,
}

/// One publication: what it says is settled once every reader has passed a quiescent point since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grace(u64);

struct Retired {
    since: Grace,
    node: NonNull<Node>,
}

struct Shared {
    /// Written by the writer, read by readers; null is no entry. A slot stands alone.
    slots: Box<[AtomicPtr<Node>]>,
    /// Written by the writer after each change of a slot, read by readers: whoever sees an epoch sees
    /// the changes up to it.
    epoch: CachePadded<AtomicU64>,
    /// One per reader, written by it alone, read by the writer: the last epoch it copied between two
    /// uses of the table, or `OFFLINE`. Padded, since shards write theirs while others write theirs.
    readers: Box<[CachePadded<AtomicU64>]>,
    /// What the writer had retired but not freed when it was dropped. Set once, then; read by nobody
    /// but `drop`.
    orphans: OnceLock<VecDeque<Retired>>,
}

// SAFETY: nodes are plain data that is never written once a slot points to it, and that is freed by the
// writer or by the last owner, when no reader holds it; the rest are atomics and a `OnceLock`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Control's end.
pub struct Writer {
    shared: Arc<Shared>,
    epoch: u64,
    retired: VecDeque<Retired>,
}

// SAFETY: the pointers in `retired` are owned; see `Shared`.
unsafe impl Send for Writer {}

/// One shard's end. It is online from the start: until the shard's first quiescent point, or until this
/// is dropped, no grace passes.
pub struct Reader {
    shared: Arc<Shared>,
    index: usize,
    /// What `readers[index]` says.
    epoch: u64,
    #[cfg(loom)]
    held: std::cell::RefCell<Vec<Shadow>>,
}

/// A table of `capacity` tracks, with `shards` readers (at most [`MAX_SHARDS`]).
pub fn table(capacity: usize, shards: usize) -> (Writer, Vec<Reader>) {
    assert!(shards <= MAX_SHARDS, "the configuration allows no more than MAX_SHARDS shards");
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| AtomicPtr::new(ptr::null_mut())).collect(),
        epoch: CachePadded::new(AtomicU64::new(0)),
        readers: (0..shards).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
        orphans: OnceLock::new(),
    });
    let readers = (0..shards).map(|index| Reader::new(shared.clone(), index)).collect();
    (Writer { shared, epoch: 0, retired: VecDeque::new() }, readers)
}

impl Writer {
    /// Puts `entry` in the place of what its index held. The index must be below the capacity.
    pub fn publish(&mut self, entry: Entry) -> Grace {
        let node = Box::new(Node { entry, shadow: Shadow::new(1) });
        node.shadow.write((0, 1));
        self.replace(entry.key.index, Box::into_raw(node))
    }

    /// Leaves `index`, which must be below the capacity, without an entry.
    pub fn remove(&mut self, index: u32) -> Grace {
        self.replace(index, ptr::null_mut())
    }

    fn replace(&mut self, index: u32, node: *mut Node) -> Grace {
        let slot =
            self.shared.slots.get(index as usize).expect("control gives out indices below the capacity");
        // Release: a reader that finds the node finds it written. Nothing is acquired: what was there
        // this thread put there.
        let old = slot.swap(node, Ordering::Release);
        self.epoch += 1;
        // Release: a reader that copies this epoch finds the slot changed. So what it says by copying it
        // is "I hold nothing older", and its next `get` sees at least this.
        self.shared.epoch.store(self.epoch, Ordering::Release);
        // The other half of the fence in `Reader::go_online`. The change above comes before the loads of
        // readers' epochs to come, there their store comes before the loads of slots: so if this thread
        // still reads OFFLINE of a reader that is back, that reader sees the change.
        fence(Ordering::SeqCst);
        let since = Grace(self.epoch);
        if let Some(node) = NonNull::new(old) {
            self.retired.push_back(Retired { since, node });
        }
        since
    }

    /// Every reader has passed a quiescent point since that publication, or has been offline: whatever
    /// they read from here on is that publication or a later one, and nothing older is in use.
    pub fn has_passed(&self, grace: Grace) -> bool {
        self.passed() >= grace
    }

    /// Frees what no reader can hold, and says how many entries that were. Cheap enough for every tick.
    pub fn reclaim(&mut self) -> usize {
        let passed = self.passed();
        let freeable = self.retired.partition_point(|retired| retired.since <= passed);
        for Retired { node, .. } in self.retired.drain(..freeable) {
            // SAFETY: no slot holds the node since `since`, and every reader has given up what it found
            // before that.
            unsafe { free(node) };
        }
        freeable
    }

    /// The latest publication that has passed, with all before it.
    fn passed(&self) -> Grace {
        // Acquire: a reader's last use of an entry is over before the writer frees it.
        let epochs = self.shared.readers.iter().map(|reader| reader.load(Ordering::Acquire));
        Grace(epochs.min().unwrap_or(OFFLINE))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.orphans.get_or_init(|| std::mem::take(&mut self.retired));
    }
}

impl Reader {
    fn new(shared: Arc<Shared>, index: usize) -> Self {
        Self {
            shared,
            index,
            epoch: 0,
            #[cfg(loom)]
            held: Default::default(),
        }
    }

    /// The entry at `index`: its key's generation says which track that is. The borrow keeps this
    /// reader from passing a quiescent point.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&Entry> {
        // Acquire: the node was written before the pointer.
        let node = self.shared.slots.get(index as usize)?.load(Ordering::Acquire);
        // SAFETY: the pointer is null or the writer's, which frees the node only when this reader has
        // passed a quiescent point or gone offline after the slot changed; both need `&mut self`.
        let node = unsafe { node.as_ref()? };
        self.hold(node);
        Some(&node.entry)
    }

    /// Once per turn: nothing of the table is in use here. One load, and a store if control published.
    #[inline]
    pub fn quiescent(&mut self) {
        // Acquire: pairs with the store in `Writer::replace`, see there.
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if epoch != self.epoch {
            self.let_go();
            self.announce(epoch);
        }
    }

    /// Runs `wait`, which may block for as long as it likes: meanwhile the writer does not wait for this
    /// reader. A closure and not a pair of calls, so that no `get` can happen in between.
    pub fn offline<R>(&mut self, wait: impl FnOnce() -> R) -> R {
        struct Online<'a>(&'a mut Reader);
        impl Drop for Online<'_> {
            fn drop(&mut self) {
                self.0.go_online();
            }
        }
        self.let_go();
        self.announce(OFFLINE);
        let _online = Online(self);
        wait()
    }

    fn go_online(&mut self) {
        // Relaxed: the fence acquires what `quiescent` acquires by its load.
        self.announce(self.shared.epoch.load(Ordering::Relaxed));
        // The store of the epoch comes before any load of a slot, which nothing weaker can say; the other
        // half is in `Writer::replace`.
        fence(Ordering::SeqCst);
    }

    fn announce(&mut self, epoch: u64) {
        self.epoch = epoch;
        // Release: this reader's use of entries is over before the writer reads this. It holds for coming
        // online too, since the writer may never see the OFFLINE before it.
        self.shared.readers[self.index].store(epoch, Ordering::Release);
    }

    /// For loom, a use of `node` lasts from here to `let_go`, as the borrow in `get` may.
    #[inline(always)]
    fn hold(&self, node: &Node) {
        node.shadow.read((0, 1));
        #[cfg(loom)]
        self.held.borrow_mut().push(node.shadow.clone());
    }

    #[inline(always)]
    fn let_go(&mut self) {
        #[cfg(loom)]
        self.held.get_mut().drain(..).for_each(|shadow| shadow.read((0, 1)));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.let_go();
        self.announce(OFFLINE);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Relaxed: the last owner is alone, and dropping an `Arc` has ordered it after all others.
        let published = self.slots.iter().filter_map(|slot| NonNull::new(slot.load(Ordering::Relaxed)));
        let orphans = self.orphans.take().unwrap_or_default();
        for node in published.chain(orphans.into_iter().map(|retired| retired.node)) {
            // SAFETY: no reader is left, and a node is either in one slot or retired once.
            unsafe { free(node) };
        }
    }
}

/// # Safety
/// `node` came from `Writer::publish`, nobody holds it, and it is freed once.
unsafe fn free(node: NonNull<Node>) {
    // SAFETY: the caller says so.
    let node = unsafe { Box::from_raw(node.as_ptr()) };
    node.shadow.free();
}

impl ShardSet {
    pub const EMPTY: ShardSet = ShardSet([0; SET_WORDS]);

    /// The set and `shard`, which must be below [`MAX_SHARDS`].
    #[must_use]
    pub fn with(mut self, shard: ShardId) -> Self {
        *self.0.get_mut(word(shard)).expect("shard ids are below MAX_SHARDS") |= bit(shard);
        self
    }

    #[must_use]
    pub fn without(mut self, shard: ShardId) -> Self {
        if let Some(bits) = self.0.get_mut(word(shard)) {
            *bits &= !bit(shard);
        }
        self
    }

    pub fn contains(self, shard: ShardId) -> bool {
        self.0.get(word(shard)).is_some_and(|bits| bits & bit(shard) != 0)
    }

    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// Its members in ascending order; the cost is that of the members and not of [`MAX_SHARDS`].
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        self.0.into_iter().zip(0u16..).flat_map(|(mut bits, word)| {
            std::iter::from_fn(move || {
                let lowest = (bits != 0).then(|| bits.trailing_zeros() as u16)?;
                bits &= bits - 1;
                Some(ShardId(word * u64::BITS as u16 + lowest))
            })
        })
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(ShardId::index)).finish()
    }
}

fn word(shard: ShardId) -> usize {
    shard.index() / u64::BITS as usize
}

fn bit(shard: ShardId) -> u64 {
    1 << (shard.index() % u64::BITS as usize)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::{BTreeSet, HashMap};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u32 = 4;
    const SHARDS: usize = 3;

    /// An entry whose subscribers follow from its key, so that a torn or stale one shows.
    fn entry(index: u32, generation: u32) -> Entry {
        let subscribers = ShardSet::EMPTY
            .with(ShardId(generation as u16 % MAX_SHARDS as u16))
            .with(ShardId((generation >> 8) as u16 % MAX_SHARDS as u16));
        Entry { key: TrackKey { index, generation }, subscribers }
    }

    #[test]
    fn an_index_beyond_the_capacity_holds_nothing() {
        let (_writer, readers) = table(1, 1);
        assert_eq!(readers[0].get(0), None);
        assert_eq!(readers[0].get(1), None);
    }

    #[test]
    fn a_grace_passes_when_the_last_reader_is_dropped() {
        let (mut writer, readers) = table(1, 2);
        writer.publish(entry(0, 1));
        let grace = writer.remove(0);
        assert!(!writer.has_passed(grace));
        assert_eq!(writer.reclaim(), 0);
        drop(readers);
        assert!(writer.has_passed(grace));
        assert_eq!(writer.reclaim(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Publish(u32),
        PublishWhileOffline(u32, usize),
        Remove(u32),
        Quiescent(usize),
        Reclaim,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..CAPACITY).prop_map(Step::Publish),
            (0..CAPACITY, 0..SHARDS).prop_map(|(index, shard)| Step::PublishWhileOffline(index, shard)),
            (0..CAPACITY).prop_map(Step::Remove),
            (0..SHARDS).prop_map(Step::Quiescent),
            Just(Step::Reclaim),
        ]
    }

    /// A publication, the readers that have yet to pass, and whether it retired an entry.
    struct Publication {
        grace: Grace,
        waits_for: BTreeSet<usize>,
        retired: bool,
    }

    proptest! {
        #[test]
        fn a_table_does_what_a_map_does_and_frees_when_the_last_reader_has_passed(
            steps in proptest::collection::vec(step(), 0..100),
        ) {
            let (mut writer, mut readers) = table(CAPACITY as usize, SHARDS);
            let mut map = HashMap::new();
            let mut log: Vec<Publication> = Vec::new();
            for (generation, step) in (0..).zip(steps) {
                let everybody: BTreeSet<usize> = (0..SHARDS).collect();
                let mut publication = |grace, waits_for, old: Option<Entry>| {
                    log.push(Publication { grace, waits_for, retired: old.is_some() });
                };
                match step {
                    Step::Publish(index) => {
                        let new = entry(index, generation);
                        publication(writer.publish(new), everybody, map.insert(index, new));
                    }
                    Step::PublishWhileOffline(index, shard) => {
                        let new = entry(index, generation);
                        let grace = readers[shard].offline(|| writer.publish(new));
                        publication(grace, &everybody - &[shard].into(), map.insert(index, new));
                        log.iter_mut().for_each(|entry| _ = entry.waits_for.remove(&shard));
                    }
                    Step::Remove(index) => publication(writer.remove(index), everybody, map.remove(&index)),
                    Step::Quiescent(shard) => {
                        readers[shard].quiescent();
                        log.iter_mut().for_each(|entry| _ = entry.waits_for.remove(&shard));
                    }
                    Step::Reclaim => {
                        let free = |entry: &&mut Publication| entry.retired && entry.waits_for.is_empty();
                        let freed = log.iter_mut().filter(free).map(|entry| entry.retired = false).count();
                        prop_assert_eq!(writer.reclaim(), freed);
                    }
                }
                for (reader, index) in readers.iter().zip(0..CAPACITY) {
                    prop_assert_eq!(reader.get(index), map.get(&index));
                }
                for entry in &log {
                    prop_assert_eq!(writer.has_passed(entry.grace), entry.waits_for.is_empty());
                }
            }
        }

        #[test]
        fn a_shard_set_does_what_a_set_does(
            members in proptest::collection::btree_set(0u16..MAX_SHARDS as u16, 0..20),
            other in 0u16..MAX_SHARDS as u16,
        ) {
            let set = members.iter().fold(ShardSet::EMPTY, |set, &shard| set.with(ShardId(shard)));
            prop_assert!(set.iter().map(|shard| shard.0).eq(members.iter().copied()));
            prop_assert_eq!(set.is_empty(), members.is_empty());
            prop_assert_eq!(set.contains(ShardId(other)), members.contains(&other));
            prop_assert!(!set.without(ShardId(other)).contains(ShardId(other)));
            prop_assert_eq!(set.with(ShardId(other)).without(ShardId(other)), set.without(ShardId(other)));
            prop_assert!(!set.contains(ShardId(MAX_SHARDS as u16)));
        }
    }

    /// Turns until the writer has said that it is done: each reads every entry and checks it.
    fn turn_until_done(mut reader: Reader) {
        for turn in 0u64.. {
            for index in 0..CAPACITY {
                let Some(found) = reader.get(index) else { continue };
                assert_eq!(*found, entry(index, found.key.generation));
            }
            if reader.get(CAPACITY).is_some() {
                return;
            }
            reader.quiescent();
            if turn % 64 == 0 {
                reader.offline(thread::yield_now);
            }
        }
    }

    #[test]
    fn readers_see_whole_entries_while_a_writer_replaces_them_fifty_thousand_times() {
        let (mut writer, readers) = table(CAPACITY as usize + 1, 2);
        let turning: Vec<_> =
            readers.into_iter().map(|reader| thread::spawn(|| turn_until_done(reader))).collect();
        let mut freed = 0;
        for generation in 0..50_000 {
            writer.publish(entry(generation % CAPACITY, generation));
            freed += writer.reclaim();
        }
        writer.publish(entry(CAPACITY, 0));
        turning.into_iter().for_each(|reader| reader.join().unwrap());
        freed += writer.reclaim();
        assert_eq!(freed, 50_000 - CAPACITY as usize);
    }
}
