//! The facts about a host without which its figures mean nothing to anybody else.

use std::fs;

use serde::Serialize;

/// What a reader has to know before comparing.
#[derive(Debug, Clone, Serialize)]
pub struct HostFacts {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_mib: u64,
    pub clock_source: String,
    /// Empty on a host that does not name one, as most virtual machines.
    pub governor: String,
    /// Whether the CPU itself says that it is a virtual one.
    pub virtual_machine: bool,
    pub kernel_command_line: String,
    /// Name and value of those that networking looks at.
    pub sysctls: Vec<(String, String)>,
}

const SYSCTLS: [&str; 7] = [
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.netdev_max_backlog",
    "net.core.netdev_budget",
    "net.core.default_qdisc",
    "net.core.bpf_jit_enable",
    "kernel.io_uring_disabled",
];

impl HostFacts {
    /// What /proc and /sys tell; what they do not is left empty.
    pub fn read() -> Self {
        let cpu_info = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(0);
        let sysctl = |name: &&str| {
            let value = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
            Some(((*name).to_owned(), value.trim().to_owned()))
        };
        Self {
            cpu: field(&cpu_info, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: read("/proc/sys/kernel/osrelease"),
            memory_mib: memory_kib / 1_024,
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            virtual_machine: field(&cpu_info, "flags")
                .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
            kernel_command_line: read("/proc/cmdline"),
            sysctls: SYSCTLS.iter().filter_map(sysctl).collect(),
        }
    }

    /// Two lines for the head of a table.
    pub fn text(&self) -> String {
        let Self { cpu, cores, kernel, memory_mib, clock_source, .. } = self;
        let machine = if self.virtual_machine { ", virtual machine" } else { "" };
        let sysctls: Vec<_> = self.sysctls.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!(
            "{cpu}, {cores} cores{machine}, {memory_mib} MiB, Linux {kernel}, clock {clock_source}\n{}\n",
            sysctls.join(" ")
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The value of the first line `name: value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_host_are_there() {
        let facts = HostFacts::read();
        assert!(facts.cores > 0 && facts.memory_mib > 0 && !facts.kernel.is_empty(), "{facts:?}");
        assert!(facts.text().contains(&facts.kernel));
    }
}
