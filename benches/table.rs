//! What the track-subscriber table costs a packet (`get`), a turn (`quiescent`) and a wait (`offline`),
//! alone and while control publishes as fast as it can on another core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use fanline::id::{ShardId, TrackKey};
use fanline::table::{Entry, Reader, ShardSet, Writer, table};

const TRACKS: u32 = 1024;

fn entry(index: u32, generation: u32) -> Entry {
    let subscribers = ShardSet::EMPTY.with(ShardId(1)).with(ShardId(generation as u16 % 64));
    Entry { key: TrackKey { index, generation }, subscribers }
}

fn full_table() -> (Writer, Reader) {
    let (mut writer, mut readers) = table(TRACKS as usize, 1);
    (0..TRACKS).for_each(|index| _ = writer.publish(entry(index, 0)));
    (writer, readers.pop().expect("one was asked for"))
}

/// A turn of 32 packets of as many tracks is what `turn_of_32` measures; the rest is its parts.
fn reads(group: &mut BenchmarkGroup<'_, WallTime>, reader: &mut Reader) {
    let mut index = 0;
    group.bench_function("get", |b| {
        b.iter(|| {
            index = (index + 7) % TRACKS;
            reader.get(index).map(|entry| entry.key.generation)
        });
    });
    group.bench_function("get_and_iterate", |b| {
        b.iter(|| {
            index = (index + 7) % TRACKS;
            reader.get(index).map(|entry| entry.subscribers.iter().map(ShardId::index).sum::<usize>())
        });
    });
    group.bench_function("quiescent", |b| b.iter(|| reader.quiescent()));
    group.bench_function("offline", |b| b.iter(|| reader.offline(|| ())));
    group.bench_function("turn_of_32", |b| {
        b.iter(|| {
            let sum: u32 = (0..32).filter_map(|n| reader.get(n * 31)).map(|entry| entry.key.generation).sum();
            reader.quiescent();
            sum
        });
    });
}

fn undisturbed(c: &mut Criterion) {
    let (_writer, mut reader) = full_table();
    reads(&mut c.benchmark_group("table/undisturbed"), &mut reader);
}

fn while_control_publishes(c: &mut Criterion) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = cores[..] else {
        return eprintln!("table/while_control_publishes needs two cores");
    };
    core_affinity::set_for_current(first);
    let (mut writer, mut reader) = full_table();
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let control = thread::spawn(move || {
        core_affinity::set_for_current(second);
        for generation in (1..).take_while(|_| !stop.load(Ordering::Relaxed)) {
            writer.publish(entry(generation % TRACKS, generation));
            writer.reclaim();
        }
    });
    reads(&mut c.benchmark_group("table/while_control_publishes"), &mut reader);
    done.store(true, Ordering::Relaxed);
    control.join().expect("the writer does not panic");
}

fn publications(c: &mut Criterion) {
    let (mut writer, mut reader) = full_table();
    let mut generation = 0;
    c.bench_function("table/publish_and_reclaim", |b| {
        b.iter(|| {
            generation += 1;
            writer.publish(entry(generation % TRACKS, generation));
            reader.quiescent();
            writer.reclaim()
        });
    });
}

criterion_group!(benches, undisturbed, while_control_publishes, publications);
criterion_main!(benches);
