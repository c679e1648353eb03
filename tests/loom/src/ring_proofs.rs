//! The ring of 64 bytes is the smallest: two records of 24 bytes fill it, which makes full rings, wrap
//! marks and re-used memory happen within executions short enough to try all of them.

use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::ring::{Consumer, Producer, ring};

const CAPACITY: usize = 64;

/// Lays out a record of `len` bytes, all `fill`; false if the ring is full.
fn put(producer: &mut Producer, fill: u8, len: usize) -> bool {
    let Some(record) = producer.reserve(len) else { return false };
    record.fill(fill);
    producer.commit();
    true
}

fn publish_when_there_is_room(producer: &mut Producer, fill: u8, len: usize) {
    while !put(producer, fill, len) {
        thread::yield_now();
    }
    assert!(producer.publish());
}

fn next_when_there_is_one(consumer: &mut Consumer) -> Vec<u8> {
    loop {
        if let Some(record) = consumer.next() {
            return record.to_vec();
        }
        thread::yield_now();
    }
}

#[test]
fn records_arrive_whole_once_and_in_order_through_a_ring_that_fills_and_wraps() {
    // 16 + 32 bytes taken; the third record does not fit in the 16 left, wraps, and waits for both.
    const RECORDS: [(u8, usize); 3] = [(1, 8), (2, 24), (3, 24)];
    loom::model(|| {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let writing = thread::spawn(move || {
            RECORDS.into_iter().for_each(|(fill, len)| publish_when_there_is_room(&mut producer, fill, len));
        });
        for (fill, len) in RECORDS {
            assert_eq!(next_when_there_is_one(&mut consumer), vec![fill; len]);
            consumer.release();
        }
        writing.join().unwrap();
        assert!(consumer.next().is_none(), "a record came twice");
    });
}

#[test]
fn memory_is_not_written_again_before_release() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let writing = thread::spawn(move || {
            (1..=3).for_each(|fill| publish_when_there_is_room(&mut producer, fill, 24));
        });
        // Both are read before either is given back; the third waits that long.
        assert_eq!(next_when_there_is_one(&mut consumer), [1; 24]);
        assert_eq!(next_when_there_is_one(&mut consumer), [2; 24]);
        assert!(consumer.next().is_none());
        consumer.release();
        assert_eq!(next_when_there_is_one(&mut consumer), [3; 24]);
        writing.join().unwrap();
    });
}

#[test]
fn a_batch_becomes_visible_as_a_whole() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let writing = thread::spawn(move || {
            (1..=3).for_each(|fill| assert!(put(&mut producer, fill, 8)));
            // Laid out and not committed: the fourth is not part of the batch.
            producer.reserve(8).unwrap().fill(4);
            assert!(producer.publish());
            assert!(!producer.publish());
        });
        assert_eq!(next_when_there_is_one(&mut consumer), [1; 8]);
        assert!(!consumer.is_empty());
        assert_eq!(consumer.next(), Some(&[2; 8][..]));
        assert_eq!(consumer.next(), Some(&[3; 8][..]));
        assert!(consumer.next().is_none());
        writing.join().unwrap();
    });
}

#[test]
fn records_published_before_the_producer_goes_outlive_it() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let writing = thread::spawn(move || {
            publish_when_there_is_room(&mut producer, 1, 24);
            assert!(put(&mut producer, 2, 24));
            producer.publish();
        });
        let mut read = 0;
        loop {
            let last_round = consumer.is_abandoned();
            while let Some(record) = consumer.next() {
                read += 1;
                assert_eq!(record, [read; 24]);
            }
            if last_round {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(read, 2);
        writing.join().unwrap();
    });
}

#[test]
fn a_consumer_may_go_at_any_time() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let reading = thread::spawn(move || {
            consumer.next();
            consumer.release();
            consumer.next();
        });
        let mut written = 0;
        while written < 3 && !producer.is_abandoned() {
            if put(&mut producer, written, 24) {
                written += 1;
                producer.publish();
            }
            thread::yield_now();
        }
        reading.join().unwrap();
        assert!(producer.is_abandoned());
    });
}

/// The protocol of sleep and bell that the module describes. Loom fails the test if the consumer sleeps
/// for ever: every thread is then blocked.
#[test]
fn a_consumer_that_looks_once_more_before_it_sleeps_misses_no_bell() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let sleeps = Arc::new(AtomicBool::new(false));
        let bell = Arc::new(Notify::new());
        let writing = {
            let (sleeps, bell) = (sleeps.clone(), bell.clone());
            thread::spawn(move || {
                assert!(put(&mut producer, 1, 8));
                producer.publish();
                fence(Ordering::SeqCst);
                if sleeps.load(Ordering::Relaxed) {
                    bell.notify();
                }
            })
        };
        sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while consumer.is_empty() {
            bell.wait();
        }
        assert_eq!(consumer.next(), Some(&[1; 8][..]));
        writing.join().unwrap();
    });
}
