//! A client that knows nothing of Services dials one: its smoltcp interface has a [`Balanced`] device. No root, no thread,
//! no clock: `cargo run --example smoltcp`.
//!
//! ```text
//! client --[Balanced]-- wires --- 10.244.1.2, 10.244.2.2, 10.244.2.3, each saying its name on port 8080
//! ```
//! The rules are those of `lb-core/tests/golden`: 10.96.0.10:80 is these three pods' port 8080, 10.96.0.11:80 nobody's.

mod balanced;

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use balanced::Balanced;
use lb_core::{Balancer, Block, Config, Link, RuleTable, Sizes, blocks};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr};

/// Written by `lb compile`, as firmware would have it.
static RULES: &[u8] = include_bytes!("../../tests/golden/rules.image");

const SIZES: Sizes = Sizes { v4_flows: 64, v6_flows: 64, services: 32, affinity: 0, backends: 16, fragments: 4 };
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 101);
const PODS: [Ipv4Addr; 3] = [Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 2), Ipv4Addr::new(10, 244, 2, 3)];
const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 80);

/// A machine's end of a wire: IP packets in and out.
#[derive(Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Read(Vec<u8>);
struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Read;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Read, Room<'_>)> {
        Some((Read(self.arrived.pop_front()?), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

impl RxToken for Read {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.0.push_back(vec![0; length]);
        write(self.0.back_mut().expect("pushed just now"))
    }
}

/// A machine: an address, a device, and one TCP socket.
struct Machine<D> {
    address: Ipv4Addr,
    device: D,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl<D: Device> Machine<D> {
    fn new(address: Ipv4Addr, mut device: D) -> Self {
        let mut interface = Interface::new(InterfaceConfig::new(HardwareAddress::Ip), &mut device, Instant::ZERO);
        interface.update_ip_addrs(|own| own.push(IpCidr::new(address.into(), 32)).expect("room for one address"));
        // Over bare IP a gateway is only a word: everything goes out on the one wire.
        interface.routes_mut().add_default_ipv4_route(address).expect("room for one route");
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(Socket::new(SocketBuffer::new(vec![0; 1024]), SocketBuffer::new(vec![0; 1024])));
        Self { address, device, interface, sockets, socket }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.device, &mut self.sockets);
    }

    fn dial(&mut self, to: (Ipv4Addr, u16), from: u16) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        socket.abort();
        socket.connect(self.interface.context(), to, from).expect("a closed socket");
    }
}

/// A pod's program: whoever connects is told the pod's name and who they are to it.
fn serve(pod: &mut Machine<Wire>) {
    let name = pod.address;
    let socket = pod.socket();
    match socket.state() {
        // Who closed first would wait for a minute; this port has one socket.
        State::Closed | State::TimeWait => {
            socket.abort();
            socket.listen(8080).expect("a closed socket and a port that is not 0");
        }
        State::Established => {
            let client = socket.remote_endpoint().expect("established");
            socket.send_slice(format!("{name} to {client}").as_bytes()).expect("established");
            socket.close();
        }
        _ => {}
    }
}

/// What the client dials, one connection after the other, from ports that rise; and what each was told.
fn dial(client: &mut Machine<Balanced<'_, Wire>>, pods: &mut [Machine<Wire>], times: u16) -> Vec<String> {
    let mut now = Instant::ZERO;
    let mut told = Vec::new();
    for from in (40_000..).take(times.into()) {
        client.dial(VIP, from);
        let mut text = String::new();
        // Ten seconds of the machines' own time.
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            client.poll(now);
            for pod in &mut *pods {
                let arrived =
                    client.device.device().sent.iter().filter(|packet| packet[16..20] == pod.address.octets());
                pod.device.arrived.extend(arrived.cloned());
                serve(pod);
                pod.poll(now);
                client.device.device().arrived.append(&mut pod.device.sent);
            }
            client.device.device().sent.clear();
            let socket = client.socket();
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), text.push_str(&String::from_utf8_lossy(bytes)))).expect("it can");
            }
            match socket.state() {
                State::CloseWait => socket.close(),
                State::Closed => break,
                _ => {}
            }
        }
        told.push(text);
    }
    told
}

/// The client with its balancer, and the pods.
fn machines(memory: &mut [Block]) -> (Machine<Balanced<'_, Wire>>, Vec<Machine<Wire>>) {
    let rules = RuleTable::load(RULES).expect("what `lb compile` wrote");
    // A key of zeros, so that every run is the same; one that faces the world draws it at random.
    let balancer = Balancer::new(Config::new([0; 16], 0), SIZES, memory, rules).expect("memory of the right size");
    let client = Machine::new(CLIENT, Balanced::new(Wire::default(), Link::Ip, balancer));
    (client, PODS.map(|pod| Machine::new(pod, Wire::default())).into())
}

fn main() {
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let (mut client, mut pods) = machines(&mut memory);
    for told in dial(&mut client, &mut pods, 12) {
        println!("{}:{} is {told}", VIP.0, VIP.1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_connection_is_served_by_a_pod_and_every_pod_serves_some() {
        let mut memory = vec![Block::ZERO; blocks(SIZES)];
        let (mut client, mut pods) = machines(&mut memory);
        let told = dial(&mut client, &mut pods, 48);
        let mut served = BTreeSet::new();
        for (from, told) in (40_000..).zip(&told) {
            // The pod's own words: it was dialled under its own address, by the client's.
            let (name, client) = told.split_once(" to ").unwrap_or_else(|| panic!("port {from} was told {told:?}"));
            assert_eq!(client, format!("{CLIENT}:{from}"));
            served.insert(name.parse().unwrap());
        }
        assert_eq!(served, BTreeSet::from(PODS));
    }

    #[test]
    fn a_vip_that_nobody_serves_refuses_and_sends_nothing() {
        let mut memory = vec![Block::ZERO; blocks(SIZES)];
        let (mut client, _) = machines(&mut memory);
        client.dial((Ipv4Addr::new(10, 96, 0, 11), 80), 40_000);
        client.interface.poll_egress(Instant::ZERO, &mut client.device, &mut client.sockets);
        assert!(client.device.device().sent.is_empty());
        let answer = client.device.receive(Instant::ZERO).unwrap().0.consume(<[u8]>::to_vec);
        // RFC 792: protocol 1, type 3 (unreachable), code 3 (port), from the Vip to the client.
        assert_eq!((answer[9], &answer[12..16], &answer[16..20]), (1, &[10, 96, 0, 11][..], &CLIENT.octets()[..]));
        assert_eq!(answer[20..22], [3, 3]);
    }

    #[test]
    fn a_packet_of_no_service_passes_as_it_is() {
        let mut memory = vec![Block::ZERO; blocks(SIZES)];
        let (mut client, _) = machines(&mut memory);
        client.dial((PODS[0], 8080), 40_000);
        client.interface.poll_egress(Instant::ZERO, &mut client.device, &mut client.sockets);
        let sent = client.device.device().sent.pop_front().unwrap();
        assert_eq!((&sent[16..20], &sent[22..24]), (&PODS[0].octets()[..], &8080u16.to_be_bytes()[..]));
    }
}
