//! The kernel gives a flow a port that here belongs to a flow of which it never heard: of a datagram whose checksum is wrong, which to
//! it is none's (`Listed::Invalid`). What chance brings once in thousands of scenarios is made here.

use std::net::SocketAddr;
use std::time::Duration;

use lb_core::Family;
use lb_core::control::{Endpoint, TrafficPolicy};
use lb_host::chance::Chance;

use crate::common::cluster;
use crate::judge::{Judge, route};
use crate::objects::Objects;
use crate::packets;
use crate::script::{Event, Kind, Step};
use crate::world::{self, CLIENTS, LOCAL_PODS, Place};

/// Panics if the engine's flow does not give way.
pub fn the_kernels_flow_has_the_port() {
    for family in [Family::V4, Family::V6] {
        collide(family);
    }
}

fn collide(family: Family) {
    let seed = if family == Family::V4 { 0 } else { 1 };
    let mut objects = Objects::new(seed, &mut Chance::new(seed).named("objects"));
    objects.node.proxy.detector = cluster::node().proxy.detector;
    objects.served.truncate(1);
    let service = &mut objects.served[0].service;
    (service.internal_policy, service.affinity) = (TrafficPolicy::Cluster, None);
    objects.unserve();
    let address = world::of(family, LOCAL_PODS[0]).into();
    let (ready, serving, terminating) = (true, true, false);
    let (zone_hints, node_hints) = (Vec::new(), Vec::new());
    objects.serve(0, 0, Endpoint { address, ready, serving, terminating, node: None, zone_hints, node_hints });
    let mut judge = Judge::new(seed, &objects, false);
    let clients: Vec<SocketAddr> = [(0, 20_000), (1, 20_001)]
        .map(|(client, port)| SocketAddr::new(world::of(family, CLIENTS[client]), port))
        .into();
    let dialled = SocketAddr::new(world::of(family, "10.96.0.10"), 53);

    let mut damaged = packets::udp(clients[0], dialled, 1, b"damaged");
    *damaged.last_mut().expect("a payload") ^= 1;
    let (to, passed) = route(Place::Outside, damaged.clone());
    judge.all(&step(0, Kind::BadChecksum, damaged, (to, passed)));
    let flows = judge.flows();
    let [ours] = &flows[..] else { panic!("a flow that only the engine has: {flows:?}") };
    assert!(ours.masqueraded, "{ours:?}");

    // What the kernel makes of another client's datagram, by the same port.
    let seen = SocketAddr::new(ours.reply.destination.into(), ours.reply.destination_port);
    let backend = SocketAddr::new(ours.reply.source.into(), ours.reply.source_port);
    let given = packets::udp(clients[1], dialled, 2, b"sound");
    let mut taken = packets::udp(seen, backend, 2, b"sound");
    packets::hop(&mut taken);
    judge.all(&step(1, Kind::Plain, given, (world::place_of(backend.ip()), taken)));
    let report = judge.report();
    let told: Vec<&str> =
        report.differences.iter().filter(|one| one.listed.is_none()).map(|one| one.told.as_str()).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    assert_eq!((report.given_way, report.differences.len(), judge.flows().len()), (1, 1, 1));
}

fn step(talk: usize, kind: Kind, given: Vec<u8>, taken: (Place, Vec<u8>)) -> [(Duration, Event); 1] {
    let step = Step {
        kind,
        talk,
        is_forgotten: false,
        before: None,
        from: Place::Outside,
        given: vec![given],
        taken: vec![taken],
    };
    [(Duration::from_millis(talk as u64), Event::Step(step))]
}
