//! capacity
use clap::Args;

use super::BenchError;

/// The settings of `fanline bench capacity`.
#[derive(Debug, Clone, Args)]
pub struct Settings {}

/// # Errors
/// Always.
pub fn run(Settings {}: Settings) -> Result<(), BenchError> {
    Err(BenchError("bench capacity is not there yet".into()))
}
