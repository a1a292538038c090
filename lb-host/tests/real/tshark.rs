//! Captures as tshark reads them.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// One end of a packet: address and port.
pub(crate) type End = (IpAddr, u16);

/// Protocol, source and destination of a packet.
pub(crate) type Ends = (&'static str, End, End);

/// Protocols whose checksums are looked at.
pub(crate) const CHECKED: [&str; 6] = ["ip", "tcp", "udp", "sctp", "icmp", "icmpv6"];

/// What tshark says of a packet. Addresses, ports and fragments are those of the outermost IP header.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Nanoseconds since 1970.
    pub(crate) time: Option<u64>,
    /// Interface and first comment, of pcapng.
    pub(crate) interface: String,
    pub(crate) comment: String,
    /// To a group of stations (IEEE 802.3: the first bit of the destination).
    pub(crate) is_to_group: bool,
    pub(crate) addresses: Option<(IpAddr, IpAddr)>,
    /// Set if TCP, UDP or SCTP follows the IP header, and the ports are there.
    pub(crate) ends: Option<Ends>,
    /// Of the packet that an ICMP error quotes.
    pub(crate) quoted: Option<Ends>,
    /// A SYN without ACK, an INIT, or any UDP datagram.
    pub(crate) is_opening: bool,
    pub(crate) is_reset: bool,
    /// Identification, and offset as tshark counts.
    pub(crate) fragment: Option<(String, u64)>,
    /// Wrong checksums by place in [`CHECKED`], of inner packets and quotes, too.
    pub(crate) wrong: [usize; CHECKED.len()],
    /// Malformed, or found in error by one of tshark's dissectors.
    pub(crate) is_flagged: bool,
}

const FIELDS: [&str; 23] = [
    "frame.time_epoch",
    "frame.interface_name",
    "frame.comment",
    "frame.protocols",
    "eth.dst.ig",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
    "tcp.flags",
    "sctp.chunk_type",
    "ip.id",
    "ip.frag_offset",
    "ipv6.fraghdr.ident",
    "ipv6.fraghdr.offset",
    "_ws.expert.severity",
    "frame.encap_type",
];

/// What tshark says of each packet of a capture.
pub(crate) fn packets(capture: &Path) -> Vec<Packet> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(["-T", "fields", "-E", "separator=\u{1f}", "-E", "aggregator=|"]);
    for preference in [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        "sctp.checksum:CRC 32c",
        // Every fragment for itself, and a stream's segments, too.
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    // Whether tshark looks inside this tunnel hangs on its port.
    command.args(["--disable-protocol", "teredo"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    for protocol in CHECKED {
        command.args(["-e", &format!("{protocol}.checksum.status")]);
    }
    let output = command.output().expect("tshark runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut packets: Vec<Packet> = text.lines().filter_map(packet).collect();
    // A pcapng Simple Packet Block tells no time: it came with the one before.
    let mut last = 0;
    for packet in &mut packets {
        last = *packet.time.get_or_insert(last);
    }
    packets
}

/// `None` for blocks that are no packets, which tshark numbers as well.
fn packet(line: &str) -> Option<Packet> {
    let fields: Vec<&str> = line.split('\u{1f}').collect();
    assert_eq!(fields.len(), FIELDS.len() + CHECKED.len(), "{line}");
    let all = |name: &str| {
        let at = FIELDS.iter().position(|field| *field == name).expect("a field asked for");
        fields[at].split('|').filter(|value| !value.is_empty()).collect::<Vec<_>>()
    };
    let nth = |name: &str, index: usize| all(name).get(index).copied();
    let first = |name: &str| nth(name, 0);
    let number = |name: &str| {
        let text = first(name)?;
        let digits = text.strip_prefix("0x");
        digits.map_or_else(|| text.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok())
    };

    first("frame.encap_type")?;
    let layers: Vec<&str> = fields[3].split(':').collect();
    let link = ["eth", "ethertype", "vlan", "ieee8021ad", "sll", "null", "raw"];
    let ip = layers.iter().position(|layer| !link.contains(layer)).unwrap_or(layers.len());
    let (version, above) = match layers[ip..].split_first() {
        Some((version @ (&"ip" | &"ipv6"), above)) => (Some(*version), above),
        _ => (None, &[][..]),
    };
    let extensions = above.iter().take_while(|layer| layer.starts_with("ipv6.")).count();
    let above = &above[extensions..];
    let addresses = |version: &str, index: usize| {
        let address = |end: &str| nth(&format!("{version}.{end}"), index)?.parse::<IpAddr>().ok();
        Some((address("src")?, address("dst")?))
    };
    let ends = |layer: &str, addresses: (IpAddr, IpAddr)| {
        let protocol = *["tcp", "udp", "sctp"].iter().find(|protocol| **protocol == layer)?;
        let port = |end: &str| Some(number(&format!("{protocol}.{end}port"))? as u16);
        Some((protocol, (addresses.0, port("src")?), (addresses.1, port("dst")?)))
    };
    let outer = version.and_then(|version| addresses(version, 0));
    let own = above.first().zip(outer).and_then(|(layer, addresses)| ends(layer, addresses));
    let quoted = match above {
        ["icmp" | "icmpv6", inner @ ("ip" | "ipv6"), layer, ..] if version == Some(inner) => {
            addresses(inner, 1).and_then(|addresses| ends(layer, addresses))
        }
        _ => None,
    };
    let flags = number("tcp.flags").unwrap_or_default();
    let is_opening = match own {
        Some(("tcp", ..)) => flags & 0x12 == 0x02,
        Some(("sctp", ..)) => first("sctp.chunk_type") == Some("1"),
        own => own.is_some(),
    };
    let fragment = match version {
        Some("ip") => first("ip.id").map(str::to_owned).zip(number("ip.frag_offset")),
        _ => first("ipv6.fraghdr.ident").map(str::to_owned).zip(number("ipv6.fraghdr.offset")),
    };
    let statuses = &fields[FIELDS.len()..];
    // 0 is "Bad"; 1 to 4 are "Good", "Unverified", "Not present" and "Illegal".
    let wrong = std::array::from_fn(|at| statuses[at].split('|').filter(|status| *status == "0").count());
    // PI_ERROR; `_ws.malformed` comes with it.
    let is_flagged = all("_ws.expert.severity").contains(&"8388608");
    Some(Packet {
        time: nanoseconds(fields[0]),
        interface: fields[1].to_owned(),
        comment: fields[2].to_owned(),
        is_to_group: matches!(first("eth.dst.ig"), Some("1" | "True")),
        addresses: outer,
        ends: own,
        quoted,
        is_opening,
        is_reset: matches!(own, Some(("tcp", ..))) && flags & 0x04 != 0,
        fragment,
        wrong,
        is_flagged,
    })
}

/// Of seconds in decimal. A capture may name more microseconds than a second has; tshark prints them as they are.
fn nanoseconds(seconds: &str) -> Option<u64> {
    let (seconds, rest) = seconds.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + rest.parse::<u64>().ok()?)
}
