//! One participant: a str0m peer on a socket of the simulated network.
//!
//! It is given descriptions and gives descriptions; [`crate::world`] carries them to control and back. It
//! speaks RTP itself, packet by packet, so that sequence numbers and timestamps are the test's own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use fanline::io::sim::SimSocket;
use fanline::time::{Clock, Time};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive};
use str0m::rtp::rtcp::Rtcp;
use str0m::rtp::{ExtensionValues, RawPacket, RtpWrite};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use crate::media::{Report, Shape, Sink, Source};

pub struct Client {
    pub session: String,
    /// Where the network sees it.
    pub socket: SimSocket,
    /// Where it sees itself: behind a NAT the two differ.
    inner: SocketAddr,
    pub rtc: Rtc,
    clock: Clock,
    timeout: Instant,
    pub connected: bool,
    /// The server has said goodbye.
    pub closed: bool,
    /// Nobody steps it any more, as if its host had lost power.
    pub is_dead: bool,
    pub sources: Vec<Source>,
    pub sinks: HashMap<Mid, Sink>,
    /// RTCP received, if asked for.
    pub rtcp: Vec<(Time, Rtcp)>,
    /// RTCP sent, if asked for.
    pub rtcp_sent: Vec<(Time, Rtcp)>,
    /// Datagrams sent, if asked for.
    pub tap: Option<Vec<Vec<u8>>>,
    /// The address of the server that was last sent to.
    pub server: Option<SocketAddr>,
}

impl Client {
    /// `observes` keeps all RTCP, at the price of a copy of every packet.
    pub fn new(session: String, socket: SimSocket, clock: Clock, now: Time, observes: bool) -> Self {
        let inner = socket.local_addr();
        Self {
            session,
            rtc: peer(inner, clock.instant(now), observes),
            inner,
            socket,
            clock,
            timeout: clock.instant(now),
            connected: false,
            closed: false,
            is_dead: false,
            sources: Vec::new(),
            sinks: HashMap::new(),
            rtcp: Vec::new(),
            rtcp_sent: Vec::new(),
            tap: None,
            server: None,
        }
    }

    /// An offer to send one m-line for each shape, with their mids.
    pub fn offer(&mut self, shapes: &[Shape]) -> (Vec<Mid>, String, SdpPendingOffer) {
        let mut api = self.rtc.sdp_api();
        let add = |shape: &Shape| api.add_media(shape.kind, Direction::SendOnly, None, None, None);
        let mids = shapes.iter().map(add).collect();
        let (offer, pending) = api.apply().expect("there is something to offer");
        (mids, offer.to_sdp_string(), pending)
    }

    /// An offer of one m-line to send and receive on.
    pub fn offer_bidirectional(&mut self, kind: MediaKind) -> (Mid, String, SdpPendingOffer) {
        let mut api = self.rtc.sdp_api();
        let mid = api.add_media(kind, Direction::SendRecv, None, None, None);
        let (offer, pending) = api.apply().expect("there is something to offer");
        (mid, offer.to_sdp_string(), pending)
    }

    /// An offer to send one m-line of video in several encodings.
    pub fn offer_simulcast(&mut self, rids: &[&str]) -> (Mid, String, SdpPendingOffer) {
        let mut simulcast = Simulcast::new();
        rids.iter().for_each(|rid| simulcast.add_send_layer(SimulcastLayer::new(rid)));
        let mut api = self.rtc.sdp_api();
        let mid = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, Some(simulcast));
        let (offer, pending) = api.apply().expect("there is something to offer");
        (mid, offer.to_sdp_string(), pending)
    }

    pub fn accept_answer(&mut self, pending: SdpPendingOffer, answer: &str) {
        let answer = SdpAnswer::from_sdp_string(answer).expect("str0m reads our answer");
        self.rtc.sdp_api().accept_answer(pending, answer).expect("str0m accepts our answer");
        self.wake();
    }

    pub fn answer(&mut self, offer: &str) -> String {
        let offer = SdpOffer::from_sdp_string(offer).expect("str0m reads our offer");
        let answer = self.rtc.sdp_api().accept_offer(offer).expect("str0m accepts our offer");
        self.wake();
        answer.to_sdp_string()
    }

    /// An offer that stops m-lines for good.
    pub fn stop(&mut self, mids: &[Mid]) -> String {
        let mut api = self.rtc.sdp_api();
        mids.iter().for_each(|&mid| api.stop_media(mid));
        let (offer, _) = api.apply().expect("something was not stopped before");
        offer.to_sdp_string()
    }

    /// Starts over with another peer on the same socket, as a browser does that has stopped all it had.
    pub fn renew(&mut self, now: Time) {
        self.rtc = peer(self.inner, self.clock.instant(now), false);
        self.connected = false;
        self.closed = false;
        self.sources.clear();
        self.sinks.clear();
        self.wake();
    }

    /// Begins to send what was offered.
    pub fn start(&mut self, name: &str, mid: Mid, shape: Shape) {
        let media = self.rtc.media(mid).expect("the answer has been accepted");
        let pt = *media.remote_pts().first().expect("the server takes the codec");
        self.sources.push(Source::new(name, mid, pt, shape));
    }

    /// Begins to send an encoding of what was offered; its source has the name of its rid.
    pub fn start_encoding(&mut self, rid: &str, mid: Mid, shape: Shape) {
        self.start(rid, mid, shape);
        self.source(rid).rid = Some(Rid::from(rid));
    }

    pub fn source(&mut self, name: &str) -> &mut Source {
        self.sources.iter_mut().find(|source| source.name == name).expect("the client publishes it")
    }

    pub fn sink(&self, mid: Mid) -> &Sink {
        self.sinks.get(&mid).unwrap_or_else(|| panic!("nothing was ever heard on mid {mid}"))
    }

    /// Asks for a key frame of what comes in on `mid`.
    pub fn lose_picture(&mut self, mid: Mid) {
        let mut api = self.rtc.direct_api();
        let stream = api.stream_rx_by_mid(mid, None).expect("a pulled m-line has a stream");
        stream.request_keyframe(str0m::media::KeyframeRequestKind::Pli);
        self.wake();
    }

    /// Says goodbye: RTCP BYE and DTLS close_notify.
    pub fn leave(&mut self, now: Time) {
        self.rtc.close().unwrap();
        self.poll(now);
        self.sources.clear();
    }

    /// Has str0m look at what has changed at the next step.
    fn wake(&mut self) {
        self.timeout = self.clock.instant(Time(0));
    }

    /// Takes what has arrived, does what is due, says what is to be said.
    pub fn step(&mut self, now: Time) {
        if self.is_dead {
            return;
        }
        while let Some((from, _, bytes)) = self.socket.recv() {
            let Ok(receive) = Receive::new(Protocol::Udp, from, self.inner, &bytes) else { continue };
            // The str0m peer refuses what it cannot take; what that does to the claim shows in the sinks.
            let _ = self.rtc.handle_input(Input::Receive(self.clock.instant(now), receive));
            self.poll(now);
        }
        if self.connected && self.speak(now) || self.timeout <= self.clock.instant(now) {
            self.rtc.handle_input(Input::Timeout(self.clock.instant(now))).unwrap();
            self.poll(now);
        }
    }

    /// Hands str0m the packets that are due; they leave at its next timeout.
    fn speak(&mut self, now: Time) -> bool {
        let mut spoke = false;
        for source in &mut self.sources {
            for packet in source.speak(now) {
                spoke = true;
                let payload = packet.note.write(source.shape.payload_bytes);
                let at = self.clock.instant(packet.at);
                let write = RtpWrite::new(source.pt, packet.sequence.into(), packet.timestamp, at, payload)
                    .marker(packet.ends_frame)
                    .ext_vals(levels(source.level_dbov))
                    .nackable(source.shape.kind == MediaKind::Video);
                let mut api = self.rtc.direct_api();
                api.stream_tx_by_mid(source.mid, source.rid)
                    .expect("a published m-line sends")
                    .write_rtp(write);
            }
        }
        spoke
    }

    fn poll(&mut self, now: Time) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.timeout = at;
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    self.server = Some(transmit.destination);
                    self.socket.send(transmit.destination, &transmit.contents);
                    if let Some(tap) = &mut self.tap {
                        tap.push(transmit.contents.to_vec());
                    }
                }
                Ok(Output::Event(event)) => self.event(event, now),
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: Event, now: Time) {
        match event {
            Event::Connected => self.connected = true,
            Event::Closed => self.closed = true,
            Event::RtpPacket(packet) => {
                let mid = self.rtc.direct_api().stream_rx(&packet.header.ssrc).map(|stream| stream.mid());
                let sink = self.sinks.entry(mid.expect("str0m knows the stream")).or_default();
                sink.hear(&packet.payload, *packet.seq_no, packet.header.timestamp, now);
            }
            Event::KeyframeRequest(request) => {
                let is_asked = |source: &&mut Source| (source.mid, source.rid) == (request.mid, request.rid);
                let asked = self.sources.iter_mut().find(is_asked);
                asked.into_iter().for_each(|source| source.ask_for_key_frame(now));
            }
            Event::SenderFeedback(feedback) => {
                let info = feedback.sender_info;
                let rtp = info.rtp_time.numer() as u32;
                let report = Report { ntp: info.ntp_time, rtp, packets: info.sender_packet_count };
                self.sinks.entry(feedback.mid).or_default().reports.push(report);
            }
            Event::RawPacket(raw) => match *raw {
                RawPacket::RtcpRx(packet) => self.rtcp.push((now, packet)),
                RawPacket::RtcpTx(packet) => self.rtcp_sent.push((now, packet)),
                _ => {}
            },
            _ => {}
        }
    }
}

/// What an audio packet tells of its loudness: str0m writes the level with the voice bit or not at all.
fn levels(level_dbov: Option<i8>) -> ExtensionValues {
    let voice_activity = level_dbov.map(|_| false);
    ExtensionValues { audio_level: level_dbov, voice_activity, ..ExtensionValues::default() }
}

/// A full ICE peer that takes Opus and VP8 and hands RTP through.
fn peer(local: SocketAddr, now: Instant, observes: bool) -> Rtc {
    let config = RtcConfig::new().clear_codecs().enable_opus(true, false).enable_vp8(true);
    let mut rtc = config.set_rtp_mode(true).enable_raw_packets(observes).build(now);
    rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
    rtc
}
