//! `datachannels/…`: the section for data channels, and named channels on it.
//!
//! Only `establish` negotiates. Named channels exist by this API alone: each side opens its end on the SCTP
//! stream that the answer tells, so that they need neither a description nor an in-band handshake.

use std::rc::Rc;

use crate::control::datachannels::{Delivery, End, Listed, Persistence, Phase, Refused, SERVER_EVENTS, Wish};
use crate::control::request::{
    AppId, CloseDataChannelsRequest, DataChannelObject, DataChannelResult, DataChannelState,
    DataChannelsRequest, DataChannelsResponse, ErrorCode, EstablishRequest, EstablishResponse,
    EstablishedChannel, Location, RequestError, SdpType, SessionDescription, Status,
};
use crate::control::verbs::{not_connected, parse};
use crate::control::{Control, State};
use crate::id::SessionId;
use crate::sdp::{LineKind, Remote, SdpError};
use crate::time::Clock;

/// What a browser can put into the label of a channel is 64 KiB; a name that is kept here needs less.
const NAME_BYTES_MAX: usize = 1_024;

impl Control {
    pub(super) async fn establish_data_channels(
        self: &Rc<Self>,
        app: AppId,
        id: SessionId,
        body: EstablishRequest,
    ) -> Result<EstablishResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        let name = body.data_channel.data_channel_name.as_deref().unwrap_or_default();
        if name != SERVER_EVENTS {
            let text = format!("dataChannelName is {name:?}; only {SERVER_EVENTS:?} can be established");
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let description = match &body.session_description {
            Some(description) => {
                let offer = parse(description, SdpType::Offer)?;
                let answer = self.answer_data_channels(&app, id, &offer)?;
                self.end_stopped(id).await;
                Some(answer)
            }
            None => self.offer_data_channels(&app, id)?,
        };
        Ok(EstablishResponse {
            requires_immediate_renegotiation: description.as_ref().is_some_and(|d| d.kind == SdpType::Offer),
            data_channel: EstablishedChannel { data_channel_name: name.to_owned(), id: 0 },
            session_description: description,
        })
    }

    fn answer_data_channels(
        &self,
        app: &AppId,
        id: SessionId,
        offer: &Remote,
    ) -> Result<SessionDescription, RequestError> {
        if !offer.lines().iter().any(|line| line.kind == LineKind::Application && !line.rejected) {
            let text = "the offer has no m=application section; make a data channel before you create it";
            return Err(RequestError::new(ErrorCode::InvalidSessionDescription, text));
        }
        let mut state = self.state.borrow_mut();
        self.renew_transport(&mut state, id);
        let (session, remotes) = state.session_and_remotes(app, id)?;
        let sdp = session.answer(offer, &[], remotes)?;
        state.poke(id, Clock::runtime_instant());
        Ok(SessionDescription { kind: SdpType::Answer, sdp })
    }

    /// Our offer; none if there is nothing to negotiate.
    fn offer_data_channels(
        &self,
        app: &AppId,
        id: SessionId,
    ) -> Result<Option<SessionDescription>, RequestError> {
        let mut state = self.state.borrow_mut();
        self.renew_transport(&mut state, id);
        let session = state.session_mut(app, id)?;
        if session.negotiation.has_pending_offer() {
            return Err(SdpError::OfferPending.into());
        }
        if session.has_data_channels() {
            return Ok(None);
        }
        let (sdp, _) = session.negotiation.offer(Vec::new(), true)?;
        session.note_offer(Clock::runtime_instant());
        session.offers_server_events = true;
        Ok(Some(SessionDescription { kind: SdpType::Offer, sdp }))
    }

    /// `POST …/datachannels/new`: local channels are published, remote ones subscribed to.
    pub(super) async fn new_data_channels(
        &self,
        app: AppId,
        id: SessionId,
        body: DataChannelsRequest,
    ) -> Result<DataChannelsResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        let remote = body.data_channels.iter().filter(|item| item.location == Location::Remote).count();
        if body.data_channels.is_empty() {
            return Err(none_named());
        }
        if remote != 0 && remote != body.data_channels.len() {
            let text = "one request cannot hold local and remote data channels; publish and subscribe in \
                        separate requests";
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        self.data_channels_ready(&app, id).await?;
        let mut state = self.state.borrow_mut();
        let items = body.data_channels.iter().map(|item| {
            let added = match item.location {
                Location::Local => state.publish_channel(id, item),
                Location::Remote => state.subscribe_channel(&app, id, item),
            };
            result(item, added)
        });
        let data_channels = items.collect();
        state.run_channels(Clock::runtime_instant());
        Ok(DataChannelsResponse { data_channels })
    }

    pub(super) async fn update_data_channels(
        &self,
        app: AppId,
        id: SessionId,
        body: DataChannelsRequest,
    ) -> Result<DataChannelsResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        if body.data_channels.is_empty() {
            return Err(none_named());
        }
        let mut state = self.state.borrow_mut();
        state.session(&app, id)?;
        let items = body.data_channels.iter().map(|item| result(item, state.update_channel(id, item)));
        Ok(DataChannelsResponse { data_channels: items.collect() })
    }

    pub(super) async fn close_data_channels(
        &self,
        app: AppId,
        id: SessionId,
        body: CloseDataChannelsRequest,
    ) -> Result<DataChannelsResponse, RequestError> {
        let _turn = self.turn(&app, id).await?;
        if body.data_channels.is_empty() {
            return Err(none_named());
        }
        let mut state = self.state.borrow_mut();
        state.session(&app, id)?;
        let items = body.data_channels.iter().map(|item| {
            match state.channels.close(End { session: id, stream: item.id }) {
                Some(closed) => closed_item(closed),
                None => not_there(item.id),
            }
        });
        let data_channels = items.collect();
        state.run_channels(Clock::runtime_instant());
        Ok(DataChannelsResponse { data_channels })
    }

    /// Waits until messages can flow: the section is negotiated and the transport up.
    async fn data_channels_ready(&self, app: &AppId, id: SessionId) -> Result<(), RequestError> {
        let is_offered = {
            let state = self.state.borrow();
            let session = state.session(app, id)?;
            !session.has_data_channels() && session.negotiation.has_pending_offer()
        };
        if is_offered {
            return Err(SdpError::OfferPending.into());
        }
        self.connected(app, id).await?;
        let state = self.state.borrow();
        let session = state.session(app, id)?;
        if !session.has_data_channels() {
            let text = "the session has no data channels yet; use datachannels/establish, or offer an \
                        m=application section, then retry";
            return Err(RequestError::new(ErrorCode::SessionNotConnected, text));
        }
        if session.connected { Ok(()) } else { Err(not_connected(self.settings.connect_wait)) }
    }
}

impl State {
    fn publish_channel(&mut self, id: SessionId, item: &DataChannelObject) -> Result<u16, RequestError> {
        let name = name(item)?;
        let delivery = delivery(item)?;
        self.channels.publish(id, name, delivery).map_err(|refused| refusal(refused, name))
    }

    fn subscribe_channel(
        &mut self,
        app: &AppId,
        id: SessionId,
        item: &DataChannelObject,
    ) -> Result<u16, RequestError> {
        let name = name(item)?;
        let publisher = publisher(item)?;
        let found =
            self.session(app, publisher).ok().and_then(|_| self.channels.publication(publisher, name));
        let (publication, published) = found.ok_or_else(|| {
            let text = format!(
                "session {publisher} publishes no data channel {name:?}; publish it first or check both ids"
            );
            RequestError::new(ErrorCode::NotFoundTrackError, text)
        })?;
        if has_policy(item) && delivery(item)? != published {
            let text = format!(
                "ordered, maxRetransmits and maxPacketLifeTime of data channel {name:?} differ from its \
                 publisher's; repeat those or leave them out"
            );
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let wish = Wish {
            waits_for_ack: item.wait_for_ack.unwrap_or_default(),
            can_reply: item.can_reply.unwrap_or_default(),
        };
        let now = Clock::runtime_instant();
        self.channels.subscribe(id, publication, wish, now).map_err(|refused| refusal(refused, name))
    }

    fn update_channel(&mut self, id: SessionId, item: &DataChannelObject) -> Result<u16, RequestError> {
        let name = name(item)?;
        if item.location == Location::Local {
            let text = format!("data channel {name:?} is local; only subscriptions can be updated");
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
        let publisher = publisher(item)?;
        let end = self.channels.subscription(id, publisher, name).ok_or_else(|| {
            let text =
                format!("the session does not subscribe to data channel {name:?} of session {publisher}");
            RequestError::new(ErrorCode::NotFoundTrackError, text)
        })?;
        if let Some(can_reply) = item.can_reply {
            self.channels.set_can_reply(end, can_reply);
        }
        Ok(end.stream)
    }
}

/// A channel as `GET` lists it.
pub(super) fn channel_state(listed: Listed) -> DataChannelState {
    DataChannelState {
        location: location(&listed),
        session_id: listed.publisher.map(|publisher| publisher.to_string()),
        data_channel_name: listed.name,
        id: listed.stream,
        status: match listed.phase {
            Phase::Initializing => Status::Initializing,
            Phase::Active => Status::Active,
            Phase::Inactive => Status::Inactive,
        },
    }
}

fn location(listed: &Listed) -> Location {
    if listed.publisher.is_some() { Location::Remote } else { Location::Local }
}

fn name(item: &DataChannelObject) -> Result<&str, RequestError> {
    let name = item.data_channel_name.as_deref().unwrap_or_default();
    let problem = match name.len() {
        0 => "a data channel needs dataChannelName".to_owned(),
        1..=NAME_BYTES_MAX => return Ok(name),
        bytes => format!("a dataChannelName of {bytes} bytes is too long; {NAME_BYTES_MAX} are accepted"),
    };
    Err(RequestError::new(ErrorCode::InvalidParams, problem))
}

/// An id that is none is that of no session.
fn publisher(item: &DataChannelObject) -> Result<SessionId, RequestError> {
    let text = item.session_id.as_deref().unwrap_or_default();
    if text.is_empty() {
        let text = "a remote data channel needs sessionId: the session that publishes it";
        return Err(RequestError::new(ErrorCode::InvalidParams, text));
    }
    text.parse().map_err(|_| {
        RequestError::new(ErrorCode::NotFoundTrackError, format!("no session {text:?} publishes anything"))
    })
}

fn has_policy(item: &DataChannelObject) -> bool {
    item.ordered.is_some() || item.max_retransmits.is_some() || item.max_packet_life_time.is_some()
}

/// The W3C's rules: ordered and reliable unless told otherwise, and limited in one way only.
fn delivery(item: &DataChannelObject) -> Result<Delivery, RequestError> {
    let persistence = match (item.max_retransmits, item.max_packet_life_time) {
        (None, None) => Persistence::Reliable,
        (Some(retransmits), None) => Persistence::RetransmitsMax(retransmits),
        (None, Some(lifetime)) => Persistence::LifetimeMsMax(lifetime),
        (Some(_), Some(_)) => {
            let text = "maxRetransmits and maxPacketLifeTime exclude each other; give one of them";
            return Err(RequestError::new(ErrorCode::InvalidParams, text));
        }
    };
    Ok(Delivery { ordered: item.ordered.unwrap_or(true), persistence })
}

fn refusal(refused: Refused, name: &str) -> RequestError {
    match refused {
        Refused::Repeated(stream) => {
            let text = format!("data channel {name:?} exists already, under id {stream}; close that first");
            RequestError::new(ErrorCode::RepeatedLocalTrackError, text)
        }
        Refused::NoStreamLeft => {
            let text = format!("no id is left for data channel {name:?}; close others first");
            RequestError::new(ErrorCode::InvalidParams, text)
        }
    }
}

/// Clients compare location, name and session with what they asked for.
fn result(item: &DataChannelObject, added: Result<u16, RequestError>) -> DataChannelResult {
    let present = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    DataChannelResult {
        location: Some(item.location),
        session_id: present(&item.session_id),
        data_channel_name: present(&item.data_channel_name),
        id: added.as_ref().ok().copied(),
        can_reply: item.can_reply.filter(|_| added.is_ok()),
        error: added.err(),
    }
}

fn closed_item(closed: Listed) -> DataChannelResult {
    DataChannelResult {
        location: Some(location(&closed)),
        session_id: closed.publisher.map(|publisher| publisher.to_string()),
        data_channel_name: Some(closed.name),
        id: Some(closed.stream),
        ..DataChannelResult::default()
    }
}

fn not_there(id: u16) -> DataChannelResult {
    let text = format!("there is no data channel with id {id}, or it was already closed");
    let error = RequestError::new(ErrorCode::CloseTrackError, text);
    DataChannelResult { id: Some(id), error: Some(error), ..DataChannelResult::default() }
}

fn none_named() -> RequestError {
    RequestError::new(ErrorCode::InvalidParams, "Expecting at least 1 data channel")
}
