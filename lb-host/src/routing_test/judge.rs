//! Expectations against what was seen. Every difference says what was expected and what it got.

use std::collections::BTreeSet;

use lb_core::Address;
use lb_core::control::{Control, Resolved, Service, Slice};
use lb_core::rules::Pool;
use serde::Serialize;

use super::data_plane::Survivor;
use super::format::{ConntrackCheck, EndpointsCheck, FlowCheck, HealthCheck, ServicePortName, Socket};
use super::observe::Observed;
use super::written::Word;
use crate::explain::{Explanation, standing_words};
use crate::health;
use crate::k8s::Place;
use crate::path::socket;

/// One check, judged.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// The step it belongs to.
    pub step: String,
    /// What sort of check it is, and its name.
    pub check: String,
    /// Where it stands.
    #[serde(serialize_with = "place")]
    pub place: Place,
    /// What is not as expected; nothing if the check holds.
    pub differences: Vec<Difference>,
    /// Why the flow fared as it did, if it did not fare as expected.
    pub explanation: Option<Explanation>,
    /// What else helps to find out, a line each.
    pub notes: Vec<String>,
}

/// One thing that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Of what.
    pub of: &'static str,
    /// What was expected.
    pub expected: String,
    /// What it is.
    pub got: String,
}

fn place<S: serde::Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(place)
}

impl Judged {
    pub(super) fn new(step: &str, check: String, place: &Place, differences: Vec<Difference>) -> Self {
        let (step, place) = (step.to_owned(), place.clone());
        Self { step, check, place, differences, explanation: None, notes: Vec::new() }
    }

    /// Whether all is as expected.
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Gathers differences.
#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, of: &'static str, expected: impl ToString, got: impl ToString) {
        self.0.push(Difference { of, expected: expected.to_string(), got: got.to_string() });
    }

    fn compare<T: PartialEq>(&mut self, of: &'static str, expected: &T, got: &T, words: impl Fn(&T) -> String) {
        if expected != got {
            self.add(of, words(expected), words(got));
        }
    }
}

/// A flow, as seen through the rules as they were reached and through those of the objects alone.
pub(super) fn flow(check: &FlowCheck, reached: &Observed, from_scratch: &Observed) -> Vec<Difference> {
    let mut differences = Differences::default();
    if let Some(expected) = &check.verdict {
        differences.compare("verdict", expected, &reached.verdict, Word::to_string);
        let strays: Vec<_> = reached.others.iter().filter(|other| *other != expected).map(Word::to_string).collect();
        if !strays.is_empty() && reached.verdict == *expected {
            differences.add("verdict", format!("{expected}, of every flow like it"), strays.join(", "));
        }
    }
    if let Some(expected) = &check.backends {
        let got: BTreeSet<Socket> = reached.reached.keys().copied().collect();
        differences.compare("backends", expected, &got, sockets_words);
        if got == *expected && reached.pool != *expected {
            differences.add("backends the rules allow", sockets_words(expected), sockets_words(&reached.pool));
        }
    }
    if let Some(expected) = check.masquerade {
        masquerade(&mut differences, expected, check.packet.source, reached);
    }
    // A state gives the same verdicts however it was reached.
    let summary = |seen: &Observed| {
        let replaced = seen.reached.values().any(|masqueraded| *masqueraded);
        let masquerade = if replaced { ", masqueraded" } else { "" };
        format!("{} to {}{masquerade}", seen.verdict, sockets_words(&seen.pool))
    };
    if !reached.is_like(from_scratch) {
        let (expected, got) = (summary(from_scratch), summary(reached));
        differences.add("rules reached by update", format!("{expected}, as from scratch"), got);
    }
    differences.0
}

/// Whether the source is replaced. A client that is a backend itself is masqueraded towards itself whatever
/// the policies (§8.2), which is what is expected of it only where it is the only backend.
fn masquerade(differences: &mut Differences, expected: bool, client: Address, seen: &Observed) {
    let hairpin = |(address, _): &Socket| *address == client;
    let alone = seen.reached.keys().all(hairpin);
    let exempt = |backend: &Socket| !alone && !expected && hairpin(backend);
    let wrong: BTreeSet<Socket> = seen
        .reached
        .iter()
        .filter(|(backend, masqueraded)| **masqueraded != expected && !exempt(backend))
        .map(|(backend, _)| *backend)
        .collect();
    if wrong.len() == seen.reached.len() && (expected || !wrong.is_empty()) {
        differences.add("masquerade", expected, !expected);
    } else if !wrong.is_empty() {
        differences.add("masquerade", expected, format!("{} towards {}", !expected, sockets_words(&wrong)));
    }
}

fn sockets_words(sockets: &BTreeSet<Socket>) -> String {
    let words: Vec<_> = sockets.iter().map(|(address, port)| socket(*address, *port)).collect();
    format!("[{}]", words.join(", "))
}

/// What a service port resolves to, and notes on each of its endpoints.
pub(super) fn endpoints(check: &EndpointsCheck, control: &Control) -> (Vec<Difference>, Vec<String>) {
    let mut differences = Differences::default();
    let known = control.resolve(&check.service.service);
    let ports = match named(&check.service, &known) {
        Ok(ports) => ports.into_iter().filter(|port| check.family.is_none_or(|family| port.family == family)),
        Err(labels) => {
            differences.add("service port", &check.service.text, format!("one of {}", labels.join(", ")));
            return (differences.0, Vec::new());
        }
    };
    let ports: Vec<&Resolved> = ports.collect();
    // Both families together; a list is in use if it is in one of them.
    let list = |pool| {
        let mut used = ports.iter().filter_map(|port| port.pool(pool)).peekable();
        used.peek().is_some().then(|| used.flatten().map(|one| (one.address, one.port)).collect::<BTreeSet<_>>())
    };
    let words = |list: &Option<BTreeSet<Socket>>| list.as_ref().map_or_else(|| "null".to_owned(), sockets_words);
    for (of, expected, pool) in [("cluster", &check.cluster, Pool::Cluster), ("local", &check.local, Pool::Local)] {
        if let Some(expected) = expected {
            differences.compare(of, expected, &list(pool), words);
        }
    }
    if let Some(expected) = check.has_any {
        differences.compare("hasAny", &expected, &ports.iter().any(|port| port.has_any), bool::to_string);
    }
    let candidates = ports.iter().flat_map(|port| &port.candidates);
    let mut notes: Vec<_> = candidates
        .map(|one| {
            let (cluster, own) = (standing_words(one.cluster), standing_words(one.own));
            format!("endpoint {}: for the cluster {cluster}; for this node {own}", socket(one.address, one.port))
        })
        .collect();
    if ports.is_empty() {
        notes.push(format!("no service port {} is proxied", check.service.text));
    }
    (differences.0, notes)
}

/// The service port of this name, once a family; or the labels it may stand for, if it is not clear which.
fn named<'r>(name: &ServicePortName, ports: &'r [Resolved]) -> Result<Vec<&'r Resolved>, Vec<String>> {
    let of_protocol = |port: &&Resolved| {
        let label = port.label();
        name.protocol.as_ref().is_none_or(|protocol| label.ends_with(&format!("/{protocol}")))
    };
    let of_name = |port: &&Resolved, name: &str| &*port.port.name == name;
    let possible: Vec<_> = ports.iter().filter(of_protocol).collect();
    let exact = name.port.as_deref().unwrap_or_default();
    let mut found: Vec<_> = possible.iter().copied().filter(|port| of_name(port, exact)).collect();
    if found.is_empty() && name.port.is_none() {
        found = possible;
    }
    let labels: BTreeSet<String> = found.iter().map(|port| port.label()).collect();
    if labels.len() > 1 { Err(labels.into_iter().collect()) } else { Ok(found) }
}

/// What a probe is answered.
pub(super) fn health(
    check: &HealthCheck,
    services: &[Service],
    slices: &[Slice],
    control: &Control,
) -> Vec<Difference> {
    let mut differences = Differences::default();
    let service = services.iter().find(|service| *service.name == *check.service);
    let first = service.and_then(|service| service.cluster_ips.first()).map(|address| address.family());
    let family = check.answer.and_then(|answer| answer.family).or(first);
    let answer = service.zip(family).and_then(|(service, family)| {
        // A routing test has no way to make the proxy itself unhealthy.
        health::answer(service, slices.iter(), control.node(), family, true)
    });
    match (check.answer, answer) {
        (None, None) => {}
        (None, Some(answer)) => differences.add("healthCheck", "nobody listens", format!("status {}", answer.status)),
        (Some(expected), None) => {
            let got = if service.is_some() { "nobody listens (§10.1)" } else { "the Service is not proxied" };
            differences.add(
                "healthCheck",
                expected.status.map_or("an answer".to_owned(), |s| format!("status {s}")),
                got,
            );
        }
        (Some(expected), Some(answer)) => {
            if let Some(status) = expected.status {
                differences.compare("status", &status, &answer.status, u16::to_string);
            }
            if let Some(count) = expected.local_endpoints {
                differences.compare("localEndpoints", &count, &answer.local_endpoints, usize::to_string);
            }
        }
    }
    differences.0
}

/// Whether a flow survived.
pub(super) fn conntrack(check: &ConntrackCheck, survivor: &Survivor) -> Vec<Difference> {
    let mut differences = Differences::default();
    if check.kept != survivor.kept {
        differences.add("conntrack", if check.kept { "kept" } else { "cleared" }, &survivor.story);
    }
    differences.0
}
