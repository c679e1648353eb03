//! A shard's memory of how to reach whom: for each pair of remote and local address the finished headers.
//!
//! It only remembers. What it does not know it asks the resolver (`resolver.rs`), through a channel and without
//! waiting; until the answer is there, and wherever the answer is "not by frames through this interface",
//! datagrams take the UDP socket, which makes the kernel resolve the neighbour besides. The resolver
//! speaks up by itself when something changes. So a packet costs a look into a hash map, and no system call.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crossbeam_channel::{Receiver, Sender};

use super::frame::{Header, Hop};
use crate::io::{Bell, Path};

/// Remote addresses remembered by one shard, 160 bytes each. When more have come by, all are forgotten, which
/// costs a question for each that is still there.
const ROUTES_MAX: usize = 65_536;

/// What decides a route. Ports do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub remote: IpAddr,
    /// The interface, of a link-local address; else 0.
    pub scope: u32,
    pub local: Option<IpAddr>,
}

impl Key {
    pub fn of(path: &Path) -> Self {
        let scope = match path.remote {
            SocketAddr::V6(remote) => remote.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self { remote: path.remote.ip(), scope, local: path.local }
    }
}

/// From a shard to the resolver.
#[derive(Debug)]
pub enum Ask {
    /// Tell me, and again whenever it changes.
    Route(Key),
    /// I have forgotten everything.
    Forget,
}

/// From the resolver to a shard.
#[derive(Debug)]
pub struct Answer {
    pub key: Key,
    /// `None`: by the socket.
    pub way: Option<Way>,
}

/// How to reach a remote address by frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub hop: Hop,
    pub mtu: usize,
}

/// A shard's end of what joins it to the resolver.
#[derive(Debug)]
pub struct ResolverLink {
    pub asks: Sender<Ask>,
    pub answers: Receiver<Answer>,
    /// Wakes the resolver.
    pub bell: Bell,
}

/// A known way, ready to use.
#[derive(Debug)]
pub struct Known {
    pub header: Header,
    /// The longest payload that fits the MTU.
    pub payload_bytes_max: usize,
}

/// Names what [`Routes::find`] has found, until the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteId(u32);

/// What a shard remembers.
#[derive(Debug)]
pub struct Routes {
    by_key: HashMap<Key, RouteId, foldhash::fast::RandomState>,
    /// By id; `None`: by the socket.
    known: Vec<Option<Known>>,
    link: ResolverLink,
}

impl Routes {
    pub fn new(link: ResolverLink) -> Self {
        Self { by_key: HashMap::default(), known: Vec::new(), link }
    }

    /// How to send `len` bytes by a frame on this path; `None`: by the socket, at least for now.
    #[inline]
    pub fn find(&mut self, path: &Path, len: usize) -> Option<RouteId> {
        let key = Key::of(path);
        let Some(&id) = self.by_key.get(&key) else {
            self.ask(key);
            return None;
        };
        self.get(id).filter(|known| len <= known.payload_bytes_max).map(|_| id)
    }

    /// What has just been found.
    #[inline]
    pub fn get(&self, RouteId(at): RouteId) -> Option<&Known> {
        self.known.get(at as usize)?.as_ref()
    }

    #[cold]
    fn ask(&mut self, key: Key) {
        if self.known.len() >= ROUTES_MAX && self.link.asks.try_send(Ask::Forget).is_ok() {
            self.by_key.clear();
            self.known.clear();
        }
        // With the channel full, the next packet asks.
        if self.link.asks.try_send(Ask::Route(key)).is_ok() {
            self.by_key.insert(key, RouteId(self.known.len() as u32));
            self.known.push(None);
            self.link.bell.ring();
        }
    }

    /// Takes what the resolver has said since.
    #[inline]
    pub fn learn(&mut self) {
        while let Ok(Answer { key, way }) = self.link.answers.try_recv() {
            // What was forgotten in the meantime stays forgotten.
            if let Some(&RouteId(at)) = self.by_key.get(&key)
                && let Some(known) = self.known.get_mut(at as usize)
            {
                *known = way.and_then(|way| Known::new(&way));
            }
        }
    }
}

impl Known {
    fn new(way: &Way) -> Option<Self> {
        let header = Header::new(&way.hop)?;
        let payload_bytes_max = way.mtu.saturating_sub(header.packet_overhead());
        Some(Self { header, payload_bytes_max })
    }
}

impl Drop for ResolverLink {
    fn drop(&mut self) {
        // It ends when the last shard is gone, and must look to see it.
        let (gone, _) = crossbeam_channel::bounded(0);
        self.asks = gone;
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    fn routes() -> (Routes, Receiver<Ask>, Sender<Answer>) {
        let ((asks, asked), (answer, answers)) = (bounded(2), bounded(8));
        (Routes::new(ResolverLink { asks, answers, bell: Bell::new().unwrap() }), asked, answer)
    }

    fn path(host: u8) -> Path {
        Path { remote: ([10, 0, 0, host], 4_000).into(), local: Some([10, 0, 0, 1].into()) }
    }

    fn way(host: u8) -> Option<Way> {
        let (source, remote) = ([10, 0, 0, 1].into(), [10, 0, 0, host].into());
        Some(Way { hop: Hop { from: [0; 6], to: [1; 6], source, remote }, mtu: 1_500 })
    }

    #[test]
    fn the_unknown_is_asked_once_and_goes_by_the_socket_until_the_answer() {
        let (mut routes, asked, answer) = routes();
        assert!(routes.find(&path(2), 1).is_none() && routes.find(&path(2), 1).is_none());
        let Ok(Ask::Route(key)) = asked.try_recv() else { panic!("not asked") };
        assert!(asked.try_recv().is_err());
        answer.send(Answer { key, way: way(2) }).unwrap();
        routes.learn();
        assert!(routes.find(&path(2), 1_472).is_some());
        assert!(routes.find(&path(2), 1_473).is_none(), "longer than the MTU");
        answer.send(Answer { key, way: None }).unwrap();
        routes.learn();
        assert!(routes.find(&path(2), 1).is_none());
        assert!(asked.try_recv().is_err(), "the resolver speaks up by itself");
    }

    #[test]
    fn what_could_not_be_asked_is_asked_with_the_next_packet() {
        let (mut routes, asked, _answer) = routes();
        (2..5).for_each(|host| assert!(routes.find(&path(host), 1).is_none()));
        assert_eq!(asked.try_iter().count(), 2);
        assert!(routes.find(&path(4), 1).is_none());
        assert_eq!(asked.try_iter().count(), 1);
    }

    #[test]
    fn an_answer_to_what_nobody_asked_is_ignored() {
        let (mut routes, _asked, answer) = routes();
        answer.send(Answer { key: Key::of(&path(2)), way: way(2) }).unwrap();
        routes.learn();
        assert!(routes.find(&path(2), 1).is_none());
    }
}
