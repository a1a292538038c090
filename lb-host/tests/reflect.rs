//! Reflected replies: what the backend must have sent comes out as what was captured, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Command;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, checksum::Sum16BitWords};
use lb_core::{Protocol, Tuple, wire};
use lb_host::device::capture::{Reader, Record, Side, Writer};
use lb_host::device::link::engine_part;

mod real;
mod world;

use world::{Frontend, Reached, replay, rules, v4, v6};

/// Every destination that is spoken to before it speaks: the services of a capture, as far as one can tell.
fn frontends(capture: &[u8]) -> BTreeSet<Frontend> {
    let mut reader = Reader::new(capture).unwrap();
    let mut seen: BTreeSet<Tuple> = BTreeSet::new();
    while let Some(record) = reader.next_record().unwrap() {
        let Some((strip, link)) = engine_part(record.link_type, record.data) else { continue };
        let Ok(Some(headers)) = wire::parse(&record.data[strip..], link) else { continue };
        let tuple = headers.tuple;
        let shows_ports = headers.fragment.is_none_or(|fragment| fragment.offset == 0);
        let is_service = tuple.protocol.has_ports() && shows_ports && tuple.destination_port != 0;
        if is_service && !tuple.destination.is_multicast() && !seen.contains(&tuple.reversed()) {
            seen.insert(tuple);
        }
    }
    seen.iter().map(|tuple| (tuple.destination, tuple.protocol, tuple.destination_port)).collect()
}

/// Captures in which one side serves, and how many packets tshark counts from it (`-Y` of the filter).
const REPLIES: &[(&str, u64)] = &[
    ("suricata-verify__decode-sll2-01__input.pcap", 2), // tcp.srcport == 80
    ("suricata-verify__file-match-crossed__http-multipart-post.pcap", 22), // tcp.srcport == 80
    ("zeek__communityid__sctp.pcap", 37),               // sctp.srcport == 80
    ("zeek__http__concurrent-range-requests.pcap", 26), // tcp.srcport == 80
    ("zeek__ldap__ldap-max-recursion.pcap", 100),       // tcp.srcport == 389
    ("zeek__tcp__retransmit-fast009.pcap", 22),         // tcp.srcport == 80
];

#[test]
fn real_replies_come_out_as_they_were_captured() {
    let Some(directory) = real::directory() else { return };
    for (name, count) in real::CAPTURES {
        let capture = std::fs::read(directory.join(name)).unwrap();
        let frontends = frontends(&capture);
        for reached in [Reached::ByClusterIp, Reached::ByExternalIp] {
            let (summary, _) = replay(&capture, rules(&frontends, reached), true);
            assert_eq!(summary.packets, *count as u64, "{name}");
            assert!(summary.is_faithful(), "{name} {reached:?}: {}", summary.differences.join("\n"));
            if let Some((_, replies)) = REPLIES.iter().find(|(of, _)| of == name) {
                assert_eq!(summary.reflected, *replies, "{name} {reached:?}");
            }
        }
    }
}

/// What tshark says of a capture's checksums: frame number or, for a made reply, the number of the frame that it was
/// made of, and the status of each checksum.
fn checksums(capture: &[u8], filter: &str) -> BTreeMap<u64, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(capture).unwrap();
    let protocols = ["ip", "tcp", "udp", "sctp", "icmp", "icmpv6"];
    let statuses: Vec<String> = protocols.iter().map(|name| format!("{name}.checksum.status")).collect();
    let mut arguments =
        vec!["-r", file.path().to_str().unwrap(), "-T", "fields", "-e", "frame.number", "-e", "frame.comment"];
    for preference in
        ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE", "sctp.checksum:CRC 32c"]
    {
        arguments.extend(["-o", preference]);
    }
    // Whether tshark looks inside a tunnel hangs on its port.
    arguments.extend(["-E", "occurrence=f", "--disable-protocol", "teredo", "-Y", filter]);
    arguments.extend(statuses.iter().flat_map(|field| ["-e", field]));
    let output = Command::new("tshark").args(&arguments).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let frame = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let (number, comment) = (fields.next()?, fields.next()?);
        let number = comment.strip_prefix("reflect of frame ").unwrap_or(number);
        Some((number.split_whitespace().next()?.parse().ok()?, fields.next()?.to_owned()))
    };
    lines.lines().map(|line| frame(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// A checksum that tshark finds right in the captured reply is right in the made one, and a wrong one wrong.
#[test]
fn made_replies_have_the_checksums_of_the_captured() {
    let Some(directory) = real::directory() else { return };
    if !real::tshark() {
        return;
    }
    let mut compared = 0;
    for (name, _) in real::CAPTURES {
        let capture = std::fs::read(directory.join(name)).unwrap();
        let (summary, output) = replay(&capture, rules(&frontends(&capture), Reached::ByExternalIp), true);
        if summary.reflected == 0 {
            continue;
        }
        let captured = checksums(&capture, "frame");
        for (frame, status) in checksums(&output, "frame.comment contains \"reflect of frame\"") {
            assert_eq!(Some(&status), captured.get(&frame), "{name} frame {frame}");
            compared += 1;
        }
    }
    assert!(compared > 1000, "{compared}");
}

const CLIENT: [u8; 4] = [203, 0, 113, 7];
const VIP: [u8; 4] = [198, 51, 100, 80];
const ROUTER: [u8; 4] = [203, 0, 113, 1];

fn octets(host: u128) -> [u8; 16] {
    v6(host).octets()
}

/// An Ethernet frame.
fn ethernet(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind, packet].concat()
}

/// An IPv4 packet in a frame, made by etherparse; `change` has the last word on the header before its checksum is made.
fn ip4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: IpNumber,
    payload: &[u8],
    change: impl Fn(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header::new(payload.len() as u16, 64, protocol, source, destination).unwrap();
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    ethernet([8, 0], &[&header.to_bytes(), payload].concat())
}

/// An IPv6 packet in a frame; `next` is the first extension header's number or the protocol's.
fn ip6(source: [u8; 16], destination: [u8; 16], next: IpNumber, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::try_new(0xbeef).unwrap(),
        payload_length: payload.len() as u16,
        next_header: next,
        hop_limit: 61,
        source,
        destination,
    };
    ethernet([0x86, 0xdd], &[&header.to_bytes()[..], payload].concat())
}

/// A transport's part of a packet, its checksum made by etherparse over a pseudo-header of these addresses.
fn transport(source: &[u8], destination: &[u8], protocol: IpNumber, mut message: Vec<u8>) -> Vec<u8> {
    let at = match protocol {
        IpNumber::TCP => 16,
        IpNumber::UDP => 6,
        _ => 2,
    };
    let mut sum = Sum16BitWords::new().add_slice(&message);
    if protocol != IpNumber::ICMP {
        let length = (message.len() as u32).to_be_bytes();
        sum = sum.add_slice(source).add_slice(destination).add_slice(&length).add_2bytes([0, protocol.0]);
    }
    let checksum = sum.to_ones_complement_with_no_zero().to_be();
    message[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    message
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

fn tcp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    // Sequence, acknowledgement, 8 words of header, ACK, window, checksum, urgent; then 12 bytes of options.
    let rest = [0, 0, 1, 0, 0, 0, 2, 0, 0x80, 0x10, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &rest, payload].concat()
}

fn sctp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0], payload].concat();
    let crc = crc32c::crc32c(&message);
    message[8..12].copy_from_slice(&crc.to_le_bytes());
    message
}

/// Frames, each with how long it was on the wire, if longer.
type Frames = Vec<(Vec<u8>, usize)>;

/// A capture of these frames, a millisecond apart.
fn capture(frames: &Frames) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for (number, (data, length)) in frames.iter().enumerate() {
        let time = Some(1_700_000_000_000_000_000 + number as u64 * 1_000_000);
        let original_length = data.len().max(*length) as u32;
        writer.write(Side::Ingress, &Record { time, link_type: 1, original_length, data }, "").unwrap();
    }
    writer.finish().unwrap()
}

fn whole(frames: Vec<Vec<u8>>) -> Frames {
    frames.into_iter().map(|frame| (frame, 0)).collect()
}

/// The same frame with bytes from this offset replaced.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The same frame with a VLAN tag.
fn tagged(frame: Vec<u8>, kind: [u8; 2]) -> Vec<u8> {
    [&frame[..12], &kind, &[0x20, 7], &frame[12..]].concat()
}

fn request_udp() -> Vec<u8> {
    ip4(CLIENT, VIP, IpNumber::UDP, &transport(&CLIENT, &VIP, IpNumber::UDP, udp(5353, 53, b"question")), |_| ())
}

fn request_tcp() -> Vec<u8> {
    ip4(CLIENT, VIP, IpNumber::TCP, &transport(&CLIENT, &VIP, IpNumber::TCP, tcp(4444, 80, b"GET")), |_| ())
}

fn request_udp6() -> Vec<u8> {
    let (client, vip) = (octets(0xc), octets(0x80));
    ip6(client, vip, IpNumber::UDP, &transport(&client, &vip, IpNumber::UDP, udp(5353, 53, b"question")))
}

fn reply_udp(payload: &[u8]) -> Vec<u8> {
    transport(&VIP, &CLIENT, IpNumber::UDP, udp(53, 5353, payload))
}

fn reply_tcp(payload: &[u8]) -> Vec<u8> {
    transport(&VIP, &CLIENT, IpNumber::TCP, tcp(80, 4444, payload))
}

/// An ICMP error of a type and code that quotes a packet from its IP header on.
fn icmp(kind: [u8; 2], quote: &[u8]) -> Vec<u8> {
    transport(&[], &[], IpNumber::ICMP, [&kind[..], &[0, 0, 0, 0, 5, 0xdc], quote].concat())
}

/// The parts of a UDP reply cut in fragments of 24 bytes.
fn fragments4(identification: u16) -> Vec<Vec<u8>> {
    let datagram = reply_udp(&[0x5a; 60]);
    let count = datagram.chunks(24).count();
    datagram
        .chunks(24)
        .enumerate()
        .map(|(number, part)| {
            ip4(VIP, CLIENT, IpNumber::UDP, part, |header| {
                header.identification = identification;
                header.more_fragments = number + 1 < count;
                header.fragment_offset = etherparse::IpFragOffset::try_new(number as u16 * 3).unwrap();
            })
        })
        .collect()
}

fn fragments6() -> Vec<Vec<u8>> {
    let (client, vip) = (octets(0xc), octets(0x80));
    let datagram = transport(&vip, &client, IpNumber::UDP, udp(53, 5353, &[0x5a; 60]));
    let count = datagram.chunks(24).count();
    let parts = datagram.chunks(24).enumerate();
    parts
        .map(|(number, part)| {
            let offset = ((number as u16 * 24) | u16::from(number + 1 < count)).to_be_bytes();
            let header = [17, 0, offset[0], offset[1], 0xde, 0xad, 0xbe, 0xef];
            ip6(vip, client, IpNumber(44), &[&header[..], part].concat())
        })
        .collect()
}

/// What no capture at hand shows, a line or a few a case: the packets, and how many of them are replies.
fn cases() -> Vec<(&'static str, Frames, u64)> {
    let (client6, vip6) = (octets(0xc), octets(0x80));
    let udp_reply = || ip4(VIP, CLIENT, IpNumber::UDP, &reply_udp(b"answer"), |_| ());
    let tcp_reply = || ip4(VIP, CLIENT, IpNumber::TCP, &reply_tcp(b"200 OK"), |_| ());
    let udp_at = 14 + 20;
    // A payload that makes the sum zero, which is sent as all ones.
    let zero_sum = {
        let sum = reply_udp(&[0, 0]);
        let rest = !u16::from_be_bytes([sum[6], sum[7]]);
        reply_udp(&(!rest).to_be_bytes())
    };
    assert_eq!(zero_sum[6..8], [0xff, 0xff]);
    let options = ip4(VIP, CLIENT, IpNumber::UDP, &reply_udp(b"answer"), |header| {
        header.options = etherparse::Ipv4Options::try_from(&[7, 7, 4, 0, 0, 0, 0, 1][..]).unwrap();
        header.total_len = header.header_len() as u16 + 14;
    });
    let hop_by_hop =
        [&[17, 0, 5, 2, 0, 0, 1, 0][..], &transport(&vip6, &client6, IpNumber::UDP, udp(53, 5353, b"answer"))].concat();
    let error6 = |quote: &[u8]| {
        let message = [&[1, 4, 0, 0, 0, 0, 0, 0][..], quote].concat();
        ip6(vip6, client6, IpNumber::IPV6_ICMP, &transport(&vip6, &client6, IpNumber::IPV6_ICMP, message))
    };
    let error = |from: [u8; 4], quote: &[u8]| ip4(from, CLIENT, IpNumber::ICMP, &icmp([3, 3], quote), |_| ());
    let crossed = |mut fragments: Vec<Vec<u8>>, request: Vec<u8>| {
        fragments.rotate_left(1);
        fragments.insert(0, request);
        whole(fragments)
    };
    let gso = with(ip4(VIP, CLIENT, IpNumber::TCP, &reply_tcp(&[7; 4000]), |_| ()), 16, &[0, 0]);
    let sctp_request = ip4(CLIENT, VIP, IpNumber::SCTP, &sctp(7777, 99, &[1, 0, 0, 8, 0, 0, 0, 0]), |_| ());
    let sctp_reply = ip4(VIP, CLIENT, IpNumber::SCTP, &sctp(99, 7777, &[2, 0, 0, 8, 0, 0, 0, 0]), |_| ());
    vec![
        ("a reply", whole(vec![request_udp(), udp_reply()]), 1),
        ("no request was captured", whole(vec![udp_reply(), tcp_reply()]), 0),
        ("udp without checksum", whole(vec![request_udp(), with(udp_reply(), udp_at + 6, &[0, 0])]), 1),
        ("udp of sum zero", whole(vec![request_udp(), ip4(VIP, CLIENT, IpNumber::UDP, &zero_sum, |_| ())]), 1),
        ("wrong udp checksum", whole(vec![request_udp(), with(udp_reply(), udp_at + 6, &[0x12, 0x34])]), 1),
        ("wrong udp checksum of all ones", whole(vec![request_udp(), with(udp_reply(), udp_at + 6, &[0xff, 0xff])]), 1),
        ("wrong tcp checksum", whole(vec![request_tcp(), with(tcp_reply(), udp_at + 16, &[0, 0])]), 1),
        ("wrong ip checksum", whole(vec![request_tcp(), with(tcp_reply(), 14 + 10, &[0, 0])]), 1),
        // Minus zero: no update by the difference can give it back, so nothing is made of it.
        ("tcp checksum of minus zero", whole(vec![request_tcp(), with(tcp_reply(), udp_at + 16, &[0xff, 0xff])]), 0),
        ("ip options", whole(vec![request_udp(), options]), 1),
        ("padding", whole(vec![request_udp(), [udp_reply(), vec![0xee; 12]].concat()]), 1),
        ("a vlan", whole(vec![tagged(request_udp(), [0x81, 0]), tagged(udp_reply(), [0x81, 0])]), 1),
        ("two vlans", whole(vec![request_tcp(), tagged(tagged(tcp_reply(), [0x81, 0]), [0x88, 0xa8])]), 1),
        ("cut by the snap length", vec![(request_tcp(), 0), (tcp_reply()[..14 + 20 + 20].to_vec(), 1500)], 1),
        ("cut within the ports' header", vec![(request_udp(), 0), (udp_reply()[..14 + 20 + 8].to_vec(), 1500)], 1),
        ("segments joined by offload, total length 0", whole(vec![request_tcp(), gso]), 1),
        ("sctp", whole(vec![sctp_request.clone(), sctp_reply.clone()]), 1),
        ("wrong sctp checksum", whole(vec![sctp_request.clone(), with(sctp_reply.clone(), udp_at + 8, &[9; 4])]), 1),
        ("sctp cut by the snap length", vec![(sctp_request, 0), (sctp_reply[..14 + 20 + 16].to_vec(), 0)], 1),
        ("ipv6 with a hop-by-hop option", whole(vec![request_udp6(), ip6(vip6, client6, IpNumber(0), &hop_by_hop)]), 1),
        ("fragments", whole([vec![request_udp()], fragments4(9)].concat()), 3),
        ("fragments, the first last", crossed(fragments4(10), request_udp()), 3),
        ("ipv6 fragments", whole([vec![request_udp6()], fragments6()].concat()), 3),
        ("ipv6 fragments, the first last", crossed(fragments6(), request_udp6()), 3),
        ("later fragments only", whole([vec![request_udp()], fragments4(11).split_off(1)].concat()), 0),
        ("an error from the vip", whole(vec![request_udp(), error(VIP, &request_udp()[14..])]), 1),
        ("an error that quotes 8 bytes", whole(vec![request_tcp(), error(VIP, &request_tcp()[14..14 + 28])]), 1),
        // It did not pass the balancer, which puts the Vip's address in the place of any behind it.
        ("an error from a router", whole(vec![request_tcp(), error(ROUTER, &request_tcp()[14..])]), 0),
        ("an error about a packet never sent", whole(vec![request_tcp(), error(VIP, &request_udp()[14..])]), 0),
        ("an ipv6 error", whole(vec![request_udp6(), error6(&request_udp6()[14..])]), 1),
        ("an ipv6 error that quotes 8 bytes", whole(vec![request_udp6(), error6(&request_udp6()[14..14 + 48])]), 1),
    ]
}

#[test]
fn made_captures_come_out_as_they_are() {
    let frontends = BTreeSet::from([
        (v4(VIP), Protocol::TCP, 80),
        (v4(VIP), Protocol::UDP, 53),
        (v4(VIP), Protocol::SCTP, 99),
        (v6(0x80), Protocol::UDP, 53),
    ]);
    for (what, frames, replies) in cases() {
        for reached in [Reached::ByClusterIp, Reached::ByExternalIp] {
            let (summary, _) = replay(&capture(&frames), rules(&frontends, reached), true);
            assert_eq!(summary.reflected, replies, "{what} {reached:?}: {summary}");
            assert!(summary.is_faithful(), "{what} {reached:?}: {}", summary.differences.join("\n"));
            assert_eq!(summary.packets, frames.len() as u64, "{what}");
        }
    }
}
