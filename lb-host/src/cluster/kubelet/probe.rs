//! What a readiness probe asks, and whom.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe as Spec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_core::Address;

use super::Program;
use crate::k8s::address::lenient_address;

/// One probe that is to be made, from the node's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What its outcome is told by.
    pub id: ProbeId,
    /// The container that is probed.
    pub program: Program,
    /// The Pod's address, or the one that the probe names in its place.
    pub address: Address,
    /// The port; 0 for [`Question::Exec`].
    pub port: u16,
    /// What to ask there.
    pub question: Question,
    /// After how long without an answer it has failed.
    pub timeout: Duration,
}

/// A probe's number, unique on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeId(pub u64);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A GET; any status from 200 to 399 is a success.
    Http {
        /// The path, and query.
        path: String,
        /// Headers besides those that every request has.
        headers: Vec<(String, String)>,
        /// Whether it is asked over TLS, with no look at the certificate.
        tls: bool,
    },
    /// Whether a connection is accepted.
    Tcp,
    /// gRPC's health protocol.
    Grpc {
        /// The service asked about.
        service: String,
    },
    /// Whether a command in the container ends with 0.
    Exec {
        /// The command.
        command: Vec<String>,
    },
}

/// A container's readiness probe, in the kubelet's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whom to ask, if not the Pod.
    pub(super) address: Option<Address>,
    pub(super) port: u16,
    pub(super) question: Question,
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    pub(super) successes: u32,
    pub(super) failures: u32,
}

/// How a container's readiness is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// It is ready while it runs.
    Running,
    /// By probes.
    Probe(Plan),
    /// It never is: its probe asks at a port that it does not have.
    Never,
}

impl Means {
    pub(super) fn of(container: &Container) -> Self {
        match &container.readiness_probe {
            None => Self::Running,
            Some(spec) => plan(spec, container).map_or(Self::Never, Self::Probe),
        }
    }
}

fn plan(spec: &Spec, container: &Container) -> Option<Plan> {
    let host = |host: &Option<String>| host.as_deref().and_then(lenient_address);
    let (address, port, question) = if let Some(get) = &spec.http_get {
        let headers = get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone()));
        let path = get.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        let tls = get.scheme.as_deref() == Some("HTTPS");
        (host(&get.host), port(&get.port, container)?, Question::Http { path, headers: headers.collect(), tls })
    } else if let Some(tcp) = &spec.tcp_socket {
        (host(&tcp.host), port(&tcp.port, container)?, Question::Tcp)
    } else if let Some(grpc) = &spec.grpc {
        let service = grpc.service.clone().unwrap_or_default();
        (None, u16::try_from(grpc.port).ok()?, Question::Grpc { service })
    } else {
        let command = spec.exec.as_ref()?.command.clone().unwrap_or_default();
        (None, 0, Question::Exec { command })
    };
    let at_least = |value: Option<i32>, otherwise: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(otherwise);
    let seconds = |value: Option<i32>, otherwise: u32| Duration::from_secs(at_least(value, otherwise).into());
    Some(Plan {
        address,
        port,
        question,
        initial_delay: seconds(spec.initial_delay_seconds, 0),
        period: seconds(spec.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(spec.timeout_seconds, 1).max(Duration::from_secs(1)),
        successes: at_least(spec.success_threshold, 1).max(1),
        failures: at_least(spec.failure_threshold, 3).max(1),
    })
}

/// A port's number: a name is that of one of the container's own.
fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}
