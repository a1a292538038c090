//! Packets made by etherparse (headers, Internet checksums) and the crc crate (CRC32c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, SingleVlanHeader, TcpHeader, UdpHeader,
};
use lb_core::{Address, Protocol, Tuple};
use proptest::prelude::*;

/// One packet, from which its bytes follow.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// TPIDs of its VLAN tags.
    pub tags: Vec<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// 32-bit words of IPv4 options, or IPv6 extension headers: their type and length field.
    pub options: u8,
    pub extensions: Vec<(u8, u8)>,
    pub transport: Transport,
    pub source_port: u16,
    pub destination_port: u16,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Tcp {
        flags: u8,
        options: u8,
    },
    Udp {
        checksum: bool,
    },
    Sctp,
    /// An error of this ICMP or ICMPv6 type about another packet, of which this many bytes behind the
    /// IP headers are quoted.
    Error {
        kind: u8,
        about: Box<Spec>,
        quoted: usize,
    },
}

impl Spec {
    /// The bytes from the Ethernet header on.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut link =
            Ethernet2Header { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], ..Default::default() };
        let ip = if self.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let types: Vec<_> = self.tags.iter().map(|tag| EtherType(*tag)).chain([ip]).collect();
        link.ether_type = types[0];
        let mut frame = link.to_bytes().to_vec();
        for ether_type in &types[1..] {
            frame.extend(SingleVlanHeader { ether_type: *ether_type, ..Default::default() }.to_bytes());
        }
        frame.extend(self.packet());
        frame
    }

    /// The bytes from the IP header on.
    pub(crate) fn packet(&self) -> Vec<u8> {
        self.datagram(self.transport_bytes(), None)
    }

    /// The IP headers in front of this, as a fragment (byte offset, more, identification) if any.
    pub(crate) fn datagram(&self, transport: Vec<u8>, fragment: Option<(u16, bool, u32)>) -> Vec<u8> {
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let number = IpNumber(self.protocol().0);
                let mut header = Ipv4Header::new(0, 64, number, source.octets(), destination.octets()).unwrap();
                header.options = [1; 40][..usize::from(self.options) * 4].try_into().unwrap();
                header.set_payload_len(transport.len()).unwrap();
                if let Some((offset, more, identification)) = fragment {
                    header.dont_fragment = false;
                    header.more_fragments = more;
                    header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
                    header.identification = identification as u16;
                }
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                // Each chain link is (its type, its bytes without the type of the next).
                let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
                for (kind, length) in &self.extensions {
                    let mut bytes = vec![0; usize::from(*length) * 8 + 8];
                    bytes[1] = *length;
                    if *kind != 43 {
                        // One PadN option all the way (RFC 8200 §4.2); at most 255 long, the rest Pad1.
                        bytes[2..4].copy_from_slice(&[1, length.saturating_mul(8).saturating_add(4)]);
                    }
                    chain.push((*kind, bytes));
                }
                if let Some((offset, more, identification)) = fragment {
                    let [high, low] = (offset | u16::from(more)).to_be_bytes();
                    chain.push((44, [&[0, 0, high, low], &identification.to_be_bytes()[..]].concat()));
                }
                let types: Vec<u8> = chain.iter().map(|(kind, _)| *kind).chain([self.protocol().0]).collect();
                let mut extensions = Vec::new();
                for ((_, mut bytes), next) in chain.into_iter().zip(&types[1..]) {
                    bytes[0] = *next;
                    extensions.extend(bytes);
                }
                let header = Ipv6Header {
                    payload_length: (extensions.len() + transport.len()) as u16,
                    next_header: IpNumber(types[0]),
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                [&header.to_bytes()[..], &extensions].concat()
            }
            _ => panic!("one family a packet"),
        };
        packet.extend(transport);
        packet
    }

    /// The bytes from the transport header on, with the checksum that a full computation gives.
    pub(crate) fn transport_bytes(&self) -> Vec<u8> {
        match &self.transport {
            Transport::Tcp { flags, options } => {
                let mut header = TcpHeader::new(self.source_port, self.destination_port, 7, 1000);
                header.set_options_raw(&[1; 40][..usize::from(*options) * 4]).unwrap();
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.ack = flags & 16 != 0;
                header.checksum = match (self.source, self.destination) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &self.payload)
                    }
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &self.payload)
                    }
                    _ => panic!("one family a packet"),
                }
                .unwrap();
                [&header.to_bytes()[..], &self.payload].concat()
            }
            Transport::Udp { checksum } => {
                let mut header = UdpHeader {
                    source_port: self.source_port,
                    destination_port: self.destination_port,
                    length: 8 + self.payload.len() as u16,
                    checksum: 0,
                };
                if *checksum {
                    header.checksum = match (self.source, self.destination) {
                        (IpAddr::V4(source), IpAddr::V4(destination)) => {
                            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &self.payload)
                        }
                        (IpAddr::V6(source), IpAddr::V6(destination)) => {
                            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &self.payload)
                        }
                        _ => panic!("one family a packet"),
                    }
                    .unwrap();
                }
                [&header.to_bytes()[..], &self.payload].concat()
            }
            Transport::Sctp => {
                let ports = [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat();
                let mut bytes = [&ports[..], &[0; 8], &[1], &self.payload].concat();
                let checksum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes);
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
                bytes
            }
            Transport::Error { kind, about, quoted } => {
                let mut quote = about.packet();
                let behind = about.transport_bytes().len();
                quote.truncate(quote.len() - behind + quoted.min(&behind));
                let mut bytes = [&[*kind, 1, 0, 0, 0, 0, 0, 0][..], &quote].concat();
                let pseudo_header = match self.source {
                    IpAddr::V4(_) => Sum16BitWords::new(),
                    IpAddr::V6(_) => self.pseudo_header(bytes.len()),
                };
                let checksum = pseudo_header.add_slice(&bytes).ones_complement().to_be();
                bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
                bytes
            }
        }
    }

    /// The sum of what TCP, UDP and ICMPv6 cover of the IP header (RFC 9293 §3.1, RFC 8200 §8.1).
    pub(crate) fn pseudo_header(&self, length: usize) -> Sum16BitWords {
        let sum = Sum16BitWords::new().add_2bytes([0, self.protocol().0]).add_2bytes((length as u16).to_be_bytes());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                sum.add_slice(&source.octets()).add_slice(&destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                sum.add_slice(&source.octets()).add_slice(&destination.octets())
            }
            _ => panic!("one family a packet"),
        }
    }

    /// Where the transport's checksum is in its bytes.
    pub(crate) fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp { .. } => 6,
            Transport::Sctp => 8,
            Transport::Error { .. } => 2,
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match (&self.transport, self.source) {
            (Transport::Tcp { .. }, _) => Protocol::TCP,
            (Transport::Udp { .. }, _) => Protocol::UDP,
            (Transport::Sctp, _) => Protocol::SCTP,
            (Transport::Error { .. }, IpAddr::V4(_)) => Protocol::ICMP,
            (Transport::Error { .. }, IpAddr::V6(_)) => Protocol::ICMPV6,
        }
    }

    pub(crate) fn tuple(&self) -> Tuple {
        Tuple {
            source: self.source.into(),
            destination: self.destination.into(),
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol(),
            zone: 0,
        }
    }

    /// The same packet with another packet's addresses and ports.
    pub(crate) fn with(&self, ends: &Ends) -> Self {
        let Ends { source, destination, source_port, destination_port } = *ends;
        Self { source, destination, source_port, destination_port, ..self.clone() }
    }
}

/// Who speaks to whom.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Ends {
    pub(crate) fn tuple(&self, protocol: Protocol) -> Tuple {
        Tuple {
            source: self.source.into(),
            destination: self.destination.into(),
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol,
            zone: 0,
        }
    }

    pub(crate) fn addresses(&self) -> (Address, Address) {
        (self.source.into(), self.destination.into())
    }
}

/// Octets with many of those around which ones' complement has its corners.
fn octet() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(0xff), any::<u8>()]
}

fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        // Not in ::/8, where the IPv4-mapped ones are.
        prop::array::uniform15(octet())
            .prop_map(|rest| {
                let mut octets = [0x20; 16];
                octets[1..].copy_from_slice(&rest);
                Ipv6Addr::from(octets).into()
            })
            .boxed()
    } else {
        prop::array::uniform4(octet()).prop_map(|octets| Ipv4Addr::from(octets).into()).boxed()
    }
}

fn port() -> impl Strategy<Value = u16> {
    (octet(), octet()).prop_map(|(high, low)| u16::from_be_bytes([high, low]))
}

pub(crate) fn ends(v6: bool) -> impl Strategy<Value = Ends> {
    (address(v6), address(v6), port(), port()).prop_map(|(source, destination, source_port, destination_port)| Ends {
        source,
        destination,
        source_port,
        destination_port,
    })
}

/// A packet with ports.
pub(crate) fn packet(v6: bool) -> impl Strategy<Value = Spec> {
    let transport = prop_oneof![
        (any::<u8>(), 0..=10u8).prop_map(|(flags, options)| Transport::Tcp { flags, options }),
        any::<bool>().prop_map(|checksum| Transport::Udp { checksum }),
        Just(Transport::Sctp),
    ];
    // In the one order that etherparse reads: hop-by-hop, destination options, routing, destination
    // options (RFC 8200 §4.1).
    let extensions = prop::sample::subsequence(vec![0u8, 60, 43, 60], 0..=4).prop_flat_map(|kinds| {
        kinds.into_iter().map(|kind| (Just(kind), prop_oneof![0..4u8, Just(31)])).collect::<Vec<_>>()
    });
    let tags = prop::collection::vec(prop::sample::select(vec![0x8100, 0x88a8, 0x9100]), 0..=2);
    (ends(v6), tags, 0..=10u8, extensions, transport, prop::collection::vec(octet(), 0..80)).prop_map(
        move |(ends, tags, options, extensions, transport, payload)| {
            Spec {
                tags,
                source: ends.source,
                destination: ends.destination,
                options: if v6 { 0 } else { options },
                extensions: if v6 { extensions } else { Vec::new() },
                transport,
                source_port: 0,
                destination_port: 0,
                payload,
            }
            .with(&ends)
        },
    )
}

/// An ICMP or ICMPv6 error about a packet with ports.
pub(crate) fn error(v6: bool) -> impl Strategy<Value = Spec> {
    let kind = prop::sample::select(if v6 { vec![1, 2, 3, 4] } else { vec![3, 4, 5, 11, 12] });
    // Quotes of at least the ports that end inside of no checksum.
    let quoted = prop_oneof![Just(8), 4..=6usize, 12..=16usize, 18..120usize];
    (packet(v6), packet(v6), kind, quoted).prop_map(|(error, about, kind, quoted)| {
        let transport = Transport::Error { kind, about: Box::new(about), quoted };
        Spec { transport, source_port: 0, destination_port: 0, ..error }
    })
}
