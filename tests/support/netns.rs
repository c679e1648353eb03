//! Network namespaces of a test's own: two hosts and a cable between them, gone with the test.
//!
//! A namespace belongs to threads, so the thread of a test can stand in one and visit the other. Sockets stay in
//! the namespace that they were opened in. Relies on root and on iproute2; a test asks [`Cable::plug`] and is
//! skipped, with the reason printed, where there is none of it.
#![allow(dead_code, reason = "each program that includes this file uses a part of it")]
#![expect(unsafe_code, reason = "namespaces are changed by system calls that no safe crate wraps")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

/// A network namespace, kept alive by this.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// The one that this thread is in.
    fn current() -> Result<Self> {
        Ok(Self { file: File::open("/proc/thread-self/ns/net")? })
    }

    /// Moves this thread into a new, empty one.
    fn enter_new() -> Result<Self> {
        // SAFETY: concerns the calling thread alone, and no memory.
        match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
            0 => Self::current(),
            _ => Err(Error::last_os_error()),
        }
    }

    /// Moves this thread.
    pub fn enter(&self) {
        // SAFETY: as above; the descriptor is a namespace's.
        let done = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "back into a namespace that this thread was in: {}", Error::last_os_error());
    }

    /// Runs `visit` in this namespace.
    pub fn within<R>(&self, visit: impl FnOnce() -> R) -> R {
        let home = Self::current().expect("procfs is there");
        self.enter();
        let result = visit();
        home.enter();
        result
    }
}

/// Moves this thread to a host that has loopback alone. `None`, with the reason printed, if this process may not.
pub fn unplugged() -> Option<Namespace> {
    let lonely = Namespace::enter_new().and_then(|host| run("ip link set lo up").map(|()| host));
    lonely.inspect_err(|error| eprintln!("skipped: no network namespaces here: {error}")).ok()
}

/// Two hosts and the cable between them. The test's thread is moved to the near one.
pub struct Cable {
    pub near: Namespace,
    pub far: Namespace,
}

/// The near end of the cable, and the far one.
pub const NEAR: &str = "near0";
pub const FAR: &str = "far0";

/// Addresses of the near host, and of the far one, of both families.
pub const NEAR_V4: &str = "10.77.0.1";
pub const NEAR_V4_OTHER: &str = "10.77.0.3";
pub const FAR_V4: &str = "10.77.0.2";
pub const NEAR_V6: &str = "fd77::1";
pub const FAR_V6: &str = "fd77::2";

impl Cable {
    /// Lays the cable and gives both ends their addresses and this many queues. `None`, with the reason printed, if
    /// this process may not.
    pub fn plug(queues: u32) -> Option<Self> {
        match Self::try_plug(queues) {
            Ok(cable) => Some(cable),
            Err(error) => {
                eprintln!("skipped: no network namespaces here: {error}");
                None
            }
        }
    }

    fn try_plug(queues: u32) -> Result<Self> {
        let far = Namespace::enter_new()?;
        // Only a process can be named to move the other end to, not an open namespace: so the far end is made here,
        // and the near end is pulled over by name.
        let near = Namespace::enter_new()?;
        let cable = Self { near, far };
        let far_fd = format!("/proc/{}/fd/{}", std::process::id(), cable.far.file.as_raw_fd());
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        run(&format!("ip link add {NEAR} {queues} type veth peer name {FAR} {queues} netns {far_fd}"))?;
        run("ip link set lo up")?;
        run(&format!("ip link set {NEAR} up"))?;
        for ip in ["10.77.0.1/24", "10.77.0.3/24", "fd77::1/64"] {
            run(&format!("ip address add {ip} dev {NEAR} nodad"))?;
        }
        cable.far.within(|| {
            run("ip link set lo up")?;
            run(&format!("ip link set {FAR} up"))?;
            ["10.77.0.2/24", "fd77::2/64"]
                .iter()
                .try_for_each(|ip| run(&format!("ip address add {ip} dev {FAR} nodad")))
        })?;
        Ok(cable)
    }
}

/// Runs a command in the namespace of this thread.
pub fn run(command: &str) -> Result<()> {
    output(command).map(drop)
}

/// As [`run`]; what the command printed.
pub fn output(command: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command has a name");
    let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::other(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}
