//! A packet in words: `tcp 10.244.0.2:40000 -> 10.96.0.10:80`.

use std::net::{IpAddr, SocketAddr};

use lb_core::{Address, Protocol, Tuple};

/// Why words are no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a packet: {reason}; write it like 'tcp 10.244.0.2:40000 -> 10.96.0.10:80', IPv6 addresses as '[fd00::1]:80'"
)]
pub struct NotAPacket {
    text: String,
    reason: String,
}

/// The source port of a packet that names none: an ephemeral one.
pub const EPHEMERAL: u16 = 40_000;

/// Reads `PROTOCOL SRC[:PORT] -> DST:PORT`; `icmp` has no ports. Protocols are tcp, udp, sctp and icmp.
///
/// # Errors
/// [`NotAPacket`] says what could not be read.
pub fn parse(text: &str) -> Result<Tuple, NotAPacket> {
    let wrong = |reason: String| NotAPacket { text: text.to_owned(), reason };
    let (protocol, rest) =
        text.trim().split_once(char::is_whitespace).ok_or_else(|| wrong("it has one word only".into()))?;
    let (source, destination) = rest.split_once("->").ok_or_else(|| wrong("there is no -> in it".into()))?;
    let (source, source_port) = end(source).ok_or_else(|| wrong(format!("{:?} is no address", source.trim())))?;
    let (destination, destination_port) =
        end(destination).ok_or_else(|| wrong(format!("{:?} is no address", destination.trim())))?;
    if source.family() != destination.family() {
        return Err(wrong("its two addresses are of different families".into()));
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        "icmp" | "icmpv6" | "ping" if destination.is_v4() => Protocol::ICMP,
        "icmp" | "icmpv6" | "ping" => Protocol::ICMPV6,
        other => return Err(wrong(format!("{other:?} is not tcp, udp, sctp or icmp"))),
    };
    if !protocol.has_ports() {
        return match (source_port, destination_port) {
            (None, None) => Ok(Tuple { source, destination, protocol, ..Tuple::default() }),
            _ => Err(wrong(format!("{protocol} has no ports"))),
        };
    }
    let destination_port = destination_port.ok_or_else(|| wrong("the destination has no port".into()))?;
    let source_port = source_port.unwrap_or(EPHEMERAL);
    Ok(Tuple { source, destination, source_port, destination_port, protocol, zone: 0 })
}

/// An address with or without a port.
fn end(text: &str) -> Option<(Address, Option<u16>)> {
    let text = text.trim();
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some((socket.ip().into(), Some(socket.port())));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| (ip.into(), None))
}

/// The bytes of a packet of this tuple, from the IP header on: a SYN, an empty datagram, an INIT, an echo
/// request.
pub fn packet(tuple: &Tuple) -> Vec<u8> {
    use etherparse::PacketBuilder;
    let (ip, v4) = match (IpAddr::from(tuple.source), IpAddr::from(tuple.destination)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (PacketBuilder::ipv4(source.octets(), destination.octets(), 64), true)
        }
        (source, destination) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            (PacketBuilder::ipv6(octets(source), octets(destination), 64), false)
        }
    };
    let (from, to) = (tuple.source_port, tuple.destination_port);
    let mut out = Vec::new();
    // Writing to a vector can't fail, and nothing here is too long for its length field.
    let written = match tuple.protocol {
        Protocol::TCP => ip.tcp(from, to, 1, 65_535).syn().write(&mut out, &[]),
        Protocol::UDP => ip.udp(from, to).write(&mut out, &[]),
        Protocol::ICMP => ip.icmpv4_echo_request(1, 1).write(&mut out, &[]),
        Protocol::ICMPV6 => ip.icmpv6_echo_request(1, 1).write(&mut out, &[]),
        Protocol(number) => {
            // RFC 9260 §3.1, §3.3.2: the common header, and an INIT chunk's.
            let mut sctp = [from.to_be_bytes(), to.to_be_bytes()].concat();
            sctp.extend([0; 8]);
            sctp.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
            ip.write(&mut out, number.into(), &sctp)
        }
    };
    debug_assert!(written.is_ok(), "{tuple} v4={v4}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_packets() {
        for (text, expected) in [
            ("tcp 10.244.0.2:40000 -> 10.96.0.10:80", Ok("tcp 10.244.0.2:40000 -> 10.96.0.10:80")),
            ("udp 10.0.0.1 -> 10.96.0.10:53", Ok("udp 10.0.0.1:40000 -> 10.96.0.10:53")),
            ("TCP [fd00::2]:1 -> [fd00::1]:80", Ok("tcp [fd00::2]:1 -> [fd00::1]:80")),
            ("sctp fd00::2 -> [fd00::1]:80", Ok("sctp [fd00::2]:40000 -> [fd00::1]:80")),
            ("icmp 10.0.0.1 -> 10.96.0.10", Ok("icmp 10.0.0.1 -> 10.96.0.10")),
            ("icmp fd00::2 -> fd00::1", Ok("icmpv6 fd00::2 -> fd00::1")),
            ("tcp 10.0.0.1:1 -> 10.96.0.10", Err("no port")),
            ("tcp 10.0.0.1:1 10.96.0.10:80", Err("no ->")),
            ("tcp 10.0.0.1:1 -> [fd00::1]:80", Err("different families")),
            ("tcp 10.0.0.1:70000 -> 10.96.0.10:80", Err("no address")),
            ("gre 10.0.0.1 -> 10.96.0.10", Err("not tcp, udp, sctp or icmp")),
            ("icmp 10.0.0.1:1 -> 10.96.0.10:2", Err("has no ports")),
        ] {
            match (parse(text), expected) {
                (Ok(tuple), Ok(expected)) => assert_eq!(tuple.to_string(), expected),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_packet_made_from_words_parses_back_to_them() {
        for text in ["tcp 10.0.0.1:1 -> 10.0.0.2:2", "udp [fd00::2]:1 -> [fd00::1]:80", "sctp 10.0.0.1:1 -> 10.0.0.2:2"]
        {
            let tuple = parse(text).unwrap();
            let headers = lb_core::wire::parse(&packet(&tuple), lb_core::Link::Ip).unwrap().unwrap();
            assert_eq!(headers.tuple, tuple);
        }
    }
}
