//! Frames as a driver would hand them over, and which tuples they have.

use etherparse::PacketBuilder;
use lb_core::nat::rewrite;
use lb_core::wire::parse;
use lb_core::{Address, Checksum, Link, Tuple};

/// Packets that a driver hands over at once.
pub(crate) const BATCH: usize = 32;
/// From one buffer to the next. At a power of two all headers would fall into few sets of the cache.
const STRIDE: usize = 2112;

/// Buffers for frames, each beginning with a cache line.
pub(crate) struct Ring {
    bytes: Vec<u8>,
    start: usize,
}

impl Ring {
    pub(crate) fn new(buffers: usize) -> Self {
        let bytes = vec![0; buffers * STRIDE + 64];
        let start = bytes.as_ptr().align_offset(64);
        Self { bytes, start }
    }

    /// The buffers, for frames of this length.
    pub(crate) fn frames(&mut self, length: usize) -> impl Iterator<Item = &mut [u8]> {
        self.bytes[self.start..].chunks_exact_mut(STRIDE).map(move |buffer| &mut buffer[..length])
    }
}

/// What a frame carries besides its tuple.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    Ack,
    Datagram,
}

/// A frame of this kind and family, between addresses that are nobody's.
pub(crate) fn prototype(kind: Kind, v4: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = if v4 { ethernet.ipv4([192, 0, 2, 8], [192, 0, 2, 9], 64) } else { ethernet.ipv6([1; 16], [2; 16], 64) };
    let mut frame = Vec::new();
    let written = match kind {
        Kind::Syn => ip.tcp(1, 2, 3, 4).syn().write(&mut frame, &[]),
        Kind::SynAck => ip.tcp(1, 2, 3, 4).syn().ack(5).write(&mut frame, &[]),
        Kind::Ack => ip.tcp(1, 2, 3, 4).ack(5).write(&mut frame, &[]),
        Kind::Datagram => ip.udp(1, 2).write(&mut frame, b"a question"),
    };
    written.expect("written to memory");
    frame
}

/// Gives a frame this tuple.
pub(crate) fn address(frame: &mut [u8], to: &Tuple) {
    let headers = parse(frame, Link::Ethernet).expect("well-formed").expect("an IP packet");
    rewrite(frame, &headers, to, Checksum::Complete).expect("a packet with ports");
}

pub(crate) fn tuple(frame: &[u8]) -> Tuple {
    parse(frame, Link::Ethernet).expect("well-formed").expect("an IP packet").tuple
}

/// Fails unless etherparse finds this tuple and right checksums in the frame.
pub(crate) fn check(frame: &[u8], expected: &Tuple) {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    assert_eq!(tuple(frame), *expected);
    let packet = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let payload = packet.payload.slice();
    let found = match (packet.net, packet.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(Ok(tcp.checksum), tcp.calc_checksum_ipv4(&ip, payload));
            (Address::v4(ip.source), Address::v4(ip.destination), tcp.source_port, tcp.destination_port)
        }
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(udp))) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(Ok(udp.checksum), udp.calc_checksum_ipv4(&ip, payload));
            (Address::v4(ip.source), Address::v4(ip.destination), udp.source_port, udp.destination_port)
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Tcp(tcp))) => {
            assert_eq!(Ok(tcp.checksum), tcp.calc_checksum_ipv6(&ip, payload));
            (Address::v6(ip.source), Address::v6(ip.destination), tcp.source_port, tcp.destination_port)
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Udp(udp))) => {
            assert_eq!(Ok(udp.checksum), udp.calc_checksum_ipv6(&ip, payload));
            (Address::v6(ip.source), Address::v6(ip.destination), udp.source_port, udp.destination_port)
        }
        other => panic!("not what was sent: {other:?}"),
    };
    assert_eq!(found, (expected.source, expected.destination, expected.source_port, expected.destination_port));
}
