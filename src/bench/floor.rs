//! What this host can do at best, so that a server's figures have something to stand beside.
//!
//! Not there: it says so.

use clap::Args;

use super::BenchError;

/// The settings of `fanline bench floor`.
#[derive(Debug, Clone, Args)]
pub struct Settings {}

/// # Errors
/// Always.
pub fn run(Settings {}: Settings) -> Result<(), BenchError> {
    Err(BenchError("bench floor is not there yet".into()))
}
