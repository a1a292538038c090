//! The packet path of a Kubernetes Service proxy: which backend a packet goes to, and the rewritten packet.
//!
//! ```text
//! frame --wire--> Headers --flow--> hit ----------------------------------.
//!                             `-miss--> rules (Vip) --pick--> Backend -----+--nat--> same frame, rewritten + Verdict
//! ```
//!
//! # The contract
//! - **Everything is an argument**: time, key, seed, memory, packet, and what a packet's bytes can't tell. The same
//!   image, packets, key, seed and times give the same bytes and verdicts, on every target.
//! - **No std, no allocation, no lock, no clock, no panic; no unsafe code of our own but two instructions.** All memory is given by the caller,
//!   [`blocks`] says how much.
//! - **A packet is never an error**: it gets a [`Verdict`], with a counted reason. Errors are for making a [`Balancer`] and
//!   for loading rules, and say what is wrong and what to do.
//! - **Rules are pure**: a [`RuleTable`] is a view of bytes, verified whole before any of it counts. What flows and
//!   selection need to remember is the balancer's.
//! - A packet of a known flow never leaves untranslated; a packet of no Service passes untouched.
//!
//! # From objects to a rewritten packet
//! With the feature `alloc`; firmware is given the image as bytes instead.
//!
//! ```
//! # #[cfg(feature = "alloc")] {
//! use lb_core::control::*;
//! use lb_core::pick::Scheduler;
//! use lb_core::*;
//!
//! let node = Node {
//!     name: "worker-1".into(),
//!     zone: None,
//!     addresses: vec![Address::v4([192, 0, 2, 11])],
//!     proxy: Proxy {
//!         mode: Mode::IPTABLES,
//!         scheduler: Scheduler::Random,
//!         detector: Detector::Sources(vec![Prefix::new(Address::v4([10, 244, 0, 0]), 16)]),
//!         masquerade_all: false,
//!         node_port_addresses: NodePortAddresses::All,
//!         localhost_node_ports: true,
//!         service_cidrs: vec![],
//!         empty_udp: EmptyUdp::Keep,
//!         reserved_ports: (30000, 32767),
//!         masquerade: vec![],
//!         key: [0; 16],
//!     },
//! };
//! let mut control = Control::new(node);
//! control.put_service(Service {
//!     name: "default/web".into(),
//!     cluster_ips: vec![Address::v4([10, 96, 0, 10])],
//!     external_ips: vec![],
//!     load_balancer_ips: vec![],
//!     source_ranges: vec![],
//!     internal_policy: TrafficPolicy::Cluster,
//!     external_policy: TrafficPolicy::Cluster,
//!     affinity: None,
//!     preserve_destination: false,
//!     health_check_port: None,
//!     ports: vec![ServicePort { name: "".into(), protocol: Protocol::UDP, port: 53, node_port: None }],
//! });
//! control.put_slice(Slice {
//!     name: "default/web-1".into(),
//!     service: "default/web".into(),
//!     ports: vec![SlicePort { name: "".into(), protocol: Protocol::UDP, port: 5353 }],
//!     endpoints: vec![Endpoint {
//!         address: Address::v4([10, 244, 1, 10]),
//!         ready: true,
//!         serving: true,
//!         terminating: false,
//!         node: None,
//!         zone_hints: vec![],
//!         node_hints: vec![],
//!     }],
//! });
//! let rules = RuleTable::load(control.image()?)?;
//!
//! let sizes = Sizes { v4_flows: 1024, v6_flows: 1024, services: 16, affinity: 0, backends: 64, fragments: 16 };
//! let mut memory = vec![Block::ZERO; blocks(sizes)];
//! let mut balancer = Balancer::new(Config::new([7; 16], 0), sizes, &mut memory, rules)?;
//!
//! // A UDP datagram without a checksum, from 10.244.0.2:4000 to 10.96.0.10:53.
//! let mut datagram = [
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x65, 0x61, 10, 244, 0, 2, 10, 96, 0, 10, // IPv4
//!     0x0f, 0xa0, 0, 53, 0, 8, 0, 0, // UDP
//! ];
//! let mut packet = Packet::new(&mut datagram, Meta { link: Link::Ip, ..Meta::default() });
//! let verdict = balancer.process(Instant::from_secs(1), &mut packet);
//! assert!(matches!(verdict, Verdict::Forward { direction: Direction::Original, .. }));
//! assert_eq!(datagram[16..20], [10, 244, 1, 10]);
//! assert_eq!(datagram[22..24], 5353u16.to_be_bytes());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
// Of the modules of this crate processor.rs, which gives its reason, and `ffi` alone are allowed any.
#![deny(unsafe_code)]
// No packet, image or argument makes the engine panic. Tests may: see clippy.toml.
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable, clippy::unwrap_used)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod balancer;
pub mod config;
#[cfg(feature = "alloc")]
pub mod control;
pub mod counters;
#[cfg(feature = "ffi")]
pub mod ffi;
pub mod flow;
mod hash;
mod memory;
pub mod nat;
pub mod packet;
pub mod pick;
mod processor;
mod rng;
pub mod rules;
mod scheduler;
pub mod steer;
pub mod time;
pub mod tuple;
pub mod verdict;
pub mod wire;

pub use balancer::{Balancer, ConfigError, RestoreError, blocks};
pub use config::{Config, Share, Sizes, Timeouts};
pub use counters::Counters;
pub use flow::{Direction, Flow, FlowId};
pub use memory::Block;
pub use nat::Checksum;
pub use packet::{Meta, Origin, Packet};
pub use rules::RuleTable;
pub use steer::Steer;
pub use time::Instant;
pub use tuple::{Address, Family, Prefix, Protocol, Tuple};
pub use verdict::{Datagram, DropReason, RejectReason, Verdict};
pub use wire::Link;
