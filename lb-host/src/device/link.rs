//! What lies in front of an IP header: link types of captures and what the engine makes of them.
//!
//! Numbers and layouts: <https://www.tcpdump.org/linktypes.html>.

use lb_core::Link;

/// Ethernet II, with any VLAN tags.
pub const ETHERNET: u16 = 1;
/// BSD loopback: the protocol family in the capturing machine's byte order.
pub const NULL: u16 = 0;
/// OpenBSD loopback: the protocol family in network order.
pub const LOOP: u16 = 108;
/// An IP header of either version.
pub const RAW: u16 = 101;
/// The same under numbers that were meant for one operating system each.
pub const RAW_DLT: [u16; 2] = [12, 14];
/// An IPv4 header.
pub const IPV4: u16 = 228;
/// An IPv6 header.
pub const IPV6: u16 = 229;
/// Linux' cooked header, 16 bytes.
pub const LINUX_SLL: u16 = 113;
/// Its second version, 20 bytes.
pub const LINUX_SLL2: u16 = 276;

/// Where the part of a captured packet begins that the engine knows how to read, and what it begins with.
/// `None` if it is of a link type that the engine does not know, or no IP packet as its pseudo-header has it:
/// such a packet passes.
pub fn engine_part(link_type: u16, data: &[u8]) -> Option<(usize, Link)> {
    /// EtherTypes (RFC 9542 appendix B).
    const IP: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];
    match (link_type, data) {
        (ETHERNET, _) => Some((0, Link::Ethernet)),
        (RAW | IPV4 | IPV6, _) => Some((0, Link::Ip)),
        (link_type, _) if RAW_DLT.contains(&link_type) => Some((0, Link::Ip)),
        // The families' numbers differ between systems and byte orders, but only in where the one byte is that is
        // not zero: 2 for IPv4, and 10, 24, 28 or 30 for IPv6.
        (NULL | LOOP, [0, 0, 0, family, ..] | [family, 0, 0, 0, ..]) if matches!(family, 2 | 10 | 24 | 28 | 30) => {
            Some((4, Link::Ip))
        }
        (LINUX_SLL, [_, _, _, _, _, _, _, _, _, _, _, _, _, _, a, b, ..]) if IP.contains(&[*a, *b]) => {
            Some((16, Link::Ip))
        }
        (LINUX_SLL2, [a, b, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, ..]) if IP.contains(&[*a, *b]) => {
            Some((20, Link::Ip))
        }
        _ => None,
    }
}
