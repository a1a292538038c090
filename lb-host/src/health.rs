//! What a node answers the health checks of load balancers (SEMANTICS §10.1-10.3): pure.

use std::collections::BTreeSet;

use lb_core::Family;
use lb_core::control::{Node, Service, Slice, resolve};
use serde::Serialize;

/// The answer to any request on a Service's health-check port, whatever its path and method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status: 200 or 503.
    pub status: u16,
    /// How many of the Service's endpoints are on this node and ready, by address.
    pub local_endpoints: usize,
    /// JSON.
    pub body: String,
}

impl Answer {
    /// The headers that go with it.
    pub fn headers(&self) -> [(&'static str, String); 3] {
        [
            ("Content-Type", "application/json".to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
            ("X-Load-Balancing-Endpoint-Weight", self.local_endpoints.to_string()),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// What `node` answers about `service`, whose slices are among `slices`, on its addresses of `family`: each
/// family has a proxier of its own that counts its own endpoints (§13.1). `healthy` is the proxy's own
/// state. `None` if nobody listens (§10.1).
pub fn answer<'s>(
    service: &Service,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    node: &Node,
    family: Family,
    healthy: bool,
) -> Option<Answer> {
    service.health_check_port?;
    let own = slices.filter(|slice| slice.service == service.name);
    let ports = resolve(service, own, node).into_iter().filter(|port| port.family == family);
    let candidates = ports.flat_map(|port| port.candidates);
    // §10.3: one that terminates is not ready, so the node drains while it still serves (§5.3).
    let counted: BTreeSet<_> = candidates.filter(|one| one.local && one.ready).map(|one| one.address).collect();
    let (namespace, name) = service.name.split_once('/').unwrap_or(("", &service.name));
    let local_endpoints = counted.len();
    let body = Body { service: Name { namespace, name }, local_endpoints, service_proxy_healthy: healthy };
    Some(Answer {
        status: if local_endpoints > 0 && healthy { 200 } else { 503 },
        local_endpoints,
        body: serde_json::to_string_pretty(&body).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use lb_core::Address;
    use lb_core::control::{Endpoint, ServicePort, SlicePort, TrafficPolicy};
    use lb_core::{Prefix, Protocol};

    use super::*;
    use crate::k8s::{Settings, node::of_parts};

    /// A service of one port, and a slice with an endpoint on each of these nodes.
    fn objects(health_check_port: Option<u16>, nodes: &[&str]) -> (Service, Slice) {
        let (name, protocol, port) = ("http", Protocol::TCP, 80);
        let endpoint = |(number, node): (usize, &&str)| Endpoint {
            address: Address::v4([10, 244, 1, number as u8 + 1]),
            ready: true,
            serving: true,
            terminating: false,
            node: Some((*node).into()),
            zone_hints: vec![],
            node_hints: vec![],
        };
        let service = Service {
            name: "shop/web".into(),
            cluster_ips: vec![Address::v4([10, 96, 0, 10])],
            external_ips: vec![],
            load_balancer_ips: vec![Address::v4([203, 0, 113, 10])],
            source_ranges: Vec::<Prefix>::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Local,
            affinity: None,
            preserve_destination: false,
            health_check_port,
            ports: vec![ServicePort { name: name.into(), protocol, port, node_port: None }],
        };
        let slice = Slice {
            name: "shop/web-1".into(),
            service: "shop/web".into(),
            ports: vec![SlicePort { name: name.into(), protocol, port }],
            endpoints: nodes.iter().enumerate().map(endpoint).collect(),
        };
        (service, slice)
    }

    #[test]
    fn an_answer_is_as_load_balancers_read_it() {
        let node = of_parts("a", None, Vec::new(), &[], &Settings::default());
        for (rule, port, nodes, healthy, expected) in [
            ("§10.2 one here", Some(31_000), &["a", "b"][..], true, Some((200, "1"))),
            ("§10.2 two here", Some(31_000), &["a", "a"], true, Some((200, "2"))),
            ("§10.2 none here", Some(31_000), &["b"], true, Some((503, "0"))),
            ("§10.2 the proxy is not well", Some(31_000), &["a"], false, Some((503, "1"))),
            ("§10.1 no port", None, &["a"], true, None),
        ] {
            let (service, slice) = objects(port, nodes);
            let answer = answer(&service, std::iter::once(&slice), &node, Family::V4, healthy);
            let weight = |answer: &Answer| answer.headers()[2].1.clone();
            let got = answer.as_ref().map(|answer| (answer.status, weight(answer)));
            assert_eq!(got, expected.map(|(status, weight)| (status, weight.to_owned())), "{rule}");
        }
    }

    #[test]
    fn its_body_is_json() {
        let node = of_parts("a", None, Vec::new(), &[], &Settings::default());
        let (service, slice) = objects(Some(31_000), &["a"]);
        let answer = answer(&service, std::iter::once(&slice), &node, Family::V4, true).expect("an answer");
        let expected = "{\n  \"service\": {\n    \"namespace\": \"shop\",\n    \"name\": \"web\"\n  },\n  \
                        \"localEndpoints\": 1,\n  \"serviceProxyHealthy\": true\n}";
        assert_eq!(answer.body, expected);
        assert_eq!(answer.headers()[0], ("Content-Type", "application/json".to_owned()));
        assert_eq!(answer.headers()[1], ("X-Content-Type-Options", "nosniff".to_owned()));
    }
}
