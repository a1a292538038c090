//! What the engine counts. Plain numbers, read by reference; nothing is lost, nothing wraps in practice.

use crate::flow::{Direction, FlowId};
use crate::verdict::Verdict;

/// Counts since construction. Packets in always equal the sum of [`Counters::verdicts`].
#[derive(Clone, Debug)]
pub struct Counters {
    /// Packets by [`Verdict::code`].
    pub verdicts: [u64; Verdict::CODES],
    /// Flows begun.
    pub flows_created: u64,
    /// Flows whose deadline passed.
    pub flows_expired: u64,
    /// Flows that gave way to a newcomer in a full table: a gauge of pressure, never established ones.
    pub flows_evicted: u64,
    /// UDP flows moved to another backend because theirs stopped serving (SEMANTICS §11.5).
    pub flows_reselected: u64,
    /// Flows ended because the rules said that they may not go on.
    pub flows_cut: u64,
    /// Flows whose source port was changed so that replies can be told apart.
    pub ports_changed: u64,
    /// Ports looked at to find those. Much above [`Counters::ports_changed`], ports towards some backend run short: of
    /// those tried, `ports_changed / port_tries` were free.
    pub port_tries: u64,
    /// Replies to rejected packets that were not sent, so as not to flood.
    pub replies_limited: u64,
}

/// What two balancers counted together.
impl core::ops::AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        for (own, other) in self.verdicts.iter_mut().zip(other.verdicts) {
            *own = own.saturating_add(other);
        }
        for (own, other) in [
            (&mut self.flows_created, other.flows_created),
            (&mut self.flows_expired, other.flows_expired),
            (&mut self.flows_evicted, other.flows_evicted),
            (&mut self.flows_reselected, other.flows_reselected),
            (&mut self.flows_cut, other.flows_cut),
            (&mut self.ports_changed, other.ports_changed),
            (&mut self.port_tries, other.port_tries),
            (&mut self.replies_limited, other.replies_limited),
        ] {
            *own = own.saturating_add(other);
        }
    }
}

impl Counters {
    pub(crate) const fn new() -> Self {
        Self {
            verdicts: [0; Verdict::CODES],
            flows_created: 0,
            flows_expired: 0,
            flows_evicted: 0,
            flows_reselected: 0,
            flows_cut: 0,
            ports_changed: 0,
            port_tries: 0,
            replies_limited: 0,
        }
    }

    pub(crate) fn count(&mut self, verdict: Verdict) {
        if let Some(count) = self.verdicts.get_mut(usize::from(verdict.code())) {
            *count += 1;
        }
    }

    /// As [`count`](Self::count) of [`Verdict::Forward`], whose code is of two neighbours the one or the other.
    #[inline(always)]
    pub(crate) fn count_forwarded(&mut self, direction: Direction) {
        const FORWARD: usize = Verdict::Forward { flow: FlowId(0), direction: Direction::Original }.code() as usize;
        if let Some(count) = self.verdicts.get_mut(FORWARD + direction as usize) {
            *count += 1;
        }
    }

    /// Packets judged so far.
    pub fn packets(&self) -> u64 {
        self.verdicts.iter().sum()
    }

    /// Packets judged by this verdict's code.
    pub fn verdict(&self, code: u8) -> u64 {
        self.verdicts.get(usize::from(code)).copied().unwrap_or(0)
    }
}
