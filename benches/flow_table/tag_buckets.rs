//! lb-core's own layout: buckets of eight 16-bit tags and eight names, two choices for each key, over a
//! slab of entries (lb-core/src/flow/index.rs argues for it). At most 80 % full.

use super::{BULK, Contender, Entry, Key, NOBODY, Name, hash, home, touch, touch_entries};

const WAYS: usize = 8;

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket {
    /// 0 where a way is free.
    tags: [u16; WAYS],
    names: [Name; WAYS],
}

pub(super) struct TagBuckets {
    buckets: Vec<Bucket>,
    slab: Vec<Entry>,
}

impl Bucket {
    /// The ways whose tag is this one, as bits.
    #[inline]
    fn equal(&self, tag: u16) -> u32 {
        self.tags.iter().enumerate().fold(0, |equal, (way, other)| equal | u32::from(*other == tag) << way)
    }

    fn put(&mut self, tag: u16, name: Name) -> bool {
        let Some(way) = self.tags.iter().position(|tag| *tag == 0) else { return false };
        (self.tags[way], self.names[way]) = (tag, name);
        true
    }
}

impl TagBuckets {
    #[inline]
    fn place(&self, hash: u64) -> (usize, u16) {
        (home(hash, self.buckets.len()), (hash as u16).max(1))
    }

    #[inline]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        let n = self.buckets.len();
        let sum = home(u64::from(u32::from(tag).wrapping_mul(0x9e37_79b1)) << 32, n);
        if sum >= bucket { sum - bucket } else { sum + n - bucket }
    }

    fn put(&mut self, hash: u64, name: Name) {
        let (first, tag) = self.place(hash);
        let second = self.other(first, tag);
        let found = self.buckets[first].put(tag, name)
            || self.buckets[second].put(tag, name)
            || (self.make_way(first, 2) && self.buckets[first].put(tag, name))
            || (self.make_way(second, 2) && self.buckets[second].put(tag, name));
        assert!(found, "no way for a key");
    }

    /// Moves one key of a full bucket to its other bucket. One step is not quite enough: at 80 % it finds
    /// no way for one key in some millions, as one of these tables shows; so there may be a second.
    fn make_way(&mut self, at: usize, steps: u32) -> bool {
        for way in 0..WAYS {
            let (tag, name) = (self.buckets[at].tags[way], self.buckets[at].names[way]);
            let other = self.other(at, tag);
            let moved = other != at
                && (self.buckets[other].put(tag, name)
                    || (steps > 1 && self.make_way(other, steps - 1) && self.buckets[other].put(tag, name)));
            if moved {
                self.buckets[at].tags[way] = 0;
                return true;
            }
        }
        false
    }

    #[inline]
    fn is(&self, name: Name, key: &Key) -> bool {
        self.slab.get(name as usize >> 1).is_some_and(|entry| entry.keys[name as usize & 1] == *key)
    }

    /// Every candidate of both buckets.
    #[cold]
    fn search(&self, first: usize, tag: u16, key: &Key) -> Name {
        for bucket in [first, self.other(first, tag)].map(|at| &self.buckets[at]) {
            for (other, name) in bucket.tags.iter().zip(bucket.names) {
                if *other == tag && self.is(name, key) {
                    return name;
                }
            }
        }
        NOBODY
    }
}

impl Contender for TagBuckets {
    fn name() -> String {
        "tag-buckets".into()
    }

    fn new(connections: usize) -> Self {
        let buckets = (connections * 2 * 10).div_ceil(WAYS * 8) + 2;
        Self { buckets: vec![Bucket::default(); buckets], slab: vec![Entry::default(); connections] }
    }

    fn insert(&mut self, number: u32, keys: [Key; 2]) {
        self.slab[number as usize].keys = keys;
        self.put(hash(&keys[0]), number << 1);
        self.put(hash(&keys[1]), number << 1 | 1);
    }

    fn find(&self, keys: &[Key; BULK], names: &mut [Name; BULK]) {
        let mut places = [(0, 0); BULK];
        for (place, key) in places.iter_mut().zip(keys) {
            *place = self.place(hash(key));
        }
        touch(places.iter().map(|(first, _)| u32::from(self.buckets[*first].tags[0])));
        // The first candidate of the first bucket, else of the second.
        for (name, &(first, tag)) in names.iter_mut().zip(&places) {
            let mut bucket = &self.buckets[first];
            let mut equal = bucket.equal(tag);
            if equal == 0 {
                bucket = &self.buckets[self.other(first, tag)];
                equal = bucket.equal(tag);
            }
            *name = bucket.names.get(equal.trailing_zeros() as usize).copied().unwrap_or(NOBODY);
        }
        touch_entries(&self.slab, names);
        for ((name, key), &(first, tag)) in names.iter_mut().zip(keys).zip(&places) {
            if *name != NOBODY && !self.is(*name, key) {
                *name = self.search(first, tag, key);
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(self.buckets.as_slice()) + size_of_val(self.slab.as_slice())
    }
}
