//! Reading compound RTCP: an iterator of packets, each a view over the received bytes.
//!
//! Relies on the caller having authenticated and decrypted the bytes. What we do not know is skipped by its
//! length; a length that cannot be true ends the compound with one error, because nothing behind it can
//! be found any more.
#![deny(clippy::indexing_slicing)]

use super::{REMB_IDENTIFIER, ReportBlock, SDES_CNAME, packet_type, payload_format, transport_format};
use crate::drop_reason::DropReason;
use std::slice;

/// One RTCP packet of a compound.
#[derive(Clone, Debug)]
pub enum Packet<'a> {
    /// RFC 3550 §6.4.1.
    SenderReport { ssrc: u32, ntp: u64, rtp: u32, packets: u32, octets: u32, reports: Reports<'a> },
    /// RFC 3550 §6.4.2.
    ReceiverReport { ssrc: u32, reports: Reports<'a> },
    /// RFC 3550 §6.5; of all items only the canonical names.
    SourceDescription { cnames: Cnames<'a> },
    /// RFC 3550 §6.6.
    Goodbye { ssrcs: Ssrcs<'a> },
    /// RFC 4585 §6.2.1.
    Nack { sender: u32, media: u32, sequences: NackSequences<'a> },
    /// RFC 4585 §6.3.1.
    PictureLossIndication { sender: u32, media: u32 },
    /// RFC 5104 §4.3.1.
    FullIntraRequest { sender: u32, entries: FirEntries<'a> },
    /// `body` is for [`TransportFeedback::parse`](super::TransportFeedback::parse).
    TransportFeedback { sender: u32, media: u32, body: &'a [u8] },
    /// draft-alvestrand-rmcat-remb-03 §2.2.
    Remb { sender: u32, bitrate_bps: u64, ssrcs: Ssrcs<'a> },
    /// RFC 3611; of all blocks only the receiver reference time (§4.4), as an NTP timestamp.
    ExtendedReport { ssrc: u32, receiver_reference_ntp: Option<u64> },
    /// A packet type or feedback format that means nothing to us.
    Unknown { packet_type: u8 },
}

/// The packets of a compound. `MalformedRtcp` for the first that breaks its own lengths; none follow it.
pub fn packets(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound }
}

/// Iterates the packets of a compound.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, DropReason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let packet = self.split_off_packet();
        if packet.is_none() {
            self.rest = &[];
        }
        Some(packet.ok_or(DropReason::MalformedRtcp))
    }
}

impl<'a> Packets<'a> {
    fn split_off_packet(&mut self) -> Option<Packet<'a>> {
        let (&[flags, packet_type, l0, l1], after_header) = self.rest.split_first_chunk::<4>()?;
        let body_len = 4 * usize::from(u16::from_be_bytes([l0, l1]));
        let (body, rest) = after_header.split_at_checked(body_len)?;
        if flags >> 6 != 2 {
            return None;
        }
        self.rest = rest;
        let body = if flags & 0x20 != 0 { without_padding(body)? } else { body };
        parse_body(flags & 0x1f, packet_type, Cursor(body))
    }
}

/// The last byte of a padded packet counts the padding, itself included (RFC 3550 §6.4.1).
fn without_padding(body: &[u8]) -> Option<&[u8]> {
    let count = usize::from(*body.last()?);
    body.get(..body.len().checked_sub(count)?).filter(|_| count != 0)
}

fn parse_body(count: u8, packet_type: u8, mut body: Cursor<'_>) -> Option<Packet<'_>> {
    Some(match packet_type {
        packet_type::SENDER_REPORT => Packet::SenderReport {
            ssrc: body.u32()?,
            ntp: body.u64()?,
            rtp: body.u32()?,
            packets: body.u32()?,
            octets: body.u32()?,
            reports: Reports(body.chunks(count.into())?),
        },
        packet_type::RECEIVER_REPORT => {
            Packet::ReceiverReport { ssrc: body.u32()?, reports: Reports(body.chunks(count.into())?) }
        }
        packet_type::SOURCE_DESCRIPTION => {
            Packet::SourceDescription { cnames: Cnames { rest: body, chunks: count } }
        }
        packet_type::GOODBYE => Packet::Goodbye { ssrcs: Ssrcs(body.chunks(count.into())?) },
        packet_type::TRANSPORT_LAYER_FEEDBACK => parse_transport_feedback(count, body)?,
        packet_type::PAYLOAD_SPECIFIC_FEEDBACK => parse_payload_feedback(count, body)?,
        packet_type::EXTENDED_REPORT => Packet::ExtendedReport {
            ssrc: body.u32()?,
            receiver_reference_ntp: receiver_reference_ntp(body)?,
        },
        _ => Packet::Unknown { packet_type },
    })
}

fn parse_transport_feedback(format: u8, mut body: Cursor<'_>) -> Option<Packet<'_>> {
    let (sender, media) = (body.u32()?, body.u32()?);
    Some(match format {
        transport_format::NACK => {
            Packet::Nack { sender, media, sequences: NackSequences::new(body.all_chunks()) }
        }
        transport_format::TRANSPORT_FEEDBACK => Packet::TransportFeedback { sender, media, body: body.0 },
        _ => Packet::Unknown { packet_type: packet_type::TRANSPORT_LAYER_FEEDBACK },
    })
}

fn parse_payload_feedback(format: u8, mut body: Cursor<'_>) -> Option<Packet<'_>> {
    let (sender, media) = (body.u32()?, body.u32()?);
    let unknown = Packet::Unknown { packet_type: packet_type::PAYLOAD_SPECIFIC_FEEDBACK };
    Some(match format {
        payload_format::PICTURE_LOSS_INDICATION => Packet::PictureLossIndication { sender, media },
        payload_format::FULL_INTRA_REQUEST => {
            Packet::FullIntraRequest { sender, entries: FirEntries(body.all_chunks()) }
        }
        payload_format::APPLICATION if body.0.starts_with(&REMB_IDENTIFIER) => {
            body.take(REMB_IDENTIFIER.len())?;
            parse_remb(sender, body)?
        }
        _ => unknown,
    })
}

/// Count of SSRCs (8 bits), then the bitrate as 6 bits of exponent and 18 of mantissa.
fn parse_remb(sender: u32, mut body: Cursor<'_>) -> Option<Packet<'_>> {
    let word = body.u32()?;
    let (count, exponent, mantissa) = (word >> 24, word >> 18 & 0x3f, u64::from(word & 0x3_ffff));
    Some(Packet::Remb {
        sender,
        bitrate_bps: mantissa.saturating_mul(1 << exponent),
        ssrcs: Ssrcs(body.chunks(count as usize)?),
    })
}

/// The NTP time of the first receiver reference time block, if there is one; `None` outside means malformed.
fn receiver_reference_ntp(mut blocks: Cursor<'_>) -> Option<Option<u64>> {
    const RECEIVER_REFERENCE_TIME: u8 = 4;
    while !blocks.0.is_empty() {
        let (block_type, _type_specific, words) = (blocks.u8()?, blocks.u8()?, blocks.u16()?);
        let mut block = Cursor(blocks.take(4 * usize::from(words))?);
        if block_type == RECEIVER_REFERENCE_TIME {
            return Some(Some(block.u64()?));
        }
    }
    Some(None)
}

/// Reads big-endian fields off the front of a slice; `None` at its end.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    /// The next `count` entries of `N` bytes.
    fn chunks<const N: usize>(&mut self, count: usize) -> Option<slice::Iter<'a, [u8; N]>> {
        Some(self.take(count * N)?.as_chunks().0.iter())
    }

    /// As many entries of `N` bytes as there are whole ones.
    fn all_chunks<const N: usize>(&self) -> slice::Iter<'a, [u8; N]> {
        self.0.as_chunks().0.iter()
    }
}

/// Iterates report blocks.
#[derive(Clone, Debug)]
pub struct Reports<'a>(slice::Iter<'a, [u8; 24]>);

impl Iterator for Reports<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let mut block = Cursor(self.0.next()?);
        let ssrc = block.u32()?;
        let lost = block.u32()?;
        Some(ReportBlock {
            ssrc,
            fraction_lost: (lost >> 24) as u8,
            // The shifts extend the sign of a 24-bit number.
            cumulative_lost: (lost << 8) as i32 >> 8,
            highest_sequence: block.u32()?,
            jitter: block.u32()?,
            last_sr: block.u32()?,
            delay_since_last_sr: block.u32()?,
        })
    }
}

/// Iterates SSRCs.
#[derive(Clone, Debug)]
pub struct Ssrcs<'a>(slice::Iter<'a, [u8; 4]>);

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.next().map(|&ssrc| u32::from_be_bytes(ssrc))
    }
}

/// Iterates full intra requests as (SSRC, sequence number of the request).
#[derive(Clone, Debug)]
pub struct FirEntries<'a>(slice::Iter<'a, [u8; 8]>);

impl Iterator for FirEntries<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let mut entry = Cursor(self.0.next()?);
        Some((entry.u32()?, entry.u8()?))
    }
}

/// Iterates the sequence numbers a NACK asks for: each pair's packet id, then those of its bit mask.
#[derive(Clone, Debug)]
pub struct NackSequences<'a> {
    pairs: slice::Iter<'a, [u8; 4]>,
    packet_id: u16,
    /// What the current pair has yet to give; bit 0 is `packet_id`, bit n is n packets later.
    pending: u32,
}

impl<'a> NackSequences<'a> {
    fn new(pairs: slice::Iter<'a, [u8; 4]>) -> Self {
        Self { pairs, packet_id: 0, pending: 0 }
    }
}

impl Iterator for NackSequences<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.pending == 0 {
            let mut pair = Cursor(self.pairs.next()?);
            self.packet_id = pair.u16()?;
            self.pending = u32::from(pair.u16()?) << 1 | 1;
        }
        let distance = self.pending.trailing_zeros() as u16;
        self.pending &= self.pending - 1;
        Some(self.packet_id.wrapping_add(distance))
    }
}

/// Iterates the canonical names of a source description as (SSRC, name); sources without one are left out.
/// A chunk that breaks off ends the iteration.
#[derive(Clone, Debug)]
pub struct Cnames<'a> {
    rest: Cursor<'a>,
    chunks: u8,
}

impl<'a> Iterator for Cnames<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(left) = self.chunks.checked_sub(1) {
            self.chunks = left;
            let ssrc = self.rest.u32()?;
            if let Some(name) = self.cname_of_chunk()? {
                return Some((ssrc, name));
            }
        }
        None
    }
}

impl<'a> Cnames<'a> {
    /// Reads the items of one chunk up to its end, which is a null item and then zeroes to 32 bits.
    /// `None` outside means that the chunk breaks off.
    fn cname_of_chunk(&mut self) -> Option<Option<&'a [u8]>> {
        let chunk_len = self.rest.0.len();
        let mut cname = None;
        loop {
            match self.rest.u8()? {
                0 => break,
                item => {
                    let len = self.rest.u8()?;
                    let text = self.rest.take(len.into())?;
                    if item == SDES_CNAME {
                        cname = cname.or(Some(text));
                    }
                }
            }
        }
        let read = chunk_len - self.rest.0.len();
        self.rest.take(read.next_multiple_of(4) - read)?;
        Some(cname)
    }
}
