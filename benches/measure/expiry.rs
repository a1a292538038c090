//! What forgetting flows costs, and what packets feel of it.

use lb_core::{Direction, Instant};

use crate::duel::{Row, budget, median, timed};
use crate::packets::Traffic;
use crate::shared::Shape;
use crate::shared::frames::{BATCH, Kind};
use crate::shared::rig::{RING, Rig, SERVICES, dial};
use crate::{LARGE, TCP4};

/// Flows that are over each time the sweep comes to them, beside those that stay.
const ENDED: usize = 1 << 16;
/// How often each batch is taken.
const PASSES: usize = 9;
const SECOND: u64 = 1_000_000_000;

pub(crate) fn p12() -> Vec<Row> {
    let mix = crate::shared::rig::Mix { flows: LARGE, ..TCP4 };
    let rig = Rig::with_room(mix, SERVICES, Shape::Dual, ENDED);
    let mut expiry =
        Expiry { traffic: Traffic::among(rig, mix, &[Direction::Original, Direction::Reply]), now: 0, client: LARGE };
    let visited = median((0..15).map(|_| expiry.visit()).collect());
    let [calm, sweeping] = expiry.without_and_with_a_sweep();
    let row = |what: &str, worst: f64, peer: &str, other: f64, limit: Option<f64>| {
        Row::new("P12", what.into(), worst, peer.into(), other, worst / other, limit)
    };
    vec![
        budget("P12", "a live entry visited, 1M flows".into(), visited, "3 ns".into(), 3.0),
        row(
            "99.9th percentile of a batch while expiring, least of 9",
            sweeping.least.1,
            "its median",
            sweeping.least.0,
            Some(4.0),
        ),
        // What the machine does to any batch, swept behind or not.
        row("99.9th percentile while expiring, each time", sweeping.each.1, "its median", sweeping.each.0, None),
        row("99.9th percentile while not expiring, each time", calm.each.1, "its median", calm.each.0, None),
    ]
}

struct Expiry {
    traffic: Traffic,
    now: u64,
    client: usize,
}

/// Median and 99.9th percentile of batches.
struct Tail {
    /// Of each batch's least time.
    least: (f64, f64),
    each: (f64, f64),
}

impl Expiry {
    /// Nanoseconds for each live entry that the sweep visits.
    fn visit(&mut self) -> f64 {
        const BUDGET: usize = 4096;
        let balancer = &mut self.traffic.rig.balancer;
        let visits = (0..64).map(|_| timed(|| assert_eq!(balancer.expire(Instant::ORIGIN, BUDGET), 0)));
        median(visits.map(|time| time / BUDGET as f64).collect())
    }

    /// Batches, and batches with a sweep of as many entries behind each, which forgets 65,536 flows on its way round. Every pass
    /// takes the same packets through the same entries, so what is the engine's own to do comes back each time at the same batch,
    /// and what the machine does (interrupts, the host's turns) does not: the least of a batch's times is its own.
    fn without_and_with_a_sweep(&mut self) -> [Tail; 2] {
        let entries = LARGE + ENDED;
        let rings = entries / RING;
        let mut passes = [Vec::new(), Vec::new()];
        for pass in 0..2 * PASSES {
            self.end_flows();
            self.traffic.at = 0;
            let (with, now) = (pass % 2 == 1, Instant::from_nanos(self.now));
            let mut times = Vec::with_capacity(rings * RING / BATCH);
            let mut forgotten = 0;
            for _ in 0..rings {
                self.traffic.refresh();
                let balancer = &mut self.traffic.rig.balancer;
                for batch in self.traffic.packets.chunks_mut(BATCH) {
                    times.push(timed(|| {
                        balancer.process_batch(now, batch);
                        forgotten += if with { balancer.expire(now, BATCH) } else { 0 };
                    }));
                }
            }
            // Once round, so that the next sweep is where this one was.
            forgotten += self.traffic.rig.balancer.expire(now, if with { entries - rings * RING } else { entries });
            assert_eq!(forgotten, ENDED, "not what was to be measured");
            passes[usize::from(with)].push(times);
        }
        passes.map(|passes| {
            let batches = passes[0].len();
            let least = (0..batches).map(|batch| passes.iter().map(|times| times[batch]).fold(f64::INFINITY, f64::min));
            Tail { least: tail(least.collect()), each: tail(passes.concat()) }
        })
    }

    /// Connections of which only a SYN came, and that is some time ago.
    fn end_flows(&mut self) {
        let now = Instant::from_nanos(self.now);
        for number in self.client..self.client + ENDED {
            let _ = self.traffic.rig.send_at(now, Kind::Syn, true, &dial(TCP4, number));
        }
        self.client += ENDED;
        self.now += 2 * SECOND;
    }
}

fn tail(mut figures: Vec<f64>) -> (f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[figures.len() * 999 / 1000])
}
