//! Names under `in-addr.arpa` and `ip6.arpa` (RFC 1035 §3.5, RFC 3596 §2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use hickory_proto::rr::Name;
use lb_core::{Family, Prefix};

/// The labels of either suffix.
const SUFFIX: usize = 2;

/// The address that a reverse name spells, as far as it does.
pub(super) struct Spelled {
    family: Family,
    /// Its leading bits, the rest zero.
    bits: u128,
    /// How many of them are spelled.
    length: u32,
    /// Whether the name has no label that spells nothing.
    whole: bool,
}

impl Spelled {
    /// `None` if the name is no reverse name.
    pub(super) fn read(name: &Name) -> Option<Self> {
        let mut labels = name.iter().rev();
        let top = labels.next()?;
        let family = match labels.next()?.to_ascii_lowercase().as_slice() {
            b"in-addr" => Family::V4,
            b"ip6" => Family::V6,
            _ => return None,
        };
        if !top.eq_ignore_ascii_case(b"arpa") {
            return None;
        }
        let mut spelled = Self { family, bits: 0, length: 0, whole: true };
        for label in labels {
            match (spelled.unit(label), spelled.whole && spelled.length < spelled.size()) {
                (Some(unit), true) => {
                    spelled.length += spelled.step();
                    spelled.bits |= u128::from(unit) << (spelled.size() - spelled.length);
                }
                _ => spelled.whole = false,
            }
        }
        Some(spelled)
    }

    /// Bits of an address.
    fn size(&self) -> u32 {
        if self.family == Family::V4 { 32 } else { 128 }
    }

    /// Bits that a label spells.
    fn step(&self) -> u32 {
        if self.family == Family::V4 { 8 } else { 4 }
    }

    /// What one label spells: an octet in decimal without leading zeros, or a hexadecimal digit.
    fn unit(&self, label: &[u8]) -> Option<u8> {
        let text = std::str::from_utf8(label).ok()?;
        match self.family {
            Family::V4 => text.parse::<u8>().ok().filter(|octet| octet.to_string() == text),
            Family::V6 if text.len() == 1 => u8::from_str_radix(text, 16).ok(),
            Family::V6 => None,
        }
    }

    /// How many labels the zone's own name has that this name is in, if one of `blocks` is its business. A zone
    /// begins at a whole label, so a block of 12 bits is cut into sixteen zones.
    pub(super) fn apex(&self, blocks: &[Prefix]) -> Option<usize> {
        let starts = blocks.iter().filter(|block| block.address().family() == self.family).filter_map(|block| {
            let start = u32::from(block.length()).next_multiple_of(self.step());
            let theirs = match self.family {
                Family::V4 => u128::from(block.address().v4_bits()),
                Family::V6 => block.address().bits(),
            };
            let rest = self.size() - u32::from(block.length());
            let same = (theirs ^ self.bits).checked_shr(rest).unwrap_or(0) == 0;
            (same && start <= self.length).then_some(start)
        });
        let labels = starts.max()? / self.step();
        usize::try_from(labels).ok().map(|labels| labels + SUFFIX)
    }

    /// The addresses whose names are this one or below it. `None` if no name of an address is.
    pub(super) fn range(&self) -> Option<RangeInclusive<IpAddr>> {
        let rest = u128::MAX.checked_shr(128 - (self.size() - self.length)).unwrap_or(0);
        self.whole.then(|| self.ip(self.bits)..=self.ip(self.bits | rest))
    }

    /// The address, if all of it is spelled.
    pub(super) fn address(&self) -> Option<IpAddr> {
        (self.whole && self.length == self.size()).then(|| self.ip(self.bits))
    }

    fn ip(&self, bits: u128) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or_default()).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        }
    }
}
