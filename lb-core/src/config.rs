//! What a balancer is told once, when it is made.

use core::time::Duration;

/// Construction-time choices of one balancer.
///
/// There is no `Default`: whoever links the engine chooses the key and the seed. A random key keeps
/// outsiders from aiming at the flow table's buckets; a fixed one makes a replay repeatable.
#[derive(Clone, Debug)]
pub struct Config {
    /// Key of every hash that an outsider could aim at.
    pub hash_key: [u8; 16],
    /// Seed of the generator behind random backend and port choices.
    pub seed: u64,
    /// How long flows live without traffic.
    pub timeouts: Timeouts,
    /// ICMP errors that [`write_reply`](crate::Balancer::write_reply) may produce in a second, and at once after
    /// a quiet one.
    pub replies_per_second: u32,
    /// Which part of the traffic is its, where several balancers share it.
    pub share: Share,
}

impl Config {
    /// kube-proxy's and Linux' defaults around this key and seed, for a balancer that has all of the traffic.
    pub const fn new(hash_key: [u8; 16], seed: u64) -> Self {
        Self { hash_key, seed, timeouts: Timeouts::LINUX, replies_per_second: 1000, share: Share::WHOLE }
    }
}

/// Which part of the traffic is a balancer's, where several share it, a core each: see [`Steer`](crate::Steer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which of the cores it is, from 0.
    pub core: u16,
    /// How many there are, the same at each; at least 1.
    pub cores: u16,
    /// The key under which clients are shared out, the same at each. Whoever knows it can aim at one core.
    pub key: [u8; 16],
}

impl Share {
    /// All of it: there is one balancer.
    pub const WHOLE: Self = Self { core: 0, cores: 1, key: [0; 16] };
}

/// Idle times after which a flow is forgotten, by its state. Resolution is 1/16 s, at most a year.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are the states of RFC 9293 §3.3.2 as Linux' conntrack names them")]
pub struct Timeouts {
    pub tcp_syn_sent: Duration,
    pub tcp_syn_received: Duration,
    /// Picked up in mid-stream, the backend not heard yet.
    pub tcp_picked_up: Duration,
    pub tcp_established: Duration,
    pub tcp_fin_wait: Duration,
    pub tcp_close_wait: Duration,
    pub tcp_last_ack: Duration,
    pub tcp_time_wait: Duration,
    pub tcp_close: Duration,
    pub udp_unreplied: Duration,
    pub udp_stream: Duration,
    pub sctp_opening: Duration,
    pub sctp_established: Duration,
    pub sctp_closing: Duration,
    /// For the fragments of one datagram to arrive (RFC 8200 §4.5 allows 60 s; Linux 30 s).
    pub fragments: Duration,
}

impl Timeouts {
    /// Linux' `nf_conntrack_*_timeout` sysctls with the two that kube-proxy sets: established 24 h,
    /// close-wait 1 h (SEMANTICS §11.4).
    pub const LINUX: Self = Self {
        tcp_syn_sent: Duration::from_secs(120),
        tcp_syn_received: Duration::from_secs(60),
        tcp_picked_up: Duration::from_secs(300),
        tcp_established: Duration::from_secs(86_400),
        tcp_fin_wait: Duration::from_secs(120),
        tcp_close_wait: Duration::from_secs(3600),
        tcp_last_ack: Duration::from_secs(30),
        tcp_time_wait: Duration::from_secs(120),
        tcp_close: Duration::from_secs(10),
        udp_unreplied: Duration::from_secs(30),
        udp_stream: Duration::from_secs(120),
        sctp_opening: Duration::from_secs(3),
        sctp_established: Duration::from_secs(210),
        sctp_closing: Duration::from_secs(3),
        fragments: Duration::from_secs(30),
    };
}

/// How much a balancer may remember. Its memory is [`blocks`](crate::blocks) of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// IPv4 flows, at most 2^28.
    pub v4_flows: u32,
    /// IPv6 flows, at most 2^28.
    pub v6_flows: u32,
    /// Service ports, both families counted: as many as the rule table may hold.
    pub services: u32,
    /// Clients remembered for session affinity; the one not seen for longest gives way. 0 turns it off.
    pub affinity: u32,
    /// Backends whose live flows are counted, for the schedulers lc, sed and nq. 0 makes them take every backend for
    /// idle.
    pub backends: u32,
    /// Fragmented datagrams under way.
    pub fragments: u32,
}
