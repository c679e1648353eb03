//! What it costs to hand something to another core: our ring and a channel, both ends awake, and waking a thread
//! that sleeps.
//!
//! The partner lives only during a turn of its row: spinning beside other rows it would take their core from them.

use std::hint::spin_loop;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Group;
use super::meter::{Key, Meter, Row, Sample};
use crate::bench::kernel::{thread_cpu_ns, wall_ns};
use crate::io::Bell;
use crate::ring::{Consumer, Producer, ring};

/// As between two shards.
const RING_BYTES: usize = 256 << 10;
const BATCH: usize = 32;

/// As many bytes as our ring, in items of eight.
const CHANNEL_ITEMS: usize = RING_BYTES / 8;

/// How long the sleeper is left alone before it is woken, so that it does sleep.
const NAP_NS: u64 = 200_000;

/// A wake-up that takes longer has gone wrong.
const POLL_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

pub fn rows(partner: usize, left_out: &mut Vec<String>) -> Vec<Row> {
    let key = |path, segments, bytes| Key {
        group: Group::HandOff,
        stage: "",
        path,
        segments,
        destinations: 1,
        bytes,
    };
    let mut rows: Vec<Row> = [8, 120, 1_200]
        .map(|bytes| {
            let turn = move |meter: &Meter, slot| through_ring(meter, slot, partner, bytes);
            Row::new(key("our ring, in batches", BATCH, bytes), Box::new(turn))
        })
        .into();
    let channel = move |meter: &Meter, slot| through_channel(meter, slot, partner);
    rows.push(Row::new(key("crossbeam-channel, bounded", 1, 8), Box::new(channel)));
    let there_and_back = move |_: &Meter, slot| ping_pong(slot, partner);
    rows.push(Row::new(key("our ring, one way, both awake", 1, 8), Box::new(there_and_back)));
    match Bell::new() {
        Ok(bell) => {
            let ringing = move |_: &Meter, slot| wake(slot, partner, &bell);
            rows.push(Row::new(
                key("bell (eventfd) of a sleeper: CPU of the waker, time until awake", 1, 0),
                Box::new(ringing),
            ));
        }
        Err(error) => left_out.push(format!("bell: {error}")),
    }
    rows
}

fn pin(core: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
}

/// Measures `pass`, which hands over some items, against a partner that runs `take` until it is told to stop.
fn with_partner(
    meter: &Meter,
    slot: Duration,
    partner: usize,
    mut take: impl FnMut() + Send,
    mut pass: impl FnMut() -> io::Result<u64>,
) -> io::Result<Sample> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(partner);
            while !stop.load(Ordering::Relaxed) {
                take();
            }
        });
        let sample = meter.repeat(slot, &mut pass);
        stop.store(true, Ordering::Relaxed);
        sample
    })
}

fn through_ring(meter: &Meter, slot: Duration, partner: usize, bytes: usize) -> io::Result<Sample> {
    let (mut producer, mut consumer) = ring(RING_BYTES);
    let record = vec![1; bytes];
    let take = move || take_batch(&mut consumer);
    with_partner(meter, slot, partner, take, move || {
        (0..BATCH).for_each(|_| put(&mut producer, &record));
        producer.publish();
        Ok(BATCH as u64)
    })
}

fn put(producer: &mut Producer, record: &[u8]) {
    loop {
        if let Some(space) = producer.reserve(record.len()) {
            space.copy_from_slice(record);
            return producer.commit();
        }
        spin_loop();
    }
}

fn take_batch(consumer: &mut Consumer) {
    let mut any = false;
    for _ in 0..BATCH {
        let Some(record) = consumer.next() else { break };
        std::hint::black_box(record);
        any = true;
    }
    if any { consumer.release() } else { spin_loop() }
}

fn through_channel(meter: &Meter, slot: Duration, partner: usize) -> io::Result<Sample> {
    let (sender, receiver) = crossbeam_channel::bounded::<u64>(CHANNEL_ITEMS);
    let take = move || match receiver.try_recv() {
        Ok(item) => drop(std::hint::black_box(item)),
        Err(_) => spin_loop(),
    };
    with_partner(meter, slot, partner, take, move || {
        for item in 0..BATCH as u64 {
            while sender.try_send(item).is_err() {
                spin_loop();
            }
        }
        Ok(BATCH as u64)
    })
}

/// Half of the way there and back.
fn ping_pong(slot: Duration, partner: usize) -> io::Result<Sample> {
    let (mut there_in, mut there_out) = ring(RING_BYTES);
    let (mut back_in, mut back_out) = ring(RING_BYTES);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(partner);
            while !stop.load(Ordering::Relaxed) {
                if answered(&mut there_out) {
                    put(&mut back_in, &[1; 8]);
                    back_in.publish();
                }
            }
        });
        let start = wall_ns();
        let mut trips = 0;
        while wall_ns() - start < slot.as_nanos() as u64 || trips == 0 {
            put(&mut there_in, &[1; 8]);
            there_in.publish();
            while !answered(&mut back_out) {
                spin_loop();
            }
            trips += 1;
        }
        let wall = (wall_ns() - start) as f64;
        stop.store(true, Ordering::Relaxed);
        Ok(Sample { cpu_ns: None, wall_ns: Some(wall / trips as f64 / 2.0), packets: trips })
    })
}

/// Takes one record, if one is there.
fn answered(consumer: &mut Consumer) -> bool {
    let any = consumer.next().is_some();
    if any {
        consumer.release();
    }
    any
}

/// Rings for a thread that sleeps in `poll`, once per nap.
fn wake(slot: Duration, partner: usize, bell: &Bell) -> io::Result<Sample> {
    let (awake_at, naps) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(partner);
            while !stop.load(Ordering::SeqCst) {
                bell.arm();
                naps.fetch_add(1, Ordering::SeqCst);
                let _ = poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&POLL_MAX));
                bell.disarm();
                awake_at.store(wall_ns(), Ordering::SeqCst);
            }
        });
        let (start, mut cpu_ns, mut way_ns, mut rings) = (wall_ns(), 0, 0, 0_u64);
        while wall_ns() - start < slot.as_nanos() as u64 || rings == 0 {
            while naps.load(Ordering::SeqCst) == rings {
                spin_loop();
            }
            until(wall_ns() + NAP_NS);
            let (now, cpu) = (wall_ns(), thread_cpu_ns());
            bell.ring();
            cpu_ns += thread_cpu_ns() - cpu;
            // In time for this nap, or at the end of `POLL_MAX`.
            while awake_at.load(Ordering::SeqCst) < now {
                spin_loop();
            }
            way_ns += awake_at.load(Ordering::SeqCst) - now;
            rings += 1;
        }
        stop.store(true, Ordering::SeqCst);
        bell.ring();
        let each = |ns: u64| Some(ns as f64 / rings as f64);
        Ok(Sample { cpu_ns: each(cpu_ns), wall_ns: each(way_ns), packets: rings })
    })
}

fn until(moment_ns: u64) {
    while wall_ns() < moment_ns {
        spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hand_off_comes_to_an_end_with_a_cost() {
        let mut left_out = Vec::new();
        for mut row in rows(0, &mut left_out) {
            row.take_turn(&Meter::of_core(usize::MAX), Duration::from_millis(2));
            let sample = row.samples.first().copied().unwrap_or_else(|| panic!("{}", row.key.path));
            assert!(sample.packets > 0, "{}", row.key.path);
            assert!(sample.cpu_ns.or(sample.wall_ns).unwrap() > 0.0, "{}", row.key.path);
        }
        assert!(left_out.is_empty(), "{left_out:?}");
    }
}
