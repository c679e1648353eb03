//! What holds for any text and any order of verbs.

use std::sync::LazyLock;

use super::*;

/// The tracks of all recorded publishers.
static SOURCES: LazyLock<Vec<Send>> = LazyLock::new(|| ALL.iter().flat_map(|sdp| tracks_of(sdp)).collect());

/// One step of a session, as control or the client may take it.
#[derive(Debug, Clone)]
enum Step {
    /// The client adds a line and publishes on it.
    Push(MediaKind),
    /// We offer a track; the client answers, rejects, or is never heard of again.
    Pull { source: usize, reply: Reply },
    /// The client stops the transceiver at this index.
    Stop(usize),
    /// We close the line at this index.
    Close(usize),
    /// The client offers what it has.
    Refresh,
}

#[derive(Debug, Clone, Copy)]
enum Reply {
    Accept,
    Reject,
    Silence { applied: bool },
}

/// A client by the book: the sections it knows, in order.
struct Client {
    sections: Vec<ClientLine>,
    next_mid: u32,
}

#[derive(Clone)]
struct ClientLine {
    mid: String,
    body: Option<String>,
    header: String,
}

impl Client {
    fn offer(&self) -> String {
        self.describe("actpass")
    }

    fn describe(&self, setup: &str) -> String {
        let live: Vec<&str> =
            self.sections.iter().filter(|line| line.body.is_some()).map(|line| line.mid.as_str()).collect();
        let mut text = format!(
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=ice-ufrag:abcd\r\n\
             a=ice-pwd:0123456789abcdefghijkl\r\na=setup:{setup}\r\na=fingerprint:sha-256 {}\r\n",
            live.join(" "),
            ["00"; 32].join(":")
        );
        for line in &self.sections {
            let port = if line.body.is_some() { 9 } else { 0 };
            text += &format!("{}\r\na=mid:{}\r\n", line.header.replace("PORT", &port.to_string()), line.mid);
            text += line.body.as_deref().unwrap_or("a=inactive\r\n");
        }
        text
    }

    /// Takes over our offer: our sections seen from the other side.
    fn apply(&mut self, ours: &str) {
        let swapped = answer_to(ours);
        self.sections.clear();
        for section in swapped.split("m=").skip(1) {
            let (header, rest) = section.split_once("\r\n").unwrap();
            let mid = rest.lines().find_map(|line| line.strip_prefix("a=mid:")).unwrap().to_owned();
            let words: Vec<&str> = header.splitn(3, ' ').collect();
            let skipped = ["a=mid:", "a=setup:", "a=ice-", "a=candidate", "a=end-of"];
            let kept = rest.lines().filter(|line| !skipped.iter().any(|skip| line.starts_with(skip)));
            let body: String = kept.map(|line| format!("{line}\r\n")).collect();
            let alive = words[1] != "0";
            self.sections.push(ClientLine {
                mid,
                header: format!("m={} PORT {}", words[0], words[2]),
                body: alive.then_some(body),
            });
        }
    }

    fn push(&mut self, kind: MediaKind) -> String {
        let sample = offer(CHROMIUM);
        let found = CHROMIUM.split("m=").skip(1).find(|section| section.starts_with(kind.as_str())).unwrap();
        assert!(!sample.lines().is_empty());
        let (header, rest) = found.split_once('\n').unwrap();
        let skipped = ["a=mid:", "a=setup:", "a=ice-", "a=fingerprint"];
        let kept = rest.lines().filter(|line| !skipped.iter().any(|skip| line.starts_with(skip)));
        let mid = format!("c{}", self.next_mid);
        self.next_mid += 1;
        self.sections.push(ClientLine {
            mid: mid.clone(),
            header: format!("m={}", header.trim().replacen(" 9 ", " PORT ", 1)),
            body: Some(kept.map(|line| format!("{line}\r\n")).collect()),
        });
        mid
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(MediaKind::Audio), Just(MediaKind::Video)];
    let reply = prop_oneof![
        4 => Just(Reply::Accept),
        1 => Just(Reply::Reject),
        1 => any::<bool>().prop_map(|applied| Reply::Silence { applied }),
    ];
    let step = prop_oneof![
        kind.prop_map(Step::Push),
        (0usize..8, reply).prop_map(|(source, reply)| Step::Pull { source, reply }),
        (0usize..12).prop_map(Step::Stop),
        (0usize..12).prop_map(Step::Close),
        Just(Step::Refresh),
    ];
    proptest::collection::vec(step, 1..24)
}

fn run(step: &Step, session: &mut Negotiation, client: &mut Client, sources: &[Send]) -> Option<String> {
    match step {
        Step::Push(kind) => {
            let mid: Mid = client.push(*kind).parse().unwrap();
            let answer = session.answer(&offer(&client.offer()), &[(mid, Intent::Receive)]).unwrap();
            assert!(session.line(mid).unwrap().receive.is_some());
            Some(answer)
        }
        Step::Pull { source, reply } => {
            let source = sources[source % sources.len()].clone();
            let (text, mids) = session.offer(vec![source], false).unwrap();
            match reply {
                Reply::Silence { applied } => {
                    session.abandon_offer();
                    if *applied {
                        client.apply(&text);
                    }
                }
                Reply::Accept => {
                    client.apply(&text);
                    session.apply_answer(&answer(&client.describe("active"))).unwrap();
                    assert!(session.line(mids[0]).unwrap().send.is_some());
                }
                Reply::Reject => {
                    client.apply(&text);
                    let rejected = client.sections.iter_mut().find(|line| line.mid == mids[0].as_str());
                    rejected.unwrap().body = None;
                    session.apply_answer(&answer(&client.describe("active"))).unwrap();
                    assert_eq!(session.line(mids[0]).unwrap().state, LineState::Closed);
                }
            }
            Some(text)
        }
        Step::Stop(index) => {
            if let Some(line) = client.sections.get_mut(*index) {
                line.body = None;
            }
            Some(session.answer(&offer(&client.offer()), &[]).unwrap())
        }
        Step::Close(index) => {
            let mid = session.lines().get(*index).map(|line| line.mid)?;
            session.close(mid);
            None
        }
        Step::Refresh => Some(session.answer(&offer(&client.offer()), &[]).unwrap()),
    }
}

/// What must hold of every description we write.
fn check(text: &str, version: &mut u64) {
    let ours = Remote::parse(Kind::Offer, text).unwrap();
    let live = || ours.lines().iter().filter(|line| !line.rejected);
    let mut meanings: BTreeMap<u8, String> = BTreeMap::new();
    let mut ids: BTreeMap<u8, Extension> = BTreeMap::new();
    for line in live() {
        for codec in &line.codecs {
            let meaning = format!("{:?}", codec.key());
            assert_eq!(meanings.entry(codec.pt).or_insert(meaning.clone()), &meaning);
            if let Some(rtx) = codec.rtx_pt {
                let meaning = format!("rtx {}", codec.pt);
                assert_eq!(meanings.entry(rtx).or_insert(meaning.clone()), &meaning);
            }
        }
        for extension in &line.extensions {
            assert_eq!(*ids.entry(extension.id).or_insert(extension.extension), extension.extension);
        }
    }
    let origin = text.lines().find(|line| line.starts_with("o=")).unwrap();
    let written: u64 = origin.split(' ').nth(2).unwrap().parse().unwrap();
    assert!(written > *version, "the version of o= increases");
    *version = written;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_text_panics(text in ".{0,400}", answered in any::<bool>()) {
        let kind = if answered { Kind::Answer } else { Kind::Offer };
        let _ = Remote::parse(kind, &text);
    }

    #[test]
    fn no_mutation_of_a_real_offer_panics(
        which in 0usize..ALL.len(),
        cuts in proptest::collection::vec((0usize..6_000, 0usize..40, "[ -~\r\n]{0,12}"), 0..6),
    ) {
        let mut text = ALL[which].to_owned();
        for (at, length, insert) in cuts {
            let at = at % (text.len() + 1);
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &insert);
            }
        }
        let Ok(remote) = Remote::parse(Kind::Offer, &text) else { return Ok(()) };
        let mut session = session();
        let intents: Vec<_> =
            remote.lines().iter().filter(|line| line.direction.sends()).map(|line| (line.mid, Intent::Receive)).collect();
        for intents in [&intents[..], &[]] {
            if let Ok(answer) = session.answer(&remote, intents) {
                let ours = Remote::parse(Kind::Answer, &answer).unwrap();
                prop_assert_eq!(ours.lines().len(), remote.lines().len());
            }
        }
        let _ = session.offer(SOURCES.clone(), true);
    }

    #[test]
    fn any_life_of_a_session_keeps_its_numbers_and_lines(steps in steps()) {
        let mut session = session();
        let mut client = Client { sections: Vec::new(), next_mid: 0 };
        // A session begins with data channels or media; an empty client cannot offer.
        client.push(MediaKind::Audio);
        session.answer(&offer(&client.offer()), &[]).unwrap();
        let mut version = 1;
        for step in &steps {
            let agreed = client.sections.len();
            let text = run(step, &mut session, &mut client, &SOURCES);
            prop_assert!(session.lines().len() >= agreed, "m-lines never go");
            if let Some(text) = text {
                check(&text, &mut version);
            }
        }
        let text = session.answer(&offer(&client.offer()), &[]).unwrap();
        let written = Remote::parse(Kind::Answer, &text).unwrap();
        let mids: Vec<String> = written.lines().iter().map(|line| line.mid.to_string()).collect();
        let offered: Vec<String> = client.sections.iter().map(|line| line.mid.clone()).collect();
        prop_assert_eq!(mids, offered, "an answer keeps the order of its offer");
    }
}
