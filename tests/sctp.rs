//! SCTP (RFC 9260), from the first chunk of an association to its last, and in pieces.

#![allow(unreachable_pub, reason = "the modules have other users too")]

mod common;
#[path = "invariants/packets.rs"]
#[allow(dead_code, reason = "the invariants use the rest")]
mod packets;

use common::cluster::{address, node, service, slice};
use common::lab::Lab;
use lb_core::flow::State;
use lb_core::{Instant, Link, Meta, Protocol, Tuple, Verdict};
use packets::{Part, Spec};

const BARE: Meta =
    Meta { link: Link::Ip, checksum: lb_core::Checksum::Complete, origin: lb_core::Origin::Wire, zone: 0 };

fn tuple(from: (&str, u16), to: (&str, u16)) -> Tuple {
    let (source, destination) = (address(from.0), address(to.0));
    let protocol = Protocol::SCTP;
    Tuple { source, destination, source_port: from.1, destination_port: to.1, protocol, zone: 0 }
}

/// Served on these ports of one Pod.
fn lab(ports: &[&str]) -> Lab {
    Lab::new(node(), [(service("s", "10.96.0.30", &["sctp:80"]), slice("s", ports, &["10.244.1.2 node-a"]))])
}

/// A line a packet: its first chunk (RFC 9260 §3.2), whether the backend sends it, and what it leaves the flow in, for how many
/// seconds.
#[test]
fn an_association_from_its_first_chunk_to_its_last() {
    let mut lab = lab(&["sctp:8080"]);
    let client = ("10.244.2.9", 40_000);
    let (there, back) = (tuple(client, ("10.96.0.30", 80)), tuple(("10.244.1.2", 8080), client));
    for (chunk, is_reply, state, seconds) in [
        (1, false, State::SctpOpening, 3),       // INIT
        (2, true, State::SctpOpening, 3),        // INIT ACK
        (10, false, State::SctpOpening, 3),      // COOKIE ECHO
        (11, true, State::SctpEstablished, 210), // COOKIE ACK
        (0, false, State::SctpEstablished, 210), // DATA
        (3, true, State::SctpEstablished, 210),  // SACK
        (7, false, State::SctpClosing, 3),       // SHUTDOWN
        (8, true, State::SctpClosing, 3),        // SHUTDOWN ACK
        (14, false, State::SctpClosing, 3),      // SHUTDOWN COMPLETE
        (1, false, State::SctpOpening, 3),       // another one over the same ports
        (6, true, State::SctpClosing, 3),        // ABORT
    ] {
        let sent = lab.send_as(&Spec::new(if is_reply { back } else { there }, chunk).packet(), BARE);
        let Verdict::Forward { flow, .. } = sent.verdict else { panic!("chunk {chunk}: {:?}", sent.verdict) };
        let leaves = if is_reply { there.reversed() } else { back.reversed() };
        assert_eq!(sent.frame, Spec::new(leaves, chunk).packet(), "chunk {chunk}");
        let flow = lab.engine.flow(flow).unwrap();
        assert_eq!((flow.state, flow.deadline), (state, Instant::from_secs(seconds)), "chunk {chunk}");
    }
}

/// Its CRC32c covers ports and no address, so that it can be left as it is where they stay.
#[test]
fn pieces_go_where_no_port_changes() {
    let there = Spec { payload: 64, ..Spec::new(tuple(("10.244.2.9", 40_000), ("10.96.0.30", 80)), 0) };
    let pieces = [(0, 32), (32, 128)].map(|(start, end)| there.part(Part { start, end, identification: 9 }).unwrap());
    for (ports, expected) in
        [(&["sctp:80"], ["forward", "forward"]), (&["sctp:8080"], ["untranslatable-sctp", "forward"])]
    {
        let mut lab = lab(ports);
        let words = pieces.clone().map(|piece| Verdict::label(lab.send_as(&piece, BARE).verdict.code()).unwrap());
        assert_eq!(words, expected, "{ports:?}");
    }
}
