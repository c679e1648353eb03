//! Published tracks: what they are, who reads them where, and the index that names each in the table.

use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::control::request::{RidOrder, Simulcast};
use crate::forward::select::{Selection, Wish};
use crate::forward::speech::Loudness;
use crate::id::{MediaKind, SessionId, ShardId, TrackKey};
use crate::sdp::{Codec, Receive};
use crate::shard::command::TrackConfig;
use crate::table::{Entry, ShardSet};

/// A published track.
pub struct Track {
    pub config: TrackConfig,
    pub session: SessionId,
    pub name: String,
    /// What the publisher and we agreed on, under the publisher's numbers.
    pub receive: Receive,
    /// Whether packets flow.
    pub active: bool,
    /// How loud it is, if its packets tell.
    pub loudness: Option<Loudness>,
    /// Told when `active` changes or the track ends.
    pub changed: Rc<Notify>,
    /// Legs per shard. A shard stays here until it has dropped its copy of the track.
    legs: HashMap<ShardId, u32>,
}

impl Track {
    pub fn kind(&self) -> MediaKind {
        self.config.kind
    }

    pub fn codecs(&self) -> &[Codec] {
        &self.receive.codecs
    }

    pub fn is_simulcast(&self) -> bool {
        self.receive.encodings.len() > 1
    }

    /// What a wish means in numbers of this track's encodings, which are in the order of their rids.
    pub fn selection(&self, wish: &Simulcast) -> Selection {
        let steps_down = wish.priority_ordering == RidOrder::Asciibetical;
        let rids = || self.receive.encodings.iter().filter_map(|encoding| encoding.rid);
        let Some(preferred) =
            wish.preferred_rid.as_deref().filter(|rid| !rid.is_empty() && self.is_simulcast())
        else {
            return Selection { wish: Wish::Best, steps_down };
        };
        let better = rids().filter(|rid| rid.as_str() < preferred).count() as u8;
        let exists = rids().any(|rid| rid.as_str() == preferred);
        let wish = match wish.rid_not_available {
            RidOrder::Asciibetical => Wish::Prefer(better),
            RidOrder::None if exists => Wish::Only(better),
            RidOrder::None => Wish::Only(u8::MAX),
        };
        Selection { wish, steps_down }
    }

    /// Shards other than the publisher's that have subscribers: where packets must be copied to.
    pub fn entry(&self) -> Entry {
        let away = self.legs.iter().filter(|(shard, legs)| **legs > 0 && **shard != self.config.publisher);
        let subscribers = away.fold(ShardSet::default(), |set, (&shard, _)| set.with(shard));
        Entry { key: self.config.key, subscribers }
    }

    /// Every shard that holds the track.
    pub fn shards(&self) -> Vec<ShardId> {
        let mut shards: Vec<_> = self.legs.keys().copied().collect();
        if !shards.contains(&self.config.publisher) {
            shards.push(self.config.publisher);
        }
        shards
    }
}

/// What adding or removing a leg asks of the shard and of the table.
#[derive(Debug, PartialEq)]
pub struct LegChange {
    /// The shard must be told of the track before it gets the leg.
    pub is_new_shard: bool,
    /// The table entry that is true afterwards.
    pub entry: Entry,
    /// The shard has no leg any more, and is not the publisher's.
    pub is_unused: bool,
}

/// All tracks, by the index that the table knows them by.
#[derive(Default)]
pub struct Tracks {
    tracks: HashMap<TrackKey, Track>,
    /// Indices whose last track is gone from every shard, with the generation to use next.
    free: Vec<TrackKey>,
    next_index: u32,
    /// How many subscriptions each shard serves.
    legs: HashMap<ShardId, u32>,
}

impl Tracks {
    /// A name for a new track; `None` when the table is full.
    pub fn allocate(&mut self, capacity: u32) -> Option<TrackKey> {
        if let Some(key) = self.free.pop() {
            return Some(key);
        }
        let key = TrackKey { index: self.next_index, generation: 0 };
        (key.index < capacity).then(|| self.next_index += 1)?;
        Some(key)
    }

    /// No shard knows `key` any more: its index may be used again.
    pub fn release(&mut self, key: TrackKey) {
        self.free.push(TrackKey { generation: key.generation.wrapping_add(1), ..key });
    }

    pub fn insert(&mut self, session: SessionId, name: String, receive: Receive, config: TrackConfig) {
        let track = Track {
            session,
            name,
            receive,
            active: false,
            loudness: None,
            changed: Rc::new(Notify::new()),
            legs: HashMap::new(),
            config,
        };
        self.tracks.insert(track.config.key, track);
    }

    pub fn get(&self, key: TrackKey) -> Option<&Track> {
        self.tracks.get(&key)
    }

    /// Takes the track out: nobody can subscribe to it from here on. Those who wait for it are told.
    pub fn remove(&mut self, key: TrackKey) -> Option<Track> {
        let track = self.tracks.remove(&key)?;
        for (shard, legs) in &track.legs {
            if let Some(all) = self.legs.get_mut(shard) {
                *all -= legs;
            }
        }
        track.changed.notify_waiters();
        Some(track)
    }

    pub fn set_active(&mut self, key: TrackKey, active: bool) {
        if let Some(track) = self.tracks.get_mut(&key) {
            track.active = active;
            track.changed.notify_waiters();
        }
    }

    pub fn set_loudness(&mut self, key: TrackKey, loudness: Loudness) {
        if let Some(track) = self.tracks.get_mut(&key) {
            track.loudness = Some(loudness);
        }
    }

    /// The subscriptions that a shard serves, of all tracks.
    pub fn legs_on(&self, shard: ShardId) -> usize {
        self.legs.get(&shard).map_or(0, |legs| *legs as usize)
    }

    pub fn add_leg(&mut self, key: TrackKey, shard: ShardId) -> Option<LegChange> {
        let track = self.tracks.get_mut(&key)?;
        *self.legs.entry(shard).or_default() += 1;
        let is_new_shard = shard != track.config.publisher && !track.legs.contains_key(&shard);
        *track.legs.entry(shard).or_default() += 1;
        Some(LegChange { is_new_shard, entry: track.entry(), is_unused: false })
    }

    pub fn remove_leg(&mut self, key: TrackKey, shard: ShardId) -> Option<LegChange> {
        let track = self.tracks.get_mut(&key)?;
        let legs = track.legs.get_mut(&shard)?;
        if let (Some(fewer), Some(all)) = (legs.checked_sub(1), self.legs.get_mut(&shard)) {
            *legs = fewer;
            *all -= 1;
        }
        let is_unused = *legs == 0 && shard != track.config.publisher;
        Some(LegChange { is_new_shard: false, entry: track.entry(), is_unused })
    }

    /// The shard is about to drop the track, unless a leg has come back meanwhile.
    pub fn forget_shard(&mut self, key: TrackKey, shard: ShardId) -> bool {
        let Some(track) = self.tracks.get_mut(&key) else { return false };
        let unused = track.legs.get(&shard) == Some(&0);
        if unused {
            track.legs.remove(&shard);
        }
        unused
    }

    pub fn len(&self) -> usize {
        self.tracks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::extension::ExtensionMap;
    use crate::sdp::Encoding;

    fn track(rids: &[&str]) -> Track {
        let encoding = |rid: &&str| Encoding { rid: rid.parse().ok(), ssrc: None, rtx_ssrc: None };
        let receive = Receive {
            codecs: Vec::new(),
            encodings: rids.iter().map(encoding).collect(),
            extensions: ExtensionMap::default(),
            transport_cc: true,
            cname: None,
            msid: None,
        };
        let key = TrackKey { index: 0, generation: 0 };
        let config = TrackConfig {
            key,
            kind: MediaKind::Video,
            publisher: ShardId(0),
            encodings: rids.len() as u8,
            codecs: Vec::new(),
            extensions: ExtensionMap::default(),
        };
        let mut tracks = Tracks::default();
        tracks.insert(SessionId([0; 16]), "camera".to_owned(), receive, config);
        tracks.remove(key).expect("it was just put in")
    }

    fn selection(rids: &[&str], preferred: &str, rid_not_available: RidOrder) -> Wish {
        let preferred_rid = Some(preferred.to_owned());
        track(rids).selection(&Simulcast { preferred_rid, rid_not_available, ..Simulcast::default() }).wish
    }

    #[test]
    fn rids_become_the_numbers_of_encodings() {
        let camera = ["f", "h", "q"];
        assert_eq!(selection(&camera, "h", RidOrder::None), Wish::Only(1));
        assert_eq!(selection(&camera, "q", RidOrder::Asciibetical), Wish::Prefer(2));
        assert_eq!(selection(&camera, "", RidOrder::None), Wish::Best, "no wish");
        assert_eq!(selection(&["f"], "q", RidOrder::None), Wish::Best, "no simulcast");
    }

    #[test]
    fn bandwidth_counts_only_for_whoever_says_in_which_order() {
        let camera = track(&["f", "h"]);
        let ordered = Simulcast { priority_ordering: RidOrder::Asciibetical, ..Simulcast::default() };
        assert!(camera.selection(&ordered).steps_down);
        assert!(!camera.selection(&Simulcast::default()).steps_down);
    }

    #[test]
    fn a_rid_that_does_not_exist_means_nothing_or_what_would_follow_it() {
        let camera = ["f", "h", "q"];
        assert_eq!(selection(&camera, "g", RidOrder::None), Wish::Only(u8::MAX));
        assert_eq!(selection(&camera, "g", RidOrder::Asciibetical), Wish::Prefer(1));
        assert_eq!(selection(&camera, "z", RidOrder::Asciibetical), Wish::Prefer(3), "then the nearest");
    }
}
