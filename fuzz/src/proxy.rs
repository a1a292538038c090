//! Any packets to the node's proxy of userspace mode: it and the TCP/IP stack below it stay within their limits, what they send
//! is packets, and they come to rest.
//!
//! The input is records of a kind, a pace, a length and a flag, and as many octets: a packet as it is, or one made of them.

use std::sync::LazyLock;

use lb_core::control::{Control, Mode};
use lb_core::pick::Scheduler;
use lb_core::{Address, Instant, Link, Protocol, Tuple, wire};
use lb_host::host::Host;
use lb_host::proxy::{Options, Proxy};

use super::cluster::{cluster, ip};
use super::packets::Spec;

static CONTROL: LazyLock<Control> = LazyLock::new(|| cluster(Mode::USERSPACE, Scheduler::RoundRobin));

const CONNECTIONS: usize = 6;

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let node = ["192.0.2.1", "2001:db8:1::1"].map(ip);
    let mut host = Host::new(&node, 3);
    host.accept_any();
    let options = Options { connections: CONNECTIONS, udp_clients: CONNECTIONS, ..Options::new(5) };
    let mut proxy = Proxy::new(options);
    let mut now = 0u64;
    proxy.sync(Instant::ORIGIN, &mut host, &CONTROL);
    let ports: Vec<(Protocol, u16)> = proxy.ports().map(|(key, port)| (key.protocol, port)).collect();
    let mut heard: Vec<Tuple> = Vec::new();
    let mut records = input;
    while let Some((&[kind, pace, length, flags], rest)) = records.split_first_chunk() {
        let (octets, rest) = rest.split_at(usize::from(length).min(rest.len()));
        records = rest;
        now = now.saturating_add((1 << (pace % 36)) - 1);
        let at = Instant::from_nanos(now);
        let packet = match kind % 4 {
            0 => octets.to_vec(),
            // From somebody to a proxy port.
            1 | 2 => {
                let Some((protocol, port)) = ports.get(usize::from(kind >> 2).checked_rem(ports.len()).unwrap_or(0))
                else {
                    continue;
                };
                let source = Address::v4([198, 51, 100, length]);
                let tuple = Tuple {
                    source,
                    destination: node[0],
                    source_port: 40_000 + u16::from(pace >> 6),
                    destination_port: *port,
                    protocol: *protocol,
                    zone: 0,
                };
                Spec { payload: octets.len(), ..Spec::new(tuple, flags) }.packet()
            }
            // An answer to what it said.
            _ => {
                let Some(tuple) = heard.get(usize::from(kind >> 2).checked_rem(heard.len()).unwrap_or(0)) else {
                    continue;
                };
                if ![Protocol::TCP, Protocol::UDP].contains(&tuple.protocol) {
                    continue;
                }
                Spec { payload: octets.len(), ..Spec::new(tuple.reversed(), flags) }.packet()
            }
        };
        host.receive(at, packet);
        let mut rounds = 0;
        loop {
            proxy.poll(at, &mut host);
            let sent = host.poll(at);
            if sent.is_empty() {
                break;
            }
            for packet in sent {
                let headers = wire::parse(&packet, Link::Ip).expect("well-formed").expect("an IP packet");
                heard.push(headers.tuple);
                heard.truncate(32);
            }
            rounds += 1;
            assert!(rounds < 1_000, "it does not come to rest");
        }
        assert!(proxy.connections() <= CONNECTIONS && proxy.udp_clients() <= CONNECTIONS, "beyond its limits");
    }
    proxy.close(&mut host);
}
