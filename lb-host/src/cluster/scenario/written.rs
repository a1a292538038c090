//! A scenario as it is written: the keys of the file, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::k8s::{Document, Problem};

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Scenario {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl From<Family> for lb_core::Family {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Spec {
    pub(super) modes: Option<Vec<String>>,
    pub(super) families: Option<Vec<Family>>,
    #[serde(default = "three")]
    pub(super) nodes: usize,
    #[serde(default)]
    pub(super) dns: bool,
    #[serde(default)]
    pub(super) clients: Vec<String>,
    /// Machines outside that serve HTTP, by name, and their ports.
    #[serde(default)]
    pub(super) sites: BTreeMap<String, u16>,
    #[serde(default)]
    pub(super) links: Links,
    /// Read as Kubernetes objects, with their places.
    #[serde(default, rename = "objects")]
    _objects: Vec<Value>,
    pub(super) timeline: Vec<Step>,
}

fn three() -> usize {
    3
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Links {
    pub(super) pod: Option<Link>,
    pub(super) node: Option<Link>,
    pub(super) gateway: Option<Link>,
    pub(super) client: Option<Link>,
}

/// What differs from the usual link.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Link {
    pub(super) latency: Option<Span>,
    pub(super) jitter: Option<Span>,
    /// In percent.
    pub(super) loss: Option<f64>,
    /// In percent.
    pub(super) duplication: Option<f64>,
    pub(super) mtu: Option<usize>,
}

/// A time like `100ms`, `20s`, `5m`, `3h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).map(Self).ok_or_else(|| de::Error::custom(format!("{text:?} is no time like 100ms, 20s, 5m or 3h")))
    }
}

fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

/// A moment and what happens then: one thing.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) at: Span,
    /// Read as Kubernetes objects, with their places.
    pub(super) apply: Option<Vec<Value>>,
    pub(super) delete: Option<Named>,
    pub(super) ready: Option<String>,
    pub(super) unready: Option<String>,
    pub(super) crash: Option<String>,
    pub(super) roll: Option<String>,
    pub(super) scale: Option<Scale>,
    pub(super) power_off: Option<String>,
    pub(super) power_on: Option<String>,
    pub(super) cut: Option<String>,
    pub(super) mend: Option<String>,
    pub(super) balance: Option<Balance>,
    pub(super) requests: Option<Requests>,
    pub(super) lookups: Option<Lookups>,
    pub(super) transfer: Option<Transfer>,
    pub(super) stop: Option<String>,
    pub(super) expect: Option<Vec<Expectation>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    pub(super) kind: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Scale {
    pub(super) deployment: String,
    pub(super) replicas: i32,
}

/// A load balancer of one's own, pointed at a NodePort of all nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Balance {
    pub(super) name: String,
    /// Of each family one.
    pub(super) addresses: Vec<String>,
    pub(super) port: u16,
    pub(super) node_port: u16,
}

/// Whom to ask: a URL, or an address by whose it is, and a port.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct To {
    pub(super) url: Option<String>,
    pub(super) service: Option<String>,
    pub(super) load_balancer: Option<String>,
    pub(super) node: Option<String>,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Requests {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) to: To,
    pub(super) every: Option<Span>,
    pub(super) times: Option<u64>,
    pub(super) timeout: Option<Span>,
    #[serde(default)]
    pub(super) keep_alive: bool,
}

/// DNS lookups of one name, from one port.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Lookups {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) host: String,
    /// The client's.
    pub(super) port: u16,
    pub(super) every: Span,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Transfer {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) to: To,
    #[serde(default)]
    pub(super) upload: u64,
    #[serde(default)]
    pub(super) download: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    Ok,
    Refused,
    Timeout,
    Reset,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Seen {
    Client,
    Node,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Expectation {
    /// Of these requests, that were begun since and until then.
    pub(super) requests: Option<String>,
    pub(super) since: Option<Span>,
    pub(super) until: Option<Span>,
    /// Of these lookups.
    pub(super) lookups: Option<String>,
    pub(super) outcome: Option<Outcome>,
    pub(super) at_least: Option<usize>,
    /// Each was served by one of these, `web-*`, and each of these served.
    pub(super) served_by: Option<Vec<String>>,
    /// None was served by any of these.
    pub(super) not_served_by: Option<Vec<String>>,
    /// All were served by the same.
    #[serde(default)]
    pub(super) one_server: bool,
    /// Whom the server saw.
    pub(super) seen: Option<Seen>,
    /// Only in these modes.
    pub(super) modes: Option<Vec<String>>,
    /// Of this transfer: it has come to its end, and not a byte was wrong.
    pub(super) transfer: Option<String>,
    /// `kubectl get` of this kind has a row for this object, and there.
    pub(super) get: Option<Named>,
    pub(super) contains: Option<Vec<String>>,
}

impl Spec {
    /// What no type says.
    pub(super) fn check(&self, document: &Document) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut before = Span(Duration::ZERO);
        for (index, step) in self.timeline.iter().enumerate() {
            let place = |field: &str| document.place(&format!("spec.timeline[{index}]{field}"));
            if step.at < before {
                problems.push(Problem::new(place(".at"), "is before the step above", "sort the timeline"));
            }
            before = step.at;
            if step.things() != 1 {
                let message = format!("a step does one thing, not {}", step.things());
                problems.push(Problem::new(place(""), message, "make a step of each"));
            }
            for (number, expectation) in step.expect.iter().flatten().enumerate() {
                let about = [&expectation.requests, &expectation.lookups, &expectation.transfer];
                if about.iter().filter(|about| about.is_some()).count() + usize::from(expectation.get.is_some()) != 1 {
                    let place = place(&format!(".expect[{number}]"));
                    let advice = "name one of requests, lookups, transfer, get";
                    problems.push(Problem::new(place, "it is not clear what this is about", advice));
                }
            }
        }
        problems
    }
}

impl Step {
    fn things(&self) -> usize {
        let names = [
            &self.ready,
            &self.unready,
            &self.crash,
            &self.roll,
            &self.power_off,
            &self.power_on,
            &self.cut,
            &self.mend,
        ];
        let others = [
            self.stop.is_some(),
            self.apply.is_some(),
            self.delete.is_some(),
            self.scale.is_some(),
            self.balance.is_some(),
            self.requests.is_some(),
            self.lookups.is_some(),
            self.transfer.is_some(),
            self.expect.is_some(),
        ];
        names.iter().filter(|name| name.is_some()).count() + others.iter().filter(|there| **there).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("100ms", Some(Duration::from_millis(100))),
            ("20s", Some(Duration::from_secs(20))),
            ("5m", Some(Duration::from_secs(300))),
            ("3h", Some(Duration::from_secs(10_800))),
            ("3", None),
            ("s", None),
            ("3 s", None),
            ("-3s", None),
        ] {
            assert_eq!(span(text), expected, "{text}");
        }
    }
}
