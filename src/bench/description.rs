//! The session descriptions of a load generator's client: what it offers to publish, and how it answers a pull.
//!
//! Text in, text out. An answer takes each m-line's first codec and nothing that costs packets: no header
//! extensions, no retransmissions, no transport-wide feedback. So what is lost is counted as lost, and a packet
//! has the size that was asked for.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::BenchError;
use super::speaker::{Encoding, Line};
use super::transport::Remote;
use crate::control::transport::Credentials;
use crate::rtp::extension::Extension;

/// Of retransmissions of video (RFC 4588).
pub const RTX_PAYLOAD_TYPE: u8 = 97;

/// Ids of the header extensions that an encoding of a simulcast is known by.
pub const MID_ID: u8 = 1;
pub const RID_ID: u8 = 2;
pub const REPAIRED_RID_ID: u8 = 3;

/// What a client tells about its transport.
pub struct Local<'a> {
    pub credentials: &'a Credentials,
    /// As SDP writes it: `sha-256 AB:…`.
    pub fingerprint: &'a str,
}

/// A track that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Audio,
    Video,
}

impl Kind {
    /// The payload types of an m-line, as it lists them.
    fn formats(self) -> &'static str {
        match self {
            Self::Audio => "111",
            Self::Video => "96 97",
        }
    }

    pub fn payload_type(self) -> u8 {
        match self {
            Self::Audio => 111,
            Self::Video => 96,
        }
    }

    pub fn clock_rate(self) -> u64 {
        match self {
            Self::Audio => 48_000,
            Self::Video => 90_000,
        }
    }

    fn lines(self) -> &'static str {
        match self {
            Self::Audio => "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n",
            Self::Video => {
                "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\na=rtcp-fb:96 ccm fir\r\n\
                a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

/// A track to be offered, with its encodings from the best on if it is a simulcast.
#[derive(Debug, Clone)]
pub struct Offered {
    pub kind: Kind,
    pub line: Line,
    pub encodings: Vec<Encoding>,
}

/// An offer to send these tracks, under the mids that their lines have.
pub fn offer(local: &Local<'_>, tracks: &[Offered]) -> String {
    let mids: Vec<_> = tracks.iter().map(|track| char::from(track.line.mid).to_string()).collect();
    let mut sdp = head(&mids);
    for (Offered { kind, line, encodings }, mid) in tracks.iter().zip(&mids) {
        section(&mut sdp, local, kind.name(), kind.formats(), mid, "actpass");
        sdp += &format!("a=sendonly\r\na=msid:- {mid}\r\n{}", kind.lines());
        sdp += &if encodings.is_empty() { sources(*kind, *line) } else { simulcast(encodings) };
    }
    sdp
}

/// The SSRCs of a track that has no encodings to choose from.
fn sources(kind: Kind, Line { ssrc, rtx_ssrc, .. }: Line) -> String {
    let media = format!("a=ssrc:{ssrc} cname:bench\r\n");
    match kind {
        Kind::Audio => media,
        Kind::Video => {
            format!("a=ssrc-group:FID {ssrc} {rtx_ssrc}\r\n{media}a=ssrc:{rtx_ssrc} cname:bench\r\n")
        }
    }
}

/// Encodings by their rids (RFC 8853), whose SSRCs the packets tell.
fn simulcast(encodings: &[Encoding]) -> String {
    let ids = [(MID_ID, Extension::Mid), (RID_ID, Extension::Rid), (REPAIRED_RID_ID, Extension::RepairedRid)];
    let extensions = ids.map(|(id, extension)| format!("a=extmap:{id} {}\r\n", extension.uri()));
    let rids: Vec<_> = encodings.iter().map(|encoding| encoding.rid).collect();
    let restrictions: String = rids.iter().map(|rid| format!("a=rid:{rid} send\r\n")).collect();
    format!("{}{restrictions}a=simulcast:send {}\r\n", extensions.concat(), rids.join(";"))
}

/// The answer that takes all that is offered.
pub fn answer(local: &Local<'_>, offer: &str) -> Result<String, BenchError> {
    let sections: Vec<_> = sections(offer).collect();
    let mids = sections.iter().map(|section| value(section, "a=mid:").unwrap_or_default().to_owned());
    let mids: Vec<_> = mids.collect();
    let mut sdp = head(&mids);
    for (offered, mid) in sections.iter().zip(&mids) {
        let mut media = value(offered, "m=").unwrap_or_default().split(' ');
        let (kind, payload_type) = (media.next().unwrap_or_default(), media.nth(2).unwrap_or_default());
        if kind.is_empty() || payload_type.is_empty() {
            return Err(BenchError(format!("the server's offer has an m-line without a codec: {offer}")));
        }
        section(&mut sdp, local, kind, payload_type, mid, "active");
        sdp += "a=recvonly\r\n";
        for name in ["rtpmap", "fmtp"] {
            let start = format!("a={name}:{payload_type} ");
            let lines = offered.lines().filter(|line| line.starts_with(&start));
            lines.for_each(|line| sdp += &format!("{line}\r\n"));
        }
    }
    Ok(sdp)
}

/// Where and how the server is reached by a client for which `reaches` says which addresses it can reach.
pub fn remote(sdp: &str, reaches: impl Fn(IpAddr) -> bool) -> Result<Remote, BenchError> {
    let missing = |what: &str| BenchError(format!("the server's description has no {what}: {sdp}"));
    let first = |start: &str| value(sdp, start).map(str::to_owned);
    let ufrag = first("a=ice-ufrag:").ok_or_else(|| missing("ICE credentials"))?;
    let password = first("a=ice-pwd:").ok_or_else(|| missing("ICE credentials"))?;
    let fingerprint = value(sdp, "a=fingerprint:sha-256 ").ok_or_else(|| missing("SHA-256 fingerprint"))?;
    let fingerprint: Option<Vec<_>> =
        fingerprint.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let fingerprint = fingerprint.ok_or_else(|| missing("legible fingerprint"))?;
    let candidates = sdp.lines().filter_map(|line| candidate(line.strip_prefix("a=candidate:")?));
    let candidates: Vec<_> = candidates.collect();
    let address = candidates.iter().find(|address| reaches(address.ip())).copied().ok_or_else(|| {
        BenchError(format!(
            "none of the server's candidates {candidates:?} can be reached from the clients' addresses; choose \
             others with --client-net"
        ))
    })?;
    Ok(Remote { address, credentials: Credentials { ufrag, password }, fingerprint })
}

fn head(mids: &[String]) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n", mids.join(" "))
}

fn section(sdp: &mut String, local: &Local<'_>, kind: &str, payload_type: &str, mid: &str, setup: &str) {
    let Local { credentials: Credentials { ufrag, password }, fingerprint } = local;
    let lines = [
        format!("m={kind} 9 UDP/TLS/RTP/SAVPF {payload_type}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n"),
        format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=fingerprint:{fingerprint}\r\n"),
        format!("a=setup:{setup}\r\na=rtcp-mux\r\n"),
    ];
    write!(sdp, "{}", lines.concat()).expect("a String takes any text");
}

/// The m-sections, each with its `m=` line.
fn sections(sdp: &str) -> impl Iterator<Item = &str> {
    let starts = sdp.match_indices("\nm=").map(|(at, _)| at + 1);
    let ends = starts.clone().skip(1).chain([sdp.len()]);
    starts.zip(ends).map(|(start, end)| &sdp[start..end])
}

/// What follows `start` on the first line that starts so.
fn value<'a>(sdp: &'a str, start: &str) -> Option<&'a str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix(start))
}

/// The address of a UDP candidate (RFC 8839 §5.1).
fn candidate(text: &str) -> Option<SocketAddr> {
    let mut words = text.split(' ').skip(2);
    let is_udp = words.next()?.eq_ignore_ascii_case("udp");
    let (ip, port) = (words.nth(1)?.parse().ok()?, words.next()?.parse().ok()?);
    is_udp.then_some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::speaker::ENCODINGS;

    const OFFER: &str = "v=0\r\na=fingerprint:sha-256 AB:CD\r\na=ice-lite\r\na=group:BUNDLE 0 4\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\na=mid:0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\n\
        a=candidate:1 1 udp 2130706431 192.0.2.1 3478 typ host\r\n\
        a=candidate:2 1 udp 2130706175 127.0.0.1 3478 typ host\r\n\
        a=rtpmap:111 opus/48000/2\r\na=fmtp:111 x=1\r\na=rtpmap:63 red/48000/2\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 97\r\na=mid:4\r\na=rtpmap:97 VP8/90000\r\n";

    #[test]
    fn a_simulcast_is_offered_by_its_rids_and_plain_video_by_its_ssrcs() {
        let credentials = Credentials { ufrag: "mine".into(), password: "secret".into() };
        let local = Local { credentials: &credentials, fingerprint: "sha-256 00" };
        let track = |mid, encodings| Offered {
            kind: Kind::Video,
            line: Line { mid, ssrc: 11, rtx_ssrc: 12 },
            encodings,
        };
        let offer = offer(&local, &[track(b'0', Vec::new()), track(b'1', ENCODINGS.to_vec())]);
        let [plain, simulcast] = sections(&offer).collect::<Vec<_>>()[..] else { panic!("{offer}") };
        assert!(plain.contains("a=ssrc-group:FID 11 12\r\n") && !plain.contains("a=rid"), "{plain}");
        assert!(
            simulcast.contains("a=simulcast:send f;h;q\r\n") && !simulcast.contains("a=ssrc"),
            "{simulcast}"
        );
        assert!(simulcast.contains("a=rid:q send\r\n") && simulcast.contains("a=mid:1\r\n"), "{simulcast}");
    }

    #[test]
    fn an_answer_takes_the_first_codec_of_each_line_and_nothing_else() {
        let credentials = Credentials { ufrag: "mine".into(), password: "secret".into() };
        let local = Local { credentials: &credentials, fingerprint: "sha-256 00" };
        let answer = answer(&local, OFFER).unwrap();
        let [audio, video] = sections(&answer).collect::<Vec<_>>()[..] else { panic!("{answer}") };
        assert!(audio.starts_with("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"), "{audio}");
        assert!(audio.contains("opus") && audio.contains("x=1") && !audio.contains("red"), "{audio}");
        assert!(video.contains("a=mid:4\r\n") && video.contains("a=rtpmap:97 VP8/90000\r\n"), "{video}");
        assert!(answer.contains("a=group:BUNDLE 0 4\r\n"), "{answer}");
    }

    #[test]
    fn the_server_is_reached_at_the_first_candidate_within_reach() {
        let remote = remote(OFFER, |ip| ip.is_loopback()).unwrap();
        assert_eq!(remote.address, "127.0.0.1:3478".parse().unwrap());
        assert_eq!((remote.credentials.ufrag.as_str(), remote.fingerprint), ("u", vec![0xab, 0xcd]));
        let error = super::remote(OFFER, |ip| ip.is_ipv6()).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:3478") && error.contains("--client-net"), "{error}");
    }
}
