//! One packet as it leaves for one subscriber: written into transmit memory and sealed there.

use crate::drop_reason::DropReason;
use crate::forward::leg::Counters;
use crate::forward::track_ring::Packet;
use crate::io::Io;
use crate::rtp::codec::vp8;
use crate::rtp::extension::Extension;
use crate::rtp::header::Header;
use crate::rtp::template::{self, HeaderTemplate};
use crate::shard::command::TrackConfig;
use crate::shard::session::Destination;

/// What of a packet is whose: `header` and `payload` are all subscribers', the rest is this one's.
pub struct Outgoing<'a> {
    pub header: &'a HeaderTemplate,
    /// In two parts because a retransmission's begins with the original sequence number; the second holds
    /// the picture's counters.
    pub payload: [&'a [u8]; 2],
    /// Bytes of RTP padding behind the payload (RFC 3550 §5.1), the count byte included.
    pub padding: u8,
    pub ssrc: u32,
    /// Extended sequence number: rollover counter and sequence.
    pub index: u64,
    pub timestamp: u32,
    /// Where in the payload its counters are.
    pub picture: Option<vp8::Descriptor>,
    pub counters: Counters,
    /// Where in the header the frame number is, if that is one of the counters.
    pub frame_number_at: Option<usize>,
}

impl Outgoing<'_> {
    /// Writes the packet into transmit memory, seals it there, lets it go. Returns its length.
    pub fn send(&self, to: &mut Destination<'_>, io: &mut impl Io) -> Result<usize, DropReason> {
        let [first, second] = self.payload;
        let padding = usize::from(self.padding);
        let header = self.header.as_bytes();
        let len = header.len() + first.len() + second.len() + padding + to.sealer.rtp_overhead();
        let room = io.reserve(&to.path, len).ok_or(DropReason::SendBufferFull)?;
        let (head, rest) = room.split_at_mut(header.len());
        head.copy_from_slice(header);
        template::patch(head, self.index as u16, self.timestamp, self.ssrc);
        match self.header.remembered() {
            Some(at) => {
                if let Some(sequence) = to.count_sent(len) {
                    template::put_u16(head, at, sequence);
                }
            }
            None => to.count_sent_beside(len),
        }
        let (one, rest) = rest.split_at_mut(first.len());
        one.copy_from_slice(first);
        let (two, rest) = rest.split_at_mut(second.len());
        two.copy_from_slice(second);
        if let (Some(picture), Some(counters)) = (&self.picture, &self.counters.picture) {
            counters.write(picture, two);
        }
        if self.counters.ends_picture {
            template::mark(head);
        }
        if let (Some(at), Some(number)) = (self.frame_number_at, self.counters.frame_number) {
            template::put_u16(head, at, number);
        }
        if self.padding > 0 {
            template::pad(head, rest, self.padding);
        }
        to.sealer.protect_rtp(room, header.len(), self.index);
        io.commit(len);
        Ok(len)
    }
}

/// The payload of a stored packet.
pub fn payload_of<'a>(packet: &Packet, stored: &'a [u8]) -> &'a [u8] {
    stored.get(usize::from(packet.header_len)..).unwrap_or(&[])
}

/// The dependency descriptor in a stored packet of the track, if it has one.
pub fn descriptor_of<'a>(track: &TrackConfig, stored: &'a [u8]) -> Option<&'a [u8]> {
    let wanted = track.extensions.id(Extension::DependencyDescriptor)?;
    let mut elements = Header::parse(stored).ok()?.extensions(stored);
    elements.find(|(id, _)| *id == wanted).map(|(_, value)| value)
}
