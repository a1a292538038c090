//! Frames to headers: where things are in a packet, and what it is recognised by.
//!
//! One file a protocol, all of the same shape: the header as the RFC draws it, and a total read that
//! looks at no byte beyond the packet. Nothing here writes.

pub(crate) mod ethernet;
pub(crate) mod icmp;
pub(crate) mod ipv4;
pub(crate) mod ipv6;
pub(crate) mod plain;
pub(crate) mod sctp;
pub(crate) mod tcp;
pub(crate) mod udp;

use bytemuck::AnyBitPattern;

use crate::tuple::{Address, Family, Protocol, Tuple};

pub use tcp::TcpFlags;

/// What a packet's first byte is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Link {
    /// An Ethernet II frame, with up to two VLAN tags (IEEE 802.1Q, 802.1ad).
    #[default]
    Ethernet,
    /// An IPv4 or IPv6 header, by its version.
    Ip,
}

/// Where the headers of an IP packet are and what they say. Offsets count from the first byte of the
/// data; all of them are known to lie within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// What the packet is recognised by; ports are 0 where it shows none (ICMP, a later fragment).
    /// `zone` is 0 here. Of an IPv6 later fragment the protocol is what follows the Fragment header,
    /// which may be one more extension header.
    pub tuple: Tuple,
    /// Where the IP header begins.
    pub network: u16,
    /// Where the transport header begins, or a later fragment's payload.
    pub transport: u16,
    /// Bytes from `transport` to the end of the packet as the IP header has it; more than are at hand
    /// where the capture cut it, fewer where a link padded it.
    pub transport_length: u32,
    /// What lies at `transport`.
    pub content: Content,
    /// Set if the packet is a fragment, and not the whole datagram.
    pub fragment: Option<Fragment>,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A TCP segment with these flags.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
    /// An SCTP packet whose first chunk has this type.
    Sctp(u8),
    /// An ICMP or ICMPv6 error and what it quotes.
    Error(Quoted),
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// A later fragment: its transport header travelled in the first.
    LaterFragment,
    /// Anything else: a protocol without ports; an error that quotes nothing translatable; an IPv6
    /// packet on its way to a waypoint of its Routing header, whose final destination, which its
    /// checksum covers, is not the one in its IP header (protocol 43, RFC 8200 §8.1).
    Other,
}

/// The packet that an ICMP error quotes, as far as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// What the quoted packet was recognised by.
    pub tuple: Tuple,
    /// Where its IP header begins.
    pub network: u16,
    /// Where its transport header begins, of which at least the ports are at hand.
    pub transport: u16,
    /// Bytes from `transport` to its end as its own IP header has it; the quote may end earlier.
    pub transport_length: u32,
    /// Whether it was the first fragment of a longer datagram.
    pub fragment: bool,
}

/// Where a fragment belongs.
///
/// A fragment that is the whole datagram (offset 0, no more: RFC 6946) is not one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The datagram's identification.
    pub identification: u32,
    /// Where its payload begins in the datagram's, in bytes.
    pub offset: u32,
    /// Its payload's length in bytes.
    pub length: u32,
    /// Whether more follow.
    pub more: bool,
}

/// Why a packet's headers can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes at hand end before the headers do.
    Truncated,
    /// The IP header contradicts itself.
    IpHeader,
    /// The transport header contradicts itself or does not fit in the packet.
    TransportHeader,
    /// More IPv6 extension headers than [`MAX_EXTENSIONS`].
    TooManyExtensions,
    /// A fragment that no host would send.
    Fragment,
    /// An IPv6 packet with an IPv4-mapped address.
    MappedAddress,
}

/// IPv6 extension headers that [`parse`] walks over before it gives up; RFC 8200 §4.1 knows seven.
pub const MAX_EXTENSIONS: usize = 8;

/// Reads the headers of a packet: `None` if it is not an IP packet.
///
/// A frame whose EtherType is neither IPv4 nor IPv6, whose third VLAN tag is one too many, or whose
/// bytes without a link layer begin with neither version, is not an IP packet.
#[inline]
pub fn parse(data: &[u8], link: Link) -> Result<Option<Headers>, Malformed> {
    let found = match link {
        Link::Ethernet => ethernet::read(data)?,
        Link::Ip => match data.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => Some((Family::V4, 0)),
            6 => Some((Family::V6, 0)),
            _ => None,
        },
    };
    let Some((family, network)) = found else { return Ok(None) };
    let ip = Network::read(data, network, family)?;
    if ip.fragment.is_some() || matches!(ip.protocol, Protocol::ICMP | Protocol::ICMPV6) {
        unusual(data, network, family).map(Some)
    } else {
        transport(network, Network { fragment: None, ..ip }, ip.payload(data)).map(Some)
    }
}

/// The headers of a packet that is no fragment or the first.
///
/// Each arm makes the whole of the result: a `Content` handed from here to there would be copied, and
/// is large for the sake of errors alone.
#[inline(always)]
fn transport(network: usize, ip: Network, payload: Payload<'_>) -> Result<Headers, Malformed> {
    match ip.protocol {
        Protocol::TCP => {
            let (ports, flags) = tcp::read(payload)?;
            Ok(ip.headers(network, payload, ports, Content::Tcp(flags)))
        }
        Protocol::UDP => {
            let ports = udp::read(payload)?;
            Ok(ip.headers(network, payload, ports, Content::Udp))
        }
        Protocol::SCTP => {
            let (ports, chunk) = sctp::read(payload)?;
            Ok(ip.headers(network, payload, ports, Content::Sctp(chunk)))
        }
        _ => Ok(ip.headers(network, payload, (0, 0), Content::Other)),
    }
}

/// The headers of a fragment or an ICMP message. Starts from the IP header again, so that what was read
/// of it so far need not be kept in memory.
#[cold]
fn unusual(data: &[u8], network: usize, family: Family) -> Result<Headers, Malformed> {
    let ip = Network::read(data, network, family)?;
    let payload = ip.payload(data);
    if ip.is_later_fragment() {
        // The first must hold the whole header, so this one would write over it (RFC 1858 §4, RFC 3128 §2).
        let header = match ip.protocol {
            Protocol::TCP => size_of::<tcp::Header>(),
            Protocol::SCTP => size_of::<sctp::Header>(),
            _ => 0,
        };
        return match ip.fragment {
            Some(fragment) if (fragment.offset as usize) < header => Err(Malformed::Fragment),
            _ => Ok(ip.headers(network, payload, (0, 0), Content::LaterFragment)),
        };
    }
    match (ip.protocol, family) {
        (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6) => {
            let content = icmp::read(data, ip, payload)?;
            Ok(ip.headers(network, payload, (0, 0), content))
        }
        _ => transport(network, ip, payload),
    }
}

/// Source and destination port.
type Ports = (u16, u16);

/// What an IP header and its extensions say, of either version.
///
/// This and [`Payload`] go by value, and what is rare out of line, so that for a plain packet they
/// live in registers alone: kept in memory they cost more than all the rest of reading it.
#[derive(Clone, Copy)]
struct Network {
    source: Address,
    destination: Address,
    /// What lies at `transport`.
    protocol: Protocol,
    /// Where the IP headers end; within the data.
    transport: usize,
    /// Where the packet ends by its IP header, not before `transport`; the data may end earlier or later.
    end: usize,
    fragment: Option<Fragment>,
}

impl Network {
    #[inline(always)]
    fn read(data: &[u8], at: usize, family: Family) -> Result<Self, Malformed> {
        match family {
            Family::V4 => ipv4::read(data, at),
            Family::V6 => ipv6::read(data, at),
        }
    }

    #[inline(always)]
    fn payload<'d>(self, data: &'d [u8]) -> Payload<'d> {
        let bytes = data.get(self.transport..self.end.min(data.len())).unwrap_or_default();
        let length = u32::try_from(self.end.saturating_sub(self.transport)).unwrap_or(u32::MAX);
        Payload { bytes, length, fragment: self.fragment.is_some() }
    }

    #[inline(always)]
    fn is_later_fragment(self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    #[inline(always)]
    fn headers(self, network: usize, payload: Payload<'_>, ports: Ports, content: Content) -> Headers {
        Headers {
            tuple: self.tuple(ports),
            network: offset(network),
            transport: offset(self.transport),
            transport_length: payload.length,
            content,
            fragment: self.fragment,
        }
    }

    #[inline(always)]
    fn tuple(self, (source_port, destination_port): Ports) -> Tuple {
        Tuple {
            source: self.source,
            destination: self.destination,
            source_port,
            destination_port,
            protocol: self.protocol,
            zone: 0,
        }
    }
}

/// What lies behind the IP headers.
#[derive(Clone, Copy)]
struct Payload<'d> {
    /// The bytes at hand, none beyond the packet.
    bytes: &'d [u8],
    /// How many there are by the IP header.
    length: u32,
    /// Whether it is the first part of a longer one.
    fragment: bool,
}

impl<'d> Payload<'d> {
    /// The header that a payload begins with.
    #[inline(always)]
    fn header<H: AnyBitPattern>(self) -> Result<&'d H, Malformed> {
        match view(self.bytes, 0) {
            Some(header) => Ok(header),
            None => Err(missing(size_of::<H>(), self.length, self.fragment)),
        }
    }
}

/// Why a payload of this length has no header of this size at hand.
#[cold]
fn missing(header: usize, length: u32, fragment: bool) -> Malformed {
    if length as usize >= header {
        Malformed::Truncated
    } else if fragment {
        // No host splits a header; RFC 1858 §3 and RFC 7112 §5 tell who does, and why to drop it.
        Malformed::Fragment
    } else {
        Malformed::TransportHeader
    }
}

impl Fragment {
    /// The largest datagram there is (RFC 791 §3.1, RFC 8200 §4.5).
    const DATAGRAM_MAX: u32 = 65535;

    /// Checks what a header says of a fragment: `None` if it is the whole datagram.
    fn checked(self) -> Result<Option<Self>, Malformed> {
        if self.offset == 0 && !self.more {
            return Ok(None);
        }
        let misaligned = self.more && !self.length.is_multiple_of(8);
        let too_long = self.offset.saturating_add(self.length) > Self::DATAGRAM_MAX;
        if self.length == 0 || misaligned || too_long {
            return Err(Malformed::Fragment);
        }
        Ok(Some(self))
    }
}

/// The header of this shape at this offset, `None` where the bytes end before it does.
#[inline(always)]
pub(crate) fn view<H: AnyBitPattern>(data: &[u8], at: usize) -> Option<&H> {
    bytemuck::try_from_bytes(data.get(at..)?.get(..size_of::<H>())?).ok()
}

/// An offset in 16 bits. Nothing is lost: two VLAN tags, an IPv6 header and [`MAX_EXTENSIONS`] of at
/// most 2048 bytes, twice with the quoted packet, come to less than 33,000.
#[inline(always)]
fn offset(at: usize) -> u16 {
    at as u16
}

#[cfg(test)]
mod tests;
