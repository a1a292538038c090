//! A packet before and after, and the verdict between.

use lb_core::wire::{self, Content, Headers, Quoted};
use lb_core::{Address, Checksum, Direction, Flow, Link, Meta, Protocol, Tuple};

/// A packet on its way through a balancer.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'p> {
    pub came: &'p [u8],
    pub left: &'p [u8],
    pub meta: Meta,
    /// By how much whoever passes it on has lowered its hop limit since.
    pub hops: u8,
}

/// 1: nothing was written.
pub fn untouched(passage: &Passage<'_>) {
    assert_eq!(passage.left, passage.came, "touched, and not forwarded");
}

/// 2 and 3: a packet of this flow that went this way.
pub fn forwarded(passage: &Passage<'_>, flow: &Flow, direction: Direction) {
    let (before, after) = (headers(passage.came, passage.meta.link), headers(passage.left, passage.meta.link));
    let (came, leaves) = match direction {
        Direction::Original => (flow.original, flow.leaves()),
        Direction::Reply => (flow.answer(), flow.original.reversed()),
    };
    let zoned = |tuple: Tuple| Tuple { zone: passage.meta.zone, ..tuple };
    // A later fragment has no ports, and over IPv6 its own idea of what it is of: RFC 8200 §4.5 goes by the first
    // fragment's Next Header alone.
    let later = |tuple: Tuple| Tuple { source_port: 0, destination_port: 0, protocol: Protocol(0), ..tuple };
    match (before.content, after.content) {
        (Content::Error(old), Content::Error(new)) => {
            assert_eq!(zoned(old.tuple), came.reversed(), "an error about another flow");
            assert_eq!(zoned(new.tuple), leaves.reversed(), "an error that quotes another packet");
            assert_eq!(after.tuple.destination, leaves.destination, "an error to somebody else");
        }
        (Content::LaterFragment, Content::LaterFragment) if before.tuple.protocol.has_ports() => {
            assert_eq!((later(zoned(before.tuple)), later(zoned(after.tuple))), (later(came), later(leaves)));
            let stated = before.tuple.protocol == came.protocol || !came.source.is_v4();
            assert!(stated && before.tuple.protocol == after.tuple.protocol, "another protocol");
        }
        // Of an ICMP error, or of an extension header.
        (Content::LaterFragment, Content::LaterFragment) => {
            assert_eq!(after.tuple.destination, leaves.destination, "a fragment to somebody else");
        }
        _ => assert_eq!((zoned(before.tuple), zoned(after.tuple)), (came, leaves)),
    }
    let (mut came, mut left) = (passage.came.to_vec(), passage.left.to_vec());
    assert_eq!(left.len(), came.len(), "another length");
    assert_eq!(hop_limit(&came, &before).wrapping_sub(hop_limit(&left, &after)), passage.hops, "another hop limit");
    sums(passage, &before, &after);
    blank_all(&mut came, &before);
    blank_all(&mut left, &after);
    assert_eq!(left, came, "more than addresses, ports and checksums");
}

/// 11: an answer that a rejected packet may have.
pub fn answer(rejected: &[u8], answer: &[u8], link: Link) {
    let (about, answer_headers) = (headers(rejected, link), headers(answer, link));
    assert_eq!(answer_headers.tuple.destination, about.tuple.source, "an answer to somebody else");
    assert_eq!(answer_headers.tuple.source, about.tuple.destination, "an answer in another's name");
    let own = usize::from(answer_headers.transport) + 8;
    let quote = &answer[own..];
    assert!(rejected[about.network.into()..].starts_with(quote), "another packet is quoted");
    assert!(answer.len() <= rejected.len() + 48, "{} bytes answer {}", answer.len(), rejected.len());
    let header = usize::from(answer_headers.network)..usize::from(answer_headers.transport);
    let pseudo = match answer_headers.tuple.source.is_v4() {
        true => {
            assert_eq!(residue(&answer[header]), 0, "the answer's IPv4 header");
            0
        }
        false => {
            addresses(&answer_headers.tuple) + answer_headers.transport_length % WHOLE + u32::from(Protocol::ICMPV6.0)
        }
    };
    assert_eq!((residue(&answer[answer_headers.transport.into()..]) + pseudo) % WHOLE, 0, "the answer's checksum");
}

/// Whether it is an ICMP error, or a later piece of what may be one.
pub fn is_error(passage: &Passage<'_>) -> bool {
    let headers = headers(passage.came, passage.meta.link);
    matches!(headers.content, Content::Error(_))
        || (headers.content == Content::LaterFragment && !headers.tuple.protocol.has_ports())
}

fn headers(data: &[u8], link: Link) -> Headers {
    wire::parse(data, link).expect("well-formed").expect("an IP packet")
}

fn hop_limit(data: &[u8], headers: &Headers) -> u8 {
    let at = if data[usize::from(headers.network)] >> 4 == 4 { 8 } else { 7 };
    data[usize::from(headers.network) + at]
}

/// What Internet checksums are counted by: ones' complement arithmetic on 16 bits (RFC 1071) is this modulus'.
const WHOLE: u32 = 0xffff;

/// The sum of these bytes as 16-bit words, in the arithmetic of checksums.
fn residue(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    words.fold(0, |sum, word| (sum + word) % WHOLE)
}

fn addresses(tuple: &Tuple) -> u32 {
    let of =
        |address: Address| if address.is_v4() { residue(&address.octets()[12..]) } else { residue(&address.octets()) };
    (of(tuple.source) + of(tuple.destination)) % WHOLE
}

/// 3. What a checksum covers besides what translation writes stays as it is, so the sum of what it writes must stay.
fn sums(passage: &Passage<'_>, before: &Headers, after: &Headers) {
    let Passage { came, left, meta, hops } = *passage;
    if before.tuple.source.is_v4() {
        let sum = |data: &[u8], headers: &Headers| residue(&data[headers.network.into()..headers.transport.into()]);
        // The hop limit is the high octet of its word; whoever lowers it makes up for it.
        assert_eq!(sum(left, after), sum(came, before), "the IPv4 header's checksum (after {hops} hops)");
    }
    match (before.content, after.content) {
        (Content::Tcp(_) | Content::Udp | Content::Sctp(_), _) => {
            let at = usize::from(before.transport);
            let length = before.fragment.is_none().then_some(before.transport_length as usize);
            transport(&came[at..], &left[at..], [&before.tuple, &after.tuple], meta.checksum, length);
        }
        (Content::Error(old), Content::Error(new)) => {
            let at = usize::from(old.transport);
            let whole = (!old.fragment).then_some(old.transport_length as usize);
            let end = came.len().min(usize::from(before.transport) + before.transport_length as usize);
            transport(&came[at..end], &left[at..end], [&old.tuple, &new.tuple], Checksum::Complete, whole);
            let header = |data: &[u8], quoted: &Quoted| residue(&data[quoted.network.into()..quoted.transport.into()]);
            if old.tuple.source.is_v4() {
                assert_eq!(header(left, &new), header(came, &old), "the quoted IPv4 header's checksum");
            }
            if meta.checksum == Checksum::Complete {
                let message = usize::from(before.transport)..end;
                let pseudo = |tuple: &Tuple| if tuple.source.is_v4() { 0 } else { addresses(tuple) };
                assert_eq!(
                    (residue(&left[message.clone()]) + pseudo(&after.tuple)) % WHOLE,
                    (residue(&came[message]) + pseudo(&before.tuple)) % WHOLE,
                    "the ICMP checksum"
                );
            }
        }
        _ => {}
    }
}

/// A transport header with its checksum, as far as they are at hand. `length` is the datagram's if it is not in parts.
fn transport(came: &[u8], left: &[u8], tuples: [&Tuple; 2], checksum: Checksum, length: Option<usize>) {
    let protocol = tuples[0].protocol;
    let at = checksum_at(protocol);
    let Some((was, is)) = came.get(at.clone()).zip(left.get(at.clone())) else { return };
    match (checksum, protocol) {
        (Checksum::Absent, _) | (Checksum::Partial, Protocol::SCTP) => assert_eq!(was, is, "a checksum that is none"),
        (_, Protocol::SCTP) => {
            if let Some((came, left)) = length.and_then(|length| came.get(..length).zip(left.get(..length))) {
                let wrong = |data: &[u8]| crc32c(data, at.clone()) ^ crc(&data[at.clone()]);
                assert_eq!(wrong(left), wrong(came), "SCTP's CRC32c");
            }
        }
        // RFC 768, and RFC 6935 for tunnels over IPv6: none was computed.
        (_, Protocol::UDP) if was == [0; 2] && checksum == Checksum::Complete => {
            assert_eq!(is, [0; 2], "a checksum from nothing")
        }
        (Checksum::Complete, _) => {
            let sum = |data: &[u8], tuple: &Tuple| {
                (residue(&data[..4]) + residue(&data[at.clone()]) + addresses(tuple)) % WHOLE
            };
            assert_eq!(sum(left, tuples[1]), sum(came, tuples[0]), "the transport checksum");
            assert!(protocol != Protocol::UDP || is != [0; 2], "a UDP checksum that means none");
        }
        // What is there is the pseudo-header's sum, not yet its complement.
        (Checksum::Partial, _) => {
            let sum = |data: &[u8], tuple: &Tuple| (residue(&data[at.clone()]) + WHOLE - addresses(tuple)) % WHOLE;
            assert_eq!(sum(left, tuples[1]), sum(came, tuples[0]), "the pseudo-header's sum");
        }
    }
}

fn checksum_at(protocol: Protocol) -> std::ops::Range<usize> {
    match protocol {
        Protocol::TCP => 16..18,
        Protocol::UDP => 6..8,
        _ => 8..12,
    }
}

fn crc(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four octets"))
}

/// RFC 9260 appendix A, with zeros in the place of the checksum.
fn crc32c(bytes: &[u8], checksum: std::ops::Range<usize>) -> u32 {
    let octets = bytes.iter().enumerate().map(|(at, octet)| if checksum.contains(&at) { 0 } else { *octet });
    !octets.fold(!0u32, |crc, octet| {
        (0..8).fold(crc ^ u32::from(octet), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 })
    })
}

/// Zeros for all that translation may write.
fn blank_all(data: &mut [u8], headers: &Headers) {
    blank_packet(data, headers.network, headers.transport, headers.content, headers.tuple.protocol);
    let hop_limit = if data[usize::from(headers.network)] >> 4 == 4 { 8 } else { 7 };
    blank(data, usize::from(headers.network) + hop_limit, 1);
    if let Content::Error(quoted) = headers.content {
        let end = data.len().min(usize::from(headers.transport) + headers.transport_length as usize);
        // What is quoted may end anywhere, and its checksum with it.
        let data = &mut data[..end];
        blank_packet(data, quoted.network, quoted.transport, Content::Udp, quoted.tuple.protocol);
    }
}

fn blank_packet(data: &mut [u8], network: u16, transport: u16, content: Content, protocol: Protocol) {
    let (network, transport) = (usize::from(network), usize::from(transport));
    if data[network] >> 4 == 4 {
        blank(data, network + 10, 10);
    } else {
        blank(data, network + 8, 32);
    }
    match content {
        Content::Tcp(_) | Content::Udp | Content::Sctp(_) => {
            let checksum = checksum_at(protocol);
            blank(data, transport, 4);
            blank(data, transport + checksum.start, checksum.len());
        }
        Content::Error(_) => blank(data, transport + 2, 2),
        Content::EchoRequest | Content::LaterFragment | Content::Other => {}
    }
}

fn blank(data: &mut [u8], at: usize, length: usize) {
    data.iter_mut().skip(at).take(length).for_each(|byte| *byte = 0);
}
