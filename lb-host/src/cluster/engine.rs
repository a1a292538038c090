//! An engine with its memory and the control plane that feeds it.

use lb_core::control::{Control, Label, Node, Service, Slice};
use lb_core::rules::{ApplyError, Room};
use lb_core::{
    Balancer, Block, Config, Counters, Datagram, Instant, Link, Meta, Origin, Packet, RejectReason, RuleTable, Sizes,
    Verdict, blocks,
};
use self_cell::{MutBorrow, self_cell};

use crate::chance::Chance;
use crate::proxy::{Proxy, Redirect};

type Core<'m> = Balancer<'m, Vec<u8>>;

self_cell!(
    struct Cell {
        owner: MutBorrow<Vec<Block>>,
        #[not_covariant]
        dependent: Core,
    }
);

/// What a node's control plane is told.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Service is new or is not as it was.
    Service(Service),
    /// A Service is gone.
    NoService(Label),
    /// A slice is new or is not as it was.
    Slice(Slice),
    /// A slice is gone.
    NoSlice(Label),
    /// The node itself is not as it was. Every node hears of its own only.
    Node(Node),
}

/// A node's rules cannot be made or loaded; nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The objects exceed what an image can hold.
    #[error("the rules of {node} cannot be compiled: {reason}")]
    Compile {
        /// Whose.
        node: Label,
        /// Why not.
        reason: String,
    },
    /// The table refuses them.
    #[error("the rules of {node} cannot be applied: {reason}")]
    Apply {
        /// Whose.
        node: Label,
        /// Why not.
        reason: String,
    },
}

/// What a box's node has room for: hundreds of clients, not a data centre's.
const SIZES: Sizes =
    Sizes { v4_flows: 4096, v6_flows: 4096, services: 512, affinity: 512, backends: 512, fragments: 64 };

/// Room of the first table, which grows when there is need.
const ROOM: Room = Room { services: 8, vips: 32, segments: 1 << 14 };

/// A balancer that owns what it works in.
pub(super) struct Engine {
    cell: Cell,
    control: Control,
    /// What the rules are made from while a proxy on the node is to have the services' packets.
    redirect: Option<Redirect>,
    delta: Vec<u8>,
}

impl Engine {
    pub(super) fn new(node: Node, mut chance: Chance) -> Result<Self, EngineError> {
        let trouble = |reason: String| EngineError::Apply { node: node.name.clone(), reason };
        let rules = RuleTable::with_room(vec![0; ROOM.bytes()], ROOM).map_err(|error| trouble(error.to_string()))?;
        let mut key = [0; 16];
        let (low, high) = key.split_at_mut(8);
        low.copy_from_slice(&chance.draw().to_le_bytes());
        high.copy_from_slice(&chance.draw().to_le_bytes());
        let config = Config::new(key, chance.draw());
        let memory = MutBorrow::new(vec![Block::ZERO; blocks(SIZES)]);
        let cell = Cell::try_new(memory, |memory| Balancer::new(config, SIZES, memory.borrow_mut(), rules))
            .map_err(|error| trouble(error.to_string()))?;
        let mut engine = Self { cell, control: Control::new(node), redirect: None, delta: Vec::new() };
        engine.sync(None)?;
        Ok(engine)
    }

    /// The objects as the node knows them.
    pub(super) const fn control(&self) -> &Control {
        &self.control
    }

    /// The control plane's view of the node.
    pub(super) fn node(&self) -> &Node {
        self.control.node()
    }

    /// Takes a change in; [`sync`](Self::sync) makes it count.
    pub(super) fn learn(&mut self, change: Change) {
        match change {
            Change::Service(service) => self.control.put_service(service),
            Change::NoService(name) => self.control.remove_service(&name),
            Change::Slice(slice) => self.control.put_slice(slice),
            Change::NoSlice(name) => self.control.remove_slice(&name),
            Change::Node(node) if node.name == self.control.node().name => self.control.put_node(node),
            Change::Node(_) => {}
        }
    }

    /// Applies what changed, in one step for all packets. With a proxy all services' packets are for it.
    pub(super) fn sync(&mut self, proxy: Option<&Proxy>) -> Result<(), EngineError> {
        let node = self.control.node().name.clone();
        let not_compiled = |error: lb_core::control::CompileError| EngineError::Compile {
            node: node.clone(),
            reason: error.to_string(),
        };
        let not_applied = |error: ApplyError| EngineError::Apply { node: node.clone(), reason: error.to_string() };
        // Rules of another origin are no change of the old ones.
        let anew = proxy.is_some() != self.redirect.is_some();
        if anew {
            self.redirect = proxy.map(|_| Redirect::new(self.control.node()));
        }
        let changed = match (&mut self.redirect, proxy) {
            (Some(redirect), Some(proxy)) => redirect.delta(&self.control, proxy, &mut self.delta),
            _ => self.control.delta(&mut self.delta),
        };
        if !changed.map_err(not_compiled)? && !anew {
            return Ok(());
        }
        let delta = &self.delta;
        if !anew {
            match self.cell.with_dependent_mut(|_, balancer| balancer.apply_rules(delta)) {
                Err(ApplyError::NoSpace { .. }) => {}
                applied => return applied.map_err(not_applied),
            }
        }
        let image = self.redirect.as_mut().map_or_else(|| self.control.image(), Redirect::image);
        let image = image.map_err(not_compiled)?;
        let room = Room::for_image(&image).map_err(|error| not_applied(ApplyError::Delta(error)))?;
        let mut grown = RuleTable::with_room(vec![0; room.bytes()], room).map_err(not_applied)?;
        grown.apply(&image).map_err(not_applied)?;
        self.cell.with_dependent_mut(|_, balancer| drop(balancer.swap_rules(grown)));
        Ok(())
    }

    /// Judges a packet from its IP header on, and rewrites it.
    pub(super) fn process(&mut self, now: Instant, origin: Origin, bytes: &mut [u8]) -> (Verdict, Option<Datagram>) {
        self.cell.with_dependent_mut(|_, balancer| {
            let mut packet = Packet::new(bytes, meta(origin));
            let verdict = balancer.process(now, &mut packet);
            (verdict, packet.releases)
        })
    }

    /// What answers a rejected packet, if anything does.
    pub(super) fn reply(&mut self, now: Instant, bytes: &mut [u8], reason: RejectReason) -> Option<Vec<u8>> {
        let mut out = vec![0; 1280];
        let written = self.cell.with_dependent_mut(|_, balancer| {
            balancer.write_reply(now, &Packet::new(bytes, meta(Origin::Wire)), reason, &mut out)
        });
        out.truncate(written?);
        Some(out)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.cell.with_dependent_mut(|_, balancer| balancer.expire(now, usize::MAX));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.with(|balancer| balancer.next_deadline())
    }

    pub(super) fn counters(&self) -> Counters {
        self.with(|balancer| balancer.counters().clone())
    }

    /// Looks at the balancer.
    pub(super) fn with<R>(&self, look: impl FnOnce(&Core<'_>) -> R) -> R {
        self.cell.with_dependent(|_, balancer| look(balancer))
    }
}

fn meta(origin: Origin) -> Meta {
    Meta { link: Link::Ip, origin, ..Meta::default() }
}
