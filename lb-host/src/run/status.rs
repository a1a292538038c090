//! How a data plane is doing, and what that comes to as HTTP (SEMANTICS §10): pure but for the lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lb_core::control::{Node, Service, Slice};
use lb_core::{Family, Instant};

use crate::health::{self, Answer};

/// A change may wait so long to be in force: twice kube-proxy's default syncPeriod of 30 s (§10.6).
const PATIENCE: Duration = Duration::from_secs(60);
/// And the data plane may be busy so long with one batch.
const BATCH: Duration = Duration::from_secs(10);

/// What is known of the data plane, shared by those who change it and those who tell about it.
pub(super) struct Status {
    state: Mutex<State>,
    /// When each of the data plane's workers was last at work.
    seen: Arc<[AtomicU64]>,
}

struct State {
    /// When rules were last found up to date.
    updated: Instant,
    /// Since when a change is waiting.
    queued: Option<Instant>,
    /// Whether the node is to stay (§10.6).
    eligible: bool,
    /// Whether there were objects, so that packets are forwarded (§2.8).
    forwarding: bool,
    ending: bool,
    node: Option<Node>,
    /// Services with a health check port, and their slices.
    checked: Vec<(u16, Service, Vec<Slice>)>,
}

/// An answer of `/healthz` or `/livez`.
pub(super) struct Health {
    pub(super) status: u16,
    /// JSON.
    pub(super) body: String,
}

impl Status {
    pub(super) fn new(now: Instant, seen: Arc<[AtomicU64]>) -> Self {
        let state = State {
            updated: now,
            queued: None,
            eligible: true,
            forwarding: false,
            ending: false,
            node: None,
            checked: Vec::new(),
        };
        Self { state: Mutex::new(state), seen }
    }

    /// Where the workers say when they were at work.
    pub(super) fn seen(&self) -> Arc<[AtomicU64]> {
        self.seen.clone()
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A change was noticed.
    pub(super) fn queued(&self, now: Instant) {
        self.with(|state| state.queued = state.queued.or(Some(now)));
    }

    /// No change waits any more: it was put in force, or refused.
    pub(super) fn settled(&self, now: Instant) {
        self.with(|state| (state.queued, state.updated) = (None, now));
    }

    /// These objects are in force. Returns the ports on which health checks are to be answered.
    pub(super) fn serving<'o>(
        &self,
        node: &Node,
        eligible: bool,
        services: impl Iterator<Item = &'o Service>,
        slices: impl Iterator<Item = &'o Slice> + Clone,
    ) -> Vec<u16> {
        let checked = services.filter_map(|service| Some((service.health_check_port?, service)));
        let own = |service: &Service| slices.clone().filter(|slice| slice.service == service.name).cloned().collect();
        let checked: Vec<_> = checked.map(|(port, service)| (port, service.clone(), own(service))).collect();
        let ports = checked.iter().map(|(port, ..)| *port).collect();
        self.with(|state| (state.node, state.eligible, state.checked) = (Some(node.clone()), eligible, checked));
        ports
    }

    /// The data plane has begun.
    pub(super) fn forwarding(&self, now: Instant) {
        for seen in &*self.seen {
            seen.fetch_max(now.as_nanos(), Ordering::Relaxed);
        }
        self.with(|state| state.forwarding = true);
    }

    /// The data plane is about to end: load balancers are told to send nothing new.
    pub(super) fn ending(&self) {
        self.with(|state| state.ending = true);
    }

    /// What kube-proxy's mode is called that the node is in; `None` without a node.
    pub(super) fn mode(&self) -> Option<&'static str> {
        self.with(|state| Some(state.node.as_ref()?.proxy.mode.name))
    }

    /// Whether it is about to end.
    pub(super) fn is_ending(&self) -> bool {
        self.with(|state| state.ending)
    }

    /// `/healthz`: whether load balancers should send new connections here (§10.6). Not before packets are forwarded: other
    /// than kube-proxy's, whose kernel goes on with the rules of before.
    pub(super) fn healthz(&self, now: Instant) -> Health {
        let live = self.is_live(now);
        self.with(|state| {
            let eligible = state.eligible && state.forwarding && !state.ending;
            let body = format!(
                r#"{{"lastUpdated": "{}","currentTime": "{}","nodeEligible": {eligible}}}"#,
                time(updated(state, now, live)),
                time(now)
            );
            Health { status: if live && eligible { 200 } else { 503 }, body }
        })
    }

    /// `/livez`: whether the data plane is at work (§10.6).
    pub(super) fn livez(&self, now: Instant) -> Health {
        let live = self.is_live(now);
        self.with(|state| {
            let updated = time(updated(state, now, live));
            let body = format!(r#"{{"lastUpdated": "{updated}","currentTime": "{}"}}"#, time(now));
            Health { status: if live { 200 } else { 503 }, body }
        })
    }

    /// The answer on a Service's health check port (§10.2); `None` if no Service has it any more.
    pub(super) fn checked(&self, port: u16, family: Family, now: Instant) -> Option<Answer> {
        let live = self.is_live(now);
        self.with(|state| {
            let (_, service, slices) = state.checked.iter().find(|(known, ..)| *known == port)?;
            health::answer(service, slices.iter(), state.node.as_ref()?, family, live && !state.ending)
        })
    }

    fn is_live(&self, now: Instant) -> bool {
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::Relaxed)).min().unwrap_or(0);
        let seen = Instant::from_nanos(seen);
        let (waiting, forwarding) = self.with(|state| (state.queued, state.forwarding));
        // An API server may take its time.
        !forwarding
            || waiting.is_none_or(|since| now.saturating_since(since) <= PATIENCE)
                && now.saturating_since(seen) <= BATCH
    }
}

/// kube-proxy says now while nothing waits for too long.
fn updated(state: &State, now: Instant, live: bool) -> Instant {
    if live { now } else { state.updated }
}

/// RFC 3339.
fn time(instant: Instant) -> String {
    jiff::Timestamp::from_nanosecond(instant.as_nanos().into()).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_secs(1_700_000_000);

    fn after(seconds: u64) -> Instant {
        START.saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn health_is_told_as_kube_proxy_does() {
        // (what, change noticed at, settled, thread seen at, eligible, ending, asked at, healthz, livez)
        for (what, queued, settled, seen, eligible, ending, asked, healthz, livez) in [
            ("all is well", None, false, 100, true, false, 100, 200, 200),
            ("a change waits", Some(50), false, 100, true, false, 100, 200, 200),
            ("too long", Some(39), false, 100, true, false, 100, 503, 503),
            ("it was put in force", Some(39), true, 100, true, false, 100, 200, 200),
            ("the thread hangs", None, false, 89, true, false, 100, 503, 503),
            ("the node goes", None, false, 100, false, false, 100, 503, 200),
            ("the process goes", None, false, 100, true, true, 100, 503, 200),
        ] {
            let status = Status::new(START, [100, seen].map(|seen| AtomicU64::new(after(seen).as_nanos())).into());
            status.with(|state| (state.eligible, state.forwarding) = (eligible, true));
            queued.into_iter().for_each(|at| status.queued(after(at)));
            if settled {
                status.settled(after(asked));
            }
            if ending {
                status.ending();
            }
            let got = (status.healthz(after(asked)).status, status.livez(after(asked)).status);
            assert_eq!(got, (healthz, livez), "{what}");
        }
    }

    #[test]
    fn it_is_alive_and_not_ready_until_there_were_objects() {
        let status = Status::new(START, [AtomicU64::new(0)].into());
        let both = |at| (status.healthz(after(at)).status, status.livez(after(at)).status);
        assert_eq!(both(1000), (503, 200));
        status.forwarding(after(1000));
        assert_eq!(both(1001), (200, 200));
        assert_eq!(both(1011), (503, 503), "from then on workers are to be at work");
    }

    #[test]
    fn its_body_is_what_kube_proxy_writes() {
        let status = Status::new(START, [AtomicU64::new(START.as_nanos())].into());
        status.forwarding(START);
        let expected = "{\"lastUpdated\": \"2023-11-14T22:13:20Z\",\"currentTime\": \"2023-11-14T22:13:20Z\",\
                        \"nodeEligible\": true}";
        assert_eq!(status.healthz(START).body, expected);
    }
}
