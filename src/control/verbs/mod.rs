//! What each verb of the API does: sessions here, tracks in [`push`], [`pull`], [`update`] and [`close`], data
//! channels in [`datachannels`].
//!
//! A verb checks before it changes: a refused request leaves its session as it was. Verbs of one session
//! take turns; those of different sessions run side by side.

mod close;
mod datachannels;
mod pull;
mod push;
mod sessions;
mod update;

use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::RngCore;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::control::request::{
    AppId, AudioLevelState, ErrorCode, Location, NewSession, NewSessionResponse, RenegotiateRequest,
    RenegotiateResponse, Request, RequestError, SdpType, SessionDescription, SessionState, Status,
    TrackState,
};
use crate::control::session::{self, LegState, Remotes, Session};
use crate::control::transport::{Ice, Transport};
use crate::control::{Control, State, media};
use crate::id::{Mid, SessionId};
use crate::sdp::{Kind, Negotiation, Remote, SdpError};
use crate::shard::command::{Command, Inspection};
use crate::time::Clock;

impl Control {
    /// Carries out one request and answers it. Whoever asked may be gone by then.
    pub(super) async fn serve(self: Rc<Self>, request: Request) {
        match request {
            Request::NewSession { app, body, reply } => drop(reply.send(self.new_session(app, body))),
            Request::GetSession { app, session, reply } => {
                drop(reply.send(self.get_session(&app, session).await));
            }
            Request::ListSessions { app, page, reply } => {
                drop(reply.send(Ok(self.list_sessions(&app, page))))
            }
            Request::EndSession { app, session, reply } => {
                drop(reply.send(self.end_by_request(&app, session).await));
            }
            Request::NewTracks { app, session, body, reply } => {
                drop(reply.send(self.new_tracks(app, session, body).await));
            }
            Request::Renegotiate { app, session, body, reply } => {
                drop(reply.send(self.renegotiate(app, session, body).await));
            }
            Request::CloseTracks { app, session, body, reply } => {
                drop(reply.send(self.close_tracks(app, session, body).await));
            }
            Request::UpdateTracks { app, session, body, reply } => {
                drop(reply.send(self.update_tracks(app, session, body).await));
            }
            Request::EstablishDataChannels { app, session, body, reply } => {
                drop(reply.send(self.establish_data_channels(app, session, body).await));
            }
            Request::NewDataChannels { app, session, body, reply } => {
                drop(reply.send(self.new_data_channels(app, session, body).await));
            }
            Request::UpdateDataChannels { app, session, body, reply } => {
                drop(reply.send(self.update_data_channels(app, session, body).await));
            }
            Request::CloseDataChannels { app, session, body, reply } => {
                drop(reply.send(self.close_data_channels(app, session, body).await));
            }
            Request::Census { reply } => drop(reply.send(self.census())),
        }
    }

    fn new_session(&self, app: AppId, body: NewSession) -> Result<NewSessionResponse, RequestError> {
        let now = Clock::runtime_instant();
        let offer = body.session_description.map(|d| parse(&d, SdpType::Offer)).transpose()?;
        let mut state = self.state.borrow_mut();
        if state.sessions.len() >= self.settings.sessions_max {
            let text = format!("the server holds {} sessions, its limit; retry later", state.sessions.len());
            return Err(RequestError::new(ErrorCode::TemporarilyUnavailable, text));
        }
        let ice = if body.thirdparty { Ice::Full } else { Ice::Lite };
        let mut session = self.make_session(&mut state, app, ice, now);
        let id = session.id;
        let answer = match offer {
            Some(offer) => match answer_plain(&mut session, &offer, &mut state.remotes) {
                Ok(answer) => Some(answer),
                Err(error) => {
                    session.forget_remotes(&mut state.remotes);
                    state.shards.vacate(session.shard, session.slot);
                    return Err(error);
                }
            },
            None => None,
        };
        let (shard, slot) = (session.shard, session.slot);
        let rtcp_ssrc = state.rng.next_u32();
        state.shards.tell(shard, Command::AddSession { slot, rtcp_ssrc, cname: id.to_string() });
        state.sessions.insert(id, session);
        state.poke(id, now);
        Ok(NewSessionResponse { session_id: id.to_string(), session_description: answer })
    }

    /// A session with a place on a shard, not yet known to it.
    fn make_session(&self, state: &mut State, app: AppId, ice: Ice, now: Instant) -> Session {
        let mut id = SessionId([0; 16]);
        state.rng.fill_bytes(&mut id.0);
        let place = state.shards.place(id, |shard| state.tracks.legs_on(shard));
        let credentials = session::credentials(place, &mut state.rng);
        let port = state.shards.link(place.0).port;
        let transport = Transport::new(&self.identity, ice, &credentials, port, now);
        let local = session::local_transport(
            &credentials,
            &self.identity.fingerprint,
            &self.settings.advertise,
            port,
            ice,
        );
        let origin = state.rng.next_u64() >> 1;
        Session::new(id, app, place, transport, credentials, Negotiation::new(origin, local), now)
    }

    /// Gives a session whose client threw its transport away another one.
    fn renew_transport(&self, state: &mut State, id: SessionId) {
        let State { rng, shards, sessions, .. } = &mut *state;
        let Some(session) = sessions.get_mut(&id).filter(|session| session.has_lost_its_transport()) else {
            return;
        };
        let now = Clock::runtime_instant();
        let port = shards.link(session.shard).port;
        session.credentials = session::credentials((session.shard, session.slot), rng);
        let ice = session.transport.ice();
        session.transport = Transport::new(&self.identity, ice, &session.credentials, port, now);
        session.negotiation.set_transport(session::local_transport(
            &session.credentials,
            &self.identity.fingerprint,
            &self.settings.advertise,
            port,
            ice,
        ));
        session.connected = false;
        session.began = now;
        session.last_check = None;
        session.deadline = None;
        state.channels.end_session(id);
        state.run_channels(now);
    }

    async fn get_session(&self, app: &AppId, id: SessionId) -> Result<SessionState, RequestError> {
        let inspection = self.inspect(app, id).await?;
        let state = self.state.borrow();
        let session = state.session(app, id)?;
        let audio_level = |track| state.tracks.get(track)?.loudness.map(AudioLevelState::from);
        let published = session.published.iter().map(|published| TrackState {
            location: Location::Local,
            mid: published.mid.to_string(),
            track_name: published.name.clone(),
            session_id: None,
            status: status(published.track.is_some()),
            audio_level: published.track.and_then(audio_level),
        });
        let pulled = session.pulled.iter().map(|pulled| TrackState {
            location: Location::Remote,
            mid: pulled.mid.to_string(),
            track_name: pulled.name.clone(),
            session_id: Some(pulled.session.to_string()),
            status: status(matches!(pulled.leg, LegState::Flowing(_))),
            audio_level: audio_level(pulled.track),
        });
        let channels = state.channels.list(id).into_iter().map(datachannels::channel_state);
        Ok(SessionState {
            tracks: published.chain(pulled).collect(),
            data_channels: channels.collect(),
            available_bitrate_bps: inspection.and_then(|inspection| inspection.available_bps),
        })
    }

    /// What the session's shard knows of it; nothing if the session ends meanwhile.
    async fn inspect(&self, app: &AppId, id: SessionId) -> Result<Option<Inspection>, RequestError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let done = {
            let mut state = self.state.borrow_mut();
            let session = state.session(app, id)?;
            let (shard, slot) = (session.shard, session.slot);
            state.shards.ask(shard, |ack| Command::Inspect { slot, reply, ack })
        };
        done.await.map_err(|_| media::stopped())?;
        Ok(answer.try_recv().ok())
    }

    async fn renegotiate(
        self: Rc<Self>,
        app: AppId,
        id: SessionId,
        body: RenegotiateRequest,
    ) -> Result<RenegotiateResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        let answer = parse(&body.session_description, SdpType::Answer)?;
        let (mids, pushed) = {
            let mut state = self.state.borrow_mut();
            let (session, remotes) = state.session_and_remotes(&app, id)?;
            session.apply_answer(&answer, remotes)?;
            session.offered_at = None;
            let publishes = |(mid, _): &(Mid, String)| {
                session.negotiation.line(*mid).is_some_and(|line| line.receive.is_some())
            };
            let pushed = std::mem::take(&mut session.offered);
            let pushed: Vec<_> = pushed.into_iter().filter(publishes).collect();
            if std::mem::take(&mut session.offers_server_events) && session.has_data_channels() {
                session.transport.open_server_events();
            }
            let offered = session.pulled.iter().filter(|pulled| pulled.leg == LegState::Offered);
            let mids: Vec<_> = offered.map(|pulled| pulled.mid).collect();
            state.poke(id, Clock::runtime_instant());
            (mids, pushed)
        };
        self.end_stopped(id).await;
        for (mid, name) in pushed {
            self.publish(id, mid, name).await?;
        }
        for mid in mids {
            self.subscribe(id, mid).await?;
        }
        Ok(RenegotiateResponse {})
    }

    /// Ends a session and everything it publishes and pulls.
    pub(super) async fn end_session(self: Rc<Self>, id: SessionId, why: &'static str) {
        let Some(session) = self.state.borrow_mut().sessions.remove(&id) else { return };
        tracing::debug!(session = %id, why, "session ended");
        session.changed.notify_waiters();
        let done = {
            let mut state = self.state.borrow_mut();
            state.channels.end_session(id);
            state.run_channels(Clock::runtime_instant());
            let (shard, slot) = (session.shard, session.slot);
            session.forget_remotes(&mut state.remotes);
            state.shards.ask(shard, |ack| Command::RemoveSession { slot, ack })
        };
        for published in &session.published {
            if let Some(track) = published.track {
                self.clone().close_track(track).await;
            }
        }
        if done.await.is_err() {
            return;
        }
        for pulled in &session.pulled {
            if let LegState::Flowing(_) = pulled.leg {
                self.release_leg(pulled.track, session.shard).await;
            }
        }
        self.state.borrow_mut().shards.vacate(session.shard, session.slot);
    }

    /// Waits for the session's other verbs to finish. The session may have ended meanwhile.
    async fn turn(&self, app: &AppId, id: SessionId) -> Result<OwnedMutexGuard<()>, RequestError> {
        let turn = self.state.borrow().session(app, id)?.turn.clone();
        let guard = turn.lock_owned().await;
        self.state.borrow().session(app, id)?;
        Ok(guard)
    }

    /// Waits until the session's transport is up, if one has been negotiated.
    async fn connected(&self, app: &AppId, id: SessionId) -> Result<(), RequestError> {
        let wait = self.settings.connect_wait;
        let connecting = async {
            loop {
                let changed = {
                    let state = self.state.borrow();
                    let session = state.session(app, id)?;
                    if session.connected || !session.is_negotiated() {
                        return Ok(());
                    }
                    session.changed.clone()
                };
                changed.notified().await;
            }
        };
        timeout(wait, connecting).await.unwrap_or_else(|_| Err(not_connected(wait)))
    }
}

impl State {
    /// The session, if it exists and belongs to `app`.
    pub(super) fn session(&self, app: &AppId, id: SessionId) -> Result<&Session, RequestError> {
        self.sessions.get(&id).filter(|session| session.app == *app).ok_or_else(|| gone(id))
    }

    fn session_mut(&mut self, app: &AppId, id: SessionId) -> Result<&mut Session, RequestError> {
        self.session_and_remotes(app, id).map(|(session, _)| session)
    }

    fn session_and_remotes(
        &mut self,
        app: &AppId,
        id: SessionId,
    ) -> Result<(&mut Session, &mut Remotes), RequestError> {
        let session = self.sessions.get_mut(&id).filter(|session| session.app == *app);
        Ok((session.ok_or_else(|| gone(id))?, &mut self.remotes))
    }
}

/// Answers an offer that publishes nothing: data channels, or media that later requests will name.
fn answer_plain(
    session: &mut Session,
    offer: &Remote,
    remotes: &mut Remotes,
) -> Result<SessionDescription, RequestError> {
    let sdp = session.answer(offer, &[], remotes)?;
    Ok(SessionDescription { kind: SdpType::Answer, sdp })
}

fn status(is_active: bool) -> Status {
    if is_active { Status::Active } else { Status::Inactive }
}

/// Parses a description that must be of `expected` type.
fn parse(description: &SessionDescription, expected: SdpType) -> Result<Remote, RequestError> {
    if description.kind != expected {
        let [found, expected] = [description.kind, expected].map(|kind| match kind {
            SdpType::Offer => "offer",
            SdpType::Answer => "answer",
        });
        let text = format!("sessionDescription is an {found}; this request takes an {expected}");
        return Err(RequestError::new(ErrorCode::InvalidSessionDescription, text));
    }
    let kind = match expected {
        SdpType::Offer => Kind::Offer,
        SdpType::Answer => Kind::Answer,
    };
    Ok(Remote::parse(kind, &description.sdp)?)
}

impl From<SdpError> for RequestError {
    /// What cannot be read is a decoding error; what can be read but not taken is an invalid description.
    fn from(error: SdpError) -> Self {
        let text = error.to_string();
        match error {
            SdpError::NotSdp(_)
            | SdpError::ControlCharacter { .. }
            | SdpError::TooManyTextLines(_)
            | SdpError::NoIceUfrag
            | SdpError::BadIceCredentials
            | SdpError::NoFingerprint
            | SdpError::BadFingerprint(_)
            | SdpError::NoSetup
            | SdpError::BadSetup(_) => Self::new(ErrorCode::DecodingError, text),
            SdpError::NoSuchMid(_) | SdpError::Direction { .. } | SdpError::KindMismatch(_) => {
                Self::new(ErrorCode::InvalidParams, text)
            }
            SdpError::OfferPending => Self::new(ErrorCode::InvalidSessionDescription, text)
                .with_subcode("invalid_modification_have_local_offer"),
            SdpError::NoOfferPending => Self::new(ErrorCode::InvalidSessionDescription, text)
                .with_subcode("signaling_state_not_stable"),
            _ => Self::new(ErrorCode::InvalidSessionDescription, text),
        }
    }
}

fn gone(id: SessionId) -> RequestError {
    let text =
        format!("session {id} is unknown, expired or disconnected; create a new one with sessions/new");
    RequestError::new(ErrorCode::SessionGone, text)
}

fn not_connected(waited: Duration) -> RequestError {
    let text = format!(
        "the session's PeerConnection has not connected within {} s; finish its negotiation and retry",
        waited.as_secs_f32()
    );
    RequestError::new(ErrorCode::SessionNotConnected, text)
}
