//! The body of a transport-wide feedback packet: which packets arrived, and when.
//!
//! draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1. Times are in ticks of 250 µs, counted from the
//! zero of the sender's 64 ms reference clock, so they compare across packets until that clock wraps
//! (24 bits: 12 days). The writer is `Writer::transport_feedback`; the constants and the forms are here,
//! once for both directions.
#![deny(clippy::indexing_slicing)]

use super::read::Cursor;
use crate::drop_reason::DropReason;

/// Ticks of 250 µs in one unit of the reference time, 64 ms.
pub(super) const TICKS_PER_REFERENCE: i64 = 256;
/// Bytes from the base sequence number to the feedback count.
pub(super) const FIXED_LEN: usize = 8;

/// How one packet's arrival is told (§3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Symbol {
    NotReceived = 0,
    /// The delta is one unsigned byte.
    SmallDelta = 1,
    /// The delta is two bytes, signed.
    LargeDelta = 2,
}

impl Symbol {
    fn from_bits(bits: u16) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::NotReceived),
            1 => Some(Self::SmallDelta),
            2 => Some(Self::LargeDelta),
            _ => None,
        }
    }

    pub(super) fn delta_len(self) -> usize {
        usize::from(self as u8)
    }
}

/// Several symbols in 16 bits (§3.1.3 and §3.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk(pub(super) u16);

impl Chunk {
    pub(super) const RUN_MAX: usize = 0x1fff;
    pub(super) const ONE_BIT_SYMBOLS: usize = 14;
    pub(super) const TWO_BIT_SYMBOLS: usize = 7;

    pub(super) fn run(symbol: Symbol, len: usize) -> Self {
        debug_assert!(len <= Self::RUN_MAX, "the caller ends a run at its maximum");
        Self((symbol as u16) << 13 | len as u16)
    }

    /// A vector of up to 14 symbols, none of them a large delta, or of up to 7 with large ones.
    pub(super) fn vector(symbols: impl Iterator<Item = Symbol>, one_bit: bool) -> Self {
        let (width, flags) = if one_bit { (1, 0x8000) } else { (2, 0xc000) };
        let bits = symbols
            .enumerate()
            .fold(0, |bits, (i, symbol)| bits | (symbol as u16) << (Self::ONE_BIT_SYMBOLS - width * (i + 1)));
        Self(flags | bits)
    }

    fn len(self) -> usize {
        match self.0 >> 14 {
            0b10 => Self::ONE_BIT_SYMBOLS,
            0b11 => Self::TWO_BIT_SYMBOLS,
            _ => usize::from(self.0) & Self::RUN_MAX,
        }
    }

    /// The symbol at `index`, below [`len`](Self::len); `None` for the reserved one.
    fn symbol(self, index: usize) -> Option<Symbol> {
        match self.0 >> 14 {
            0b10 => Symbol::from_bits(self.0 >> (Self::ONE_BIT_SYMBOLS - 1 - index) & 1),
            0b11 => Symbol::from_bits(self.0 >> (Self::ONE_BIT_SYMBOLS - 2 - 2 * index)),
            _ => Symbol::from_bits(self.0 >> 13),
        }
    }
}

/// A decoded feedback body; its statuses are read on demand.
#[derive(Clone, Debug)]
pub struct TransportFeedback<'a> {
    pub base_sequence: u16,
    /// Counts the feedback packets of one sender.
    pub feedback_count: u8,
    /// In units of 64 ms, signed 24 bits (§3.1).
    pub reference_time: i32,
    /// How many packets it tells of, from the base on.
    pub status_count: u16,
    chunks: Cursor<'a>,
    deltas: Cursor<'a>,
}

impl<'a> TransportFeedback<'a> {
    /// Reads the body of [`Packet::TransportFeedback`](super::Packet::TransportFeedback).
    ///
    /// `MalformedRtcp` if chunks or deltas end before the status count is reached, or if a status is the
    /// reserved one.
    pub fn parse(body: &'a [u8]) -> Result<Self, DropReason> {
        Self::parse_checked(Cursor(body)).ok_or(DropReason::MalformedRtcp)
    }

    fn parse_checked(mut body: Cursor<'a>) -> Option<Self> {
        let (base_sequence, status_count) = (body.u16()?, body.u16()?);
        let time_and_count = body.u32()?;
        let chunks = body.clone();
        let delta_bytes = skip_chunks(&mut body, status_count.into())?;
        Some(Self {
            base_sequence,
            feedback_count: time_and_count as u8,
            reference_time: time_and_count as i32 >> 8,
            status_count,
            chunks,
            deltas: Cursor(body.take(delta_bytes)?),
        })
    }

    /// The status of each packet from the base sequence number on: its sequence number, and its arrival
    /// in ticks of 250 µs if it was received.
    pub fn statuses(&self) -> Statuses<'a> {
        Statuses {
            sequence: self.base_sequence,
            left: self.status_count,
            chunk: Chunk(0),
            chunk_at: 0,
            chunks: self.chunks.clone(),
            deltas: self.deltas.clone(),
            ticks: i64::from(self.reference_time) * TICKS_PER_REFERENCE,
        }
    }
}

/// Moves past the chunks of `status_count` symbols and returns how many bytes of deltas they announce.
fn skip_chunks(body: &mut Cursor<'_>, status_count: usize) -> Option<usize> {
    let (mut left, mut delta_bytes) = (status_count, 0);
    while left > 0 {
        let chunk = Chunk(body.u16()?);
        let len = chunk.len().min(left);
        if chunk.0 >> 15 == 0 {
            delta_bytes += len * chunk.symbol(0)?.delta_len();
        } else {
            for index in 0..len {
                delta_bytes += chunk.symbol(index)?.delta_len();
            }
        }
        left -= len;
    }
    Some(delta_bytes)
}

/// Iterates the packets of a feedback as (sequence, arrival in ticks of 250 µs if received).
#[derive(Clone, Debug)]
pub struct Statuses<'a> {
    sequence: u16,
    left: u16,
    chunk: Chunk,
    chunk_at: usize,
    chunks: Cursor<'a>,
    deltas: Cursor<'a>,
    ticks: i64,
}

impl Statuses<'_> {
    fn next_symbol(&mut self) -> Option<Symbol> {
        while self.chunk_at == self.chunk.len() {
            self.chunk = Chunk(self.chunks.u16()?);
            self.chunk_at = 0;
        }
        let symbol = self.chunk.symbol(self.chunk_at);
        self.chunk_at += 1;
        symbol
    }
}

impl Iterator for Statuses<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let delta = match self.next_symbol()? {
            Symbol::NotReceived => None,
            Symbol::SmallDelta => Some(i64::from(self.deltas.u8()?)),
            Symbol::LargeDelta => Some(i64::from(self.deltas.u16()? as i16)),
        };
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.ticks += delta.unwrap_or(0);
        Some((sequence, delta.map(|_| self.ticks)))
    }
}
