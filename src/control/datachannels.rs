//! Named data channels: who publishes which, who subscribes to it, and what becomes of each message.
//!
//! A channel is one SCTP stream between a client and us. A publication's messages go to its subscriptions,
//! those of a subscription to nobody, unless it is the one that may reply: then to the publisher alone.
//! A subscriber that reads too slowly loses what is its own and never holds up another: messages if its
//! channel is unreliable, the channel if it is reliable, because a gap would break the promise.
//!
//! Pure: events and requests come in, what is to be done waits as [`Act`]s. Sockets, SCTP and SDP are
//! elsewhere, and `now` is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::id::SessionId;

/// The channel that exists without being published; nothing is said on it.
pub const SERVER_EVENTS: &str = "server-events";

/// What may wait for one reliable channel: 16 of the largest messages, or 3 s at 10 Mbit/s. A reader that
/// falls further behind will not catch up.
const RELIABLE_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What may wait for one unreliable channel: more would be old news when it arrives.
const UNRELIABLE_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What may wait for all channels of one session together.
pub const SESSION_BUFFER_BYTES_MAX: usize = 2 * RELIABLE_BUFFER_BYTES_MAX;

/// Streams 0 and 1 belong to [`SERVER_EVENTS`], whoever opens it: the DTLS client takes an even one, the
/// server an odd one (RFC 8832 §6).
const STREAM_MIN: u16 = 2;

/// Chromium opens no stream above it, so that the higher ones are given out last.
const STREAM_COMMON_MAX: u16 = 1_023;

/// 65,535 is no stream (RFC 8832 §6).
const STREAM_MAX: u16 = 65_534;

/// One end of a channel: whose, and on which SCTP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    pub session: SessionId,
    pub stream: u16,
}

/// What a channel promises about a message (RFC 8831 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub ordered: bool,
    pub persistence: Persistence,
}

/// How long the sender tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    Reliable,
    RetransmitsMax(u16),
    LifetimeMsMax(u16),
}

impl Delivery {
    pub fn buffer_bytes_max(&self) -> usize {
        match self.persistence {
            Persistence::Reliable => RELIABLE_BUFFER_BYTES_MAX,
            _ => UNRELIABLE_BUFFER_BYTES_MAX,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub is_binary: bool,
    pub bytes: Vec<u8>,
}

/// What a session's transport reports. Streams that clients open by themselves are reported too.
#[derive(Debug)]
pub enum ChannelEvent {
    Opened(u16),
    Closed(u16),
    Received(u16, Message),
}

/// What is to be done at a channel's end.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    Open { end: End, label: String, delivery: Delivery },
    Send { end: End, message: Rc<Message>, buffer_bytes_max: usize },
    Close { end: End },
}

/// Why there is no new channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The channel exists, on this stream.
    Repeated(u16),
    NoStreamLeft,
}

/// What a subscriber asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Hold messages back until the subscriber's first one, which is swallowed.
    pub waits_for_ack: bool,
    pub can_reply: bool,
}

/// A channel as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub stream: u16,
    pub name: String,
    /// Of a subscription.
    pub publisher: Option<SessionId>,
    pub phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// SCTP is not up yet, or the subscriber has not said its first word.
    Initializing,
    Active,
    /// Over, and not yet closed by the API.
    Inactive,
}

/// Every channel of every session.
pub struct DataChannels {
    /// How long a subscriber that asked to be waited for may take to say its first word.
    ack_timeout: Duration,
    sessions: HashMap<SessionId, Streams>,
    /// Subscribers that are waited for, in the order of their time running out.
    acks: VecDeque<(Instant, End)>,
    acts: VecDeque<Act>,
}

/// The streams of one session.
#[derive(Default)]
struct Streams {
    channels: BTreeMap<u16, Channel>,
    /// Opened by the client itself.
    foreign: BTreeSet<u16>,
    /// Given out last. Going round keeps a closed stream out of use while its reset is under way.
    last: u16,
}

struct Channel {
    name: String,
    delivery: Delivery,
    stream: StreamState,
    role: Role,
    /// Closed by the API: it stays, unlisted, until its stream is free again.
    is_forgotten: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
    Opening,
    Open,
    Closing,
    Gone,
}

enum Role {
    Publication { subscribers: BTreeSet<End>, replier: Option<End> },
    Subscription { publication: End, ack_by: Option<Instant>, held: Held },
}

/// Messages that came before their subscriber was ready.
#[derive(Default)]
struct Held {
    messages: VecDeque<Rc<Message>>,
    bytes: usize,
}

impl Held {
    /// Takes one more; an unreliable channel loses its oldest for it. Returns whether there was room.
    fn push(&mut self, message: Rc<Message>, delivery: &Delivery) -> bool {
        let limit = delivery.buffer_bytes_max();
        while self.bytes > 0 && self.bytes + message.bytes.len() > limit {
            if delivery.persistence == Persistence::Reliable {
                return false;
            }
            let oldest = self.messages.pop_front();
            self.bytes -= oldest.map_or(self.bytes, |oldest| oldest.bytes.len());
        }
        self.bytes += message.bytes.len();
        self.messages.push_back(message);
        true
    }
}

impl Channel {
    fn is_live(&self) -> bool {
        matches!(self.stream, StreamState::Opening | StreamState::Open)
    }

    fn is_publication(&self) -> bool {
        matches!(self.role, Role::Publication { .. })
    }

    fn publisher(&self) -> Option<SessionId> {
        match &self.role {
            Role::Publication { .. } => None,
            Role::Subscription { publication, .. } => Some(publication.session),
        }
    }

    fn phase(&self) -> Phase {
        let waits = matches!(self.role, Role::Subscription { ack_by: Some(_), .. });
        match self.stream {
            StreamState::Open if !waits => Phase::Active,
            StreamState::Opening | StreamState::Open => Phase::Initializing,
            StreamState::Closing | StreamState::Gone => Phase::Inactive,
        }
    }

    fn send(&self, end: End, message: Rc<Message>) -> Act {
        Act::Send { end, message, buffer_bytes_max: self.delivery.buffer_bytes_max() }
    }
}

impl Streams {
    fn free_stream(&self) -> Option<u16> {
        let is_free = |stream: &u16| !self.channels.contains_key(stream) && !self.foreign.contains(stream);
        let next = self.last.saturating_add(1).max(STREAM_MIN);
        let mut common = (next..=STREAM_COMMON_MAX).chain(STREAM_MIN..=STREAM_COMMON_MAX);
        common.find(is_free).or_else(|| (STREAM_COMMON_MAX + 1..=STREAM_MAX).find(is_free))
    }

    /// The stream of a channel that is not over.
    fn live(&self, name: &str, publisher: Option<SessionId>) -> Option<u16> {
        let is_it =
            |channel: &Channel| channel.is_live() && channel.name == name && channel.publisher() == publisher;
        self.channels.iter().find(|(_, channel)| is_it(channel)).map(|(&stream, _)| stream)
    }

    /// Takes off the list what a new channel of the same name stands for.
    fn forget_past(&mut self, name: &str, publisher: Option<SessionId>) {
        self.channels.retain(|_, channel| {
            if channel.name == name && channel.publisher() == publisher {
                channel.is_forgotten = true;
            }
            !(channel.is_forgotten && channel.stream == StreamState::Gone)
        });
    }
}

impl DataChannels {
    pub fn new(ack_timeout: Duration) -> Self {
        Self { ack_timeout, sessions: HashMap::new(), acks: VecDeque::new(), acts: VecDeque::new() }
    }

    /// What is to be done next.
    pub fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Channels that are not over.
    pub fn live_count(&self) -> usize {
        let live = |streams: &Streams| streams.channels.values().filter(|channel| channel.is_live()).count();
        self.sessions.values().map(live).sum()
    }

    pub fn publish(&mut self, session: SessionId, name: &str, delivery: Delivery) -> Result<u16, Refused> {
        let role = Role::Publication { subscribers: BTreeSet::new(), replier: None };
        Ok(self.add(session, name, delivery, role)?.stream)
    }

    /// The publication of that name, if it is not over.
    pub fn publication(&self, session: SessionId, name: &str) -> Option<(End, Delivery)> {
        let streams = self.sessions.get(&session)?;
        let stream = streams.live(name, None)?;
        Some((End { session, stream }, streams.channels.get(&stream)?.delivery))
    }

    /// The subscription of `session` to that publication, if it is not over.
    pub fn subscription(&self, session: SessionId, publisher: SessionId, name: &str) -> Option<End> {
        let stream = self.sessions.get(&session)?.live(name, Some(publisher))?;
        Some(End { session, stream })
    }

    /// Subscribes to a `publication` that [`publication`](Self::publication) has found.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        publication: End,
        wish: Wish,
        now: Instant,
    ) -> Result<u16, Refused> {
        let published = self.channel(publication).expect("the caller has found it");
        let (name, delivery) = (published.name.clone(), published.delivery);
        let ack_by = wish.waits_for_ack.then(|| now + self.ack_timeout);
        let role = Role::Subscription { publication, ack_by, held: Held::default() };
        let end = self.add(session, &name, delivery, role)?;
        if let Some(Channel { role: Role::Publication { subscribers, .. }, .. }) =
            self.channel_mut(publication)
        {
            subscribers.insert(end);
        }
        self.acks.extend(ack_by.map(|at| (at, end)));
        if wish.can_reply {
            self.set_can_reply(end, true);
        }
        Ok(end.stream)
    }

    /// Lets a subscription reply, or no longer. One at a time may: the last that was let.
    pub fn set_can_reply(&mut self, end: End, can_reply: bool) {
        let Some(Channel { role: Role::Subscription { publication, .. }, .. }) = self.channel(end) else {
            return;
        };
        let publication = *publication;
        let Some(Channel { role: Role::Publication { replier, .. }, .. }) = self.channel_mut(publication)
        else {
            return;
        };
        if can_reply {
            *replier = Some(end);
        } else if *replier == Some(end) {
            *replier = None;
        }
    }

    /// Ends a channel and takes it off the list. Returns it as it was listed.
    pub fn close(&mut self, end: End) -> Option<Listed> {
        let channel = self.channel(end).filter(|channel| !channel.is_forgotten)?;
        let listed = listed(end.stream, channel);
        self.end(end);
        if let Some(channel) = self.channel_mut(end) {
            channel.is_forgotten = true;
        }
        self.remove_if_done(end);
        Some(listed)
    }

    pub fn list(&self, session: SessionId) -> Vec<Listed> {
        let channels = self.sessions.get(&session).into_iter().flat_map(|streams| &streams.channels);
        let known = channels.filter(|(_, channel)| !channel.is_forgotten);
        known.map(|(&stream, channel)| listed(stream, channel)).collect()
    }

    /// Ends all channels of a session whose transport is gone.
    pub fn end_session(&mut self, session: SessionId) {
        let Some(streams) = self.sessions.get(&session) else { return };
        let all: Vec<_> = streams.channels.keys().map(|&stream| End { session, stream }).collect();
        all.into_iter().for_each(|end| self.end(end));
        self.sessions.remove(&session);
        self.acts.retain(|act| act.end().session != session);
    }

    pub fn take(&mut self, session: SessionId, event: ChannelEvent) {
        match event {
            ChannelEvent::Opened(stream) => self.opened(End { session, stream }),
            ChannelEvent::Closed(stream) => self.closed(End { session, stream }),
            ChannelEvent::Received(stream, message) => self.received(End { session, stream }, message),
        }
    }

    /// Ends the channels of subscribers whose first word has not come in time.
    pub fn expire(&mut self, now: Instant) {
        while let Some(&(at, end)) = self.acks.front()
            && at <= now
        {
            self.acks.pop_front();
            let waits = self.channel(end).is_some_and(|channel| match &channel.role {
                Role::Subscription { ack_by, .. } => channel.is_live() && *ack_by == Some(at),
                Role::Publication { .. } => false,
            });
            if waits {
                self.end(end);
            }
        }
    }

    /// The buffer of a channel could not take a message. A publisher that does not read replies loses
    /// them and not its publication: a subscriber could end that by talking.
    pub fn overflowed(&mut self, end: End) {
        let loses_channel = self.channel(end).is_some_and(|channel| {
            channel.delivery.persistence == Persistence::Reliable && !channel.is_publication()
        });
        if loses_channel {
            self.end(end);
        }
    }

    fn add(
        &mut self,
        session: SessionId,
        name: &str,
        delivery: Delivery,
        role: Role,
    ) -> Result<End, Refused> {
        let channel = Channel {
            name: name.to_owned(),
            delivery,
            stream: StreamState::Opening,
            role,
            is_forgotten: false,
        };
        let streams = self.sessions.entry(session).or_default();
        if let Some(stream) = streams.live(name, channel.publisher()) {
            return Err(Refused::Repeated(stream));
        }
        streams.forget_past(name, channel.publisher());
        let stream = streams.free_stream().ok_or(Refused::NoStreamLeft)?;
        streams.last = stream;
        streams.channels.insert(stream, channel);
        let end = End { session, stream };
        self.acts.push_back(Act::Open { end, label: name.to_owned(), delivery });
        Ok(end)
    }

    fn opened(&mut self, end: End) {
        match self.channel_mut(end) {
            Some(channel) if channel.stream == StreamState::Opening => {
                channel.stream = StreamState::Open;
                self.release(end);
            }
            Some(_) => {}
            None => {
                self.sessions.entry(end.session).or_default().foreign.insert(end.stream);
            }
        }
    }

    fn closed(&mut self, end: End) {
        if let Some(streams) = self.sessions.get_mut(&end.session) {
            streams.foreign.remove(&end.stream);
        }
        let Some(channel) = self.channel_mut(end) else { return };
        let by_client = channel.is_live();
        channel.stream = StreamState::Gone;
        if by_client {
            self.detach(end);
        }
        self.remove_if_done(end);
    }

    fn received(&mut self, end: End, message: Message) {
        let Some(channel) = self.channel_mut(end).filter(|channel| channel.is_live()) else { return };
        match &mut channel.role {
            Role::Publication { subscribers, .. } => {
                let message = Rc::new(message);
                let subscribers: Vec<_> = subscribers.iter().copied().collect();
                subscribers.into_iter().for_each(|subscriber| self.deliver(subscriber, message.clone()));
            }
            Role::Subscription { ack_by, .. } if ack_by.is_some() => {
                *ack_by = None;
                self.release(end);
            }
            Role::Subscription { publication, .. } => {
                let publication = *publication;
                self.reply(end, publication, message);
            }
        }
    }

    /// Hands a message to a subscriber, or holds it until the subscriber is ready.
    fn deliver(&mut self, end: End, message: Rc<Message>) {
        let Some(channel) = self.channel_mut(end) else { return };
        if channel.phase() == Phase::Active {
            let act = channel.send(end, message);
            self.acts.push_back(act);
            return;
        }
        let Role::Subscription { held, .. } = &mut channel.role else { return };
        if !held.push(message, &channel.delivery) {
            self.end(end);
        }
    }

    /// Sends what was held, once the subscriber is ready.
    fn release(&mut self, end: End) {
        let Some(channel) = self.channel_mut(end).filter(|channel| channel.phase() == Phase::Active) else {
            return;
        };
        let Role::Subscription { held, .. } = &mut channel.role else { return };
        let messages = std::mem::take(held).messages;
        let acts: Vec<_> = messages.into_iter().map(|message| channel.send(end, message)).collect();
        self.acts.extend(acts);
    }

    fn reply(&mut self, from: End, publication: End, message: Message) {
        let Some(channel) = self.channel(publication) else { return };
        let Role::Publication { replier, .. } = &channel.role else { return };
        if *replier == Some(from) && channel.is_live() {
            let act = channel.send(publication, Rc::new(message));
            self.acts.push_back(act);
        }
    }

    /// Ends a channel: of a publication, those of its subscribers too.
    fn end(&mut self, end: End) {
        let Some(channel) = self.channel_mut(end).filter(|channel| channel.is_live()) else { return };
        channel.stream = StreamState::Closing;
        self.acts.push_back(Act::Close { end });
        self.detach(end);
    }

    fn detach(&mut self, end: End) {
        let Some(channel) = self.channel_mut(end) else { return };
        match &mut channel.role {
            Role::Publication { subscribers, replier } => {
                *replier = None;
                std::mem::take(subscribers).into_iter().for_each(|subscriber| self.end(subscriber));
            }
            Role::Subscription { publication, held, .. } => {
                *held = Held::default();
                let publication = *publication;
                let Some(Channel { role: Role::Publication { subscribers, replier }, .. }) =
                    self.channel_mut(publication)
                else {
                    return;
                };
                subscribers.remove(&end);
                *replier = replier.filter(|replier| *replier != end);
            }
        }
    }

    fn remove_if_done(&mut self, end: End) {
        let Some(streams) = self.sessions.get_mut(&end.session) else { return };
        let is_done = |channel: &Channel| channel.is_forgotten && channel.stream == StreamState::Gone;
        if streams.channels.get(&end.stream).is_some_and(is_done) {
            streams.channels.remove(&end.stream);
        }
    }

    fn channel(&self, end: End) -> Option<&Channel> {
        self.sessions.get(&end.session)?.channels.get(&end.stream)
    }

    fn channel_mut(&mut self, end: End) -> Option<&mut Channel> {
        self.sessions.get_mut(&end.session)?.channels.get_mut(&end.stream)
    }
}

impl Act {
    pub fn end(&self) -> End {
        match self {
            Self::Open { end, .. } | Self::Send { end, .. } | Self::Close { end } => *end,
        }
    }
}

fn listed(stream: u16, channel: &Channel) -> Listed {
    let (name, publisher) = (channel.name.clone(), channel.publisher());
    Listed { stream, name, publisher, phase: channel.phase() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    const RELIABLE: Delivery = Delivery { ordered: true, persistence: Persistence::Reliable };
    const LOSSY: Delivery = Delivery { ordered: false, persistence: Persistence::RetransmitsMax(0) };
    const ADA: SessionId = SessionId([1; 16]);
    const BOB: SessionId = SessionId([2; 16]);
    const EVE: SessionId = SessionId([3; 16]);
    const ACK_TIMEOUT: Duration = Duration::from_secs(30);
    const WAITS: Wish = Wish { waits_for_ack: true, can_reply: false };
    const REPLIES: Wish = Wish { waits_for_ack: false, can_reply: true };

    /// Ada publishes "chat"; others join.
    struct Story {
        channels: DataChannels,
        chat: End,
        now: Instant,
    }

    impl Story {
        fn new(delivery: Delivery) -> Self {
            let mut channels = DataChannels::new(ACK_TIMEOUT);
            let stream = channels.publish(ADA, "chat", delivery).unwrap();
            let mut story =
                Self { channels, chat: End { session: ADA, stream }, now: Clock::runtime_instant() };
            story.opens(story.chat);
            story
        }

        fn joins(&mut self, session: SessionId, wish: Wish) -> End {
            let stream = self.channels.subscribe(session, self.chat, wish, self.now).unwrap();
            let end = End { session, stream };
            self.opens(end);
            end
        }

        fn opens(&mut self, end: End) {
            self.channels.take(end.session, ChannelEvent::Opened(end.stream));
        }

        fn says(&mut self, end: End, bytes: &[u8]) {
            let message = Message { is_binary: true, bytes: bytes.to_vec() };
            self.channels.take(end.session, ChannelEvent::Received(end.stream, message));
        }

        /// Who is sent what.
        fn sent(&mut self) -> Vec<(End, Vec<u8>)> {
            let sent = self.acts().into_iter().filter_map(|act| match act {
                Act::Send { end, message, .. } => Some((end, message.bytes.clone())),
                _ => None,
            });
            sent.collect()
        }

        fn closed(&mut self) -> Vec<End> {
            let closed = self.acts().into_iter().filter_map(|act| match act {
                Act::Close { end } => Some(end),
                _ => None,
            });
            closed.collect()
        }

        fn acts(&mut self) -> Vec<Act> {
            std::iter::from_fn(|| self.channels.next_act()).collect()
        }

        fn phase(&self, end: End) -> Option<Phase> {
            let listed = self.channels.list(end.session);
            listed.iter().find(|listed| listed.stream == end.stream).map(|listed| listed.phase)
        }
    }

    #[test]
    fn a_message_goes_to_every_subscriber_and_to_nobody_else() {
        let mut story = Story::new(RELIABLE);
        let (bob, eve) = (story.joins(BOB, Wish::default()), story.joins(EVE, Wish::default()));
        story.says(story.chat, b"hello");
        assert_eq!(story.sent(), [(bob, b"hello".to_vec()), (eve, b"hello".to_vec())]);
        story.says(bob, b"may I?");
        assert_eq!(story.sent(), []);
    }

    #[test]
    fn replies_reach_the_publisher_from_the_last_who_was_let() {
        let mut story = Story::new(RELIABLE);
        let (bob, eve) = (story.joins(BOB, REPLIES), story.joins(EVE, REPLIES));
        story.says(bob, b"from bob");
        story.says(eve, b"from eve");
        assert_eq!(story.sent(), [(story.chat, b"from eve".to_vec())]);
        story.channels.set_can_reply(bob, true);
        story.channels.set_can_reply(eve, false);
        story.says(eve, b"from eve");
        story.says(bob, b"from bob");
        assert_eq!(story.sent(), [(story.chat, b"from bob".to_vec())]);
    }

    #[test]
    fn messages_wait_for_the_first_word_which_is_swallowed() {
        let mut story = Story::new(RELIABLE);
        let bob = story.joins(BOB, Wish { can_reply: true, ..WAITS });
        story.says(story.chat, b"early");
        assert_eq!((story.sent(), story.phase(bob)), (vec![], Some(Phase::Initializing)));
        story.says(bob, b"ready");
        assert_eq!((story.sent(), story.phase(bob)), (vec![(bob, b"early".to_vec())], Some(Phase::Active)));
        story.says(bob, b"a reply");
        assert_eq!(story.sent(), [(story.chat, b"a reply".to_vec())]);
    }

    #[test]
    fn who_says_no_first_word_in_time_loses_the_channel() {
        let mut story = Story::new(RELIABLE);
        let (bob, eve) = (story.joins(BOB, WAITS), story.joins(EVE, WAITS));
        story.says(eve, b"ready");
        story.channels.expire(story.now + ACK_TIMEOUT - Duration::from_millis(1));
        assert_eq!(story.closed(), []);
        story.channels.expire(story.now + ACK_TIMEOUT);
        assert_eq!((story.closed(), story.phase(bob)), (vec![bob], Some(Phase::Inactive)));
    }

    #[test]
    fn a_reliable_subscriber_that_cannot_be_held_loses_its_channel_and_no_other() {
        let mut story = Story::new(RELIABLE);
        let (bob, eve) = (story.joins(BOB, WAITS), story.joins(EVE, Wish::default()));
        let big = vec![0; RELIABLE_BUFFER_BYTES_MAX / 4];
        (0..4).for_each(|_| story.says(story.chat, &big));
        assert_eq!(story.sent().len(), 4);
        story.says(story.chat, b"one more");
        let acts = story.acts();
        assert!(acts.contains(&Act::Close { end: bob }), "{}", acts.len());
        assert_eq!(story.phase(eve), Some(Phase::Active));
        story.channels.overflowed(eve);
        assert_eq!(story.closed(), [eve]);
    }

    #[test]
    fn an_unreliable_subscriber_loses_the_oldest_messages() {
        let mut story = Story::new(LOSSY);
        let bob = story.joins(BOB, WAITS);
        let numbers = [1, 2, 3].map(|number| vec![number; UNRELIABLE_BUFFER_BYTES_MAX / 2]);
        numbers.iter().for_each(|number| story.says(story.chat, number));
        story.says(bob, b"ready");
        assert_eq!(story.sent(), [(bob, numbers[1].clone()), (bob, numbers[2].clone())]);
        story.channels.overflowed(bob);
        assert_eq!((story.closed(), story.phase(bob)), (vec![], Some(Phase::Active)));
    }

    #[test]
    fn a_publication_takes_its_subscriptions_with_it() {
        let mut story = Story::new(RELIABLE);
        let bob = story.joins(BOB, Wish::default());
        story.channels.take(ADA, ChannelEvent::Closed(story.chat.stream));
        assert_eq!(story.closed(), [bob]);
        assert_eq!([story.chat, bob].map(|end| story.phase(end)), [Some(Phase::Inactive); 2]);
        assert_eq!(story.channels.publication(ADA, "chat"), None);
        assert!(story.channels.close(bob).is_some());
        assert_eq!(story.channels.close(bob), None);
    }

    #[test]
    fn a_session_that_ends_leaves_nothing_to_do_for_itself() {
        let mut story = Story::new(RELIABLE);
        let (bob, eve) = (story.joins(BOB, Wish::default()), story.joins(EVE, REPLIES));
        story.channels.end_session(EVE);
        story.says(story.chat, b"hello");
        assert_eq!(story.sent(), [(bob, b"hello".to_vec())]);
        story.channels.end_session(ADA);
        assert_eq!((story.closed(), story.phase(eve), story.channels.live_count()), (vec![bob], None, 0));
    }

    #[test]
    fn a_name_is_published_and_subscribed_to_once_at_a_time() {
        let mut story = Story::new(RELIABLE);
        let bob = story.joins(BOB, Wish::default());
        let repeated = Err(Refused::Repeated(story.chat.stream));
        assert_eq!(story.channels.publish(ADA, "chat", LOSSY), repeated);
        let again = story.channels.subscribe(BOB, story.chat, Wish::default(), story.now);
        assert_eq!(again, Err(Refused::Repeated(bob.stream)));
        story.channels.close(bob);
        assert_ne!(story.joins(BOB, Wish::default()), bob, "its stream may still be in reset");
        assert_eq!(story.channels.list(BOB).len(), 1);
    }

    #[test]
    fn streams_go_round_and_avoid_those_of_the_client() {
        let mut channels = DataChannels::new(ACK_TIMEOUT);
        channels.take(ADA, ChannelEvent::Opened(4));
        let mut publish = |name: &str| channels.publish(ADA, name, RELIABLE);
        assert_eq!([publish("a"), publish("b"), publish("c")], [Ok(2), Ok(3), Ok(5)]);
        let streams: BTreeSet<_> = (0..).map_while(|n| publish(&n.to_string()).ok()).take(3_000).collect();
        assert_eq!((streams.first(), streams.len()), (Some(&6), 3_000));
    }

    #[test]
    fn every_stream_up_to_the_last_is_given_out() {
        let mut streams = Streams { last: 7, ..Streams::default() };
        streams.foreign = (STREAM_MIN..STREAM_MAX).collect();
        assert_eq!(streams.free_stream(), Some(STREAM_MAX));
        streams.foreign.insert(STREAM_MAX);
        assert_eq!(streams.free_stream(), None);
    }
}
