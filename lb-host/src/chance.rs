//! Chance from a seed: the same on every machine and release.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// A stream of numbers that looks random. Streams of different names from one seed have nothing in common, so what one
/// part draws never moves what another does.
#[derive(Clone, Debug)]
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// The stream of this name within this one's seed, whatever was drawn from it so far.
    pub fn named(&self, name: &str) -> Self {
        let mut hasher = SipHasher13::new_with_keys(self.seed, u64::MAX);
        hasher.write(name.as_bytes());
        Self::new(hasher.finish())
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, 0);
        hasher.write_u64(self.drawn.to_le());
        self.drawn += 1;
        hasher.finish()
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply and shift: the bias is far below anything that a test could see.
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// True in so many of a million cases.
    pub fn in_a_million(&mut self, cases: u32) -> bool {
        // Nothing is drawn for what never happens: a link without loss is the same with or without the knob.
        cases > 0 && self.below(1_000_000) < u64::from(cases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_name_are_a_stream() {
        let draw = |mut chance: Chance| (0..4).map(|_| chance.draw()).collect::<Vec<_>>();
        let seven = Chance::new(7);
        assert_eq!(draw(seven.clone()), draw(Chance::new(7)));
        assert_ne!(draw(seven.clone()), draw(Chance::new(8)));
        assert_ne!(draw(seven.named("a")), draw(seven.named("b")));
        let mut drawn = seven.clone();
        drawn.draw();
        assert_eq!(draw(drawn.named("a")), draw(seven.named("a")));
    }

    #[test]
    fn chances_are_about_what_they_say() {
        let mut chance = Chance::new(1);
        let hits = (0..100_000).filter(|_| chance.in_a_million(20_000)).count();
        assert!((1_800..2_200).contains(&hits), "{hits} of 100,000 at 2 %");
        assert!((0..1000).all(|_| !chance.in_a_million(0) && chance.below(3) < 3));
        assert_eq!(chance.below(0), 0);
    }
}
