//! Video payloads, as every codec.
#![no_main]

#[path = "../../tests/support/targets.rs"]
#[allow(dead_code, reason = "each target uses one of the functions")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::payload(bytes));
