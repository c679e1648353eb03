//! What the peer said: RFC 8866 text to [`Remote`], checked as far as it can be without knowing the session.
//!
//! `sdp-types` splits the text into lines and m-sections; attributes are read here, leniently: what is not
//! understood is skipped, what is needed and missing is an error. Control characters are refused, so that
//! text copied from one peer's description into another's cannot smuggle a line.

use std::collections::{BTreeMap, BTreeSet};

use sdp_types::{Attribute, Media, Session};

use super::codec::{Codec, Feedback};
use super::error::{Place, SdpError};
use super::{
    CANDIDATES_MAX, Direction, ENCODINGS_MAX, FORMATS_MAX, Kind, LINES_MAX, LineKind, Msid, RemoteExtension,
    RemoteLine, RemoteSsrc, SSRCS_MAX, Setup, TEXT_LINES_MAX,
};
use crate::id::{MediaKind, Mid, Rid};
use crate::rtp::extension::Extension;

/// A description of the peer, parsed and valid by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub(super) kind: Kind,
    /// The mids of its BUNDLE group in their order, if it has one.
    pub(super) bundle: Option<Vec<Mid>>,
    lines: Vec<RemoteLine>,
    /// Absent only if no m-line is alive.
    transport: Option<Transport>,
    ice_lite: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Transport {
    ufrag: String,
    pwd: String,
    fingerprints: Vec<Fingerprint>,
    setup: Setup,
    candidates: Vec<String>,
}

/// The hash of a certificate (RFC 8122). A peer may list several; any of them may match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    pub algorithm: HashAlgorithm,
    pub bytes: Vec<u8>,
}

/// The hash functions we accept; weaker ones are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl HashAlgorithm {
    /// As SDP spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|hash| hash.as_str().eq_ignore_ascii_case(name))
    }
}

impl Remote {
    /// Parses a description and checks what RFC 9429 asks of a bundling, multiplexing peer: credentials,
    /// fingerprint and setup; one BUNDLE group over all live m-lines; `rtcp-mux`; mids that differ.
    pub fn parse(kind: Kind, sdp: &str) -> Result<Self, SdpError> {
        check_text(sdp)?;
        let session = Session::parse(sdp.as_bytes()).map_err(|error| SdpError::NotSdp(error.to_string()))?;
        if session.medias.len() > LINES_MAX {
            return Err(SdpError::TooManyLines(session.medias.len()));
        }
        let lines: Vec<RemoteLine> = session
            .medias
            .iter()
            .enumerate()
            .map(|(index, media)| parse_line(kind, index, media, &session.attributes))
            .collect::<Result<_, _>>()?;
        check_mids(&lines)?;
        let bundle = bundle_group(&session.attributes);
        check_bundle(&lines, bundle.as_deref())?;
        check_mux(&lines, &session.medias)?;
        let transport = parse_transport(&session, &lines)?;
        let ice_lite = flag(&session.attributes, "ice-lite");
        Ok(Self { kind, bundle, lines, transport, ice_lite })
    }

    pub fn is_answer(&self) -> bool {
        self.kind == Kind::Answer
    }

    pub fn lines(&self) -> &[RemoteLine] {
        &self.lines
    }

    /// The line of this mid, an accepted one before a rejected one.
    pub fn line(&self, mid: Mid) -> Option<&RemoteLine> {
        let mut found = self.lines.iter().filter(|line| line.mid == mid);
        let first = found.next();
        first.filter(|line| !line.rejected).or_else(|| found.find(|line| !line.rejected)).or(first)
    }

    /// `(ufrag, pwd)`. `None` only if every m-line is rejected: then no transport is left to describe.
    pub fn ice(&self) -> Option<(&str, &str)> {
        let transport = self.transport.as_ref()?;
        Some((&transport.ufrag, &transport.pwd))
    }

    /// At least one, unless every m-line is rejected.
    pub fn fingerprints(&self) -> &[Fingerprint] {
        self.transport.as_ref().map_or(&[], |transport| &transport.fingerprints)
    }

    pub fn setup(&self) -> Option<Setup> {
        self.transport.as_ref().map(|transport| transport.setup)
    }

    /// Candidates of the bundled transport as they stand after `a=`: `candidate:1 1 udp …`. Usually none.
    pub fn candidates(&self) -> &[String] {
        self.transport.as_ref().map_or(&[], |transport| &transport.candidates)
    }

    /// Whether the peer leaves the checks to us, as another SFU does.
    pub fn is_ice_lite(&self) -> bool {
        self.ice_lite
    }
}

fn check_text(sdp: &str) -> Result<(), SdpError> {
    let lines = sdp.bytes().filter(|&byte| byte == b'\n').count();
    if lines > TEXT_LINES_MAX {
        return Err(SdpError::TooManyTextLines(lines));
    }
    for (index, line) in sdp.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(SdpError::ControlCharacter { text_line: index + 1 });
        }
    }
    Ok(())
}

/// The values of all attributes of one name.
fn values<'a>(attributes: &'a [Attribute], name: &'a str) -> impl Iterator<Item = &'a str> {
    attributes
        .iter()
        .filter(move |attribute| attribute.attribute.eq_ignore_ascii_case(name))
        .filter_map(|attribute| attribute.value.as_deref().map(str::trim))
}

fn value<'a>(attributes: &'a [Attribute], name: &'a str) -> Option<&'a str> {
    values(attributes, name).next()
}

fn flag(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.attribute.eq_ignore_ascii_case(name))
}

fn direction(attributes: &[Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|attribute| Direction::from_name(&attribute.attribute))
}

fn parse_line(
    kind: Kind,
    index: usize,
    media: &Media,
    session: &[Attribute],
) -> Result<RemoteLine, SdpError> {
    let attributes = &media.attributes;
    let written = value(attributes, "mid");
    let mid = match written {
        Some(mid) => mid.parse().map_err(|_| SdpError::BadMid { index, mid: mid.to_owned() })?,
        None => index.to_string().parse().expect("an index is a short number"),
    };
    let bundle_only = kind == Kind::Offer && flag(attributes, "bundle-only");
    let formats = Formats::read(media);
    let streams = Streams::read(attributes);
    Ok(RemoteLine {
        mid,
        kind: line_kind(media),
        rejected: media.port == 0 && !bundle_only,
        direction: direction(attributes).or_else(|| direction(session)).unwrap_or(Direction::SendRecv),
        codecs: formats.codecs(media),
        extensions: extensions(attributes),
        rids: sent_rids(attributes, Place { index, mid })?,
        ssrcs: streams.primaries(),
        msid: value(attributes, "msid").map(parse_msid).or(streams.msid),
        cname: streams.cname,
        sctp_port: value(attributes, "sctp-port").and_then(|port| port.parse().ok()),
        max_message_size: value(attributes, "max-message-size").and_then(|size| size.parse().ok()),
        mid_is_explicit: written.is_some(),
        media: media.media.clone(),
        protocol: media.proto.clone(),
        formats: media.fmt.clone(),
    })
}

fn line_kind(media: &Media) -> LineKind {
    let secure_rtp = media.proto.contains("RTP/SAVP");
    match media.media.as_str() {
        "audio" if secure_rtp => LineKind::Media(MediaKind::Audio),
        "video" if secure_rtp => LineKind::Media(MediaKind::Video),
        // The form of RFC 8841; the older `DTLS/SCTP` with `a=sctpmap` is gone from browsers.
        "application" if media.proto.ends_with("/DTLS/SCTP") => LineKind::Application,
        _ => LineKind::Other,
    }
}

/// The `a=rtpmap`, `a=fmtp` and `a=rtcp-fb` of one m-section by payload type, read in one pass.
#[derive(Default)]
struct Formats<'a> {
    rtpmaps: BTreeMap<u8, &'a str>,
    fmtps: BTreeMap<u8, &'a str>,
    feedback: BTreeMap<u8, Vec<Feedback>>,
    feedback_of_all: Vec<Feedback>,
}

impl<'a> Formats<'a> {
    fn read(media: &'a Media) -> Self {
        let mut formats = Self::default();
        for attribute in &media.attributes {
            let Some((format, rest)) = attribute.value.as_deref().and_then(|value| value.split_once(' '))
            else {
                continue;
            };
            let rest = rest.trim();
            let pt = payload_type(format);
            match (attribute.attribute.to_ascii_lowercase().as_str(), pt) {
                ("rtpmap", Some(pt)) => {
                    formats.rtpmaps.entry(pt).or_insert(rest);
                }
                ("fmtp", Some(pt)) => {
                    formats.fmtps.entry(pt).or_insert(rest);
                }
                ("rtcp-fb", _) => formats.add_feedback(format, pt, rest),
                _ => {}
            }
        }
        formats
    }

    fn add_feedback(&mut self, format: &str, pt: Option<u8>, name: &str) {
        let Some(feedback) = Feedback::from_name(name) else { return };
        let list = match pt {
            Some(pt) => self.feedback.entry(pt).or_default(),
            None if format == "*" => &mut self.feedback_of_all,
            None => return,
        };
        if !list.contains(&feedback) {
            list.push(feedback);
        }
    }

    /// The formats in the order of the m-line, each RTX folded into what it repairs.
    fn codecs(&self, media: &Media) -> Vec<Codec> {
        let mut seen = BTreeSet::new();
        let listed = media.fmt.split_ascii_whitespace().filter_map(payload_type);
        let all: Vec<Codec> =
            listed.filter(|pt| seen.insert(*pt)).filter_map(|pt| self.codec(pt)).take(FORMATS_MAX).collect();
        let (repairs, mut codecs): (Vec<Codec>, Vec<Codec>) =
            all.into_iter().partition(|codec| codec.name.eq_ignore_ascii_case("rtx"));
        for repair in repairs {
            let apt = repair.fmtp.as_deref().and_then(associated_payload_type);
            if let Some(codec) = codecs.iter_mut().find(|codec| Some(codec.pt) == apt) {
                codec.rtx_pt.get_or_insert(repair.pt);
            }
        }
        codecs
    }

    fn codec(&self, pt: u8) -> Option<Codec> {
        let rtpmap = self.rtpmaps.get(&pt).copied().or_else(|| static_rtpmap(pt))?;
        let mut parts = rtpmap.split('/');
        let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
        let clock_rate = parts.next()?.trim().parse().ok()?;
        let channels = parts.next().and_then(|channels| channels.trim().parse().ok()).unwrap_or(1);
        let own = self.feedback.get(&pt).into_iter().flatten();
        let mut feedback: Vec<Feedback> = own.copied().collect();
        feedback
            .extend(self.feedback_of_all.iter().filter(|all| !feedback.contains(all)).collect::<Vec<_>>());
        let fmtp = self.fmtps.get(&pt).map(|fmtp| (*fmtp).to_owned());
        Some(Codec { pt, name, clock_rate, channels, fmtp, feedback, rtx_pt: None })
    }
}

/// A payload type that can share a port with RTCP: 64..=95 cannot (RFC 5761 §4).
fn payload_type(text: &str) -> Option<u8> {
    text.parse().ok().filter(|pt| *pt <= 127 && !(64..=95).contains(pt))
}

/// The assignments of RFC 3551 §6 that are still in use, for peers that leave out the rtpmap.
fn static_rtpmap(pt: u8) -> Option<&'static str> {
    match pt {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        9 => Some("G722/8000"),
        13 => Some("CN/8000"),
        _ => None,
    }
}

fn associated_payload_type(fmtp: &str) -> Option<u8> {
    let mut pairs = fmtp.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(key, value)| (key == "apt").then(|| value.trim().parse().ok()).flatten())
}

fn extensions(attributes: &[Attribute]) -> Vec<RemoteExtension> {
    let mut found: Vec<RemoteExtension> = Vec::new();
    for extension in values(attributes, "extmap").filter_map(parse_extension) {
        let clash =
            |other: &RemoteExtension| other.id == extension.id || other.extension == extension.extension;
        if !found.iter().any(clash) {
            found.push(extension);
        }
    }
    found
}

/// `<id>[/<direction>] <uri> [<attributes>]` (RFC 8285 §5). Ids above 255 are for later offers to resolve.
fn parse_extension(text: &str) -> Option<RemoteExtension> {
    let mut words = text.split_ascii_whitespace();
    let (id, direction) = match words.next()?.split_once('/') {
        Some((id, direction)) => (id, Direction::from_name(direction)?),
        None => (text.split_ascii_whitespace().next()?, Direction::SendRecv),
    };
    let id = id.parse().ok().filter(|id| *id != 0)?;
    Some(RemoteExtension { id, extension: Extension::from_uri(words.next()?)?, direction })
}

/// The encodings the peer would send: in the order of `a=simulcast` (RFC 8853), else of `a=rid` (RFC 8851).
fn sent_rids(attributes: &[Attribute], at: Place) -> Result<Vec<Rid>, SdpError> {
    let declared = |line: &'_ str| {
        let mut words = line.split_ascii_whitespace();
        let rid = words.next()?.to_owned();
        (words.next()? == "send").then_some(rid)
    };
    let declared: Vec<String> = values(attributes, "rid").filter_map(declared).take(ENCODINGS_MAX).collect();
    let ordered = value(attributes, "simulcast").map(simulcast_send).unwrap_or_default();
    let mut rids: Vec<&str> =
        ordered.into_iter().filter(|rid| declared.iter().any(|known| known == rid)).collect();
    if rids.is_empty() {
        rids = declared.iter().map(String::as_str).collect();
    }
    let mut parsed: Vec<Rid> = Vec::with_capacity(rids.len());
    for rid in rids {
        let bad = || SdpError::BadRid { at, rid: rid.to_owned() };
        // RFC 8851 §10: letters, digits, `-` and `_`.
        if !rid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(bad());
        }
        let rid = rid.parse().map_err(|_| bad())?;
        if !parsed.contains(&rid) {
            parsed.push(rid);
        }
    }
    Ok(parsed)
}

/// `send h;~m,n;l recv …`: one rid per stream, the first of alternatives; `~` marks it paused at first.
fn simulcast_send(text: &str) -> Vec<&str> {
    let mut words = text.split_ascii_whitespace();
    while let (Some(way), Some(list)) = (words.next(), words.next()) {
        if way == "send" {
            let first = |stream: &'_ str| -> usize { stream.find(',').unwrap_or(stream.len()) };
            let streams = list.split(';').map(|stream| stream.split_at(first(stream)).0);
            return streams.map(|rid| rid.trim_start_matches('~')).collect();
        }
    }
    Vec::new()
}

/// `a=ssrc` and `a=ssrc-group` (RFC 5576) of one m-section.
#[derive(Default)]
struct Streams {
    announced: Vec<u32>,
    /// (primary, its RTX stream)
    repairs: Vec<(u32, u32)>,
    /// Streams that repair others by RTX or FEC: never primaries.
    secondary: Vec<u32>,
    simulcast: Vec<u32>,
    cname: Option<String>,
    msid: Option<Msid>,
}

impl Streams {
    fn read(attributes: &[Attribute]) -> Self {
        let mut streams = Self::default();
        for line in values(attributes, "ssrc") {
            streams.add_stream(line);
        }
        for line in values(attributes, "ssrc-group").take(SSRCS_MAX) {
            streams.add_group(line);
        }
        streams
    }

    fn add_stream(&mut self, line: &str) {
        let (ssrc, attribute) = line.split_once(' ').unwrap_or((line, ""));
        let Ok(ssrc) = ssrc.parse() else { return };
        if !self.announced.contains(&ssrc) && self.announced.len() < SSRCS_MAX {
            self.announced.push(ssrc);
        }
        match attribute.trim().split_once(':') {
            Some(("cname", cname)) => drop(self.cname.get_or_insert_with(|| cname.to_owned())),
            Some(("msid", msid)) => drop(self.msid.get_or_insert_with(|| parse_msid(msid))),
            _ => {}
        }
    }

    fn add_group(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let semantics = words.next().unwrap_or_default();
        let ssrcs: Vec<u32> = words.filter_map(|word| word.parse().ok()).take(SSRCS_MAX).collect();
        match (semantics, ssrcs.as_slice()) {
            ("FID", &[primary, repair, ..]) => {
                self.repairs.push((primary, repair));
                self.secondary.push(repair);
            }
            ("FEC-FR", [_, rest @ ..]) => self.secondary.extend(rest),
            ("SIM", all) => self.simulcast = all.to_vec(),
            _ => {}
        }
    }

    fn primaries(&self) -> Vec<RemoteSsrc> {
        let order = if self.simulcast.is_empty() { &self.announced } else { &self.simulcast };
        let primary = |ssrc: &&u32| !self.secondary.contains(ssrc);
        let with_repair = |&ssrc: &u32| {
            let repair = self.repairs.iter().find(|(primary, _)| *primary == ssrc);
            RemoteSsrc { ssrc, rtx_ssrc: repair.map(|(_, repair)| *repair) }
        };
        order.iter().filter(primary).map(with_repair).collect()
    }
}

fn parse_msid(text: &str) -> Msid {
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next().unwrap_or_default().to_owned();
    Msid { stream_id: next(), track_id: next() }
}

fn check_mids(lines: &[RemoteLine]) -> Result<(), SdpError> {
    let mut seen = BTreeSet::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.rejected) {
        if !seen.insert(line.mid) {
            return Err(SdpError::DuplicateMid(Place { index, mid: line.mid }));
        }
    }
    Ok(())
}

/// The mids of the first `a=group:BUNDLE`.
fn bundle_group(session: &[Attribute]) -> Option<Vec<Mid>> {
    values(session, "group").find_map(|group| {
        let mut words = group.split_ascii_whitespace();
        words
            .next()
            .filter(|semantics| *semantics == "BUNDLE")
            .map(|_| words.filter_map(|mid| mid.parse().ok()).collect())
    })
}

/// More than one live m-line needs one transport for all. A line we reject anyway may have its own.
fn check_bundle(lines: &[RemoteLine], bundle: Option<&[Mid]>) -> Result<(), SdpError> {
    let alive = |line: &RemoteLine| !line.rejected && line.kind != LineKind::Other;
    let live = lines.iter().filter(|line| alive(line)).count();
    if live <= 1 {
        return Ok(());
    }
    let Some(bundle) = bundle else { return Err(SdpError::NotBundled { lines: live }) };
    let mut outside = lines.iter().enumerate().filter(|(_, line)| alive(line) && !bundle.contains(&line.mid));
    match outside.next() {
        Some((index, line)) => Err(SdpError::OutsideBundle(Place { index, mid: line.mid })),
        None => Ok(()),
    }
}

fn check_mux(lines: &[RemoteLine], medias: &[Media]) -> Result<(), SdpError> {
    for (index, (line, media)) in lines.iter().zip(medias).enumerate() {
        let needs_mux = !line.rejected && matches!(line.kind, LineKind::Media(_));
        if needs_mux && !flag(&media.attributes, "rtcp-mux") && !flag(&media.attributes, "rtcp-mux-only") {
            return Err(SdpError::NoRtcpMux(Place { index, mid: line.mid }));
        }
    }
    Ok(())
}

/// The transport of the bundle: that of the first live section that has credentials, with the session
/// level standing in for what it lacks (RFC 9143 §7.1.3 lets the other sections omit it).
fn parse_transport(session: &Session, lines: &[RemoteLine]) -> Result<Option<Transport>, SdpError> {
    let live =
        || lines.iter().zip(&session.medias).filter(|(line, _)| !line.rejected).map(|(_, media)| media);
    let with_ice = live().find(|media| value(&media.attributes, "ice-ufrag").is_some());
    let at_session = value(&session.attributes, "ice-ufrag").is_some();
    let own: &[Attribute] = match with_ice.or_else(|| live().next().filter(|_| at_session)) {
        Some(media) => &media.attributes,
        None if at_session => &[],
        None if lines.is_empty() || live().next().is_some() => return Err(SdpError::NoIceUfrag),
        None => return Ok(None),
    };
    let either = |name| value(own, name).or_else(|| value(&session.attributes, name));
    let (Some(ufrag), Some(pwd)) = (either("ice-ufrag"), either("ice-pwd")) else {
        return Err(SdpError::BadIceCredentials);
    };
    if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&pwd.len()) {
        return Err(SdpError::BadIceCredentials);
    }
    Ok(Some(Transport {
        ufrag: ufrag.to_owned(),
        pwd: pwd.to_owned(),
        fingerprints: fingerprints(own, &session.attributes)?,
        setup: parse_setup(either("setup"))?,
        candidates: values(own, "candidate")
            .take(CANDIDATES_MAX)
            .map(|rest| format!("candidate:{rest}"))
            .collect(),
    }))
}

fn parse_setup(setup: Option<&str>) -> Result<Setup, SdpError> {
    match setup.ok_or(SdpError::NoSetup)? {
        "actpass" => Ok(Setup::ActPass),
        "active" => Ok(Setup::Active),
        "passive" => Ok(Setup::Passive),
        other => Err(SdpError::BadSetup(other.to_owned())),
    }
}

/// All hashes we know of the section, or of the session if the section has none.
fn fingerprints(own: &[Attribute], session: &[Attribute]) -> Result<Vec<Fingerprint>, SdpError> {
    let at = if value(own, "fingerprint").is_some() { own } else { session };
    let mut found = Vec::new();
    for text in values(at, "fingerprint") {
        let (name, hex) = text.split_once(' ').unwrap_or((text, ""));
        let Some(algorithm) = HashAlgorithm::from_name(name) else { continue };
        let bytes = hex_pairs(hex.trim()).filter(|bytes| bytes.len() == algorithm.len());
        let bytes = bytes.ok_or_else(|| SdpError::BadFingerprint(text.to_owned()))?;
        let fingerprint = Fingerprint { algorithm, bytes };
        if !found.contains(&fingerprint) && found.len() < FINGERPRINTS_MAX {
            found.push(fingerprint);
        }
    }
    if found.is_empty() { Err(SdpError::NoFingerprint) } else { Ok(found) }
}

/// One certificate under each hash, for a peer with two certificates.
const FINGERPRINTS_MAX: usize = 6;

fn hex_pairs(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &str| {
        let plain = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
    };
    text.split(':').map(byte).collect()
}
