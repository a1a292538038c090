//! Packets that a host could make nothing of: a client that sees one of these has seen what it never asked for, such as an
//! answer that was not translated back.

use lb_core::wire::Headers;
use lb_core::{Address, Instant, Protocol, Tuple};
use smoltcp::wire::TcpPacket;

/// What was strange about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strangeness {
    /// It is no IP packet, or its headers contradict themselves.
    Malformed,
    /// Its TCP checksum is wrong.
    WrongChecksum,
    /// It is addressed to somebody else.
    NotAddressed,
    /// It answers what nobody here has asked, or not whom it names.
    NoSocket,
    /// It asks at a port where nobody listens, and is told so. Of datagrams those to a port that clients are not given.
    Closed,
    /// It belongs to a connection that was here and has ended: late, but not strange.
    Late,
    /// A connection to a port on which as many wait as may.
    BacklogFull,
}

/// A packet that reached a host and none of its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// When it came.
    pub time: Instant,
    /// What is strange.
    pub strangeness: Strangeness,
    /// Whose it is, as far as it could be read; of an ICMP error what it quotes.
    pub tuple: Tuple,
    /// Its bytes from the IP header on.
    pub packet: Vec<u8>,
}

/// Strays that are kept whole; the rest are counted.
pub(super) const KEPT: usize = 64;

/// Whether a whole TCP segment's checksum is right.
pub(super) fn checksum_holds(packet: &[u8], headers: &Headers) -> bool {
    if headers.tuple.protocol != Protocol::TCP || headers.fragment.is_some() {
        return true;
    }
    let start = usize::from(headers.transport);
    let Some(bytes) = packet.get(start..start.saturating_add(headers.transport_length as usize)) else { return false };
    let ip = |address: Address| std::net::IpAddr::from(address).into();
    TcpPacket::new_checked(bytes)
        .is_ok_and(|segment| segment.verify_checksum(&ip(headers.tuple.source), &ip(headers.tuple.destination)))
}
