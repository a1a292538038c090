//! From resolved service ports to segments, and from segments to an image or a delta.

use alloc::vec;
use alloc::vec::Vec;

use super::candidate::Candidate;
use super::objects::{Detector, Label, Node, NodePortAddresses};
use super::objects::{EmptyUdp, Proxy};
use super::resolve::Resolved;
use crate::hash::Key;
use crate::pick::maglev::{self, Turns};
use crate::rules::bytes::{put_bytes, put_u16, put_u32, put_u64};
use crate::rules::directory::{self, ENTRY, Hash, Question};
use crate::rules::image::{self, CHECKED_FROM, LINE, MAGIC, VERSION};
use crate::rules::{Pool, Segment, Vip, node, segment};
use crate::scheduler::Scheduler;
use crate::tuple::{Address, Family, Prefix};

/// Why objects can't be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// A list is longer than the image format can hold: 65,535 entries.
    TooMany {
        /// Whose list it is: the service port's label, or the node's name.
        of: Label,
        /// What the list holds.
        what: &'static str,
    },
    /// Two service ports got the same 64-bit id: rename one of them.
    SameId {
        /// The two labels.
        labels: (Label, Label),
    },
}

impl core::fmt::Display for CompileError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMany { of, what } => {
                write!(f, "{of} has more than 65,535 {what}, which a rule image can't hold: split it")
            }
            Self::SameId { labels: (one, other) } => {
                write!(f, "{one} and {other} hash to the same id, by a chance of 1 in 2^64: rename one of them")
            }
        }
    }
}

impl core::error::Error for CompileError {}

/// The identity of the service port of this label in one family: the same in every image of every node.
pub(super) fn id(label: &str, family: Family) -> u64 {
    let family = if family == Family::V4 { "\u{0}4" } else { "\u{0}6" };
    Key::new(b"lb service ports").bytes([label, family].concat().as_bytes()).max(1)
}

/// The bytes of the segment of a service port, under its label and id, with only the Vips that it has the best claim to.
pub(super) fn segment(
    resolved: &Resolved,
    (label, id): (&Label, u64),
    vips: &[Vip],
    proxy: &Proxy,
    primary: Option<Address>,
) -> Result<Vec<u8>, CompileError> {
    let count =
        |what, count: usize| u16::try_from(count).map_err(|_| CompileError::TooMany { of: label.clone(), what });
    // Those that are neither in a pool nor serving have no meaning for the packet path.
    let kept = |c: &&Candidate| c.serving || c.cluster.is_in() || c.own.is_in();
    let backends: Vec<&Candidate> = resolved.candidates.iter().filter(kept).collect();
    let (vip_count, backend_count) = (count("Vips", vips.len())?, count("endpoints", backends.len())?);
    let members = |pool| -> Vec<u16> {
        let numbered = backends.iter().zip(0u16..);
        numbered.filter(|(candidate, _)| candidate.standing(pool).is_in()).map(|(_, number)| number).collect()
    };
    let (cluster, own) = (members(Pool::Cluster), members(Pool::Local));
    let (cluster_table, own_table) = (maglev_table(&cluster, &backends, proxy), maglev_table(&own, &backends, proxy));
    let restricted = !resolved.source_ranges.is_empty();
    let admits_vip = primary.is_some_and(|primary| resolved.source_ranges.iter().any(|range| range.contains(primary)));
    let flags = [
        (resolved.has_any, segment::flag::HAS_ANY),
        (resolved.internal_local, segment::flag::INTERNAL_LOCAL),
        (resolved.external_local, segment::flag::EXTERNAL_LOCAL),
        (resolved.uses.0, segment::flag::USES_CLUSTER),
        (resolved.uses.1, segment::flag::USES_LOCAL),
        (resolved.keeps_destination, segment::flag::KEEPS_DESTINATION),
        (restricted, segment::flag::RESTRICTED),
        (restricted && admits_vip, segment::flag::ADMITS_VIP_SOURCE),
    ];
    // Room for all that follows, which is rounded up five times; no address and what comes with it is more than a Vip.
    let addresses = vips.len() + backends.len() + resolved.source_ranges.len();
    let numbers = cluster.len() + own.len() + cluster_table.len() + own_table.len();
    let room = segment::HEADER + addresses * segment::VIP + numbers * 2 + label.len() + 5 * 4;
    let mut bytes = Vec::with_capacity(room);
    bytes.resize(segment::HEADER, 0);
    put_u16(&mut bytes, 4, flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag));
    let family = if resolved.family == Family::V4 { 4 } else { 6 };
    put_bytes(&mut bytes, 6, &[resolved.port.protocol.0, family]);
    put_u64(&mut bytes, 8, id);
    put_u32(&mut bytes, 16, resolved.affinity.unwrap_or(0));
    put_bytes(&mut bytes, 20, &[proxy.scheduler as u8]);
    put_u16(&mut bytes, 22, vip_count);
    put_u16(&mut bytes, 24, backend_count);
    put_u16(&mut bytes, 26, cluster.len() as u16);
    put_u16(&mut bytes, 28, own.len() as u16);
    put_u16(&mut bytes, 30, count("source ranges", resolved.source_ranges.len())?);
    put_u32(&mut bytes, 32, cluster_table.len() as u32);
    put_u32(&mut bytes, 36, own_table.len() as u32);
    put_u32(&mut bytes, 40, label.len() as u32);
    for numbers in [&cluster, &own] {
        push_numbers(&mut bytes, numbers);
    }
    for backend in &backends {
        push_address(&mut bytes, backend.address, resolved.family);
        bytes.extend(backend.port.to_le_bytes());
        bytes.extend([u8::from(backend.serving) | u8::from(backend.local) << 1, 0]);
    }
    for vip in vips {
        bytes.extend(vip.address.bits().to_le_bytes());
        bytes.extend(vip.port.to_le_bytes());
        bytes.extend([vip.class as u8, 0]);
    }
    let mut ranges = resolved.source_ranges.clone();
    ranges.sort_unstable();
    ranges.iter().for_each(|range| push_prefix(&mut bytes, *range, 0));
    for table in [&cluster_table, &own_table] {
        push_numbers(&mut bytes, table);
    }
    bytes.extend(label.as_bytes());
    pad(&mut bytes);
    let length = bytes.len() as u32;
    put_u32(&mut bytes, 0, length);
    Ok(bytes)
}

/// The Maglev table over a pool, of backend numbers; empty unless it is in use.
fn maglev_table(pool: &[u16], backends: &[&Candidate], proxy: &Proxy) -> Vec<u16> {
    if proxy.scheduler != Scheduler::Maglev || pool.is_empty() {
        return Vec::new();
    }
    let size = maglev::table_size(pool.len());
    let members = pool.iter().filter_map(|number| backends.get(usize::from(*number)));
    let mut turns: Vec<Turns> = members.map(|b| Turns::new(&proxy.key, b.address, b.port, size)).collect();
    let mut table = vec![0; size as usize];
    maglev::populate(&mut turns, &mut table);
    // From places in the pool to numbers among all backends.
    table.iter_mut().for_each(|place| *place = pool.get(usize::from(*place)).copied().unwrap_or(0));
    table
}

fn push_address(bytes: &mut Vec<u8>, address: Address, family: Family) {
    match family {
        Family::V4 => bytes.extend(address.v4_bits().to_le_bytes()),
        Family::V6 => bytes.extend(address.bits().to_le_bytes()),
    }
}

fn push_prefix(bytes: &mut Vec<u8>, prefix: Prefix, facts: u8) {
    bytes.extend(prefix.address().bits().to_le_bytes());
    bytes.extend([prefix.length(), facts, 0, 0]);
}

fn push_numbers(bytes: &mut Vec<u8>, numbers: &[u16]) {
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(segment::padded(bytes.len()), 0);
}

/// The bytes of the node's section: the mode's table, and what holds for all services.
/// `health_checks` are the ports that services are checked on, rising.
pub(super) fn node_section(node: &Node, health_checks: &[u16]) -> Result<Vec<u8>, CompileError> {
    let proxy = &node.proxy;
    let count =
        |what, count: usize| u16::try_from(count).map_err(|_| CompileError::TooMany { of: node.name.clone(), what });
    let sources = match &proxy.detector {
        Detector::Sources(blocks) => blocks.as_slice(),
        Detector::None | Detector::Interface => &[],
    };
    let on_loopback = loopback_blocks(proxy);
    // §8.4, §13.1: each family has its own detector, and one without a block has none.
    let detected = |family| match proxy.detector {
        Detector::None => false,
        Detector::Interface => true,
        Detector::Sources(_) => sources.iter().any(|block| block.address().family() == family),
    };
    let flags = [
        (!on_loopback.is_empty(), node::flag::LOOPBACK_GUARD),
        (proxy.empty_udp == EmptyUdp::Cut, node::flag::CUT_EMPTY),
    ];
    let rows = |family| proxy.mode.rows(detected(family), proxy.masquerade_all).map(|row| row.0);
    let addresses = addresses(node, &on_loopback);
    let masquerades = masquerades(node);
    let mut bytes = vec![0; node::HEADER];
    put_u32(&mut bytes, 4, flags.iter().filter(|(set, _)| *set).fold(proxy.mode.flags, |all, (_, flag)| all | flag));
    for (at, family) in node::ROWS.into_iter().zip([Family::V4, Family::V6]) {
        put_bytes(&mut bytes, at, &rows(family));
    }
    put_bytes(&mut bytes, node::STALE, &proxy.mode.stale.map(|stale| stale as u8));
    put_u16(&mut bytes, 76, proxy.reserved_ports.0);
    put_u16(&mut bytes, 78, proxy.reserved_ports.1);
    put_u16(&mut bytes, 80, count("pod CIDRs", sources.len())?);
    put_u16(&mut bytes, 82, count("addresses", addresses.len())?);
    put_u16(&mut bytes, 84, count("service CIDRs", proxy.service_cidrs.len())?);
    put_u16(&mut bytes, 86, count("masquerade addresses", masquerades.len())?);
    let health_checks = if proxy.mode.accepts_health_checks { health_checks } else { &[] };
    put_u16(&mut bytes, 88, count("health check ports", health_checks.len())?);
    sources.iter().for_each(|block| push_prefix(&mut bytes, *block, 0));
    addresses.iter().for_each(|(block, facts)| push_prefix(&mut bytes, *block, *facts));
    proxy.service_cidrs.iter().for_each(|block| push_prefix(&mut bytes, *block, 0));
    for (block, address) in masquerades {
        push_prefix(&mut bytes, block, 0);
        bytes.extend(address.bits().to_le_bytes());
    }
    push_numbers(&mut bytes, health_checks);
    let length = bytes.len() as u32;
    put_u32(&mut bytes, 0, length);
    Ok(bytes)
}

const LOOPBACK: Prefix = Prefix::new(Address::v4([127, 0, 0, 0]), 8);
const LOOPBACK_V6: Prefix = Prefix::host(Address::from_bits(1));

/// Where on IPv4 loopback node ports are open (SEMANTICS §9.5).
fn loopback_blocks(proxy: &Proxy) -> Vec<Prefix> {
    if !(proxy.mode.localhost_node_ports && proxy.localhost_node_ports) {
        return Vec::new();
    }
    match &proxy.node_port_addresses {
        NodePortAddresses::All => vec![LOOPBACK],
        NodePortAddresses::Primary => Vec::new(),
        NodePortAddresses::Inside(blocks) if blocks.iter().any(|block| block.holds(LOOPBACK)) => vec![LOOPBACK],
        NodePortAddresses::Inside(blocks) => blocks.iter().copied().filter(|block| LOOPBACK.holds(*block)).collect(),
    }
}

/// The node's addresses and what is open on each (§9.1).
fn addresses(node: &Node, on_loopback: &[Prefix]) -> Vec<(Prefix, u8)> {
    let proxy = &node.proxy;
    let rejects = if proxy.mode.rejects_everywhere { node::address::REJECTS } else { 0 };
    let own = node.addresses.iter().filter(|address| !address.is_loopback()).map(|address| {
        let open = if node.opens_node_ports_on(*address) { node::address::NODE_PORTS } else { 0 };
        (Prefix::host(*address), node::address::OWN | rejects | open)
    });
    // §6.9: loopback is a local destination as well, open or not.
    let reached = [LOOPBACK, LOOPBACK_V6].into_iter().filter(|_| rejects != 0).map(|block| (block, rejects));
    let loopback = on_loopback.iter().map(|block| (*block, node::address::NODE_PORTS)).chain(reached);
    own.chain(loopback).collect()
}

/// Where to masquerade as whom: what the operator set, the longest prefix first, then the node's primary
/// address of each family.
fn masquerades(node: &Node) -> Vec<(Prefix, Address)> {
    let mut chosen = node.proxy.masquerade.clone();
    chosen.sort_by_key(|(block, address)| (u8::MAX - block.length(), *block, *address));
    let everywhere = [Prefix::new(Address::from_v4_bits(0), 0), Prefix::new(Address::UNSPECIFIED, 0)];
    let default = everywhere.into_iter().filter_map(|block| {
        let primary = node.addresses.iter().find(|address| address.family() == block.address().family())?;
        Some((block, *primary))
    });
    chosen.extend(default);
    chosen
}

/// An image, or a delta on the table whose fingerprint is `base`, of these sections by rising id: the
/// same bytes for the same sections.
pub(super) fn image(key: &[u8; 16], base: u64, fingerprint: u64, sections: &[(u64, &[u8])], out: &mut Vec<u8>) {
    let hash = Hash::new(key);
    let (directory, mut start) = directory(&hash, sections);
    out.clear();
    out.resize(image::HEADER, 0);
    put_bytes(out, 0, &MAGIC);
    put_u32(out, 8, VERSION);
    put_bytes(out, 24, key);
    put_u64(out, 40, base);
    put_u64(out, 48, fingerprint);
    put_u32(out, 56, sections.len() as u32);
    put_u32(out, 60, (directory.len() / ENTRY) as u32);
    for (id, bytes) in sections {
        out.extend(id.to_le_bytes());
        out.extend((start as u32).to_le_bytes());
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend([0; 8]);
        start = (start + bytes.len()).next_multiple_of(LINE);
    }
    out.resize(image::directory_at(sections.len()), 0);
    out.extend(directory);
    for (_, bytes) in sections {
        out.resize(out.len().next_multiple_of(LINE), 0);
        out.extend(*bytes);
    }
    let length = out.len() as u32;
    put_u32(out, 12, length);
    let checksum = image::checksum(out.get(CHECKED_FROM..).unwrap_or(&[]));
    put_u64(out, 16, checksum);
}

/// Who answers to what, laid out by content alone; and where the first section begins behind it.
fn directory(hash: &Hash, sections: &[(u64, &[u8])]) -> (Vec<u8>, usize) {
    let segments = || sections.iter().zip(0u32..).filter(|((id, _), _)| *id != 0);
    let vips = |bytes| Segment::new(bytes).vips().take_while(|_| !bytes.is_empty());
    let mut addresses: Vec<Question> =
        segments().flat_map(|((_, bytes), _)| vips(bytes)).filter_map(|vip| image::address_question(&vip)).collect();
    addresses.sort_unstable();
    let counted = addresses.chunk_by(|a, b| a == b).filter_map(|same| Some((*same.first()?, same.len() as u32)));
    let counted: Vec<(Question, u32)> = counted.collect();
    let listed: usize = segments().map(|((_, bytes), _)| 1 + vips(bytes).count()).sum();
    // A third stays empty, so that look-ups stay short.
    let mut directory = vec![0; ((listed + counted.len()) * 3 / 2 + 2) * ENTRY];
    let first = (image::directory_at(sections.len()) + directory.len()).next_multiple_of(LINE);
    let mut start = first;
    for ((id, bytes), slot) in sections.iter().zip(0u32..) {
        if *id != 0 {
            directory::insert(&mut directory, hash, Question::Segment(*id), slot, 0);
            for vip in vips(bytes) {
                let target = directory::target(start as u32, vip.class);
                directory::insert(&mut directory, hash, image::question(&vip), slot, target);
            }
        }
        start = (start + bytes.len()).next_multiple_of(LINE);
    }
    for (question, count) in counted {
        directory::insert(&mut directory, hash, question, count, 0);
    }
    (directory, first)
}
