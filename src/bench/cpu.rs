//! CPU time of a server, split into user, system and softirq, from the kernel's own accounts.
//!
//! * *Sum*: `/proc/PID/task/TID/schedstat` of every thread, in nanoseconds. Exact.
//! * *User and system*: `/proc/PID/task/TID/stat` counts timer ticks; only their ratio is used, to split the sum.
//! * *Softirq*: what the kernel does for packets after a system call or an interrupt, on whatever thread it meets.
//!   `/proc/stat` counts it per core, in ticks. Unless the kernel is built with `CONFIG_IRQ_TIME_ACCOUNTING`, a
//!   thread's time *includes* the softirqs that ran on it; then it is taken out of system, and the sum stays.
//!   When they pile up the kernel moves them to `ksoftirqd` of the core: its time is added.
//!
//! * *How busy cores are*: what they were not idle. `/proc/stat` counts ticks of load, but clocks idleness itself
//!   (`get_idle_time`, `fs/proc/stat.c`), since a sleeping core has no tick.
//!
//! Ticks are samples: 250 or 100 a second per core, so the split of a measurement of 10 s on one core is good to
//! 1 or 2 % of the core, provided that the load does not keep step with the tick (`super::speaker` sees to that). The
//! sum, and how busy cores are, need no such allowance.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// What a process and its cores have used since they began, in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct CpuReading {
    /// By thread name. Threads that ended are not in it.
    threads: BTreeMap<String, ThreadTime>,
    softirq_ns: u64,
    /// Time of `ksoftirqd` of the cores.
    ksoftirqd_ns: u64,
    /// Time in which the cores were idle.
    idle_ns: u64,
    cores: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct ThreadTime {
    run_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

/// What was used between two readings, in nanoseconds.
#[derive(Debug, Clone, Serialize)]
pub struct CpuUse {
    pub user_ns: u64,
    pub system_ns: u64,
    pub softirq_ns: u64,
    /// All of the server: user, system and softirq.
    pub total_ns: u64,
    /// The part of it that is not of the data plane's threads, softirq aside.
    pub control_ns: u64,
    /// Time in which the server's cores were not idle, whoever used them.
    pub cores_busy_ns: u64,
    /// Whether a thread's time includes softirqs; unknown if the kernel does not show its configuration.
    pub threads_include_softirq: Option<bool>,
}

/// The threads of the data plane have names that begin so.
const SHARD: &str = "shard-";

impl CpuReading {
    /// Of process `pid` on `cores`.
    pub fn take(pid: u32, cores: &[usize]) -> Self {
        let mut reading = Self { cores: cores.len(), ..Self::default() };
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            if let Some((name, time)) = ThreadTime::read(&entry.path()) {
                let sum = reading.threads.entry(name).or_default();
                sum.run_ns += time.run_ns;
                sum.user_ticks += time.user_ticks;
                sum.system_ticks += time.system_ticks;
            }
        }
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        for core in cores {
            let (softirq, idle) = core_ticks(&stat, *core).unwrap_or_default();
            reading.softirq_ns += softirq * tick_ns();
            reading.ksoftirqd_ns += Ksoftirqd::of_core(*core).run_ns();
            reading.idle_ns += idle * tick_ns();
        }
        reading
    }

    /// How many cores it is about.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// What has been used from `before` to here, which is `wall` later.
    pub fn since(&self, before: &Self, wall: Duration) -> CpuUse {
        let (mut all, mut control_ns) = (ThreadTime::default(), 0);
        for (name, now) in &self.threads {
            let was = before.threads.get(name).copied().unwrap_or_default();
            let run_ns = now.run_ns.saturating_sub(was.run_ns);
            all.run_ns += run_ns;
            all.user_ticks += now.user_ticks.saturating_sub(was.user_ticks);
            all.system_ticks += now.system_ticks.saturating_sub(was.system_ticks);
            control_ns += if name.starts_with(SHARD) { 0 } else { run_ns };
        }
        let softirq_ns = self.softirq_ns.saturating_sub(before.softirq_ns);
        let cores_ns = wall.as_nanos() as u64 * self.cores as u64;
        let cores_busy_ns = cores_ns.saturating_sub(self.idle_ns.saturating_sub(before.idle_ns));
        let ksoftirqd_ns = self.ksoftirqd_ns.saturating_sub(before.ksoftirqd_ns);
        let counted = softirq_ns.saturating_sub(ksoftirqd_ns);
        let mut of_threads = split(all, control_ns, counted, cores_busy_ns, threads_include_softirq());
        of_threads.softirq_ns += ksoftirqd_ns;
        of_threads.total_ns += ksoftirqd_ns;
        of_threads
    }
}

fn split(
    all: ThreadTime,
    control_ns: u64,
    softirq_ns: u64,
    cores_busy_ns: u64,
    threads_include_softirq: Option<bool>,
) -> CpuUse {
    let ticks = (all.user_ticks + all.system_ticks).max(1);
    let user_ns = (u128::from(all.run_ns) * u128::from(all.user_ticks) / u128::from(ticks)) as u64;
    let in_kernel_ns = all.run_ns - user_ns;
    // Unknown is taken as the kernel's default, which is to include them.
    let (system_ns, softirq_ns) = match threads_include_softirq {
        Some(false) => (in_kernel_ns, softirq_ns),
        Some(true) | None => {
            let softirq_ns = softirq_ns.min(in_kernel_ns);
            (in_kernel_ns - softirq_ns, softirq_ns)
        }
    };
    let total_ns = user_ns + system_ns + softirq_ns;
    CpuUse { user_ns, system_ns, softirq_ns, total_ns, control_ns, cores_busy_ns, threads_include_softirq }
}

/// The kernel thread that takes over the softirqs of a core when they pile up: no less a cost of who causes them.
pub struct Ksoftirqd {
    /// `/proc/PID/schedstat`.
    account: Option<PathBuf>,
}

impl Ksoftirqd {
    pub fn of_core(core: usize) -> Self {
        let name = format!("ksoftirqd/{core}");
        let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let is_it =
            |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        Self { account: processes.find(is_it).map(|path| path.join("schedstat")) }
    }

    /// Nanoseconds that it has run, the first number of its account (Documentation/scheduler/sched-stats.rst).
    pub fn run_ns(&self) -> u64 {
        let text = self.account.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

impl ThreadTime {
    fn read(task: &std::path::Path) -> Option<(String, Self)> {
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        // proc_pid_stat(5): the state, field 3, comes first here; utime is field 14, stime 15.
        let mut fields = rest.split(' ').skip(11).map_while(|field| field.parse().ok());
        let (user_ticks, system_ticks) = (fields.next()?, fields.next()?);
        let run_ns = schedstat.split(' ').next()?.parse().ok()?;
        Some((name, Self { run_ns, user_ticks, system_ticks }))
    }
}

/// The time that a thread of this process has run, in nanoseconds, by its name.
pub fn own_thread_ns(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = tasks.filter_map(|entry| ThreadTime::read(&entry.path()));
    threads.filter(|(found, _)| found == name).map(|(_, time)| time.run_ns).sum()
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().split(' ').next()?.parse::<u64>().ok()? * 1_024)
}

/// Datagrams that the kernel dropped at the UDP sockets with these local ports, because their buffers were full.
pub fn udp_drops(ports: &[u16]) -> u64 {
    let table = |path| fs::read_to_string(path).unwrap_or_default();
    let tables = [table("/proc/thread-self/net/udp"), table("/proc/thread-self/net/udp6")];
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| drops_of(line, ports)).sum()
}

/// The drops of one line of /proc/net/udp, if its port is one of these (`udp4_format_sock`, `net/ipv4/udp.c`).
fn drops_of(line: &str, ports: &[u16]) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let port = u16::from_str_radix(fields.nth(1)?.rsplit_once(':')?.1, 16).ok()?;
    ports.contains(&port).then(|| fields.next_back()?.parse().ok())?
}

/// Softirq and idle ticks of a core (proc_stat(5)): user nice system idle iowait irq softirq steal.
fn core_ticks(stat: &str, core: usize) -> Option<(u64, u64)> {
    let start = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&start))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [_user, _nice, _system, idle, iowait, _irq, softirq, ..] = ticks[..] else { return None };
    Some((softirq, idle + iowait))
}

fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// By the kernel's configuration, from where distributions put it.
fn threads_include_softirq() -> Option<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let packed = std::process::Command::new("zcat").arg("/proc/config.gz").output();
    let packed = packed.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let config = packed.or_else(|| fs::read(format!("/boot/config-{}", release.trim())).ok())?;
    let config = String::from_utf8_lossy(&config).into_owned();
    Some(!config.lines().any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_stays_when_softirqs_are_part_of_the_threads_time() {
        let all = ThreadTime { run_ns: 1_000, user_ticks: 1, system_ticks: 3 };
        let included = split(all, 0, 500, 0, Some(true));
        assert_eq!((included.user_ns, included.system_ns, included.softirq_ns), (250, 250, 500));
        assert_eq!(included.total_ns, 1_000);
        let apart = split(all, 0, 500, 0, Some(false));
        assert_eq!((apart.system_ns, apart.softirq_ns, apart.total_ns), (750, 500, 1_500));
    }

    #[test]
    fn a_core_and_a_socket_are_read_from_their_lines() {
        let stat = "cpu  9 9 9 9 9 9 9\ncpu1 1 2 3 100 50 4 5 0 0 0\ncpu11 7 7 7 7 7 7 7 7\n";
        assert_eq!(core_ticks(stat, 1), Some((5, 150)));
        assert_eq!(core_ticks(stat, 2), None);
        let line = "  77: 0100007F:9C40 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 123 2 0 42";
        assert_eq!((drops_of(line, &[40_000]), drops_of(line, &[1])), (Some(42), None));
    }

    #[test]
    fn a_core_is_busy_when_it_is_not_idle_whatever_its_ticks_met() {
        let reading = |idle_ns| CpuReading { idle_ns, cores: 2, ..CpuReading::default() };
        let used = reading(7_000).since(&reading(2_000), Duration::from_nanos(10_000));
        assert_eq!(used.cores_busy_ns, 15_000);
    }

    #[test]
    fn this_process_has_memory_and_threads_that_ran() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
        assert!(!CpuReading::take(pid, &[0]).threads.is_empty());
    }
}
