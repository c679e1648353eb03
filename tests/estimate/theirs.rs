//! str0m's estimator through its public interface: two peers, one of which sends video with estimation enabled.
//!
//! They meet over a perfect path before the clock of the run starts; then the sender's estimator is reset, so
//! that it knows nothing, and the path under test takes over.

use std::time::{Duration, Instant};

use fanline::forward::estimate::START_BPS;
use fanline::time::{Clock, Time};
use str0m::bwe::{Bitrate, BweKind};
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use crate::path::{Flow, START, Source, address};

/// Time before the start of the run, for ICE and DTLS.
const MEETING_MS: u64 = 3_000;

struct Peer {
    rtc: Rtc,
    last: u8,
    timeout: Instant,
    connected: bool,
    estimate_bps: f64,
}

pub struct Theirs {
    clock: Clock,
    sender: Peer,
    receiver: Peer,
    mid: Mid,
    pt: Pt,
    source: Source,
    sequence: u64,
    is_reset: bool,
}

impl Peer {
    fn new(last: u8, config: RtcConfig, now: Instant) -> Self {
        let mut rtc = config.clear_codecs().enable_vp8(true).set_rtp_mode(true).build(now);
        rtc.add_local_candidate(Candidate::host(address(last), "udp").unwrap());
        Self { rtc, last, timeout: now, connected: false, estimate_bps: START_BPS as f64 }
    }

    fn step(&mut self, now: Instant, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let (from, to) = (address(3 - self.last), address(self.last));
        for bytes in received {
            let Ok(receive) = Receive::new(Protocol::Udp, from, to, &bytes) else { continue };
            let _ = self.rtc.handle_input(Input::Receive(now, receive));
            self.poll(&mut out);
        }
        if self.timeout <= now {
            self.rtc.handle_input(Input::Timeout(now)).unwrap();
            self.poll(&mut out);
        }
        out
    }

    fn poll(&mut self, out: &mut Vec<Vec<u8>>) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => {
                    self.timeout = at;
                    return;
                }
                Output::Transmit(transmit) => out.push(transmit.contents.to_vec()),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. })) => {
                    self.estimate_bps = estimate.as_f64();
                }
                Output::Event(_) => {}
            }
        }
    }
}

impl Theirs {
    /// Two peers that have met; the run begins at [`START`].
    pub fn new(wanted_bps: f64) -> Self {
        let clock = Clock::of_runtime();
        let began = clock.instant(Time(0));
        let start = Bitrate::bps(START_BPS);
        let mut sender = Peer::new(1, RtcConfig::new().enable_bwe(Some(start)), began);
        let mut receiver = Peer::new(2, RtcConfig::new(), began);
        let mut api = sender.rtc.sdp_api();
        let mid = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
        let (offer, pending) = api.apply().unwrap();
        let answer = receiver.rtc.sdp_api().accept_offer(offer).unwrap();
        sender.rtc.sdp_api().accept_answer(pending, answer).unwrap();
        let mut back = Vec::new();
        for ms in 0..MEETING_MS {
            let now = began + Duration::from_millis(ms);
            let forth = sender.step(now, &mut back.into_iter());
            back = receiver.step(now, &mut forth.into_iter());
        }
        assert!(sender.connected && receiver.connected, "they meet in time");
        let pt = sender.rtc.media(mid).unwrap().remote_pts()[0];
        let source = Source::new(wanted_bps);
        Self { clock, sender, receiver, mid, pt, source, sequence: 0, is_reset: false }
    }

    /// The moment of the run as the peers count it.
    fn instant(&self, now: Time) -> Instant {
        self.clock.instant(Time(0))
            + Duration::from_millis(MEETING_MS)
            + Duration::from_micros(now.since(START))
    }
}

impl Flow for Theirs {
    fn sender(&mut self, now: Time, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let at = self.instant(now);
        if !std::mem::replace(&mut self.is_reset, true) {
            let mut bwe = self.sender.rtc.bwe();
            bwe.reset(Bitrate::bps(START_BPS));
            bwe.set_bitrate(Bitrate::ZERO, Bitrate::bps(self.source.wanted_bps as u64));
            self.sender.estimate_bps = START_BPS as f64;
        }
        if let Some((frame, sizes)) = self.source.frame(self.sender.estimate_bps, now) {
            let last = sizes.len() - 1;
            for (at_packet, size) in sizes.into_iter().enumerate() {
                let timestamp = (frame * 3_000) as u32;
                let write = RtpWrite::new(self.pt, self.sequence.into(), timestamp, at, vec![0x10; size])
                    .marker(at_packet == last)
                    .nackable(true);
                self.sequence += 1;
                let mut api = self.sender.rtc.direct_api();
                api.stream_tx_by_mid(self.mid, None).unwrap().write_rtp(write);
            }
            self.sender.timeout = at;
        }
        self.sender.step(at, received)
    }

    fn receiver(&mut self, now: Time, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let at = self.instant(now);
        self.receiver.step(at, received)
    }

    fn estimate_bps(&self) -> f64 {
        self.sender.estimate_bps
    }

    fn source(&mut self) -> &mut Source {
        &mut self.source
    }
}
