//! Two readers of one draft: str0m must understand the RTCP that we write, to the field.
//!
//! Only the public `TryFrom<&[u8]>` of str0m's RTCP is used, one packet at a time.

use fanline::forward::transport_cc::ArrivalRecorder;
use fanline::rtp::rtcp::{ReportBlock, Writer};
use fanline::time::{Clock, Time};
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
use str0m::rtp::rtcp::Rtcp;

/// What str0m reads in the one packet that `write` writes.
fn read_by_str0m(write: impl FnOnce(&mut Writer<'_>) -> bool) -> Rtcp {
    let mut buffer = [0; 1_200];
    let mut writer = Writer::new(&mut buffer);
    assert!(write(&mut writer));
    Rtcp::try_from(writer.finish()).expect("str0m reads what we write")
}

#[test]
fn reports_and_feedback_mean_the_same_to_str0m() {
    let report = ReportBlock {
        ssrc: 9,
        fraction_lost: 64,
        cumulative_lost: 12,
        highest_sequence: 0x1_0002,
        jitter: 30,
        last_sr: 0xaabb_ccdd,
        delay_since_last_sr: 65_536,
    };
    match read_by_str0m(|w| w.sender_report(1, 0, 90_000, 3, 4, &[report])) {
        Rtcp::SenderReport(sr) => {
            let info = &sr.sender_info;
            assert_eq!((*info.ssrc, info.rtp_time.numer()), (1, 90_000));
            assert_eq!((info.sender_packet_count, info.sender_octet_count), (3, 4));
            assert_eq!(sr.reports.len(), 1);
        }
        other => panic!("{other:?}"),
    }
    match read_by_str0m(|w| w.receiver_report(1, &[report])) {
        Rtcp::ReceiverReport(rr) => {
            let read = rr.reports.iter().next().unwrap();
            assert_eq!((*read.ssrc, read.fraction_lost, read.packets_lost), (9, 64, 12));
            assert_eq!((read.max_seq, read.jitter), (0x1_0002, 30));
            assert_eq!((read.last_sr_time, read.last_sr_delay), (0xaabb_ccdd, 65_536));
        }
        other => panic!("{other:?}"),
    }
    match read_by_str0m(|w| w.nack(1, 2, &[65_535, 0, 15, 100])) {
        Rtcp::Nack(nack) => {
            let entries: Vec<_> = nack.reports.iter().map(|entry| (entry.pid, entry.blp)).collect();
            assert_eq!((*nack.ssrc, entries), (2, vec![(65_535, 0x8001), (100, 0)]));
        }
        other => panic!("{other:?}"),
    }
    match read_by_str0m(|w| w.pli(1, 2)) {
        Rtcp::Pli(pli) => assert_eq!((*pli.sender_ssrc, *pli.ssrc), (1, 2)),
        other => panic!("{other:?}"),
    }
    match read_by_str0m(|w| w.fir(1, 2, 3)) {
        Rtcp::Fir(fir) => {
            let entries: Vec<_> = fir.reports.iter().map(|entry| (*entry.ssrc, entry.seq_no)).collect();
            assert_eq!(entries, [(2, 3)]);
        }
        other => panic!("{other:?}"),
    }
    match read_by_str0m(|w| w.sdes_cname(1, "fanline")) {
        Rtcp::SourceDescription(sdes) => assert!(format!("{sdes:?}").contains("fanline")),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn arrivals_mean_the_same_to_str0m(
        first: u16, gaps in vec((prop_oneof![5 => Just(1u16), 1 => 1u16..40], 0u64..40_000), 1..200),
    ) {
        // The zero of str0m's clock is that of the reference time, which wraps after 2^24 units of 64 ms.
        const WRAP_US: u64 = 64_000 << 24;
        let mut now = Time(1_800_000_000_000_000);
        let mut recorder = ArrivalRecorder::new();
        let mut sequence = u64::from(first) + 65_536;
        let mut recorded = vec![];
        for (gap, gap_us) in gaps {
            sequence += u64::from(gap);
            now = now.plus_us(gap_us);
            recorder.record(sequence as u16, now);
            recorded.push((sequence as u16, now.0 / 250 * 250 % WRAP_US));
        }
        let Rtcp::Twcc(twcc) = read_by_str0m(|w| recorder.feedback(w, 1, 2)) else { panic!() };
        let zero = Clock::start().instant(Time(0));
        let read: Vec<_> = twcc
            .into_iter(zero, u64::from(first).into())
            .filter_map(|(sequence, _, arrival)| {
                let since_zero: Duration = arrival?.duration_since(zero);
                Some((*sequence as u16, since_zero.as_micros() as u64))
            })
            .collect();
        prop_assert_eq!(read, recorded);
    }
}
