//! What becomes of flows that exist when endpoints go: one service under each side's settings, tried out.

use std::collections::BTreeSet;

use lb_core::control::{Control, Endpoint, Node, Service, ServicePort, Slice, SlicePort, TrafficPolicy};
use lb_core::{
    Address, Balancer, Block, Config, Instant, Link, Meta, Packet, Protocol, RuleTable, Sizes, Tuple, Verdict, blocks,
};
use serde::Serialize;

use super::Side;
use super::reason::chapter;
use crate::dialled;
use crate::listing::protocol_word;

/// A flow that meets another fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Established {
    /// Its protocol.
    pub protocol: &'static str,
    /// What happens.
    pub event: &'static str,
    /// Its fate on the first side.
    pub before: String,
    /// Its fate on the second.
    pub after: String,
    /// The paragraphs that say so.
    pub reason: String,
}

/// What happens to the flow's endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Gone,
    Terminating,
    LastGone,
    ServiceGone,
}

const EVENTS: [(Event, &str); 4] = [
    (Event::Gone, "its endpoint goes, another serves"),
    (Event::Terminating, "its endpoint terminates but still serves, another is ready"),
    (Event::LastGone, "the last endpoint goes"),
    (Event::ServiceGone, "the Service goes"),
];

const VIP: Address = Address::v4([10, 96, 0, 1]);
const EXTERNAL: Address = Address::v4([203, 0, 113, 1]);

/// The events after which the two sides part.
pub(super) fn changes(before: &Side<'_>, after: &Side<'_>) -> Vec<Established> {
    let (Some(old), Some(new)) = (before.node, after.node) else { return Vec::new() };
    if old.proxy == new.proxy {
        return Vec::new();
    }
    let chapters: Vec<_> = [old, new].iter().filter_map(|node| chapter(node.proxy.mode.name)).collect();
    let segments = || before.rules.segments().chain(after.rules.segments()).map(|(_, segment)| segment);
    let used: BTreeSet<Protocol> = segments().map(|segment| segment.protocol()).collect();
    let mut changes = Vec::new();
    let mut compare = |protocol, event, paragraph: &str, tried: [String; 2]| {
        let [before, after] = tried;
        if before != after {
            let reason = format!("{paragraph}; {}", chapters.join(", "));
            changes.push(Established { protocol: protocol_word(protocol), event, before, after, reason });
        }
    };
    for protocol in used {
        let paragraph = if protocol == Protocol::TCP { "§11.2" } else { "§11.5" };
        for (event, words) in EVENTS {
            compare(protocol, words, paragraph, [old, new].map(|node| survives(node, protocol, event)));
        }
    }
    if segments().any(|segment| segment.affinity().is_some()) {
        let words = "its client, remembered at the ClusterIP, dials another address of the service port";
        compare(Protocol::TCP, words, "§7.6", [old, new].map(remembered));
    }
    changes
}

/// What the client's next packet meets.
fn survives(node: &Node, protocol: Protocol, event: Event) -> String {
    let tuple = dial(protocol, VIP, 1);
    let both = [1, 2].map(|host| endpoint(host, true));
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let Some(mut engine) = rules(node, protocol, &both, true).and_then(|rules| engine(rules, &mut memory)) else {
        return "no such rules".to_owned();
    };
    let backend = match send(&mut engine, &tuple) {
        Ok(backend) => backend,
        Err(verdict) => return format!("is none: {verdict}"),
    };
    let left = both.into_iter().filter_map(|one| match event {
        Event::LastGone => None,
        _ if one.address != backend => Some(one),
        Event::Terminating => Some(endpoint(one.address.v4_bits() as u8, false)),
        Event::Gone | Event::ServiceGone => None,
    });
    let left: Vec<_> = left.collect();
    let Some(rules) = rules(node, protocol, &left, event != Event::ServiceGone) else {
        return "no such rules".to_owned();
    };
    engine.swap_rules(rules);
    match send(&mut engine, &tuple) {
        Ok(now) if now == backend => "stays".to_owned(),
        Ok(_) => "chooses anew".to_owned(),
        Err(verdict) => format!("ends: {verdict}"),
    }
}

/// Whether affinity holds for all addresses of a service port: eight clients would not each meet one of 16
/// endpoints twice by chance.
fn remembered(node: &Node) -> String {
    let endpoints: Vec<_> = (1..=16).map(|host| endpoint(host, true)).collect();
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let engine = rules(node, Protocol::TCP, &endpoints, true).and_then(|rules| engine(rules, &mut memory));
    let Some(mut engine) = engine else { return "no such rules".to_owned() };
    let mut same = true;
    for client in 1..=8 {
        let sent = [VIP, EXTERNAL].map(|address| send(&mut engine, &dial(Protocol::TCP, address, client)));
        let [Ok(one), Ok(other)] = &sent else { return "is not tracked".to_owned() };
        same &= one == other;
    }
    if same { "meets the same endpoint" } else { "is a new client there" }.to_owned()
}

fn dial(protocol: Protocol, destination: Address, client: u8) -> Tuple {
    let source = Address::v4([198, 51, 100, client]);
    Tuple { source, destination, source_port: dialled::EPHEMERAL, destination_port: 80, protocol, zone: 0 }
}

fn endpoint(host: u8, ready: bool) -> Endpoint {
    let address = Address::v4([10, 244, 0, host]);
    let (node, zone_hints, node_hints) = (None, Vec::new(), Vec::new());
    Endpoint { address, ready, serving: true, terminating: !ready, node, zone_hints, node_hints }
}

const SIZES: Sizes = Sizes { v4_flows: 64, v6_flows: 1, services: 4, affinity: 64, backends: 64, fragments: 1 };

fn engine(rules: RuleTable<Vec<u8>>, memory: &mut [Block]) -> Option<Balancer<'_, Vec<u8>>> {
    Balancer::new(Config::new([0; 16], 0), SIZES, memory, rules).ok()
}

/// The rules of a node like this one with one service of these endpoints, or with its endpoints alone.
fn rules(node: &Node, protocol: Protocol, endpoints: &[Endpoint], service: bool) -> Option<RuleTable<Vec<u8>>> {
    let addresses = vec![Address::v4([192, 0, 2, 1])];
    let mut control = Control::new(Node { addresses, proxy: node.proxy.clone(), ..node.clone() });
    let name = "";
    if service {
        control.put_service(Service {
            name: "trial/trial".into(),
            cluster_ips: vec![VIP],
            external_ips: vec![EXTERNAL],
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: Some(10_800),
            preserve_destination: false,
            health_check_port: None,
            ports: vec![ServicePort { name: name.into(), protocol, port: 80, node_port: None }],
        });
    }
    control.put_slice(Slice {
        name: "trial/trial".into(),
        service: "trial/trial".into(),
        ports: vec![SlicePort { name: name.into(), protocol, port: 8080 }],
        endpoints: endpoints.to_vec(),
    });
    RuleTable::load(control.image().ok()?).ok()
}

/// The endpoint that a packet goes to, or what else becomes of it.
fn send(engine: &mut Balancer<'_, Vec<u8>>, tuple: &Tuple) -> Result<Address, &'static str> {
    let mut bytes = dialled::packet(tuple);
    let meta = Meta { link: Link::Ip, ..Meta::default() };
    let verdict = engine.process(Instant::ORIGIN, &mut Packet::new(&mut bytes, meta));
    match verdict {
        Verdict::Forward { flow, .. } => engine.flow(flow).map(|flow| flow.reply.source).ok_or("forgotten"),
        other => Err(Verdict::label(other.code()).unwrap_or_default()),
    }
}
