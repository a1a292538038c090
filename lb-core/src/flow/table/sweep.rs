//! The sweep: a hand that goes round all entries, a few at a time, and forgets the flows that are over; and when the next can be.

use super::{FlowId, FlowTable};
use crate::flow::clock::Ticks;
use crate::flow::entry::Entry;
use crate::processor::ASKS;

impl FlowTable<'_> {
    /// Looks at the next `budget` entries and forgets the expired ones. Returns how many those were.
    pub(crate) fn expire(&mut self, now: Ticks, budget: usize) -> usize {
        /// Entries whose buckets are asked for together: flows that began together often end together.
        const TOGETHER: usize = 16;
        let (mut forgotten, mut left) = (0, budget.min(self.capacity() as usize));
        let mut asked = 0_usize;
        while left > 0 {
            let (looked, expired) = self.look(now, left);
            left -= looked;
            asked = asked.saturating_sub(looked);
            self.hand += looked as u32 - 1;
            if expired {
                if asked == 0 {
                    asked = TOGETHER.min(left + 1);
                    self.prefetch_ends(now, asked);
                }
                self.remove(FlowId(self.hand));
                forgotten += 1;
            }
            self.advance();
        }
        forgotten
    }

    /// Asks for the buckets of those flows that are over among as many entries from the hand on.
    fn prefetch_ends(&self, now: Ticks, count: usize) {
        if !ASKS {
            return;
        }
        for flow in (0..count as u32).map(|ahead| FlowId(self.hand.wrapping_add(ahead))) {
            if self.entry(flow).is_some_and(|entry| entry.state().is_some() && entry.is_expired(now))
                && let Some((original, reply)) = self.tuples(flow)
            {
                self.prefetch_bucket(self.spot(&original));
                self.prefetch_bucket(self.spot(&reply));
            }
        }
    }

    /// Looks at entries from the hand on, as far as it need not jump, at most `count` of them and at least one, until one is
    /// expired. Returns how many those were, and whether the last one is.
    fn look(&mut self, now: Ticks, count: usize) -> (usize, bool) {
        let [v4, v6] = &self.slabs;
        let v4_flows = self.v4.len();
        let (hand, soonest) = (self.hand as usize, &mut self.sweep_soonest);
        match hand.checked_sub(v4_flows) {
            None => {
                let stretch = count.min((v4.used as usize).saturating_sub(hand)).max(1);
                first_expired(self.v4, hand, stretch, |entry| entry, now, soonest)
            }
            Some(hand) => {
                let stretch = count.min((v6.used as usize).saturating_sub(hand)).max(1);
                first_expired(self.v6, hand, stretch, |wide| &wide.entry, now, soonest)
            }
        }
    }

    /// Moves the sweep's hand past one entry, and past all those that were never used.
    fn advance(&mut self) {
        let [v4, v6] = &self.slabs;
        let v4_flows = self.v4.len() as u32;
        self.hand += 1;
        if self.hand >= v4.used && self.hand < v4_flows {
            self.hand = v4_flows;
        }
        if self.hand >= v4_flows + v6.used {
            self.hand = 0;
            self.soonest = self.sweep_soonest.take();
        }
    }

    /// A bound on when the next flow can expire.
    pub(crate) fn soonest(&self) -> Option<Ticks> {
        if self.slabs.iter().all(|slab| slab.live == 0) { None } else { self.soonest }
    }

    /// Notes that a flow has this deadline.
    pub(super) fn await_end(&mut self, deadline: Ticks) {
        self.soonest = earlier(self.soonest, deadline);
        self.sweep_soonest = earlier(self.sweep_soonest, deadline);
    }
}

/// Looks at `stretch` entries from this one on, until one is expired: how many those were, and whether the last one is.
/// `soonest` learns of the others' deadlines.
fn first_expired<E>(
    entries: &[E],
    from: usize,
    stretch: usize,
    entry: impl Fn(&E) -> &Entry,
    now: Ticks,
    soonest: &mut Option<Ticks>,
) -> (usize, bool) {
    let there = entries.get(from..).and_then(|rest| rest.get(..stretch)).unwrap_or(&[]);
    for (i, one) in there.iter().map(&entry).enumerate() {
        if one.state().is_none() {
            continue;
        }
        if one.is_expired(now) {
            return (i + 1, true);
        }
        *soonest = earlier(*soonest, Ticks(one.deadline));
    }
    (stretch, false)
}

fn earlier(bound: Option<Ticks>, deadline: Ticks) -> Option<Ticks> {
    match bound {
        Some(bound) if deadline.after(bound) >= 0 => Some(bound),
        _ => Some(deadline),
    }
}
