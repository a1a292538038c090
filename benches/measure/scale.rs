//! Cost against scale: what a packet takes as flows and services get more, beside floors and peers of the same size.
//!
//! No goal asks for these rows; `benches/report` draws them. Each is named `what, how many flows` or `services`.

use crate::duel::{Peer, Row, duel};
use crate::packets::{Lines, Newcomers, Strangers, Traffic};
use crate::shared::rig::{Mix, SERVICES as FEW, Share};
use crate::shared::short;

const FLOWS: [usize; 4] = [1000, 64_000, 1_000_000, 10_000_000];
/// Peers, and flows that begin, up to here: rte_hash is given 1 GB, and a balancer of the most flows takes 4 GB.
const MOST_BESIDE: usize = 1_000_000;
/// Memory for as many known flows as there are at most, and the frames of all of them, in KiB.
const LARGEST: u64 = 6 << 20;
const SERVICES: [usize; 5] = [10, 100, 1000, 10_000, 100_000];
const KNOWN: &str = "known";
/// Not masqueraded: there are not ports enough for the most flows.
const TCP4: Mix = Mix { masquerade: Share::None, ..crate::TCP4 };

pub(crate) fn scale() -> Vec<Row> {
    FLOWS.into_iter().flat_map(with_flows).chain(SERVICES.into_iter().flat_map(with_services)).collect()
}

fn with_flows(flows: usize) -> Vec<Row> {
    if flows > MOST_BESIDE && available().is_some_and(|free| free < LARGEST) {
        eprintln!("!!! NOT MEASURED: {} flows: 6 GiB of free memory needed", short(flows));
        return Vec::new();
    }
    let named = |what: &str| format!("{what}, {} flows", short(flows));
    let mix = Mix { flows, ..TCP4 };
    let (mut ours, mut lines) = (Traffic::known(mix, FEW), Lines::new(flows));
    let mut beside = |peer: &str, turn: &mut dyn FnMut() -> f64| {
        duel("scale", named(KNOWN), || ours.turn(), named(peer), turn, None)
    };
    let mut rows = vec![beside("a random line of memory", &mut || lines.turn())];
    if flows <= MOST_BESIDE {
        let mut new = Newcomers::new(mix, FEW);
        rows.push(beside("new", &mut || new.turn()));
        let count = flows.to_string();
        for (program, arguments, name) in [
            ("rte_hash", &[&*count] as &[&str], "rte_hash, look-up alone"),
            ("xdp_nat", &[&count, KNOWN], "XDP NAT, known"),
            ("xdp_nat", &[&count, "new"], "XDP NAT, new"),
        ] {
            if let Some(mut peer) = Peer::start(program, arguments) {
                rows.push(beside(name, &mut || peer.turn()));
            }
        }
    }
    rows
}

fn with_services(services: usize) -> Vec<Row> {
    let named = |what: &str| format!("{what}, {} services", short(services));
    let mut known = Traffic::known(TCP4, services);
    let (mut new, mut strangers) = (Newcomers::new(TCP4, services), Strangers::new(services));
    vec![
        duel("scale", named("new"), || new.turn(), named(KNOWN), || known.turn(), None),
        duel("scale", named("of no service"), || strangers.turn(), named(KNOWN), || known.turn(), None),
    ]
}

/// Memory that is free, in KiB; `None` where the system does not tell.
fn available() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    told.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok())
}
