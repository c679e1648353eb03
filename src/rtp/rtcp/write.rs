//! Writing compound RTCP into the caller's buffer.
//!
//! A packet is written whole or not at all: its length is known before its first byte. Deliberately absent:
//! the rules for what a compound must hold (a report first, an SDES after it, RFC 3550 §6.1); the caller
//! follows them, or RFC 5506 for reduced-size ones.
#![deny(clippy::indexing_slicing)]

use super::transport_feedback::{Chunk, FIXED_LEN, Symbol, TICKS_PER_REFERENCE};
use super::{
    COUNT_MAX, REMB_IDENTIFIER, ReportBlock, SDES_CNAME, packet_type, payload_format, transport_format,
};

const HEADER_LEN: usize = 4;
const REPORT_BLOCK_LEN: usize = 24;
/// The two SSRCs that open every feedback packet (RFC 4585 §6.1).
const FEEDBACK_SSRCS_LEN: usize = 8;

/// Appends RTCP packets to a buffer. Methods that return `bool` say false, and have written nothing, when
/// the packet does not fit or its form cannot hold what it was given.
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The compound packet.
    pub fn finish(self) -> &'a [u8] {
        let Self { buffer, len } = self;
        buffer.get(..len).unwrap_or(&[])
    }

    /// At most 31 blocks.
    pub fn sender_report(
        &mut self,
        ssrc: u32,
        ntp: u64,
        rtp: u32,
        packets: u32,
        octets: u32,
        reports: &[ReportBlock],
    ) -> bool {
        let body_len = 24 + REPORT_BLOCK_LEN * reports.len();
        self.packet(reports.len(), packet_type::SENDER_REPORT, body_len, |body| {
            body.u32(ssrc).u64(ntp).u32(rtp).u32(packets).u32(octets).reports(reports);
        })
    }

    /// At most 31 blocks.
    pub fn receiver_report(&mut self, ssrc: u32, reports: &[ReportBlock]) -> bool {
        let body_len = 4 + REPORT_BLOCK_LEN * reports.len();
        self.packet(reports.len(), packet_type::RECEIVER_REPORT, body_len, |body| {
            body.u32(ssrc).reports(reports);
        })
    }

    /// A source description of one source with its canonical name, of at most 255 bytes.
    pub fn sdes_cname(&mut self, ssrc: u32, cname: &str) -> bool {
        let Ok(cname_len) = u8::try_from(cname.len()) else { return false };
        // SSRC, item type, length, text, and at least one zero that ends the chunk.
        let body_len = (4 + 2 + cname.len() + 1).next_multiple_of(4);
        self.packet(1, packet_type::SOURCE_DESCRIPTION, body_len, |body| {
            body.u32(ssrc).u8(SDES_CNAME).u8(cname_len).bytes(cname.as_bytes());
        })
    }

    /// At most 31 sources.
    pub fn goodbye(&mut self, ssrcs: &[u32]) -> bool {
        self.packet(ssrcs.len(), packet_type::GOODBYE, 4 * ssrcs.len(), |body| {
            body.ssrcs(ssrcs);
        })
    }

    /// Asks for `sequences`, which ascend (modulo 2^16). Each pair of the packet covers 17 numbers.
    /// A NACK for nothing is not a packet: true, and nothing is written.
    pub fn nack(&mut self, sender: u32, media: u32, sequences: &[u16]) -> bool {
        let pairs = NackPairs { sequences };
        let body_len = FEEDBACK_SSRCS_LEN + 4 * pairs.clone().count();
        sequences.is_empty()
            || self.packet(
                transport_format::NACK.into(),
                packet_type::TRANSPORT_LAYER_FEEDBACK,
                body_len,
                |body| {
                    body.u32(sender).u32(media);
                    for (packet_id, mask) in pairs {
                        body.u16(packet_id).u16(mask);
                    }
                },
            )
    }

    pub fn pli(&mut self, sender: u32, media: u32) -> bool {
        let format = payload_format::PICTURE_LOSS_INDICATION;
        self.packet(format.into(), packet_type::PAYLOAD_SPECIFIC_FEEDBACK, FEEDBACK_SSRCS_LEN, |body| {
            body.u32(sender).u32(media);
        })
    }

    /// A full intra request to one source. `request_sequence` is one more for each new request and the
    /// same for a repetition (RFC 5104 §4.3.1.2).
    pub fn fir(&mut self, sender: u32, media: u32, request_sequence: u8) -> bool {
        let format = payload_format::FULL_INTRA_REQUEST;
        let body_len = FEEDBACK_SSRCS_LEN + 8;
        self.packet(format.into(), packet_type::PAYLOAD_SPECIFIC_FEEDBACK, body_len, |body| {
            // The media source of the header is unused and 0; the entry names it.
            body.u32(sender).u32(0).u32(media).u8(request_sequence);
        })
    }

    /// The bitrate is rounded down to 18 significant bits. At most 255 sources.
    pub fn remb(&mut self, sender: u32, bitrate_bps: u64, ssrcs: &[u32]) -> bool {
        let Ok(count) = u8::try_from(ssrcs.len()) else { return false };
        let exponent = (u64::BITS - bitrate_bps.leading_zeros()).saturating_sub(18);
        let mantissa = (bitrate_bps >> exponent) as u32;
        let format = payload_format::APPLICATION;
        let body_len = FEEDBACK_SSRCS_LEN + 8 + 4 * ssrcs.len();
        self.packet(format.into(), packet_type::PAYLOAD_SPECIFIC_FEEDBACK, body_len, |body| {
            body.u32(sender).u32(0).bytes(&REMB_IDENTIFIER);
            body.u32(u32::from(count) << 24 | exponent << 18 | mantissa).ssrcs(ssrcs);
        })
    }

    /// Reports arrivals of consecutive packets, from `base_sequence` on: for each its arrival in ticks of
    /// 250 µs, or `None` if it did not come. Returns how many of them one packet could tell; the rest needs
    /// another. That is fewer than given when the buffer is full or an arrival is more than 8 s from
    /// the one before it. 0, and nothing is written, if not even one fits or none arrived.
    pub fn transport_feedback<I>(
        &mut self,
        sender: u32,
        media: u32,
        feedback_count: u8,
        base_sequence: u16,
        arrivals: I,
    ) -> usize
    where
        I: Iterator<Item = Option<i64>> + Clone,
    {
        let Some(first_arrival) = arrivals.clone().flatten().next() else { return 0 };
        let reference = first_arrival.div_euclid(TICKS_PER_REFERENCE);
        let deltas = Deltas { arrivals, ticks: reference * TICKS_PER_REFERENCE };

        let overhead = HEADER_LEN + FEEDBACK_SSRCS_LEN + FIXED_LEN;
        // Whole words, so that padding the deltas to 32 bits cannot overrun the buffer.
        let Some(room) = (self.buffer.len() - self.len).checked_sub(overhead).map(|room| room & !3) else {
            return 0;
        };
        let chunks =
            Chunks { symbols: deltas.clone().map(|(symbol, _)| symbol), room, left: u16::MAX.into() };
        let (statuses, len) = chunks
            .clone()
            .fold((0, 0), |(statuses, len), chunk| (statuses + chunk.symbols, len + 2 + chunk.delta_bytes));
        if statuses == 0 {
            return 0;
        }
        let body_len = FEEDBACK_SSRCS_LEN + FIXED_LEN + len.next_multiple_of(4);
        let format = transport_format::TRANSPORT_FEEDBACK;
        let written = self.packet(format.into(), packet_type::TRANSPORT_LAYER_FEEDBACK, body_len, |body| {
            body.u32(sender).u32(media).u16(base_sequence).u16(statuses as u16);
            body.u32((reference as u32) << 8 | u32::from(feedback_count));
            for chunk in chunks {
                body.u16(chunk.encoded.0);
            }
            for (symbol, delta) in deltas.take(statuses) {
                body.delta(symbol, delta);
            }
        });
        if written { statuses } else { 0 }
    }

    /// Reserves a packet, zeroed, writes its header and lets `fill` write the body, whose length is a
    /// multiple of 4. `count` is the five bits of count or format.
    fn packet(
        &mut self,
        count: usize,
        packet_type: u8,
        body_len: usize,
        fill: impl FnOnce(&mut Body<'_>),
    ) -> bool {
        let Ok(words) = u16::try_from(body_len / 4) else { return false };
        let end = self.len + HEADER_LEN + body_len;
        let Some(packet) = self.buffer.get_mut(self.len..end) else { return false };
        if count > COUNT_MAX {
            return false;
        }
        packet.fill(0);
        let mut body = Body(packet);
        body.u8(0x80 | count as u8).u8(packet_type).u16(words);
        fill(&mut body);
        self.len = end;
        true
    }
}

/// Writes big-endian fields off the front of a packet that was reserved at its exact length.
struct Body<'a>(&'a mut [u8]);

impl Body<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let rest = std::mem::take(&mut self.0);
        let (first, rest) = rest.split_at_mut_checked(bytes.len()).expect("a packet is reserved whole");
        first.copy_from_slice(bytes);
        self.0 = rest;
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn delta(&mut self, symbol: Symbol, delta: i16) -> &mut Self {
        match symbol {
            Symbol::NotReceived => self,
            Symbol::SmallDelta => self.u8(delta as u8),
            Symbol::LargeDelta => self.u16(delta as u16),
        }
    }

    fn ssrcs(&mut self, ssrcs: &[u32]) -> &mut Self {
        ssrcs.iter().fold(self, |body, &ssrc| body.u32(ssrc))
    }

    fn reports(&mut self, reports: &[ReportBlock]) -> &mut Self {
        reports.iter().fold(self, |body, report| {
            let lost = report.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
            body.u32(report.ssrc).u32(u32::from(report.fraction_lost) << 24 | lost);
            body.u32(report.highest_sequence).u32(report.jitter);
            body.u32(report.last_sr).u32(report.delay_since_last_sr)
        })
    }
}

/// Packs ascending sequence numbers into pairs of a packet id and the mask of the 16 after it
/// (RFC 4585 §6.2.1).
#[derive(Clone)]
struct NackPairs<'a> {
    sequences: &'a [u16],
}

impl Iterator for NackPairs<'_> {
    type Item = (u16, u16);

    fn next(&mut self) -> Option<(u16, u16)> {
        let (&packet_id, mut rest) = self.sequences.split_first()?;
        let mut mask = 0;
        while let Some((&sequence, after)) = rest.split_first() {
            match sequence.wrapping_sub(packet_id) {
                0 => {}
                distance @ 1..=16 => mask |= 1 << (distance - 1),
                _ => break,
            }
            rest = after;
        }
        self.sequences = rest;
        Some((packet_id, mask))
    }
}

/// Turns arrivals into symbols and deltas; ends at an arrival whose delta has no form.
#[derive(Clone)]
struct Deltas<I> {
    arrivals: I,
    ticks: i64,
}

impl<I: Iterator<Item = Option<i64>>> Iterator for Deltas<I> {
    type Item = (Symbol, i16);

    fn next(&mut self) -> Option<(Symbol, i16)> {
        let Some(arrival) = self.arrivals.next()? else { return Some((Symbol::NotReceived, 0)) };
        let delta = i16::try_from(arrival - self.ticks).ok()?;
        self.ticks = arrival;
        let symbol = if (0..=255).contains(&delta) { Symbol::SmallDelta } else { Symbol::LargeDelta };
        Some((symbol, delta))
    }
}

/// Cuts symbols into chunks for as long as they and their deltas have room.
#[derive(Clone)]
struct Chunks<S> {
    symbols: S,
    /// Bytes left for chunks and deltas.
    room: usize,
    /// Statuses the 16-bit count can still announce.
    left: usize,
}

struct SizedChunk {
    encoded: Chunk,
    symbols: usize,
    delta_bytes: usize,
}

impl<S: Iterator<Item = Symbol> + Clone> Iterator for Chunks<S> {
    type Item = SizedChunk;

    fn next(&mut self) -> Option<SizedChunk> {
        let room_for_deltas = self.room.checked_sub(2)?;
        let symbols = self.symbols.clone().take(self.left);
        let (encoded, len, delta_bytes) = fullest_chunk(fitting(symbols, room_for_deltas))?;
        self.room = room_for_deltas - delta_bytes;
        self.left -= len;
        // `nth` of a length of at least one moves past the chunk's symbols.
        self.symbols.nth(len - 1);
        Some(SizedChunk { encoded, symbols: len, delta_bytes })
    }
}

/// The symbols whose deltas fit into `room` bytes.
fn fitting(
    symbols: impl Iterator<Item = Symbol> + Clone,
    room: usize,
) -> impl Iterator<Item = Symbol> + Clone {
    symbols.scan(room, |room, symbol| {
        *room = room.checked_sub(symbol.delta_len())?;
        Some(symbol)
    })
}

/// The chunk that covers the most of the leading symbols, with its length and its bytes of deltas.
fn fullest_chunk(symbols: impl Iterator<Item = Symbol> + Clone) -> Option<(Chunk, usize, usize)> {
    let first = symbols.clone().next()?;
    let run = symbols.clone().take(Chunk::RUN_MAX).take_while(|&symbol| symbol == first).count();
    let without_large = symbols
        .clone()
        .take(Chunk::ONE_BIT_SYMBOLS)
        .take_while(|&symbol| symbol != Symbol::LargeDelta)
        .count();
    let two_bit = symbols.clone().take(Chunk::TWO_BIT_SYMBOLS).count();
    let delta_bytes = |len: usize| symbols.clone().take(len).map(Symbol::delta_len).sum::<usize>();

    Some(if run >= without_large && run >= two_bit {
        (Chunk::run(first, run), run, run * first.delta_len())
    } else if without_large >= two_bit && is_whole_one_bit(&symbols, without_large) {
        let vector = Chunk::vector(symbols.clone().take(without_large), true);
        (vector, without_large, delta_bytes(without_large))
    } else {
        (Chunk::vector(symbols.clone().take(two_bit), false), two_bit, delta_bytes(two_bit))
    })
}

/// A vector with fewer symbols than it has places is legal only as the last chunk.
fn is_whole_one_bit(symbols: &(impl Iterator<Item = Symbol> + Clone), len: usize) -> bool {
    len == Chunk::ONE_BIT_SYMBOLS || symbols.clone().nth(len).is_none()
}
