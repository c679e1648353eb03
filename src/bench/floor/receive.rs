//! Ways to take datagrams from a socket that has them: what reading costs once the kernel has queued them.
//!
//! A helper on another core fills the socket over loopback, waits, and the measured thread empties it; the CPU
//! of filling is the helper's. With GRO the helper sends runs of eight, which loopback delivers unsplit.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::Group;
use super::meter::{Key, Meter, Row, Sample};
use crate::bench::kernel::{self, Ancillary, Inbox, Outbox};
use crate::io::udp::{UdpIo, UdpOptions};
use crate::io::uring::UringIo;
use crate::io::{Bell, Io};

/// Datagrams of one filling: at the 2.3 KB that the kernel charges for a long one, a fraction of the buffer.
const FILLING: usize = 512;
const BUFFER_BYTES: usize = 4 << 20;

/// Datagrams of one run when the helper sends runs.
const RUN: usize = 8;

/// Datagrams of one `recvmmsg`; what the server's backend takes, too.
const BATCH: usize = 32;

/// One maximal IP packet, which a GRO run may be.
const RUN_BYTES_MAX: usize = 65_536;

/// How often an empty socket is asked again before the rest counts as lost.
const ASK_MAX: usize = 1_000;

/// Takes what is there; how many datagrams.
type Drain = Box<dyn FnMut() -> io::Result<usize>>;

pub fn rows(bytes: usize, partner: Option<usize>, left_out: &mut Vec<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (path, segments, made) in [
        ("recvfrom", 1, recvfrom(bytes)),
        ("recvmmsg, 32 a call", 1, recvmmsg(bytes, false)),
        ("recvmmsg with GRO", 1, recvmmsg(bytes, true)),
        ("recvmmsg with GRO", RUN, recvmmsg(bytes, true)),
        ("backend udp", 1, udp_backend()),
        ("backend udp", RUN, udp_backend()),
        ("backend uring, multishot", 1, uring_backend()),
        ("backend uring, multishot", RUN, uring_backend()),
    ] {
        let key = Key { group: Group::Receive, stage: "", path, segments, destinations: 1, bytes };
        let row = made.and_then(|(to, drain)| filled(key, to, drain, partner));
        match row {
            Ok(row) => rows.push(row),
            Err(error) => left_out.push(format!("{path}: {error}")),
        }
    }
    rows
}

/// A row that has its socket filled before each emptying.
fn filled(key: Key, to: SocketAddr, mut drain: Drain, partner: Option<usize>) -> io::Result<Row> {
    let helper = Helper::start(to, key.bytes, key.segments, partner)?;
    let turn = move |meter: &Meter, slot: Duration| {
        let (start, mut cpu_ns, mut packets) = (kernel::wall_ns(), 0, 0);
        loop {
            // Counted from before the filling: io_uring receives while it waits.
            let before = meter.cpu_ns();
            let filled = helper.fill()?;
            let (mut received, mut asked) = (0, 0);
            while received < filled && asked < ASK_MAX {
                received += drain()?;
                asked += 1;
            }
            cpu_ns += meter.cpu_ns() - before;
            packets += received as u64;
            if received == 0 {
                return Err(io::Error::other("nothing arrived"));
            }
            if kernel::wall_ns() - start >= slot.as_nanos() as u64 {
                // Most of the time goes to filling, so it says nothing.
                return Ok(Sample { cpu_ns: Some(cpu_ns as f64 / packets as f64), wall_ns: None, packets });
            }
        }
    };
    Ok(Row::new(key, Box::new(turn)))
}

/// A thread that fills a socket when told, and ends when it is dropped.
struct Helper {
    orders: Sender<()>,
    filled: Receiver<io::Result<u64>>,
}

impl Helper {
    fn start(to: SocketAddr, bytes: usize, segments: usize, core: Option<usize>) -> io::Result<Self> {
        let (orders, ordered) = channel();
        let (report, filled) = channel();
        let ancillary = Ancillary { source: None, segment_bytes: (segments > 1).then_some(bytes as u16) };
        let names = vec![kernel::name_of(to, false); FILLING / segments];
        let outbox = Outbox::to_each(names, vec![0x80; bytes * segments], ancillary);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        thread::Builder::new().name("floor-fill".into()).spawn(move || {
            if let Some(id) = core {
                core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            while ordered.recv().is_ok() {
                let sent = outbox.sendmsg_each(socket.as_fd()).map(|sends| sends * segments as u64);
                if report.send(sent).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, filled })
    }

    /// How many datagrams are on their way.
    fn fill(&self) -> io::Result<usize> {
        let gone = || io::Error::other("the helper has ended");
        self.orders.send(()).map_err(|_| gone())?;
        self.filled.recv().map_err(|_| gone())?.map(|sent| sent as usize)
    }
}

fn receiver() -> io::Result<(SocketAddr, UdpSocket)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES)?;
    Ok((socket.local_addr()?, socket))
}

fn recvfrom(bytes: usize) -> io::Result<(SocketAddr, Drain)> {
    let (address, socket) = receiver()?;
    let mut buffer = vec![0; bytes];
    let drain = move || match socket.recv_from(&mut buffer) {
        Ok(_) => Ok(1),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    };
    Ok((address, Box::new(drain)))
}

fn recvmmsg(bytes: usize, gro: bool) -> io::Result<(SocketAddr, Drain)> {
    let (address, socket) = receiver()?;
    if gro {
        kernel::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)?;
    }
    let mut inbox = Inbox::new(BATCH, if gro { RUN_BYTES_MAX } else { bytes }, gro);
    let drain = move || Ok(inbox.recvmmsg(socket.as_fd())? / bytes);
    Ok((address, Box::new(drain)))
}

fn udp_backend() -> io::Result<(SocketAddr, Drain)> {
    let mut io = UdpIo::bind((Ipv6Addr::UNSPECIFIED, 0).into(), Bell::new()?, UdpOptions::default())
        .map_err(io::Error::other)?;
    let port = io.local_addr().port();
    Ok(((Ipv4Addr::LOCALHOST, port).into(), Box::new(move || Ok(io.recv(|_| ())))))
}

fn uring_backend() -> io::Result<(SocketAddr, Drain)> {
    let mut io = UringIo::bind((Ipv6Addr::UNSPECIFIED, 0).into(), Bell::new()?, UdpOptions::default())
        .map_err(io::Error::other)?;
    let port = io.local_addr().port();
    // The standing request is made by the first call, and belongs to this thread.
    io.recv(|_| ());
    Ok(((Ipv4Addr::LOCALHOST, port).into(), Box::new(move || Ok(io.recv(|_| ())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_receiving_gets_all_that_was_sent() {
        let mut left_out = Vec::new();
        let rows = rows(120, None, &mut left_out);
        assert!(left_out.iter().all(|text| text.contains("uring")), "{left_out:?}");
        for mut row in rows {
            row.take_turn(&Meter::of_core(usize::MAX), Duration::ZERO);
            let packets: u64 = row.samples.iter().map(|sample| sample.packets).sum();
            assert_eq!(packets, FILLING as u64, "{} {}: {:?}", row.key.path, row.key.segments, row.failed);
        }
    }
}
