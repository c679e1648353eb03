//! `tracks/close`: what is published or pulled on some mids ends, with or without an exchange.
//!
//! The list of mids rules, not the description: clients list many mids and stop the transceiver of one.

use std::rc::Rc;

use crate::control::Control;
use crate::control::request::{
    AppId, CloseTracksRequest, ErrorCode, RequestError, SdpType, SessionDescription, TrackResult,
    TracksResponse,
};
use crate::control::session::{LegState, Session};
use crate::control::verbs::parse;
use crate::id::{Mid, SessionId};
use crate::sdp::{Intent, Line, LineState, Remote};
use crate::time::Clock;

impl Control {
    pub(super) async fn close_tracks(
        self: Rc<Self>,
        app: AppId,
        id: SessionId,
        body: CloseTracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        if body.tracks.is_empty() {
            let text = "Expecting at least 1 track";
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let mids: Vec<Option<Mid>> = body.tracks.iter().map(|track| track.mid.parse().ok()).collect();
        let known: Vec<bool> = {
            let state = self.state.borrow();
            let session = state.session(&app, id)?;
            mids.iter().map(|mid| mid.is_some_and(|mid| is_open(session, mid))).collect()
        };
        let named: Vec<Mid> = mids.iter().copied().flatten().collect();
        let answer = match (&body.session_description, body.force) {
            (Some(description), _) => {
                let offer = parse(description, SdpType::Offer)?;
                Some(self.answer_close(&app, id, &offer, &named)?)
            }
            (None, true) => None,
            (None, false) => {
                let text = "sessionDescription, an offer, is needed unless force is true";
                return Err(RequestError::new(ErrorCode::InvalidParams, text));
            }
        };
        self.end_media(id, &named).await;
        let tracks = body.tracks.iter().zip(known).map(|(track, known)| TrackResult {
            mid: Some(track.mid.clone()),
            error: (!known).then(|| not_there(&track.mid)),
            ..TrackResult::default()
        });
        Ok(TracksResponse {
            requires_immediate_renegotiation: false,
            tracks: tracks.collect(),
            session_description: answer,
        })
    }

    fn answer_close(
        &self,
        app: &AppId,
        id: SessionId,
        offer: &Remote,
        mids: &[Mid],
    ) -> Result<SessionDescription, RequestError> {
        let mut state = self.state.borrow_mut();
        let (session, remotes) = state.session_and_remotes(app, id)?;
        let intents: Vec<_> = mids.iter().map(|&mid| (mid, Intent::Close)).collect();
        let sdp = session.answer(offer, &intents, remotes)?;
        state.poke(id, Clock::runtime_instant());
        Ok(SessionDescription { kind: SdpType::Answer, sdp })
    }

    /// Ends what flows on these mids, and on m-lines whose direction leaves nothing to flow.
    async fn end_media(self: &Rc<Self>, id: SessionId, mids: &[Mid]) {
        if let Some(session) = self.state.borrow_mut().sessions.get_mut(&id) {
            for &mid in mids {
                session.negotiation.close(mid);
            }
            session.offered.retain(|(mid, _)| !mids.contains(mid));
        }
        let receives = |line: &Line| line.receive.is_some();
        let sends = |line: &Line| line.send.is_some();
        self.end_unless(id, receives, sends).await;
    }

    /// Ends what flowed on m-lines that the client's last description has stopped for good.
    pub(super) async fn end_stopped(self: &Rc<Self>, id: SessionId) {
        let lives = |line: &Line| line.state != LineState::Closed;
        self.end_unless(id, lives, lives).await;
    }

    async fn end_unless(
        self: &Rc<Self>,
        id: SessionId,
        receives: impl Fn(&Line) -> bool,
        sends: impl Fn(&Line) -> bool,
    ) {
        let (tracks, pulls) = {
            let state = self.state.borrow();
            let Some(session) = state.sessions.get(&id) else { return };
            let line = |mid| session.negotiation.line(mid);
            let over = session.published.iter().filter(|p| !line(p.mid).is_some_and(&receives));
            let tracks: Vec<_> = over.filter_map(|published| published.track).collect();
            let flowing = session.pulled.iter().filter(|p| matches!(p.leg, LegState::Flowing(_)));
            let pulls: Vec<_> = flowing.filter(|p| !line(p.mid).is_some_and(&sends)).map(|p| p.mid).collect();
            (tracks, pulls)
        };
        for track in tracks {
            self.clone().close_track(track).await;
        }
        for mid in pulls {
            self.unsubscribe(id, mid).await;
        }
    }
}

fn is_open(session: &Session, mid: Mid) -> bool {
    let is_offered = session.offered.iter().any(|(offered, _)| *offered == mid);
    session.published_on(mid).is_some() || session.pulled_on(mid).is_some() || is_offered
}

fn not_there(mid: &str) -> RequestError {
    let text =
        format!("Track doesn't exist or was already closed: nothing is published or pulled on mid {mid:?}");
    RequestError::new(ErrorCode::CloseTrackError, text)
}
