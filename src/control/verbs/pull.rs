//! `tracks/new` with remote tracks: what others publish is sent to this session.
//!
//! Without an offer of the client's we make one, and the flow starts when its answer comes by `renegotiate`.
//! With one, each track takes the next m-line on which the client wants to receive its kind.

use std::rc::Rc;

use futures_util::future::join_all;
use rand::RngCore;
use tokio::time::timeout;

use crate::control::request::{
    AppId, ErrorCode, RequestError, SdpType, SessionDescription, Simulcast, TrackObject, TrackResult,
    TracksRequest, TracksResponse,
};
use crate::control::session::{LegState, Pulled, Session};
use crate::control::tracks::Track;
use crate::control::verbs::parse;
use crate::control::{Control, State};
use crate::id::{MediaKind, Mid, SessionId, TrackKey};
use crate::sdp::{Intent, LineKind, Remote, SdpError, Send};
use crate::time::Clock;

/// Items of a request in its order: the track that was found, or why there is none.
type Found = Vec<Result<TrackKey, RequestError>>;

impl Control {
    pub(super) async fn pull(
        self: &Rc<Self>,
        app: AppId,
        id: SessionId,
        body: TracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        if self.state.borrow().session(&app, id)?.negotiation.has_pending_offer() {
            return Err(SdpError::OfferPending.into());
        }
        self.connected(&app, id).await?;
        let offer = body.session_description.as_ref().map(|d| parse(d, SdpType::Offer)).transpose()?;
        let found: Found = join_all(body.tracks.iter().map(|item| self.find(&app, item))).await;
        match offer {
            Some(offer) => self.pull_into(&app, id, &offer, &body.tracks, found).await,
            None => self.pull_by_our_offer(&app, id, &body.tracks, found),
        }
    }

    /// The track an item names, once its packets flow. A publisher that is still connecting is waited for.
    pub(super) async fn find(&self, app: &AppId, item: &TrackObject) -> Result<TrackKey, RequestError> {
        let fields = [("sessionId", &item.session_id), ("trackName", &item.track_name)];
        if let Some((field, _)) = fields.iter().find(|(_, value)| present(value).is_none()) {
            let text = format!("a remote track needs {field}: the publisher's sessionId and its trackName");
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        if let Some(mid) = &item.mid {
            let text = format!("a pull into the existing mid {mid:?} is not supported; leave mid out");
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let flowing = async {
            loop {
                let changed = {
                    let state = self.state.borrow();
                    let (key, track) = state.track_named(app, item)?;
                    if track.active {
                        return Ok(key);
                    }
                    track.changed.clone()
                };
                changed.notified().await;
            }
        };
        let wait = self.settings.pull_wait;
        timeout(wait, flowing).await.unwrap_or_else(|_| Err(self.silent(app, item)))
    }

    /// Why a track that exists sends nothing.
    fn silent(&self, app: &AppId, item: &TrackObject) -> RequestError {
        let state = self.state.borrow();
        let connected =
            state.track_named(app, item).ok().and_then(|(_, track)| state.sessions.get(&track.session));
        let name = item.track_name.as_deref().unwrap_or_default();
        let waited = self.settings.pull_wait.as_secs_f32();
        if connected.is_some_and(|session| session.connected) {
            let text = format!(
                "track {name:?} has sent no packet within {waited} s; check that its publisher is not muted"
            );
            RequestError::new(ErrorCode::EmptyTrackError, text)
        } else {
            let text = format!(
                "the publisher of track {name:?} has not connected within {waited} s; retry when it has"
            );
            RequestError::new(ErrorCode::NotFoundTrackError, text)
        }
    }

    fn pull_by_our_offer(
        &self,
        app: &AppId,
        id: SessionId,
        items: &[TrackObject],
        found: Found,
    ) -> Result<TracksResponse, RequestError> {
        let mut state = self.state.borrow_mut();
        self.renew_transport(&mut state, id);
        let now = Clock::runtime_instant();
        let (sends, keys) = state.sends(&found);
        if sends.is_empty() {
            return Ok(response(items, &found, &[], None));
        }
        let session = state.session_mut(app, id)?;
        let (sdp, mids) = session.negotiation.offer(sends, false)?;
        session.follow_bundle_tag();
        session.offered_at = Some(now);
        state.note_pulled(id, &keys, &mids, wishes(items, &found));
        let offer = SessionDescription { kind: SdpType::Offer, sdp };
        Ok(response(items, &found, &mids, Some(offer)))
    }

    /// If no track can be had, the offer is not taken: the client may come back with another, even of another
    /// peer connection.
    async fn pull_into(
        self: &Rc<Self>,
        app: &AppId,
        id: SessionId,
        offer: &Remote,
        items: &[TrackObject],
        mut found: Found,
    ) -> Result<TracksResponse, RequestError> {
        let (mids, sdp) = {
            let mut state = self.state.borrow_mut();
            self.renew_transport(&mut state, id);
            let mids = assign(state.session(app, id)?, offer, &state, &mut found);
            if mids.is_empty() {
                return Ok(response(items, &found, &mids, None));
            }
            let (sends, keys) = state.sends(&found);
            let session = state.session_mut(app, id)?;
            let intents: Vec<_> = mids.iter().copied().zip(sends.into_iter().map(Intent::Send)).collect();
            let sdp = session.answer(offer, &intents)?;
            state.note_pulled(id, &keys, &mids, wishes(items, &found));
            state.poke(id, Clock::runtime_instant());
            (mids, sdp)
        };
        self.end_stopped(id).await;
        for &mid in &mids {
            self.subscribe(id, mid).await?;
        }
        let answer = SessionDescription { kind: SdpType::Answer, sdp };
        Ok(response(items, &found, &mids, Some(answer)))
    }
}

impl State {
    /// The track an item names, if its session is of the same app.
    fn track_named(&self, app: &AppId, item: &TrackObject) -> Result<(TrackKey, &Track), RequestError> {
        let missing = |text: String| RequestError::new(ErrorCode::NotFoundTrackError, text);
        let name = item.track_name.as_deref().unwrap_or_default();
        let publisher = item.session_id.as_deref().unwrap_or_default();
        let session = publisher.parse().ok().and_then(|id| self.session(app, id).ok());
        let session = session.ok_or_else(|| {
            missing(format!("no session {publisher:?} publishes track {name:?}: it is unknown or has ended"))
        })?;
        let key = session.published_as(name).and_then(|published| published.track);
        let key = key.ok_or_else(|| {
            missing(format!(
                "session {publisher} publishes no track {name:?}; push it first or check the name"
            ))
        })?;
        let track = self.tracks.get(key).ok_or_else(|| missing(format!("track {name:?} has just ended")))?;
        Ok((key, track))
    }

    /// What to send for each track that was found, in order.
    fn sends(&mut self, found: &Found) -> (Vec<Send>, Vec<TrackKey>) {
        let mut sends = Vec::new();
        let mut keys = Vec::new();
        for key in found.iter().flatten() {
            let Some(track) = self.tracks.get(*key) else { continue };
            let is_video = track.kind() == MediaKind::Video;
            let stream = track.receive.msid.as_ref().map(|msid| msid.stream_id.clone());
            sends.push(Send {
                kind: track.kind(),
                codecs: track.codecs().to_vec(),
                extensions: track.config.extensions,
                ssrc: self.rng.next_u32(),
                rtx_ssrc: is_video.then(|| self.rng.next_u32()),
                cname: track.session.to_string(),
                stream_id: stream_name(stream, track.session),
                track_id: track.name.clone(),
                transport_cc: false,
            });
            keys.push(*key);
        }
        (sends, keys)
    }

    fn note_pulled(
        &mut self,
        id: SessionId,
        keys: &[TrackKey],
        mids: &[Mid],
        wishes: impl Iterator<Item = Simulcast>,
    ) {
        let Self { tracks, sessions, .. } = self;
        let Some(session) = sessions.get_mut(&id) else { return };
        for ((&key, &mid), simulcast) in keys.iter().zip(mids).zip(wishes) {
            let Some(track) = tracks.get(key) else { continue };
            let lines = &session.negotiation;
            session.pulled.retain(|known| {
                let is_over = known.leg == LegState::Closed && lines.line(known.mid).is_none();
                known.mid != mid && !is_over
            });
            session.pulled.push(Pulled {
                mid,
                track: key,
                session: track.session,
                name: track.name.clone(),
                simulcast,
                leg: LegState::Offered,
            });
        }
    }
}

/// The MediaStream a browser puts the track in: one per publisher and stream of its, so that a publisher's
/// audio and video are played in sync. Browsers write "-" for no stream.
fn stream_name(published: Option<String>, session: SessionId) -> String {
    match published.filter(|stream| stream != "-") {
        Some(stream) => format!("{session}-{stream}"),
        None => session.to_string(),
    }
}

/// Gives each found track the next m-line of its kind on which the client receives and nothing flows yet.
/// A track for which there is none fails.
fn assign(session: &Session, offer: &Remote, state: &State, found: &mut Found) -> Vec<Mid> {
    let free = |line: &&crate::sdp::RemoteLine| {
        !line.rejected && line.direction.receives() && session.pulled_on(line.mid).is_none()
    };
    let mut lines: Vec<_> = offer.lines().iter().filter(free).collect();
    let mut mids = Vec::new();
    for item in found.iter_mut() {
        let Some(track) = item.as_ref().ok().and_then(|key| state.tracks.get(*key)) else { continue };
        match lines.iter().position(|line| line.kind == LineKind::Media(track.kind())) {
            Some(at) => mids.push(lines.remove(at).mid),
            None => {
                let text = format!(
                    "the offer has no free m-line to receive {} track {:?}; add a recvonly transceiver",
                    track.kind().as_str(),
                    track.name
                );
                *item = Err(RequestError::new(ErrorCode::InvalidParams, text));
            }
        }
    }
    mids
}

/// Which encodings are wanted of each track that was found, in order.
fn wishes(items: &[TrackObject], found: &Found) -> impl Iterator<Item = Simulcast> {
    let found = items.iter().zip(found).filter(|(_, found)| found.is_ok());
    found.map(|(item, _)| item.simulcast.clone().unwrap_or_default())
}

/// Some clients write an empty string for what they do not have; none can read one.
pub(super) fn present(field: &Option<String>) -> Option<String> {
    field.clone().filter(|text| !text.is_empty())
}

/// Items in the order of the request; those found have the mids in theirs.
fn response(
    items: &[TrackObject],
    found: &Found,
    mids: &[Mid],
    description: Option<SessionDescription>,
) -> TracksResponse {
    let mut mids = mids.iter();
    let tracks = items.iter().zip(found).map(|(item, found)| TrackResult {
        session_id: present(&item.session_id),
        track_name: present(&item.track_name),
        mid: Some(found.as_ref().ok().and_then(|_| mids.next()).map(Mid::to_string).unwrap_or_default()),
        kind: None,
        error: found.as_ref().err().cloned(),
    });
    let is_offer = description.as_ref().is_some_and(|d| d.kind == SdpType::Offer);
    TracksResponse {
        requires_immediate_renegotiation: is_offer,
        tracks: tracks.collect(),
        session_description: description,
    }
}
