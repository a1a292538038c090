//! Where proxy ports come from (SEMANTICS §14.5).

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use crate::chance::Chance;

/// Ports that are drawn before anybody asks.
const AHEAD: usize = 16;

/// The ports of `--proxy-port-range`.
pub(super) struct Range {
    range: RangeInclusive<u16>,
    /// Drawn, given out or not.
    used: BTreeSet<u16>,
    /// Drawn and not given out, in the order in which they will be.
    ahead: VecDeque<u16>,
    chance: Chance,
}

impl Range {
    pub(super) fn new(range: RangeInclusive<u16>, chance: Chance) -> Self {
        let mut new = Self { range, used: BTreeSet::new(), ahead: VecDeque::new(), chance };
        new.fill();
        new
    }

    /// The next port; `None` if all are given out.
    pub(super) fn take(&mut self) -> Option<u16> {
        let port = self.ahead.pop_front();
        self.fill();
        port
    }

    /// Takes back a port that was given out.
    pub(super) fn release(&mut self, port: u16) {
        self.used.remove(&port);
        self.fill();
    }

    fn fill(&mut self) {
        while self.ahead.len() < AHEAD
            && let Some(port) = self.draw()
        {
            self.used.insert(port);
            self.ahead.push_back(port);
        }
    }

    /// The first port that is free from a random one on, wrapping.
    fn draw(&mut self) -> Option<u16> {
        let size = self.range.len() as u64;
        if self.used.len() as u64 == size {
            return None;
        }
        let start = *self.range.start() + self.chance.below(size) as u16;
        let above = start..=*self.range.end();
        above.chain(*self.range.start()..=start).find(|port| !self.used.contains(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_given_out_once_and_again_when_released() {
        for (range, seed) in [(40_000..=40_039, 1), (65_530..=65_535, 2), (1..=1, 3)] {
            let mut ports = Range::new(range.clone(), Chance::new(seed));
            let given: Vec<u16> = std::iter::from_fn(|| ports.take()).collect();
            assert_eq!(given.iter().copied().collect::<BTreeSet<_>>(), range.collect());
            assert!(given.len() == 1 || !given.is_sorted(), "{given:?} starts at random");
            ports.release(given[0]);
            assert_eq!((ports.take(), ports.take()), (Some(given[0]), None));
        }
    }

    #[test]
    fn the_first_free_one_above_is_next_and_sixteen_are_drawn_ahead() {
        let mut ports = Range::new(100..=199, Chance::new(4));
        assert_eq!((ports.ahead.len(), ports.used.len()), (16, 16));
        ports.used.extend(100..=149);
        ports.used.extend(151..=199);
        ports.used.remove(&120);
        assert!(ports.ahead.iter().all(|port| *port != 150), "the seed leaves 150 free");
        // 150 follows whatever starts from 121 to 150, 120 the rest.
        let (mut a, mut b) = (0, 0);
        for _ in 0..1000 {
            match ports.draw() {
                Some(120) => a += 1,
                Some(150) => b += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!((640..760).contains(&a) && (240..360).contains(&b), "{a} {b}");
    }
}
