//! What goes wrong with a socket, and the ICMP errors that say so.

use std::io::ErrorKind;

use lb_core::wire::Headers;
use lb_core::{Instant, Protocol, Tuple};

use super::{Host, Strangeness};

/// Why a socket failed, in the words of a Linux client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Error {
    /// Nobody listens: a reset or a port unreachable.
    #[error("connection refused")]
    Refused,
    /// The other side gave the connection up.
    #[error("connection reset by peer")]
    Reset,
    /// Nobody answered.
    #[error("connection timed out")]
    TimedOut,
    /// A router knows no way.
    #[error("no route to host")]
    Unreachable,
    /// A router or filter forbids it.
    #[error("permission denied")]
    Forbidden,
    /// The address or port is taken, or all ports are.
    #[error("address already in use")]
    InUse,
    /// The host has no address of that family, or not that one.
    #[error("cannot assign requested address")]
    NoAddress,
    /// The datagram is longer than can be sent.
    #[error("message too long")]
    TooLong,
    /// The socket is not there, or its sending side is closed.
    #[error("broken pipe")]
    Closed,
}

impl Error {
    /// The same as the standard library has it.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Refused => ErrorKind::ConnectionRefused,
            Self::Reset => ErrorKind::ConnectionReset,
            Self::TimedOut => ErrorKind::TimedOut,
            Self::Unreachable => ErrorKind::HostUnreachable,
            Self::Forbidden => ErrorKind::PermissionDenied,
            Self::InUse => ErrorKind::AddrInUse,
            Self::NoAddress => ErrorKind::AddrNotAvailable,
            Self::TooLong => ErrorKind::InvalidInput,
            Self::Closed => ErrorKind::BrokenPipe,
        }
    }
}

/// Whether messages of this type are errors (RFC 1122 §3.2.2, RFC 4443 §2.1).
pub(super) fn is_error(protocol: Protocol, kind: u8) -> bool {
    match protocol {
        Protocol::ICMP => matches!(kind, 3 | 11 | 12),
        _ => protocol == Protocol::ICMPV6 && kind < 128,
    }
}

/// What an ICMP error asks for.
enum Meaning {
    /// The socket is to be told.
    Fail(Error),
    /// Packets are to be no longer than this.
    Narrow(usize),
    /// It may pass.
    Wait,
}

/// Reads type and code as Linux does (`icmp_err_convert`, `icmpv6_err_convert`).
fn meaning(headers: &Headers, packet: &[u8]) -> Meaning {
    let at = usize::from(headers.transport);
    let Some(&[kind, code, _, _, a, b, c, d]) = packet.get(at..).and_then(<[u8]>::first_chunk) else {
        return Meaning::Wait;
    };
    match (headers.tuple.protocol, kind, code) {
        // RFC 1191 §4: the next hop's MTU is in the last two bytes. RFC 791 wants every path to carry 68; Linux takes no
        // less than 552.
        (Protocol::ICMP, 3, 4) => Meaning::Narrow(usize::from(u16::from_be_bytes([c, d])).max(552)),
        (Protocol::ICMPV6, 2, _) => Meaning::Narrow((u32::from_be_bytes([a, b, c, d]) as usize).max(1280)),
        (Protocol::ICMP, 3, 3) | (Protocol::ICMPV6, 1, 4) => Meaning::Fail(Error::Refused),
        (Protocol::ICMPV6, 1, 1 | 5 | 6) => Meaning::Fail(Error::Forbidden),
        (Protocol::ICMP, 3, _) | (Protocol::ICMPV6, 1, _) => Meaning::Fail(Error::Unreachable),
        _ => Meaning::Wait,
    }
}

impl Host {
    /// An ICMP error about a packet of `quoted`, which this host should have sent.
    pub(super) fn receive_error(&mut self, now: Instant, headers: &Headers, quoted: Tuple, packet: Vec<u8>) {
        let (own, other) = ((quoted.source, quoted.source_port), (quoted.destination, quoted.destination_port));
        let known = match quoted.protocol {
            Protocol::TCP => self.by_ends.contains_key(&(own, other)),
            _ => self.bound_to(own).is_some(),
        };
        if !known {
            let late = self.ended.contains(quoted.protocol, own, other);
            let strangeness = if late { Strangeness::Late } else { Strangeness::NoSocket };
            return self.note(now, strangeness, quoted, packet);
        }
        match meaning(headers, &packet) {
            Meaning::Fail(error) if quoted.protocol == Protocol::TCP => self.fail_connecting(own, other, error),
            Meaning::Fail(error) => self.fail_datagram(own, other, error),
            Meaning::Narrow(mtu) => self.narrow(mtu),
            Meaning::Wait => {}
        }
    }

    /// An ICMP error about a packet without ports.
    pub(super) fn receive_ping_error(&mut self, now: Instant, headers: &Headers, packet: Vec<u8>) {
        let known = match meaning(headers, &packet) {
            Meaning::Fail(error) => self.fail_ping(&packet, usize::from(headers.transport) + 8, error),
            Meaning::Narrow(_) | Meaning::Wait => true,
        };
        if !known {
            self.note(now, Strangeness::NoSocket, headers.tuple, packet);
        }
    }
}
