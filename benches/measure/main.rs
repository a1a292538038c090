//! What benches/goals asks for: each goal's figure beside its peer's or its floor's, measured in turns.
//!
//! `cargo bench --bench measure -- P1 P9`; all of them without arguments. A line a figure, tab-separated: goal, what,
//! ours, peer, peer's, ratio, the highest good ratio. `PEERS` is where the programs of benches/peers were built.
//! `-- count CASE RINGS` only takes that many rings of packets through, for benches/instructions to count.

#[path = "../shared/mod.rs"]
mod shared;

mod control;
mod duel;
mod expiry;
mod packets;
mod scale;
mod worst;

use duel::{Peer, Row, duel};
use packets::{Floor, Newcomers, Strangers, Traffic};
use shared::frames::Kind;
use shared::rig::{Mix, Share};

const SMALL: usize = 1000;
const LARGE: usize = 1_000_000;
/// What P1 and P2 count: masqueraded and not.
const TCP4: Mix = Mix { v4: true, udp: false, masquerade: Share::Half, flows: SMALL };
const TCP6: Mix = Mix { v4: false, ..TCP4 };
const UDP4: Mix = Mix { udp: true, ..TCP4 };

/// Services of the kernel's nftables rules.
const KERNEL_SERVICES: &str = "1000";

type Measure = fn() -> Vec<Row>;

const GOALS: &[(&str, Measure)] = &[
    ("P1", || against_rte_hash("P1", SMALL, 1.2)),
    ("P2", p2),
    ("P3", p3),
    ("P4", p4),
    ("P5", p5),
    ("P6", p6),
    ("P7", p7),
    ("P8", control::memory),
    ("P9", control::change),
    ("P10", control::compile_and_load),
    ("P11", control::maglev),
    ("P12", expiry::p12),
    ("P13", p13),
    ("P15", worst::p15),
    ("P17", p17),
    ("peers", peers),
    ("scale", scale::scale),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [count, case, rings] = wanted.as_slice()
        && count == "count"
    {
        return take_through(case, rings.parse().expect("a number of rings"));
    }
    for (goal, measure) in GOALS.iter().filter(|(goal, _)| wanted.is_empty() || wanted.iter().any(|w| w == goal)) {
        let rows = measure();
        if rows.is_empty() {
            println!("{goal}\tnot measured");
        }
        rows.iter().for_each(|row| println!("{row}"));
    }
}

fn take_through(case: &str, rings: usize) {
    let known = |mut traffic: Traffic| drop(traffic.rings(rings));
    match case {
        "tcp4/hit" => known(hit(TCP4, SMALL)),
        "tcp6/hit" => known(hit(TCP6, SMALL)),
        "udp4/hit" => known(hit(UDP4, SMALL)),
        "tcp4/miss" => known(Strangers::new(1000).0),
        "icmp-error4/hit" => known(Traffic::forwarded(shared::worst::errors(TCP4))),
        "fragments4/hit" => known(Traffic::forwarded(shared::worst::fragments(UDP4))),
        "extension-headers6/hit" => known(Traffic::forwarded(shared::worst::extended(TCP6))),
        "tcp4/new" => drop(Newcomers::new(TCP4, shared::rig::SERVICES).rings(rings)),
        "tcp6/new" => drop(Newcomers::new(TCP6, shared::rig::SERVICES).rings(rings)),
        _ => panic!("no such case: {case}"),
    }
}

fn hit(mix: Mix, flows: usize) -> Traffic {
    Traffic::known(Mix { flows, ..mix }, shared::rig::SERVICES)
}

fn against_rte_hash(goal: &'static str, flows: usize, limit: f64) -> Vec<Row> {
    let Some(mut peer) = Peer::start("rte_hash", &[&flows.to_string()]) else { return Vec::new() };
    let mut ours = hit(TCP4, flows);
    let what = format!("known v4 TCP, {} connections, both ways", shared::short(flows));
    vec![duel(goal, what, || ours.turn(), "rte_hash, bulk look-up alone".into(), || peer.turn(), limit)]
}

fn p2() -> Vec<Row> {
    let mut rows = against_rte_hash("P2", LARGE, 1.0);
    rows.extend(known_against_xdp("P2", LARGE, 0.1));
    rows
}

fn known_against_xdp(goal: &'static str, flows: usize, limit: impl Into<Option<f64>>) -> Option<Row> {
    let mut peer = Peer::start("xdp_nat", &[&flows.to_string(), "known"])?;
    let mut ours = hit(TCP4, flows);
    let what = format!("known v4 TCP, {} connections, both ways", shared::short(flows));
    Some(duel(goal, what, || ours.turn(), "XDP NAT with an LRU map".into(), || peer.turn(), limit))
}

/// What no goal asks, so that every peer stands beside the same traffic of ours.
fn peers() -> Vec<Row> {
    let mut rows: Vec<Row> = known_against_xdp("peers", SMALL, None).into_iter().collect();
    let peer = "nftables NAT over forwarding";
    if let Some(mut kernel) = Peer::start("nftables", &[KERNEL_SERVICES, "known"]) {
        let (mut ours, what) = (hit(UDP4, SMALL), "known v4 UDP, 1k connections");
        rows.push(duel("peers", what.into(), || ours.turn(), peer.into(), || kernel.turn(), None));
    }
    if let Some(mut kernel) = Peer::start("nftables", &[KERNEL_SERVICES, "new"]) {
        let (mut ours, what) = (Newcomers::new(UDP4, shared::rig::SERVICES), "new v4 UDP, 1k");
        rows.push(duel("peers", what.into(), || ours.turn(), peer.into(), || kernel.turn(), None));
    }
    eprintln!("!!! NOT MEASURED: Katran and OPTE, which are not to be had on this machine");
    rows
}

fn p3() -> Vec<Row> {
    let at = |flows, limit| {
        let (mut ours, mut peer) = (hit(TCP6, flows), hit(TCP4, flows));
        let what = |family| format!("known {family} TCP, {}", shared::short(flows));
        duel("P3", what("v6"), || ours.turn(), what("v4"), || peer.turn(), limit)
    };
    vec![at(SMALL, 1.15), at(LARGE, 1.3)]
}

fn p4() -> Vec<Row> {
    let mut peer = hit(TCP4, SMALL);
    let (mut replies, mut udp) = (Traffic::replies(TCP4), hit(UDP4, SMALL));
    let p1 = "known v4 TCP, 1k";
    vec![
        duel("P4", "replies alone, 1k".into(), || replies.turn(), p1.into(), || peer.turn(), 1.1),
        duel("P4", "known UDP, 1k".into(), || udp.turn(), p1.into(), || peer.turn(), 1.1),
    ]
}

fn p5() -> Vec<Row> {
    let (mut ours, mut peer) = (hit(TCP4, SMALL).one_at_a_time(), hit(TCP4, SMALL));
    let what = "known v4 TCP, 1k, one packet a call".into();
    vec![duel("P5", what, || ours.turn(), "the same in batches of 32".into(), || peer.turn(), 1.5)]
}

fn p6() -> Vec<Row> {
    let at = |flows, limit| {
        let (mut ours, mut peer) = (Newcomers::new(Mix { flows, ..TCP4 }, shared::rig::SERVICES), hit(TCP4, flows));
        let what = |kind| format!("{kind} v4 TCP, {}", shared::short(flows));
        let row = duel("P6", what("new"), || ours.turn(), what("known"), || peer.turn(), limit);
        let xdp = Peer::start("xdp_nat", &[&flows.to_string(), "new"]).map(|mut xdp| {
            let peer = "XDP NAT with an LRU map, new".into();
            duel("P6", what("new"), || ours.turn(), peer, || xdp.turn(), 1.0 / 15.0)
        });
        [Some(row), xdp].into_iter().flatten()
    };
    at(SMALL, 2.2).chain(at(LARGE, 4.0)).collect()
}

fn p7() -> Vec<Row> {
    let (mut many, mut few) = (Newcomers::new(TCP4, 100_000), Newcomers::new(TCP4, 10));
    let miss = duel("P7", "new flow, 100k services".into(), || many.turn(), "10 services".into(), || few.turn(), 1.5);
    let (mut many, mut few) = (Traffic::known(TCP4, 100_000), Traffic::known(TCP4, 10));
    let hit = duel("P7", "known flow, 100k services".into(), || many.turn(), "10 services".into(), || few.turn(), 1.1);
    vec![miss, hit]
}

/// Twice the work on two threads, each with a balancer of its own, against the same of the floor.
fn p13() -> Vec<Row> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("!!! NOT MEASURED: P13: this process may use one core only: run it without taskset");
        return Vec::new();
    }
    fn both(turn: impl Fn() -> f64 + Sync) -> f64 {
        std::thread::scope(|scope| {
            let threads = [scope.spawn(&turn), scope.spawn(&turn)];
            threads.map(|thread| thread.join().expect("a turn")).iter().sum::<f64>() / 2.0
        })
    }
    let ours = || hit(TCP4, SMALL).turn();
    let floor = || Floor::new().turn();
    let loss = |alone: f64, together: f64| together / alone;
    let turns = (0..7).map(|_| (loss(ours(), both(ours)), loss(floor(), both(floor))));
    let (ours, floor): (Vec<f64>, Vec<f64>) = turns.unzip();
    let ratios = ours.iter().zip(&floor).map(|(ours, floor)| ours / floor).collect();
    let what = "time a packet, two cores over one".into();
    let row = Row::new(
        "P13",
        what,
        duel::median(ours),
        "the same of swapping MACs".into(),
        duel::median(floor),
        duel::median(ratios),
        1.0 / 0.95,
    );
    vec![row]
}

fn p17() -> Vec<Row> {
    let at = |services| {
        let (mut ours, mut peer) = (Strangers::new(services), hit(TCP4, SMALL));
        let what = format!("of no service, {} services", shared::short(services));
        duel("P17", what, || ours.turn(), "known v4 TCP, 1k".into(), || peer.turn(), 1.5)
    };
    vec![at(1000), at(100_000)]
}

/// A packet's kind that goes with what a mix is.
fn kind(mix: Mix) -> Kind {
    if mix.udp { Kind::Datagram } else { Kind::Ack }
}
