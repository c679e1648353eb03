//! `tracks/update`: a pull gets other encodings of its track, or another track in its place.
//!
//! No description changes hands: to the receiver it is one stream before and after.

use std::rc::Rc;

use futures_util::future::join_all;

use crate::control::media::not_updated;
use crate::control::request::{
    AppId, ErrorCode, Location, RequestError, TrackObject, TrackResult, TracksResponse, UpdateTracksRequest,
};
use crate::control::session::{LegState, Pulled, Session};
use crate::control::verbs::pull::present;
use crate::control::{Control, State};
use crate::id::{MediaKind, Mid, SessionId};
use crate::sdp::SdpError;

impl Control {
    pub(super) async fn update_tracks(
        self: Rc<Self>,
        app: AppId,
        id: SessionId,
        body: UpdateTracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        if body.tracks.is_empty() {
            return Err(RequestError::new(ErrorCode::InvalidParams, "Expecting at least 1 track"));
        }
        if self.state.borrow().session(&app, id)?.negotiation.has_pending_offer() {
            return Err(SdpError::OfferPending.into());
        }
        let updated = join_all(body.tracks.iter().map(|item| self.update(&app, id, item))).await;
        let tracks = body.tracks.iter().zip(updated).map(|(item, updated)| TrackResult {
            session_id: present(&item.session_id),
            track_name: present(&item.track_name),
            mid: updated.as_ref().ok().map(Mid::to_string).or_else(|| item.mid.clone()),
            kind: None,
            error: updated.err(),
        });
        Ok(TracksResponse {
            requires_immediate_renegotiation: false,
            tracks: tracks.collect(),
            session_description: None,
        })
    }

    /// Returns the mid that the item was about.
    async fn update(&self, app: &AppId, id: SessionId, item: &TrackObject) -> Result<Mid, RequestError> {
        let pulled = self.state.borrow().pulled_for(app, id, item)?;
        let mid = pulled.mid;
        if names(item, &pulled) {
            if let Some(wish) = item.simulcast.clone() {
                self.select(id, mid, wish).await?;
            }
            return Ok(mid);
        }
        let source = TrackObject { mid: None, ..item.clone() };
        let track = self.find(app, &source).await?;
        self.redirect(id, mid, track, item.simulcast.clone()).await?;
        Ok(mid)
    }
}

impl State {
    /// The pull that an item is about: the one on its mid; or the one of the track it names, if nothing is
    /// pulled on that mid, because clients send the publisher's mid too.
    fn pulled_for(&self, app: &AppId, id: SessionId, item: &TrackObject) -> Result<Pulled, RequestError> {
        if item.location != Location::Remote {
            let text = format!("track {:?} is local; only remote tracks can be updated", item.track_name);
            return Err(not_updated(text));
        }
        let session = self.session(app, id)?;
        let mid = item.mid.as_deref().and_then(|mid| session.mid_meant(mid));
        let on_mid = mid.and_then(|mid| flow(session, mid));
        let is_named =
            |pulled: &&Pulled| item.track_name.is_some() && is_flowing(pulled) && names(item, pulled);
        let named = || session.pulled.iter().find(is_named);
        // The publisher's mid can be that of a track of another kind here, which could not carry it anyway.
        let is_other_kind = |on_mid: &&Pulled, named: &&Pulled| self.kind(on_mid) != self.kind(named);
        let pulled = match (on_mid, named()) {
            (Some(on_mid), Some(named)) if !names(item, on_mid) && is_other_kind(&on_mid, &named) => {
                Some(named)
            }
            (on_mid, named) => on_mid.or(named),
        };
        pulled.cloned().ok_or_else(|| {
            let mid = item.mid.as_deref().unwrap_or_default();
            not_updated(format!("nothing is pulled on mid {mid:?}, nor is the track named pulled elsewhere"))
        })
    }

    fn kind(&self, pulled: &Pulled) -> Option<MediaKind> {
        self.tracks.get(pulled.track).map(|track| track.kind())
    }
}

fn flow(session: &Session, mid: Mid) -> Option<&Pulled> {
    session.pulled_on(mid).filter(|pulled| is_flowing(pulled))
}

fn is_flowing(pulled: &Pulled) -> bool {
    matches!(pulled.leg, LegState::Flowing(_))
}

/// Whether the item names the track that is pulled, as far as it names any.
fn names(item: &TrackObject, pulled: &Pulled) -> bool {
    let same_session = item.session_id.as_ref().is_none_or(|id| *id == pulled.session.to_string());
    same_session && item.track_name.as_ref().is_none_or(|name| *name == pulled.name)
}
