//! Real shards without the threads around them: what the allocation test and the fan-out benchmark share.
//!
//! A [`Rig`] wires shards as a server does and speaks control's part by hand; a [`Peer`] is the far end of a
//! session, with the keys that DTLS would have given; a [`Stream`] makes what a publisher sends. Time, and
//! when a shard turns, are the caller's. [`MemoryIo`] is a network that costs what its copies cost: it
//! allocates nothing once made.
#![allow(dead_code, reason = "each program that includes this file uses a part of it")]

use std::net::SocketAddr;
use std::time::Duration;

use fanline::forward::rewrite::SendCodec;
use fanline::forward::select::Selection;
use fanline::id::{LegId, MediaKind, Mid, SessionSlot, ShardId, TrackKey};
use fanline::io::batch::{Batch, SEGMENTS_MAX};
use fanline::io::{Bell, Datagram, Io, IoCounters, Path};
use fanline::ring::{Consumer, Producer, ring};
use fanline::rtp::codec::VideoCodec;
use fanline::rtp::extension::{Extension, ExtensionMap};
use fanline::rtp::srtp::{DtlsRole, KeyingMaterial, Opener, Profile, Sealer};
use fanline::rtp::template::{HeaderTemplate, patch};
use fanline::shard::command::{
    Command, EncodingConfig, LegConfig, PublicationConfig, ReceiveCodec, TrackConfig,
};
use fanline::shard::{Shard, ShardSettings, punt};
use fanline::table::{Entry, ShardSet};
use fanline::time::Time;
use fanline::wiring::{ControlEnds, wire};

/// When every story begins.
pub const START: Time = Time(1_800_000_000_000_000);

/// Datagrams per receive call, as many as `recvmmsg` takes.
const RECEIVE_BATCH: usize = 32;

/// A burst of 200 full packets towards a shard.
const INBOX_BYTES: usize = 512 * 1024;

/// What a turn may send while somebody listens: a burst of ten full packets to 100 subscribers twice over.
const TAP_BYTES: usize = 4 * 1024 * 1024;

/// A network of one shard, in rings.
pub struct MemoryIo {
    inbox: Consumer,
    batch: Batch,
    /// Gets a copy of what is sent, where somebody listens.
    tap: Option<Producer>,
    counters: IoCounters,
}

/// The far end of a [`MemoryIo`].
pub struct Wire {
    inbox: Producer,
    pub tap: Consumer,
}

impl MemoryIo {
    /// A shard's network whose far end hears what is sent.
    pub fn heard() -> (Self, Wire) {
        let (tap, heard) = ring(TAP_BYTES);
        let (io, inbox) = Self::with(Some(tap));
        (io, Wire { inbox, tap: heard })
    }

    /// A shard's network that only counts what is sent, and the way to send to the shard.
    pub fn counting() -> (Self, Wire) {
        let (io, inbox) = Self::with(None);
        (io, Wire { inbox, tap: ring(0).1 })
    }

    fn with(tap: Option<Producer>) -> (Self, Producer) {
        let (inbox_end, inbox) = ring(INBOX_BYTES);
        let counters = IoCounters::default();
        (Self { inbox, batch: Batch::new(SEGMENTS_MAX), tap, counters }, inbox_end)
    }
}

impl Wire {
    pub fn send(&mut self, from: SocketAddr, bytes: &[u8]) {
        let record = self.inbox.reserve(punt::PATH_BYTES + bytes.len()).expect("the shard keeps up");
        let (head, body) = record.split_first_chunk_mut().expect("reserved with a path");
        punt::write_path(head, &Path { remote: from, local: None });
        body.copy_from_slice(bytes);
        self.inbox.commit();
        self.inbox.publish();
    }
}

impl Io for MemoryIo {
    fn recv<F: FnMut(Datagram<'_>)>(&mut self, mut each: F) -> usize {
        let mut count = 0;
        while count < RECEIVE_BATCH
            && let Some(record) = self.inbox.next()
        {
            let (path, bytes) = punt::read(record).expect("a wire writes whole records");
            each(Datagram { path, bytes });
            count += 1;
        }
        self.inbox.release();
        self.counters.received_datagrams += count as u64;
        count
    }

    fn reserve(&mut self, path: &Path, len: usize) -> Option<&mut [u8]> {
        if !self.batch.has_room(len) {
            self.flush();
        }
        self.batch.reserve(path, len)
    }

    fn commit(&mut self, len: usize) {
        self.batch.commit(len);
    }

    fn flush(&mut self) {
        for run in self.batch.runs() {
            self.counters.send_calls += 1;
            self.counters.sent_datagrams += run.segments() as u64;
            let Some(tap) = &mut self.tap else { continue };
            for datagram in run.datagrams() {
                let record = tap.reserve(punt::PATH_BYTES + datagram.len()).expect("the listener keeps up");
                let (head, body) = record.split_first_chunk_mut().expect("reserved with a path");
                punt::write_path(head, &run.path);
                body.copy_from_slice(datagram);
                tap.commit();
            }
            tap.publish();
        }
        self.batch.clear();
    }

    fn wait(&mut self, _timeout: Duration) {}

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

/// What a track carries, at both of its ends.
#[derive(Clone, Copy)]
pub struct Media {
    pub kind: MediaKind,
    /// Bytes of an RTP packet before it is sealed.
    pub packet_bytes: usize,
    clock_rate: u32,
    /// The publisher's names, then the subscribers'.
    pub payload_types: (u8, u8),
    /// Of retransmissions, likewise.
    pub rtx: Option<(u8, u8)>,
    /// Packets come with dependency descriptors, and subscribers agree to report their arrival: they get the layers that
    /// their bandwidth carries, and are probed.
    pub has_layers: bool,
}

/// Opus, 20 ms at 34 kb/s.
pub const AUDIO: Media = Media {
    kind: MediaKind::Audio,
    packet_bytes: 120,
    clock_rate: 48_000,
    payload_types: (111, 109),
    rtx: None,
    has_layers: false,
};

/// Full packets of a frame, with all feedback that browsers negotiate.
pub const VIDEO: Media = Media {
    kind: MediaKind::Video,
    packet_bytes: 1_200,
    clock_rate: 90_000,
    payload_types: (96, 102),
    rtx: Some((97, 103)),
    has_layers: false,
};

/// A scalable encoding.
pub const LAYERS: Media = Media { has_layers: true, ..VIDEO };

/// Of the dependency descriptor at the publisher.
const DESCRIPTOR_ID: u8 = 5;

/// Extension ids differ between the ends, as they do between browsers.
fn publisher_extensions(media: &Media) -> ExtensionMap {
    let mut map = extensions(&[(Extension::AudioLevel, 1), (Extension::TransportCc, 3), (Extension::Mid, 4)]);
    if media.has_layers {
        map.set(Extension::DependencyDescriptor, DESCRIPTOR_ID);
    }
    map
}

fn subscriber_extensions(media: &Media) -> ExtensionMap {
    let mut map = extensions(&[(Extension::AudioLevel, 2), (Extension::Mid, 7)]);
    if media.has_layers {
        map.set(Extension::DependencyDescriptor, 9);
        map.set(Extension::TransportCc, 3);
    }
    map
}

fn extensions(ids: &[(Extension, u8)]) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    ids.iter().for_each(|&(extension, id)| map.set(extension, id));
    map
}

const MEDIA_SSRC: u32 = 0x0a0a_0a0a;
const RTX_SSRC: u32 = 0x0b0b_0b0b;

/// The SSRCs of the `n`th subscriber's leg, media and retransmissions.
pub fn leg_ssrcs(n: u32) -> (u32, u32) {
    (0x1000_0000 + n, 0x8000_0000 + n)
}

/// The sequence number with which the `n`th subscriber's leg begins.
pub fn first_sequence(n: u32) -> u16 {
    100 + (n % 1_000) as u16
}

/// The far end of a session.
pub struct Peer {
    pub shard: ShardId,
    pub slot: SessionSlot,
    pub address: SocketAddr,
    pub sealer: Sealer,
    pub opener: Opener,
}

/// Shards as a server has them, and control's ends in the hands of the caller.
pub struct Rig<I: Io> {
    pub shards: Vec<Shard<I>>,
    pub control: ControlEnds,
    /// Slots given out, by shard.
    seated: Vec<u32>,
    /// By track, the shards with subscribers.
    subscribers: [ShardSet; TRACKS_MAX as usize],
}

/// Tracks of a rig.
const TRACKS_MAX: u32 = 64;

impl<I: Io> Rig<I> {
    /// A shard over each backend, given with its bell.
    pub fn new(backends: Vec<(I, Bell)>) -> Self {
        Self::with(backends, ShardSettings::default())
    }

    /// The same with settings; no track ever counts as silent.
    pub fn with(backends: Vec<(I, Bell)>, settings: ShardSettings) -> Self {
        let sockets: Vec<_> = backends.iter().map(|(_, bell)| (bell.clone(), 0)).collect();
        let (ends, control) = wire(&sockets, TRACKS_MAX).expect("descriptors are left");
        let settings = ShardSettings { media_timeout: Duration::from_secs(3_600), ..settings };
        let shards = backends.into_iter().zip(ends).enumerate().map(|(at, ((io, _), ends))| {
            Shard::new(ShardId(at as u16), io, settings, ends.table, ends.neighbours, ends.control)
        });
        let shards: Vec<_> = shards.collect();
        let seated = vec![0; shards.len()];
        Self { shards, control, seated, subscribers: [ShardSet::EMPTY; TRACKS_MAX as usize] }
    }

    pub fn tell(&mut self, shard: ShardId, command: Command) {
        self.control.links[shard.index()].commands.send(command).expect("the shard is there");
    }

    /// Lets shards turn until none has anything to do.
    pub fn settle(&mut self, now: Time) {
        while self.shards.iter_mut().map(|shard| u32::from(shard.turn(now))).sum::<u32>() > 0 {}
        for link in &self.control.links {
            link.events.try_iter().for_each(drop);
        }
    }

    /// A session that ICE and DTLS are done with.
    pub fn join(&mut self, shard: ShardId, address: SocketAddr) -> Peer {
        let slot = SessionSlot(self.seated[shard.index()]);
        self.seated[shard.index()] += 1;
        let mut exported = vec![shard.0 as u8; Profile::AeadAes128Gcm.keying_material_len()];
        exported[..4].copy_from_slice(&slot.0.to_be_bytes());
        let keys = || KeyingMaterial::from_dtls(Profile::AeadAes128Gcm, &exported).expect("the right length");
        let (sealer, opener) = keys().into_contexts(DtlsRole::Client);
        let contexts = Box::new(keys().into_contexts(DtlsRole::Server));
        let path = Path { remote: address, local: None };
        self.tell(shard, Command::AddSession { slot, rtcp_ssrc: 1 + slot.0, cname: "fanline".into() });
        self.tell(shard, Command::AddPath { slot, path, nominated: true });
        self.tell(shard, Command::SetKeys { slot, contexts });
        Peer { shard, slot, address, sealer, opener }
    }

    /// Makes the peer the publisher of the rig's first track.
    pub fn publish(&mut self, peer: &Peer, media: &Media) {
        self.publish_track(peer, media, 0);
    }

    /// Makes the peer the publisher of a track, counted from 0.
    pub fn publish_track(&mut self, peer: &Peer, media: &Media, track: u32) {
        let key = track_key(track);
        let track = TrackConfig {
            key,
            kind: media.kind,
            publisher: peer.shard,
            encodings: 1,
            codecs: if media.kind == MediaKind::Video {
                let codec = if media.has_layers { VideoCodec::Av1 } else { VideoCodec::Vp8 };
                vec![(media.payload_types.0, codec)]
            } else {
                vec![]
            },
            extensions: publisher_extensions(media),
        };
        for shard in 0..self.shards.len() {
            self.tell(ShardId(shard as u16), Command::AddTrack { track: Box::new(track.clone()) });
        }
        let video = media.kind == MediaKind::Video;
        let publication = PublicationConfig {
            track: key,
            kind: media.kind,
            mid: mid(),
            codecs: vec![ReceiveCodec {
                payload_type: media.payload_types.0,
                rtx_payload_type: media.rtx.map(|rtx| rtx.0),
                clock_rate: media.clock_rate,
                nack: video,
                pli: video,
            }],
            encodings: vec![EncodingConfig {
                rid: None,
                ssrc: Some(MEDIA_SSRC),
                rtx_ssrc: video.then_some(RTX_SSRC),
            }],
            extensions: publisher_extensions(media),
            transport_cc: video,
        };
        let command = Command::Publish { slot: peer.slot, publication: Box::new(publication), ack: 0 };
        self.tell(peer.shard, command);
    }

    /// Makes the peer the `n`th subscriber of the first track.
    pub fn subscribe(&mut self, peer: &Peer, media: &Media, n: u32) {
        self.subscribe_to_track(peer, media, 0, n);
    }

    /// Makes the peer the `n`th subscriber of a track.
    pub fn subscribe_to_track(&mut self, peer: &Peer, media: &Media, track: u32, n: u32) {
        let n = track << 20 | n;
        let key = track_key(track);
        let (ssrc, rtx_ssrc) = leg_ssrcs(n);
        let leg = LegConfig {
            id: LegId(n),
            track: key,
            ssrc,
            rtx_ssrc: media.rtx.map(|_| rtx_ssrc),
            first_sequence: first_sequence(n),
            first_rtx_sequence: 0,
            mid: mid(),
            codecs: vec![SendCodec {
                from: media.payload_types.0,
                to: media.payload_types.1,
                rtx: media.rtx.map(|rtx| rtx.1),
                clock_rate: media.clock_rate,
            }],
            extensions: subscriber_extensions(media),
            selection: Selection::default(),
            is_resumable: false,
        };
        self.tell(peer.shard, Command::Subscribe { slot: peer.slot, leg: Box::new(leg), ack: 0 });
        let subscribers = &mut self.subscribers[track as usize];
        if !subscribers.contains(peer.shard) {
            *subscribers = subscribers.with(peer.shard);
            self.control.table.publish(Entry { key, subscribers: *subscribers });
        }
    }
}

pub fn track_key(index: u32) -> TrackKey {
    TrackKey { index, generation: 1 }
}

fn mid() -> Mid {
    Mid::from_bytes(b"0").expect("one printable byte")
}

/// What a publisher sends: packets whose every byte follows from their number.
pub struct Stream {
    media: Media,
    /// The number of the next packet, counted from 0.
    pub next: u64,
    timestamp: u32,
    rtx_next: u16,
    transport_sequence: u16,
    shorter_by: usize,
    descriptor: Vec<u8>,
    packet: Vec<u8>,
}

/// The publisher's first sequence number.
const SEQUENCE_BASE: u64 = 1_000;

impl Stream {
    pub fn new(media: Media) -> Self {
        let packet = vec![0; media.packet_bytes + 64];
        let (transport_sequence, descriptor) = (0, Vec::new());
        Self {
            media,
            next: 0,
            timestamp: 0,
            rtx_next: 0,
            transport_sequence,
            shorter_by: 0,
            descriptor,
            packet,
        }
    }

    /// Makes the packets from here on shorter than the media's, by up to `less` bytes: how much, follows from their
    /// number and from `salt`, which tells streams apart.
    pub fn vary(&mut self, less: usize, salt: u64) {
        let hash = (self.next + 977 * salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        self.shorter_by = hash as usize % (less + 1);
    }

    /// The dependency descriptor of the packets from here on.
    pub fn describe(&mut self, descriptor: &[u8]) {
        self.descriptor.clear();
        self.descriptor.extend_from_slice(descriptor);
    }

    /// Lets the clock of the media run on by a frame.
    pub fn next_frame(&mut self) {
        self.timestamp = self.timestamp.wrapping_add(self.media.clock_rate / 50);
    }

    /// The next packet, sealed.
    pub fn packet(&mut self, sealer: &Sealer, marker: bool) -> &[u8] {
        let number = self.next;
        self.next += 1;
        let index = SEQUENCE_BASE + number;
        let payload_type = self.media.payload_types.0;
        self.seal(sealer, (marker, payload_type, MEDIA_SSRC), index, number, &[])
    }

    /// Lets the next packet get lost on the way.
    pub fn lose(&mut self) {
        self.next += 1;
        self.transport_sequence = self.transport_sequence.wrapping_add(1);
    }

    /// Repeats the packet that is missed under this sequence number.
    pub fn retransmission(&mut self, sealer: &Sealer, sequence: u16) -> &[u8] {
        let number = u64::from(sequence.wrapping_sub(SEQUENCE_BASE as u16));
        let payload_type = self.media.rtx.expect("the media has retransmissions").0;
        let index = u64::from(self.rtx_next);
        self.rtx_next += 1;
        self.seal(sealer, (false, payload_type, RTX_SSRC), index, number, &sequence.to_be_bytes())
    }

    fn seal(
        &mut self,
        sealer: &Sealer,
        (marker, payload_type, ssrc): (bool, u8, u32),
        index: u64,
        number: u64,
        original: &[u8],
    ) -> &[u8] {
        let mut header = HeaderTemplate::new(marker, payload_type);
        header.push(1, &[30]);
        header.push(3, &self.transport_sequence.to_be_bytes());
        self.transport_sequence = self.transport_sequence.wrapping_add(1);
        if !self.descriptor.is_empty() {
            assert!(header.push(DESCRIPTOR_ID, &self.descriptor));
        }
        header.finish();
        let header = header.as_bytes();
        let (head, rest) = self.packet.split_at_mut(header.len());
        head.copy_from_slice(header);
        patch(head, index as u16, self.timestamp, ssrc);
        let (start, rest) = rest.split_at_mut(original.len());
        start.copy_from_slice(original);
        let packet_bytes = self.media.packet_bytes - self.shorter_by;
        let payload = &mut rest[..packet_bytes - header.len()];
        payload.iter_mut().zip(payload_bytes(number)).for_each(|(to, byte)| *to = byte);
        let len = packet_bytes + original.len() + sealer.rtp_overhead();
        sealer.protect_rtp(&mut self.packet[..len], header.len(), index);
        &self.packet[..len]
    }
}

/// The payload of the packet with this number.
pub fn payload_bytes(number: u64) -> impl Iterator<Item = u8> {
    (0..).map(move |at: u64| (number * 31 + at) as u8)
}

/// The publisher's media SSRC.
pub fn media_ssrc() -> u32 {
    MEDIA_SSRC
}
