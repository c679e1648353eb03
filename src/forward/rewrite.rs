//! What a subscriber's RTP header looks like: payload type, extension ids and mid of its own session.
//!
//! Everything that many subscribers share is built once per packet and shape; what is left per subscriber
//! is three fields of twelve bytes (SSRC, sequence number, timestamp).

use crate::forward::track_ring::Packet;
use crate::id::Mid;
use crate::rtp::dependency;
use crate::rtp::extension::{Extension, ExtensionMap};
use crate::rtp::header::Header;
use crate::rtp::template::HeaderTemplate;

/// How the publisher's payload type is called at the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SendCodec {
    pub from: u8,
    pub to: u8,
    /// Payload type of retransmissions.
    pub rtx: Option<u8>,
    /// Hz.
    pub clock_rate: u32,
}

/// The form of header that a group of legs shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    codecs: Vec<SendCodec>,
    extensions: ExtensionMap,
    mid: Option<Mid>,
    /// How many legs use it; at 0 its place is free.
    pub legs: u32,
}

impl Shape {
    /// A shape with its first leg.
    pub fn new(codecs: Vec<SendCodec>, extensions: ExtensionMap, mid: Option<Mid>) -> Self {
        Self { codecs, extensions, mid, legs: 1 }
    }

    pub fn mid(&self) -> Option<Mid> {
        self.mid
    }

    pub fn without_mid(&self) -> Self {
        Self { mid: None, legs: 1, ..self.clone() }
    }

    /// Whether both make the same headers.
    pub fn is_like(&self, other: &Self) -> bool {
        self.codecs == other.codecs && self.extensions == other.extensions && self.mid == other.mid
    }

    pub fn codec(&self, publisher_payload_type: u8) -> Option<&SendCodec> {
        self.codecs.iter().find(|codec| codec.from == publisher_payload_type)
    }

    /// The clock of the first codec: what a sender report counts in.
    pub fn clock_rate(&self) -> u32 {
        self.codecs.first().map_or(90_000, |codec| codec.clock_rate)
    }

    /// The header of `packet` for this shape; `None` if the subscriber did not accept its codec.
    ///
    /// `stored` is the packet as the publisher sent it, with extension ids of `publisher`.
    pub fn header(&self, packet: &Packet, stored: &[u8], publisher: &ExtensionMap) -> Option<HeaderTemplate> {
        let codec = self.codec(packet.payload_type)?;
        Some(self.build(packet.marker, codec.to, self.mid, stored, publisher))
    }

    /// The same header as a retransmission's (RFC 4588 §4). It always tells the mid: it has another SSRC, and Firefox
    /// drops that for good once it has learned from a mid which SSRC the m-line has.
    pub fn rtx_header(
        &self,
        packet: &Packet,
        stored: &[u8],
        publisher: &ExtensionMap,
        mid: Mid,
    ) -> Option<HeaderTemplate> {
        let rtx = self.codec(packet.payload_type)?.rtx?;
        Some(self.build(packet.marker, rtx, Some(mid), stored, publisher))
    }

    /// Where the frame number of the dependency descriptor is in a header that was built for this shape.
    pub fn frame_number_at(&self, header: &HeaderTemplate) -> Option<usize> {
        let id = self.extensions.id(Extension::DependencyDescriptor)?;
        Some(header.offset_of(id)? + dependency::NUMBER_AT)
    }

    fn build(
        &self,
        marker: bool,
        payload_type: u8,
        mid: Option<Mid>,
        stored: &[u8],
        publisher: &ExtensionMap,
    ) -> HeaderTemplate {
        let mut template = HeaderTemplate::new(marker, payload_type);
        if let (Some(mid), Some(id)) = (mid, self.extensions.id(Extension::Mid)) {
            template.push(id, mid.as_bytes());
        }
        // Each packet gets its own number when it leaves.
        let transport_sequence = self.extensions.id(Extension::TransportCc);
        if let Some(id) = transport_sequence {
            template.push(id, &[0; 2]);
        }
        if let Ok(header) = Header::parse(stored) {
            for (id, value) in header.extensions(stored) {
                if let Some(id) = self.translate(id, publisher) {
                    template.push(id, value);
                }
            }
        }
        template.finish();
        if let Some(id) = transport_sequence {
            template.remember(id);
        }
        template
    }

    /// The subscriber's id of a forwarded extension that the publisher calls `id`.
    fn translate(&self, id: u8, publisher: &ExtensionMap) -> Option<u8> {
        let extension = publisher.extension(id).filter(|extension| extension.is_forwarded())?;
        self.extensions.id(extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    const MID_ID: u8 = 4;

    #[test]
    fn retransmissions_tell_the_mid_even_when_the_media_does_no_more() {
        let mid: Mid = "12".parse().unwrap();
        let mut extensions = ExtensionMap::default();
        extensions.set(Extension::Mid, MID_ID);
        let codec = SendCodec { from: 96, to: 102, rtx: Some(103), clock_rate: 90_000 };
        let shape = Shape::new(vec![codec], extensions, Some(mid)).without_mid();
        let packet = packet();
        let stored = HeaderTemplate::new(true, 96);
        let publisher = ExtensionMap::default();

        let media = shape.header(&packet, stored.as_bytes(), &publisher).unwrap();
        let again = shape.rtx_header(&packet, stored.as_bytes(), &publisher, mid).unwrap();
        assert_eq!(mid_in(media.as_bytes()), None);
        assert_eq!(mid_in(again.as_bytes()), Some(mid));
    }

    /// A value for each, none like another.
    fn value_of(extension: Extension) -> Vec<u8> {
        let len = if extension == Extension::DependencyDescriptor { 40 } else { 1 + extension as usize };
        vec![0x20 + extension as u8; len]
    }

    #[test]
    fn each_forwarded_extension_has_its_value_under_the_subscribers_id_and_no_other_is_passed_on() {
        let map = |first: u8, step: u8| {
            let mut map = ExtensionMap::default();
            (0..).zip(Extension::ALL).for_each(|(n, extension)| map.set(*extension, first + step * n));
            map
        };
        // Those of the publisher overlap with the subscriber's, and mean something else there.
        let (publisher, subscriber) = (map(1, 1), map(40, 2));
        let codec = SendCodec { from: 96, to: 102, rtx: None, clock_rate: 90_000 };
        let shape = Shape::new(vec![codec], subscriber, None);
        for extension in Extension::ALL {
            let mut stored = HeaderTemplate::new(true, 96);
            let value = value_of(*extension);
            assert!(stored.push(publisher.id(*extension).unwrap(), &value));
            stored.finish();
            let header = shape.header(&packet(), stored.as_bytes(), &publisher).unwrap();
            let bytes = header.as_bytes();
            let elements: Vec<_> = Header::parse(bytes).unwrap().extensions(bytes).collect();
            let passed = extension.is_forwarded().then(|| (subscriber.id(*extension).unwrap(), &value[..]));
            // Our own transport-wide number is in each.
            let ours = subscriber.id(Extension::TransportCc).unwrap();
            let others: Vec<_> = elements.into_iter().filter(|(id, _)| *id != ours).collect();
            assert_eq!(others, Vec::from_iter(passed), "{extension:?}");
        }
    }

    #[test]
    fn what_browsers_measure_and_show_by_is_forwarded() {
        use Extension::*;
        for extension in [AudioLevel, VideoOrientation, PlayoutDelay, AbsCaptureTime, DependencyDescriptor] {
            assert!(extension.is_forwarded(), "{extension:?}");
        }
    }

    #[test]
    fn extension_that_the_subscriber_did_not_accept_is_left_out() {
        let mut publisher = ExtensionMap::default();
        publisher.set(Extension::VideoOrientation, 7);
        let codec = SendCodec { from: 96, to: 102, rtx: None, clock_rate: 90_000 };
        let shape = Shape::new(vec![codec], ExtensionMap::default(), None);
        let mut stored = HeaderTemplate::new(true, 96);
        assert!(stored.push(7, &[1]));
        stored.finish();
        let header = shape.header(&packet(), stored.as_bytes(), &publisher).unwrap();
        assert_eq!(header.as_bytes().len(), 12, "no extensions");
    }

    fn packet() -> Packet {
        Packet {
            index: 7,
            timestamp: 0,
            payload_type: 96,
            marker: true,
            header_len: 12,
            len: 100,
            arrived: Time(0),
        }
    }

    fn mid_in(bytes: &[u8]) -> Option<Mid> {
        let header = Header::parse(bytes).unwrap();
        let (_, value) = header.extensions(bytes).find(|(id, _)| *id == MID_ID)?;
        Mid::from_bytes(value).ok()
    }
}
