//! Which source ports a masqueraded flow may be given.

use core::ops::RangeInclusive;

/// The ports to choose from: `first..=last` without a reserved part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PortRange {
    first: u16,
    /// How many ports from `first` on lie before the reserved part.
    before: u32,
    /// Where the ports behind the reserved part begin.
    resume: u32,
    count: u32,
}

impl PortRange {
    /// How many neighbouring ports each round of a search tries, from a start of its own: a long run of taken ports does not
    /// mean that the range is used up, but no packet may wait for all of it to be looked at (Linux' search has these
    /// rounds too, `nf_nat_l4proto_unique_tuple`).
    pub const ROUNDS: [u32; 5] = [128, 64, 32, 16, 8];

    /// `first..=last` without the ports that are in `reserved` too; `None` if that leaves none.
    pub const fn new(ports: RangeInclusive<u16>, reserved: RangeInclusive<u16>) -> Option<Self> {
        let (first, last) = (*ports.start(), *ports.end());
        let (lowest, highest) = (*reserved.start(), *reserved.end());
        if first > last {
            return None;
        }
        let all = last as u32 - first as u32 + 1;
        let disjoint = lowest > highest || highest < first || lowest > last;
        let (before, resume) =
            if disjoint { (all, last as u32 + 1) } else { (lowest.saturating_sub(first) as u32, highest as u32 + 1) };
        let count = before + (last as u32 + 1).saturating_sub(resume);
        if count == 0 { None } else { Some(Self { first, before, resume, count }) }
    }

    /// How many ports there are; at least one.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Ports to try in this order, each once, `tries` at most: those from one that `start`, a random number, names, in turn.
    pub fn candidates(&self, start: u32, tries: u32) -> impl Iterator<Item = u16> + use<> {
        let Self { first, before, resume, count } = *self;
        // Without a division for the numbers that there nearly always are.
        let around = move |n: u32| if n < count { n } else { n % count };
        (0..count.min(tries)).map(move |step| {
            let nth = around(around(start) + step);
            let port = if nth < before { u32::from(first) + nth } else { resume + (nth - before) };
            port as u16
        })
    }
}

/// Every port but the well-known ones (RFC 6335 §6) and the default range of NodePorts, which would be
/// taken for the Service's own traffic (SEMANTICS §9.9).
impl Default for PortRange {
    fn default() -> Self {
        let (before, behind) = (30000 - 1024, 65536 - 32768);
        Self { first: 1024, before, resume: 32768, count: before + behind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_once_none_reserved() {
        for (ports, reserved, expected) in [
            (1..=5, 3..=3, &[1, 2, 4, 5][..]),
            (1..=5, 1..=2, &[3, 4, 5]),
            (1..=5, 4..=9, &[1, 2, 3]),
            (1..=3, 7..=9, &[1, 2, 3]),
            (7..=9, 1..=3, &[7, 8, 9]),
            (65533..=65535, 65534..=65534, &[65533, 65535]),
            (0..=1, RangeInclusive::new(9, 0), &[0, 1]),
        ] {
            let range = PortRange::new(ports, reserved).unwrap();
            for start in 0..expected.len() {
                let turned = expected[start..].iter().chain(&expected[..start]).copied();
                assert!(range.candidates(start as u32, 128).eq(turned.clone()), "{range:?} from {start}");
                let wrapped = (expected.len() * 1000 + start) as u32;
                assert!(range.candidates(wrapped, 128).eq(turned), "{range:?} from {wrapped}");
            }
        }
        assert_eq!(PortRange::new(RangeInclusive::new(3, 2), 9..=9), None);
        assert_eq!(PortRange::new(3..=4, 1..=9), None);
    }

    #[test]
    fn the_default_keeps_off_well_known_ports_and_node_ports() {
        let range = PortRange::default();
        assert_eq!(Some(range), PortRange::new(1024..=65535, 30000..=32767));
        let mut seen = 0;
        for start in (0..61_744u32).step_by(128) {
            assert_eq!(range.candidates(start, 128).count(), 128);
            for port in range.candidates(start, 128) {
                assert!(port >= 1024 && !(30000..=32767).contains(&port), "{port}");
                seen += 1;
            }
        }
        assert!(seen >= 65536 - 1024 - 2768);
        assert_eq!(range.candidates(u32::MAX, 64).count(), 64);
    }
}
