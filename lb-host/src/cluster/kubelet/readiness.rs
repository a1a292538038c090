//! Whether one container is ready: the kubelet's probe worker as a state machine.

use std::time::Duration;

use lb_core::Instant;

use super::probe::{Means, Plan, ProbeId};
use crate::cluster::streak::Streak;

/// One container's readiness.
///
/// Probes are made at ticks, a period apart. The ticks are those of the Pod's life, not of the container's: one
/// that falls before the container runs, or into its initial delay, passes without a probe, so the first probe
/// comes with the first tick behind the delay, not with its end.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    means: Means,
    /// Where the ticks start, once there are any.
    first: Option<Instant>,
    /// How far behind the container's first start they do.
    offset: Duration,
    /// The tick to come, while the container runs.
    next: Option<Instant>,
    /// The probe on its way, and when it has failed.
    pending: Option<(ProbeId, Instant)>,
    streak: Streak,
}

impl Readiness {
    /// `offset` is the fraction of a period, in 2^64ths, by which the ticks start behind the container.
    pub(super) fn new(means: Means, offset: u64) -> Self {
        let period = if let Means::Probe(plan) = &means { plan.period } else { Duration::ZERO };
        let nanos = (period.as_nanos() * u128::from(offset)) >> 64;
        Self {
            means,
            first: None,
            offset: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            next: None,
            pending: None,
            streak: Streak::default(),
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.streak.up()
    }

    /// The container runs.
    pub(super) fn start(&mut self, now: Instant) {
        match &self.means {
            Means::Running => self.streak = Streak::ALWAYS,
            Means::Never => {}
            Means::Probe(plan) => {
                let first = *self.first.get_or_insert_with(|| now.saturating_add(self.offset));
                self.next = Some(tick(first, plan.period, now.saturating_add(plan.initial_delay)));
            }
        }
    }

    /// The container runs no more.
    pub(super) fn stop(&mut self) {
        (self.next, self.pending) = (None, None);
        self.streak = Streak::default();
    }

    /// The probe to make now, if there is one, which `id` becomes the number of.
    pub(super) fn due(&mut self, now: Instant, id: ProbeId) -> Option<&Plan> {
        if let Some((late, _)) = self.pending.filter(|(_, deadline)| *deadline <= now) {
            self.result(late, false);
        }
        let Means::Probe(plan) = &self.means else { return None };
        let (first, next) = (self.first?, self.next?);
        if self.pending.is_some() || next > now {
            return None;
        }
        self.pending = Some((id, now.saturating_add(plan.timeout)));
        // A tick that passes during a slow probe is made up for at its end, once.
        self.next = Some(tick(first, plan.period, now.saturating_add(Duration::from_nanos(1))));
        Some(plan)
    }

    /// A probe's outcome; that of one that is not awaited any more changes nothing.
    pub(super) fn result(&mut self, id: ProbeId, success: bool) {
        if self.pending.is_none_or(|(pending, _)| pending != id) {
            return;
        }
        self.pending = None;
        let Means::Probe(plan) = &self.means else { return };
        self.streak.push(success, plan.successes, plan.failures);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.map(|(_, deadline)| deadline).or(self.next)
    }
}

/// The first tick not before `from`.
fn tick(first: Instant, period: Duration, from: Instant) -> Instant {
    let (passed, period) = (from.saturating_since(first).as_nanos(), period.as_nanos().max(1));
    let nanos = passed.div_ceil(period) * period;
    first.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}
