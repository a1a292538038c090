//! Packets, made by etherparse and read by hand: none of the engine's own code has a part in them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};

use crate::common::frames::{self, ip_headers};

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// What a TCP segment says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Of `SAFR`.
    pub flags: &'static str,
    pub sequence: u32,
    pub acknowledged: u32,
}

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    PortUnreachable,
    HostUnreachable,
    TooBig,
    TimeExceeded,
    /// RFC 792's parameter problem, RFC 4443 §3.4.
    BadHeader,
}

impl Error {
    fn code(self, is_v4: bool) -> (u8, u8) {
        match (self, is_v4) {
            (Self::PortUnreachable, true) => (3, 3),
            (Self::HostUnreachable, true) => (3, 1),
            (Self::TooBig, true) => (3, 4),
            (Self::TimeExceeded, true) => (11, 0),
            (Self::BadHeader, true) => (12, 0),
            (Self::BadHeader, false) => (4, 1),
            (Self::PortUnreachable, false) => (1, 4),
            (Self::HostUnreachable, false) => (1, 3),
            (Self::TooBig, false) => (2, 0),
            (Self::TimeExceeded, false) => (3, 0),
        }
    }
}

/// IP headers with an identification of their own, as the kernel gives packets without one another.
fn headers(source: IpAddr, destination: IpAddr, identification: u16) -> PacketBuilderStep<IpHeaders> {
    let mut headers = ip_headers(source, destination);
    if let IpHeaders::Ipv4(header, _) = &mut headers {
        header.identification = identification.max(1);
        header.dont_fragment = false;
    }
    PacketBuilder::ip(headers)
}

pub fn tcp(from: SocketAddr, to: SocketAddr, identification: u16, segment: Segment, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.port(), to.port(), segment.sequence, u16::MAX);
    header.acknowledgment_number = segment.acknowledged;
    for flag in segment.flags.chars() {
        *match flag {
            'S' => &mut header.syn,
            'A' => &mut header.ack,
            'F' => &mut header.fin,
            'R' => &mut header.rst,
            _ => panic!("{flag}: no flag of TCP"),
        } = true;
    }
    let mut packet = Vec::new();
    headers(from.ip(), to.ip(), identification).tcp_header(header).write(&mut packet, payload).unwrap();
    packet
}

pub fn udp(from: SocketAddr, to: SocketAddr, identification: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    headers(from.ip(), to.ip(), identification).udp(from.port(), to.port()).write(&mut packet, payload).unwrap();
    packet
}

/// A chunk of SCTP, behind the verification tag that its receiver gave out (RFC 9260 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// By the tag that it gives out.
    Init(u32),
    InitAck(u32),
    CookieEcho,
    CookieAck,
    /// So many bytes.
    Data(u16),
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Abort,
    Sack,
    Heartbeat,
    HeartbeatAck,
}

impl Chunk {
    /// Its type and what follows its length.
    fn parts(self) -> (u8, Vec<u8>) {
        // A window, streams out and in, and the first number.
        let init = |tag: u32| [&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat();
        match self {
            // With the parameter that is the cookie.
            Self::InitAck(tag) => (2, [&init(tag)[..], &[0, 7, 0, 8, 1, 2, 3, 4]].concat()),
            Self::Init(tag) => (1, init(tag)),
            Self::CookieEcho => (10, vec![1, 2, 3, 4]),
            Self::CookieAck => (11, Vec::new()),
            // Number, stream, number in it, and what the payload is, then the payload.
            Self::Data(length) => {
                (0, [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &vec![7; usize::from(length)]].concat())
            }
            Self::Shutdown => (7, vec![0, 0, 0, 1]),
            Self::ShutdownAck => (8, Vec::new()),
            Self::ShutdownComplete => (14, Vec::new()),
            Self::Abort => (6, Vec::new()),
            // The last number, a window, no gaps, nothing twice.
            Self::Sack => (3, vec![0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
            // With what the sender wants to have back.
            Self::Heartbeat => (4, vec![0, 1, 0, 8, 1, 2, 3, 4]),
            Self::HeartbeatAck => (5, vec![0, 1, 0, 8, 1, 2, 3, 4]),
        }
    }
}

pub fn sctp(from: SocketAddr, to: SocketAddr, identification: u16, tag: u32, chunk: Chunk) -> Vec<u8> {
    let (kind, body) = chunk.parts();
    let length = (4 + body.len()) as u16;
    // The first and last piece of its data.
    let flags = if kind == 0 { 3 } else { 0 };
    let mut message = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &tag.to_be_bytes(), &[0; 4]].concat();
    message.extend([kind, flags]);
    message.extend(length.to_be_bytes());
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&message);
    message[8..12].copy_from_slice(&sum.to_le_bytes());
    let mut packet = Vec::new();
    headers(from.ip(), to.ip(), identification).write(&mut packet, SCTP.into(), &message).unwrap();
    packet
}

/// A protocol's name in rules.
pub fn name(protocol: u8) -> &'static str {
    match protocol {
        TCP => "tcp",
        SCTP => "sctp",
        _ => "udp",
    }
}

pub fn ping(from: IpAddr, to: IpAddr, identification: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = headers(from, to, identification);
    match from {
        IpAddr::V4(_) => step.icmpv4_echo_request(1, 1).write(&mut packet, frames::PAYLOAD),
        IpAddr::V6(_) => step.icmpv6_echo_request(1, 1).write(&mut packet, frames::PAYLOAD),
    }
    .unwrap();
    packet
}

/// The error that tells the sender of `about` what became of it.
pub fn error(from: IpAddr, kind: Error, about: &[u8], quoted: usize, identification: u16) -> Vec<u8> {
    let quote = &about[..about.len().min(quoted)];
    let (kind_number, code) = kind.code(from.is_ipv4());
    let mtu = if kind == Error::TooBig { 1400u16 } else { 0 };
    let [high, low] = mtu.to_be_bytes();
    let mut packet = Vec::new();
    let step = headers(from, addresses(about).0, identification);
    match from {
        IpAddr::V4(_) => step.icmpv4_raw(kind_number, code, [0, 0, high, low]).write(&mut packet, quote),
        IpAddr::V6(_) => step.icmpv6_raw(kind_number, code, [0, 0, high, low]).write(&mut packet, quote),
    }
    .unwrap();
    packet
}

/// The datagram in pieces of `size` bytes, in order.
pub fn fragments(datagram: &[u8], size: usize, identification: u32) -> Vec<Vec<u8>> {
    let is_v4 = is_v4(datagram);
    let (header, payload) = datagram.split_at(if is_v4 { V4_HEADER } else { V6_HEADER });
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(nth, chunk)| {
            let (at, more) = (nth * size, nth + 1 < count);
            let mut fragment = header.to_vec();
            if is_v4 {
                let length = (V4_HEADER + chunk.len()) as u16;
                fragment[2..4].copy_from_slice(&length.to_be_bytes());
                fragment[6..8].copy_from_slice(&(((at / 8) as u16) | if more { 0x2000 } else { 0 }).to_be_bytes());
                sum_v4_header(&mut fragment);
            } else {
                let next = std::mem::replace(&mut fragment[6], FRAGMENT);
                fragment[4..6].copy_from_slice(&((FRAGMENT_HEADER + chunk.len()) as u16).to_be_bytes());
                fragment.extend([next, 0]);
                fragment.extend(((at as u16) | u16::from(more)).to_be_bytes());
                fragment.extend(identification.to_be_bytes());
            }
            fragment.extend(chunk);
            fragment
        })
        .collect()
}

/// How long IPv4's header is, with its options.
fn v4_header(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0xf) * 4
}

fn sum_v4_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header = &packet[..v4_header(packet)];
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header).ones_complement();
    // The sum is kept in the memory's order, whatever the machine.
    packet[10..12].copy_from_slice(&sum.to_ne_bytes());
}

pub fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// A hop on the way, as a router takes it off: in the checksum by RFC 1624's difference.
pub fn hop(packet: &mut [u8]) {
    if !is_v4(packet) {
        packet[7] -= 1;
        return;
    }
    packet[8] -= 1;
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
    let folded = (sum + u32::from(sum >= 0xffff)) as u16;
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
}

/// Where the transport header is, its protocol, and the piece's offset and whether more follow if this is a fragment.
fn transport(packet: &[u8]) -> (usize, u8, Option<(u16, bool)>) {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let piece = |offset: u16, more: bool| (offset != 0 || more).then_some((offset, more));
    if is_v4(packet) {
        return (v4_header(packet), packet[9], piece((word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0));
    }
    let (mut at, mut next) = (V6_HEADER, packet[6]);
    while next == DESTINATION_OPTIONS && packet.len() >= at + 8 {
        (next, at) = (packet[at], at + 8 + usize::from(packet[at + 1]) * 8);
    }
    match next {
        FRAGMENT => {
            let at = V6_HEADER + FRAGMENT_HEADER;
            (at, packet[V6_HEADER], piece(word(V6_HEADER + 2) & !7, word(V6_HEADER + 2) & 1 != 0))
        }
        next => (at, next, None),
    }
}

pub fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let address = |at: usize| match is_v4(packet) {
        true => IpAddr::from(<[u8; 4]>::try_from(&packet[12 + at * 4..16 + at * 4]).unwrap()),
        false => IpAddr::from(<[u8; 16]>::try_from(&packet[8 + at * 16..24 + at * 16]).unwrap()),
    };
    (address(0), address(1))
}

/// Source and destination with their ports; `None` if the packet shows none.
pub fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (from, to) = addresses(packet);
    let (at, protocol, piece) = transport(packet);
    let shows_ports = matches!(protocol, TCP | UDP | SCTP) && piece.is_none_or(|(offset, _)| offset == 0);
    let ports = packet.get(at..at + 4).filter(|_| shows_ports)?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2))))
}

/// Whether it is a piece of a datagram, and at which offset.
pub fn offset(packet: &[u8]) -> Option<u16> {
    transport(packet).2.map(|(offset, _)| offset)
}

pub fn protocol(packet: &[u8]) -> u8 {
    transport(packet).1
}

/// The ICMP message in a packet, if it is one.
pub fn message(packet: &[u8]) -> Option<&[u8]> {
    let (at, protocol, _) = transport(packet);
    matches!(protocol, ICMP | ICMPV6).then(|| &packet[at..])
}

/// Whether it asks for a connection.
pub fn is_syn(packet: &[u8]) -> bool {
    let (at, protocol, _) = transport(packet);
    protocol == TCP && packet.get(at + 13).is_some_and(|flags| flags & 0x17 == 2)
}

/// Whether an error quotes its packet's ports.
pub fn quotes_ports(error: &[u8]) -> bool {
    message(error).and_then(|message| ends(message.get(8..)?)).is_some()
}

/// As much of a packet as every error quotes (RFC 792).
pub fn shortest_quote(packet: &[u8]) -> usize {
    transport(packet).0 + 8
}

/// Who sends what to whom, in a few words.
pub fn summed_up(packet: &[u8]) -> String {
    let (from, to) = addresses(packet);
    let ends = ends(packet).map_or(format!("{from} > {to}"), |(from, to)| format!("{from} > {to}"));
    let (at, protocol, piece) = transport(packet);
    let word = |offset: usize| {
        let bytes = packet.get(at + offset..at + offset + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_be_bytes(bytes.unwrap_or_default())
    };
    let kind = match protocol {
        ICMP | ICMPV6 => format!("icmp {}/{}", word(0) >> 24, word(0) >> 16 & 0xff),
        TCP => {
            let flags: String = "FSRPA"
                .chars()
                .enumerate()
                .filter(|(bit, _)| word(12) >> 16 & 1 << bit != 0)
                .map(|(_, flag)| flag)
                .collect();
            format!("tcp {flags} seq {} ack {}", word(4), word(8))
        }
        UDP => "udp".into(),
        SCTP => format!("sctp chunk {}", word(12) >> 24),
        _ => "other".into(),
    };
    let piece = piece.map_or(String::new(), |(offset, more)| format!(" piece at {offset}, more: {more}"));
    format!("{kind} {ends} {} bytes{piece}", packet.len())
}

/// The same with the bytes it begins with, for a report.
pub fn told(packet: &[u8]) -> String {
    let hex: String = packet.iter().take(96).map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hex}", summed_up(packet))
}

/// The same fragment eight bytes further on, with other bytes: it overlaps its neighbour.
pub fn moved(fragment: &[u8]) -> Vec<u8> {
    let mut fragment = fragment.to_vec();
    *fragment.last_mut().expect("a payload") ^= 0x55;
    if is_v4(&fragment) {
        let field = u16::from_be_bytes([fragment[6], fragment[7]]) + 1;
        fragment[6..8].copy_from_slice(&field.to_be_bytes());
        sum_v4_header(&mut fragment);
    } else {
        let field = u16::from_be_bytes([fragment[V6_HEADER + 2], fragment[V6_HEADER + 3]]) + 8;
        fragment[V6_HEADER + 2..V6_HEADER + 4].copy_from_slice(&field.to_be_bytes());
    }
    fragment
}

/// A class of traffic, congestion experienced; in IPv6 a flow label, too (RFC 2474, 3168, 6437).
pub fn with_class(mut packet: Vec<u8>) -> Vec<u8> {
    match is_v4(&packet) {
        true => {
            packet[1] = 0xbb;
            sum_v4_header(&mut packet);
        }
        false => packet[..4].copy_from_slice(&[0x6b, 0xb1, 0x23, 0x45]),
    }
    packet
}

/// So many times eight bytes that mean nothing in front of the transport header: options of IPv4 (RFC 791 §3.1), or headers of options
/// for IPv6's destination (RFC 8200 §4.6).
pub fn with_options(packet: &[u8], count: usize) -> Vec<u8> {
    let (header, rest) = packet.split_at(if is_v4(packet) { V4_HEADER } else { V6_HEADER });
    let (mut header, extra) = (header.to_vec(), count * 8);
    if is_v4(packet) {
        header[0] += (extra / 4) as u8;
        header[2..4].copy_from_slice(&((packet.len() + extra) as u16).to_be_bytes());
        // No operation, but for the last, which is the end.
        header.resize(V4_HEADER + extra, 1);
        *header.last_mut().expect("a header") = 0;
        sum_v4_header(&mut header);
    } else {
        let next = std::mem::replace(&mut header[6], DESTINATION_OPTIONS);
        header[4..6].copy_from_slice(&((packet.len() - V6_HEADER + extra) as u16).to_be_bytes());
        for nth in 1..=count {
            let next = if nth < count { DESTINATION_OPTIONS } else { next };
            header.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
    }
    [header, rest.to_vec()].concat()
}

/// Sets IPv4's "don't fragment" in what is no fragment.
pub fn forbid_fragments(packet: &mut [u8]) {
    if is_v4(packet) && offset(packet).is_none() {
        packet[6] |= 0x40;
        sum_v4_header(packet);
    }
}

/// The datagram whose pieces these are, in any order, without a name; `None` if they are not all of it.
pub fn whole(pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let mut pieces: Vec<_> = pieces.iter().map(|piece| (transport(piece), *piece)).collect();
    pieces.sort_by_key(|((_, _, piece), _)| *piece);
    let first = pieces.first()?.1;
    let header = if is_v4(first) { v4_header(first) } else { V6_HEADER };
    let mut datagram = first[..header].to_vec();
    let (mut due, mut ended) = (0, false);
    for ((at, _, piece), packet) in &pieces {
        let (offset, more) = piece.unwrap_or((0, false));
        if ended || usize::from(offset) != due {
            return None;
        }
        datagram.extend(&packet[*at..]);
        (due, ended) = (datagram.len() - header, !more);
    }
    if is_v4(first) {
        datagram[2..4].copy_from_slice(&((header + due) as u16).to_be_bytes());
        datagram[6..8].fill(0);
        sum_v4_header(&mut datagram);
    } else {
        datagram[4..6].copy_from_slice(&(due as u16).to_be_bytes());
        datagram[6] = transport(first).1;
    }
    ended.then_some(datagram)
}

/// The same fragment, but of another datagram; what is no fragment as it is.
pub fn renamed(packet: &[u8], name: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if offset(&packet).is_none() {
        return packet;
    }
    if is_v4(&packet) {
        packet[4..6].copy_from_slice(&(0xf000 | name).to_be_bytes());
        sum_v4_header(&mut packet);
    } else {
        packet[V6_HEADER + 4..V6_HEADER + 8].copy_from_slice(&u32::from(name).to_be_bytes());
    }
    packet
}
