//! Ethernet II frames (IEEE 802.3 §3.1) and VLAN tags (IEEE 802.1Q §9).

use bytemuck::{Pod, Zeroable};

use super::{Malformed, view};
use crate::tuple::Family;

/// What a frame begins with.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    /// What follows; up to 1500, a length (IEEE 802.3 §3.2.6).
    pub(crate) ether_type: [u8; 2],
}

/// What a VLAN tag adds behind the EtherType that announces it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tag {
    control: [u8; 2],
    ether_type: [u8; 2],
}

// As numbers of the machine's own order, so that none is turned around.
const IPV4: u16 = u16::from_ne_bytes([0x08, 0x00]);
const IPV6: u16 = u16::from_ne_bytes([0x86, 0xdd]);
/// 802.1Q.
const CUSTOMER_TAG: u16 = u16::from_ne_bytes([0x81, 0x00]);
/// 802.1ad.
const SERVICE_TAG: u16 = u16::from_ne_bytes([0x88, 0xa8]);
/// What double tagging used before 802.1ad.
const OLD_SERVICE_TAG: u16 = u16::from_ne_bytes([0x91, 0x00]);

/// Outer and inner tag; a frame with more is not looked into.
const MAX_TAGS: usize = 2;

/// The IP version that a frame carries and where its header begins; `None` if it carries no IP.
#[inline(always)]
pub(super) fn read(data: &[u8]) -> Result<Option<(Family, usize)>, Malformed> {
    let header: &Header = view(data, 0).ok_or(Malformed::Truncated)?;
    let (mut ether_type, mut at) = (u16::from_ne_bytes(header.ether_type), size_of::<Header>());
    for left in (0..=MAX_TAGS).rev() {
        match ether_type {
            IPV4 => return Ok(Some((Family::V4, at))),
            IPV6 => return Ok(Some((Family::V6, at))),
            CUSTOMER_TAG | SERVICE_TAG | OLD_SERVICE_TAG if left > 0 => {
                let tag: &Tag = view(data, at).ok_or(Malformed::Truncated)?;
                ether_type = u16::from_ne_bytes(tag.ether_type);
                at += size_of::<Tag>();
            }
            _ => break,
        }
    }
    Ok(None)
}
