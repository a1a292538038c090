//! Datagrams.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_host::host::Error;

use crate::lab::Program::{Echo, Refuse};
use crate::lab::{Lab, V4, V6, service};
use crate::{THREE, UDP, millis, random_bytes};

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
