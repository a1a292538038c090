//! What a tuple is hashed by, under a key that senders don't know. lb-core/src/hash.rs has the winner.
//!
//! | hash | what whoever lacks the key can do |
//! | --- | --- |
//! | SipHash-1-3 | nothing known: a pseudorandom function, even to one who sees hashes |
//! | pair-multiply-shift | nothing beforehand: any two tuples collide by chance alone, in any bits; learning collisions one by one may in the end give the key away |
//! | NH | the same, but only all of its 128 bits are nearly universal: its half, which a table would take, promises nothing |

use std::hash::Hasher;
use std::hint::black_box;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use siphasher::sip::SipHasher13;

use super::BULK;
use crate::shared::Random;

/// Pairs of words: one of an IPv4 tuple, three of an IPv6 tuple, the last half empty.
type Words<const N: usize> = [[u64; 2]; N];

/// Aumasson, Bernstein 2012.
#[inline(always)]
fn siphash<const N: usize>(keyed: &SipHasher13, words: &Words<N>) -> u64 {
    let mut hasher = *keyed;
    // An IPv6 tuple has five words.
    for word in words.as_flattened().iter().take(if N == 1 { 2 } else { 5 }) {
        hasher.write_u64(*word);
    }
    hasher.finish()
}

/// Thorup 2015, section 3.3: keys of twice the words' length, words being halves of those here, so that the upper half is
/// strongly universal.
#[inline(always)]
fn pair_multiply_shift<const N: usize>(keys: &[[u128; 2]; 3], words: &Words<N>) -> u64 {
    // An IPv6 tuple has five words.
    let words = words.as_flattened().iter().zip(keys.as_flattened()).take(if N == 1 { 2 } else { 5 });
    words.fold(keys[2][1] as u64, |sum, (word, key)| {
        let (one, other) = ((*key as u64).wrapping_add(word >> 32), (key >> 64) as u64);
        sum.wrapping_add(one.wrapping_mul(other.wrapping_add(word & 0xffff_ffff)))
    })
}

/// Black and others, "UMAC", CRYPTO 1999: sums and products of single words. Its two halves are added, for want of more.
#[inline(always)]
fn nh<const N: usize>(keys: &[[u128; 2]; 3], words: &Words<N>) -> u64 {
    let products = words.iter().zip(keys);
    let sum = products.fold(0u128, |sum, ([w0, w1], [k0, k1])| {
        let (a, b) = (w0.wrapping_add(*k0 as u64), w1.wrapping_add(*k1 as u64));
        sum.wrapping_add(u128::from(a) * u128::from(b))
    });
    (sum >> 64) as u64 ^ sum as u64
}

pub(super) fn contest(group: &mut BenchmarkGroup<'_, WallTime>) {
    family::<1>(group, "v4");
    family::<3>(group, "v6");
}

fn family<const N: usize>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str) {
    let mut random = Random(6);
    let tuples: Vec<Words<N>> = (0..BULK).map(|_| [[(); 2]; N].map(|pair| pair.map(|()| random.next()))).collect();
    let mut key = || u128::from(random.next()) << 64 | u128::from(random.next());
    let keys = [[(); 2]; 3].map(|pair| pair.map(|()| key()));
    let keyed = SipHasher13::new_with_key(&key().to_le_bytes());
    let mut measure = |hash: &str, of: &dyn Fn(&[Words<N>], &mut [u64; BULK])| {
        let mut hashes = [0; BULK];
        group.bench_function(format!("hash/{hash}/{name}"), |bencher| {
            bencher.iter(|| of(black_box(&tuples), black_box(&mut hashes)));
        });
    };
    // Each a loop of its own that inlines its hash, as the packet path does.
    measure("siphash-1-3", &|tuples, hashes| {
        hashes.iter_mut().zip(tuples).for_each(|(hash, words)| *hash = siphash(&keyed, words));
    });
    measure("pair-multiply-shift", &|tuples, hashes| {
        hashes.iter_mut().zip(tuples).for_each(|(hash, words)| *hash = pair_multiply_shift(&keys, words));
    });
    measure("nh", &|tuples, hashes| {
        hashes.iter_mut().zip(tuples).for_each(|(hash, words)| *hash = nh(&keys, words));
    });
}
