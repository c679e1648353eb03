//! The network of the `xdp` backend: two hosts of the test's own, a cable between them, the backend on the near
//! one and plain sockets on the far one.
//!
//! What a story calls loopback are addresses of the cable here. Before a story begins, the ways to the far host are
//! made known, so that frames are tested and not the socket that fills in for them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use fanline::io::udp::{UdpIo, UdpOptions};
use fanline::io::xdp::{self, Rung, XdpIo, XdpOptions};
use fanline::io::{Bell, Io, Path};

use super::netns::{Cable, FAR_V4, FAR_V6, NEAR, NEAR_V4, NEAR_V4_OTHER, NEAR_V6};
use super::{Network, kernel_peer};

/// Two hosts, and the best rung that backends on the near one may take.
pub struct Veth {
    pub cable: Cable,
    rung: Rung,
}

impl Veth {
    /// `None`, with the reason printed, where namespaces or this rung cannot be had.
    pub fn plug(rung: Rung) -> Option<Self> {
        Self::plug_queues(rung, 1)
    }

    /// As [`Self::plug`], with several queues at both ends.
    pub fn plug_queues(rung: Rung, queues: u32) -> Option<Self> {
        // Why a rung cannot be had is in the log.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let veth = Self { cable: Cable::plug(queues)?, rung };
        match veth.try_open(&[socket(NEAR_V4)]) {
            Ok(ios) if ios[0].rung() == rung => Some(veth),
            Ok(ios) => {
                eprintln!("skipped: this kernel gives {} instead of {rung}", ios[0].rung());
                None
            }
            Err(refused) => {
                eprintln!("skipped: {}", refused.reason);
                None
            }
        }
    }

    fn try_open(&self, sockets: &[(SocketAddr, Bell)]) -> Result<Vec<XdpIo>, xdp::Refused> {
        let bind = |(addr, bell): &(SocketAddr, Bell)| {
            let io = UdpIo::bind(*addr, bell.clone(), UdpOptions::default()).unwrap();
            (io, bell.clone())
        };
        let options = XdpOptions { interface: Some(NEAR.to_owned()), best: self.rung, ..Default::default() };
        let opened = xdp::open(sockets.iter().map(bind).collect(), &options)?;
        Ok(opened.into_iter().map(|(io, _)| io).collect())
    }

    /// Backends that share the interface, one per address and bell.
    pub fn open(&self, sockets: &[(SocketAddr, Bell)]) -> Vec<XdpIo> {
        self.try_open(sockets).unwrap()
    }

    /// The far host's socket.
    pub fn far_peer(&self, ip: &str) -> UdpSocket {
        self.cable.far.within(|| kernel_peer(ip))
    }
}

/// Any port of `ip`, and a bell.
pub fn socket(ip: &str) -> (SocketAddr, Bell) {
    (SocketAddr::new(ip.parse().unwrap(), 0), Bell::new().unwrap())
}

/// Turns until datagrams on this path go by frames.
pub fn await_frames(io: &mut XdpIo, path: &Path) {
    for _ in 0..300 {
        if io.goes_by_frames(path) {
            return;
        }
        io.wait(Duration::from_millis(10));
        io.recv(|_| ());
    }
    panic!("no way to {path:?} by frames");
}

/// Makes the backend learn the ways to the far host, from every address that it may answer from.
fn learn_ways(io: &mut XdpIo) {
    let bound = io.local_addr().ip();
    let ways = [(FAR_V4, NEAR_V4), (FAR_V4, NEAR_V4_OTHER), (FAR_V6, NEAR_V6)];
    for (remote, local) in
        ways.map(|(remote, local)| (remote.parse::<IpAddr>().unwrap(), local.parse().unwrap()))
    {
        let takes_family = remote.is_ipv4() == bound.is_ipv4() || bound == IpAddr::from([0_u16; 8]);
        if takes_family && (bound.is_unspecified() || bound == local) {
            let remote = SocketAddr::new(remote, 9);
            await_frames(io, &Path { remote, local: Some(local) });
            await_frames(io, &Path { remote, local: None });
        }
    }
}

impl Network for Veth {
    type Io = XdpIo;
    type Peer = UdpSocket;

    fn io(&mut self, ip: &str) -> (XdpIo, SocketAddr) {
        let ip = self.called(ip);
        let mut io = self.open(&[(SocketAddr::new(ip, 0), Bell::new().unwrap())]).remove(0);
        learn_ways(&mut io);
        let addr = SocketAddr::new(ip, io.local_addr().port());
        (io, addr)
    }

    fn peer(&mut self, ip: &str) -> UdpSocket {
        self.far_peer(if ip == "::1" { FAR_V6 } else { FAR_V4 })
    }

    fn settle(&mut self) {}

    fn called(&self, ip: &str) -> IpAddr {
        let ip = match ip {
            "127.0.0.1" => NEAR_V4,
            "127.0.0.2" => NEAR_V4_OTHER,
            "::1" => NEAR_V6,
            other => other,
        };
        ip.parse().unwrap()
    }
}
