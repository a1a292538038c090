//! What each kind of packet is read as, a line a case. Packets are written out by hand from the RFCs.

extern crate std;

use std::format;
use std::vec::Vec;

use super::*;

/// Bytes from hexadecimal digits; `*n` repeats the byte before it, n times in all.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        if let Some(times) = word.strip_prefix('*') {
            let last = *bytes.last().unwrap();
            bytes.resize(bytes.len() - 1 + times.parse::<usize>().unwrap(), last);
        } else {
            bytes.extend((0..word.len()).step_by(2).map(|i| u8::from_str_radix(&word[i..i + 2], 16).unwrap()));
        }
    }
    bytes
}

/// An IPv4 header without options from 10.0.0.1 to 10.0.0.2, and what it carries. The total length
/// counts `missing` bytes more than there are.
fn v4(flags: u16, protocol: u8, payload: &str, missing: u16) -> Vec<u8> {
    let payload = hex(payload);
    let mut bytes = hex("4500 0000 abcd 0000 40 00 0000 0a000001 0a000002");
    bytes[2..4].copy_from_slice(&(20 + payload.len() as u16 + missing).to_be_bytes());
    bytes[6..8].copy_from_slice(&flags.to_be_bytes());
    bytes[9] = protocol;
    bytes.extend(payload);
    bytes
}

/// The same of an IPv6 header from 2001:db8::1 to 2001:db8::2.
fn v6(next: u8, payload: &str, missing: u16) -> Vec<u8> {
    let payload = hex(payload);
    let mut bytes = hex("60000000 0000 00 40 20010db8 00 *11 01 20010db8 00 *11 02");
    bytes[4..6].copy_from_slice(&(payload.len() as u16 + missing).to_be_bytes());
    bytes[6] = next;
    bytes.extend(payload);
    bytes
}

const TCP_SYN: &str = "9c40 0050 00000001 00000000 50 02 ffff 0000 0000";
const UDP: &str = "9c40 0035 0008 0000";
const SCTP_INIT: &str = "9c40 0050 00000000 00000000 01";

fn ip(data: &[u8]) -> Result<Option<Headers>, Malformed> {
    parse(data, Link::Ip)
}

fn tags(text: &str) -> Vec<u8> {
    let mut frame = hex("0200 0000 0002 0200 0000 0001");
    frame.extend(hex(text));
    frame
}

#[test]
fn a_frame_carries_ip_behind_at_most_two_tags() {
    let packet = v4(0, 17, UDP, 0);
    for (name, head, network) in [
        ("untagged", "0800", Some(14)),
        ("802.1Q", "8100 0001 0800", Some(18)),
        ("802.1ad", "88a8 0001 8100 0002 0800", Some(22)),
        ("old double tags", "9100 0001 8100 0002 0800", Some(22)),
        ("three tags", "88a8 0001 8100 0002 8100 0003 0800", None),
        ("ARP", "0806", None),
        ("802.3 length and LLC", "0024", None),
        ("PPPoE", "8864", None),
    ] {
        let mut frame = tags(head);
        frame.extend(&packet);
        let headers = parse(&frame, Link::Ethernet).unwrap();
        assert_eq!(headers.map(|headers| headers.network), network, "{name}");
        if let Some(headers) = headers {
            assert_eq!(headers.tuple.destination_port, 53, "{name}");
        }
    }
    // Nobody asks whether a third is whole.
    assert_eq!(parse(&tags("88a8 0001 8100 0002 8100 00"), Link::Ethernet), Ok(None));
    assert_eq!(parse(&tags("88a8 0001 8100 00"), Link::Ethernet), Err(Malformed::Truncated));
}

#[test]
fn the_first_byte_tells_the_version_where_there_is_no_link_layer() {
    assert_eq!(ip(&v4(0, 17, UDP, 0)).unwrap().unwrap().tuple.source, Address::v4([10, 0, 0, 1]));
    assert_eq!(ip(&v6(17, UDP, 0)).unwrap().unwrap().transport, 40);
    assert_eq!(ip(&[0x55; 40]), Ok(None));
    assert_eq!(ip(&[]), Err(Malformed::Truncated));
}

/// Content, ports, `transport` and `transport_length` of every well-formed kind.
#[test]
fn contents() {
    let syn = Content::Tcp(TcpFlags::SYN);
    let unknown_length = |mut packet: Vec<u8>, at: usize| {
        packet[at..at + 2].fill(0);
        packet
    };
    let padded = |mut packet: Vec<u8>| {
        packet.extend([0; 6]);
        packet
    };
    let options = |mut packet: Vec<u8>| {
        packet[0] = 0x46;
        packet
    };
    for (name, packet, content, ports, transport, length) in [
        ("tcp", v4(0, 6, TCP_SYN, 0), syn, (40000, 80), 20, 20),
        ("tcp, payload cut off", v4(0, 6, TCP_SYN, 1000), syn, (40000, 80), 20, 1020),
        (
            "tcp, options cut off",
            v4(0, 6, "9c40 0050 00000001 00000000 60 02 ffff 0000 0000", 4),
            syn,
            (40000, 80),
            20,
            24,
        ),
        ("tcp, total length 0", unknown_length(v4(0, 6, TCP_SYN, 0), 2), syn, (40000, 80), 20, 20),
        ("tcp, link padding", padded(v4(0, 6, TCP_SYN, 0)), syn, (40000, 80), 20, 20),
        ("udp", v4(0x4000, 17, UDP, 0), Content::Udp, (40000, 53), 20, 8),
        ("udp, IPv4 options", options(v4(0, 17, "01010100 9c40 0035 0008 0000", 0)), Content::Udp, (40000, 53), 24, 8),
        ("udp, reserved flag", v4(0x8000, 17, UDP, 0), Content::Udp, (40000, 53), 20, 8),
        ("sctp", v4(0, 132, SCTP_INIT, 3), Content::Sctp(1), (40000, 80), 20, 16),
        ("echo request", v4(0, 1, "08 00 0000 0001 0001", 0), Content::EchoRequest, (0, 0), 20, 8),
        ("echo reply", v4(0, 1, "00 00 0000 0001 0001", 0), Content::Other, (0, 0), 20, 8),
        ("error that quotes nothing", v4(0, 1, "03 03 0000 00000000", 0), Content::Other, (0, 0), 20, 8),
        ("GRE", v4(0, 47, "0000 0800", 0), Content::Other, (0, 0), 20, 4),
        ("AH", v4(0, 51, "06 04 0000", 0), Content::Other, (0, 0), 20, 4),
        ("ICMPv6 in IPv4", v4(0, 58, "80 00 0000 0001 0001", 0), Content::Other, (0, 0), 20, 8),
        ("an empty packet", v4(0, 253, "", 0), Content::Other, (0, 0), 20, 0),
        ("v6 tcp", v6(6, TCP_SYN, 0), syn, (40000, 80), 40, 20),
        ("v6 echo request", v6(58, "80 00 0000 0001 0001", 0), Content::EchoRequest, (0, 0), 40, 8),
        ("v6 neighbour solicitation", v6(58, "87 00 0000", 0), Content::Other, (0, 0), 40, 4),
        ("v6 hop-by-hop", v6(0, "11 00 010400000000 9c40 0035 0008 0000", 0), Content::Udp, (40000, 53), 48, 8),
        (
            "v6 routing header, done",
            v6(43, "11 02 02 00 00 *20 9c40 0035 0008 0000", 0),
            Content::Udp,
            (40000, 53),
            64,
            8,
        ),
        (
            "v6 routing header, at a waypoint",
            v6(43, "11 02 02 01 00 *20 9c40 0035 0008 0000", 0),
            Content::Other,
            (0, 0),
            40,
            32,
        ),
        ("v6 atomic fragment", v6(44, "11 00 0000 00000007 9c40 0035 0008 0000", 0), Content::Udp, (40000, 53), 48, 8),
        ("v6 no next header", v6(59, "00000000", 0), Content::Other, (0, 0), 40, 4),
        ("v6 ESP", v6(50, "00000001 00000001", 0), Content::Other, (0, 0), 40, 8),
        ("v6 payload length 0", unknown_length(v6(17, UDP, 0), 4), Content::Udp, (40000, 53), 40, 8),
    ] {
        let headers = ip(&packet).unwrap_or_else(|e| panic!("{name}: {e:?}")).unwrap();
        assert_eq!(headers.content, content, "{name}");
        assert_eq!((headers.tuple.source_port, headers.tuple.destination_port), ports, "{name}");
        assert_eq!((headers.network, headers.transport, headers.transport_length), (0, transport, length), "{name}");
        assert_eq!(headers.fragment, None, "{name}");
    }
}

#[test]
fn malformed() {
    use Malformed::*;
    let changed = |mut packet: Vec<u8>, at: usize, bytes: &str| {
        let bytes = hex(bytes);
        packet[at..at + bytes.len()].copy_from_slice(&bytes);
        packet
    };
    let cut = |mut packet: Vec<u8>, length: usize| {
        packet.truncate(length);
        packet
    };
    let options = "3c 00 010400000000";
    let chain = |headers: usize| [options.repeat(headers - 1).as_str(), "11 00 010400000000", UDP].concat();
    let mapped = "00 *10 ffff 0a000001";
    for (name, packet, why) in [
        ("IPv4 header length 4", changed(v4(0, 17, UDP, 0), 0, "44"), IpHeader),
        ("IPv4 total length below the header's", changed(v4(0, 17, UDP, 0), 2, "0013"), IpHeader),
        ("IPv4 options beyond the total length", changed(v4(0, 17, UDP, 0), 0, "4f"), IpHeader),
        ("IPv4 options beyond the data", changed(v4(0, 17, UDP, 100), 0, "4f"), Truncated),
        ("IPv4 header cut off", cut(v4(0, 17, UDP, 0), 19), Truncated),
        ("IPv6 header cut off", cut(v6(17, UDP, 0), 39), Truncated),
        ("TCP header cut off", cut(v4(0, 6, TCP_SYN, 0), 39), Truncated),
        ("TCP header does not fit", v4(0, 6, "9c40 0050 00000001 00000000 50 02 ffff 0000", 0), TransportHeader),
        ("TCP header in the link padding", changed(v4(0, 6, TCP_SYN, 0), 2, "0027"), TransportHeader),
        ("TCP data offset 4", changed(v4(0, 6, TCP_SYN, 0), 32, "40"), TransportHeader),
        ("TCP data offset beyond the packet", changed(v4(0, 6, TCP_SYN, 0), 32, "60"), TransportHeader),
        ("UDP header cut off", cut(v6(17, UDP, 0), 47), Truncated),
        ("UDP length 7", changed(v4(0, 17, UDP, 0), 24, "0007"), TransportHeader),
        ("UDP length beyond the packet", changed(v4(0, 17, UDP, 0), 24, "0009"), TransportHeader),
        ("SCTP without a chunk", v4(0, 132, "9c40 0050 00000000 00000000", 0), TransportHeader),
        ("SCTP chunk cut off", v4(0, 132, "9c40 0050 00000000 00000000", 4), Truncated),
        ("ICMP of three bytes", v4(0, 1, "080000", 0), TransportHeader),
        ("IPv4-mapped source", changed(v6(17, UDP, 0), 8, mapped), MappedAddress),
        ("IPv4-mapped destination", changed(v6(17, UDP, 0), 24, mapped), MappedAddress),
        ("extension header cut off", v6(0, "11 00 0104", 12), Truncated),
        ("extension header beyond the packet", v6(0, "11 01 010400000000", 0), IpHeader),
        ("extension header of four bytes", v6(60, "11 00 0104", 0), IpHeader),
        ("nine extension headers", v6(0, &chain(9), 0), TooManyExtensions),
        ("first fragment, TCP header split", v4(0x2000, 6, "9c40 0050 00000001 00000000 50 02 ffff", 0), Fragment),
        ("first fragment, header chain split", v6(44, "3c 00 0001 00000007 11 01 010400000000", 0), Fragment),
        ("fragment, misaligned", v4(0x2000, 17, "9c40 0035 0008 0000 00", 0), Fragment),
        ("fragment, empty", v4(0x0001, 17, "", 0), Fragment),
        ("fragment beyond 65535", v4(0x1fff, 17, "00 *8", 0), Fragment),
        ("v6 fragment, misaligned", v6(44, "11 00 0009 00000007 00 *9", 0), Fragment),
        ("v6 fragment, empty", v6(44, "11 00 0008 00000007", 0), Fragment),
        ("v6 fragment beyond 65535", v6(44, "11 00 fff8 00000007 00 *8", 0), Fragment),
        ("v6 fragment in a fragment", v6(44, "2c 00 0001 00000007 11 00 0001 00000008 00 *8", 0), Fragment),
    ] {
        assert_eq!(ip(&packet), Err(why), "{name}");
    }
    assert!(ip(&v6(0, &chain(8), 0)).is_ok_and(|h| h.unwrap().tuple.destination_port == 53), "eight are read");
    let mut frame = tags("0800");
    frame.extend(v6(17, UDP, 0));
    assert_eq!(parse(&frame, Link::Ethernet), Err(IpHeader), "an IPv6 header announced as IPv4");
    assert_eq!(parse(&tags("8100 00"), Link::Ethernet), Err(Truncated), "a tag cut off");
    assert_eq!(parse(&frame[..13], Link::Ethernet), Err(Truncated), "an Ethernet header cut off");
}

#[test]
fn fragments() {
    let first = Fragment { identification: 0xabcd, offset: 0, length: 8, more: true };
    for (name, packet, content, fragment) in [
        ("first", v4(0x2000, 17, "9c40 0035 0100 0000", 0), Content::Udp, first),
        ("middle", v4(0x2001, 17, "00 *16", 0), Content::LaterFragment, Fragment { offset: 8, length: 16, ..first }),
        (
            "last, up to the last byte there can be",
            v4(0x1fff, 17, "00 *7", 0),
            Content::LaterFragment,
            Fragment { offset: 65528, length: 7, more: false, ..first },
        ),
        (
            "v6 first, options behind the Fragment header",
            v6(44, "3c 00 0001 deadbeef 11 00 010400000000 9c40 0035 0100 0000", 0),
            Content::Udp,
            Fragment { identification: 0xdead_beef, length: 16, ..first },
        ),
        (
            "v6 last",
            v6(44, "3c 00 0010 deadbeef 3c 01 00", 0),
            Content::LaterFragment,
            Fragment { identification: 0xdead_beef, offset: 16, length: 3, more: false },
        ),
    ] {
        let headers = ip(&packet).unwrap_or_else(|e| panic!("{name}: {e:?}")).unwrap();
        assert_eq!((headers.content, headers.fragment), (content, Some(fragment)), "{name}");
    }
}

#[test]
fn errors_show_the_packet_they_quote() {
    let quote = |packet: Vec<u8>, kind: &str| {
        let mut text = std::string::String::from(kind);
        text.push_str(" 00 0000 00000000 ");
        packet.iter().for_each(|byte| text.push_str(&std::format!("{byte:02x}")));
        text
    };
    let eight = |protocol, more| v4(more, protocol, "9c40 0050 00000001", 96);
    for (name, error, ports) in [
        ("unreachable", v4(0, 1, &quote(eight(6, 0), "03"), 0), Some((28, 48))),
        ("source quench", v4(0, 1, &quote(eight(17, 0), "04"), 0), Some((28, 48))),
        ("redirect", v4(0, 1, &quote(eight(132, 0), "05"), 0), Some((28, 48))),
        ("time exceeded", v4(0, 1, &quote(eight(6, 0), "0b"), 0), Some((28, 48))),
        ("parameter problem", v4(0, 1, &quote(eight(6, 0), "0c"), 0), Some((28, 48))),
        ("about a first fragment", v4(0, 1, &quote(eight(17, 0x2000), "0b"), 4), Some((28, 48))),
        ("about a later fragment", v4(0, 1, &quote(eight(17, 1), "03"), 0), None),
        ("about an echo request", v4(0, 1, &quote(eight(1, 0), "03"), 0), None),
        ("about an IPv6 packet", v4(0, 1, &quote(v6(17, UDP, 0), "03"), 0), None),
        ("ports not quoted", v4(0, 1, &quote(v4(0, 6, "9c4000", 100), "03"), 0), None),
        ("v6 unreachable", v6(58, &quote(v6(17, UDP, 0), "01"), 0), Some((48, 88))),
        ("v6 too big", v6(58, &quote(v6(6, "9c40 0050", 1400), "02"), 0), Some((48, 88))),
        ("v6 time exceeded", v6(58, &quote(v6(6, TCP_SYN, 0), "03"), 0), Some((48, 88))),
        ("v6 parameter problem", v6(58, &quote(v6(0, "84 00 010400000000 9c40 0050", 9), "04"), 0), Some((48, 96))),
        ("v6 about an IPv4 packet", v6(58, &quote(eight(6, 0), "01"), 0), None),
    ] {
        let content = ip(&error).unwrap_or_else(|e| panic!("{name}: {e:?}")).unwrap().content;
        let found = match content {
            Content::Error(quoted) => {
                assert_eq!(quoted.tuple.source_port, 40000, "{name}");
                Some((quoted.network, quoted.transport))
            }
            Content::Other => None,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(found, ports, "{name}");
    }
}

/// A little of everything, and then everything with one byte of it changed or its end cut off.
#[test]
fn what_is_read_as_plain_is_read_alike_by_parse() {
    let tcp = &format!("{TCP_SYN} 01 02 03");
    let packets = [
        v4(0, 6, tcp, 0),
        v4(0x4000, 17, UDP, 0),
        v4(0, 132, SCTP_INIT, 0),
        v4(0x2000, 17, "9c40 0035 0010 0000 01 *8", 0),
        v6(6, tcp, 0),
        v6(17, UDP, 0),
        v6(0, &format!("1100 0000 0000 0000 {UDP}"), 0),
    ];
    let ethernet = |packet: &Vec<u8>, tag: &str, ether_type: &str| {
        let mut frame = tags(&format!("{tag} {ether_type}"));
        frame.extend(packet);
        frame
    };
    let tagged = [
        ethernet(&packets[0], "", "0800"),
        ethernet(&packets[0], "8100 0001", "0800"),
        ethernet(&packets[4], "", "86dd"),
    ];
    // Under Miri some values of a byte.
    let stride = if cfg!(miri) { 51 } else { 1 };
    let (mut plain, mut other) = (0, 0);
    let mut compare = |data: &[u8], link| match plain::read(data, link, 7) {
        None => other += 1,
        Some(read) => {
            plain += 1;
            let headers = parse(data, link).unwrap().unwrap();
            assert_eq!(Tuple::from(&read.tuple), Tuple { zone: 7, ..headers.tuple }, "{data:02x?}");
            assert_eq!((headers.network, headers.fragment), (read.network, None));
            let length = if read.tuple.family == Family::V4 { 20 } else { 40 };
            assert_eq!(headers.transport, read.network + length);
            let signs = match headers.content {
                Content::Tcp(flags) => flags.0 % plain::DATAGRAM,
                Content::Udp => plain::DATAGRAM,
                other => panic!("{other:?}: {data:02x?}"),
            };
            assert_eq!((read.signs, read.is_tcp()), (signs, signs != plain::DATAGRAM));
        }
    };
    let cases =
        packets.iter().map(|packet| (packet, Link::Ip)).chain(tagged.iter().map(|frame| (frame, Link::Ethernet)));
    for (packet, link) in cases {
        for length in 0..=packet.len() {
            compare(&packet[..length], link);
        }
        compare(&[&packet[..], &[0; 6]].concat(), link);
        for at in 0..packet.len() {
            for value in (0..=255).step_by(stride) {
                let mut changed = packet.clone();
                changed[at] = value;
                compare(&changed, link);
            }
        }
    }
    assert!(plain * stride > 10_000 && other * stride > 10_000, "{plain} plain, {other} not");
}
