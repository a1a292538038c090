//! The userspace proxy, from outside: a rule of SEMANTICS §14.5 a test, hosts joined in memory.

mod proxy_lab;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lb_core::control::ServicePort;
use lb_core::{Instant, Origin, Protocol, RuleTable, Tuple};
use lb_host::chance::Chance;
use lb_host::explain::{Outcome, explain};
use lb_host::host::Error;
use lb_host::proxy::{Options, Trouble};

use proxy_lab::Program::{Echo, Refuse, Silent, Wait};
use proxy_lab::{DELAY, Lab, NODE_PORT, PORT, Plan, Program, V4, V6, service};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;
const THREE: &[(u8, Program)] = &[(1, Echo), (2, Echo), (3, Echo)];

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut chance = Chance::new(5);
    (0..count.div_ceil(8)).flat_map(|_| chance.draw().to_le_bytes()).take(count).collect()
}

#[test]
fn endpoints_take_turns_in_a_shuffled_order() {
    let mut orders = BTreeMap::new();
    for seed in 0..120 {
        let mut lab = Lab::with(V4, seed, TCP, None, THREE);
        let got = lab.visits(if seed < 6 { 9 } else { 3 });
        assert!(got.iter().enumerate().all(|(turn, endpoint)| *endpoint == got[turn % 3]), "{got:?}");
        assert_eq!(got[..3].iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
        *orders.entry(got[..3].to_vec()).or_insert(0) += 1;
    }
    // Of 120 draws 20 each: 5 is off by more than three and a half deviations.
    assert!(orders.len() == 6 && orders.values().all(|count| *count > 5), "{orders:?}");
}

#[test]
fn the_order_is_new_when_endpoints_change_and_only_then() {
    let mut reshuffled = 0;
    for seed in 0..20 {
        let mut lab = Lab::with(V6, seed, TCP, None, THREE);
        lab.start(4, Echo);
        let first = lab.visits(4);
        // The same endpoints: order and turn go on.
        lab.put(service("shop/web", TCP, None), &[3, 2, 1]);
        assert_eq!(lab.visits(3), [first[1], first[2], first[0]]);
        // Another endpoint: a new order, from its start.
        lab.put(service("shop/web", TCP, None), &[1, 2, 3, 4]);
        let second = lab.visits(8);
        assert_eq!(second[..4], second[4..]);
        assert_eq!(second[..4].iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3, 4]));
        // Back again: the index starts at 0 whatever it was.
        lab.visits(1);
        lab.put(service("shop/web", TCP, None), &[1, 2, 3]);
        let third = lab.visits(6);
        assert_eq!(third[..3], third[3..]);
        reshuffled += usize::from(third[..3] != first[..3]);
    }
    assert!(reshuffled > 8, "{reshuffled} of 20, five in six expected");
}

#[test]
fn a_client_keeps_its_endpoint_for_as_long_as_it_comes_back_in_time() {
    for (plan, affinity, ttl) in [(V4, 100, 100), (V6, 100, 100), (V4, 0, 10_800), (V4, 1, 1)] {
        let mut lab = Lab::with(plan, 1, TCP, Some(affinity), THREE);
        let (web, ttl) = (lab.web(), Duration::from_secs(ttl));
        let own = lab.visit(plan.client, web).unwrap();
        // A millionth of a second less than the time keeps it, counted from each connection; all of it does not. A connection
        // is accepted three packets after it began, and five before its answer is there.
        for _ in 0..3 {
            lab.run_for(ttl - 8 * DELAY - Duration::from_micros(1));
            assert_eq!(lab.visit(plan.client, web), Some(own));
        }
        assert_eq!(lab.proxy.remembered(), 1);
        let another = lab.visit(plan.other, web).unwrap();
        assert_ne!(another, own, "another address is another client");
        lab.run_for(ttl - 8 * DELAY);
        let third = lab.visit(plan.other, web).unwrap();
        assert!(![own, another].contains(&third), "expired: the next one, remembered");
        assert_eq!(lab.visit(plan.other, web), Some(third));
        lab.run_for(ttl);
        assert_eq!(lab.proxy.remembered(), 0, "purged");
    }
}

#[test]
fn a_clients_endpoint_is_forgotten_when_it_goes() {
    let mut lab = Lab::with(V4, 1, TCP, Some(100), THREE);
    let web = lab.web();
    let own = lab.visit(V4.client, web).unwrap();
    let others: Vec<u8> = [1, 2, 3].into_iter().filter(|other| *other != own).collect();
    lab.put(service("shop/web", TCP, Some(100)), &others);
    let next = lab.visit(V4.client, web).unwrap();
    assert!(others.contains(&next));
    lab.put(service("shop/web", TCP, Some(100)), &[1, 2, 3]);
    assert_eq!(lab.visit(V4.client, web), Some(next), "it came back too late");
    lab.put(service("shop/web", TCP, None), &[1, 2, 3]);
    assert_eq!(lab.visits(3).into_iter().collect::<BTreeSet<_>>().len(), 3, "no affinity any more");
}

#[test]
fn four_tries_of_growing_patience_and_the_client_is_let_go() {
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[(1, Silent), (2, Silent), (3, Silent)]);
        let web = lab.web();
        let client = lab.connect(plan.client, web);
        let mut bytes = Vec::new();
        lab.until("closed", |lab| lab.client.recv(client, &mut bytes) == Ok(false));
        let closed = lab.now;
        let (began, first) = lab.dialled[0];
        let tries: Vec<_> = lab.dialled.iter().map(|(at, _)| at.saturating_since(began)).collect();
        assert_eq!(tries, [0, 250, 750, 1750].map(millis));
        assert_eq!(closed.saturating_since(began), millis(3750) + DELAY);
        let addresses: BTreeSet<_> = lab.dialled[..3].iter().map(|(_, to)| *to).collect();
        assert_eq!((addresses.len(), lab.dialled[3].1), (3, first), "each try is on the next");
        let counters = lab.proxy.counters();
        assert_eq!((counters.connections, counters.refused, counters.retries), (1, 1, 3));
        assert_eq!(lab.proxy.connections(), 0);
    }
}

#[test]
fn a_refusal_is_tried_elsewhere_at_once_and_affinity_moves() {
    // A line a case: the programs, and how long the first visit and the second may take to begin an answer.
    for (programs, first, second) in [
        ([Refuse, Echo], [0, 0], [0, 0]),
        ([Silent, Echo], [0, 250], [0, 0]),
        ([Silent, Refuse], [250, 4000], [250, 4000]),
    ] {
        for seed in 0..4 {
            let pods = [(1, programs[0]), (2, programs[1])];
            let mut lab = Lab::with(V4, seed, TCP, Some(100), &pods);
            let web = lab.web();
            let expected = (programs[1] == Echo).then_some(2);
            for (visit, [least, most]) in [first, second].into_iter().enumerate() {
                let began = lab.now;
                assert_eq!(lab.visit(V4.client, web), expected);
                let took = lab.now.saturating_since(began);
                assert!(took >= millis(least) && took <= millis(most + 10), "{seed} {visit}: {took:?}");
            }
            if expected.is_some() {
                assert!(lab.proxy.counters().retries <= 1, "the client is the second one's now");
            }
        }
    }
}

#[test]
fn without_endpoints_a_connection_is_accepted_and_closed() {
    for (plan, unread) in [(V4, false), (V6, false), (V4, true)] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[]);
        let web = lab.web();
        let client = lab.client.connect(lab.now, None, web).unwrap();
        let (mut bytes, mut end) = (Vec::new(), Ok(true));
        lab.until("the end", |lab| {
            if lab.client.is_established(client) && unread {
                let _ = lab.client.send(client, b"GET / HTTP/1.1\r\n\r\n");
            }
            end = lab.client.recv(client, &mut bytes);
            end != Ok(true)
        });
        // A socket closed with something unread answers with a reset (RFC 2525 §2.17).
        assert_eq!((end, bytes.len()), (if unread { Err(Error::Reset) } else { Ok(false) }, 0));
        assert_eq!((lab.proxy.counters().refused, lab.proxy.connections()), (1, 0));
    }
    // What was sent while no endpoint answered is lost, and the client is told so.
    let mut lab = Lab::with(V4, 1, TCP, None, &[(1, Silent)]);
    let web = lab.web();
    let client = lab.connect(V4.client, web);
    lab.client.send(client, b"hello").unwrap();
    lab.until("reset", |lab| lab.client.failure(client).is_some());
    assert_eq!(lab.client.failure(client), Some(Error::Reset));
}

#[test]
fn either_side_may_close_first_and_be_answered() {
    let bytes = random_bytes(200_000);
    for (plan, client_first) in [(V4, true), (V4, false), (V6, true), (V6, false)] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[(1, Wait)]);
        let web = lab.web();
        let client = lab.connect(plan.client, web);
        let server = lab.accepted(1);
        macro_rules! host {
            ($lab:expr, $first:expr) => {
                if $first == client_first { &mut $lab.client } else { &mut $lab.pods.get_mut(&1).unwrap().host }
            };
        }
        let (first, second) = if client_first { (client, server) } else { (server, client) };
        assert_eq!(host!(lab, true).send(first, b"all I have"), Ok(10));
        host!(lab, true).close(first);
        let mut got = Vec::new();
        lab.until("one end", |lab| host!(lab, false).recv(second, &mut got) == Ok(false));
        assert_eq!(got, b"all I have");
        lab.run_for(Duration::from_secs(5));
        let (mut sent, mut got) = (0, Vec::new());
        lab.until("the other end", |lab| {
            if sent < bytes.len() {
                sent += host!(lab, false).send(second, &bytes[sent..]).unwrap();
                if sent == bytes.len() {
                    host!(lab, false).release(second);
                }
            }
            host!(lab, true).recv(first, &mut got) == Ok(false)
        });
        assert!(got == bytes, "{} bytes", got.len());
        host!(lab, true).release(first);
        lab.run_for(Duration::from_secs(60));
        assert_eq!((lab.proxy.connections(), lab.node.connections(), lab.client.connections()), (0, 0, 0));
        let counters = lab.proxy.counters();
        let expected = if client_first { (10, 200_000) } else { (200_000, 10) };
        assert_eq!((counters.bytes_sent, counters.bytes_received), expected);
    }
}

#[test]
fn a_slow_reader_slows_the_sender() {
    let bytes = random_bytes(1_000_000);
    for from_client in [true, false] {
        let mut lab = Lab::with(V4, 1, TCP, None, &[(1, Wait)]);
        let web = lab.web();
        let client = lab.connect(V4.client, web);
        let server = lab.accepted(1);
        let (mut sent, mut got) = (0, Vec::new());
        let end = lab.now.saturating_add(Duration::from_secs(30));
        let send = |lab: &mut Lab, sent: &mut usize| {
            *sent += match from_client {
                true => lab.client.send(client, &bytes[*sent..]).unwrap(),
                false => lab.pods.get_mut(&1).unwrap().host.send(server, &bytes[*sent..]).unwrap(),
            };
        };
        while lab.now < end {
            send(&mut lab, &mut sent);
            if !lab.step(end) {
                break;
            }
            assert!(lab.proxy.held() <= 1 << 16);
        }
        // Two buffers of the sender's connection, two of the reader's, and the proxy's own.
        assert!(sent <= 5 << 16, "{sent} bytes went in and none came out");
        assert!(lab.proxy.held() > 0);
        lab.until("all", |lab| {
            send(lab, &mut sent);
            match from_client {
                true => lab.pods.get_mut(&1).unwrap().host.recv(server, &mut got).unwrap(),
                false => lab.client.recv(client, &mut got).unwrap(),
            };
            got.len() == bytes.len()
        });
        assert!(got == bytes);
        assert_eq!(lab.proxy.held(), 0);
    }
}

#[test]
fn a_megabyte_comes_back_whole_through_loss() {
    let bytes = random_bytes(1_000_000);
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[(1, Echo)]);
        lab.loss = 10_000;
        let web = lab.web();
        let client = lab.connect(plan.client, web);
        let (mut sent, mut got) = (0, Vec::new());
        lab.until("the end", |lab| {
            if sent < bytes.len() {
                sent += lab.client.send(client, &bytes[sent..]).unwrap();
                if sent == bytes.len() {
                    lab.client.close(client);
                }
            }
            lab.client.recv(client, &mut got) == Ok(false)
        });
        assert!(got[0] == 1 && got[1..] == bytes, "{} bytes", got.len());
    }
}

#[test]
fn resets_go_through() {
    for (from_client, plan) in [(true, V4), (false, V4), (true, V6), (false, V6)] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[(1, Wait)]);
        let web = lab.web();
        let client = lab.connect(plan.client, web);
        let server = lab.accepted(1);
        if from_client {
            lab.client.abort(client);
        } else {
            lab.pods.get_mut(&1).unwrap().host.abort(server);
        }
        lab.run_for(millis(10));
        let seen = if from_client { lab.pods[&1].host.failure(server) } else { lab.client.failure(client) };
        assert_eq!((seen, lab.proxy.connections()), (Some(Error::Reset), 0));
    }
    // Nobody is dialled for a client that is gone.
    let mut lab = Lab::with(V4, 1, TCP, None, &[(1, Silent)]);
    let web = lab.web();
    let client = lab.connect(V4.client, web);
    lab.run_for(millis(10));
    lab.client.abort(client);
    lab.run_for(Duration::from_secs(5));
    assert_eq!((lab.dialled.len(), lab.proxy.connections()), (1, 0));
}

#[test]
fn connections_outlive_what_they_came_by() {
    let mut lab = Lab::with(V4, 1, TCP, None, &[(1, Echo), (2, Echo)]);
    let web = lab.web();
    let client = lab.connect(V4.client, web);
    let mut got = Vec::new();
    lab.until("joined", |lab| lab.client.recv(client, &mut got).unwrap() && got.len() == 1);
    let other = if got[0] == 1 { 2 } else { 1 };
    lab.put(service("shop/web", TCP, None), &[other]);
    assert_eq!(lab.visits(2), [other, other]);
    lab.control.remove_service(&"shop/web".into());
    lab.settle();
    assert_eq!(lab.proxy_port("shop/web"), None);
    let refused = lab.client.connect(lab.now, None, web).unwrap();
    lab.until("refused", |lab| lab.client.failure(refused) == Some(Error::Refused));
    lab.client.send(client, b"still here?").unwrap();
    lab.until("echoed", |lab| lab.client.recv(client, &mut got).unwrap() && got.len() == 12);
    assert_eq!(got[1..], *b"still here?");
}

#[test]
fn there_are_no_more_connections_than_may_be() {
    let mut lab = Lab::new(V4, Options { connections: 3, udp_clients: 2, ..Options::new(1) });
    lab.start(1, Echo);
    lab.put(service("shop/web", TCP, None), &[1]);
    let web = lab.web();
    let clients: Vec<_> = (0..5).map(|_| lab.connect(V4.client, web)).collect();
    lab.run_for(Duration::from_secs(1));
    let served = |lab: &mut Lab| {
        let mut bytes = Vec::new();
        clients.iter().filter(|client| lab.client.recv(**client, &mut bytes).is_ok()).count();
        bytes.len()
    };
    assert_eq!((served(&mut lab), lab.proxy.connections()), (3, 3));
    // The others wait until somebody goes.
    clients[..2].iter().for_each(|client| lab.client.release(*client));
    lab.run_for(Duration::from_secs(1));
    assert_eq!((served(&mut lab), lab.proxy.connections()), (2, 3));

    lab.put(service("shop/web", UDP, None), &[1]);
    let web = lab.web();
    for _ in 0..3 {
        let socket = lab.client.bind(None, 0).unwrap();
        lab.client.send_to(socket, None, web, b"?").unwrap();
    }
    lab.run_for(millis(100));
    assert_eq!((lab.pods[&1].heard.len(), lab.proxy.udp_clients(), lab.proxy.counters().refused), (2, 2, 1));
}

#[test]
fn a_udp_client_has_a_socket_until_both_sides_are_silent() {
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, UDP, None, THREE);
        let web = lab.web();
        let (a, b) = (lab.client.bind(None, 0).unwrap(), lab.client.bind(None, 0).unwrap());
        let first = lab.ask(a, plan.client, web);
        let second = lab.ask(b, plan.client, web);
        assert_ne!(first, second, "another port is another client");
        assert_eq!(lab.ask(a, plan.client, web), first);
        for _ in 0..8 {
            // The answer came half a millisecond after it passed the proxy, the next question needs as much.
            lab.run_for(millis(248));
            assert_eq!(lab.ask(a, plan.client, web), first);
        }
        assert_eq!(lab.proxy.udp_clients(), 1);
        lab.run_for(millis(249) + Duration::from_micros(499));
        assert_eq!(lab.proxy.udp_clients(), 1);
        lab.run_for(Duration::from_micros(1));
        lab.step(lab.now);
        assert_eq!(lab.proxy.udp_clients(), 0);
        let third = lab.ask(a, plan.client, web);
        assert!(![first, second].contains(&third), "the next one");
        let ports = |number: u8| lab.pods[&number].heard.iter().collect::<BTreeSet<_>>();
        assert_eq!((ports(first).len(), ports(second).len(), ports(third).len()), (1, 1, 1));
        assert!([first, second, third].iter().all(|number| ports(*number).iter().all(|from| from.0 == plan.node)));
    }
}

#[test]
fn udp_affinity_is_by_address_and_dead_endpoints_are_left() {
    let mut lab = Lab::with(V4, 1, UDP, Some(100), THREE);
    let web = lab.web();
    let sockets: Vec<_> = (0..4).map(|_| lab.client.bind(None, 0).unwrap()).collect();
    let own = lab.ask(sockets[0], V4.client, web);
    assert!(sockets.iter().all(|socket| lab.ask(*socket, V4.client, web) == own));
    assert_ne!(lab.ask(sockets[0], V4.other, web), own);

    // A port unreachable ends the client's socket; its next datagram is for the next endpoint.
    for seed in 0..4 {
        let mut lab = Lab::with(V4, seed, UDP, None, &[(1, Refuse), (2, Echo)]);
        let web = lab.web();
        let socket = lab.client.bind(None, 0).unwrap();
        for _ in 0..3 {
            lab.client.send_to(socket, None, web, b"?").unwrap();
            lab.run_for(millis(20));
        }
        let answers = std::iter::from_fn(|| lab.client.recv_from(socket)).count();
        assert!(answers >= 2, "{answers} of 3, and one at most was for the dead one");
    }
}

#[test]
fn datagrams_of_up_to_4096_bytes_go_through_unchanged() {
    let bytes = random_bytes(6000);
    let mut lab = Lab::with(V4, 1, UDP, None, &[(1, Echo)]);
    let web = lab.web();
    let socket = lab.client.bind(None, 0).unwrap();
    for (length, expected, cut) in [(1, 1, 0), (1472, 1472, 0), (1473, 1473, 0), (4096, 4096, 0), (4097, 4096, 1)] {
        lab.client.send_to(socket, None, web, &bytes[..length]).unwrap();
        let mut answer = None;
        lab.until("an answer", |lab| {
            answer = lab.client.recv_from(socket);
            answer.is_some()
        });
        let answer = answer.unwrap();
        assert_eq!((answer.from, answer.payload.len()), (web, expected), "{length}");
        assert_eq!(answer.payload[1..], bytes[1..expected]);
        assert_eq!(lab.proxy.counters().datagrams_cut, cut);
    }
    let counters = lab.proxy.counters();
    assert_eq!((counters.datagrams_sent, counters.datagrams_received, counters.datagrams_dropped), (5, 5, 0));
    // No endpoint: nobody answers. No service: nobody listens.
    lab.run_for(millis(300));
    lab.put(service("shop/web", UDP, None), &[]);
    lab.client.send_to(socket, None, web, b"?").unwrap();
    lab.run_for(millis(10));
    assert_eq!((lab.proxy.counters().refused, lab.client.udp_error(socket)), (1, None));
    lab.put(service("shop/web", UDP, None), &[1]);
    assert_eq!(lab.ask(socket, V4.client, web), 1);
    lab.control.remove_service(&"shop/web".into());
    lab.settle();
    assert_eq!(lab.proxy.udp_clients(), 0);
    lab.client.send_to(socket, None, web, b"?").unwrap();
    lab.run_for(millis(10));
    assert_eq!(lab.client.udp_error(socket), Some((web, Error::Refused)));
}

/// A service of one port besides the web shop's.
fn plain(name: &str, number: u8) -> lb_core::control::Service {
    let mut service = service(name, TCP, None);
    service.cluster_ips = vec![lb_core::Address::v4([10, 96, 1, number])];
    (service.external_ips, service.load_balancer_ips) = (Vec::new(), Vec::new());
    service.ports[0].node_port = None;
    service
}

#[test]
fn ports_come_from_the_range_and_go_back_to_it() {
    let mut given = BTreeSet::new();
    for seed in 0..10 {
        let mut lab = Lab::new(V4, Options { ports: Some(40_000..=40_002), ..Options::new(seed) });
        lab.run_until(Instant::from_secs(5));
        for number in 1..=5 {
            lab.put(plain(&format!("shop/{number}"), number), &[]);
        }
        let ports = |lab: &Lab| {
            lab.proxy.ports().map(|(key, port)| (key.service.to_string(), port)).collect::<BTreeMap<_, _>>()
        };
        let before = ports(&lab);
        given.insert(before["shop/1"]);
        assert_eq!(before.values().copied().collect::<BTreeSet<_>>(), BTreeSet::from([40_000, 40_001, 40_002]));
        assert_eq!(before.len(), 3);
        // The others wait for a second.
        assert_eq!(lab.proxy.next_deadline(), Some(Instant::from_secs(6)));
        lab.run_until(Instant::from_nanos(5_999_999_999));
        assert!(lab.proxy.troubles().is_empty());
        lab.run_until(Instant::from_secs(6));
        let troubles: Vec<_> = lab.proxy.troubles().iter().map(|(key, trouble)| (&*key.service, *trouble)).collect();
        assert_eq!(troubles, [("shop/4", Trouble::NoPortLeft), ("shop/5", Trouble::NoPortLeft)]);
        // What is released is for the next in need.
        lab.control.remove_service(&"shop/2".into());
        lab.settle();
        let after = ports(&lab);
        assert_eq!((after["shop/4"], after["shop/1"]), (before["shop/2"], before["shop/1"]));
        assert_eq!(lab.proxy.troubles().len(), 1);
    }
    assert!(given.len() > 1, "the first port is chosen at random: {given:?}");
    // Without a range the host chooses, for each family and protocol.
    let mut lab = Lab::new(V4, Options::new(1));
    let mut both = service("shop/web", TCP, None);
    both.ports.push(ServicePort { name: "dns".into(), protocol: UDP, port: 53, node_port: None });
    both.ports.push(ServicePort { name: "sig".into(), protocol: Protocol::SCTP, port: 54, node_port: Some(30_054) });
    lab.put(both, &[]);
    let ports: Vec<_> = lab.proxy.ports().collect();
    assert!(ports.len() == 4 && ports.iter().all(|(_, port)| *port >= 32_768), "{ports:?}");
    let troubles: Vec<_> = lab.proxy.troubles().iter().map(|(key, trouble)| (&*key.port, *trouble)).collect();
    assert_eq!(troubles, [("sig", Trouble::Protocol); 2], "one a family");
}

#[test]
fn node_ports_are_really_open() {
    for (plan, protocol) in [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)] {
        let mut lab = Lab::new(plan, Options::new(1));
        lab.start(1, Echo);
        // Somebody else has it.
        let other = match protocol {
            TCP => Ok(lab.node.listen(Some(plan.node), NODE_PORT).unwrap()),
            _ => Err(lab.node.bind(Some(plan.node), NODE_PORT).unwrap()),
        };
        lab.put(service("shop/web", protocol, None), &[1]);
        let trouble = Trouble::NodePort { address: plan.node, port: NODE_PORT, error: Error::InUse };
        assert_eq!(lab.proxy.troubles().values().copied().collect::<Vec<_>>(), [trouble]);
        match other {
            Ok(listener) => lab.node.unlisten(listener),
            Err(socket) => lab.node.unbind(socket),
        }
        let port = lab.web();
        lab.settle();
        assert!(lab.proxy.troubles().is_empty() && lab.web() == port);
        let taken = lab.node.listen(Some(plan.node), NODE_PORT).is_err();
        assert_eq!((taken, lab.node.bind(Some(plan.node), NODE_PORT).is_err()), (protocol == TCP, protocol == UDP));
        if protocol == TCP {
            // By whom no engine redirects: the node itself.
            let id = lab.node.connect(lab.now, None, (plan.node, NODE_PORT)).unwrap();
            let syn = lab.node.poll(lab.now).pop_front().unwrap();
            lab.node.receive(lab.now, syn);
            let answer = lab.node.poll(lab.now).pop_front().unwrap();
            lab.node.receive(lab.now, answer);
            assert!(lab.node.is_established(id));
        }
    }
}

#[test]
fn the_engine_redirects_every_address_of_a_service() {
    for (plan, protocol) in [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)] {
        let mut lab = Lab::with(plan, 1, protocol, None, THREE);
        let mut reached = Vec::new();
        for to in [(plan.cluster_ip, 80), (plan.external_ip, 80), (plan.lb_ip, 80), (plan.node, NODE_PORT)] {
            if protocol == TCP {
                reached.push(lab.visit(plan.client, to).unwrap());
            } else {
                let socket = lab.client.bind(None, 0).unwrap();
                reached.push(lab.ask(socket, plan.client, to));
                assert!(lab.pods[reached.last().unwrap()].heard.iter().all(|from| from.0 == plan.node));
            }
        }
        assert!(reached[..3].iter().collect::<BTreeSet<_>>().len() == 3 && reached[3] == reached[0], "{reached:?}");
        lab.run_for(Duration::from_secs(60));
        // Only ever from the address that was dialled, and no policy or source range in the way.
        assert_eq!((lab.client.strays().count(), lab.node.strays().count()), (0, 0));
        assert_eq!(lab.proxy.counters().connections, 4);
    }
}

#[test]
fn endpoints_see_the_node_and_the_client_sees_the_vip() {
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[(1, Wait)]);
        let client = lab.connect(plan.client, (plan.lb_ip, 80));
        let server = lab.accepted(1);
        assert_eq!(lab.pods[&1].host.remote(server).unwrap().0, plan.node);
        assert_eq!(lab.client.remote(client), Some((plan.lb_ip, 80)));
        let flows: Vec<_> = lab.engine.flows().collect();
        let web = lab.web();
        assert_eq!(flows.len(), 1, "the proxy's own connection is no service's");
        assert_eq!((flows[0].reply.source, flows[0].reply.source_port, flows[0].masqueraded), (web.0, web.1, false));
        assert_eq!(flows[0].reply.destination, plan.client);
        // No endpoint: the Vip accepts and closes. No service: it is nobody's.
        lab.put(service("shop/web", TCP, None), &[]);
        assert_eq!(lab.visit(plan.client, (plan.cluster_ip, 80)), None);
        lab.control.remove_service(&"shop/web".into());
        lab.settle();
        let tuple = dialling(plan, lab.now.as_nanos() as u16);
        assert!(lab.engine.rules().decide(&tuple, Origin::Wire).service.is_none());
    }
}

fn dialling(plan: Plan, source_port: u16) -> Tuple {
    let (source, destination) = (plan.client, plan.cluster_ip);
    Tuple { source, destination, source_port, destination_port: 80, protocol: TCP, zone: 0 }
}

#[test]
fn explain_shows_the_proxys_layer() {
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, TCP, None, THREE);
        let rules = RuleTable::load(lab.redirect.image().unwrap()).unwrap();
        let tuple = Tuple { destination: plan.lb_ip, ..dialling(plan, 4000) };
        let got = explain(&rules, Some(&lab.control), &tuple, Origin::Wire, 1);
        let bracketed = |(address, port): (lb_core::Address, u16)| match address.is_v4() {
            true => format!("{address}:{port}"),
            false => format!("[{address}]:{port}"),
        };
        let layers = format!(
            "lb {} -> node {} -> service {} -> proxy {}",
            bracketed((plan.lb_ip, 80)),
            bracketed((plan.node, NODE_PORT)),
            bracketed((plan.cluster_ip, 80)),
            bracketed(lab.web())
        );
        assert_eq!((got.verdict, got.mode, got.path.unwrap().to_string()), ("punt", Some("userspace"), layers));
        assert!(got.because.ends_with("which dials any ready endpoint (§14.5)"), "{}", got.because);
        assert!(!got.masquerade.unwrap().masquerade);
        let endpoints: Vec<_> =
            got.endpoints.iter().map(|endpoint| (endpoint.address.clone(), endpoint.outcome)).collect();
        let expected = [1, 2, 3].map(|number| (bracketed((plan.pod(number), PORT)), Outcome::Possible));
        assert_eq!(endpoints, expected);
    }
}

#[test]
fn the_same_seed_is_the_same_course_of_events() {
    let run = |seed| {
        let mut lab = Lab::with(V4, seed, TCP, None, &[(1, Silent), (2, Echo), (3, Refuse), (4, Echo)]);
        let reached: Vec<_> = (0..6).map(|_| lab.visit(V4.client, (V4.cluster_ip, 80))).collect();
        (reached, lab.dialled.clone(), *lab.proxy.counters(), lab.web(), lab.now)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
