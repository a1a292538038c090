//! Frames by etherparse: none of the engine's own code makes or judges them.

use std::net::{IpAddr, SocketAddr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header,
    NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice,
};

pub const ETHERNET: usize = 14;
pub const PAYLOAD: &[u8] = b"matryoshka, one doll in another";

/// The IP headers between two addresses of one family; etherparse fills in what depends on the rest.
pub fn ip_headers(source: IpAddr, destination: IpAddr) -> IpHeaders {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header::new(0, 64, IpNumber::UDP, source.octets(), destination.octets()).unwrap();
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let header = Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// An Ethernet frame up to its IP headers.
pub fn ethernet(ip: IpHeaders) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ip(ip)
}

/// A TCP segment with these flags (of `SAFR`), or a `udp` datagram.
pub fn frame(kind: &str, from: &str, to: &str) -> Vec<u8> {
    frame_with(kind, from, to, PAYLOAD)
}

pub fn frame_with(kind: &str, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().expect(from), to.parse().expect(to));
    let ip = ethernet(ip_headers(from.ip(), to.ip()));
    let mut frame = Vec::new();
    if kind == "udp" {
        ip.udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
        return frame;
    }
    let mut header = TcpHeader::new(from.port(), to.port(), 7, 1000);
    for flag in kind.chars() {
        *match flag {
            'S' => &mut header.syn,
            'A' => &mut header.ack,
            'F' => &mut header.fin,
            'R' => &mut header.rst,
            _ => panic!("{kind}: neither udp nor TCP flags"),
        } = true;
    }
    ip.tcp_header(header).write(&mut frame, payload).unwrap();
    frame
}

/// An echo request.
pub fn ping(from: &str, to: &str) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut frame = Vec::new();
    let ip = ethernet(ip_headers(from, to));
    match from {
        IpAddr::V4(_) => ip.icmpv4_echo_request(1, 1).write(&mut frame, PAYLOAD),
        IpAddr::V6(_) => ip.icmpv6_echo_request(1, 1).write(&mut frame, PAYLOAD),
    }
    .unwrap();
    frame
}

/// The same frame with an 802.1Q tag.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat()
}

/// A frame's IP packet as fragments, cut at these offsets of its payload (multiples of 8).
pub fn fragments(frame: &[u8], cuts: &[usize], identification: u32) -> Vec<Vec<u8>> {
    let packet = sliced(frame, true);
    let payload = packet.ip_payload().unwrap();
    let (number, payload) = (payload.ip_number, payload.payload);
    let (source, destination) = addresses(&packet);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([payload.len()]);
    let fragment = |(start, end): (usize, usize)| {
        let mut headers = ip_headers(source, destination);
        let offset = IpFragOffset::try_new((start / 8) as u16).unwrap();
        let more = end != payload.len();
        match &mut headers {
            IpHeaders::Ipv4(header, _) => {
                header.dont_fragment = false;
                header.identification = identification as u16;
                (header.fragment_offset, header.more_fragments) = (offset, more);
            }
            IpHeaders::Ipv6(_, extensions) => {
                extensions.fragment = Some(Ipv6FragmentHeader::new(number, offset, more, identification));
            }
        }
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ip(headers)
            .write(&mut frame, number, &payload[start..end])
            .unwrap();
        frame
    };
    starts.zip(ends).map(fragment).collect()
}

/// The frame as etherparse sees it, Ethernet or bare IP.
pub fn sliced(frame: &[u8], has_link: bool) -> SlicedPacket<'_> {
    if has_link { SlicedPacket::from_ethernet(frame) } else { SlicedPacket::from_ip(frame) }.expect("well-formed")
}

/// Who sends a packet to whom, by etherparse.
pub fn addresses(packet: &SlicedPacket<'_>) -> (IpAddr, IpAddr) {
    match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => panic!("ARP"),
    }
}

/// Panics unless every checksum is what a full computation gives: the IPv4 header's; TCP's, UDP's and
/// ICMP's of a packet that is no fragment.
pub fn check_checksums(packet: &SlicedPacket<'_>) {
    let (source, destination) = addresses(packet);
    let payload = packet.ip_payload().unwrap();
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
    }
    if payload.fragmented {
        return;
    }
    // Pseudo-headers: RFC 9293 §3.1, RFC 768, RFC 8200 §8.1; ICMP over IPv4 has none (RFC 792).
    let sum = match (source, destination, payload.ip_number) {
        (IpAddr::V4(_), IpAddr::V4(_), IpNumber::ICMP) => Sum16BitWords::new(),
        (IpAddr::V4(source), IpAddr::V4(destination), _) => {
            Sum16BitWords::new().add_slice(&source.octets()).add_slice(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination), _) => {
            Sum16BitWords::new().add_slice(&source.octets()).add_slice(&destination.octets())
        }
        _ => panic!("two families"),
    };
    let sum = if source.is_ipv4() && payload.ip_number == IpNumber::ICMP {
        sum
    } else {
        sum.add_2bytes([0, payload.ip_number.0]).add_2bytes((payload.payload.len() as u16).to_be_bytes())
    };
    assert_eq!(sum.add_slice(payload.payload).ones_complement(), 0, "checksum of {source} > {destination}");
}

/// `source > destination` of a frame with ports, all of whose checksums are right.
pub fn ends(frame: &[u8], has_link: bool) -> String {
    let packet = sliced(frame, has_link);
    check_checksums(&packet);
    let (source, destination) = addresses(&packet);
    let (from, to) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return format!("{source} > {destination}"),
    };
    format!("{} > {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))
}
