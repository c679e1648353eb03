//! Proofs that no interleaving of threads, and no reordering that the memory model allows, makes the
//! ring or the table lose, double, tear or free early what threads share.
//!
//! A package of its own, which takes the two sources by path: under `--cfg loom` the rest of the
//! server, and tokio below it, would not even build. Run with
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p fanline-loom --release --target-dir target/loom
//! ```
//!
//! Without `--cfg loom` the package is empty. A proof is exhaustive unless it names a bound on the
//! preemptions per execution.
#![cfg(loom)]

#[path = "../../../src/id.rs"]
pub mod id;
#[path = "../../../src/ring.rs"]
pub mod ring;
#[path = "../../../src/sync.rs"]
pub mod sync;
#[path = "../../../src/table.rs"]
pub mod table;

#[cfg(test)]
mod ring_proofs;
#[cfg(test)]
mod table_proofs;

/// Like `loom::model`, for three threads, whose interleavings are too many to try them all: those with
/// at most `preemptions` switches away from a thread that could have gone on.
#[cfg(test)]
fn model_with_preemptions(preemptions: usize, story: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(story);
}
