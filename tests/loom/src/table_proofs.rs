//! Every entry carries a shadow: loom fails a test in which one is freed while a reader may hold it
//! (from `get` to the next quiescent point) and one in which it is never freed.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::id::{ShardId, TrackKey};
use crate::model_with_preemptions;
use crate::table::{Entry, Grace, Reader, ShardSet, Writer, table};

/// The entry of track 0 in its `generation`th life.
fn entry(generation: u32) -> Entry {
    let subscribers = ShardSet::EMPTY.with(ShardId(generation as u16));
    Entry { key: TrackKey { index: 0, generation }, subscribers }
}

/// What a shard sees of track 0; checks that key and subscribers belong together.
fn generation(reader: &Reader) -> Option<u32> {
    let found = reader.get(0)?;
    assert_eq!(*found, entry(found.key.generation));
    Some(found.key.generation)
}

fn wait_until_passed(writer: &Writer, grace: Grace) {
    while !writer.has_passed(grace) {
        thread::yield_now();
    }
}

fn one_reader() -> (Writer, Reader) {
    let (writer, mut readers) = table(1, 1);
    (writer, readers.pop().unwrap())
}

#[test]
fn an_entry_in_use_is_never_freed() {
    loom::model(|| {
        let (mut writer, mut reader) = one_reader();
        writer.publish(entry(0));
        let reading = thread::spawn(move || {
            let mut last = 0;
            for _ in 0..2 {
                let now = generation(&reader).expect("never removed");
                assert!(last <= now, "an older entry came back");
                last = now;
                reader.quiescent();
            }
            reader
        });
        writer.publish(entry(1));
        writer.reclaim();
        writer.publish(entry(2));
        writer.reclaim();
        drop(reading.join().unwrap());
        writer.reclaim();
    });
}

#[test]
fn a_removed_entry_is_freed_once_its_reader_has_passed() {
    loom::model(|| {
        let (mut writer, mut reader) = one_reader();
        writer.publish(entry(0));
        let reading = thread::spawn(move || {
            for _ in 0..2 {
                generation(&reader);
                reader.quiescent();
                thread::yield_now();
            }
            reader
        });
        let grace = writer.remove(0);
        let freed = writer.reclaim();
        let mut reader = reading.join().unwrap();
        reader.quiescent();
        assert!(writer.has_passed(grace));
        assert_eq!(freed + writer.reclaim(), 1);
        assert!(reader.get(0).is_none());
    });
}

#[test]
fn a_turn_later_a_reader_sees_what_was_published() {
    loom::model(|| {
        let (mut writer, mut reader) = one_reader();
        let promised = Arc::new(AtomicBool::new(false));
        let reading = {
            let promised = promised.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    // Relaxed: the promise must hold by the table's own orderings.
                    let promised = promised.load(Ordering::Relaxed);
                    let found = generation(&reader);
                    assert!(!promised || found == Some(1));
                    reader.quiescent();
                }
            })
        };
        let grace = writer.publish(entry(1));
        wait_until_passed(&writer, grace);
        promised.store(true, Ordering::Relaxed);
        reading.join().unwrap();
    });
}

#[test]
fn nobody_waits_for_a_reader_that_is_offline() {
    loom::model(|| {
        let (mut writer, mut reader) = one_reader();
        writer.publish(entry(0));
        let reading = thread::spawn(move || {
            generation(&reader);
            reader.offline(thread::park);
            assert_eq!(generation(&reader), Some(1), "back online and yet behind");
        });
        let grace = writer.publish(entry(1));
        // The reader sleeps until this thread has seen the grace pass: were it waited for, both would
        // wait for ever.
        wait_until_passed(&writer, grace);
        assert_eq!(writer.reclaim(), 1);
        reading.thread().unpark();
        reading.join().unwrap();
    });
}

#[test]
fn a_reader_may_come_online_while_the_writer_reclaims() {
    loom::model(|| {
        let (mut writer, mut reader) = one_reader();
        writer.publish(entry(0));
        let promised = Arc::new(AtomicBool::new(false));
        let reading = {
            let promised = promised.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    reader.offline(|| ());
                    let promised = promised.load(Ordering::Relaxed);
                    let found = generation(&reader);
                    assert!(!promised || found == Some(1));
                }
                reader
            })
        };
        let grace = writer.publish(entry(1));
        writer.reclaim();
        promised.store(writer.has_passed(grace), Ordering::Relaxed);
        drop(reading.join().unwrap());
    });
}

#[test]
fn an_entry_stays_until_both_readers_have_passed() {
    model_with_preemptions(3, || {
        let (mut writer, mut readers) = table(1, 2);
        writer.publish(entry(0));
        let (mut second, mut first) = (readers.pop().unwrap(), readers.pop().unwrap());
        let turning = thread::spawn(move || {
            generation(&first);
            first.quiescent();
            generation(&first);
        });
        let sleeping = thread::spawn(move || {
            generation(&second);
            second.offline(|| ());
            generation(&second);
        });
        writer.publish(entry(1));
        let mut freed = writer.reclaim();
        turning.join().unwrap();
        sleeping.join().unwrap();
        freed += writer.reclaim();
        assert_eq!(freed, 1, "readers that are gone are not waited for");
    });
}

#[test]
fn a_reader_that_outlives_the_writer_keeps_its_entries() {
    loom::model(|| {
        let (mut writer, mut reader) = one_reader();
        writer.publish(entry(0));
        let reading = thread::spawn(move || {
            generation(&reader);
            reader.quiescent();
            generation(&reader);
        });
        writer.publish(entry(1));
        drop(writer);
        reading.join().unwrap();
    });
}
