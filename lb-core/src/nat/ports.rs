//! Which source ports a masqueraded flow may be given.

use core::ops::RangeInclusive;

/// The ports to choose from: `first..=last` without a reserved part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PortRange {
    first: u32,
    /// How many ports from `first` on lie before the reserved part.
    before: u32,
    /// Where the ports behind the reserved part begin.
    resume: u32,
    count: u32,
    /// From one port to the next.
    step: u32,
}

impl PortRange {
    /// How many neighbouring ports each round of a search tries, from a start of its own: a long run of taken ports does not
    /// mean that the range is used up, but no packet may wait for all of it to be looked at (Linux' search has such
    /// rounds too, `nf_nat_l4proto_unique_tuple`). The first is short: it is enough until nearly all are taken.
    pub const ROUNDS: [u32; 5] = [8, 128, 64, 32, 16];

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
        let first = first as u32;
        if count == 0 { None } else { Some(Self { first, before, resume, count, step: 1 }) }
    }

    /// Of a range that `cores` have a share of each, the one of this core, which is below `cores`: the ports that divided by
    /// `cores` leave `core`, so that a port tells its core whatever is reserved. `None` if there are none.
    pub fn share(self, core: u16, cores: u16) -> Option<Self> {
        let (core, step) = (u32::from(core), u32::from(cores));
        // The first of these many ports from `from` on, and how many there are.
        let part = |from: u32, many: u32| {
            let skipped = (core + step).checked_sub(from.checked_rem(step)?)?.checked_rem(step)?;
            Some((from + skipped, many.saturating_sub(skipped).div_ceil(step)))
        };
        let (first, before) = part(self.first, self.before)?;
        let (resume, behind) = part(self.resume, self.count - self.before)?;
        let count = before + behind;
        (count > 0).then_some(Self { first, before, resume, count, step })
    }

    /// How many ports there are; at least one.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Ports to try in this order, each once, `tries` at most: those from one that `start`, a random number, names, in turn.
    pub fn candidates(&self, start: u32, tries: u32) -> impl Iterator<Item = u16> + use<> {
        let range = *self;
        (0..self.count.min(tries)).map(move |tried| range.candidate(range.around(start) + tried))
    }

    /// The first of the [`candidates`](Self::candidates) from `start` on.
    #[inline]
    pub fn candidate(&self, start: u32) -> u16 {
        let nth = self.around(start);
        let port = match nth.checked_sub(self.before) {
            None => self.first + nth * self.step,
            Some(behind) => self.resume + behind * self.step,
        };
        port as u16
    }

    /// Modulo the count, without a division for the numbers that there nearly always are.
    #[inline]
    fn around(&self, n: u32) -> u32 {
        if n < self.count { n } else { n.checked_rem(self.count).unwrap_or(0) }
    }
}

/// Every port but the well-known ones (RFC 6335 §6) and the default range of NodePorts, which would be
/// taken for the Service's own traffic (SEMANTICS §9.9).
impl Default for PortRange {
    fn default() -> Self {
        let (before, behind) = (30000 - 1024, 65536 - 32768);
        Self { first: 1024, before, resume: 32768, count: before + behind, step: 1 }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
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
    fn shares_are_the_whole_range_and_have_no_port_in_common() {
        // Miri would take minutes for the real range.
        let real = if cfg!(miri) { (1024..=1500, 1100..=1200) } else { (1024..=65535, 30000..=32767) };
        for (ports, reserved) in [real, (1..=20, 7..=9), (5..=7, 6..=6), (0..=3, RangeInclusive::new(9, 0))] {
            let whole = PortRange::new(ports, reserved).unwrap();
            for cores in [1, 2, 3, 7, 64] {
                let mut all = std::vec::Vec::new();
                for core in 0..cores {
                    let Some(share) = whole.share(core, cores) else { continue };
                    let ports: std::vec::Vec<u16> = share.candidates(0, u32::MAX).collect();
                    assert_eq!(ports.len() as u32, share.count());
                    assert!(ports.iter().all(|port| port % cores == core), "{whole:?}, {core} of {cores}");
                    all.extend(ports);
                }
                all.sort_unstable();
                assert!(all.into_iter().eq(whole.candidates(0, u32::MAX)), "{whole:?}, {cores} cores");
            }
        }
    }

    #[test]
    fn the_default_keeps_off_well_known_ports_and_node_ports() {
        let range = PortRange::default();
        assert_eq!(Some(range), PortRange::new(1024..=65535, 30000..=32767));
        let mut seen = 0;
        // Under Miri every sixteenth stretch.
        let stride = if cfg!(miri) { 16 } else { 1 };
        for start in (0..61_744u32).step_by(128 * stride) {
            assert_eq!(range.candidates(start, 128).count(), 128);
            for port in range.candidates(start, 128) {
                assert!(port >= 1024 && !(30000..=32767).contains(&port), "{port}");
                seen += 1;
            }
        }
        assert!(seen * stride >= 65536 - 1024 - 2768);
        assert_eq!(range.candidates(u32::MAX, 64).count(), 64);
    }
}
