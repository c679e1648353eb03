//! Our descriptions as text: the only file that spells SDP.
//!
//! Layout: fingerprint and BUNDLE at the session; credentials and setup in every live section, so that
//! whichever survives carries the transport; candidates in the one that heads the BUNDLE group only, which is
//! the one a bundling client reads (RFC 9143 §7.1.3) and keeps a description of 500 lines short.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::codec::Codec;
use super::line::{Line, LineState};
use super::session::Negotiation;
use super::{
    Direction, DtlsRole, LineKind, MESSAGE_SIZE_MAX, Remote, RemoteExtension, SCTP_PORT, Send, Setup,
};
use crate::id::Mid;

/// The answer to `offer`, whose lines `session` has taken over.
pub(super) fn answer(session: &mut Negotiation, offer: &Remote) -> String {
    let setup = match session.dtls_role() {
        Some(DtlsRole::Active) => Setup::Active,
        Some(DtlsRole::Passive) | None => Setup::Passive,
    };
    let sections: Vec<Option<Direction>> = session
        .lines()
        .iter()
        .map(|line| (line.state != LineState::Closed).then(|| line.agreed_direction()))
        .collect();
    describe(session, setup, &sections, offer.bundle.is_some())
}

/// An offer of all lines, those at the indexes `rejected` with port 0.
pub(super) fn offer(session: &mut Negotiation, rejected: &[usize]) -> String {
    let alive = |(index, line): (usize, &Line)| {
        let alive = line.state != LineState::Closed && !rejected.contains(&index);
        alive.then(|| line.wanted_direction())
    };
    let sections: Vec<Option<Direction>> = session.lines().iter().enumerate().map(alive).collect();
    describe(session, Setup::ActPass, &sections, true)
}

/// `sections` holds our direction for each line, `None` for port 0.
fn describe(
    session: &mut Negotiation,
    setup: Setup,
    sections: &[Option<Direction>],
    bundles: bool,
) -> String {
    session.version += 1;
    let mut text = Text::default();
    let tag = first_live(session, sections);
    text.session(session, sections, bundles);
    for (line, direction) in session.lines().iter().zip(sections) {
        let Some(direction) = *direction else {
            text.rejected(line);
            continue;
        };
        text.live(line);
        text.transport(session, setup);
        if Some(line.mid) == tag {
            text.candidates(&session.transport.candidates);
        }
        match line.kind {
            LineKind::Media(_) => text.media(line, direction),
            LineKind::Application | LineKind::Other => text.data_channels(),
        }
    }
    text.0
}

/// The line that heads the BUNDLE group.
fn first_live(session: &Negotiation, sections: &[Option<Direction>]) -> Option<Mid> {
    let mut lines = session.lines().iter().zip(sections);
    lines.find(|(_, section)| section.is_some()).map(|(line, _)| line.mid)
}

#[derive(Default)]
struct Text(String);

/// One line; formatting into a string cannot fail.
macro_rules! line {
    ($text:expr, $($arg:tt)*) => {{
        let _ = write!($text.0, $($arg)*);
        $text.0.push_str("\r\n");
    }};
}

impl Text {
    /// The BUNDLE group is in the order of m-lines: Chromium answers in that order whatever the offer's, and
    /// refuses itself if the tags then differ.
    fn session(&mut self, session: &Negotiation, sections: &[Option<Direction>], bundles: bool) {
        line!(self, "v=0");
        line!(self, "o=- {} {} IN IP4 0.0.0.0", session.origin, session.version);
        line!(self, "s=-");
        line!(self, "t=0 0");
        line!(self, "a=msid-semantic: WMS *");
        line!(self, "a=fingerprint:{}", session.transport.fingerprint);
        if session.transport.ice_lite {
            line!(self, "a=ice-lite");
        }
        line!(self, "a=extmap-allow-mixed");
        if bundles {
            let live = session.lines().iter().zip(sections).filter(|(_, section)| section.is_some());
            let mids: String = live.map(|(line, _)| format!(" {}", line.mid)).collect();
            line!(self, "a=group:BUNDLE{mids}");
        }
    }

    /// Nothing is negotiated here, but the grammar asks for a format, and str0m for the rtpmap of each.
    fn rejected(&mut self, line: &Line) {
        let section = &line.section;
        let codec = section.codecs.first();
        let format = codec.map_or_else(|| section.formats.clone(), |codec| codec.pt.to_string());
        line!(self, "m={} 0 {} {format}", section.media, section.protocol);
        line!(self, "c=IN IP4 0.0.0.0");
        line!(self, "a=mid:{}", line.mid);
        line!(self, "a=inactive");
        if let Some(codec) = codec {
            line!(self, "a=rtpmap:{} {}", codec.pt, codec.rtpmap());
        }
    }

    fn live(&mut self, line: &Line) {
        let section = &line.section;
        line!(self, "m={} 9 {} {}", section.media, section.protocol, formats(line));
        line!(self, "c=IN IP4 0.0.0.0");
        line!(self, "a=mid:{}", line.mid);
    }

    fn transport(&mut self, session: &Negotiation, setup: Setup) {
        let setup = match setup {
            Setup::ActPass => "actpass",
            Setup::Active => "active",
            Setup::Passive => "passive",
        };
        line!(self, "a=setup:{setup}");
        line!(self, "a=ice-ufrag:{}", session.transport.ufrag);
        line!(self, "a=ice-pwd:{}", session.transport.pwd);
    }

    /// Host candidates by falling local preference (RFC 8445 §5.1.2), then the end: we never trickle.
    fn candidates(&mut self, addresses: &[SocketAddr]) {
        for (index, address) in (0u32..=0xffff).zip(addresses) {
            let priority = (126 << 24) | ((0xffff - index) << 8) | 255;
            let (ip, port) = (address.ip(), address.port());
            line!(self, "a=candidate:{} 1 udp {priority} {ip} {port} typ host", index + 1);
        }
        line!(self, "a=end-of-candidates");
    }

    fn media(&mut self, line: &Line, direction: Direction) {
        line!(self, "a={}", direction.as_str());
        line!(self, "a=rtcp-mux");
        line!(self, "a=rtcp-rsize");
        for extension in &line.section.extensions {
            self.extension(extension, direction);
        }
        for codec in &line.section.codecs {
            self.codec(codec);
        }
        if direction.receives() {
            self.encodings(line);
        }
        if let Some(source) = line.source.as_ref().filter(|_| direction.sends()) {
            self.source(source, line);
        }
    }

    /// The direction is written only where it is narrower than the section's (RFC 8285 §5).
    fn extension(&mut self, extension: &RemoteExtension, section: Direction) {
        let own = extension.direction;
        let sends = own.sends() || !section.sends();
        let receives = own.receives() || !section.receives();
        let uri = extension.extension.uri();
        if sends && receives {
            line!(self, "a=extmap:{} {uri}", extension.id);
        } else {
            line!(self, "a=extmap:{}/{} {uri}", extension.id, own.as_str());
        }
    }

    fn codec(&mut self, codec: &Codec) {
        let pt = codec.pt;
        line!(self, "a=rtpmap:{pt} {}", codec.rtpmap());
        for feedback in &codec.feedback {
            line!(self, "a=rtcp-fb:{pt} {}", feedback.as_str());
        }
        if let Some(fmtp) = &codec.fmtp {
            line!(self, "a=fmtp:{pt} {fmtp}");
        }
        if let Some(rtx) = codec.rtx_pt {
            line!(self, "a=rtpmap:{rtx} rtx/{}", codec.clock_rate);
            line!(self, "a=fmtp:{rtx} apt={pt}");
        }
    }

    /// The mirror of the client's `send` lines: a browser drops encodings that lack it (RFC 8853 §5.3).
    fn encodings(&mut self, line: &Line) {
        let rids = &line.section.rids;
        if rids.is_empty() {
            return;
        }
        for rid in rids {
            line!(self, "a=rid:{rid} recv");
        }
        let list: Vec<&str> = rids.iter().map(|rid| rid.as_str()).collect();
        line!(self, "a=simulcast:recv {}", list.join(";"));
    }

    fn source(&mut self, source: &Send, line: &Line) {
        let msid = format!("{} {}", token(&source.stream_id), token(&source.track_id));
        let repaired = line.section.codecs.iter().any(|codec| codec.rtx_pt.is_some());
        let rtx_ssrc = source.rtx_ssrc.filter(|_| repaired);
        line!(self, "a=msid:{msid}");
        if let Some(rtx) = rtx_ssrc {
            line!(self, "a=ssrc-group:FID {} {rtx}", source.ssrc);
        }
        for ssrc in std::iter::once(source.ssrc).chain(rtx_ssrc) {
            line!(self, "a=ssrc:{ssrc} cname:{}", token(&source.cname));
            line!(self, "a=ssrc:{ssrc} msid:{msid}");
        }
    }

    fn data_channels(&mut self) {
        line!(self, "a=sctp-port:{SCTP_PORT}");
        line!(self, "a=max-message-size:{MESSAGE_SIZE_MAX}");
    }
}

/// The formats of the m-line: each codec followed by its RTX.
fn formats(line: &Line) -> String {
    let codecs = &line.section.codecs;
    if codecs.is_empty() {
        return line.section.formats.clone();
    }
    let numbers = codecs.iter().flat_map(|codec| std::iter::once(codec.pt).chain(codec.rtx_pt));
    let words: Vec<String> = numbers.map(|number| number.to_string()).collect();
    words.join(" ")
}

/// Text from outside as an SDP token of at most 64 characters (RFC 8830 §2), so that no name, however
/// chosen, ends its line early.
fn token(text: &str) -> String {
    let is_token = |c: char| c.is_ascii_graphic() && !r#""(),/:;<=>?@[\]"#.contains(c);
    let token: String = text.chars().take(64).map(|c| if is_token(c) { c } else { '-' }).collect();
    if token.is_empty() { "-".to_owned() } else { token }
}
