//! Once an engine is made, nothing it does allocates.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::cluster::{service, slice, twins, web};
use common::frames::{frame, ping};
use common::lab::Lab;
use lb_core::{Link, Meta, Packet, RuleTable, Verdict};

thread_local! {
    /// Allocations of this thread; a test runs on one of its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that ends has no counter any more, and nothing to count.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many times this allocates or frees, and what it gives.
fn counted<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = COUNT.get();
    let result = work();
    (COUNT.get() - before, result)
}

#[test]
fn the_counter_counts() {
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))).0, 2);
    assert_eq!(counted(|| 1).0, 0);
}

/// Packets of every sort: new flows, known ones, replies, the masqueraded, fragments, errors, garbage.
fn packets() -> Vec<Vec<u8>> {
    let client = "10.244.2.9:40000";
    let mut packets = vec![
        frame("S", client, "10.96.0.10:80"),
        frame("SA", "10.244.1.2:8080", client),
        frame("A", client, "10.96.0.10:80"),
        frame("udp", client, "10.96.0.10:53"),
        frame("S", "203.0.113.5:40000", "198.51.100.7:80"),
        frame("S", "10.244.1.2:40000", "10.96.0.10:80"),
        frame("udp", client, "192.0.2.10:30053"),
        frame("udp", &twins(client), &twins("10.96.0.10:53")),
        frame("S", client, "10.96.0.12:80"),
        frame("S", client, "203.0.113.77:80"),
        ping("10.244.2.9", "10.96.0.10"),
        vec![0; 60],
        vec![0xff; 13],
    ];
    let mut fragment = frame("udp", client, "10.96.0.10:53");
    (fragment[20], fragment[21]) = (0x20, 0x00); // more follow
    packets.push(fragment.clone());
    (fragment[20], fragment[21]) = (0x00, 0x0f); // the last
    packets.push(fragment.clone());
    fragment[19] = 9; // of another datagram
    packets.push(fragment);
    // Time exceeded about the first flow's packet, as its backend's side would send it.
    let about = frame("A", client, "10.244.1.2:8080");
    let mut error = frame("udp", "192.0.2.1:1", "10.244.2.9:1")[..34].to_vec();
    error[23] = 1;
    error[17] = 20 + 8 + 28;
    error.extend([11, 0, 0, 0, 0, 0, 0, 0]);
    error.extend(&about[14..42]);
    packets.push(error);
    packets
}

#[test]
fn no_call_on_the_packet_path_allocates() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    lab.put((service("none", "10.96.0.12", &["tcp:80"]), slice("none", &["tcp:8080"], &[])));
    let mut deltas = Vec::new();
    for endpoints in [&["10.244.1.3 node-a", "10.244.2.3 node-b"][..], &[], &["10.244.1.2 node-a"]] {
        let mut delta = Vec::new();
        lab.control.put_slice(web(endpoints).1);
        assert!(lab.control.delta(&mut delta).unwrap());
        deltas.push(delta);
    }
    let spare = RuleTable::load(lab.control.image().unwrap()).unwrap();
    let mut bytes = packets();
    let mut batch = bytes.clone();
    let mut batch: Vec<Packet<'_>> = batch.iter_mut().map(|bytes| Packet::new(bytes, Meta::default())).collect();
    let mut out = vec![0; 1500];
    let mut seen = [0u64; Verdict::CODES];
    let engine = &mut lab.engine;
    let (allocations, saved) = counted(|| {
        let mut saved = None;
        for (n, delta) in deltas.iter().enumerate() {
            let now = lb_core::Instant::from_secs(n as u64 * 100);
            for bytes in &mut bytes {
                let mut packet = Packet::new(bytes, Meta { link: Link::Ethernet, ..Meta::default() });
                let verdict = engine.process(now, &mut packet);
                seen[usize::from(verdict.code())] += 1;
                if let Verdict::Reject(reason) = verdict {
                    assert!(engine.write_reply(now, &packet, reason, &mut out).is_some());
                }
                if let Verdict::Forward { flow, .. } = verdict {
                    saved = engine.flow(flow);
                }
            }
            engine.process_batch(now, &mut batch);
            engine.apply_rules(delta).unwrap();
            assert!(engine.apply_rules(delta).is_err());
            engine.expire(now, 1000);
            let _ = engine.next_deadline();
            let _ = engine.flows().count();
        }
        saved
    });
    assert_eq!(allocations, 0);
    // All of that really took place.
    for code in [0, 2, 3, 4, 48] {
        assert!(seen[code] > 0, "no {:?} among the verdicts: {seen:?}", Verdict::label(code as u8));
    }
    let flow = saved.expect("a flow");
    let (allocations, old) = counted(|| engine.swap_rules(spare));
    assert_eq!(allocations, 0);
    drop(old);
    let mut other = Lab::web(&["10.244.1.2 node-a"]);
    let (allocations, restored) = counted(|| other.engine.restore(&flow));
    assert!(restored.is_ok());
    assert_eq!(allocations, 0);
}
