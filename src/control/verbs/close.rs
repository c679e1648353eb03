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
use crate::sdp::{Intent, Remote};
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
        let session = state.session_mut(app, id)?;
        let intents: Vec<_> = mids.iter().map(|&mid| (mid, Intent::Close)).collect();
        let sdp = session.answer(offer, &intents)?;
        state.poke(id, Clock::runtime_instant());
        Ok(SessionDescription { kind: SdpType::Answer, sdp })
    }

    /// Ends what flows on these mids, and on m-lines that an offer has stopped.
    async fn end_media(self: &Rc<Self>, id: SessionId, mids: &[Mid]) {
        let (tracks, pulls) = {
            let mut state = self.state.borrow_mut();
            let Some(session) = state.sessions.get_mut(&id) else { return };
            for &mid in mids {
                session.negotiation.close(mid);
            }
            let lines = &session.negotiation;
            let receives = |mid| lines.line(mid).is_some_and(|line| line.receive.is_some());
            let sends = |mid| lines.line(mid).is_some_and(|line| line.send.is_some());
            let tracks: Vec<_> =
                session.published.iter().filter(|p| !receives(p.mid)).filter_map(|p| p.track).collect();
            let flowing = session.pulled.iter().filter(|p| matches!(p.leg, LegState::Flowing(_)));
            let pulls: Vec<_> = flowing.filter(|p| !sends(p.mid)).map(|p| p.mid).collect();
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
    session.published_on(mid).is_some() || session.pulled_on(mid).is_some()
}

fn not_there(mid: &str) -> RequestError {
    let text =
        format!("Track doesn't exist or was already closed: nothing is published or pulled on mid {mid:?}");
    RequestError::new(ErrorCode::CloseTrackError, text)
}
