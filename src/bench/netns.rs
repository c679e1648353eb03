//! Network namespaces for measurements: a host of its own for the generator, on the other end of a veth pair, and
//! nothing of it left when the process ends.
//!
//! A [`Namespace`] made here has no name, only a descriptor, so the kernel removes it with everything in it when
//! the last one closes. Those with a name (`ip netns add`) can be entered too.
//!
//! A thread, not a process, is in a namespace: [`Namespace::run`] does its work on a thread of its own, and the
//! sockets made there stay there. Interfaces are set up by `ip`, of iproute2.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use super::BenchError;
use super::kernel;

/// A network namespace, kept alive.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one with a loopback interface that is up.
    ///
    /// # Errors
    /// Without root, or without `ip`.
    pub fn new() -> Result<Self, BenchError> {
        let made = thread::scope(|scope| {
            let unshared = scope.spawn(|| kernel::unshare_network().and_then(|()| current()));
            unshared.join().expect("opening a file does not panic")
        });
        let namespace = Self(made.map_err(|error| {
            BenchError(format!("cannot make a network namespace: {error}; it takes root or CAP_SYS_ADMIN"))
        })?);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The one that `ip netns add` has given this name.
    ///
    /// # Errors
    /// There is none, or it may not be entered.
    pub fn named(name: &str) -> Result<Self, BenchError> {
        File::open(format!("/run/netns/{name}")).map(Self).map_err(|error| {
            BenchError(format!("no network namespace `{name}`: {error}; `ip netns list` shows what is there"))
        })
    }

    /// Moves the calling thread into it, for the rest of its life.
    ///
    /// # Errors
    /// `EPERM` without root.
    pub fn enter(&self) -> io::Result<()> {
        kernel::enter_network(&self.0)
    }

    /// Does `work` inside.
    ///
    /// Panics if it cannot be entered, which whoever could open it can, or if `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().expect("who can open a namespace can enter it");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` inside, with arguments that have no spaces in them.
    ///
    /// # Errors
    /// What `ip` said, with its arguments.
    pub fn ip(&self, args: &str) -> Result<(), BenchError> {
        let output = self.run(|| Command::new("ip").args(args.split(' ')).output());
        let output =
            output.map_err(|error| BenchError(format!("cannot run `ip`: {error}; install iproute2")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(BenchError(format!("`ip {args}`: {}", said.trim())))
    }
}

fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Two new namespaces, joined by a veth pair.
#[derive(Debug)]
pub struct Pair {
    pub near: Namespace,
    pub near_ip: IpAddr,
    pub far: Namespace,
    pub far_ip: IpAddr,
    /// The interface of the far end, in its namespace.
    pub far_index: u32,
    /// Addresses of the far end beside its own: 65,536 of them, all delivered to its sockets.
    pub network: IpAddr,
}

/// Both of the block for benchmarks (RFC 2544, appendix C.2.2), inside namespaces that nobody else sees.
const NEAR_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FAR_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
const NEAR_MAC: &str = "02:00:c6:12:00:01";
const FAR_MAC: &str = "02:00:c6:12:00:02";

impl Pair {
    /// # Errors
    /// Without root, without `ip`, or without veth in the kernel.
    pub fn new() -> Result<Self, BenchError> {
        let (near, far) = (Namespace::new()?, Namespace::new()?);
        let far_path = format!("/proc/{}/fd/{}", std::process::id(), far.0.as_raw_fd());
        near.ip(&format!(
            "link add near address {NEAR_MAC} type veth peer name far address {FAR_MAC} netns {far_path}"
        ))?;
        for (namespace, device, ip, peer, peer_mac) in
            [(&near, "near", NEAR_IP, FAR_IP, FAR_MAC), (&far, "far", FAR_IP, NEAR_IP, NEAR_MAC)]
        {
            namespace.ip(&format!("address add {ip}/24 dev {device}"))?;
            namespace.ip(&format!("link set {device} up"))?;
            // Known beforehand, so that no first packet waits for ARP.
            namespace.ip(&format!("neigh replace {peer} lladdr {peer_mac} dev {device} nud permanent"))?;
        }
        far.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
        near.ip(&format!("route add {NETWORK}/16 via {FAR_IP}"))?;
        let far_index = far.run(|| kernel::interface_index("far"));
        let far_index = far_index.ok_or_else(|| BenchError("the veth pair has no far end".into()))?;
        Ok(Self {
            near,
            near_ip: NEAR_IP.into(),
            far,
            far_ip: FAR_IP.into(),
            far_index,
            network: NETWORK.into(),
        })
    }

    /// One of the addresses of the network.
    #[cfg(test)]
    pub fn listener(&self, number: u16) -> IpAddr {
        Ipv4Addr::from_bits(NETWORK.to_bits() | u32::from(number)).into()
    }
}
