//! Tracks and subscriptions as they come and go in the data plane.
//!
//! Order is what keeps packets from reaching a place that does not know them. Adding: the subscriber's
//! shard first, the table second. Removing: the table first, then a quiescent point of every shard, then
//! the shard. Each step waits for the shard's acknowledgement, so that an answer of the API is true.

use std::rc::Rc;
use std::time::Duration;

use rand::Rng;

use crate::control::request::{ErrorCode, RequestError, Simulcast};
use crate::control::session::{LegState, Published, Pulled};
use crate::control::tracks::Track;
use crate::control::{Control, State};
use crate::forward::rewrite::SendCodec;
use crate::forward::select::Selection;
use crate::id::{LegId, Mid, SessionId, ShardId, TrackKey};
use crate::rtp::codec::VideoCodec;
use crate::sdp::{Codec, Feedback, LineKind, Receive, Sending};
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

    /// Gives a pull of a simulcast other encodings.
    pub(super) async fn select(&self, id: SessionId, mid: Mid, wish: Simulcast) -> Result<(), RequestError> {
        let done = self.state.borrow_mut().begin_select(id, mid, wish)?;
        done.await.map_err(|_| stopped())
    }

    /// Lets a pull go on with another track, under the SSRC and the numbers that its receiver knows.
    pub(super) async fn redirect(
        &self,
        id: SessionId,
        mid: Mid,
        to: TrackKey,
        wish: Option<Simulcast>,
    ) -> Result<(), RequestError> {
        let (from, shard, done) = self.state.borrow_mut().begin_redirect(id, mid, to, wish)?;
        done.await.map_err(|_| stopped())?;
        {
            let mut state = self.state.borrow_mut();
            let State { tracks, table, .. } = &mut *state;
            if let Some(track) = tracks.get(to) {
                table.publish(track.entry());
            }
        }
        self.release_leg(from, shard).await;
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
        let Some((LineKind::Media(kind), mut receive)) = line else {
            let text =
                format!("m-line with mid {mid} is not one that the client sends on; offer it sendonly");
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        };
        let key = self.tracks.allocate(tracks_max).ok_or_else(|| {
            let text = format!("the server carries {tracks_max} tracks, its limit; retry later or elsewhere");
            RequestError::new(ErrorCode::TemporarilyUnavailable, text)
        })?;
        // From here on a lower number is a better encoding; those without a rid stay as they were announced.
        receive.encodings.sort_by_key(|encoding| encoding.rid);
        let codec = |codec: &Codec| Some((codec.pt, VideoCodec::from_name(&codec.name)?));
        let config = TrackConfig {
            key,
            kind,
            publisher: session.shard,
            encodings: receive.encodings.len() as u8,
            codecs: receive.codecs.iter().filter_map(codec).collect(),
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
        let line = session.negotiation.line(mid)?;
        let (sending, is_resumable) = (line.send.clone(), line.is_bidirectional());
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
        let selection = self.tracks.get(key)?.selection(&pulled.simulcast);
        let mut leg = leg_config(leg, key, mid, &sending, (first, selection));
        leg.is_resumable = is_resumable;
        let leg = Box::new(leg);
        Some(self.shards.ask(shard, |ack| Command::Subscribe { slot, leg, ack }))
    }

    fn begin_select(&mut self, id: SessionId, mid: Mid, wish: Simulcast) -> Result<Done, RequestError> {
        let Self { sessions, tracks, shards, .. } = self;
        let session = sessions.get_mut(&id).ok_or_else(stopped)?;
        let (pulled, leg) = flowing(&mut session.pulled, mid)?;
        let track = tracks.get(pulled.track).filter(|track| track.is_simulcast()).ok_or_else(|| {
            not_updated(format!("track {:?} on mid {mid} has one encoding; it is no simulcast", pulled.name))
        })?;
        let (track, selection) = (pulled.track, track.selection(&wish));
        let slot = session.slot;
        pulled.simulcast = wish;
        Ok(shards.ask(session.shard, |ack| Command::Select { slot, leg, track, selection, ack }))
    }

    /// Returns the track that is left, and the shard that leaves it.
    fn begin_redirect(
        &mut self,
        id: SessionId,
        mid: Mid,
        to: TrackKey,
        wish: Option<Simulcast>,
    ) -> Result<(TrackKey, ShardId, Done), RequestError> {
        let Self { sessions, tracks, shards, .. } = self;
        let session = sessions.get_mut(&id).ok_or_else(stopped)?;
        let (pulled, leg) = flowing(&mut session.pulled, mid)?;
        let track = tracks.get(to).ok_or_else(|| not_updated("the new track has just ended".to_owned()))?;
        let send = session
            .negotiation
            .redirect(mid, track.kind(), track.codecs())
            .ok_or_else(|| cannot_carry(mid, track))?;
        let (from, shard, slot) = (pulled.track, session.shard, session.slot);
        pulled.simulcast = wish.unwrap_or_else(|| pulled.simulcast.clone());
        pulled.track = to;
        (pulled.session, pulled.name) = (track.session, track.name.clone());
        let selection = track.selection(&pulled.simulcast);
        let config = Box::new(leg_config(leg, to, mid, &send, ([0; 2], selection)));
        let track = Box::new(track.config.clone());
        if tracks.add_leg(to, shard).is_some_and(|change| change.is_new_shard) {
            shards.tell(shard, Command::AddTrack { track });
        }
        let done = shards.ask(shard, |ack| Command::Redirect { slot, from, leg: config, ack });
        Ok((from, shard, done))
    }

    /// Makes ready for [`subscribe`](Control::subscribe) an m-line that may send and does not.
    pub(super) fn begin_resume(
        &mut self,
        id: SessionId,
        mid: Mid,
        to: TrackKey,
        wish: Simulcast,
    ) -> Result<(), RequestError> {
        let Self { sessions, tracks, .. } = self;
        let session = sessions.get_mut(&id).ok_or_else(stopped)?;
        let track = tracks.get(to).ok_or_else(|| not_updated("the new track has just ended".to_owned()))?;
        let sends = session.negotiation.line(mid).is_some_and(|line| line.is_bidirectional());
        let send = session.negotiation.redirect(mid, track.kind(), track.codecs());
        send.filter(|_| sends).ok_or_else(|| cannot_carry(mid, track))?;
        self.note_pulled(id, mid, to, wish);
        Ok(())
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

/// The pull on `mid`, once media flows there.
fn flowing(pulled: &mut [Pulled], mid: Mid) -> Result<(&mut Pulled, LegId), RequestError> {
    let found = pulled.iter_mut().find_map(|pulled| match pulled.leg {
        LegState::Flowing(leg) if pulled.mid == mid => Some((pulled, leg)),
        _ => None,
    });
    found.ok_or_else(|| not_updated(format!("nothing flows on mid {mid}")))
}

fn cannot_carry(mid: Mid, track: &Track) -> RequestError {
    not_updated(format!(
        "mid {mid} cannot carry track {:?}: it does not send, or was negotiated for another kind or other codecs; \
         pull the track on an m-line of its own, without mid",
        track.name
    ))
}

/// Why an m-line did not get another track.
pub(super) fn not_updated(text: String) -> RequestError {
    RequestError::new(ErrorCode::UpdateTrackError, text)
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

fn leg_config(
    id: LegId,
    track: TrackKey,
    mid: Mid,
    sending: &Sending,
    (first, selection): ([u16; 2], Selection),
) -> LegConfig {
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
        selection,
        is_resumable: false,
    }
}

/// The data plane is going away.
pub(super) fn stopped() -> RequestError {
    RequestError::new(ErrorCode::TemporarilyUnavailable, "the server is shutting down; retry elsewhere")
}
