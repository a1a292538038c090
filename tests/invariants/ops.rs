//! A life of a balancer as bytes, five to an operation: packets, changes of the rules, leaps of time, sweeps, flows that come
//! back from elsewhere or are ended. All invariants are checked after each.

use std::sync::LazyLock;

use lb_core::control::{Control, Mode, Service};
use lb_core::flow::State;
use lb_core::pick::Scheduler;
use lb_core::rules::Room;
use lb_core::{
    Address, Block, Checksum, Config, Flow, Instant, Link, Meta, Origin, Protocol, RuleTable, Sizes, Tuple, Verdict,
    blocks,
};

use super::cluster::{cluster, ip, slice};
use super::invariants::Watch;
use super::packets::{Part, Spec};

/// Nanoseconds.
const YEAR: u64 = 365 * 86_400 * 1_000_000_000;

/// Octets of an operation.
pub const OPERATION: usize = 5;

/// So few that a handful of packets fills it.
const SIZES: Sizes = Sizes { v4_flows: 6, v6_flows: 5, services: 64, affinity: 4, backends: 8, fragments: 3 };
const ROOM: Room = Room { services: 64, vips: 192, segments: 1 << 17 };

/// Who sends, and to whom: pods of here and of elsewhere, the node, outsiders in a source range and not, Vips of each class,
/// and those that nobody should send from.
const CLIENTS: [(&str, &str); 8] = [
    ("10.244.0.2", "2001:db8:244::2"),
    ("10.244.1.3", "2001:db8:244:1::3"),
    ("192.0.2.1", "2001:db8:1::1"),
    ("198.51.100.7", "2001:db8:7::7"),
    ("198.51.100.77", "2001:db8:8::7"),
    ("203.0.113.10", "2001:db8:10::10"),
    ("127.0.0.1", "::1"),
    ("224.0.0.1", "ff02::1"),
];
const DIALLED: [(&str, &str); 12] = [
    ("10.96.0.10", "2001:db8:96::a"),
    ("10.96.0.11", "2001:db8:96::b"),
    ("10.96.0.12", "2001:db8:96::c"),
    ("10.96.0.13", "2001:db8:96::d"),
    ("10.96.0.99", "2001:db8:96::99"),
    ("203.0.113.10", "2001:db8:10::10"),
    ("203.0.113.30", "2001:db8:10::30"),
    ("203.0.113.40", "2001:db8:10::40"),
    ("192.0.2.1", "2001:db8:1::1"),
    ("127.0.0.1", "::1"),
    ("10.244.0.2", "2001:db8:244::2"),
    ("255.255.255.255", "ff02::1"),
];
const PORTS: [u16; 8] = [8081, 53, 30_080, 30_081, 30_082, 30_090, 80, 8080];

/// The addresses as the engine knows them: parsed once.
static ENDS: LazyLock<[Vec<[Address; 2]>; 2]> = LazyLock::new(|| {
    let both = |(v4, v6): &(&str, &str)| [ip(v4), ip(v6)];
    [CLIENTS.iter().map(both).collect(), DIALLED.iter().map(both).collect()]
});

/// Modes, each with a scheduler of its own.
const KINDS: [(Mode, Scheduler); 4] = [
    (Mode::IPTABLES, Scheduler::Random),
    (Mode::NFTABLES, Scheduler::Maglev),
    (Mode::IPVS, Scheduler::LeastConnections),
    (Mode::NFTABLES, Scheduler::RoundRobin),
];

static TABLES: LazyLock<[RuleTable<Vec<u8>>; 4]> = LazyLock::new(|| {
    KINDS.map(|(mode, scheduler)| {
        let image = cluster(mode, scheduler).image().expect("a small cluster compiles");
        let mut table = RuleTable::with_room(vec![0; ROOM.bytes()], ROOM).expect("memory as it asks for");
        table.apply(&image).expect("its own image");
        table
    })
});

/// A control plane that has handed out all it knows.
fn control(number: u8) -> Control {
    let (mode, scheduler) = KINDS[usize::from(number) % KINDS.len()];
    let mut control = cluster(mode, scheduler);
    control.delta(&mut Vec::new()).expect("a small cluster compiles");
    control
}

fn table(number: u8) -> &'static RuleTable<Vec<u8>> {
    &TABLES[usize::from(number) % TABLES.len()]
}

/// Lives this life: a byte for the mode, then operations. What is wrong panics.
pub fn run(input: &[u8]) {
    let Some((&mode, operations)) = input.split_first() else { return };
    let mut memories = [(); 2].map(|()| vec![Block::ZERO; blocks(SIZES)]);
    let [one, other] = &mut memories;
    let watch = Watch::new(&Config::new([7; 16], 7), SIZES, [one, other], table(mode).clone());
    let mut life = Life {
        watch,
        control: None,
        mode,
        now: 0,
        swept: 0,
        batch: Vec::new(),
        room: 1,
        bent: None,
        saved: Vec::new(),
    };
    for operation in operations.chunks_exact(OPERATION).take(100) {
        let [what, a, b, c, d] = *operation else { continue };
        life.step(what, [a, b, c, d]);
    }
    life.flush();
}

struct Life<'m> {
    watch: Watch<'m, Vec<u8>>,
    mode: u8,
    /// Made when the first change comes.
    control: Option<Control>,
    /// Nanoseconds.
    now: u64,
    /// When all flows were last looked at for their deadline.
    swept: u64,
    /// Packets that go in together once there are as many as there is room for.
    batch: Vec<(Vec<u8>, Meta)>,
    room: usize,
    /// Where an octet of the next packet is changed, and by what.
    bent: Option<(u8, u8)>,
    saved: Vec<Flow>,
}

impl Life<'_> {
    fn step(&mut self, what: u8, [a, b, c, d]: [u8; 4]) {
        match what % 32 {
            0..=9 => self.send(Spec::new(dialled(a, b, c, d), flags(c)), c, d),
            10..=15 => {
                if let Some(tuple) = self.known(a, b) {
                    self.send(Spec::new(tuple, flags(c)), c, d);
                }
            }
            16 | 17 => {
                let tuple = if a & 1 == 0 { self.known(a >> 1, b) } else { Some(dialled(a >> 1, b, c, d)) };
                if let Some(tuple) = tuple {
                    let start = usize::from(c & 3) * 8;
                    let part =
                        Part { start, end: start + 8 + usize::from(c >> 6) * 8, identification: (c >> 4 & 3).into() };
                    let part = Spec { payload: 40, ..Spec::new(tuple, 2) }.part(part);
                    part.into_iter().for_each(|packet| self.push(packet, d));
                }
            }
            18 | 19 => {
                if let Some(tuple) = if c & 1 == 0 { self.known(a, b) } else { Some(dialled(a, b, c, d).reversed()) } {
                    let router = if tuple.source.is_v4() { "203.0.113.1" } else { "2001:db8:c::1" };
                    // About what reached whoever is at the other end.
                    let about = Spec::new(tuple.reversed(), 16);
                    self.push(about.time_exceeded(ip(router), 8 + usize::from(c >> 1) % 64), d);
                }
            }
            20 => self.bent = Some((a, b)),
            21..=24 => {
                self.flush();
                let leap = (1u64 << (a % 56)) - 1;
                let back = || self.now.saturating_sub(leap).max(self.swept.saturating_sub(YEAR));
                self.now = if b < 240 { self.now.saturating_add(leap) } else { back() };
                // As `Balancer::expire` asks for.
                if self.now > self.swept.saturating_add(YEAR) {
                    self.swept = self.now;
                    self.watch.expire(Instant::from_nanos(self.now), usize::MAX);
                    self.watch.check();
                }
            }
            25 => {
                self.flush();
                let budget = if a < 128 { usize::from(a) } else { usize::MAX };
                self.watch.expire(Instant::from_nanos(self.now), budget);
                self.watch.check();
            }
            26 | 27 => self.change(a, b),
            28 => {
                self.flush();
                (self.mode, self.control) = (a, None);
                self.watch.swap(table(a));
            }
            29 => {
                self.flush();
                self.saved.extend(self.watch.forget());
            }
            30 => self.restore(a, [b, c, d]),
            _ => self.room = 1 + usize::from(a % 40),
        }
    }

    /// The tuple that one side of a flow sends by.
    fn known(&mut self, number: u8, side: u8) -> Option<Tuple> {
        self.flush();
        let flows: Vec<Flow> = self.watch.balancer().flows().collect();
        let flow = flows.get(usize::from(number).checked_rem(flows.len())?)?;
        Some(if side & 1 == 0 { flow.original } else { flow.answer() })
    }

    fn send(&mut self, spec: Spec, c: u8, d: u8) {
        self.push(Spec { checksum: c & 0x40 == 0, payload: usize::from(c >> 7) * 31, ..spec }.packet(), d);
    }

    fn push(&mut self, mut packet: Vec<u8>, how: u8) {
        if let Some((at, change)) = self.bent.take() {
            let at = usize::from(at) % packet.len();
            packet[at] ^= change;
        }
        let link = if how & 1 == 0 { Link::Ip } else { Link::Ethernet };
        if link == Link::Ethernet {
            let version: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
            packet = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &version[..], &packet].concat();
        }
        let meta = Meta {
            link,
            checksum: [Checksum::Complete, Checksum::Complete, Checksum::Partial, Checksum::Absent]
                [usize::from(how >> 2 & 3)],
            origin: [Origin::Wire, Origin::Wire, Origin::Pod, Origin::Node][usize::from(how >> 4 & 3)],
            zone: u16::from(how >> 7),
        };
        self.batch.push((packet, meta));
        if self.batch.len() >= self.room {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return;
        }
        let judged = self.watch.process(Instant::from_nanos(self.now), &batch);
        for (verdict, ..) in judged {
            if let Verdict::Forward { flow, .. } = verdict {
                self.saved.extend(self.watch.balancer().flow(flow).filter(|_| self.saved.len() < 8));
            }
        }
        self.watch.check();
    }

    /// Other endpoints, another service, another policy.
    fn change(&mut self, which: u8, endpoints: u8) {
        self.flush();
        let names = ["all/kinds", "local/only", "local/none-here", "no/endpoints"];
        let name = names[usize::from(which) % names.len()];
        let objects = self.control.get_or_insert_with(|| control(self.mode));
        let pods: Vec<(u8, bool)> =
            (0..6u8).filter(|n| endpoints >> n & 1 != 0).map(|n| (n + 2, endpoints >> (6 + n % 2) & 1 == 0)).collect();
        match which >> 2 & 7 {
            0 => objects.remove_service(&name.into()),
            1 => {
                let fresh = cluster(Mode::IPTABLES, Scheduler::Random);
                let service = fresh.services().find(|service| &*service.name == name).expect("one of its services");
                let affinity = (endpoints & 1 != 0).then_some(10);
                objects.put_service(Service { affinity, ..service.clone() });
            }
            _ => objects.put_slice(slice(name, &pods)),
        }
        let mut delta = Vec::new();
        if objects.delta(&mut delta).expect("a small cluster compiles") {
            self.watch.apply(&delta).expect("there is room");
        }
        self.watch.check();
    }

    /// A flow of before, or one made up, with tuples that may be taken.
    fn restore(&mut self, number: u8, [b, c, d]: [u8; 3]) {
        self.flush();
        let saved = self.saved.get(usize::from(number)).copied();
        let flow = match saved.filter(|saved| saved.deadline.as_nanos().abs_diff(self.now) < YEAR) {
            Some(saved) => saved,
            None => {
                let original = dialled(number, b, c, d);
                let reply = Tuple { destination_port: original.source_port ^ u16::from(c >> 6), ..original.reversed() };
                let state = [State::Established, State::Stream, State::SynSent, State::Close][usize::from(d >> 1 & 3)];
                let deadline = Instant::from_nanos(self.now.saturating_add(u64::from(b) << 30));
                Flow { original, reply, state, deadline, masqueraded: false, direct: false, packets: [0; 2], slot: 0 }
            }
        };
        let _ = self.watch.restore(&flow);
        self.watch.check();
    }
}

/// A tuple of a client and something that may be dialled.
fn dialled(a: u8, b: u8, c: u8, d: u8) -> Tuple {
    let family = usize::from(d >> 1 & 1);
    let [clients, vips] = &*ENDS;
    let end = |ends: &[[Address; 2]], n: u8| ends[usize::from(n) % ends.len()][family];
    Tuple {
        source: end(clients, a & 7),
        destination: end(vips, b & 15),
        source_port: 40_000 + u16::from(a >> 3),
        destination_port: PORTS[usize::from(b >> 4) % PORTS.len()],
        protocol: [Protocol::TCP, Protocol::UDP, Protocol::TCP, Protocol::SCTP][usize::from(c & 3)],
        zone: u16::from(d >> 7),
    }
}

/// TCP: SYN, SYN+ACK, ACK, FIN, RST, as the bits of `c` have it.
fn flags(c: u8) -> u8 {
    [0x02, 0x12, 0x10, 0x11, 0x04, 0x14, 0x01, 0x00][usize::from(c >> 2 & 7)]
}
