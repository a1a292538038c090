//! The userspace proxy, from outside: a rule of SEMANTICS §14.5 a test, hosts joined in memory.

mod engine;
mod lab;
mod ports;
mod tcp;
mod turns;
mod udp;

use std::time::Duration;

use lb_core::Protocol;
use lb_host::chance::Chance;

use lab::Program::{self, Echo};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;
const THREE: &[(u8, Program)] = &[(1, Echo), (2, Echo), (3, Echo)];

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut chance = Chance::new(5);
    (0..count.div_ceil(8)).flat_map(|_| chance.draw().to_le_bytes()).take(count).collect()
}
