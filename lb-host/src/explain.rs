//! Which pod would this packet reach, and why?

use std::fmt::{self, Write as _};

use lb_core::control::{Candidate, Control, Resolved, Standing};
use lb_core::rules::{Backend, Decision, Fate, Pool, Segment, SourceKind, VipClass};
use lb_core::{
    Balancer, Block, Config, DropReason, Flow, Instant, Link, Meta, Origin, Packet, RejectReason, RuleTable, Sizes,
    Tuple, Verdict, blocks,
};
use serde::Serialize;

use crate::dialled;
use crate::path::{self, Path, socket};

/// The fate of a flow's first packet, and the reasons for it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The packet, in words.
    pub packet: String,
    /// The node whose data plane was asked; an image does not tell.
    pub node: Option<String>,
    /// Its mode.
    pub mode: Option<&'static str>,
    /// The verdict's word.
    pub verdict: &'static str,
    /// The layers that were opened, outermost first; none if the packet is no service's.
    pub path: Option<Path>,
    /// The service port, if it dials one: `namespace/name:port/PROTOCOL`.
    pub service: Option<String>,
    /// Who sends it, as far as policies care: node, pod or outside.
    pub source: &'static str,
    /// What decided, with the paragraph of the specification.
    pub because: String,
    /// Whether the source is replaced by the node's own address, and why or why not.
    pub masquerade: Option<Masquerade>,
    /// Every endpoint of the service port; of an image, those that were compiled.
    pub endpoints: Vec<Endpoint>,
    /// What the packet becomes, and what the answer to it becomes.
    pub wire: Option<Wire>,
}

/// Whether and why a source is replaced.
#[derive(Clone, Debug, Serialize)]
pub struct Masquerade {
    /// Whether it is.
    pub masquerade: bool,
    /// By which rule.
    pub because: String,
}

/// An endpoint of the service port that was dialled.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Address and port.
    pub address: String,
    /// The node it runs on, if known.
    pub node: Option<String>,
    /// Whether it is the one, could have been, or not.
    pub outcome: Outcome,
    /// Why.
    pub because: &'static str,
}

/// How an endpoint fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Chosen, under the seed given.
    Chosen,
    /// In the pool that was chosen from.
    Possible,
    /// Not in it.
    Out,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chosen => "chosen",
            Self::Possible => "possible",
            Self::Out => "out",
        })
    }
}

/// The packet on the wire, before and after, each way.
#[derive(Clone, Debug, Serialize)]
pub struct Wire {
    /// As the client sends it, and as it leaves for the backend.
    pub original: (String, String),
    /// As the backend answers, and as that leaves for the client.
    pub reply: (String, String),
}

/// Explains what becomes of the first packet of this tuple. `seed` decides between equals. `control` is
/// what the rules were compiled from, without which there is no telling why an endpoint was left out. Rules that redirect to
/// a proxy on the node are explained best by the control plane that the proxy follows: its endpoints are those that the proxy
/// may dial.
pub fn explain<M: AsRef<[u8]>>(
    rules: &RuleTable<M>,
    control: Option<&Control>,
    tuple: &Tuple,
    origin: Origin,
    seed: u64,
) -> Explanation {
    // As a routing test has it, whoever has a loopback address is the node (§1).
    let origin = if tuple.source.is_loopback() { Origin::Node } else { origin };
    let (became, flow) = first_packet(rules, tuple, origin, seed);
    let mut decision = rules.decide(tuple, origin);
    // The rules don't look at what a packet is refused for by itself.
    let forged = match became {
        Verdict::Drop(reason) if matches!(decision.fate, Fate::Forward { .. }) => Some(reason),
        _ => None,
    };
    if let Some(reason) = forged {
        decision.fate = Fate::Drop(reason);
    }
    let chosen = flow.map(|flow| (flow.reply.source, flow.reply.source_port));
    let path = decision.service.zip(decision.class).map(|((_, segment), class)| {
        let dialled = (tuple.destination, tuple.destination_port);
        path::path(&segment, rules.node().as_ref(), class, dialled, chosen)
    });
    let redirects = rules.node().is_some_and(|node| node.redirects());
    let segment = decision.service.map(|(_, segment)| segment);
    let resolved = segment.zip(control).and_then(|(segment, control)| resolved(&segment, control));
    let endpoints = match (&resolved, &segment) {
        (Some(resolved), _) => endpoints(resolved, &decision, chosen),
        (None, Some(segment)) => compiled_endpoints(segment, &decision, chosen),
        (None, None) => Vec::new(),
    };
    Explanation {
        packet: tuple.to_string(),
        node: control.map(|control| control.node().name.to_string()),
        mode: control.map(|control| control.node().proxy.mode.name),
        verdict: if redirects && flow.is_some() { "punt" } else { verdict(&decision, flow.as_ref()) },
        path,
        service: segment.map(|segment| String::from_utf8_lossy(segment.label()).into_owned()),
        source: source_word(decision.source.kind),
        because: forged.map_or_else(|| because(&decision, redirects), |reason| reason.explanation().to_owned()),
        masquerade: flow.map(|flow| if redirects { proxied() } else { masquerade(&decision, &flow) }),
        endpoints,
        wire: flow.map(|flow| Wire {
            original: (flow.original.to_string(), flow.leaves().to_string()),
            reply: (flow.answer().to_string(), flow.original.reversed().to_string()),
        }),
    }
}

/// What the segment was compiled from.
fn resolved(segment: &Segment<'_>, control: &Control) -> Option<Resolved> {
    let label = String::from_utf8_lossy(segment.label());
    // `namespace/name` ends at the port's colon, or at the protocol's slash where the port has no name.
    let end = label.find(':').or_else(|| label.rfind('/'))?;
    let ports = control.resolve(label.get(..end)?);
    ports.into_iter().find(|port| port.label() == label && port.family == segment.family())
}

/// What becomes of the packet in an engine without flows, and the one that it begins.
fn first_packet<M: AsRef<[u8]>>(
    rules: &RuleTable<M>,
    tuple: &Tuple,
    origin: Origin,
    seed: u64,
) -> (Verdict, Option<Flow>) {
    let sizes = Sizes { v4_flows: 1, v6_flows: 1, services: 1, affinity: 0, backends: 0, fragments: 0 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let Ok(mut balancer) = Balancer::new(Config::new([0; 16], seed), sizes, &mut memory, rules.view()) else {
        return (Verdict::Pass, None);
    };
    let mut bytes = dialled::packet(tuple);
    let meta = Meta { link: Link::Ip, origin, ..Meta::default() };
    let verdict = balancer.process(Instant::ORIGIN, &mut Packet::new(&mut bytes, meta));
    let flow = match verdict {
        Verdict::Forward { flow, .. } => balancer.flow(flow),
        _ => None,
    };
    (verdict, flow)
}

fn verdict(decision: &Decision<'_>, flow: Option<&Flow>) -> &'static str {
    match decision.fate {
        Fate::Pass => "pass",
        Fate::Accept => "accept",
        Fate::Punt => "punt",
        Fate::Drop(_) => "drop",
        Fate::Reject(_) => "reject",
        Fate::Forward { .. } if flow.is_some() => "forward",
        Fate::Forward { .. } => "drop",
    }
}

pub(crate) fn source_word(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Node => "node",
        SourceKind::Pod => "pod",
        SourceKind::Outside => "outside",
        SourceKind::NodeAsPod => "node, by a pod's address",
    }
}

fn class_word(class: VipClass) -> &'static str {
    match class {
        VipClass::ClusterIp => "ClusterIP",
        VipClass::ExternalIp => "external IP",
        VipClass::LoadBalancer => "load balancer IP",
        VipClass::NodePort => "NodePort",
    }
}

const TO_PROXY: &str = ": to the service's proxy on the node, which dials any ready endpoint (§14.5)";

/// The rule that decided; `redirects` as the node's rules have it.
pub(crate) fn because(decision: &Decision<'_>, redirects: bool) -> String {
    let Some(((_, segment), class)) = decision.service.zip(decision.class) else {
        return match decision.fate {
            Fate::Drop(reason) => reason.explanation().to_owned(),
            Fate::Reject(reason) => reason.explanation().to_owned(),
            Fate::Accept => {
                "the node answers itself: a health check (§10.5), or a ping of a service's address (§14.3)".to_owned()
            }
            _ => "no service has this address, port and protocol (§6.1, §6.6)".to_owned(),
        };
    };
    let policy = if class == VipClass::ClusterIp { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
    let value = if segment.is_local(class) { "Local" } else { "Cluster" };
    let mut text = match segment.keeps_destination(class) {
        true => format!("{} with preserve-destination (§14.4)", class_word(class)),
        false => format!("{} with {policy} {value}", class_word(class)),
    };
    // Writing to a string can't fail.
    let _ = match decision.fate {
        Fate::Forward { .. } if redirects => text.write_str(TO_PROXY),
        Fate::Forward { .. } if decision.short_circuit => {
            write!(text, ", set aside for traffic from inside: any endpoint of the cluster (§7.4)")
        }
        Fate::Forward { pool: Pool::Cluster, .. } => write!(text, ": any endpoint of the cluster (§6.3)"),
        Fate::Forward { pool: Pool::Local, .. } => write!(text, ": endpoints on this node only (§6.3)"),
        Fate::Drop(DropReason::SourceRange) => {
            let ranges: Vec<String> = segment.ranges().map(|range| range.to_string()).collect();
            write!(text, ": the source is not in loadBalancerSourceRanges {} (§8.6)", ranges.join(", "))
        }
        Fate::Drop(_) => write!(text, ": there are endpoints, but none of use on this node (§6.4)"),
        Fate::Reject(RejectReason::NoEndpoints) => write!(text, ": no usable endpoint in the whole cluster (§6.4)"),
        Fate::Reject(reason) => write!(text, ": {}", reason.explanation()),
        Fate::Pass => write!(text, ": no endpoint, and this mode leaves such a packet alone (§6.8, §14.4)"),
        Fate::Accept => write!(text, ": answered by the node itself"),
        Fate::Punt => text.write_str(TO_PROXY),
    };
    text
}

/// The proxy sees its client, and its endpoint sees the node.
fn proxied() -> Masquerade {
    let because = "the packet reaches the proxy as it came; the proxy dials in the node's own name (§14.5)";
    Masquerade { masquerade: false, because: because.to_owned() }
}

/// Why the source is replaced or kept (§8.1).
fn masquerade(decision: &Decision<'_>, flow: &Flow) -> Masquerade {
    let external = decision.class.is_some_and(|class| class != VipClass::ClusterIp);
    let local = decision.service.zip(decision.class).is_some_and(|((_, segment), class)| segment.is_local(class));
    let wanted = matches!(decision.fate, Fate::Forward { masquerade: true, .. });
    if flow.direct {
        let because = "preserve-destination leaves the packet as it is (§14.4)".to_owned();
        return Masquerade { masquerade: false, because };
    }
    let because = match (flow.masqueraded, wanted, external, local, decision.source.kind) {
        (true, false, ..) => "hairpin: the client is its own backend (§8.2)",
        (true, _, true, false, _) => "external traffic with externalTrafficPolicy Cluster always is (§8.1)",
        (true, _, true, true, _) => "the node's own traffic takes the short circuit (§7.4, §8.1)",
        (true, _, false, _, SourceKind::Pod | SourceKind::NodeAsPod) => {
            "all traffic to ClusterIPs is (--masquerade-all, §8.1)"
        }
        (true, _, false, ..) => "the source of traffic to the ClusterIP is no pod (§8.1)",
        (false, _, true, _, SourceKind::Pod | SourceKind::NodeAsPod) => {
            "a pod's address is kept on the short circuit (§7.4)"
        }
        (false, _, true, ..) => "externalTrafficPolicy Local keeps the client's address (§7.3)",
        (false, _, false, _, SourceKind::Pod | SourceKind::NodeAsPod) => {
            "a pod's traffic to the ClusterIP is not (§8.1)"
        }
        (false, _, false, ..) => "no local detector tells pods from others, so traffic to the ClusterIP is not (§8.1)",
    };
    Masquerade { masquerade: flow.masqueraded, because: because.to_owned() }
}

fn endpoints(resolved: &Resolved, decision: &Decision<'_>, chosen: Option<(lb_core::Address, u16)>) -> Vec<Endpoint> {
    let pool = match decision.fate {
        Fate::Forward { pool, .. } => Some(pool),
        Fate::Punt => Some(Pool::Cluster),
        _ => None,
    };
    let endpoint = |candidate: &Candidate| {
        // Where nothing is chosen from, the pool that would have been tells the most.
        let local = decision.service.zip(decision.class).is_some_and(|((_, segment), class)| segment.is_local(class));
        let standing = candidate.standing(pool.unwrap_or(if local { Pool::Local } else { Pool::Cluster }));
        let outcome = match standing.is_in() && pool.is_some() {
            true if chosen == Some((candidate.address, candidate.port)) => Outcome::Chosen,
            true => Outcome::Possible,
            false => Outcome::Out,
        };
        Endpoint {
            address: socket(candidate.address, candidate.port),
            node: candidate.node.as_ref().map(ToString::to_string),
            outcome,
            because: standing_words(standing),
        }
    };
    resolved.candidates.iter().map(endpoint).collect()
}

/// The endpoints that an image has: those that can be chosen, or keep what they have.
fn compiled_endpoints(
    segment: &Segment<'_>,
    decision: &Decision<'_>,
    chosen: Option<(lb_core::Address, u16)>,
) -> Vec<Endpoint> {
    let members: Vec<_> = match decision.fate {
        Fate::Forward { pool, .. } => segment.pool(pool).collect(),
        Fate::Punt => segment.pool(Pool::Cluster).collect(),
        _ => Vec::new(),
    };
    let backends = (0..segment.backends()).filter_map(|number| segment.backend(number));
    let endpoint = |backend: Backend| {
        let (outcome, because) = match members.contains(&backend) {
            true if chosen == Some((backend.address, backend.port)) => (Outcome::Chosen, "in the pool"),
            true => (Outcome::Possible, "in the pool"),
            false => (Outcome::Out, "not in the pool; the objects would tell why"),
        };
        Endpoint { address: socket(backend.address, backend.port), node: None, outcome, because }
    };
    backends.map(endpoint).collect()
}

/// What a standing means, in words.
pub fn standing_words(standing: Standing) -> &'static str {
    match standing {
        Standing::Member => "ready",
        Standing::LastResort => "terminating but serving, and no endpoint is ready (§5.2, §5.3)",
        Standing::Unused => "this list of endpoints is not in use (§5.1)",
        Standing::NotReady => "not ready, nor serving while it terminates (§5.6)",
        Standing::Terminating => "terminating, and others are ready (§5.2)",
        Standing::OtherNode => "hinted for other nodes (§5.4)",
        Standing::OtherZone => "hinted for other zones (§5.4)",
        Standing::Remote => "not on this node (§5.3)",
    }
}
