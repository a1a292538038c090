//! The golden traffic of `lb-core/tests/golden`, made from objects: the rules and packets that must come to the same
//! bytes on every machine (lb-core/tests/golden.rs, lb-core/examples/). `BLESS=1 cargo test --test golden` writes it.

mod common;

use std::path::Path;

use common::{cluster, frames};
use lb_core::control::Control;

/// The rules: `web`, and a service that nobody serves.
fn image() -> Vec<u8> {
    let mut control = Control::new(cluster::node());
    let empty = (cluster::service("empty", "10.96.0.11", &["tcp:80"]), cluster::slice("empty", &["tcp:80"], &[]));
    for (service, slice) in [cluster::web(&["10.244.1.2 node-a", "10.244.2.2 node-b", "10.244.2.3 node-b"]), empty] {
        control.put_service(service);
        control.put_slice(slice);
    }
    control.image().unwrap()
}

/// Connections of both families and transports, from pods and from outside, with the replies of whichever backend was
/// chosen; refusals, strangers, datagrams in pieces, pings, and bytes cut short.
fn traffic() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for client in 1..24 {
        let pod = format!("10.244.2.{}:40000", 100 + client);
        let outside = format!("203.0.113.{client}:40000");
        let mut packets = vec![
            ("S", pod.clone(), "10.96.0.10:80"),
            ("udp", pod.clone(), "10.96.0.10:53"),
            ("S", outside.clone(), "198.51.100.7:80"),
            ("udp", outside.clone(), "192.0.2.10:30053"),
        ];
        for backend in ["10.244.1.2", "10.244.2.2", "10.244.2.3"] {
            packets.push(("SA", format!("{backend}:8080"), &pod));
            packets.push(("udp", format!("{backend}:5353"), &pod));
        }
        packets.push(("A", pod.clone(), "10.96.0.10:80"));
        packets.push((if client % 2 == 0 { "FA" } else { "R" }, pod.clone(), "10.96.0.10:80"));
        packets.push(("S", outside.clone(), "10.96.0.11:80"));
        packets.push(("S", outside.clone(), "10.96.0.10:81"));
        packets.push(("A", outside.clone(), "203.0.113.77:443"));
        for (kind, from, to) in packets {
            all.push(frames::frame(kind, &from, to));
            all.push(frames::frame(kind, &cluster::twins(&from), &cluster::twins(to)));
        }
        // Of no flow yet, in three pieces, and a second such datagram.
        let asks = format!("10.244.2.{}:50000", 100 + client);
        for (asks, vip) in
            [(asks.clone(), "10.96.0.10:53".into()), (cluster::twins(&asks), cluster::twins("10.96.0.10:53"))]
        {
            let whole = frames::frame_with("udp", &asks, &vip, &[client as u8; 120]);
            for identification in [client as u32, client as u32 + 100] {
                all.extend(frames::fragments(&whole, &[40, 80], identification));
            }
        }
        all.push(frames::ping("203.0.113.1", "10.96.0.10"));
        let whole = frames::frame("udp", &outside, "10.96.0.10:53");
        all.push(frames::tagged(&whole));
        all.push(whole[..20 + client].to_vec());
    }
    all
}

/// A capture of Ethernet frames, a millisecond apart (little-endian pcap, microseconds).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
    for (number, frame) in frames.iter().enumerate() {
        let (number, length) = (number as u32, frame.len() as u32);
        file.extend(words(&[1_700_000_000 + number / 1000, number % 1000 * 1000, length, length]));
        file.extend(frame);
    }
    file
}

#[test]
fn the_committed_files_are_what_the_objects_give() {
    for (name, bytes) in [("rules.image", image()), ("traffic.pcap", pcap(&traffic()))] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lb-core/tests/golden").join(name);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(std::fs::read(&path).is_ok_and(|committed| committed == bytes), "{name} differs: see this file's head");
    }
}
