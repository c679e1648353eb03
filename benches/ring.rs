//! What a record costs on its way through the ring, alone and in batches, on one thread and across two
//! pinned cores. 120 bytes is an Opus packet, 1,200 a full video packet.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanline::ring::{Consumer, Producer, ring};

const CAPACITY_BYTES: usize = 1 << 18;
/// First byte of the record that the consumer answers.
const LAST: u8 = 2;

/// Bytes per record, records per batch.
const SHAPES: [(usize, usize); 5] = [(8, 1), (8, 32), (120, 1), (120, 32), (1200, 32)];

fn put_batch(producer: &mut Producer, record: &[u8], batch: usize) {
    for _ in 0..batch {
        loop {
            if let Some(space) = producer.reserve(record.len()) {
                space.copy_from_slice(record);
                break;
            }
            spin_loop();
        }
        producer.commit();
    }
    producer.publish();
}

/// Reads at most a batch and gives it back; true if a record was marked by the caller as the last.
fn take(consumer: &mut Consumer) -> bool {
    let mut marked = false;
    for _ in 0..32 {
        let Some(record) = consumer.next() else { break };
        marked |= record[0] == LAST;
    }
    consumer.release();
    marked
}

fn same_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/same_thread");
    for (len, batch) in SHAPES {
        let (mut producer, mut consumer) = ring(CAPACITY_BYTES);
        let record = vec![1; len];
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new(format!("{len}B"), batch), |b| {
            b.iter(|| {
                put_batch(&mut producer, &record, batch);
                take(&mut consumer)
            });
        });
    }
    group.finish();
}

/// The consumer spins on a core of its own; the time is the producer's, until the last record is taken.
fn across_cores(c: &mut Criterion) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = cores[..] else {
        return eprintln!("ring/across_cores needs two cores");
    };
    core_affinity::set_for_current(first);
    let mut group = c.benchmark_group("ring/across_cores");
    for (len, batch) in SHAPES {
        let (mut producer, mut consumer) = ring(CAPACITY_BYTES);
        let (mut back, mut answers) = ring(64);
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let reading = thread::spawn(move || {
            core_affinity::set_for_current(second);
            while !stop.load(Ordering::Relaxed) {
                if take(&mut consumer) && back.reserve(0).is_some() {
                    back.commit();
                    back.publish();
                }
                spin_loop();
            }
        });
        let record = vec![1; len];
        let last = vec![LAST; len];
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new(format!("{len}B"), batch), |b| {
            b.iter_custom(|batches| {
                timed(|| {
                    (0..batches).for_each(|_| put_batch(&mut producer, &record, batch));
                    put_batch(&mut producer, &last, 1);
                    while answers.next().is_none() {
                        spin_loop();
                    }
                    answers.release();
                })
            });
        });
        done.store(true, Ordering::Relaxed);
        reading.join().expect("the consumer does not panic");
    }
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}

criterion_group!(benches, same_thread, across_cores);
criterion_main!(benches);
