//! The C ABI called from Rust, so that Miri can watch what it does with pointers:
//! `cargo +nightly miri test -p lb-core --features alloc,ffi --test ffi`. Its behaviour is for `tests/c_abi`.
#![allow(unsafe_code, reason = "what C does")]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{null, null_mut};

use lb_core::control::*;
use lb_core::ffi::*;
use lb_core::pick::Scheduler;
use lb_core::{Address, Prefix, Protocol};

/// Memory as C's allocator gives it: aligned, with nothing in it.
struct Memory(*mut u8, Layout);

impl Memory {
    fn of(layout: &lb_layout) -> Self {
        let layout = Layout::from_size_align(layout.size, layout.alignment as usize).unwrap();
        // SAFETY: not of size 0.
        Self(unsafe { alloc(layout) }, layout)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as it was allocated.
        unsafe { dealloc(self.0, self.1) }
    }
}

fn image(backends: &[[u8; 4]]) -> Vec<u8> {
    let proxy = Proxy {
        mode: Mode::IPTABLES,
        scheduler: Scheduler::RoundRobin,
        detector: Detector::Sources(vec![Prefix::new(Address::v4([10, 244, 0, 0]), 16)]),
        masquerade_all: false,
        node_port_addresses: NodePortAddresses::All,
        localhost_node_ports: true,
        service_cidrs: vec![],
        empty_udp: EmptyUdp::Keep,
        reserved_ports: (30000, 32767),
        masquerade: vec![],
        key: [0; 16],
    };
    let node = Node { name: "node-a".into(), zone: None, addresses: vec![Address::v4([192, 0, 2, 11])], proxy };
    let mut control = Control::new(node);
    control.put_service(Service {
        name: "default/dns".into(),
        cluster_ips: vec![Address::v4([10, 96, 0, 10])],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        preserve_destination: false,
        health_check_port: None,
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::UDP, port: 53, node_port: None }],
    });
    let endpoint = |address: &[u8; 4]| Endpoint {
        address: Address::v4(*address),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone_hints: vec![],
        node_hints: vec![],
    };
    control.put_slice(Slice {
        name: "default/dns-1".into(),
        service: "default/dns".into(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::UDP, port: 5353 }],
        endpoints: backends.iter().map(endpoint).collect(),
    });
    control.image().unwrap()
}

/// A UDP datagram without a checksum from 10.244.0.`client`:4000 to 10.96.0.10:53.
fn datagram(client: u8) -> [u8; 28] {
    let sum = 0x6563 - u16::from(client);
    let [high, low] = sum.to_be_bytes();
    #[rustfmt::skip]
    let bytes = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, high, low, 10, 244, 0, client, 10, 96, 0, 10,
        0x0f, 0xa0, 0, 53, 0, 8, 0, 0,
    ];
    bytes
}

fn layout() -> lb_layout {
    lb_layout { struct_size: size_of::<lb_layout>() as u32, alignment: 0, size: 0 }
}

#[test]
fn a_life_of_a_balancer() {
    let first = image(&[[10, 244, 1, 1], [10, 244, 1, 2]]);
    let empty = image(&[]);
    let (mut rules_layout, mut room_layout, mut balancer_layout) = (layout(), layout(), layout());
    let room = lb_room { struct_size: size_of::<lb_room>() as u32, services: 4, vips: 8, segments: 1 << 12 };
    let sizes = lb_sizes {
        struct_size: size_of::<lb_sizes>() as u32,
        v4_flows: 16,
        v6_flows: 4,
        services: 4,
        affinity: 4,
        backends: 8,
        fragments: 4,
    };
    let mut config = std::mem::MaybeUninit::<lb_config>::uninit();
    let ok = lb_status::Ok;
    // SAFETY: every pointer is valid for what the functions ask, and memory outlives its use.
    unsafe {
        (&raw mut (*config.as_mut_ptr()).struct_size).write(size_of::<lb_config>() as u32);
        assert_eq!(lb_config_linux(config.as_mut_ptr()), ok);
        assert_eq!(lb_rules_layout(null(), &mut rules_layout), ok);
        assert_eq!(lb_rules_layout(&room, &mut room_layout), ok);
        assert_eq!(lb_balancer_layout(&sizes, &mut balancer_layout), ok);
        let (in_place, roomy) = (Memory::of(&rules_layout), Memory::of(&room_layout));
        let memory = Memory::of(&balancer_layout);

        let (mut read_only, mut writable, mut balancer) = (null_mut(), null_mut(), null_mut());
        let load = lb_rules_load;
        assert_eq!(
            load(in_place.0.cast(), in_place.1.size(), first.as_ptr(), first.len(), &mut read_only, null_mut()),
            ok
        );
        assert_eq!(lb_rules_with_room(roomy.0.cast(), roomy.1.size(), &room, &mut writable), ok);
        assert_eq!(lb_rules_apply(writable, empty.as_ptr(), empty.len(), null_mut()), ok);
        let init = lb_balancer_init;
        let size = memory.1.size();
        assert_eq!(init(memory.0.cast(), size, config.as_ptr(), &sizes, read_only, &mut balancer), ok);
        assert_eq!(init(memory.0.cast(), size, config.as_ptr(), &sizes, read_only, &mut balancer), lb_status::InUse);

        // More packets than are handed on at once.
        let mut frames: Vec<_> = (0..40).map(|client| datagram(client % 8)).collect();
        let packet = |frame: &mut [u8; 28]| lb_packet {
            struct_size: size_of::<lb_packet>() as u32,
            meta: lb_meta { link: lb_link::Ip as u8, ..lb_meta::default() },
            data: frame.as_mut_ptr(),
            length: frame.len(),
            verdict: lb_verdict::default(),
        };
        let mut packets: Vec<_> = frames.iter_mut().map(packet).collect();
        let mut cores = [9; 40];
        assert_eq!(lb_steer(balancer, packets.as_ptr(), packets.len(), cores.as_mut_ptr()), ok);
        assert_eq!(cores, [0; 40]);
        assert_eq!(lb_process_batch(balancer, 1, packets.as_mut_ptr(), packets.len()), ok);
        assert!(packets.iter().all(|packet| packet.verdict.action == lb_action::Forward as u8));
        drop(packets);
        assert!(frames.iter().all(|frame| frame[16..19] == [10, 244, 1] && frame[22..24] == 5353u16.to_be_bytes()));

        // Other rules, under which there is nobody left: a new flow is refused.
        let mut previous = null_mut();
        assert_eq!(lb_swap_rules(balancer, writable, &mut previous), ok);
        assert_eq!(previous, read_only);
        let mut frame = datagram(99);
        let mut packet = packet(&mut frame);
        assert_eq!(lb_process_batch(balancer, 2, &mut packet, 1), ok);
        assert_eq!(packet.verdict.action, lb_action::Reject as u8);
        let (mut reply, mut written) = ([0; 1300], 0);
        assert_eq!(lb_write_reply(balancer, 2, &packet, reply.as_mut_ptr(), reply.len(), &mut written), ok);
        assert_eq!((written, &reply[16..20], reply[20]), (56, &[10, 244, 0, 99][..], 3));

        // What was saved is brought back once.
        let flow = lb_flow { struct_size: size_of::<lb_flow>() as u32, ..std::mem::zeroed() };
        let mut flows = [flow; 32];
        let (mut position, mut count) = (0, 0);
        assert_eq!(lb_flows(balancer, &mut position, flows.as_mut_ptr(), flows.len(), &mut count), ok);
        assert_eq!(count, 8);
        assert_eq!(lb_restore(balancer, &flows[0], null_mut()), lb_status::Taken);
        let mut forgotten = 0;
        assert_eq!(lb_expire(balancer, 3600 * LB_SECOND, 100, &mut forgotten), ok);
        assert_eq!(forgotten, 8);
        let mut id = 0;
        assert_eq!(lb_restore(balancer, &flows[0], &mut id), ok);
        let mut found: lb_flow = flows[1];
        assert_eq!(lb_flow_by_id(balancer, id, &mut found), ok);
        assert_eq!(found.original.source, flows[0].original.source);

        let mut counted = 0;
        assert_eq!(lb_counter_by_name(balancer, c"forward".as_ptr(), &mut counted), ok);
        assert_eq!(counted, 40);
        assert_eq!(lb_counter(balancer, 0, null_mut()), lb_status::Null);
        assert_eq!(lb_apply(balancer, first.as_ptr(), first.len(), null_mut()), lb_status::WrongBase);
    }
}
