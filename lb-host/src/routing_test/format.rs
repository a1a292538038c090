//! A routing test, read: what each step sets up, and what it checks.

use std::collections::BTreeSet;
use std::path::Path;

use lb_core::control::{Node, Service, Slice};
use lb_core::{Address, Family, Origin, Tuple};

use super::written::{self, Word};
use crate::dialled;
use crate::k8s::address::{lenient_address, lenient_prefix};
use crate::k8s::node::ZONE;
use crate::k8s::settings::{self, DetectLocal, NodePortEntry};
use crate::k8s::{Cluster, Document, Manifests, Place, Problem, Problems, Settings, Taken, node};

/// Where a backend listens.
pub(super) type Socket = (Address, u16);

/// One `kind: RoutingTest`.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, or the file's if it has none.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// The states that it goes through.
    pub steps: Vec<Step>,
    /// What may surprise in its objects.
    pub warnings: Vec<String>,
}

/// One state, whole, and what holds in it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name, or its number.
    pub name: String,
    /// Begins with a new balancer, rather than by an update of the last step's.
    pub fresh: bool,
    /// The node whose data plane is asked.
    pub node: Node,
    /// What is proxied.
    pub services: Vec<Service>,
    /// What it is proxied to.
    pub slices: Vec<Slice>,
    /// New flows.
    pub flows: Vec<FlowCheck>,
    /// What service ports resolve to.
    pub endpoints: Vec<EndpointsCheck>,
    /// What load balancers' probes are answered.
    pub health: Vec<HealthCheck>,
    /// Flows that there were before this state.
    pub conntrack: Vec<ConntrackCheck>,
}

/// What must become of a new flow. What is `None` here and below is not judged.
#[derive(Clone, Debug)]
pub struct FlowCheck {
    /// Its name, or its packet.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Its first packet.
    pub packet: Tuple,
    /// Where that comes from.
    pub origin: Origin,
    /// The verdict.
    pub verdict: Option<Word>,
    /// The exact set that can be chosen.
    pub backends: Option<BTreeSet<Socket>>,
    /// Whether the source is replaced.
    pub masquerade: Option<bool>,
}

/// What a service port must resolve to.
#[derive(Clone, Debug)]
pub struct EndpointsCheck {
    /// `namespace/name:port/PROTOCOL`, of which port and protocol may be left out where there is but one.
    pub service: ServicePortName,
    /// Where it stands.
    pub place: Place,
    /// Only this family's; both together if there is none.
    pub family: Option<Family>,
    /// The cluster list; `Some(None)` if it must not be in use.
    pub cluster: Option<Option<BTreeSet<Socket>>>,
    /// The local list, likewise.
    pub local: Option<Option<BTreeSet<Socket>>>,
    /// Whether there is a usable endpoint anywhere.
    pub has_any: Option<bool>,
}

/// `namespace/name[:port][/PROTOCOL]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortName {
    /// As it is written.
    pub text: String,
    /// Namespace and name, joined by a slash.
    pub service: String,
    /// The port's name, empty for the port without one.
    pub port: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: Option<String>,
}

/// What a load balancer's probe must be answered.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// Namespace and name of the Service, joined by a slash.
    pub service: String,
    /// Where it stands.
    pub place: Place,
    /// `None` if nobody must be listening.
    pub answer: Option<HealthAnswer>,
}

/// What an answer to a probe must say.
#[derive(Clone, Copy, Debug)]
pub struct HealthAnswer {
    /// HTTP's status.
    pub status: Option<u16>,
    /// How many endpoints it counts.
    pub local_endpoints: Option<usize>,
    /// Whose server is asked; that of the Service's first ClusterIP if there is none.
    pub family: Option<Family>,
}

/// What must become of a flow that there was before the step's state.
#[derive(Clone, Debug)]
pub struct ConntrackCheck {
    /// Where it stands.
    pub place: Place,
    /// As the client sends it.
    pub flow: Tuple,
    /// Where it goes: its own destination for one that was never translated.
    pub to: Socket,
    /// Whether it goes there still.
    pub kept: bool,
}

/// Reads a case from its document. Files that it names are looked for in `directory`.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn case(document: &Document, directory: &Path) -> Result<Case, Problems> {
    let reading = document.read::<written::RoutingTest>()?;
    let known = |field: &str| field == "apiVersion" || field == "kind";
    let unknown: Vec<Problem> = reading
        .unknown
        .into_iter()
        .filter(|unknown| !known(&unknown.field))
        .map(|unknown| misspelt(&unknown))
        .collect();
    if !unknown.is_empty() {
        return Err(Problems(unknown));
    }
    let test = reading.value;
    let mut problems = Vec::new();
    let mut steps = Vec::new();
    let mut warnings = Vec::new();
    let reader = Reader { document, directory, mode: &test.spec.mode };
    for (index, step) in test.spec.steps.iter().enumerate() {
        match reader.step(index, step, &mut warnings) {
            Ok(step) => steps.push(step),
            Err(Problems(some)) => problems.extend(some),
        }
    }
    let checks = |step: &Step| step.flows.len() + step.endpoints.len() + step.health.len() + step.conntrack.len();
    if problems.is_empty() && steps.iter().all(|step| checks(step) == 0) {
        let advice = "give flows, endpoints, healthCheck or conntrack to one of its steps";
        problems.push(Problem::new(document.place("spec.steps"), "this test expects nothing", advice));
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let place = document.place("");
    let stem = Path::new(&*place.file).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = Some(test.metadata.name).filter(|name| !name.is_empty()).or(stem).unwrap_or_default();
    Ok(Case { name, place, steps, warnings })
}

/// What to do about a key that is not read, and so would not be judged: in its place another may be meant.
fn misspelt(unknown: &crate::k8s::tree::Unknown) -> Problem {
    let key = unknown.field.rsplit('.').next().unwrap_or_default();
    let others = written::KEYS.iter().filter(|known| **known != key);
    let scored = others.map(|known| (strsim::damerau_levenshtein(&known.to_lowercase(), &key.to_lowercase()), *known));
    let advice = match scored.min().filter(|(distance, known)| distance * 2 < known.len()) {
        Some((_, known)) => format!("did you mean {known}?"),
        None => "remove it: what is not read is not judged".to_owned(),
    };
    Problem::new(unknown.place.clone(), format!("unknown field {}", unknown.field), advice)
}

/// What reading a step needs to know.
struct Reader<'a> {
    document: &'a Document,
    directory: &'a Path,
    mode: &'a str,
}

impl Reader<'_> {
    fn step(&self, index: usize, step: &written::Step, warnings: &mut Vec<String>) -> Result<Step, Problems> {
        let path = format!("spec.steps[{index}]");
        let (manifests, cluster_cidrs) = self.manifests(&path, step)?;
        let mut settings = self.settings(&path, &step.proxy)?;
        if settings.service_cidrs.is_empty() {
            settings.service_cidrs = cluster_cidrs;
        }
        let cluster = Cluster::new(manifests, &Taken::AsWritten)?;
        warnings
            .extend(cluster.warnings.iter().filter(|warning| !warnings.contains(warning)).cloned().collect::<Vec<_>>());
        let node = self.node(&path, &step.node, &cluster, &settings)?;
        let flows = step.flows.iter().enumerate();
        let endpoints = step.endpoints.iter().enumerate();
        let conntrack = step.conntrack.iter().enumerate();
        Ok(Step {
            name: if step.name.is_empty() { format!("step {}", index + 1) } else { step.name.clone() },
            fresh: step.fresh || index == 0,
            flows: flows
                .map(|(i, flow)| self.flow(&format!("{path}.flows[{i}]"), flow, &node, &step.proxy))
                .collect::<Result<_, _>>()?,
            endpoints: endpoints
                .map(|(i, check)| self.endpoints(&format!("{path}.endpoints[{i}]"), check))
                .collect::<Result<_, _>>()?,
            health: step.health_check.iter().map(|(name, check)| self.health(&path, name, check.as_ref())).collect(),
            conntrack: conntrack
                .map(|(i, check)| self.conntrack(&format!("{path}.conntrack[{i}]"), check))
                .collect::<Result<_, _>>()?,
            node,
            services: cluster.services,
            slices: cluster.slices,
        })
    }

    /// A problem with the value at `path`.
    fn problem(&self, path: &str, message: impl Into<String>, advice: impl Into<String>) -> Problem {
        Problem::new(self.document.place(path), message, advice)
    }

    /// The objects of a step, and the blocks of its ServiceCIDRs.
    fn manifests(&self, path: &str, step: &written::Step) -> Result<(Manifests, Vec<lb_core::Prefix>), Problems> {
        let mut files = Vec::new();
        for (index, name) in step.manifests.iter().enumerate() {
            let file = self.directory.join(name);
            if !file.exists() {
                let message = format!("there is no {}", file.display());
                let advice = "name manifests relative to this file";
                return Err(self.problem(&format!("{path}.manifests[{index}]"), message, advice).into());
            }
            files.push(file);
        }
        let mut manifests = Manifests::read(&files)?;
        let objects = self.document.items(&format!("{path}.objects"));
        let problems: Vec<_> = objects.into_iter().flat_map(|object| manifests.add_document(object)).collect();
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let blocks = manifests.service_cidrs();
        Ok((manifests, blocks))
    }

    fn settings(&self, path: &str, proxy: &written::Proxy) -> Result<Settings, Problem> {
        let path = format!("{path}.proxy");
        let mode = settings::mode(self.mode).ok_or_else(|| {
            let names: Vec<_> = lb_core::control::Mode::ALL.iter().map(|mode| mode.name).collect();
            let message = format!("{:?} is no mode", self.mode);
            self.problem("spec.mode", message, format!("give one of {}", names.join(", ")))
        })?;
        let scheduler = |name: &String| {
            let at = |(why, advice): (String, String)| self.problem(&format!("{path}.scheduler"), why, advice);
            settings::scheduler(name).map_err(at)
        };
        let blocks = |key: &str, words: &written::Words| {
            let block = |word: &str| {
                let message = format!("{word:?} is no block of addresses");
                lenient_prefix(word)
                    .ok_or_else(|| self.problem(&format!("{path}.{key}"), message, "write it like 10.244.0.0/16"))
            };
            words.words().into_iter().map(block).collect::<Result<Vec<_>, _>>()
        };
        let entry = |word: &str| {
            let wrong = |reason| {
                let message = format!("{word:?} is {reason}");
                self.problem(&format!("{path}.nodePortAddresses"), message, "correct it")
            };
            word.trim().parse::<NodePortEntry>().map_err(wrong)
        };
        let service_cidrs = proxy.service_cidrs.as_ref().map(|words| blocks("serviceCIDRs", words)).transpose()?;
        Ok(Settings {
            mode,
            scheduler: proxy.scheduler.as_ref().map(scheduler).transpose()?,
            detect_local: self.detect_local(&path, proxy)?,
            cluster_cidrs: blocks("clusterCIDR", &proxy.cluster_cidr)?,
            node_port_addresses: proxy.node_port_addresses.words().into_iter().map(entry).collect::<Result<_, _>>()?,
            masquerade_all: proxy.masquerade_all.unwrap_or(false),
            localhost_node_ports: proxy.localhost_node_ports.unwrap_or(true),
            service_cidrs: service_cidrs.unwrap_or_default(),
            empty_udp: match proxy.empty_udp {
                written::EmptyUdp::Keep => lb_core::control::EmptyUdp::Keep,
                written::EmptyUdp::Cut => lb_core::control::EmptyUdp::Cut,
            },
            ..Settings::default()
        })
    }

    fn detect_local(&self, path: &str, proxy: &written::Proxy) -> Result<DetectLocal, Problem> {
        match proxy.detect_local_mode.as_deref() {
            None | Some("" | "ClusterCIDR") => Ok(DetectLocal::ClusterCidr),
            Some("NodeCIDR") => Ok(DetectLocal::NodeCidr),
            Some(mode @ ("BridgeInterface" | "InterfaceNamePrefix")) => {
                let (key, name) = if mode == "BridgeInterface" {
                    ("bridgeInterface", &proxy.detect_local.bridge_interface)
                } else {
                    ("interfaceNamePrefix", &proxy.detect_local.interface_name_prefix)
                };
                let message = format!("detectLocalMode is {mode}, but no interface is named");
                let missing = || {
                    let advice = format!("set proxy.detectLocal.{key}");
                    self.problem(&format!("{path}.detectLocalMode"), message, advice)
                };
                (!name.is_empty()).then_some(DetectLocal::Interface).ok_or_else(missing)
            }
            Some(other) => Err(self.problem(
                &format!("{path}.detectLocalMode"),
                format!("{other:?} is no way to detect local traffic"),
                "give ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
            )),
        }
    }

    /// The node as the step says, and for what it does not say as the Node object of its name does.
    fn node(
        &self,
        path: &str,
        wanted: &written::Node,
        cluster: &Cluster,
        settings: &Settings,
    ) -> Result<Node, Problem> {
        let path = format!("{path}.node");
        let nodes = &cluster.manifests.nodes;
        let name = match (wanted.name.as_str(), nodes.as_slice()) {
            ("", [only]) => only.name(),
            ("", _) => return Err(self.problem(&path, "the node has no name", "set node.name")),
            (name, _) => name,
        };
        let object = nodes.iter().find(|node| node.name() == name);
        let addresses = match &wanted.addresses {
            Some(texts) => {
                let address = |(index, text): (usize, &String)| {
                    let place = format!("{path}.addresses[{index}]");
                    let wrong = || self.problem(&place, format!("{text:?} is no IP address"), "correct it");
                    lenient_address(text).ok_or_else(wrong)
                };
                texts.iter().enumerate().map(address).collect::<Result<_, _>>()?
            }
            None => object.map(|object| node::addresses(&object.object)).unwrap_or_default(),
        };
        let zone = wanted.zone.as_deref().or_else(|| object.and_then(|object| object.label(ZONE)));
        let pod_cidrs = match &wanted.pod_cidrs {
            Some(words) => {
                let block = |word: &str| {
                    let wrong = || {
                        let message = format!("{word:?} is no block of addresses");
                        self.problem(&format!("{path}.podCIDRs"), message, "write it like 10.244.1.0/24")
                    };
                    lenient_prefix(word).ok_or_else(wrong)
                };
                words.words().into_iter().map(block).collect::<Result<Vec<_>, _>>()?
            }
            None => object.map(|object| node::pod_cidrs(&object.object)).unwrap_or_default(),
        };
        Ok(node::of_parts(name, zone.filter(|zone| !zone.is_empty()), addresses, &pod_cidrs, settings))
    }

    fn flow(
        &self,
        path: &str,
        flow: &written::Flow,
        node: &Node,
        proxy: &written::Proxy,
    ) -> Result<FlowCheck, Problem> {
        let packet = self.packet(&format!("{path}.packet"), &flow.packet)?;
        let expect = &flow.expect;
        if expect.verdict.is_none() && expect.backends.is_none() && expect.masquerade.is_none() {
            let advice = "give it a verdict, backends or masquerade";
            return Err(self.problem(&format!("{path}.expect"), "this flow expects nothing", advice));
        }
        let of_pod = |iif: &String| match proxy.detect_local_mode.as_deref() {
            Some("BridgeInterface") => *iif == proxy.detect_local.bridge_interface,
            Some("InterfaceNamePrefix") => iif.starts_with(&proxy.detect_local.interface_name_prefix),
            _ => false,
        };
        let origin = if packet.source.is_loopback() || node.addresses.contains(&packet.source) {
            Origin::Node
        } else if flow.iif.as_ref().is_some_and(of_pod) {
            Origin::Pod
        } else {
            Origin::Wire
        };
        let backends = expect.backends.as_ref();
        Ok(FlowCheck {
            name: flow.name.clone().unwrap_or_else(|| flow.packet.clone()),
            place: self.document.place(path),
            packet,
            origin,
            verdict: expect.verdict,
            backends: backends.map(|texts| self.sockets(&format!("{path}.expect.backends"), texts)).transpose()?,
            masquerade: expect.masquerade,
        })
    }

    fn packet(&self, path: &str, text: &str) -> Result<Tuple, Problem> {
        dialled::parse(text).map_err(|error| {
            let text = error.to_string();
            let (message, advice) = text.split_once("; ").unwrap_or((&text, "correct it"));
            self.problem(path, message, advice)
        })
    }

    fn sockets(&self, path: &str, texts: &[String]) -> Result<BTreeSet<Socket>, Problem> {
        let socket = |(index, text): (usize, &String)| self.socket(&format!("{path}[{index}]"), text);
        texts.iter().enumerate().map(socket).collect()
    }

    fn socket(&self, path: &str, text: &str) -> Result<Socket, Problem> {
        let parsed = text.trim().parse::<std::net::SocketAddr>();
        let advice = "write it like 10.244.1.1:80 or \"[fd00::1]:80\"";
        let wrong = |_| self.problem(path, format!("{text:?} is no address and port"), advice);
        parsed.map(|socket| (socket.ip().into(), socket.port())).map_err(wrong)
    }

    fn endpoints(&self, path: &str, check: &written::Endpoints) -> Result<EndpointsCheck, Problem> {
        if check.cluster.is_none() && check.local.is_none() && check.has_any.is_none() {
            return Err(self.problem(path, "nothing is expected of it", "give it cluster, local or hasAny"));
        }
        let sockets = |key: &str, texts: &Option<Vec<String>>| {
            texts.as_ref().map(|texts| self.sockets(&format!("{path}.{key}"), texts)).transpose()
        };
        let list = |key, list: &Option<_>| list.as_ref().map(|texts| sockets(key, texts)).transpose();
        Ok(EndpointsCheck {
            service: self.service_port(&format!("{path}.service"), &check.service)?,
            place: self.document.place(path),
            family: check.family.map(family),
            cluster: list("cluster", &check.cluster)?,
            local: list("local", &check.local)?,
            has_any: check.has_any,
        })
    }

    fn service_port(&self, path: &str, text: &str) -> Result<ServicePortName, Problem> {
        let wrong = || {
            let message = format!("{text:?} is no service port");
            self.problem(path, message, "write it like default/web:http/TCP, default/web:/TCP if it has no name")
        };
        let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (rest, protocol) = match rest.split_once('/') {
            Some((rest, protocol)) => (rest, Some(protocol.to_uppercase())),
            None => (rest, None),
        };
        let known = |protocol: &String| ["TCP", "UDP", "SCTP"].contains(&protocol.as_str());
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (rest, None),
        };
        if namespace.is_empty() || name.is_empty() || !protocol.as_ref().is_none_or(known) {
            return Err(wrong());
        }
        Ok(ServicePortName { text: text.to_owned(), service: format!("{namespace}/{name}"), port, protocol })
    }

    fn health(&self, path: &str, service: &str, check: Option<&written::Health>) -> HealthCheck {
        HealthCheck {
            service: service.to_owned(),
            place: self.document.place(&format!("{path}.healthCheck.{service}")),
            answer: check.map(|check| HealthAnswer {
                status: check.status,
                local_endpoints: check.local_endpoints,
                family: check.family.map(family),
            }),
        }
    }

    fn conntrack(&self, path: &str, check: &written::Conntrack) -> Result<ConntrackCheck, Problem> {
        let flow = self.packet(&format!("{path}.flow"), &check.flow)?;
        let to = self.socket(&format!("{path}.to"), &check.to)?;
        if !flow.protocol.has_ports() || to.0.family() != flow.destination.family() {
            let message = "this flow cannot be translated to there";
            return Err(self.problem(path, message, "give a flow with ports, and an address of its family"));
        }
        let kept = check.expect == written::Survival::Kept;
        Ok(ConntrackCheck { place: self.document.place(path), flow, to, kept })
    }
}

fn family(family: written::Family) -> Family {
    match family {
        written::Family::V4 => Family::V4,
        written::Family::V6 => Family::V6,
    }
}
