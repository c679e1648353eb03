//! Loads small programs into the kernel and attaches them to an interface, by `bpf(2)` alone: no compiler, no
//! object file, no library.
//!
//! A program is written with the assembler in `assembler.rs` and loaded as [`Program`]; it keeps what it must
//! remember in a [`Map`]; a [`Link`] attaches it to an interface. Each is a descriptor: the kernel undoes
//! the attachment when the last copy of the link's closes, and so also when the process dies.
//!
//! Relies on Linux 5.9 (links for XDP) and on `CAP_BPF` with `CAP_NET_ADMIN`, or root. Field by field the
//! attributes are those of `union bpf_attr` in `include/uapi/linux/bpf.h`; the kernel takes a shorter one than
//! its own and reads the rest as zero.
//!
//! Deliberately absent: BTF, pinning, and every kind of map and program that nobody here uses.
#![allow(unsafe_code, reason = "bpf(2) reads and writes memory of ours by address")]

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::io::{self, Error};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::assembler::Instruction;

/// Commands of `bpf(2)`.
mod command {
    pub const MAP_CREATE: libc::c_int = 0;
    pub const MAP_LOOKUP_ELEM: libc::c_int = 1;
    pub const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub const MAP_DELETE_ELEM: libc::c_int = 3;
    pub const PROG_LOAD: libc::c_int = 5;
    pub const LINK_CREATE: libc::c_int = 28;
}

const BPF_PROG_TYPE_XDP: u32 = 6;
/// `attach_type` of a link that attaches to an interface.
const BPF_XDP: u32 = 37;

/// The most that the verifier may write about a refusal.
const LOG_BYTES: usize = 64 * 1024;

/// What a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    Hash = 1,
    Array = 2,
    /// An array with a copy of every value per CPU: counting without sharing.
    PerCpuArray = 6,
    /// AF_XDP sockets by queue.
    Sockets = 17,
}

/// Memory that programs and this process share.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    kind: MapKind,
    key_bytes: usize,
    value_bytes: usize,
}

impl Map {
    /// Keys of an array and of [`MapKind::Sockets`] are 4 bytes, as is a value of the latter.
    ///
    /// # Errors
    /// `EPERM` without the capability; `EINVAL` for sizes that the kind does not have.
    pub fn create(kind: MapKind, key_bytes: usize, value_bytes: usize, entries: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        let attributes = Attributes {
            map_type: kind as u32,
            key_size: key_bytes as u32,
            value_size: value_bytes as u32,
            max_entries: entries,
        };
        // SAFETY: the attributes hold no address.
        let fd = unsafe { bpf_fd(command::MAP_CREATE, &attributes) }?;
        Ok(Self { fd, kind, key_bytes, value_bytes })
    }

    /// Sets the value of `key`. Atomic for a program that reads it meanwhile.
    ///
    /// # Errors
    /// `E2BIG` if the map is full.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key_bytes, self.value_bytes), "sizes of this map");
        assert_ne!(self.kind, MapKind::PerCpuArray, "it wants a value for every CPU");
        let attributes = self.element(key, value.as_ptr());
        // SAFETY: key and value are as long as the map's, and are only read.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &attributes) }.map(drop)
    }

    /// Removes `key`; no error if it is not there.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        assert_eq!(key.len(), self.key_bytes, "size of this map's keys");
        let attributes = self.element(key, std::ptr::null());
        // SAFETY: the key is as long as the map's and is only read.
        match unsafe { bpf(command::MAP_DELETE_ELEM, &attributes) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// The sum over all CPUs of a 64-bit counter in a [`MapKind::PerCpuArray`].
    pub fn sum(&self, index: u32) -> io::Result<u64> {
        assert_eq!((self.kind, self.value_bytes), (MapKind::PerCpuArray, 8), "counters of 64 bits");
        let mut values = vec![0_u64; possible_cpus()?];
        // Lives until the call: the kernel is given its address.
        let key = index.to_ne_bytes();
        let attributes = self.element(&key, values.as_mut_ptr().cast());
        // SAFETY: the kernel writes one value, padded to 8 bytes, per possible CPU
        // (`bpf_percpu_array_copy`, `kernel/bpf/arraymap.c`).
        unsafe { bpf(command::MAP_LOOKUP_ELEM, &attributes) }?;
        Ok(values.iter().sum())
    }

    fn element(&self, key: &[u8], value: *const u8) -> ElementAttributes {
        let map_fd = self.fd.as_raw_fd() as u32;
        ElementAttributes { map_fd, padding: 0, key: key.as_ptr() as u64, value: value as u64, flags: 0 }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// CPUs that this kernel could ever have: a list like `0-3,8`.
fn possible_cpus() -> io::Result<usize> {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| Error::other(format!("not a list of CPUs: {list}")))
}

/// A verified program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
}

/// The kernel does not take a program.
#[derive(Debug)]
pub struct LoadError {
    pub source: Error,
    /// What the verifier said, if it came that far.
    pub log: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        match self.log.trim().lines().rev().find(|line| !line.starts_with("processed ")) {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Program {
    /// Loads an XDP program. `name` shows in `bpftool prog` and `ip link`; at most 15 bytes of it.
    pub fn load_xdp(name: &CStr, instructions: &[Instruction]) -> Result<Self, LoadError> {
        // Said only if it is refused: a log costs the verifier time.
        Self::load(name, instructions, &mut []).or_else(|_| {
            let mut log = vec![0; LOG_BYTES];
            Self::load(name, instructions, &mut log).map_err(|source| {
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                LoadError { source, log: log.to_string_lossy().into_owned() }
            })
        })
    }

    fn load(name: &CStr, instructions: &[Instruction], log: &mut [u8]) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            prog_type: u32,
            insn_cnt: u32,
            insns: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log_buf: u64,
            kern_version: u32,
            prog_flags: u32,
            prog_name: [u8; 16],
        }
        let mut prog_name = [0; 16];
        let shown = name.to_bytes().iter().take(15);
        prog_name.iter_mut().zip(shown).for_each(|(to, from)| *to = *from);
        let attributes = Attributes {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            kern_version: 0,
            prog_flags: 0,
            prog_name,
        };
        // SAFETY: instructions and licence are read, the log is written, each within its length.
        unsafe { bpf_fd(command::PROG_LOAD, &attributes) }.map(|fd| Self { fd })
    }
}

/// Where in the receive path of an interface an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel spends anything on the packet.
    Driver,
    /// In the stack, on any interface.
    Generic,
}

/// A program attached to an interface, for as long as this lives.
#[derive(Debug)]
pub struct Link {
    _fd: OwnedFd,
}

impl Link {
    /// # Errors
    /// `EOPNOTSUPP` if the driver knows no XDP, `EBUSY` or `EEXIST` if another program is there, `EINVAL`
    /// or `ERANGE` for an MTU that the driver cannot combine with XDP.
    pub fn attach_xdp(program: &Program, interface: u32, mode: XdpMode) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            prog_fd: u32,
            target_ifindex: u32,
            attach_type: u32,
            flags: u32,
        }
        let attributes = Attributes {
            prog_fd: program.fd.as_raw_fd() as u32,
            target_ifindex: interface,
            attach_type: BPF_XDP,
            // `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of `include/uapi/linux/if_link.h`.
            flags: match mode {
                XdpMode::Generic => 1 << 1,
                XdpMode::Driver => 1 << 2,
            },
        };
        // SAFETY: the attributes hold no address.
        unsafe { bpf_fd(command::LINK_CREATE, &attributes) }.map(|fd| Self { _fd: fd })
    }
}

/// # Safety
/// `attributes` is what the command wants, and every address in it is good for as much as the command reads
/// or writes there.
unsafe fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<libc::c_long> {
    let (address, len) = (std::ptr::from_ref(attributes), size_of::<A>());
    // SAFETY: the kernel reads `len` bytes of the attributes; the rest is promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, address, len) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// As [`bpf`], of a command that answers with a descriptor.
///
/// # Safety
/// As for [`bpf`].
unsafe fn bpf_fd<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: as promised by the caller.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the command has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

#[cfg(test)]
pub(in crate::io) mod tests {
    use super::super::assembler::{Assembler, Helper, Jump, R0, R1, R2, R10, Size, XDP_DROP};
    use super::*;

    /// Whether this process may load programs; says why it may not.
    pub(in crate::io) fn has_bpf() -> bool {
        match Map::create(MapKind::Array, 4, 8, 1) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("skipped: no bpf(2) here: {error}");
                false
            }
        }
    }

    #[test]
    fn a_counting_sink_loads_and_its_counter_begins_at_zero() {
        if !has_bpf() {
            return;
        }
        let counters = Map::create(MapKind::PerCpuArray, 4, 8, 1).unwrap();
        let mut code = Assembler::default();
        let out = code.label();
        code.store_immediate(Size::Word, R10, -4, 0);
        code.load_map(R1, &counters);
        code.copy(R2, R10);
        code.add_immediate(R2, -4);
        code.call(Helper::MapLookup);
        code.jump_if_immediate(Jump::Equal, R0, 0, out);
        code.set(R1, 1);
        code.add_to_memory(Size::Double, R0, 0, R1);
        code.place(out);
        code.set(R0, XDP_DROP);
        code.exit();
        Program::load_xdp(c"sink", &code.finish()).unwrap();
        assert_eq!(counters.sum(0).unwrap(), 0);
    }

    #[test]
    fn a_refused_program_is_reported_with_the_verifiers_reason() {
        if !has_bpf() {
            return;
        }
        let mut code = Assembler::default();
        code.load(Size::Double, R0, R2, 0);
        code.exit();
        let error = Program::load_xdp(c"broken", &code.finish()).unwrap_err().to_string();
        assert!(error.contains("R2 !read_ok"), "{error}");
    }

    #[test]
    fn a_hash_map_takes_replaces_and_forgets_keys() {
        if !has_bpf() {
            return;
        }
        let map = Map::create(MapKind::Hash, 4, 1, 1).unwrap();
        map.set(&[1; 4], &[1]).unwrap();
        map.set(&[1; 4], &[2]).unwrap();
        assert_eq!(map.set(&[2; 4], &[1]).unwrap_err().raw_os_error(), Some(libc::E2BIG));
        map.remove(&[1; 4]).unwrap();
        map.remove(&[1; 4]).unwrap();
        map.set(&[2; 4], &[1]).unwrap();
    }
}
