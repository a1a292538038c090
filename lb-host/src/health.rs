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
