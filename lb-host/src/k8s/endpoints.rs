//! EndpointSlices as the control plane takes them (SEMANTICS §2, §4).

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use lb_core::control::{self, Label};
use lb_core::{Address, Family, Instant};

use super::address::lenient_address;
use super::service::{OTHER_PROXY, number, protocol};
use super::{Placed, Problem};

/// The label that names a slice's Service (SEMANTICS §4.1).
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of slices that no proxy reads, whatever its value (SEMANTICS §2.3).
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The annotation that says when what a slice tells happened.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When what a slice tells happened, if it says so: RFC 3339.
pub fn triggered(slice: &EndpointSlice) -> Option<Instant> {
    let text = slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?;
    let time: jiff::Timestamp = text.parse().ok()?;
    time.as_nanosecond().try_into().ok().map(Instant::from_nanos)
}

/// The slice as the control plane takes it; `None` if it does not count (SEMANTICS §2.2, §2.3, §4.1).
///
/// # Errors
/// A port or protocol that no packet can have.
pub fn slice(placed: &Placed<EndpointSlice>) -> Result<Option<control::Slice>, Problem> {
    let visible = placed.label(OTHER_PROXY).is_none() && placed.label(HEADLESS).is_none();
    let (Some(service), Some(family), true) = (service_key(placed), family(&placed.object), visible) else {
        return Ok(None);
    };
    let mut ports = Vec::new();
    for (index, port) in placed.object.ports.iter().flatten().enumerate() {
        ports.extend(slice_port(placed, index, port)?);
    }
    let endpoints = placed.object.endpoints.iter().flatten();
    let endpoints = endpoints.filter_map(|one| Some((address(one, family)?, one)));
    Ok(Some(control::Slice {
        name: placed.key().into(),
        service: service.into(),
        ports,
        endpoints: endpoints.map(|(address, one)| endpoint(address, one)).collect(),
    }))
}

/// Namespace and name of the Service that a slice belongs to, if it belongs to one.
pub fn service_key(placed: &Placed<EndpointSlice>) -> Option<String> {
    let service = placed.label(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(format!("{}/{service}", placed.namespace()))
}

/// The family of a slice's addresses; `None` if they are names.
pub fn family(slice: &EndpointSlice) -> Option<Family> {
    match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

/// The one address of an endpoint that counts, if it is of the slice's family (SEMANTICS §4.3).
fn address(endpoint: &Endpoint, family: Family) -> Option<Address> {
    lenient_address(endpoint.addresses.first()?).filter(|address| address.family() == family)
}

/// A port without a name or a number is no port (SEMANTICS §4.2).
fn slice_port(
    placed: &Placed<EndpointSlice>,
    index: usize,
    port: &EndpointPort,
) -> Result<Option<control::SlicePort>, Problem> {
    let field = |name: &str| format!("ports[{index}].{name}");
    let (Some(name), Some(count)) = (&port.name, port.port.filter(|port| *port != 0)) else { return Ok(None) };
    Ok(Some(control::SlicePort {
        name: name.as_str().into(),
        protocol: protocol(placed, &field("protocol"), port.protocol.as_deref())?,
        port: number(placed, &field("port"), count)?,
    }))
}

fn endpoint(address: Address, endpoint: &Endpoint) -> control::Endpoint {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    control::Endpoint {
        address,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.as_deref().filter(|name| !name.is_empty()).map(Label::from),
        zone_hints: hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect(),
        node_hints: hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect(),
    }
}
