//! Knows the way: the thread between the kernel's routing tables and the shards.
//!
//! A shard asks for an address; the resolver asks the kernel for the route and its copy of the neighbour table
//! for the link layer address of the next hop, answers, and answers again whenever a change in the
//! kernel's tables changes the answer. So policy routing, gateways, several addresses and failover are the
//! kernel's decisions, and no packet waits for any of it.
//!
//! Frames do not pass the kernel's neighbour code, so its entries would grow stale unnoticed. The resolver tells the
//! kernel which are in use: of those it checks the stale, and it resolves the missing (`NTF_USE`).
//!
//! The addresses of this host change too; the redirect program is told.
//!
//! Ends when the last shard has dropped its link.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::Weak;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, warn};

use super::frame::{Hop, Mac};
use super::netlink::{Changes, Interface, Neighbour, News, Questions};
use super::program::Redirect;
use super::route::{Answer, Ask, Key, ResolverLink, Way};
use crate::io::Bell;

/// Questions of one shard on the way: a burst of joins. What does not fit is asked again.
const ASKS_MAX: usize = 4_096;

/// How often stale neighbours are looked for. The kernel leaves an entry reachable for 15 to 45 s.
const LOOK_AROUND: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// After a change of routes: a table in flux is read 20 times a second at most.
const BREATH: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What datagrams are for us.
#[derive(Debug, Clone)]
pub struct Destinations {
    /// The one address that the ports are bound to; `None` for all of the host.
    pub bound: Option<IpAddr>,
    /// `false` if the sockets take IPv4 alone.
    pub has_ipv6: bool,
    pub ports: Vec<u16>,
}

impl Destinations {
    /// Addresses of this host that the redirect program should know.
    pub fn addresses(&self) -> HashSet<IpAddr> {
        let ours = |ip: &IpAddr| !ip.is_loopback() && (self.has_ipv6 || ip.is_ipv4());
        let is_bound = |ip: &IpAddr| self.bound.is_none_or(|bound| bound == *ip);
        let all = if_addrs::get_if_addrs().unwrap_or_default();
        all.iter().map(|interface| interface.ip()).filter(|ip| ours(ip) && is_bound(ip)).collect()
    }
}

/// The thread's state.
struct Resolver {
    questions: Questions,
    changes: Changes,
    interface: Interface,
    shards: Vec<Shard>,
    /// Of our interface, by address.
    neighbours: HashMap<IpAddr, Neighbour>,
    redirect: Weak<Redirect>,
    destinations: Destinations,
    addresses: HashSet<IpAddr>,
    bell: Bell,
}

/// One shard and what it has been told.
struct Shard {
    asks: Receiver<Ask>,
    answers: Sender<Answer>,
    told: HashMap<Key, Told>,
    is_gone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    /// Next hop and source address, if the route goes through our interface.
    next: Option<(IpAddr, IpAddr)>,
    way: Option<Way>,
}

/// Starts the resolver for `shards` shards and returns their ends.
///
/// # Errors
/// No netlink socket, or no thread.
pub fn start(
    interface: Interface,
    shards: usize,
    redirect: Weak<Redirect>,
    destinations: Destinations,
) -> io::Result<Vec<ResolverLink>> {
    let bell = Bell::new()?;
    let mut links = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..shards {
        let ((asks, asked), (answer, answers)) = (bounded(ASKS_MAX), unbounded());
        links.push(ResolverLink { asks, answers, bell: bell.clone() });
        ends.push(Shard { asks: asked, answers: answer, told: HashMap::new(), is_gone: false });
    }
    let mut resolver = Resolver {
        // Subscribed before the first look, so that nothing falls between.
        changes: Changes::open()?,
        questions: Questions::open()?,
        interface,
        shards: ends,
        neighbours: HashMap::new(),
        redirect,
        destinations,
        addresses: HashSet::new(),
        bell,
    };
    resolver.read_neighbours()?;
    resolver.read_addresses();
    thread::Builder::new().name("resolver".to_owned()).spawn(move || resolver.run())?;
    Ok(links)
}

impl Resolver {
    fn run(mut self) {
        loop {
            self.bell.arm();
            let asked = self.shards.iter().any(|shard| !shard.asks.is_empty());
            if !asked {
                let mut fds =
                    [PollFd::new(&self.bell, PollFlags::IN), PollFd::new(&self.changes, PollFlags::IN)];
                let quiet = matches!(poll(&mut fds, Some(&LOOK_AROUND)), Ok(0));
                if quiet {
                    self.check_stale();
                }
            }
            self.bell.disarm();
            self.take_news();
            self.take_asks();
            if self.shards.iter().all(|shard| shard.is_gone) {
                debug!("every shard has gone, and the resolver goes");
                return;
            }
        }
    }

    /// Follows the kernel's tables.
    fn take_news(&mut self) {
        let (mut changed, mut some_stale) = (HashSet::new(), false);
        let (mut routes_changed, mut addresses_changed) = (false, false);
        let mut links = Vec::new();
        let Self { changes, neighbours, interface, .. } = self;
        let complete = changes.drain(|news| match news {
            News::Neighbour(entry) if entry.interface == interface.index => {
                some_stale |= entry.is_stale;
                let before = neighbours.insert(entry.ip, entry).and_then(|entry| entry.mac);
                if before != entry.mac {
                    changed.insert(entry.ip);
                }
            }
            News::Neighbour(_) => {}
            News::Link(link) if link.index == interface.index => links.push(link),
            News::Link(_) | News::Routes => routes_changed = true,
            News::Addresses => (addresses_changed, routes_changed) = (true, true),
        });
        for link in links {
            routes_changed |= link != self.interface;
            self.interface = link;
        }
        if !complete {
            debug!("news of the routing tables were lost; reading them anew");
            let _ = self.read_neighbours();
            (addresses_changed, routes_changed) = (true, true);
        }
        if addresses_changed {
            self.read_addresses();
        }
        if routes_changed {
            self.route_all();
            let _ = poll(&mut [], Some(&BREATH));
        } else if !changed.is_empty() {
            self.tell_all(|told| told.next.is_some_and(|(via, _)| changed.contains(&via)));
        }
        if some_stale {
            self.check_stale();
        }
        // Removed entries were needed to see the change only.
        self.neighbours.retain(|_, entry| entry.mac.is_some());
    }

    fn take_asks(&mut self) {
        for at in 0..self.shards.len() {
            loop {
                match self.shards[at].asks.try_recv() {
                    Ok(Ask::Route(key)) => {
                        let next = self.next_hop(&key);
                        let way = self.way(&key, next);
                        self.shards[at].tell(key, Told { next, way }, true);
                    }
                    Ok(Ask::Forget) => self.shards[at].told.clear(),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.shards[at].is_gone = true;
                        break;
                    }
                }
            }
        }
    }

    /// Next hop and source of a route through our interface.
    fn next_hop(&mut self, key: &Key) -> Option<(IpAddr, IpAddr)> {
        let route = self.questions.route(key.remote, key.scope, key.local)?;
        let source = key.local.or(route.source)?;
        (route.interface == self.interface.index).then_some((route.via, source))
    }

    /// The way by a next hop whose link layer address is known; if it is not, the kernel is told to find out.
    fn way(&mut self, key: &Key, next: Option<(IpAddr, IpAddr)>) -> Option<Way> {
        let (via, source) = next?;
        match self.mac_of(via) {
            Some(to) => {
                let hop = Hop { from: self.interface.mac, to, source, remote: key.remote };
                Some(Way { hop, mtu: self.interface.mtu })
            }
            None => {
                let _ = self.questions.use_neighbour(self.interface.index, via);
                None
            }
        }
    }

    fn mac_of(&self, ip: IpAddr) -> Option<Mac> {
        self.neighbours.get(&ip)?.mac
    }

    /// Looks up every route again.
    fn route_all(&mut self) {
        for at in 0..self.shards.len() {
            let keys: Vec<_> = self.shards[at].told.keys().copied().collect();
            for key in keys {
                let next = self.next_hop(&key);
                let way = self.way(&key, next);
                self.shards[at].tell(key, Told { next, way }, false);
            }
        }
    }

    /// Tells again what has been told to those whom it concerns, with the neighbours of now.
    fn tell_all(&mut self, concerns: impl Fn(&Told) -> bool) {
        for at in 0..self.shards.len() {
            let told = self.shards[at].told.iter().filter(|(_, told)| concerns(told));
            let told: Vec<_> = told.map(|(key, told)| (*key, told.next)).collect();
            for (key, next) in told {
                let way = self.way(&key, next);
                self.shards[at].tell(key, Told { next, way }, false);
            }
        }
    }

    fn check_stale(&mut self) {
        let hops = self.shards.iter().flat_map(|shard| shard.told.values());
        let used: HashSet<_> = hops.filter_map(|told| told.next.map(|(via, _)| via)).collect();
        for via in used {
            if self.neighbours.get(&via).is_some_and(|entry| entry.is_stale) {
                let _ = self.questions.use_neighbour(self.interface.index, via);
            }
        }
    }

    fn read_neighbours(&mut self) -> io::Result<()> {
        self.neighbours.clear();
        let Self { neighbours, interface, questions, .. } = self;
        questions.neighbours(|entry| {
            if entry.interface == interface.index && entry.mac.is_some() {
                neighbours.insert(entry.ip, entry);
            }
        })
    }

    /// Tells the redirect program which addresses are this host's.
    fn read_addresses(&mut self) {
        let addresses = self.destinations.addresses();
        if let Some(redirect) = self.redirect.upgrade() {
            for port in &self.destinations.ports {
                for ip in addresses.difference(&self.addresses) {
                    if let Err(error) = redirect.add_destination(*ip, *port) {
                        warn!(%ip, port, %error, "datagrams to this address are received by the socket only");
                    }
                }
                for ip in self.addresses.difference(&addresses) {
                    let _ = redirect.remove_destination(*ip, *port);
                }
            }
        }
        self.addresses = addresses;
    }
}

impl Shard {
    /// Tells the shard, if it is news or was asked.
    fn tell(&mut self, key: Key, told: Told, was_asked: bool) {
        let before = self.told.insert(key, told);
        if was_asked || before.is_none_or(|before| before.way != told.way) {
            // A shard that is gone needs no answer.
            let _ = self.answers.send(Answer { key, way: told.way });
        }
    }
}
