//! Linear probing over words of eight bytes, a 32-bit tag and a name, over a slab of entries. At most
//! `FULL` percent full: 75 takes as much memory as tag buckets do, 50 somewhat more.

use super::{BULK, Contender, Entry, Key, NOBODY, Name, hash, home, touch, touch_entries};

pub(super) struct Words<const FULL: usize> {
    /// The tag in the upper half, the name in the lower; a name of [`NOBODY`] where it is free.
    words: Vec<u64>,
    slab: Vec<Entry>,
}

const FREE: u64 = NOBODY as u64;

impl<const FULL: usize> Words<FULL> {
    fn put(&mut self, hash: u64, name: Name) {
        let mut at = home(hash, self.words.len());
        while self.words[at] as u32 != NOBODY {
            at = self.after(at);
        }
        self.words[at] = hash << 32 | u64::from(name);
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 < self.words.len() { at + 1 } else { 0 }
    }

    /// From here on, where a word with this tag or a free one is, and the name in it.
    #[inline]
    fn candidate(&self, mut at: usize, tag: u32) -> (usize, Name) {
        loop {
            let word = self.words[at];
            if (word >> 32) as u32 == tag || word as u32 == NOBODY {
                return (at, word as u32);
            }
            at = self.after(at);
        }
    }

    #[inline]
    fn is(&self, name: Name, key: &Key) -> bool {
        self.slab.get(name as usize >> 1).is_some_and(|entry| entry.keys[name as usize & 1] == *key)
    }
}

impl<const FULL: usize> Contender for Words<FULL> {
    fn name() -> String {
        format!("linear-words-{FULL}")
    }

    fn new(connections: usize) -> Self {
        let words = (connections * 2 * 100).div_ceil(FULL);
        Self { words: vec![FREE; words], slab: vec![Entry::default(); connections] }
    }

    fn insert(&mut self, number: u32, keys: [Key; 2]) {
        self.slab[number as usize].keys = keys;
        self.put(hash(&keys[0]), number << 1);
        self.put(hash(&keys[1]), number << 1 | 1);
    }

    fn find(&self, keys: &[Key; BULK], names: &mut [Name; BULK]) {
        let mut hashes = [0; BULK];
        for (place, key) in hashes.iter_mut().zip(keys) {
            *place = hash(key);
        }
        touch(hashes.iter().map(|hash| self.words[home(*hash, self.words.len())] as u32));
        let mut places = [0; BULK];
        for ((name, place), hash) in names.iter_mut().zip(&mut places).zip(hashes) {
            (*place, *name) = self.candidate(home(hash, self.words.len()), hash as u32);
        }
        touch_entries(&self.slab, names);
        for (((name, key), mut place), hash) in names.iter_mut().zip(keys).zip(places).zip(hashes) {
            while *name != NOBODY && !self.is(*name, key) {
                (place, *name) = self.candidate(self.after(place), hash as u32);
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(self.words.as_slice()) + size_of_val(self.slab.as_slice())
    }
}
