//! RTCP read and written: what one writes the other reads, and no bytes make it panic.

use super::*;
use crate::drop_reason::DropReason;
use proptest::collection::vec;
use proptest::prelude::*;

/// Writes with `write` into a large buffer and returns the compound.
fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = [0xee; 4096];
    let mut writer = Writer::new(&mut buffer);
    write(&mut writer);
    writer.finish().to_vec()
}

fn only(compound: &[u8]) -> Packet<'_> {
    let mut packets = packets(compound);
    let packet = packets.next().unwrap().unwrap();
    assert!(packets.next().is_none());
    packet
}

fn nack_sequences(compound: &[u8]) -> Vec<u16> {
    match only(compound) {
        Packet::Nack { sequences, .. } => sequences.collect(),
        other => panic!("{other:?}"),
    }
}

type DecodedFeedback = (u16, u8, Vec<(u16, Option<i64>)>);

fn feedback(compound: &[u8]) -> DecodedFeedback {
    let Packet::TransportFeedback { body, .. } = only(compound) else { panic!("{compound:?}") };
    let feedback = TransportFeedback::parse(body).unwrap();
    (feedback.base_sequence, feedback.feedback_count, feedback.statuses().collect())
}

const REPORT: ReportBlock = ReportBlock {
    ssrc: 0x0102_0304,
    fraction_lost: 64,
    cumulative_lost: -2,
    highest_sequence: 0x0001_fffe,
    jitter: 30,
    last_sr: 0xaabb_ccdd,
    delay_since_last_sr: 65_536,
};

#[test]
fn sender_report_has_the_layout_of_rfc_3550() {
    let compound = written(|w| assert!(w.sender_report(1, 0x0a0b_0c0d_0e0f_1011, 2, 3, 4, &[REPORT])));
    assert_eq!(
        compound,
        [
            0x81, 200, 0, 12, 0, 0, 0, 1, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0, 0, 0, 2, 0, 0,
            0, 3, 0, 0, 0, 4, // the report block:
            1, 2, 3, 4, 64, 0xff, 0xff, 0xfe, 0, 1, 0xff, 0xfe, 0, 0, 0, 30, 0xaa, 0xbb, 0xcc, 0xdd, 0, 1, 0,
            0
        ]
    );
}

#[test]
fn compound_of_report_description_and_feedback_is_read_in_order() {
    let compound = written(|w| {
        assert!(w.receiver_report(7, &[REPORT]));
        assert!(w.sdes_cname(7, "fanline"));
        assert!(w.pli(7, 8));
        assert!(w.fir(7, 9, 200));
        assert!(w.goodbye(&[7, 8]));
    });
    let read: Vec<_> = packets(&compound).map(Result::unwrap).collect();
    let [
        Packet::ReceiverReport { ssrc: 7, reports },
        Packet::SourceDescription { cnames },
        Packet::PictureLossIndication { sender: 7, media: 8 },
        Packet::FullIntraRequest { sender: 7, entries },
        Packet::Goodbye { ssrcs },
    ] = &read[..]
    else {
        panic!("{read:?}")
    };
    assert_eq!(reports.clone().collect::<Vec<_>>(), [REPORT]);
    assert_eq!(cnames.clone().collect::<Vec<_>>(), [(7, &b"fanline"[..])]);
    assert_eq!(entries.clone().collect::<Vec<_>>(), [(9, 200)]);
    assert_eq!(ssrcs.clone().collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn nack_packs_seventeen_numbers_into_a_pair_and_crosses_the_wrap() {
    let sequences = [65_534, 65_535, 0, 14, 15, 100];
    let compound = written(|w| assert!(w.nack(1, 2, &sequences)));
    // 65,534 with bits for +1, +2 and +16; 15 is 17 later and opens the next pair.
    assert_eq!(compound[12..], [0xff, 0xfe, 0x80, 0x03, 0, 15, 0, 0, 0, 100, 0, 0]);
    assert_eq!(nack_sequences(&compound), sequences);
}

#[test]
fn nack_for_nothing_writes_nothing() {
    assert!(written(|w| assert!(w.nack(1, 2, &[]))).is_empty());
}

#[test]
fn names_of_sources_without_a_canonical_one_are_left_out() {
    let compound = [
        0x82, 202, 0, 5, // two sources
        0, 0, 0, 1, 6, 2, b't', b'o', 0, 0, 0, 0, // a tool, then 4 zeros: its end and the padding
        0, 0, 0, 2, 1, 1, b'x', 0,
    ];
    let Packet::SourceDescription { cnames } = only(&compound) else { panic!() };
    assert_eq!(cnames.collect::<Vec<_>>(), [(2, &b"x"[..])]);
}

#[test]
fn remb_of_chromium_is_read() {
    // 1,000,000 bit/s = 250,000 << 2, for one source.
    let compound =
        [0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 0x0b, 0xd0, 0x90, 0, 0, 0, 9];
    let Packet::Remb { sender: 1, bitrate_bps: 1_000_000, ssrcs } = only(&compound) else { panic!() };
    assert_eq!(ssrcs.collect::<Vec<_>>(), [9]);
    assert_eq!(written(|w| assert!(w.remb(1, 1_000_000, &[9]))), compound);
}

#[test]
fn receiver_reference_time_is_found_behind_other_blocks() {
    let compound = [
        0x80, 207, 0, 6, 0, 0, 0, 1, // from source 1
        7, 0, 0, 1, 0, 0, 0, 0, // a block we skip
        4, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8,
    ];
    let Packet::ExtendedReport { ssrc: 1, receiver_reference_ntp: Some(ntp) } = only(&compound) else {
        panic!()
    };
    assert_eq!(ntp, 0x0102_0304_0506_0708);
}

#[test]
fn padding_is_no_part_of_the_packet() {
    let compound = [0xa1, 203, 0, 2, 0, 0, 0, 7, 0, 0, 0, 4];
    let Packet::Goodbye { ssrcs } = only(&compound) else { panic!() };
    assert_eq!(ssrcs.collect::<Vec<_>>(), [7]);
    for count in [0, 9] {
        let compound = [0xa1, 203, 0, 2, 0, 0, 0, 7, 0, 0, 0, count];
        assert_eq!(
            packets(&compound).map(|p| p.err()).collect::<Vec<_>>(),
            [Some(DropReason::MalformedRtcp)]
        );
    }
}

#[test]
fn wrong_length_gives_one_error_after_what_was_right() {
    let mut compound = written(|w| {
        assert!(w.pli(1, 2));
        assert!(w.pli(1, 2));
        assert!(w.pli(1, 2));
    });
    compound[15] = 99;
    let outcomes: Vec<_> = packets(&compound).map(|packet| packet.err()).collect();
    assert_eq!(outcomes, [None, Some(DropReason::MalformedRtcp)]);

    compound[15] = 2;
    compound[12] = 0x41;
    assert_eq!(packets(&compound).count(), 2, "another version");
    let too_many_reports = [0x82, 201, 0, 1, 0, 0, 0, 1];
    assert!(packets(&too_many_reports).all(|packet| packet.is_err()));
}

#[test]
fn unknown_packets_are_passed_over() {
    let compound = [0x80, 204, 0, 1, 1, 2, 3, 4, 0x83, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let types: Vec<_> = packets(&compound)
        .map(|packet| match packet.unwrap() {
            Packet::Unknown { packet_type } => packet_type,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(types, [204, 205]);
}

#[test]
fn packet_that_does_not_fit_leaves_the_writer_as_it_was() {
    let mut buffer = [0; 27];
    let mut writer = Writer::new(&mut buffer);
    assert!(writer.pli(1, 2));
    assert!(!writer.fir(1, 2, 3));
    assert!(!writer.nack(1, 2, &[1, 100]));
    assert!(!writer.receiver_report(1, &[REPORT; 32]));
    assert_eq!(writer.transport_feedback(1, 2, 0, 0, [Some(0)].into_iter()), 0);
    assert!(writer.pli(3, 4));
    assert_eq!(writer.len(), 24);
}

#[test]
fn more_than_31_of_anything_is_refused() {
    let compound = written(|w| {
        assert!(!w.receiver_report(1, &[REPORT; 32]));
        assert!(!w.sender_report(1, 0, 0, 0, 0, &[REPORT; 32]));
        assert!(!w.goodbye(&[0; 32]));
        assert!(!w.sdes_cname(1, &"x".repeat(256)));
    });
    assert!(compound.is_empty());
}

#[test]
fn feedback_of_one_packet_has_the_layout_of_the_draft() {
    // Tick 1,000 is reference 3 (768) and 232 more.
    let compound = written(|w| assert_eq!(w.transport_feedback(1, 2, 9, 500, [Some(1_000)].into_iter()), 1));
    assert_eq!(
        compound,
        [
            0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0x01, 0xf4, 0, 1, 0, 0, 3,
            9, // one run of one small delta
            0x20, 0x01, 232, 0
        ]
    );
    assert_eq!(feedback(&compound), (500, 9, vec![(500, Some(1_000))]));
}

#[test]
fn every_form_of_chunk_is_read() {
    // A run of 221 lost (the example of §3.1.3); 1 lost, 5 received, 3 lost, 3 received, 2 lost (that of
    // §3.1.4); and in two bits 1 lost, 1 with a large delta, 2 small, 3 lost.
    let mut body = vec![0, 0, 0, 221 + 14 + 7, 0, 0, 0, 0];
    body.extend([0x00, 0xdd, 0b1001_1111, 0b0001_1100, 0b1100_1001, 0b0100_0000]);
    body.extend([1, 1, 1, 1, 1, 1, 1, 1, 0xff, 0xfe, 1, 1]);
    let statuses: Vec<_> = TransportFeedback::parse(&body).unwrap().statuses().collect();
    let received: Vec<_> = statuses.iter().filter_map(|&(seq, ticks)| Some((seq, ticks?))).collect();
    assert_eq!(statuses.len(), 242);
    assert_eq!(
        received,
        [
            (222, 1),
            (223, 2),
            (224, 3),
            (225, 4),
            (226, 5),
            (230, 6),
            (231, 7),
            (232, 8),
            (236, 6),
            (237, 7),
            (238, 8)
        ]
    );
}

#[test]
fn reserved_status_and_missing_deltas_are_malformed() {
    let fixed = [0, 0, 0, 1, 0, 0, 0, 0];
    for chunk_and_deltas in [&[0x60, 1, 1][..], &[0xf0, 0, 1], &[0x20, 1], &[0x40, 1, 0], &[0x20, 0, 0x20]] {
        let body = [&fixed, chunk_and_deltas].concat();
        assert_eq!(TransportFeedback::parse(&body).err(), Some(DropReason::MalformedRtcp), "{body:?}");
    }
}

#[test]
fn feedback_ends_before_a_delta_that_has_no_form() {
    let arrivals = [Some(0), None, Some(40_000)];
    let compound = written(|w| assert_eq!(w.transport_feedback(1, 2, 0, 0, arrivals.into_iter()), 2));
    assert_eq!(feedback(&compound).2, [(0, Some(0)), (1, None)]);
}

#[test]
fn reference_time_before_zero_keeps_its_sign() {
    let compound = written(|w| assert_eq!(w.transport_feedback(1, 2, 0, 0, [Some(-5)].into_iter()), 1));
    assert_eq!(feedback(&compound).2, [(0, Some(-5))]);
}

prop_compose! {
    fn any_report()(
        ssrc: u32, fraction_lost: u8, cumulative_lost in -0x80_0000i32..0x80_0000, highest_sequence: u32,
        jitter: u32, last_sr: u32, delay_since_last_sr: u32,
    ) -> ReportBlock {
        ReportBlock { ssrc, fraction_lost, cumulative_lost, highest_sequence, jitter, last_sr, delay_since_last_sr }
    }
}

/// Arrivals as gaps in ticks: mostly small, some large or negative, some lost.
fn any_arrivals() -> impl Strategy<Value = Vec<Option<i64>>> {
    let gap =
        prop_oneof![4 => (0i64..256).prop_map(Some), 1 => (-9_000i64..9_000).prop_map(Some), 3 => Just(None)];
    let runs = vec((gap, 1usize..30), 0..40);
    (0i64..1 << 30, runs).prop_map(|(start, runs)| {
        let mut ticks = start;
        let gaps = runs.into_iter().flat_map(|(gap, n)| std::iter::repeat_n(gap, n));
        gaps.map(|gap| {
            gap.map(|gap| {
                ticks += gap;
                ticks
            })
        })
        .collect()
    })
}

proptest! {
    #[test]
    fn reports_are_read_as_written(
        ssrc: u32, ntp: u64, rtp: u32, sent: u32, sent_octets: u32, blocks in vec(any_report(), 0..=31),
    ) {
        let compound = written(|w| {
            assert!(w.sender_report(ssrc, ntp, rtp, sent, sent_octets, &blocks));
            assert!(w.receiver_report(ssrc, &blocks));
        });
        let mut read = packets(&compound).map(Result::unwrap);
        match read.next().unwrap() {
            Packet::SenderReport { ssrc: s, ntp: n, rtp: r, packets, octets, reports } => {
                prop_assert_eq!((s, n, r, packets, octets), (ssrc, ntp, rtp, sent, sent_octets));
                prop_assert_eq!(reports.collect::<Vec<_>>(), blocks.clone());
            }
            other => panic!("{other:?}"),
        }
        match read.next().unwrap() {
            Packet::ReceiverReport { ssrc: s, reports } => {
                prop_assert_eq!(s, ssrc);
                prop_assert_eq!(reports.collect::<Vec<_>>(), blocks);
            }
            other => panic!("{other:?}"),
        }
        prop_assert!(read.next().is_none());
    }

    #[test]
    fn nacked_sequences_are_read_as_written(start: u16, gaps in vec(1u16..40, 0..100)) {
        let sequences: Vec<_> = std::iter::once(start)
            .chain(gaps.iter().scan(start, |at, gap| {
                *at = at.wrapping_add(*gap);
                Some(*at)
            }))
            .collect();
        let compound = written(|w| assert!(w.nack(1, 2, &sequences)));
        prop_assert_eq!(nack_sequences(&compound), sequences);
    }

    #[test]
    fn small_packets_are_read_as_written(a: u32, b: u32, n: u8, cname in "[ -~]{0,255}", ssrcs in vec(any::<u32>(), 0..=31)) {
        let compound = written(|w| {
            assert!(w.sdes_cname(a, &cname));
            assert!(w.fir(a, b, n));
            assert!(w.pli(a, b));
            assert!(w.goodbye(&ssrcs));
        });
        let read: Vec<_> = packets(&compound).map(Result::unwrap).collect();
        let [Packet::SourceDescription { cnames }, Packet::FullIntraRequest { sender, entries },
             Packet::PictureLossIndication { sender: s, media }, Packet::Goodbye { ssrcs: left }] = &read[..] else {
            panic!("{read:?}")
        };
        prop_assert_eq!(cnames.clone().collect::<Vec<_>>(), [(a, cname.as_bytes())]);
        prop_assert_eq!((*sender, entries.clone().collect::<Vec<_>>()), (a, vec![(b, n)]));
        prop_assert_eq!((*s, *media), (a, b));
        prop_assert_eq!(left.clone().collect::<Vec<_>>(), ssrcs);
    }

    #[test]
    fn remb_keeps_18_significant_bits(bitrate: u64, shift in 0u32..64, ssrcs in vec(any::<u32>(), 0..255)) {
        let bitrate = bitrate >> shift;
        let compound = written(|w| assert!(w.remb(1, bitrate, &ssrcs)));
        let Packet::Remb { bitrate_bps, ssrcs: read, .. } = only(&compound) else { panic!() };
        prop_assert!(bitrate_bps <= bitrate && bitrate - bitrate_bps <= bitrate >> 17);
        prop_assert_eq!(read.collect::<Vec<_>>(), ssrcs);
    }

    #[test]
    fn feedback_is_read_as_written_over_as_many_packets_as_it_takes(
        base: u16, arrivals in any_arrivals(), room in 24usize..1200,
    ) {
        let mut rest = &arrivals[..];
        let mut sequence = base;
        while rest.iter().any(Option::is_some) {
            let mut buffer = vec![0; room];
            let mut writer = Writer::new(&mut buffer);
            let told = writer.transport_feedback(1, 2, 3, sequence, rest.iter().copied());
            prop_assert!(told > 0);
            let compound = writer.finish();
            let (read_base, count, statuses) = feedback(compound);
            prop_assert_eq!((read_base, count), (sequence, 3));
            prop_assert_eq!(statuses.iter().map(|&(_, ticks)| ticks).collect::<Vec<_>>(), &rest[..told]);
            sequence = sequence.wrapping_add(told as u16);
            rest = &rest[told..];
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), headers in vec((0x80u8..0xc0, 199u8..208, 0u8..12), 0..4)) {
        let mut bytes = bytes;
        for (i, (flags, packet_type, words)) in headers.into_iter().enumerate() {
            if let Some(header) = bytes.get_mut(i * 24..).and_then(|rest| rest.first_chunk_mut::<4>()) {
                *header = [flags, packet_type, 0, words];
            }
        }
        for packet in packets(&bytes).flatten() {
            let entries = match packet {
                Packet::SenderReport { reports, .. } | Packet::ReceiverReport { reports, .. } => reports.count(),
                Packet::SourceDescription { cnames } => cnames.count(),
                Packet::Goodbye { ssrcs } | Packet::Remb { ssrcs, .. } => ssrcs.count(),
                // A pair of 4 bytes is up to 17 entries.
                Packet::Nack { sequences, .. } => sequences.count() / 17,
                Packet::FullIntraRequest { entries, .. } => entries.count(),
                _ => 0,
            };
            prop_assert!(4 * entries <= bytes.len());
        }
        if let Ok(feedback) = TransportFeedback::parse(&bytes) {
            let announced = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            prop_assert_eq!(feedback.statuses().count(), announced);
        }
    }
}
