//! A packet's way through one router, for whoever wants to follow it from machine to machine.

use lb_core::{Instant, Verdict};

use crate::path::{Kind, Path};

/// What a router did with one packet.
#[derive(Clone, Debug)]
pub struct Passage {
    /// When.
    pub time: Instant,
    /// The router's name: a node's, or `load-balancer`.
    pub router: String,
    /// What its engine decided.
    pub verdict: Verdict,
    /// The packet as it came in, from its IP header on.
    pub came: Vec<u8>,
    /// As it went on; `None` if it went no further.
    pub left: Option<Vec<u8>>,
    /// The layers that were opened, if the packet is a service's.
    pub path: Option<Path>,
}

impl Passage {
    /// The layers as a load balancer opens them: what its engine takes for a service's address is its own, and its
    /// backends are nodes.
    pub(super) fn balanced(path: Path) -> Path {
        let mut layers = path.0;
        for layer in &mut layers {
            layer.kind = match layer.kind {
                Kind::Service => Kind::Lb,
                Kind::Pod => Kind::Node,
                other => other,
            };
        }
        Path(layers)
    }
}
