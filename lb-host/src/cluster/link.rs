//! What happens to packets between two machines: how long they take, and whether they come at all.

use std::time::Duration;

use crate::chance::Chance;
use crate::host::MTU;

/// What a cable does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// How long every packet takes.
    pub latency: Duration,
    /// How much longer it may take, each packet by itself: what is longer than the gap between two packets reorders them.
    pub jitter: Duration,
    /// Packets of a million that are lost.
    pub loss: u32,
    /// Packets of a million that come twice.
    pub duplication: u32,
    /// The longest IP packet that it carries, in bytes.
    pub mtu: usize,
}

impl Link {
    /// A cable that takes this long and nothing else.
    pub const fn of(latency: Duration) -> Self {
        Self { latency, jitter: Duration::ZERO, loss: 0, duplication: 0, mtu: MTU }
    }

    /// One that is cut.
    pub const fn cut() -> Self {
        Self { loss: 1_000_000, ..Self::of(Duration::ZERO) }
    }
}

/// A link and its luck.
#[derive(Clone, Debug)]
pub(super) struct Cable {
    pub(super) link: Link,
    chance: Chance,
}

impl Cable {
    pub(super) const fn new(link: Link, chance: Chance) -> Self {
        Self { link, chance }
    }

    /// How long each copy of a packet takes that would otherwise arrive after each of `before`.
    pub(super) fn carry(&mut self, before: &[Duration]) -> Vec<Duration> {
        let mut after = Vec::with_capacity(before.len());
        for before in before {
            let copies = 1 + u8::from(self.chance.in_a_million(self.link.duplication));
            for _ in 0..copies {
                if self.chance.in_a_million(self.link.loss) {
                    continue;
                }
                let jitter = match u64::try_from(self.link.jitter.as_nanos()).unwrap_or(u64::MAX) {
                    0 => 0,
                    most => self.chance.below(most),
                };
                after.push(*before + self.link.latency + Duration::from_nanos(jitter));
            }
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_does_what_it_says() {
        let carried = |link: Link, packets: usize| {
            let mut cable = Cable::new(link, Chance::new(1));
            (0..packets).flat_map(|_| cable.carry(&[Duration::ZERO])).collect::<Vec<_>>()
        };
        let ms = Duration::from_millis;
        let plain = Link::of(ms(3));
        assert_eq!(carried(plain, 3), [ms(3); 3]);
        assert_eq!(carried(Link::cut(), 100), [] as [Duration; 0]);
        assert_eq!(carried(Link { duplication: 1_000_000, ..plain }, 2), [ms(3); 4]);
        let late = carried(Link { jitter: ms(2), ..plain }, 1000);
        assert!(late.iter().all(|time| (ms(3)..ms(5)).contains(time)));
        assert!(late.windows(2).any(|pair| pair[0] > pair[1]), "reordered");
        let some = carried(Link { loss: 20_000, ..plain }, 10_000).len();
        assert!((9_700..9_900).contains(&some), "{some} of 10,000 at 2 % loss");
    }
}
