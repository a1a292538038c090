//! Packets made the plain way: every header written out, every checksum computed over all that it covers. Nothing of the engine
//! but its words for addresses and tuples.

use lb_core::{Address, Protocol, Tuple};

/// A packet with ports, as a host would send it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub tuple: Tuple,
    /// TCP's flags (RFC 9293 §3.1), or an SCTP chunk's type.
    pub flags: u8,
    /// Octets of payload.
    pub payload: usize,
    pub hop_limit: u8,
    /// UDP over IPv4 may do without (RFC 768).
    pub checksum: bool,
}

/// Which octets of a datagram, and of which datagram, a packet holds.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub start: usize,
    pub end: usize,
    pub identification: u16,
}

impl Spec {
    pub fn new(tuple: Tuple, flags: u8) -> Self {
        Self { tuple, flags, payload: 24, hop_limit: 64, checksum: true }
    }

    /// From the IP header on.
    pub fn packet(&self) -> Vec<u8> {
        ip(&self.tuple, self.tuple.protocol, self.hop_limit, None, &self.transport())
    }

    /// A fragment of it; `None` if it has no such octets.
    pub fn part(&self, part: Part) -> Option<Vec<u8>> {
        let whole = self.transport();
        let end = part.end.min(whole.len());
        let more = end < whole.len();
        let octets = whole.get(part.start..end).filter(|octets| !octets.is_empty())?;
        Some(ip(&self.tuple, self.tuple.protocol, self.hop_limit, Some((part, more)), octets))
    }

    /// The ICMP error "time exceeded" that a router sends about it, quoting `quoted` octets behind the IP header.
    pub fn time_exceeded(&self, router: Address, quoted: usize) -> Vec<u8> {
        let packet = self.packet();
        let header = if router.is_v4() { 20 } else { 40 };
        let quote = &packet[..packet.len().min(header + quoted)];
        let to = Tuple { source: router, destination: self.tuple.source, ..self.tuple };
        let (kind, protocol) = if router.is_v4() { (11, Protocol::ICMP) } else { (3, Protocol::ICMPV6) };
        let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0], quote].concat();
        let pseudo = if router.is_v4() { 0 } else { pseudo_header(&to, protocol, message.len()) };
        let checksum = !fold(pseudo + words(&message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        ip(&to, protocol, 64, None, &message)
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.tuple.source_port.to_be_bytes(), self.tuple.destination_port.to_be_bytes()].concat();
        let payload: Vec<u8> = (0..self.payload).map(|n| n as u8 ^ 0x5a).collect();
        let (mut octets, at) = match self.tuple.protocol {
            Protocol::TCP => {
                ([&ports[..], &[0, 0, 0, 7, 0, 0, 0, 9, 0x50, self.flags, 0x20, 0, 0, 0, 0, 0], &payload].concat(), 16)
            }
            Protocol::UDP => {
                let length = (8 + payload.len()) as u16;
                ([&ports[..], &length.to_be_bytes(), &[0; 2], &payload].concat(), 6)
            }
            // A common header and one chunk (RFC 9260 §3).
            Protocol::SCTP => {
                let length = (4 + payload.len()) as u16;
                let mut octets = [&ports[..], &[0; 8], &[self.flags, 0], &length.to_be_bytes(), &payload].concat();
                octets.resize(octets.len().next_multiple_of(4), 0);
                let crc = crc32c(&octets);
                octets[8..12].copy_from_slice(&crc.to_le_bytes());
                return octets;
            }
            other => panic!("{other:?} has no ports"),
        };
        if self.checksum || self.tuple.protocol != Protocol::UDP {
            let sum = pseudo_header(&self.tuple, self.tuple.protocol, octets.len()) + words(&octets);
            let checksum = match !fold(sum) {
                0 if self.tuple.protocol == Protocol::UDP => 0xffff,
                checksum => checksum,
            };
            octets[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        octets
    }
}

fn ip(tuple: &Tuple, protocol: Protocol, hop_limit: u8, part: Option<(Part, bool)>, payload: &[u8]) -> Vec<u8> {
    match tuple.source.is_v4() {
        true => {
            let length = (20 + payload.len()) as u16;
            let (identification, fragment) = part.map_or((0, 0x4000), |(part, more)| {
                (part.identification, (part.start / 8) as u16 | u16::from(more) << 13)
            });
            let mut header = vec![0x45, 0];
            header.extend(length.to_be_bytes());
            header.extend(identification.to_be_bytes());
            header.extend(fragment.to_be_bytes());
            header.extend([hop_limit, protocol.0, 0, 0]);
            header.extend(octets(tuple.source));
            header.extend(octets(tuple.destination));
            let checksum = !fold(words(&header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            [&header, payload].concat()
        }
        false => {
            let extension = part.map_or(Vec::new(), |(part, more)| {
                let mut header = vec![protocol.0, 0];
                header.extend((part.start as u16 | u16::from(more)).to_be_bytes());
                header.extend(u32::from(part.identification).to_be_bytes());
                header
            });
            let length = (extension.len() + payload.len()) as u16;
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([if extension.is_empty() { protocol.0 } else { 44 }, hop_limit]);
            header.extend(octets(tuple.source));
            header.extend(octets(tuple.destination));
            [&header[..], &extension, payload].concat()
        }
    }
}

fn octets(address: Address) -> Vec<u8> {
    let octets = address.octets();
    if address.is_v4() { octets[12..].to_vec() } else { octets.to_vec() }
}

/// RFC 9293 §3.1, RFC 8200 §8.1: their words come to the same sum.
fn pseudo_header(tuple: &Tuple, protocol: Protocol, length: usize) -> u64 {
    words(&octets(tuple.source)) + words(&octets(tuple.destination)) + u64::from(protocol.0) + length as u64
}

fn words(octets: &[u8]) -> u64 {
    octets.chunks(2).map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low))).sum()
}

/// RFC 1071 §1: carries are added in again.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// RFC 9260 appendix A, of octets whose checksum field is zero.
fn crc32c(octets: &[u8]) -> u32 {
    !octets.iter().fold(!0, |crc: u32, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 })
    })
}
