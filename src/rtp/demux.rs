//! Which protocol a datagram on the one UDP port belongs to, told from its first two bytes.
//!
//! Relies on RFC 7983 as updated by RFC 9443 for the first byte and on RFC 5761 §4 for telling RTCP from
//! RTP. Deliberately absent: any look further inside; each protocol judges its own datagrams.

/// The protocol of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramKind {
    Stun,
    Dtls,
    SrtpOrSrtcp,
    /// ZRTP, TURN channel data, QUIC or noise: nothing we speak.
    Other,
}

/// The kind of a datagram by its first byte (RFC 9443 §3).
pub fn classify(first_byte: u8) -> DatagramKind {
    match first_byte {
        0..=3 => DatagramKind::Stun,
        20..=63 => DatagramKind::Dtls,
        128..=191 => DatagramKind::SrtpOrSrtcp,
        _ => DatagramKind::Other,
    }
}

/// Whether `packet` is RTCP or SRTCP. The payload types 64..=95 that RTCP's second byte would look like
/// are never negotiated for RTP (RFC 5761 §4).
pub fn is_rtcp(packet: &[u8]) -> bool {
    matches!(packet, [128..=191, 192..=223, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_first_byte_has_the_kind_of_rfc_9443() {
        let kinds: Vec<_> =
            [0, 3, 4, 19, 20, 63, 64, 79, 80, 127, 128, 191, 192, 255].map(classify).into_iter().collect();
        use DatagramKind::*;
        assert_eq!(
            kinds,
            [
                Stun,
                Stun,
                Other,
                Other,
                Dtls,
                Dtls,
                Other,
                Other,
                Other,
                Other,
                SrtpOrSrtcp,
                SrtpOrSrtcp,
                Other,
                Other
            ]
        );
    }

    #[test]
    fn rtp_with_marker_and_payload_type_63_or_96_is_not_rtcp() {
        assert!(is_rtcp(&[0x80, 200]));
        assert!(is_rtcp(&[0x81, 192]));
        assert!(is_rtcp(&[0xbf, 223]));
        assert!(!is_rtcp(&[0x80, 0x80 | 63]));
        assert!(!is_rtcp(&[0x80, 0x80 | 96]));
        assert!(!is_rtcp(&[0x16, 200]));
        assert!(!is_rtcp(&[0x80]));
    }
}
