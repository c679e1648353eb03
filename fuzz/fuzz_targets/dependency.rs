//! Dependency descriptors of one encoding, each behind its length.
#![no_main]

#[path = "../../tests/support/targets.rs"]
#[allow(dead_code, reason = "each target uses one of the functions")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::dependency(bytes));
