//! Linear probing over the entries themselves: one line holds a key and all that a packet of it needs, so
//! a hit at home touches nothing else. A connection has two, one a direction. At most 75 % full.

use super::{BULK, Contender, Entry, Key, NOBODY, Name, hash, home, touch};

pub(super) struct Inline {
    /// `keys[0]` is what it is found by, `keys[1]` what replaces it, `state[0]` its name plus one; 0 where
    /// the slot is free.
    slots: Vec<Entry>,
}

impl Inline {
    fn put(&mut self, key: Key, other: Key, name: Name) {
        let mut at = home(hash(&key), self.slots.len());
        while self.slots[at].state[0] != 0 {
            at = self.after(at);
        }
        self.slots[at].keys = [key, other];
        self.slots[at].state[0] = name + 1;
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 < self.slots.len() { at + 1 } else { 0 }
    }
}

impl Contender for Inline {
    fn name() -> String {
        "linear-inline".into()
    }

    fn new(connections: usize) -> Self {
        Self { slots: vec![Entry::default(); (connections * 2 * 100).div_ceil(75)] }
    }

    fn insert(&mut self, number: u32, keys: [Key; 2]) {
        let [original, reply] = keys;
        self.put(original, reply, number << 1);
        self.put(reply, original, number << 1 | 1);
    }

    fn find(&self, keys: &[Key; BULK], names: &mut [Name; BULK]) {
        let mut homes = [0; BULK];
        for (place, key) in homes.iter_mut().zip(keys) {
            *place = home(hash(key), self.slots.len());
        }
        touch(homes.iter().map(|place| self.slots[*place].state[0]));
        for ((name, key), mut at) in names.iter_mut().zip(keys).zip(homes) {
            *name = loop {
                let slot = &self.slots[at];
                if slot.state[0] == 0 {
                    break NOBODY;
                }
                if slot.keys[0] == *key {
                    break slot.state[0] - 1;
                }
                at = self.after(at);
            };
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(self.slots.as_slice())
    }
}
