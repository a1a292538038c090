//! What a second pair of eyes sees in a packet: read by `etherparse`, not by the engine's own parser.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ipv6ExtensionSlice, LaxIpPayloadSlice, LaxIpSlice, LaxIpv4Slice, LaxIpv6Slice, LaxSlicedPacket,
};
use lb_core::Link;

/// Protocol numbers that matter here (IANA "Assigned Internet Protocol Numbers").
pub(super) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const SCTP: u8 = 132;
}

/// Who speaks to whom over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

impl Ends {
    /// Those of an answer.
    pub(super) fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

/// The name of a fragmented datagram (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DatagramName {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) identification: u32,
}

/// Where the parts of an IP packet are. Offsets count from the first byte of the data that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    /// Where the IP header begins.
    pub(super) network: usize,
    /// Where what the IP header and its extensions carry begins.
    pub(super) transport: usize,
    /// Where it ends, as far as it is at hand: before any padding of the link.
    pub(super) end: usize,
    /// How much of it is not at hand.
    pub(super) missing: usize,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What is carried.
    pub(super) protocol: u8,
    /// Set if it is a fragment, and not the whole: its identification, and whether it is the first.
    pub(super) fragment: Option<(u32, bool)>,
    /// Source and destination port, if it has them.
    pub(super) ports: Option<(u16, u16)>,
}

impl Outline {
    /// Reads a frame or packet; `None` if it is not IP, or is cut in its headers.
    pub(super) fn of(data: &[u8], link: Link) -> Option<Self> {
        match link {
            Link::Ethernet => {
                let payload = LaxSlicedPacket::from_ethernet(data).ok()?.ether_payload()?;
                let is_ip = matches!(payload.ether_type, EtherType::IPV4 | EtherType::IPV6);
                if is_ip { Self::of_ip(data, offset(data, payload.payload)?) } else { None }
            }
            Link::Ip => Self::of_ip(data, 0),
        }
    }

    /// Reads the IP packet that begins at this offset.
    fn of_ip(data: &[u8], network: usize) -> Option<Self> {
        match LaxIpSlice::from_slice(data.get(network..)?).ok()? {
            (LaxIpSlice::Ipv4(ip), None) => Self::of_v4(data, &ip),
            (LaxIpSlice::Ipv6(ip), None) => Self::of_v6(data, &ip),
            // The extensions end before they should. Whoever walked over them all the same would read past the end:
            // etherparse's iterator does not look.
            (_, Some(_)) => None,
        }
    }

    fn of_v4(data: &[u8], ip: &LaxIpv4Slice<'_>) -> Option<Self> {
        let header = ip.header();
        let fragment = header
            .is_fragmenting_payload()
            .then(|| (u32::from(header.identification()), header.fragments_offset().value() == 0));
        let network = offset(data, header.slice())?;
        let missing = (network + usize::from(header.total_len())).saturating_sub(data.len());
        let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
        Self::with(data, network, missing, source, destination, ip.payload(), fragment)
    }

    fn of_v6(data: &[u8], ip: &LaxIpv6Slice<'_>) -> Option<Self> {
        let header = ip.header();
        let fragment = ip.extensions().clone().into_iter().find_map(|extension| match extension {
            Ipv6ExtensionSlice::Fragment(fragment) if fragment.is_fragmenting_payload() => {
                Some((fragment.identification(), fragment.fragment_offset().value() == 0))
            }
            _ => None,
        });
        let network = offset(data, header.slice())?;
        let missing = (network + 40 + usize::from(header.payload_length())).saturating_sub(data.len());
        let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
        Self::with(data, network, missing, source, destination, ip.payload(), fragment)
    }

    fn with(
        data: &[u8],
        network: usize,
        missing: usize,
        source: IpAddr,
        destination: IpAddr,
        payload: &LaxIpPayloadSlice<'_>,
        fragment: Option<(u32, bool)>,
    ) -> Option<Self> {
        let protocol = payload.ip_number.0;
        let transport = offset(data, payload.payload)?;
        let ports = match (protocol, fragment, payload.payload) {
            (_, Some((_, false)), _) => None,
            (protocol::TCP | protocol::UDP | protocol::SCTP, _, &[a, b, c, d, ..]) => {
                Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            _ => None,
        };
        let end = transport + payload.payload.len();
        Some(Self { network, transport, end, missing, source, destination, protocol, fragment, ports })
    }

    /// Who speaks to whom, if it shows ports.
    pub(super) fn ends(&self) -> Option<Ends> {
        let (source, destination) = self.ports?;
        Some(Ends {
            protocol: self.protocol,
            source: SocketAddr::new(self.source, source),
            destination: SocketAddr::new(self.destination, destination),
        })
    }

    /// The datagram that it is a fragment of.
    pub(super) fn datagram(&self) -> Option<DatagramName> {
        let (identification, _) = self.fragment?;
        let Self { source, destination, protocol, .. } = *self;
        Some(DatagramName { source, destination, protocol, identification })
    }

    /// The packet that an ICMP error quotes, its offsets counted like this one's.
    pub(super) fn quoted(&self, data: &[u8]) -> Option<Self> {
        let message = data.get(self.transport..self.end)?;
        let is_error = match (self.protocol, message) {
            // RFC 792, RFC 1122 §3.2.2: unreachable, source quench, redirect, time exceeded, parameter problem.
            (protocol::ICMP, [kind, ..]) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            // RFC 4443 §2.1: errors have the high bit clear.
            (protocol::ICMPV6, [kind, ..]) => *kind < 128,
            _ => false,
        };
        if !is_error || self.fragment.is_some() {
            return None;
        }
        Self::of_ip(data.get(..self.end)?, self.transport + 8)
    }

    /// Where the transport's checksum is, if this shows it.
    pub(super) fn checksum(&self) -> Option<usize> {
        if matches!(self.fragment, Some((_, false))) {
            return None;
        }
        let (offset, width) = match self.protocol {
            protocol::TCP => (16, 2),
            protocol::UDP => (6, 2),
            protocol::ICMP | protocol::ICMPV6 => (2, 2),
            protocol::SCTP => (8, 4),
            _ => return None,
        };
        (self.transport + offset + width <= self.end).then_some(self.transport + offset)
    }

    /// The name of the header field at this offset.
    pub(super) fn field(&self, at: usize) -> &'static str {
        let v4 = self.source.is_ipv4();
        let fields: &[(usize, &'static str)] = match (at, v4) {
            _ if at < self.network => return "link",
            _ if at >= self.end => return "padding",
            _ if at >= self.transport => match self.protocol {
                _ if matches!(self.fragment, Some((_, false))) => return "payload of a later fragment",
                protocol::TCP => &[
                    (0, "tcp source port"),
                    (2, "tcp destination port"),
                    (4, "tcp"),
                    (16, "tcp checksum"),
                    (18, "tcp"),
                    (20, "tcp options or payload"),
                ],
                protocol::UDP => &[
                    (0, "udp source port"),
                    (2, "udp destination port"),
                    (4, "udp length"),
                    (6, "udp checksum"),
                    (8, "payload"),
                ],
                protocol::SCTP => &[
                    (0, "sctp source port"),
                    (2, "sctp destination port"),
                    (4, "sctp tag"),
                    (8, "sctp checksum"),
                    (12, "sctp chunks"),
                ],
                protocol::ICMP | protocol::ICMPV6 => {
                    &[(0, "icmp type and code"), (2, "icmp checksum"), (4, "icmp"), (8, "icmp body")]
                }
                _ => return "payload",
            },
            (_, true) => &[
                (0, "ip"),
                (2, "ip total length"),
                (4, "ip identification"),
                (6, "ip fragment"),
                (8, "ip ttl"),
                (9, "ip protocol"),
                (10, "ip checksum"),
                (12, "ip source"),
                (16, "ip destination"),
                (20, "ip options"),
            ],
            (_, false) => &[
                (0, "ip"),
                (4, "ip payload length"),
                (6, "ip next header"),
                (7, "ip hop limit"),
                (8, "ip source"),
                (24, "ip destination"),
                (40, "ip extensions"),
            ],
        };
        let base = if at >= self.transport { self.transport } else { self.network };
        fields.iter().rev().find(|(begin, _)| base + begin <= at).map_or("", |(_, name)| name)
    }
}

/// Where a part of the data begins in it.
fn offset(data: &[u8], part: &[u8]) -> Option<usize> {
    (part.as_ptr() as usize).checked_sub(data.as_ptr() as usize).filter(|offset| offset + part.len() <= data.len())
}
