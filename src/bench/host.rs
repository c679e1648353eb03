//! The machine that figures are of: without it they say nothing.
//!
//! Everything is read from the kernel's files, and what is not there is left out.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Facts that change what a measurement says.
#[derive(Debug, Clone, Serialize)]
pub struct HostFacts {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// Whether it runs below a hypervisor.
    pub is_virtual: bool,
    pub memory_mib: u64,
    pub sysctls: Vec<(String, String)>,
    pub fanline: String,
    /// Of the working tree, if this runs in one.
    pub git_commit: Option<String>,
    pub build: &'static str,
}

/// Limits and features of the network stack that a server's figures depend on.
const SYSCTLS: [&str; 7] = [
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.netdev_max_backlog",
    "net.core.netdev_budget",
    "net.core.busy_poll",
    "kernel.sched_rt_runtime_us",
    "net.ipv4.udp_mem",
];

/// `debug` or `release`, by what the compiler was told.
pub const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

impl HostFacts {
    pub fn gather() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = field(&cpuinfo, "model name").or_else(|| field(&cpuinfo, "CPU part")).unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let sysctl = |name: &&str| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            Some((
                (*name).to_owned(),
                fs::read_to_string(path).ok()?.split_whitespace().collect::<Vec<_>>().join(" "),
            ))
        };
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            is_virtual: cpuinfo.contains(" hypervisor"),
            memory_mib: kib.unwrap_or_default() / 1_024,
            sysctls: SYSCTLS.iter().filter_map(sysctl).collect(),
            fanline: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: git_commit(),
            build: BUILD,
        }
    }
}

/// A one-line file.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The value of the first `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn git_commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
