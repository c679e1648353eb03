//! An operator's view of an app's sessions: which there are, and away with one. Both go beyond the original.

use std::rc::Rc;
use std::time::Instant;

use crate::control::Control;
use crate::control::request::{
    AppId, EndSessionResponse, RequestError, SessionList, SessionSummary, SessionsPage,
};
use crate::control::session::{LegState, Session};
use crate::id::SessionId;
use crate::time::Clock;

impl Control {
    /// One page. Ids are random and never change places, so whoever follows the cursor meets every session
    /// that lives throughout exactly once. Looks at each session: 1 ms per 50,000 or so.
    pub(super) fn list_sessions(&self, app: &AppId, page: SessionsPage) -> SessionList {
        let state = self.state.borrow();
        let is_due = |session: &&Session| session.app == *app && page.after.is_none_or(|id| session.id > id);
        let mut due: Vec<_> = state.sessions.values().filter(is_due).collect();
        let is_last = due.len() <= page.limit;
        if !is_last {
            due.select_nth_unstable_by_key(page.limit, |session| session.id);
            due.truncate(page.limit);
        }
        due.sort_unstable_by_key(|session| session.id);
        let cursor = due.last().filter(|_| !is_last).map(|session| session.id.to_string());
        let now = Clock::runtime_instant();
        SessionList { sessions: due.iter().map(|session| summary(session, now)).collect(), cursor }
    }

    /// Ends a session without waiting for its other verbs: those find it gone.
    pub(super) async fn end_by_request(
        self: Rc<Self>,
        app: &AppId,
        id: SessionId,
    ) -> Result<EndSessionResponse, RequestError> {
        self.state.borrow().session(app, id)?;
        self.end_session(id, "ended by request").await;
        Ok(EndSessionResponse {})
    }
}

fn summary(session: &Session, now: Instant) -> SessionSummary {
    let flows = |leg: &LegState| matches!(leg, LegState::Flowing(_));
    SessionSummary {
        session_id: session.id.to_string(),
        age_seconds: now.saturating_duration_since(session.made).as_secs(),
        connected: session.connected,
        local_tracks: session.published.iter().filter(|published| published.track.is_some()).count(),
        remote_tracks: session.pulled.iter().filter(|pulled| flows(&pulled.leg)).count(),
    }
}
