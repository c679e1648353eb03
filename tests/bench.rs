//! The load generator against a real server: a report must be what happened.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanline")).env_clear().arg("bench").args(args).output().unwrap()
}

/// Runs a benchmark and returns its report, as JSON, as text, and as HTML.
fn report(args: &[&str]) -> (Value, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html) = (path("report.json"), path("report.html"));
    let output = bench(&[args, &["--json", &json, "--html", &html]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (serde_json::from_str(&read(&json)).unwrap(), text, read(&html))
}

fn number(report: &Value, pointer: &str) -> u64 {
    let value = report.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {report}"));
    value.as_u64().unwrap_or_else(|| panic!("{pointer} is {value}"))
}

#[test]
fn every_packet_of_a_small_room_is_accounted_for() {
    let (report, text, html) = report(&[
        "room",
        "--speakers=2",
        "--listeners=20",
        "--seconds=2",
        "--warm-up-seconds=1",
        "--sample=4",
        "--storm-joins=10",
        "--storm-joins-per-second=20",
    ]);
    assert_eq!((number(&report, "/joins/joined"), number(&report, "/joins/failed")), (20, 0), "{report}");
    for (phase, name) in ["steady", "storm"].into_iter().enumerate() {
        let of = |field: &str| number(&report, &format!("/phases/{phase}/{field}"));
        assert_eq!(report["phases"][phase]["name"], name);
        let sent = of("sent");
        assert!((190..=210).contains(&sent), "two speakers send 50 packets/s each for 2 s, not {sent}");
        assert_eq!(of("listeners"), 20, "those of the storm do not count");
        assert_eq!(of("expected"), sent * 20);
        assert_eq!(of("received") + of("lost"), of("expected"));
        assert_eq!(
            [of("lost"), of("duplicates"), of("corrupt"), of("listeners_with_loss")],
            [0; 4],
            "{report}"
        );
        assert_eq!(of("decrypted"), sent * 5, "one listener in four decrypts every packet");
        let delay = |name: &str| of(&format!("delay_us/{name}"));
        assert!(0 < delay("p50") && delay("p50") <= delay("p99") && delay("p99") <= delay("max"), "{report}");
        assert!(of("cpu/raw/total_ns") > 0);
    }
    assert_eq!(number(&report, "/phases/1/joins/joined"), 10, "{report}");
    assert_eq!(report["doubts"].as_array().unwrap().iter().filter(|doubt| is_about_drops(doubt)).count(), 0);
    assert!(text.contains("20 of 20") && text.contains("server CPU per packet"), "{text}");
    assert!(
        html.contains("<svg") && html.contains("storm") && !html.contains("could not be drawn"),
        "{html}"
    );
}

fn is_about_drops(doubt: &Value) -> bool {
    doubt.as_str().unwrap().contains("dropped")
}

#[test]
fn bursts_of_video_beside_audio_arrive_whole() {
    let (report, _, _) = report(&[
        "room",
        "--media=both",
        "--listeners=4",
        "--seconds=2",
        "--warm-up-seconds=1",
        "--sample=1",
        "--video-kbps=1000",
    ]);
    let of = |field: &str| number(&report, &format!("/phases/0/{field}"));
    // 30 frames of 4,166 bytes are bursts of 4 packets.
    let sent = of("sent");
    assert!((300..=400).contains(&sent), "100 packets of audio and 240 of video, not {sent}");
    assert_eq!((of("lost"), of("corrupt"), of("decrypted")), (0, 0, sent * 4), "{report}");
}

#[test]
fn what_is_lost_on_the_way_to_the_server_is_asked_for_and_sent_again() {
    let lossy = |media: &str| {
        let media = format!("--media={media}");
        let args = ["room", &media, "--listeners=4", "--seconds=2", "--warm-up-seconds=1", "--sample=1"];
        report(&[&args[..], &["--video-kbps=1000", "--speaker-loss=5"]].concat())
    };
    let (video, text, _) = lossy("video");
    let of = |report: &Value, field: &str| number(report, &format!("/phases/0/{field}"));
    let (sent, retransmitted) = (of(&video, "sent"), of(&video, "retransmitted"));
    assert!(retransmitted * 100 >= sent * 3, "{retransmitted} of {sent}");
    assert_eq!((of(&video, "lost"), of(&video, "corrupt")), (0, 0), "{video}");
    assert!(text.contains("retransmitted by speakers"), "{text}");
    let (audio, ..) = lossy("audio");
    let (lost, expected) = (of(&audio, "lost"), of(&audio, "expected"));
    assert!(
        lost * 100 >= expected * 3 && lost * 100 <= expected * 7,
        "nobody asks for audio: {lost} of {expected}"
    );
    assert_eq!(of(&audio, "retransmitted"), 0);
}

#[test]
fn listeners_of_a_simulcast_get_the_encoding_that_they_ask_for() {
    for (rid, packets_per_frame) in [("f", 4), ("h", 1)] {
        let rid = format!("--rid={rid}");
        let args = ["room", "--media=video", "--simulcast", &rid, "--video-kbps=1000", "--listeners=4"];
        let (report, ..) = report(
            &[&args[..], &["--seconds=2", "--warm-up-seconds=2", "--sample=1", "--speaker-loss=2"]].concat(),
        );
        let of = |field: &str| number(&report, &format!("/phases/0/{field}"));
        let (least, most) = (58 * packets_per_frame, 61 * packets_per_frame);
        assert!((least..=most).contains(&of("sent")), "{rid}: {report}");
        assert_eq!((of("lost"), of("corrupt"), of("decrypted")), (0, 0, of("sent") * 4), "{rid}: {report}");
        assert!(of("retransmitted") > 0, "{rid}: {report}");
    }
}

#[test]
fn a_search_ends_at_its_last_step_when_all_pass() {
    let (report, text, _) = report(&[
        "capacity",
        "--first=5",
        "--step=5",
        "--listeners-max=10",
        "--seconds=1",
        "--p99-us-max=1000000",
    ]);
    assert_eq!(number(&report, "/capacity/listeners"), 10, "{report}");
    assert_eq!(report["phases"].as_array().unwrap().len(), 2);
    assert_eq!(number(&report, "/joins/joined"), 10);
    assert!(text.contains("10 listeners on 1 cores"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() {
    let problems = [
        (
            &["room", "--api", "http://127.0.0.1:1/v1", "--app-id", "a", "--app-secret", "b"][..],
            "127.0.0.1:1",
        ),
        (&["room", "--server-cores", "4096"][..], "--server-cores: core 4096"),
        (&["room", "--client-net", "127.0.0.0/30", "--listeners", "9"][..], "--client-net"),
        (&["room", "--simulcast", "--media", "audio"][..], "--simulcast is of video"),
    ];
    for (args, problem) in problems {
        let output = bench(args);
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("fanline: ") && last.contains(problem), "{said}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    }
}
