//! A WebRTC client: a str0m `Rtc` on a UDP socket of its own, driven by a task.
//!
//! It says on each m-line it is told to a packet every 20 ms, whose payload names the track, and notes what
//! it hears. Time is real.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanline::time::Clock;
use str0m::change::{SdpAnswer, SdpApi, SdpOffer, SdpPendingOffer};
use str0m::channel::ChannelConfig;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PACKET_INTERVAL: Duration = Duration::from_millis(20);

/// Enough to rule out a stray packet.
const PACKETS_HEARD: usize = 5;

/// Room for a message of the largest size and more behind it.
const CHANNEL_BUFFER_BYTES: usize = 1024 * 1024;

/// Ends with the test's runtime, or when dropped.
pub struct Peer {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Something was told to the `Rtc`.
    told: Notify,
    /// The `Rtc` has said something.
    news: Notify,
}

struct State {
    rtc: Rtc,
    address: SocketAddr,
    pending: Option<SdpPendingOffer>,
    talks: Vec<Talk>,
    speak_at: Instant,
    /// What leaves at the next turn.
    outbox: Vec<(SocketAddr, Vec<u8>)>,
    /// The mid and the payload of each packet that came.
    heard: Vec<(String, String)>,
    /// Messages that wait for room: stream, whether binary, bytes.
    unsaid: VecDeque<(u16, bool, Vec<u8>)>,
    /// Messages that came, likewise.
    told: Vec<(u16, bool, Vec<u8>)>,
    /// Labels of channels that opened, and how many have closed.
    opened: Vec<String>,
    closed: usize,
    /// Whether all that comes is lost.
    is_deaf: bool,
    /// Whether all that leaves is lost, too.
    is_cut_off: bool,
}

/// What is said on one m-line.
struct Talk {
    mid: Mid,
    words: String,
    packets: u64,
    packets_max: u64,
}

impl Peer {
    pub async fn new() -> Self {
        Self::on(std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
    }

    /// On a socket that may be of another network namespace.
    pub fn on(socket: std::net::UdpSocket) -> Self {
        socket.set_nonblocking(true).unwrap();
        let socket = UdpSocket::from_std(socket).unwrap();
        let address = socket.local_addr().unwrap();
        let now = Clock::runtime_instant();
        let mut rtc =
            RtcConfig::new().set_rtp_mode(true).set_sctp_max_buffered_amount(CHANNEL_BUFFER_BYTES).build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        let state = State {
            rtc,
            address,
            pending: None,
            talks: Vec::new(),
            speak_at: now,
            outbox: Vec::new(),
            heard: Vec::new(),
            unsaid: VecDeque::new(),
            told: Vec::new(),
            opened: Vec::new(),
            closed: 0,
            is_deaf: false,
            is_cut_off: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), told: Notify::new(), news: Notify::new() });
        let driver = tokio::spawn(drive(shared.clone(), socket));
        Self { shared, driver }
    }

    /// An offer with changes.
    pub fn offer<T>(&self, change: impl FnOnce(&mut SdpApi<'_>) -> T) -> (T, String) {
        let mut state = self.shared.state.lock().unwrap();
        let mut api = state.rtc.sdp_api();
        let made = change(&mut api);
        let (offer, pending) = api.apply().expect("the change needs an exchange");
        state.pending = Some(pending);
        (made, offer.to_sdp_string())
    }

    /// An offer that changes nothing but renews ICE, the one way to make str0m repeat itself.
    pub fn offer_again(&self) -> String {
        self.offer(|api| api.ice_restart(true)).1
    }

    /// An offer with more m-lines; the mids are theirs.
    pub fn offer_media(&self, lines: &[(MediaKind, Direction)]) -> (Vec<String>, String) {
        self.offer(|api| {
            let mids = lines
                .iter()
                .map(|&(kind, direction)| api.add_media(kind, direction, None, None, None).to_string());
            mids.collect()
        })
    }

    /// An offer that stops these m-lines.
    pub fn offer_stop(&self, mids: &[&str]) -> String {
        self.offer(|api| mids.iter().for_each(|&mid| api.stop_media(mid.into()))).1
    }

    pub fn accept_answer(&self, sdp: &str) {
        let mut state = self.shared.state.lock().unwrap();
        let pending = state.pending.take().expect("an offer is out");
        let answer = SdpAnswer::from_sdp_string(sdp).unwrap();
        state.rtc.sdp_api().accept_answer(pending, answer).unwrap_or_else(|error| panic!("{error}: {sdp}"));
        self.shared.told.notify_one();
    }

    pub fn answer(&self, offer: &str) -> String {
        let mut state = self.shared.state.lock().unwrap();
        let parsed = SdpOffer::from_sdp_string(offer).unwrap();
        let answer =
            state.rtc.sdp_api().accept_offer(parsed).unwrap_or_else(|error| panic!("{error}: {offer}"));
        self.shared.told.notify_one();
        answer.to_sdp_string()
    }

    /// Sends `words` on the m-line from now on, whenever connected.
    pub fn talk(&self, mid: &str, words: &str) {
        self.say(mid, words, u64::MAX);
    }

    /// Sends this many packets on the m-line.
    pub fn say(&self, mid: &str, words: &str, packets_max: u64) {
        let mut state = self.shared.state.lock().unwrap();
        let said = state.talks.iter().find(|talk| talk.mid == mid.into()).map_or(0, |talk| talk.packets);
        let packets_max = packets_max.saturating_add(said);
        state.talks.retain(|talk| talk.mid != mid.into());
        state.talks.push(Talk { mid: mid.into(), words: words.to_owned(), packets: said, packets_max });
        self.shared.told.notify_one();
    }

    pub fn falls_silent(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.talks.iter_mut().for_each(|talk| talk.packets_max = talk.packets);
    }

    pub async fn is_connected(&self) {
        self.waits_for("its transport to connect", |state| state.rtc.is_connected()).await;
    }

    /// Waits until `words` come on the m-line, and go on coming.
    pub async fn hears(&self, mid: &str, words: &str) {
        self.hears_times(mid, words, PACKETS_HEARD).await;
    }

    pub async fn hears_times(&self, mid: &str, words: &str, packets: usize) {
        let what = format!("{packets} packets of {words:?} on mid {mid}");
        self.waits_for(&what, |state| state.count(mid, words) >= packets).await;
    }

    /// Lets pass what is on the way, then listens for as long as a dozen packets take.
    pub async fn hears_nothing_more(&self, mid: &str, words: &str) {
        tokio::time::sleep(2 * PACKET_INTERVAL).await;
        self.shared.state.lock().unwrap().heard.clear();
        tokio::time::sleep(12 * PACKET_INTERVAL).await;
        assert_eq!(self.shared.state.lock().unwrap().count(mid, words), 0, "{words:?} on mid {mid}");
    }

    /// Opens its end of a negotiated channel, under the policy in `config`.
    pub fn opens_channel(&self, stream: u16, config: ChannelConfig) {
        let mut state = self.shared.state.lock().unwrap();
        state.rtc.direct_api().create_data_channel(ChannelConfig { negotiated: Some(stream), ..config });
        self.shared.told.notify_one();
    }

    pub fn closes_channel(&self, stream: u16) {
        let mut state = self.shared.state.lock().unwrap();
        let mut api = state.rtc.direct_api();
        let id = api.channel_id_by_sctp_stream_id(stream).expect("the channel is open");
        api.close_data_channel(id);
        self.shared.told.notify_one();
    }

    pub fn tells(&self, stream: u16, text: &str) {
        self.tells_bytes(stream, false, text.as_bytes().to_vec());
    }

    pub fn tells_bytes(&self, stream: u16, is_binary: bool, bytes: Vec<u8>) {
        self.shared.state.lock().unwrap().unsaid.push_back((stream, is_binary, bytes));
        self.shared.told.notify_one();
    }

    pub async fn is_told(&self, stream: u16, text: &str) {
        self.is_told_bytes(stream, false, text.as_bytes()).await;
    }

    pub async fn is_told_bytes(&self, stream: u16, is_binary: bool, bytes: &[u8]) {
        let is_it = |told: &(u16, bool, Vec<u8>)| (told.0, told.1, &*told.2) == (stream, is_binary, bytes);
        let what = format!("a message of {} bytes on stream {stream}", bytes.len());
        self.waits_for(&what, |state| state.told.iter().any(is_it)).await;
    }

    /// The texts that came on a stream so far.
    pub fn texts(&self, stream: u16) -> Vec<String> {
        let state = self.shared.state.lock().unwrap();
        let of_stream = state.told.iter().filter(|(on, ..)| *on == stream);
        of_stream.map(|(_, _, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    pub fn messages_told(&self) -> usize {
        self.shared.state.lock().unwrap().told.len()
    }

    pub async fn is_told_times(&self, stream: u16, messages: usize) {
        let count = |state: &State| state.told.iter().filter(|(on, ..)| *on == stream).count();
        let what = format!("{messages} messages on stream {stream}");
        self.waits_for(&what, |state| count(state) >= messages).await;
    }

    pub async fn channel_opens(&self, label: &str) {
        self.waits_for(label, |state| state.opened.iter().any(|opened| opened == label)).await;
    }

    pub async fn a_channel_closes(&self) {
        self.waits_for("a channel to close", |state| state.closed > 0).await;
    }

    pub fn goes_deaf(&self, is_deaf: bool) {
        self.shared.state.lock().unwrap().is_deaf = is_deaf;
    }

    /// Loses its network, or gets it back.
    pub fn is_cut_off(&self, is_cut_off: bool) {
        self.shared.state.lock().unwrap().is_cut_off = is_cut_off;
    }

    async fn waits_for(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let waiting = async {
            while !reached(&self.shared.state.lock().unwrap()) {
                self.shared.news.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert!(waited.is_ok(), "waited in vain for {what}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn drive(shared: Arc<Shared>, socket: UdpSocket) {
    let mut buffer = vec![0; 2_000];
    loop {
        let now = Clock::runtime_instant();
        let (datagrams, until) = shared.state.lock().unwrap().turn(now);
        shared.news.notify_one();
        for (to, datagram) in datagrams {
            socket.send_to(&datagram, to).await.unwrap();
        }
        tokio::select! {
            // A server that has stopped leaves an ICMP error behind, which is no news to a test.
            received = socket.recv_from(&mut buffer) => if let Ok((len, from)) = received {
                shared.state.lock().unwrap().receive(from, &buffer[..len]);
            },
            () = shared.told.notified() => {}
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

impl State {
    /// Says what is due. Returns what leaves, and when there will be more.
    fn turn(&mut self, now: Instant) -> (Vec<(SocketAddr, Vec<u8>)>, Instant) {
        if now >= self.speak_at {
            self.speak_at = now + PACKET_INTERVAL;
            self.speak(now);
        }
        self.tell();
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
        let until = self.drain().min(self.speak_at);
        let outbox = std::mem::take(&mut self.outbox);
        (if self.is_cut_off { Vec::new() } else { outbox }, until)
    }

    fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => return at,
                Output::Transmit(transmit) => {
                    self.outbox.push((transmit.destination, transmit.contents.to_vec()));
                }
                Output::Event(Event::RtpPacket(packet)) => {
                    let ssrc = packet.header.ssrc;
                    let mid = self.rtc.direct_api().stream_rx(&ssrc).expect("the packet is of it").mid();
                    let words = String::from_utf8_lossy(&packet.payload).into_owned();
                    self.heard.push((mid.to_string(), words));
                }
                Output::Event(Event::ChannelData(data)) => {
                    let stream = self.rtc.direct_api().sctp_stream_id_by_channel_id(data.id);
                    self.told.push((stream.expect("the channel is open"), data.binary, data.data));
                }
                Output::Event(Event::ChannelOpen(_, label)) => self.opened.push(label),
                Output::Event(Event::ChannelClose(_)) => self.closed += 1,
                Output::Event(_) => {}
            }
        }
    }

    /// Says what its SCTP has room for, in order.
    fn tell(&mut self) {
        while let Some((stream, is_binary, bytes)) = self.unsaid.pop_front() {
            let id = self.rtc.direct_api().channel_id_by_sctp_stream_id(stream);
            let channel = id.and_then(|id| self.rtc.channel(id));
            if !channel.is_some_and(|mut channel| channel.write(is_binary, &bytes).unwrap()) {
                self.unsaid.push_front((stream, is_binary, bytes));
                return;
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        if self.is_deaf || self.is_cut_off {
            return;
        }
        let now = Clock::runtime_instant();
        let received = Receive::new(Protocol::Udp, from, self.address, datagram).unwrap();
        self.rtc.handle_input(Input::Receive(now, received)).unwrap();
        self.drain();
    }

    fn speak(&mut self, now: Instant) {
        if !self.rtc.is_connected() {
            return;
        }
        for talk in self.talks.iter_mut().filter(|talk| talk.packets < talk.packets_max) {
            let Some(media) = self.rtc.media(talk.mid) else { continue };
            let Some(&payload_type) = media.remote_pts().first() else { continue };
            let mut api = self.rtc.direct_api();
            let Some(stream) = api.stream_tx_by_mid(talk.mid, None) else { continue };
            talk.packets += 1;
            let time = talk.packets as u32 * 960;
            let payload = talk.words.as_bytes();
            stream.write_rtp(RtpWrite::new(payload_type, talk.packets.into(), time, now, payload));
        }
    }

    fn count(&self, mid: &str, words: &str) -> usize {
        self.heard.iter().filter(|(on, heard)| on == mid && heard == words).count()
    }
}
