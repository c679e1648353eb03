//! Kernel bypass: what it takes to move packets past the IP stack by AF_XDP.

pub mod assembler;
pub mod bpf;
