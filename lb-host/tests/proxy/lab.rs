//! A client, a node with a proxy and an engine, and endpoints, joined in memory: every packet takes half a millisecond to the
//! node and as long onwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lb_core::control::*;
use lb_core::wire::{Content, parse};
use lb_core::*;
use lb_host::chance::Chance;
use lb_host::host::{ConnectionId, Host, ListenerId, Socket, UdpId};
use lb_host::proxy::{Key, Options, Proxy, Redirect};

pub(crate) const DELAY: Duration = Duration::from_micros(500);

/// Addresses of one family.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) client: Address,
    pub(crate) other: Address,
    pub(crate) node: Address,
    pub(crate) cluster_ip: Address,
    pub(crate) external_ip: Address,
    pub(crate) lb_ip: Address,
    pod: Address,
}

pub(crate) const V4: Plan = Plan {
    client: Address::v4([198, 18, 0, 9]),
    other: Address::v4([198, 18, 0, 10]),
    node: Address::v4([192, 0, 2, 1]),
    cluster_ip: Address::v4([10, 96, 0, 10]),
    external_ip: Address::v4([198, 51, 100, 10]),
    lb_ip: Address::v4([203, 0, 113, 10]),
    pod: Address::v4([10, 244, 0, 0]),
};

const V6_BASE: u128 = 0x2001_0db8 << 96;

pub(crate) const V6: Plan = Plan {
    client: Address::from_bits(V6_BASE | 9),
    other: Address::from_bits(V6_BASE | 10),
    node: Address::from_bits(V6_BASE | 1 << 64 | 1),
    cluster_ip: Address::from_bits(0xfd00 << 112 | 10),
    external_ip: Address::from_bits(V6_BASE | 2 << 64 | 10),
    lb_ip: Address::from_bits(V6_BASE | 3 << 64 | 10),
    pod: Address::from_bits(0xfd01 << 112),
};

impl Plan {
    /// The endpoint of this number.
    pub(crate) fn pod(&self, number: u8) -> Address {
        match self.pod.is_v4() {
            true => Address::v4([10, 244, 0, number]),
            false => Address::from_bits(self.pod.bits() | u128::from(number)),
        }
    }
}

pub(crate) const PORT: u16 = 8080;
pub(crate) const NODE_PORT: u16 = 30_080;

/// A service on port 80 with all sorts of addresses and policies that userspace mode does not know.
pub(crate) fn service(name: &str, protocol: Protocol, affinity: Option<u32>) -> Service {
    Service {
        name: name.into(),
        cluster_ips: vec![V4.cluster_ip, V6.cluster_ip],
        external_ips: vec![V4.external_ip, V6.external_ip],
        load_balancer_ips: vec![V4.lb_ip, V6.lb_ip],
        source_ranges: vec![
            Prefix::new(Address::v4([192, 168, 0, 0]), 16),
            Prefix::new(Address::from_bits(0xfd77 << 112), 16),
        ],
        internal_policy: TrafficPolicy::Local,
        external_policy: TrafficPolicy::Local,
        affinity,
        preserve_destination: false,
        health_check_port: None,
        ports: vec![ServicePort { name: "".into(), protocol, port: 80, node_port: Some(NODE_PORT) }],
    }
}

fn node() -> Node {
    Node {
        name: "worker-1".into(),
        zone: None,
        addresses: vec![V4.node, V6.node],
        proxy: lb_core::control::Proxy {
            mode: Mode::USERSPACE,
            scheduler: Mode::USERSPACE.scheduler,
            detector: Detector::None,
            masquerade_all: true,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: false,
            service_cidrs: Vec::new(),
            empty_udp: EmptyUdp::Keep,
            reserved_ports: (30_000, 32_767),
            masquerade: Vec::new(),
            key: [7; 16],
        },
    }
}

/// What an endpoint does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Says its number in one byte, then all that it hears; closes when the other side has.
    Echo,
    /// Accepts; the test does the rest.
    Wait,
    /// Listens on nothing.
    Refuse,
    /// Its packets are lost.
    Silent,
}

pub(crate) struct Pod {
    pub(crate) host: Host,
    program: Program,
    listener: Option<ListenerId>,
    udp: Option<UdpId>,
    pub(crate) accepted: Vec<ConnectionId>,
    /// What is to be sent back on each.
    owed: BTreeMap<ConnectionId, Vec<u8>>,
    /// Who has sent datagrams.
    pub(crate) heard: Vec<Socket>,
}

pub(crate) struct Lab {
    pub(crate) now: Instant,
    pub(crate) client: Host,
    pub(crate) node: Host,
    pub(crate) proxy: Proxy,
    pub(crate) control: Control,
    pub(crate) redirect: Redirect,
    pub(crate) engine: Balancer<'static, Vec<u8>>,
    pub(crate) pods: BTreeMap<u8, Pod>,
    pub(crate) plan: Plan,
    /// Packets on their way: when they arrive, whether at the node first, and in which order they left.
    flying: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    sent: u64,
    pub(crate) loss: u32,
    chance: Chance,
    /// When the node began to connect, and where.
    pub(crate) dialled: Vec<(Instant, Address)>,
    tried: BTreeSet<Tuple>,
}

impl Lab {
    pub(crate) fn new(plan: Plan, options: Options) -> Self {
        let sizes = Sizes { v4_flows: 256, v6_flows: 256, services: 16, affinity: 16, backends: 64, fragments: 16 };
        let room = lb_core::rules::Room { services: 16, vips: 64, segments: 1 << 16 };
        let rules = RuleTable::with_room(vec![0; room.bytes()], room).unwrap();
        let memory = vec![Block::ZERO; blocks(sizes)].leak();
        let mut lab = Self {
            now: Instant::ORIGIN,
            client: Host::new(&[V4.client, V6.client, V4.other, V6.other], 1),
            node: Host::new(&[V4.node, V6.node], 2),
            proxy: Proxy::new(options),
            control: Control::new(node()),
            redirect: Redirect::new(&node()),
            engine: Balancer::new(Config::new(*b"a key for tests.", 7), sizes, memory, rules).unwrap(),
            pods: BTreeMap::new(),
            plan,
            flying: BTreeMap::new(),
            sent: 0,
            loss: 0,
            chance: Chance::new(9),
            dialled: Vec::new(),
            tried: BTreeSet::new(),
        };
        lab.settle();
        lab
    }

    /// A lab whose service `shop/web` has these endpoints.
    pub(crate) fn with(
        plan: Plan,
        seed: u64,
        protocol: Protocol,
        affinity: Option<u32>,
        pods: &[(u8, Program)],
    ) -> Self {
        let mut lab = Self::new(plan, Options::new(seed));
        pods.iter().for_each(|(number, program)| lab.start(*number, *program));
        let numbers: Vec<u8> = pods.iter().map(|(number, _)| *number).collect();
        lab.put(service("shop/web", protocol, affinity), &numbers);
        lab
    }

    pub(crate) fn start(&mut self, number: u8, program: Program) {
        let mut host = Host::new(&[V4.pod(number), V6.pod(number)], 100 + u64::from(number));
        let serves = program != Program::Refuse;
        let listener = serves.then(|| host.listen(None, PORT).unwrap());
        let udp = serves.then(|| host.bind(None, PORT).unwrap());
        let (accepted, owed, heard) = (Vec::new(), BTreeMap::new(), Vec::new());
        self.pods.insert(number, Pod { host, program, listener, udp, accepted, owed, heard });
    }

    pub(crate) fn put(&mut self, service: Service, pods: &[u8]) {
        for plan in [V4, V6] {
            let endpoint = |number: &u8| Endpoint {
                address: plan.pod(*number),
                ready: true,
                serving: true,
                terminating: false,
                node: Some("worker-2".into()),
                zone_hints: Vec::new(),
                node_hints: Vec::new(),
            };
            self.control.put_slice(Slice {
                name: format!("{}-{}", service.name, plan.client.is_v4()).into(),
                service: service.name.clone(),
                ports: service
                    .ports
                    .iter()
                    .map(|port| SlicePort { name: port.name.clone(), protocol: port.protocol, port: PORT })
                    .collect(),
                endpoints: pods.iter().map(endpoint).collect(),
            });
        }
        self.control.put_service(service);
        self.settle();
    }

    /// As a node does when objects have changed.
    pub(crate) fn settle(&mut self) {
        self.proxy.sync(self.now, &mut self.node, &self.control);
        let mut delta = Vec::new();
        if self.redirect.delta(&self.control, &self.proxy, &mut delta).unwrap() {
            self.engine.apply_rules(&delta).unwrap();
        }
    }

    /// Where the proxy waits for the only port of a service.
    pub(crate) fn proxy_port(&self, service: &str) -> Option<Socket> {
        let family = self.plan.node.family();
        let of = |key: &Key| &*key.service == service && key.family == family;
        self.proxy.ports().find(|(key, _)| of(key)).map(|(_, port)| (self.plan.node, port))
    }

    pub(crate) fn web(&self) -> Socket {
        self.proxy_port("shop/web").unwrap()
    }

    fn fly(&mut self, to_node: bool, packet: Vec<u8>) {
        if !self.chance.in_a_million(self.loss) {
            self.flying.insert((self.now.saturating_add(DELAY), self.sent), (to_node, packet));
            self.sent += 1;
        }
    }

    /// The engine on the node's path.
    fn judge(&mut self, origin: Origin, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let mut judged = Packet::new(&mut packet, Meta { link: Link::Ip, origin, ..Meta::default() });
        match self.engine.process(self.now, &mut judged) {
            Verdict::Pass | Verdict::Accept | Verdict::Forward { .. } => Some(packet),
            other => panic!("{other:?}"),
        }
    }

    fn note_dialled(&mut self, packet: &[u8]) {
        let headers = parse(packet, Link::Ip).unwrap().unwrap();
        if let Content::Tcp(flags) = headers.content
            && (flags.syn() && !flags.ack())
            && self.tried.insert(headers.tuple)
        {
            self.dialled.push((self.now, headers.tuple.destination));
        }
    }

    fn arrive(&mut self, at_node: bool, packet: Vec<u8>) {
        let packet = if at_node { self.judge(Origin::Wire, packet) } else { Some(packet) };
        let Some(packet) = packet else { return };
        let to = parse(&packet, Link::Ip).unwrap().unwrap().tuple.destination;
        if self.node.addresses().contains(&to) {
            self.node.receive(self.now, packet);
        } else if at_node {
            self.fly(false, packet);
        } else if self.client.addresses().contains(&to) {
            self.client.receive(self.now, packet);
        } else if let Some(pod) = self.pods.values_mut().find(|pod| pod.host.addresses().contains(&to)) {
            if pod.program != Program::Silent {
                pod.host.receive(self.now, packet);
            }
        } else {
            panic!("a packet to {to}");
        }
    }

    /// Everybody does what is to be done now.
    fn turn(&mut self) {
        for packet in self.client.poll(self.now) {
            self.fly(true, packet);
        }
        let mut sent = Vec::new();
        for (number, pod) in &mut self.pods {
            pod.run(*number);
            sent.extend(pod.host.poll(self.now));
        }
        sent.into_iter().for_each(|packet| self.fly(true, packet));
        self.proxy.poll(self.now, &mut self.node);
        for packet in self.node.poll(self.now) {
            self.note_dialled(&packet);
            let judged = self.judge(Origin::Node, packet);
            judged.into_iter().for_each(|packet| self.fly(false, packet));
        }
    }

    /// Goes on to the next thing that happens, if that is not after `limit`.
    pub(crate) fn step(&mut self, limit: Instant) -> bool {
        self.turn();
        let now = self.now;
        let hosts =
            [&mut self.client, &mut self.node].into_iter().chain(self.pods.values_mut().map(|pod| &mut pod.host));
        let deadlines = hosts.filter_map(|host| host.next_deadline(now)).min();
        let flying = self.flying.keys().next().map(|(at, _)| *at);
        let next = [deadlines, flying, self.proxy.next_deadline()].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= limit) else { return false };
        self.now = next.max(now);
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= next) {
            let (at_node, packet) = entry.remove();
            self.arrive(at_node, packet);
        }
        true
    }

    pub(crate) fn run_until(&mut self, time: Instant) {
        while self.step(time) {}
        self.now = time;
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now.saturating_add(duration));
    }

    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let limit = self.now.saturating_add(Duration::from_secs(600));
        while !holds(self) {
            let goes_on = self.step(limit);
            assert!(goes_on || holds(self), "{what}: not by {:?}", self.now);
        }
    }

    /// Connects, and waits until that has succeeded.
    pub(crate) fn connect(&mut self, from: Address, to: Socket) -> ConnectionId {
        let id = self.client.connect(self.now, Some((from, 0)), to).unwrap();
        self.until("connected", |lab| lab.client.is_established(id));
        id
    }

    /// The one connection that an endpoint has accepted since it was last asked.
    pub(crate) fn accepted(&mut self, number: u8) -> ConnectionId {
        self.until("accepted", |lab| !lab.pods[&number].accepted.is_empty());
        self.pods.get_mut(&number).unwrap().accepted.pop().unwrap()
    }

    /// The number of the endpoint that a connection reaches; `None` if it is closed instead.
    pub(crate) fn visit(&mut self, from: Address, to: Socket) -> Option<u8> {
        let id = self.connect(from, to);
        let (mut bytes, mut open) = (Vec::new(), true);
        self.until("an answer", |lab| {
            open = lab.client.recv(id, &mut bytes) == Ok(true);
            !open || !bytes.is_empty()
        });
        self.client.release(id);
        bytes.first().copied()
    }

    /// Which endpoints so many connections reach, one after the other.
    pub(crate) fn visits(&mut self, count: usize) -> Vec<u8> {
        let (from, to) = (self.plan.client, self.web());
        (0..count).map(|_| self.visit(from, to).unwrap()).collect()
    }

    /// The number of the endpoint that a datagram reaches.
    pub(crate) fn ask(&mut self, socket: UdpId, from: Address, to: Socket) -> u8 {
        self.client.send_to(socket, Some(from), to, b"?").unwrap();
        let mut answer = None;
        self.until("an answer", |lab| {
            answer = lab.client.recv_from(socket);
            answer.is_some()
        });
        answer.unwrap().payload[0]
    }
}

impl Pod {
    fn run(&mut self, number: u8) {
        let accepted = self.listener.and_then(|listener| self.host.accept(listener));
        match self.program {
            Program::Echo => drop(accepted.map(|id| self.owed.insert(id, vec![number]))),
            _ => self.accepted.extend(accepted),
        }
        let host = &mut self.host;
        self.owed.retain(|id, owed| {
            let open = if owed.len() < 4096 { host.recv(*id, owed) } else { Ok(true) };
            let Ok(sent) = host.send(*id, owed) else {
                host.release(*id);
                return false;
            };
            owed.drain(..sent);
            let over = open != Ok(true) && owed.is_empty();
            if over {
                host.release(*id);
            }
            !over
        });
        while let Some(datagram) = self.udp.and_then(|socket| self.host.recv_from(socket)) {
            self.heard.push(datagram.from);
            let answer = [&[number], datagram.payload.get(1..).unwrap_or_default()].concat();
            let _ = self.host.send_to(self.udp.unwrap(), Some(datagram.to), datagram.from, &answer);
        }
    }
}
