//! Connections: dialled, joined, closed, given up.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_host::host::Error;
use lb_host::proxy::Options;

use crate::lab::Program::{Echo, Refuse, Silent, Wait};
use crate::lab::{DELAY, Lab, V4, V6, service};
use crate::{TCP, UDP, millis, random_bytes};

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
fn the_same_seed_is_the_same_course_of_events() {
    let run = |seed| {
        let mut lab = Lab::with(V4, seed, TCP, None, &[(1, Silent), (2, Echo), (3, Refuse), (4, Echo)]);
        let reached: Vec<_> = (0..6).map(|_| lab.visit(V4.client, (V4.cluster_ip, 80))).collect();
        (reached, lab.dialled.clone(), *lab.proxy.counters(), lab.web(), lab.now)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
