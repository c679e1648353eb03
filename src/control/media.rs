//! Tracks and subscriptions as they come and go in the data plane.
//!
//! Order is what keeps packets from reaching a place that does not know them. Adding: the subscriber's
//! shard first, the table second. Removing: the table first, then a quiescent point of every shard, then
//! the shard. Each step waits for the shard's acknowledgement, so that an answer of the API is true.

use std::rc::Rc;
use std::time::Duration;

use rand::Rng;

use crate::control::request::{ErrorCode, RequestError};
use crate::control::session::{LegState, Published};
use crate::control::tracks::Track;
use crate::control::{Control, State};
use crate::forward::rewrite::SendCodec;
use crate::id::{LegId, Mid, SessionId, ShardId, TrackKey};
use crate::sdp::{Feedback, LineKind, Receive, Sending};
use crate::shard::command::{
    Command, EncodingConfig, LegConfig, PublicationConfig, ReceiveCodec, TrackConfig,
};
use crate::table::Grace;

/// How often to look whether all shards have passed a quiescent point. They do every turn.
const GRACE_POLL: Duration = Duration::from_millis(1);

impl Control {
    /// Makes the m-line `mid` of `id`, which receives, a track named `name`.
    pub(super) async fn publish(&self, id: SessionId, mid: Mid, name: String) -> Result<(), RequestError> {
        let done = self.state.borrow_mut().begin_publish(id, mid, name, self.settings.tracks_max)?;
        done.await.map_err(|_| stopped())
    }

    /// Ends a track for everybody: its publisher and whoever pulls it.
    pub(super) async fn close_track(self: Rc<Self>, key: TrackKey) {
        let Some((track, done)) = self.state.borrow_mut().begin_close(key) else { return };
        let grace = self.state.borrow_mut().table.remove(key.index);
        if done.await.is_err() {
            return;
        }
        self.passed(grace).await;
        for shard in track.shards() {
            let done =
                self.state.borrow_mut().shards.ask(shard, |ack| Command::RemoveTrack { track: key, ack });
            if done.await.is_err() {
                return;
            }
        }
        self.state.borrow_mut().tracks.release(key);
    }

    /// Starts the flow of an offered or answered pull, now that its m-line is agreed.
    pub(super) async fn subscribe(&self, id: SessionId, mid: Mid) -> Result<(), RequestError> {
        let begun = self.state.borrow_mut().begin_subscribe(id, mid);
        let Some(done) = begun else { return Ok(()) };
        done.await.map_err(|_| stopped())?;
        let mut state = self.state.borrow_mut();
        let State { tracks, sessions, table, .. } = &mut *state;
        let pulled = sessions.get(&id).and_then(|session| session.pulled_on(mid));
        let track = pulled.and_then(|pulled| tracks.get(pulled.track));
        if let Some(track) = track {
            table.publish(track.entry());
        }
        Ok(())
    }

    /// Ends a pull.
    pub(super) async fn unsubscribe(&self, id: SessionId, mid: Mid) {
        let begun = self.state.borrow_mut().begin_unsubscribe(id, mid);
        let Some((track, shard, done)) = begun else { return };
        if done.await.is_ok() {
            self.release_leg(track, shard).await;
        }
    }

    /// Takes a leg off the books; the last one of a shard takes the track's copy there with it.
    pub(super) async fn release_leg(&self, key: TrackKey, shard: ShardId) {
        let grace = {
            let mut state = self.state.borrow_mut();
            let State { tracks, table, .. } = &mut *state;
            let Some(change) = tracks.remove_leg(key, shard).filter(|change| change.is_unused) else {
                return;
            };
            table.publish(change.entry)
        };
        self.passed(grace).await;
        let done = {
            let mut state = self.state.borrow_mut();
            if !state.tracks.forget_shard(key, shard) {
                return;
            }
            state.shards.ask(shard, |ack| Command::RemoveTrack { track: key, ack })
        };
        // If the shard has stopped, there is nothing left to remove.
        let _ = done.await;
    }

    /// Waits until no shard can still be reading the table as it was before `grace`.
    async fn passed(&self, grace: Grace) {
        while !self.state.borrow().table.has_passed(grace) {
            tokio::time::sleep(GRACE_POLL).await;
        }
        self.state.borrow_mut().table.reclaim();
    }
}

type Done = tokio::sync::oneshot::Receiver<()>;

impl State {
    fn begin_publish(
        &mut self,
        id: SessionId,
        mid: Mid,
        name: String,
        tracks_max: u32,
    ) -> Result<Done, RequestError> {
        let session = self.sessions.get_mut(&id).ok_or_else(stopped)?;
        let line = session.negotiation.line(mid);
        let line = line.and_then(|line| Some((line.kind, line.receive.clone()?)));
        let Some((LineKind::Media(kind), receive)) = line else {
            let text =
                format!("m-line with mid {mid} is not one that the client sends on; offer it sendonly");
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        };
        let key = self.tracks.allocate(tracks_max).ok_or_else(|| {
            let text = format!("the server carries {tracks_max} tracks, its limit; retry later or elsewhere");
            RequestError::new(ErrorCode::TemporarilyUnavailable, text)
        })?;
        let config = TrackConfig {
            key,
            kind,
            publisher: session.shard,
            encodings: receive.encodings.len() as u8,
            extensions: receive.extensions,
        };
        let publication = publication(mid, &config, &receive);
        let lines = &session.negotiation;
        session.published.retain(|known| {
            let is_over = known.name == name || lines.line(known.mid).is_none();
            known.mid != mid && (known.track.is_some() || !is_over)
        });
        session.published.push(Published { mid, name: name.clone(), track: Some(key) });
        let (shard, slot) = (session.shard, session.slot);
        self.shards.tell(shard, Command::AddTrack { track: Box::new(config.clone()) });
        self.tracks.insert(id, name, receive, config);
        let publication = Box::new(publication);
        Ok(self.shards.ask(shard, |ack| Command::Publish { slot, publication, ack }))
    }

    fn begin_close(&mut self, key: TrackKey) -> Option<(Track, Done)> {
        let track = self.tracks.remove(key)?;
        for session in self.sessions.values_mut() {
            for published in &mut session.published {
                if published.track == Some(key) {
                    published.track = None;
                }
            }
            for pulled in session.pulled.iter_mut().filter(|pulled| pulled.track == key) {
                pulled.leg = LegState::Closed;
            }
        }
        let slot = self.sessions.get(&track.session).map(|session| session.slot);
        let shard = track.config.publisher;
        let done = match slot {
            Some(slot) => self.shards.ask(shard, |ack| Command::Unpublish { slot, track: key, ack }),
            None => {
                let (done, answer) = tokio::sync::oneshot::channel();
                let _ = done.send(());
                answer
            }
        };
        Some((track, done))
    }

    fn begin_subscribe(&mut self, id: SessionId, mid: Mid) -> Option<Done> {
        let leg = self.next_leg();
        let session = self.sessions.get_mut(&id)?;
        let sending = session.negotiation.line(mid)?.send.clone();
        let pulled =
            session.pulled.iter_mut().find(|pulled| pulled.mid == mid && pulled.leg == LegState::Offered)?;
        let Some(sending) = sending.filter(|_| self.tracks.get(pulled.track).is_some()) else {
            pulled.leg = LegState::Closed;
            return None;
        };
        pulled.leg = LegState::Flowing(leg);
        let (key, shard, slot) = (pulled.track, session.shard, session.slot);
        let change = self.tracks.add_leg(key, shard)?;
        if change.is_new_shard {
            let track = Box::new(self.tracks.get(key)?.config.clone());
            self.shards.tell(shard, Command::AddTrack { track });
        }
        let first = [0; 2].map(|_| self.rng.random_range(0..1 << 15));
        let leg = Box::new(leg_config(leg, key, mid, &sending, first));
        Some(self.shards.ask(shard, |ack| Command::Subscribe { slot, leg, ack }))
    }

    fn begin_unsubscribe(&mut self, id: SessionId, mid: Mid) -> Option<(TrackKey, ShardId, Done)> {
        let session = self.sessions.get_mut(&id)?;
        let pulled = session.pulled.iter_mut().find(|p| p.mid == mid && p.leg != LegState::Closed)?;
        let was = std::mem::replace(&mut pulled.leg, LegState::Closed);
        let LegState::Flowing(leg) = was else { return None };
        let (track, shard, slot) = (pulled.track, session.shard, session.slot);
        let done = self.shards.ask(shard, |ack| Command::Unsubscribe { slot, leg, track, ack });
        Some((track, shard, done))
    }
}

fn publication(mid: Mid, track: &TrackConfig, receive: &Receive) -> PublicationConfig {
    let codecs = receive.codecs.iter().map(|codec| ReceiveCodec {
        payload_type: codec.pt,
        rtx_payload_type: codec.rtx_pt,
        clock_rate: codec.clock_rate,
        nack: codec.feedback.contains(&Feedback::Nack),
        pli: codec.feedback.contains(&Feedback::NackPli),
    });
    let encodings = receive.encodings.iter().map(|encoding| EncodingConfig {
        rid: encoding.rid,
        ssrc: encoding.ssrc,
        rtx_ssrc: encoding.rtx_ssrc,
    });
    PublicationConfig {
        track: track.key,
        kind: track.kind,
        mid,
        codecs: codecs.collect(),
        encodings: encodings.collect(),
        extensions: receive.extensions,
        transport_cc: receive.transport_cc,
    }
}

fn leg_config(id: LegId, track: TrackKey, mid: Mid, sending: &Sending, first: [u16; 2]) -> LegConfig {
    let codecs = sending.codecs.iter().map(|codec| SendCodec {
        from: codec.publisher_pt,
        to: codec.pt,
        rtx: codec.rtx_pt,
        clock_rate: codec.clock_rate,
    });
    LegConfig {
        id,
        track,
        ssrc: sending.ssrc,
        rtx_ssrc: sending.rtx_ssrc,
        first_sequence: first[0],
        first_rtx_sequence: first[1],
        mid,
        codecs: codecs.collect(),
        extensions: sending.extensions,
    }
}

/// The data plane is going away.
pub(super) fn stopped() -> RequestError {
    RequestError::new(ErrorCode::TemporarilyUnavailable, "the server is shutting down; retry elsewhere")
}
