//! Our SRTP against that of str0m, over keys that a real DTLS handshake between two `Rtc`s gave.
//!
//! The client is a full str0m peer with media. The server is a str0m `Rtc` without any, whose keying
//! material is tapped where DTLS yields it: all SRTP and SRTCP on its side is ours. There is no way to make
//! the handshake choose a profile, it always takes AES-256-GCM; so the taps on both sides name the profile
//! under test instead and shorten the exported bytes to fit. Everything after the export, str0m's key
//! derivation included, is unaltered. Time is virtual.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanline::rtp::srtp::{DtlsRole, KeyingMaterial, Opener, Profile, RtpReplay, Sealer};
use fanline::time::Clock;
use str0m::config::DtlsCert;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, KeyingMaterial as Exported,
    ProtocolVersion, SrtpProfile,
};
use str0m::crypto::{CryptoError, CryptoProvider, from_feature_flags};
use str0m::media::{MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::rtcp::Rtcp;
use str0m::rtp::{RawPacket, RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

const PROFILES: [(Profile, SrtpProfile); 3] = [
    (Profile::Aes128CmHmacSha1_80, SrtpProfile::AES128_CM_SHA1_80),
    (Profile::AeadAes128Gcm, SrtpProfile::AEAD_AES_128_GCM),
    (Profile::AeadAes256Gcm, SrtpProfile::AEAD_AES_256_GCM),
];

const OUR_SSRC: u32 = 0x0051_0051;
const CLIENT_SSRC: u32 = 0xc11e_c11e;
const OPUS: u8 = 111;

/// Sequence numbers of both directions: 50 packets on either side of a rollover.
const SEQUENCES: std::ops::Range<u64> = 65_486..65_586;

#[test]
fn client_accepts_what_we_seal_across_a_rollover() {
    for (ours, theirs) in PROFILES {
        let mut call = Call::connect(ours, theirs);
        for index in SEQUENCES {
            let packet = call.seal(index, &payload(index));
            call.deliver(&packet);
        }
        let received: Vec<_> = call.events.iter().filter_map(rtp_packet).collect();
        let sent: Vec<_> = SEQUENCES.map(|index| (index, payload(index))).collect();
        assert_eq!(received, sent, "{ours:?}");
    }
}

#[test]
fn client_refuses_what_was_changed_after_sealing() {
    for (ours, theirs) in PROFILES {
        let mut call = Call::connect(ours, theirs);
        let mut packet = call.seal(1, &payload(1));
        *packet.last_mut().unwrap() ^= 1;
        call.deliver(&packet);
        assert_eq!(call.events.iter().filter_map(rtp_packet).count(), 0, "{ours:?}");
    }
}

#[test]
fn we_open_what_the_client_sends_across_a_rollover() {
    for (ours, theirs) in PROFILES {
        let mut call = Call::connect(ours, theirs);
        let mut replay = RtpReplay::new();
        for index in SEQUENCES {
            call.client_sends(index, &payload(index));
            let packet = call.from_client.pop().expect("one packet written, one sent");
            let estimate = replay.estimate(u16::from_be_bytes([packet[2], packet[3]]));
            assert_eq!(estimate, index);
            assert_eq!(replay.check(estimate), Ok(()));
            let mut out = vec![0; packet.len()];
            let header_len = header_len(&packet);
            let len = call.opener.unprotect_rtp(&packet, header_len, estimate, &mut out).expect("genuine");
            replay.accept(estimate);
            assert_eq!(out[..header_len], packet[..header_len]);
            assert_eq!(out[header_len..len], payload(index), "{ours:?}");
        }
    }
}

#[test]
fn client_accepts_our_reports_and_key_frame_requests() {
    for (ours, theirs) in PROFILES {
        let mut call = Call::connect(ours, theirs);
        for packet_count in 1..=10 {
            let report = sender_report(packet_count);
            call.send_rtcp(&report);
            call.send_rtcp(&[empty_receiver_report(), pli(CLIENT_SSRC)].concat());
        }
        let reports: Vec<_> = call.events.iter().filter_map(report_packet_count).collect();
        assert_eq!(reports, (1..=10).collect::<Vec<_>>(), "{ours:?}");
        let requests = call.events.iter().filter(|event| matches!(event, Event::KeyframeRequest(_)));
        assert_ne!(requests.count(), 0, "{ours:?}");
    }
}

#[test]
fn we_open_the_reports_and_key_frame_requests_of_the_client_once() {
    for (ours, theirs) in PROFILES {
        let mut call = Call::connect(ours, theirs);
        for index in SEQUENCES {
            let packet = call.seal(index, &payload(index));
            call.deliver(&packet);
        }
        call.client.direct_api().send_pli_feedback(CLIENT_SSRC.into(), OUR_SSRC.into());
        call.advance(Duration::from_secs(6));

        let sealed: Vec<_> = std::mem::take(&mut call.from_client);
        let opened: Vec<_> = sealed.iter().map(|packet| call.open_rtcp(packet).expect("genuine")).collect();
        let types: Vec<u8> = opened.iter().flat_map(|compound| packet_types(compound)).collect();
        assert!(types.contains(&200) && types.contains(&206), "{ours:?}: SR and PLI among {types:?}");
        let plis = opened.iter().flat_map(|compound| compound.windows(12)).filter(|at| *at == client_pli());
        assert_eq!(plis.count(), 1, "{ours:?}");
        assert!(
            sealed.iter().all(|packet| call.open_rtcp(packet).is_none()),
            "{ours:?}: a repeat is refused"
        );
    }
}

fn payload(index: u64) -> Vec<u8> {
    (0..20 + index as usize % 1_100).map(|i| (i as u64 * index) as u8).collect()
}

fn rtp_packet(event: &Event) -> Option<(u64, Vec<u8>)> {
    let Event::RtpPacket(packet) = event else { return None };
    Some((*packet.seq_no, packet.payload.to_vec()))
}

fn report_packet_count(event: &Event) -> Option<u32> {
    let RawPacket::RtcpRx(Rtcp::SenderReport(report)) = event.as_raw_packet()? else { return None };
    Some(report.sender_info.sender_packet_count)
}

/// RFC 3550 §5.1 and §5.3.1.
fn header_len(packet: &[u8]) -> usize {
    let csrcs_end = 12 + 4 * usize::from(packet[0] & 0x0f);
    if packet[0] & 0x10 == 0 {
        return csrcs_end;
    }
    csrcs_end + 4 + 4 * usize::from(u16::from_be_bytes([packet[csrcs_end + 2], packet[csrcs_end + 3]]))
}

/// The packet types of a compound packet whose lengths must add up (RFC 3550 §6.1).
fn packet_types(mut compound: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while !compound.is_empty() {
        types.push(compound[1]);
        let len = 4 + 4 * usize::from(u16::from_be_bytes([compound[2], compound[3]]));
        compound = &compound[len..];
    }
    types
}

/// RFC 3550 §6.4.1, without report blocks.
fn sender_report(packet_count: u32) -> Vec<u8> {
    let words = [0x80c8_0006, OUR_SSRC, 0xe8d5_c1a2, 0x8000_0000, 123_456, packet_count, 4_000];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn empty_receiver_report() -> Vec<u8> {
    [0x80c9_0001, OUR_SSRC].iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// RFC 4585 §6.3.1.
fn pli(media_ssrc: u32) -> Vec<u8> {
    [0x81ce_0002, OUR_SSRC, media_ssrc].iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn client_pli() -> Vec<u8> {
    [0x81ce_0002, CLIENT_SSRC, OUR_SSRC].iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A connected client, and our keys to the other end.
struct Call {
    client: Rtc,
    now: Instant,
    sealer: Sealer,
    opener: Opener,
    /// What the client told its application.
    events: Vec<Event>,
    /// The SRTP and SRTCP it sent.
    from_client: Vec<Vec<u8>>,
}

impl Call {
    fn connect(ours: Profile, theirs: SrtpProfile) -> Self {
        let clock = Clock::start();
        let mut now = clock.instant(clock.now());
        let (mut client, _) = peer(theirs, now, client_address());
        let (mut server, tapped) = peer(theirs, now, server_address());
        introduce(&mut client, &mut server, server_address(), true);
        introduce(&mut server, &mut client, client_address(), false);

        let keys = loop {
            step(&mut client, &mut server, now);
            if let Some(keys) = tapped.lock().unwrap().take_if(|_| client.is_connected()) {
                break keys;
            }
            now += Duration::from_millis(10);
        };
        let keys = KeyingMaterial::from_dtls(ours, &keys).expect("the tap cuts it to the profile's length");
        let (sealer, opener) = keys.into_contexts(DtlsRole::Server);
        declare_media(&mut client);
        let mut call = Self { client, now, sealer, opener, events: vec![], from_client: vec![] };
        call.advance(Duration::ZERO);
        call
    }

    fn seal(&self, index: u64, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x80, OPUS];
        packet.extend((index as u16).to_be_bytes());
        packet.extend((index as u32 * 960).to_be_bytes());
        packet.extend(OUR_SSRC.to_be_bytes());
        packet.extend(payload);
        packet.resize(packet.len() + self.sealer.rtp_overhead(), 0);
        self.sealer.protect_rtp(&mut packet, 12, index);
        packet
    }

    fn send_rtcp(&mut self, compound: &[u8]) {
        let mut packet = compound.to_vec();
        packet.resize(compound.len() + self.sealer.profile().rtcp_overhead(), 0);
        let len = self.sealer.protect_rtcp(&mut packet, compound.len());
        assert_eq!(len, Some(packet.len()));
        self.deliver(&packet);
    }

    fn open_rtcp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; packet.len()];
        let len = self.opener.unprotect_rtcp(packet, &mut out).ok()?;
        out.truncate(len);
        Some(out)
    }

    fn deliver(&mut self, datagram: &[u8]) {
        receive(&mut self.client, self.now, server_address(), client_address(), datagram);
        self.drain();
        self.advance(Duration::from_millis(1));
    }

    fn client_sends(&mut self, index: u64, payload: &[u8]) {
        let mut api = self.client.direct_api();
        let stream = api.stream_tx(&Ssrc::from(CLIENT_SSRC)).expect("declared");
        let pt = Pt::new_with_value(OPUS);
        stream.write_rtp(RtpWrite::new(pt, index.into(), index as u32 * 960, self.now, payload));
        self.advance(Duration::from_millis(1));
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            self.client.handle_input(Input::Timeout(self.now)).unwrap();
            self.drain();
            if self.now >= until {
                return;
            }
            self.now = until.min(self.now + Duration::from_millis(50));
        }
    }

    fn drain(&mut self) {
        let (sent, events) = drain(&mut self.client);
        self.from_client.extend(sent.into_iter().filter(|datagram| (128..=191).contains(&datagram[0])));
        self.events.extend(events);
    }
}

fn client_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1_000))
}

fn server_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 2], 2_000))
}

fn peer(profile: SrtpProfile, now: Instant, address: SocketAddr) -> (Rtc, Tapped) {
    let (crypto, tapped) = tap(profile);
    let config = RtcConfig::new().set_crypto_provider(crypto.into());
    let mut rtc = config.set_rtp_mode(true).enable_raw_packets(true).build(now);
    rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
    (rtc, tapped)
}

fn introduce(rtc: &mut Rtc, other: &mut Rtc, other_address: SocketAddr, is_client: bool) {
    rtc.add_remote_candidate(Candidate::host(other_address, "udp").unwrap());
    let fingerprint = other.direct_api().local_dtls_fingerprint().clone();
    let credentials = other.direct_api().local_ice_credentials();
    let mut api = rtc.direct_api();
    api.set_remote_fingerprint(fingerprint);
    api.set_remote_ice_credentials(credentials);
    api.set_ice_controlling(is_client);
    api.start_dtls(is_client).unwrap();
}

fn declare_media(client: &mut Rtc) {
    let mid = Mid::from("0");
    let mut api = client.direct_api();
    api.declare_media(mid, MediaKind::Audio);
    api.declare_stream_tx(CLIENT_SSRC.into(), None, mid, None);
    api.expect_stream_rx(OUR_SSRC.into(), None, mid, None);
}

/// Lets both sides run and talk until neither has anything more to say at `now`.
fn step(client: &mut Rtc, server: &mut Rtc, now: Instant) {
    client.handle_input(Input::Timeout(now)).unwrap();
    server.handle_input(Input::Timeout(now)).unwrap();
    loop {
        let (from_client, _) = drain(client);
        let (from_server, _) = drain(server);
        if from_client.is_empty() && from_server.is_empty() {
            return;
        }
        for datagram in from_client {
            receive(server, now, client_address(), server_address(), &datagram);
        }
        for datagram in from_server {
            receive(client, now, server_address(), client_address(), &datagram);
        }
    }
}

fn receive(rtc: &mut Rtc, now: Instant, source: SocketAddr, destination: SocketAddr, datagram: &[u8]) {
    let contents = datagram.try_into().expect("STUN, DTLS, SRTP or SRTCP");
    let received = Receive { proto: Protocol::Udp, source, destination, contents };
    rtc.handle_input(Input::Receive(now, received)).unwrap();
}

fn drain(rtc: &mut Rtc) -> (Vec<Vec<u8>>, Vec<Event>) {
    let (mut datagrams, mut events) = (vec![], vec![]);
    loop {
        match rtc.poll_output().unwrap() {
            Output::Timeout(_) => return (datagrams, events),
            Output::Transmit(transmit) => datagrams.push(transmit.contents.to_vec()),
            Output::Event(event) => events.push(event),
        }
    }
}

/// Where a tap leaves the keying material.
type Tapped = Arc<Mutex<Option<Vec<u8>>>>;

/// str0m's crypto with the keying material noted, and declared to be of `profile`.
fn tap(profile: SrtpProfile) -> (CryptoProvider, Tapped) {
    let stock = from_feature_flags();
    let tapped = Tapped::default();
    let tap = Tap { inner: stock.dtls_provider, profile, tapped: tapped.clone() };
    // A provider lives as long as the process, by str0m's signature; a test leaks a handful.
    (CryptoProvider { dtls_provider: Box::leak(Box::new(tap)), ..stock }, tapped)
}

#[derive(Debug)]
struct Tap {
    inner: &'static dyn DtlsProvider,
    profile: SrtpProfile,
    tapped: Tapped,
}

impl DtlsProvider for Tap {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        self.inner.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = self.inner.new_dtls(certificate, now, version, mtu)?;
        Ok(Box::new(TappedDtls { inner, profile: self.profile, tapped: self.tapped.clone() }))
    }
}

#[derive(Debug)]
struct TappedDtls {
    inner: Box<dyn DtlsInstance>,
    profile: SrtpProfile,
    tapped: Tapped,
}

impl DtlsInstance for TappedDtls {
    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.inner.poll_output(buf) {
            DtlsOutput::KeyingMaterial(exported, _) => {
                let exported = &exported[..self.profile.keying_material_len()];
                *self.tapped.lock().unwrap() = Some(exported.to_vec());
                DtlsOutput::KeyingMaterial(Exported::new(exported), self.profile)
            }
            other => other,
        }
    }

    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
