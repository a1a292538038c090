//! What happened, as Prometheus reads it (OpenMetrics 1.0): kube-proxy's names where it has one, `lb_` where it has none.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lb_core::{Counters, Instant, Verdict};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::rules::Changes;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was counted until now.
#[derive(Clone, Debug)]
pub struct Counts {
    /// By the engine.
    pub engine: Counters,
    /// Flows in the table.
    pub flows: u64,
    /// Those of them that are connections (TCP) and associations (SCTP) which nobody has ended.
    pub connections: u64,
    /// By each device, under its name.
    pub devices: Vec<(String, DeviceCounts)>,
}

impl Counts {
    /// What two workers counted together.
    pub fn plus(mut self, other: Self) -> Self {
        self.engine += &other.engine;
        self.flows += other.flows;
        self.connections += other.connections;
        self.devices.iter_mut().zip(other.devices).for_each(|((_, own), (_, other))| *own += other);
        self
    }
}

/// Frames of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// That it, or a worker whose they were, could not take.
    pub dropped: u64,
    /// Handed from the worker that received them to the one whose they were.
    pub handed_on: u64,
}

impl AddAssign for DeviceCounts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.handed_on += other.handed_on;
    }
}

/// Counts of a live data plane.
pub struct Metrics {
    registry: Registry,
    syncs: Histogram,
    full_sync_times: Histogram,
    partial_sync_times: Histogram,
    programming: Histogram,
    last_sync: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    service_changes: Counter,
    endpoint_changes: Counter,
    services_pending: Gauge,
    endpoints_pending: Gauge,
    no_local_endpoints: Family<[(&'static str, &'static str); 1], Gauge>,
    full_syncs: Counter,
    refused: Counter,
    flows_restored: Counter,
    unwritten: Counter,
    healthz: Family<[(&'static str, String); 1], Counter>,
    livez: Family<[(&'static str, String); 1], Counter>,
}

impl Metrics {
    /// All of them at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let all = Self {
            syncs: Histogram::new(sync_buckets()),
            full_sync_times: Histogram::new(sync_buckets()),
            partial_sync_times: Histogram::new(sync_buckets()),
            programming: Histogram::new(programming_buckets()),
            last_sync: Gauge::default(),
            last_queued: Gauge::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            services_pending: Gauge::default(),
            endpoints_pending: Gauge::default(),
            no_local_endpoints: Family::default(),
            full_syncs: Counter::default(),
            refused: Counter::default(),
            flows_restored: Counter::default(),
            unwritten: Counter::default(),
            healthz: Family::default(),
            livez: Family::default(),
            registry: Registry::default(),
        };
        let rules = "kubeproxy_sync_proxy_rules";
        let mut register =
            |name: String, help: &str, metric: &dyn Registered| metric.register(&mut registry, name, help);
        register(format!("{rules}_duration_seconds"), "From a change of objects to rules in force", &all.syncs);
        register(
            "kubeproxy_sync_full_proxy_rules_duration_seconds".into(),
            "The same, where all rules were replaced",
            &all.full_sync_times,
        );
        register(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds".into(),
            "The same, where those of the services that changed were",
            &all.partial_sync_times,
        );
        register(
            "kubeproxy_network_programming_duration_seconds".into(),
            "From a change of endpoints where it happened, as EndpointSlices tell, to rules in force",
            &all.programming,
        );
        register(format!("{rules}_last_timestamp_seconds"), "When rules were last put in force", &all.last_sync);
        register(format!("{rules}_last_queued_timestamp_seconds"), "When a change was last noticed", &all.last_queued);
        register(format!("{rules}_service_changes"), "Services that came, went or changed", &all.service_changes);
        register(
            format!("{rules}_endpoint_changes"),
            "EndpointSlices that came, went or changed",
            &all.endpoint_changes,
        );
        register(
            format!("{rules}_service_changes_pending"),
            "Changes of Services that are not in force yet",
            &all.services_pending,
        );
        register(
            format!("{rules}_endpoint_changes_pending"),
            "Changes of EndpointSlices that are not in force yet",
            &all.endpoints_pending,
        );
        // A gauge, for all its name: it is kube-proxy's.
        register(
            format!("{rules}_no_local_endpoints_total"),
            "Services with a Local traffic policy that have endpoints, but none on this node",
            &all.no_local_endpoints,
        );
        register("lb_rules_swapped".into(), "Changes that needed a larger table of rules", &all.full_syncs);
        register(
            "lb_reloads_refused".into(),
            "Changes of objects that were refused; the rules before stay in force",
            &all.refused,
        );
        register("lb_flows_restored".into(), "Flows taken over from an earlier data plane", &all.flows_restored);
        register(
            "lb_lines_unwritten".into(),
            "Lines of the log or the journal of flows that could not be written",
            &all.unwritten,
        );
        register("kubeproxy_proxy_healthz".into(), "Answers of /healthz, by status", &all.healthz);
        register("kubeproxy_proxy_livez".into(), "Answers of /livez, by status", &all.livez);
        registry.register("lb_build", "What this is", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let all = Self { registry, ..all };
        all.without_local_endpoints(0, 0);
        all
    }

    /// A change of objects was noticed.
    pub fn queued(&self, now: Instant) {
        self.last_queued.set(seconds(now));
    }

    /// These changes were read and are about to be put in force.
    pub fn pending(&self, changes: Changes) {
        self.services_pending.set(changes.services as i64);
        self.endpoints_pending.set(changes.slices as i64);
    }

    /// A change of endpoints is in force, so long after it happened.
    pub fn programmed(&self, took: Duration) {
        self.programming.observe(took.as_secs_f64());
    }

    /// So many services lack an endpoint on this node for traffic from inside, and from outside, that is for this node's.
    pub fn without_local_endpoints(&self, internal: u64, external: u64) {
        for (policy, count) in [("internal", internal), ("external", external)] {
            self.no_local_endpoints.get_or_create(&[("traffic_policy", policy)]).set(count as i64);
        }
    }

    /// Rules were put in force: all of them, in a table of their own, if `swapped`.
    pub fn synced(&self, now: Instant, took: Duration, changes: Changes, swapped: bool) {
        let (took, of_its_kind) =
            (took.as_secs_f64(), if swapped { &self.full_sync_times } else { &self.partial_sync_times });
        self.syncs.observe(took);
        of_its_kind.observe(took);
        self.pending(Changes::default());
        self.last_sync.set(seconds(now));
        self.service_changes.inc_by(changes.services);
        self.endpoint_changes.inc_by(changes.slices);
        self.full_syncs.inc_by(swapped.into());
    }

    /// So many changes of objects were refused.
    pub fn refused(&self, changes: u64) {
        self.refused.inc_by(changes);
    }

    /// So many flows were taken over.
    pub fn restored(&self, flows: usize) {
        self.flows_restored.inc_by(flows as u64);
    }

    /// So many lines about flows could not be written.
    pub fn unwritten(&self, lines: u64) {
        self.unwritten.inc_by(lines);
    }

    /// `/healthz` was answered so.
    pub fn healthz(&self, status: u16) {
        self.healthz.get_or_create(&[("code", status.to_string())]).inc();
    }

    /// `/livez` was answered so.
    pub fn livez(&self, status: u16) {
        self.livez.get_or_create(&[("code", status.to_string())]).inc();
    }

    /// All of them, and what the data plane counted.
    ///
    /// # Errors
    /// None in practice: a string has room.
    pub fn text(&self, counts: Option<Counts>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if let Some(counts) = counts {
            let mut engine = Registry::default();
            engine.register_collector(Box::new(counts));
            encode_registry(&mut text, &engine)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// kube-proxy's own, 1 ms to 16 s, and finer ones below.
fn sync_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_125, 2.0, 18)
}

/// kube-proxy's own: 0, finer than a second, seconds to a minute, every 5 to two, every 30 to five.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.0, 0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

fn seconds(instant: Instant) -> f64 {
    instant.as_nanos() as f64 / 1e9
}

/// A metric that can be registered whatever its type.
trait Registered {
    fn register(&self, registry: &mut Registry, name: String, help: &str);
}

impl<M: prometheus_client::registry::Metric + Clone> Registered for M {
    fn register(&self, registry: &mut Registry, name: String, help: &str) {
        registry.register(name, help, self.clone());
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let engine = &self.engine;
        let mut packets = encoder.encode_descriptor("lb_packets", "Packets by verdict", None, MetricType::Counter)?;
        for code in 0..Verdict::CODES as u8 {
            if let Some(label) = Verdict::label(code) {
                one(&mut packets, ("verdict", label), engine.verdict(code))?;
            }
        }
        for (name, help, value) in [
            ("lb_flows_created", "Flows begun", engine.flows_created),
            ("lb_flows_expired", "Flows whose time passed", engine.flows_expired),
            ("lb_flows_evicted", "Flows that gave way to newcomers in a full table", engine.flows_evicted),
            ("lb_flows_reselected", "UDP flows moved as their backend stopped serving", engine.flows_reselected),
            ("lb_flows_cut", "Flows ended by the rules", engine.flows_cut),
            ("lb_ports_changed", "Flows whose source port was changed", engine.ports_changed),
            ("lb_port_tries", "Source ports looked at for those", engine.port_tries),
            ("lb_replies_limited", "Answers to rejected packets not sent so as not to flood", engine.replies_limited),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let metric = encoder.encode_descriptor("lb_flows", "Flows in the table", None, MetricType::Gauge)?;
        ConstGauge::new(self.flows as i64).encode(metric)?;
        let help = "TCP connections and SCTP associations that nobody has ended";
        let metric = encoder.encode_descriptor("lb_connections", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.connections as i64).encode(metric)?;
        for (name, help, of) in [
            ("lb_device_received", "Frames received", (|counts| counts.received) as fn(&DeviceCounts) -> u64),
            ("lb_device_sent", "Frames sent", |counts| counts.sent),
            ("lb_device_dropped", "Frames that a device could not take", |counts| counts.dropped),
            ("lb_device_handed_on", "Frames that another worker had received", |counts| counts.handed_on),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (device, counts) in &self.devices {
                one(&mut metric, ("device", device), of(counts))?;
            }
        }
        Ok(())
    }
}

/// One member of a family.
fn one(family: &mut MetricEncoder<'_>, label: (&str, &str), value: u64) -> Result<(), fmt::Error> {
    ConstCounter::new(value).encode(family.encode_family(&[label])?)
}
