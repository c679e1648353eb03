//! `tracks/new` with local tracks: m-lines of the client's offer become tracks, or those of an offer of ours that
//! it answers.

use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::control::Control;
use crate::control::request::{
    AppId, ErrorCode, Location, RequestError, SdpType, SessionDescription, TrackObject, TrackResult,
    TracksRequest, TracksResponse,
};
use crate::control::session::Session;
use crate::control::verbs::parse;
use crate::id::{MediaKind, Mid, SessionId, TrackKey};
use crate::sdp::{Intent, LineKind, NewLine, Remote, SdpError, Send};
use crate::time::Clock;

/// A track that is asked for: which m-line, under which name.
struct Wish {
    mid: Mid,
    name: String,
    kind: MediaKind,
    is_bidirectional: bool,
}

/// A track that we shall make an m-line for.
struct Wanted {
    name: String,
    kind: MediaKind,
    is_bidirectional: bool,
}

impl Control {
    /// `POST …/tracks/new`: local tracks are pushed, remote ones pulled.
    pub(super) async fn new_tracks(
        self: Rc<Self>,
        app: AppId,
        id: SessionId,
        body: TracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        let remote = body.tracks.iter().filter(|track| track.location == Location::Remote).count();
        if remote != 0 && remote != body.tracks.len() {
            let text = "one request cannot hold local and remote tracks; push and pull in separate requests";
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let _turn = self.turn(&app, id).await?;
        if remote > 0 { self.pull(app, id, body).await } else { self.push(app, id, body).await }
    }

    async fn push(
        self: &Rc<Self>,
        app: AppId,
        id: SessionId,
        body: TracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        match &body.session_description {
            Some(description) => {
                let offer = parse(description, SdpType::Offer)?;
                self.push_by_their_offer(app, id, &offer, &body).await
            }
            None => self.push_by_our_offer(app, id, &body).await,
        }
    }

    /// Waits for no transport: a client whose answer was lost repeats its offer and connects only then.
    async fn push_by_their_offer(
        self: &Rc<Self>,
        app: AppId,
        id: SessionId,
        offer: &Remote,
        body: &TracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        let (wishes, ended, sdp) = self.answer_push(&app, id, offer, body)?;
        for track in ended {
            self.clone().close_track(track).await;
        }
        self.end_stopped(id).await;
        let mut tracks = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let published = self.publish_unless_there(id, &wish).await;
            tracks.push(TrackResult {
                mid: Some(wish.mid.to_string()),
                track_name: Some(wish.name),
                kind: body.auto_discover.then_some(wish.kind.into()),
                error: published.err(),
                ..TrackResult::default()
            });
        }
        Ok(TracksResponse {
            requires_immediate_renegotiation: false,
            tracks,
            session_description: Some(SessionDescription { kind: SdpType::Answer, sdp }),
        })
    }

    /// Offers an m-line for each track. The tracks are there when the answer is.
    async fn push_by_our_offer(
        self: &Rc<Self>,
        app: AppId,
        id: SessionId,
        body: &TracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        if body.tracks.is_empty() {
            let text = "tracks is empty, which needs sessionDescription: the offer whose m-lines to publish";
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let wanted = body.tracks.iter().map(wanted).collect::<Result<Vec<_>, _>>()?;
        if self.state.borrow().session(&app, id)?.negotiation.has_pending_offer() {
            return Err(SdpError::OfferPending.into());
        }
        self.connected(&app, id).await?;
        let mut state = self.state.borrow_mut();
        self.renew_transport(&mut state, id);
        check_wanted_names(state.session(&app, id)?, &wanted)?;
        let line = |track: &Wanted| match track.is_bidirectional {
            true => NewLine::SendReceive(undecided(id, &track.name, track.kind, &mut state.rng)),
            false => NewLine::Receive(track.kind),
        };
        let lines = wanted.iter().map(line).collect();
        let session = state.session_mut(&app, id)?;
        let (sdp, mids) = session.negotiation.offer_lines(lines, false)?;
        session.note_offer(Clock::runtime_instant());
        session.offered = mids.iter().copied().zip(wanted.into_iter().map(|track| track.name)).collect();
        let tracks = session.offered.iter().map(|(mid, name)| TrackResult {
            mid: Some(mid.to_string()),
            track_name: Some(name.clone()),
            ..TrackResult::default()
        });
        Ok(TracksResponse {
            requires_immediate_renegotiation: true,
            tracks: tracks.collect(),
            session_description: Some(SessionDescription { kind: SdpType::Offer, sdp }),
        })
    }

    /// Settles the offer. Returns what to publish, which tracks it ended, and our answer.
    fn answer_push(
        &self,
        app: &AppId,
        id: SessionId,
        offer: &Remote,
        body: &TracksRequest,
    ) -> Result<(Vec<Wish>, Vec<TrackKey>, String), RequestError> {
        let mut state = self.state.borrow_mut();
        self.renew_transport(&mut state, id);
        let mut names = std::iter::repeat_with(|| format!("{:016x}", state.rng.next_u64()));
        let names: Vec<_> = names.by_ref().take(offer.lines().len()).collect();
        let mut ssrcs = StdRng::from_rng(&mut state.rng);
        let session = state.session(app, id)?;
        let wishes = if body.tracks.is_empty() && body.auto_discover {
            discover(session, offer, names)
        } else {
            body.tracks.iter().map(|track| wish(track, offer)).collect::<Result<_, _>>()?
        };
        check_names(session, &wishes)?;
        let intents: Vec<_> = intents(id, session, &wishes, &mut ssrcs);
        let (session, remotes) = state.session_and_remotes(app, id)?;
        let sdp = session.answer(offer, &intents, remotes)?;
        let ended = ended_by(session, &wishes);
        state.poke(id, Clock::runtime_instant());
        Ok((wishes, ended, sdp))
    }

    /// A push that is repeated, because its answer was lost, finds its track there.
    async fn publish_unless_there(&self, id: SessionId, wish: &Wish) -> Result<(), RequestError> {
        let there = {
            let state = self.state.borrow();
            let session = state.sessions.get(&id);
            session.and_then(|s| s.published_on(wish.mid)).is_some_and(|known| known.name == wish.name)
        };
        if there { Ok(()) } else { self.publish(id, wish.mid, wish.name.clone()).await }
    }
}

/// What one item of `tracks` asks for.
fn wish(track: &TrackObject, offer: &Remote) -> Result<Wish, RequestError> {
    let invalid = |text: String| RequestError::new(ErrorCode::InvalidParams, text);
    let name = track.track_name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| {
        let mid = track.mid.as_deref().unwrap_or_default();
        invalid(format!("the local track on mid {mid:?} needs a trackName"))
    })?;
    let mid = track.mid.as_deref().ok_or_else(|| {
        invalid(format!("local track {name:?} needs mid, the m-line of the offer that carries it"))
    })?;
    let line = mid.parse().ok().and_then(|mid: Mid| offer.line(mid));
    match line.map(|line| (line.kind, line)) {
        Some((LineKind::Media(kind), line)) => {
            let is_bidirectional = track.bidirectional_media_stream.unwrap_or_default();
            Ok(Wish { mid: line.mid, name, kind, is_bidirectional })
        }
        _ => Err(invalid(format!(
            "local track {name:?} names mid {mid:?}, which is no media m-line of the offer"
        ))),
    }
}

/// Every m-line on which the client newly sends, under a name of ours.
fn discover(session: &Session, offer: &Remote, names: Vec<String>) -> Vec<Wish> {
    let sending = offer
        .lines()
        .iter()
        .filter(|line| !line.rejected && line.direction.sends() && session.published_on(line.mid).is_none());
    let media = sending.filter_map(|line| match line.kind {
        LineKind::Media(kind) => Some((line.mid, kind)),
        _ => None,
    });
    media.zip(names).map(|((mid, kind), name)| Wish { mid, name, kind, is_bidirectional: false }).collect()
}

/// What one item of `tracks` asks for when the offer is to be ours.
fn wanted(track: &TrackObject) -> Result<Wanted, RequestError> {
    let invalid = |text: String| RequestError::new(ErrorCode::InvalidParams, text);
    let name = track.track_name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| invalid("a local track needs a trackName".to_owned()))?;
    if let Some(mid) = track.mid.as_ref().filter(|mid| !mid.is_empty()) {
        return Err(invalid(format!(
            "local track {name:?} names mid {mid:?}, but there is no sessionDescription with that m-line; add \
             your offer, or leave mid out and answer ours"
        )));
    }
    let kind = track.kind.ok_or_else(|| {
        invalid(format!(
            "local track {name:?} needs kind, \"audio\" or \"video\", for an offer of the server's; or add \
             sessionDescription, your offer"
        ))
    })?;
    let is_bidirectional = track.bidirectional_media_stream.unwrap_or_default();
    Ok(Wanted { name, kind: kind.into(), is_bidirectional })
}

fn check_wanted_names(session: &Session, wanted: &[Wanted]) -> Result<(), RequestError> {
    let is_taken = |(at, track): &(usize, &Wanted)| {
        let is_twice = wanted.iter().take(*at).any(|other| other.name == track.name);
        is_twice || session.published_as(&track.name).is_some()
    };
    match wanted.iter().enumerate().find(is_taken) {
        Some((_, track)) => {
            let text = format!(
                "trackName {:?} is taken in this session; give each track its own, or close the other first",
                track.name
            );
            Err(RequestError::new(ErrorCode::InvalidParams, text))
        }
        None => Ok(()),
    }
}

/// What to do with the m-lines of an offer. One that sends already goes on with what it has.
fn intents(
    id: SessionId,
    session: &Session,
    wishes: &[Wish],
    ssrcs: &mut impl RngCore,
) -> Vec<(Mid, Intent)> {
    let sends = |mid| session.negotiation.line(mid).is_some_and(|line| line.send.is_some());
    let mut intent = |wish: &Wish| match wish.is_bidirectional && !sends(wish.mid) {
        true => Intent::SendReceive(undecided(id, &wish.name, wish.kind, ssrcs)),
        false => Intent::Receive,
    };
    wishes.iter().map(|wish| (wish.mid, intent(wish))).collect()
}

/// What to send on the m-line of a bidirectional track until a pull decides it.
fn undecided(id: SessionId, name: &str, kind: MediaKind, ssrcs: &mut impl RngCore) -> Send {
    Send::undecided(kind, (ssrcs.next_u32(), ssrcs.next_u32()), id.to_string(), name.to_owned())
}

/// A name stands for one track of its session.
fn check_names(session: &Session, wishes: &[Wish]) -> Result<(), RequestError> {
    for (at, wish) in wishes.iter().enumerate() {
        let elsewhere = session.published_as(&wish.name).filter(|known| known.mid != wish.mid);
        let twice = wishes.iter().take(at).find(|other| other.name == wish.name || other.mid == wish.mid);
        let mid = elsewhere.map(|known| known.mid).or(twice.map(|other| other.mid));
        if let Some(mid) = mid {
            let text = format!(
                "trackName {:?} on mid {} collides with the track on mid {mid}; give each track its own name \
                 and m-line, or close the other first",
                wish.name, wish.mid
            );
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
    }
    Ok(())
}

/// Tracks whose m-line has stopped receiving by the last answer, or has been given to another track.
fn ended_by(session: &Session, wishes: &[Wish]) -> Vec<TrackKey> {
    let ended = session.published.iter().filter(|published| {
        let receives = session.negotiation.line(published.mid).is_some_and(|line| line.receive.is_some());
        let renamed = wishes.iter().any(|w| w.mid == published.mid && w.name != published.name);
        !receives || renamed
    });
    ended.filter_map(|published| published.track).collect()
}
