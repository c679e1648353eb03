//! `tracks/new` with remote tracks: what others publish is sent to this session.
//!
//! Without an offer of the client's we make one, and the flow starts when its answer comes by `renegotiate`.
//! With one, each track takes the next m-line on which the client wants to receive its kind. A track can also
//! take an m-line that is there already: nothing is negotiated then.

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
use crate::sdp::{Intent, LineKind, Remote, RemoteLine, SdpError, Send};
use crate::time::Clock;

/// An item of a request: the track that was found, or why there is none, and the m-line it goes on.
struct Item<'a> {
    object: &'a TrackObject,
    track: Result<TrackKey, RequestError>,
    mid: Option<Mid>,
}

impl Item<'_> {
    /// The m-line of the session that shall carry the track, if not a new one.
    fn line(&self) -> Option<String> {
        present(&self.object.mid)
    }

    fn fail(&mut self, code: ErrorCode, text: String) {
        self.mid = None;
        self.track = Err(RequestError::new(code, text));
    }
}

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
        let found = join_all(body.tracks.iter().map(|object| self.find(&app, object))).await;
        let items = body.tracks.iter().zip(found).map(|(object, track)| Item { object, track, mid: None });
        let mut items: Vec<_> = items.collect();
        let description = match offer {
            Some(offer) => self.pull_into(&app, id, &offer, &mut items).await?,
            None => {
                let offer = self.pull_by_our_offer(&app, id, &mut items)?;
                self.pull_onto_lines(&app, id, &mut items).await?;
                offer
            }
        };
        Ok(response(&items, description))
    }

    /// The track an item names, once its packets flow. A publisher that is still connecting is waited for.
    pub(super) async fn find(&self, app: &AppId, item: &TrackObject) -> Result<TrackKey, RequestError> {
        let fields = [("sessionId", &item.session_id), ("trackName", &item.track_name)];
        if let Some((field, _)) = fields.iter().find(|(_, value)| present(value).is_none()) {
            let text = format!("a remote track needs {field}: the publisher's sessionId and its trackName");
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

    /// Our offer, with an m-line for each track that asks for no other; none if there is no such track.
    fn pull_by_our_offer(
        &self,
        app: &AppId,
        id: SessionId,
        items: &mut [Item<'_>],
    ) -> Result<Option<SessionDescription>, RequestError> {
        let mut state = self.state.borrow_mut();
        self.renew_transport(&mut state, id);
        let (mut sends, mut sent) = (Vec::new(), Vec::new());
        for item in items.iter_mut().filter(|item| item.line().is_none()) {
            if let Some(send) = state.send(item) {
                sends.push(send);
                sent.push(item);
            }
        }
        if sends.is_empty() {
            return Ok(None);
        }
        let session = state.session_mut(app, id)?;
        let (sdp, mids) = session.negotiation.offer(sends, false)?;
        session.note_offer(Clock::runtime_instant());
        for (item, mid) in sent.into_iter().zip(mids) {
            item.mid = Some(mid);
            state.note_item(id, item);
        }
        Ok(Some(SessionDescription { kind: SdpType::Offer, sdp }))
    }

    /// Sends each track that names an m-line of the session on that.
    async fn pull_onto_lines(
        &self,
        app: &AppId,
        id: SessionId,
        items: &mut [Item<'_>],
    ) -> Result<(), RequestError> {
        for item in items {
            let (Some(line), Ok(track)) = (item.line(), item.track.clone()) else { continue };
            let meant = self.state.borrow().session(app, id)?.line_meant(&line);
            let Some(mid) = meant else {
                let text = format!(
                    "mid {line:?} is no m-line of this session; name one that sends, by its mid or as \
                     \"#trackName\", or leave mid out for a new one"
                );
                item.fail(ErrorCode::InvalidParams, text);
                continue;
            };
            let wish = item.object.simulcast.clone().unwrap_or_default();
            match self.pull_onto(id, mid, track, wish).await {
                Ok(()) => item.mid = Some(mid),
                Err(error) => item.track = Err(error),
            }
        }
        Ok(())
    }

    /// Sends a track on an m-line that is there, in place of what it carried, if anything.
    async fn pull_onto(
        &self,
        id: SessionId,
        mid: Mid,
        track: TrackKey,
        wish: Simulcast,
    ) -> Result<(), RequestError> {
        let flowing = {
            let state = self.state.borrow();
            let pulled = state.sessions.get(&id).and_then(|session| session.pulled_on(mid));
            pulled.filter(|pulled| matches!(pulled.leg, LegState::Flowing(_))).map(|pulled| pulled.track)
        };
        if flowing.is_some() {
            return self.redirect(id, mid, track, Some(wish)).await;
        }
        self.state.borrow_mut().begin_resume(id, mid, track, wish)?;
        self.subscribe(id, mid).await
    }

    /// If no track can be had, the offer is not taken: the client may come back with another, even of another
    /// peer connection.
    async fn pull_into(
        self: &Rc<Self>,
        app: &AppId,
        id: SessionId,
        offer: &Remote,
        items: &mut [Item<'_>],
    ) -> Result<Option<SessionDescription>, RequestError> {
        let sdp = {
            let mut state = self.state.borrow_mut();
            self.renew_transport(&mut state, id);
            assign(state.session(app, id)?, offer, &state, items);
            let mut intents = Vec::new();
            for item in items.iter_mut() {
                let Some(mid) = item.mid else { continue };
                intents.extend(state.send(item).map(|send| (mid, Intent::Send(send))));
            }
            if intents.is_empty() {
                return Ok(None);
            }
            let (session, remotes) = state.session_and_remotes(app, id)?;
            let sdp = session.answer(offer, &intents, remotes)?;
            items.iter().for_each(|item| state.note_item(id, item));
            state.poke(id, Clock::runtime_instant());
            sdp
        };
        self.end_stopped(id).await;
        for mid in items.iter().filter_map(|item| item.mid) {
            self.subscribe(id, mid).await?;
        }
        Ok(Some(SessionDescription { kind: SdpType::Answer, sdp }))
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

    /// What to send for an item whose track was found, unless it has ended since.
    fn send(&mut self, item: &mut Item<'_>) -> Option<Send> {
        let key = *item.track.as_ref().ok()?;
        let Some(track) = self.tracks.get(key) else {
            let name = item.object.track_name.as_deref().unwrap_or_default();
            item.fail(ErrorCode::NotFoundTrackError, format!("track {name:?} has just ended"));
            return None;
        };
        let is_video = track.kind() == MediaKind::Video;
        let stream = track.receive.msid.as_ref().map(|msid| msid.stream_id.clone());
        Some(Send {
            kind: track.kind(),
            codecs: track.codecs().to_vec(),
            extensions: track.config.extensions,
            ssrc: self.rng.next_u32(),
            rtx_ssrc: is_video.then(|| self.rng.next_u32()),
            cname: track.session.to_string(),
            stream_id: stream_name(stream, track.session),
            track_id: track.name.clone(),
            transport_cc: is_video,
        })
    }

    /// Puts an item on the books that has an m-line now.
    fn note_item(&mut self, id: SessionId, item: &Item<'_>) {
        if let (Ok(key), Some(mid)) = (&item.track, item.mid) {
            self.note_pulled(id, mid, *key, item.object.simulcast.clone().unwrap_or_default());
        }
    }

    pub(in crate::control) fn note_pulled(
        &mut self,
        id: SessionId,
        mid: Mid,
        key: TrackKey,
        simulcast: Simulcast,
    ) {
        let Self { tracks, sessions, .. } = self;
        let (Some(session), Some(track)) = (sessions.get_mut(&id), tracks.get(key)) else { return };
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

/// The MediaStream a browser puts the track in: one per publisher and stream of its, so that a publisher's
/// audio and video are played in sync. Browsers write "-" for no stream.
fn stream_name(published: Option<String>, session: SessionId) -> String {
    match published.filter(|stream| stream != "-") {
        Some(stream) => format!("{session}-{stream}"),
        None => session.to_string(),
    }
}

/// Gives each found track the m-line it names, or the next of its kind, on which the client receives and nothing
/// flows yet. A track for which there is none fails.
fn assign(session: &Session, offer: &Remote, state: &State, items: &mut [Item<'_>]) {
    let free = |line: &&RemoteLine| {
        !line.rejected && line.direction.receives() && session.pulled_on(line.mid).is_none()
    };
    let mut lines: Vec<_> = offer.lines().iter().filter(free).collect();
    for item in items.iter_mut() {
        let Some(track) = item.track.as_ref().ok().and_then(|key| state.tracks.get(*key)) else { continue };
        let (kind, name) = (track.kind(), track.name.clone());
        let wanted = item.line().map(|line| session.mid_meant(&line));
        let fits = |line: &&RemoteLine| {
            line.kind == LineKind::Media(kind) && wanted.is_none_or(|mid| mid == Some(line.mid))
        };
        match lines.iter().position(fits) {
            Some(at) => item.mid = Some(lines.remove(at).mid),
            None => {
                let which = item.line().map_or_else(String::new, |line| format!(" with mid {line:?}"));
                let text = format!(
                    "the offer has no free m-line{which} to receive {} track {name:?}; add a recvonly transceiver",
                    kind.as_str(),
                );
                item.fail(ErrorCode::InvalidParams, text);
            }
        }
    }
}

/// Some clients write an empty string for what they do not have; none can read one.
pub(super) fn present(field: &Option<String>) -> Option<String> {
    field.clone().filter(|text| !text.is_empty())
}

/// Items in the order of the request.
fn response(items: &[Item<'_>], description: Option<SessionDescription>) -> TracksResponse {
    let tracks = items.iter().map(|item| TrackResult {
        session_id: present(&item.object.session_id),
        track_name: present(&item.object.track_name),
        mid: Some(item.mid.filter(|_| item.track.is_ok()).as_ref().map(Mid::to_string).unwrap_or_default()),
        kind: None,
        error: item.track.as_ref().err().cloned(),
    });
    let is_offer = description.as_ref().is_some_and(|d| d.kind == SdpType::Offer);
    TracksResponse {
        requires_immediate_renegotiation: is_offer,
        tracks: tracks.collect(),
        session_description: description,
    }
}
