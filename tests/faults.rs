//! Faults of whoever runs the engine: images that were torn or changed on their way, clocks that jump, a NIC that hands a buffer
//! over twice. Nothing panics, what is refused changes nothing, and all goes on.

#![allow(unreachable_pub, reason = "the modules have other users too")]

mod common;
#[path = "invariants/packets.rs"]
#[allow(dead_code, reason = "the invariants use the rest")]
mod packets;

use common::cluster::{address, node, web};
use common::frames::frame;
use common::lab::{Lab, ROOM};
use lb_core::control::Control;
use lb_core::{Instant, Packet, RuleTable, Verdict};

/// The image of a small cluster, and the delta to another endpoint.
fn image_and_delta() -> (Vec<u8>, Vec<u8>) {
    let mut control = Control::new(node());
    let (service, slice) = web(&["10.244.1.2 node-a", "10.244.1.3 node-a"]);
    control.put_service(service);
    control.put_slice(slice);
    let [mut image, mut delta] = [Vec::new(), Vec::new()];
    control.delta(&mut image).unwrap();
    control.put_slice(web(&["10.244.1.4 node-a"]).1);
    control.delta(&mut delta).unwrap();
    (image, delta)
}

#[test]
fn an_image_with_any_bit_flipped_or_cut_anywhere_is_refused() {
    let (image, _) = image_and_delta();
    assert!(RuleTable::load(image.as_slice()).is_ok());
    let mut flipped = image.clone();
    for bit in 0..image.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(RuleTable::load(flipped.as_slice()).is_err(), "bit {bit} of {}", image.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    assert!((0..image.len()).all(|end| RuleTable::load(&image[..end]).is_err()));
    println!("{} bits flipped, {} cuts, all refused", image.len() * 8, image.len());
}

#[test]
fn a_delta_with_any_bit_flipped_or_cut_anywhere_changes_nothing() {
    let (image, delta) = image_and_delta();
    let mut table = RuleTable::with_room(vec![0; ROOM.bytes()], ROOM).unwrap();
    table.apply(&image).unwrap();
    let before = (table.fingerprint(), table.memory().clone());
    let mut flipped = delta.clone();
    for bit in 0..delta.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(table.apply(&flipped).is_err(), "bit {bit} of {}", delta.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    assert!((0..delta.len()).all(|end| table.apply(&delta[..end]).is_err()));
    assert!(before == (table.fingerprint(), table.memory().clone()), "a refused delta was written");
    println!("{} bits flipped, {} cuts, all refused", delta.len() * 8, delta.len());
    table.apply(&delta).unwrap();
}

/// Seconds of leaps, either way.
#[test]
fn a_clock_may_jump() {
    const YEAR: i64 = 365 * 86_400;
    for leaps in
        [[YEAR, -YEAR], [3 * YEAR, -3 * YEAR], [-3600, 3600], [i64::MAX / 2_000_000_000, 1], [100 * YEAR, -99 * YEAR]]
    {
        let mut lab = Lab::web(&["10.244.1.2 node-a"]);
        // Some years after the clock's origin.
        let mut seconds = 40 * YEAR;
        for leap in [0].into_iter().chain(leaps) {
            seconds = (seconds + leap).max(0);
            lab.now = seconds as u64 * 1000;
            for (kind, from, to, expected) in [
                ("S", "10.244.2.9:40000", "10.96.0.10:80", "-> 10.244.2.9:40000 > 10.244.1.2:8080"),
                ("SA", "10.244.1.2:8080", "10.244.2.9:40000", "<- 10.96.0.10:80 > 10.244.2.9:40000"),
                ("A", "10.244.2.9:40000", "10.96.0.10:80", "-> 10.244.2.9:40000 > 10.244.1.2:8080"),
                ("udp", "10.244.2.9:40000", "10.96.0.10:53", "-> 10.244.2.9:40000 > 10.244.1.2:5353"),
            ] {
                assert_eq!(lab.kind(kind, from, to).to_string(), expected, "{leaps:?}, at {seconds}");
            }
            assert_eq!(lab.engine.flows().count(), 2, "{leaps:?}, at {seconds}");
            let now = lab.instant();
            lab.engine.expire(now, usize::MAX);
            assert_eq!(lab.engine.flows().count(), 2, "{leaps:?}, at {seconds}: a flow that was just used expired");
        }
        // A day and a second of silence, and all is forgotten.
        let later = Instant::from_secs(seconds as u64 + 86_401);
        lab.engine.expire(later, usize::MAX);
        assert_eq!((lab.engine.flows().count(), lab.engine.next_deadline()), (0, None), "{leaps:?}");
    }
}

#[test]
fn a_buffer_may_be_handed_over_twice() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let syn = frame("S", "10.244.2.9:40000", "10.96.0.10:80");
    let mut buffer = syn.clone();
    let first = lab.engine.process(Instant::from_secs(1), &mut Packet::new(&mut buffer, Default::default()));
    assert!(matches!(first, Verdict::Forward { .. }));
    // As it left: it is for the pod by now, and nobody's.
    let left = buffer.clone();
    let again = lab.engine.process(Instant::from_secs(1), &mut Packet::new(&mut buffer, Default::default()));
    assert_eq!((again, &buffer), (Verdict::Pass, &left));
    // As it came: the same flow, the same octets.
    let mut buffer = syn.clone();
    let again = lab.engine.process(Instant::from_secs(1), &mut Packet::new(&mut buffer, Default::default()));
    assert_eq!((again, &buffer), (first, &left));
    assert_eq!(lab.engine.flows().count(), 1);
    // In one batch.
    let mut buffers = [syn.clone(), syn.clone(), left.clone()];
    let mut packets = buffers.each_mut().map(|buffer| Packet::new(buffer, Default::default()));
    lab.engine.process_batch(Instant::from_secs(1), &mut packets);
    assert_eq!(packets.map(|packet| packet.verdict), [first, first, Verdict::Pass]);
    assert_eq!(buffers, [left.clone(), left.clone(), left]);
    assert_eq!(lab.engine.flows().next().unwrap().original.source, address("10.244.2.9"));
}
