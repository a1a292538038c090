//! Whether the nodes behind a load balancer are well.

use std::time::Duration;

use lb_core::{Address, Instant};

use crate::cluster::streak::Streak;

/// How nodes are checked.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// From one check of a node to the next.
    pub interval: Duration,
    /// After how long without an answer a check has failed.
    pub timeout: Duration,
    /// How many successes in a row make a node healthy.
    pub healthy: u32,
    /// How many failures in a row make it unhealthy.
    pub unhealthy: u32,
}

impl Default for Checks {
    /// As quick as clouds let one make them: 10 s, 5 s, two each.
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), timeout: Duration::from_secs(5), healthy: 2, unhealthy: 2 }
    }
}

/// What a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `GET /healthz` on this port, which is to answer 200 (SEMANTICS §10.1).
    Healthz(u16),
    /// Whether a connection is accepted on this port.
    Connect(u16),
}

/// A check's number, unique in its cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckId(pub u64);

/// A check that is to be made, from the load balancer's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What its outcome is told by.
    pub id: CheckId,
    /// The load balancer that asks.
    pub balancer: String,
    /// The node that is asked.
    pub node: String,
    /// Its address.
    pub address: Address,
    /// What it is asked.
    pub question: Question,
    /// After how long it has failed.
    pub timeout: Duration,
}

/// One address of a node, as a load balancer sees it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) node: String,
    pub(super) address: Address,
    next: Instant,
    pending: Option<(CheckId, Instant)>,
    streak: Streak,
}

impl Target {
    /// One that is checked from now on, and unhealthy until it has shown otherwise.
    pub(super) fn new(node: String, address: Address, now: Instant) -> Self {
        Self { node, address, next: now, pending: None, streak: Streak::default() }
    }

    pub(super) fn healthy(&self) -> bool {
        self.streak.up()
    }

    /// Whether it is to be checked now, as `id`.
    pub(super) fn due(&mut self, now: Instant, id: CheckId, checks: &Checks) -> bool {
        if let Some((late, _)) = self.pending.filter(|(_, deadline)| *deadline <= now) {
            self.result(late, false, checks);
        }
        if self.pending.is_some() || self.next > now {
            return false;
        }
        self.pending = Some((id, now.saturating_add(checks.timeout)));
        while self.next <= now {
            self.next = self.next.saturating_add(checks.interval.max(Duration::from_millis(1)));
        }
        true
    }

    /// A check's outcome, if it is awaited.
    pub(super) fn result(&mut self, id: CheckId, success: bool, checks: &Checks) {
        if self.pending.is_some_and(|(pending, _)| pending == id) {
            self.pending = None;
            self.streak.push(success, checks.healthy, checks.unhealthy);
        }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.pending.map_or(self.next, |(_, deadline)| deadline)
    }
}
