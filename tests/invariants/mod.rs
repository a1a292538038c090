//! What holds for a balancer whatever it is given: the one place where this is said.
//!
//! The fuzz targets, the property tests and the cluster in a box check it through these functions. They use what everybody may
//! use of the engine; checksums and keys they work out by themselves.
//!
//! | | what holds | checked by |
//! | --- | --- | --- |
//! | 1 | a packet that is not forwarded is untouched | [`packet::untouched`] |
//! | 2 | a forwarded one came as one side of its flow sends and leaves as the other side expects; nothing else of it changed but checksums | [`packet::forwarded`] |
//! | 3 | its checksums are as right or as wrong as before | [`packet::forwarded`] |
//! | 4 | a packet of a known flow never leaves untranslated | [`Watch::process`] |
//! | 5 | a new flow's backend is in the pool that the rules name; a UDP flow's serves | [`rules::allowed`], [`rules::still_allowed`] |
//! | 6 | each packet has one verdict, counted once; flows begun are those that live and those that ended | [`Watch::process`], [`table::check`] |
//! | 7 | keys are a bijection: no tuple belongs to two flows, and each is found | [`table::check`], [`Watch::check`] |
//! | 8 | memory is bounded: no more flows than there is room for | [`table::check`] |
//! | 9 | nothing expires before [`next_deadline`](lb_core::Balancer::next_deadline); one sweep leaves nothing that has expired | [`table::check`], [`Watch::expire`] |
//! | 10 | same inputs, same outputs; a batch is its packets in order | [`Watch::process`] |
//! | 11 | what answers a rejected packet is a packet, to its sender, and quotes it: longer by its own headers at most | [`packet::answer`] |
#![allow(dead_code, unreachable_pub, reason = "each user takes its part of this")]

pub mod packet;
pub mod rules;
pub mod table;
mod watch;

pub use watch::Watch;
