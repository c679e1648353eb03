//! What lies between server and clients: the host's own network, or a veth pair made for the measurement; and the
//! sink that takes media away before it reaches the clients' sockets.

use std::fs;
use std::net::IpAddr;

use super::addresses::Prefix;
use super::netns::Pair;
use super::settings::{Common, Link};
use super::sink::Sink;
use super::{BenchError, kernel};

pub struct Stretch {
    pub pair: Option<Pair>,
    pub sink: Option<Sink>,
}

/// A sink tells listeners apart by the last 16 bits of their addresses.
const SINK_BITS: u8 = 16;

impl Stretch {
    /// Makes what the settings ask for. A pair has its own prefix for clients, which the settings get.
    pub fn make(settings: &mut Common) -> Result<Self, BenchError> {
        let pair = match settings.link {
            Link::Host => None,
            Link::Veth => Some(Pair::new()?),
        };
        if let Some(pair) = &pair {
            settings.client_net = Prefix::new(pair.network, 32 - SINK_BITS);
        }
        let sink = if settings.sink { Some(sink(settings, pair.as_ref())?) } else { None };
        Ok(Self { pair, sink })
    }

    /// Moves the calling thread, and those that it starts, to the clients' end.
    pub fn enter(&self) -> Result<(), BenchError> {
        let entered = self.pair.as_ref().map_or(Ok(()), |pair| pair.far.enter());
        entered.map_err(|error| BenchError(format!("cannot enter a network namespace: {error}")))
    }
}

fn sink(settings: &Common, pair: Option<&Pair>) -> Result<Sink, BenchError> {
    let net = settings.client_net;
    let whole = if net.is_ipv6() { 128 } else { 32 };
    if net.len() < whole - SINK_BITS {
        return Err(BenchError(format!(
            "--sink: {net} is too large, listeners are told apart by their last 16 bits; choose a prefix of /{} or \
             longer with --client-net",
            whole - SINK_BITS
        )));
    }
    let attach = |interface| Sink::attach(interface, net.first(), []);
    let sink = match pair {
        Some(pair) => pair.far.run(|| attach(pair.far_index)),
        None => attach(interface_towards(settings)?),
    };
    sink.map_err(|error| BenchError(format!("--sink: {error}")))
}

/// The interface at which the server's packets arrive: loopback, or the one of the default route.
fn interface_towards(settings: &Common) -> Result<u32, BenchError> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    });
    let name = match settings.client_net.first() {
        IpAddr::V4(first) if first.is_loopback() => Some("lo".to_owned()),
        _ => { default }.next(),
    };
    let index = name.as_deref().and_then(kernel::interface_index);
    index.ok_or_else(|| BenchError("--sink: there is no interface with a default route".into()))
}
