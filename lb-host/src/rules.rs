//! From a cluster's objects to the rules of one of its nodes, and from one state of them to the next.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::RuleTable;
use lb_core::control::{Control, Label, Node, Resolved, Service, Slice};
use lb_core::rules::{ApplyError, Pool, Room, VipClass};

/// The control plane of a node that knows these objects.
pub fn control(services: &[Service], slices: &[Slice], node: Node) -> Control {
    let mut control = Control::new(node);
    services.iter().for_each(|service| control.put_service(service.clone()));
    slices.iter().for_each(|slice| control.put_slice(slice.clone()));
    control
}

/// A control plane that is brought from one state of all objects to the next.
pub struct Following {
    /// The control plane.
    pub control: Control,
    services: BTreeMap<Label, Service>,
    slices: BTreeMap<Label, Slice>,
    /// Services that something became of since it was last looked who lacks endpoints here.
    touched: BTreeSet<Label>,
    /// Services that endpoints serve, but none of this node, of traffic that is for this node's: from inside, from outside.
    lacking: BTreeMap<Label, (bool, bool)>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service came or changed.
    Service(Service),
    /// The service of this name went.
    NoService(Label),
    /// A slice came or changed.
    Slice(Slice),
    /// The slice of this name went.
    NoSlice(Label),
    /// The node changed.
    Node(Node),
}

/// How many objects came, went or changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services.
    pub services: u64,
    /// Slices of endpoints.
    pub slices: u64,
}

impl Following {
    /// The control plane of a node, without objects.
    pub fn new(node: Node) -> Self {
        Self {
            control: Control::new(node),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            touched: BTreeSet::new(),
            lacking: BTreeMap::new(),
        }
    }

    /// Tells the control plane all objects of the next state; those that it no longer has are taken out.
    pub fn put(&mut self, services: &[Service], slices: &[Slice], node: Node) -> Changes {
        let now: BTreeSet<_> = services.iter().map(|one| &one.name).collect();
        let gone: Vec<_> = self.services.keys().filter(|name| !now.contains(name)).cloned().collect();
        let now: BTreeSet<_> = slices.iter().map(|one| &one.name).collect();
        let gone_slices: Vec<_> = self.slices.keys().filter(|name| !now.contains(name)).cloned().collect();
        let came = services.iter().filter(|one| self.services.get(&one.name) != Some(*one)).cloned();
        let came_slices = slices.iter().filter(|one| self.slices.get(&one.name) != Some(*one)).cloned();
        let changes = came.map(Change::Service).chain(came_slices.map(Change::Slice));
        let gone = gone.into_iter().map(Change::NoService).chain(gone_slices.into_iter().map(Change::NoSlice));
        let changes = gone.chain(changes).chain([Change::Node(node)]).collect();
        self.follow(changes)
    }

    /// Tells the control plane what became of some objects, at the cost of those.
    pub fn follow(&mut self, changes: Vec<Change>) -> Changes {
        let mut count = Changes::default();
        for change in changes {
            match change {
                Change::Service(service) => {
                    count.services += 1;
                    self.touched.insert(service.name.clone());
                    self.services.insert(service.name.clone(), service.clone());
                    self.control.put_service(service);
                }
                Change::NoService(name) => {
                    count.services += 1;
                    self.services.remove(&name);
                    self.control.remove_service(&name);
                    self.touched.insert(name);
                }
                Change::Slice(slice) => {
                    count.slices += 1;
                    self.touched.insert(slice.service.clone());
                    let before = self.slices.insert(slice.name.clone(), slice.clone());
                    self.touched.extend(before.map(|before| before.service));
                    self.control.put_slice(slice);
                }
                Change::NoSlice(name) => {
                    count.slices += 1;
                    self.touched.extend(self.slices.remove(&name).map(|before| before.service));
                    self.control.remove_slice(&name);
                }
                Change::Node(node) => {
                    if *self.control.node() != node {
                        self.touched.extend(self.services.keys().cloned());
                    }
                    self.control.put_node(node);
                }
            }
        }
        count
    }

    /// How many services have endpoints, but none on this node, for traffic that is for this node's alone: from inside, from outside
    /// (SEMANTICS §6.4). Looks at those that something became of since it was last asked.
    pub fn without_local_endpoints(&mut self) -> (u64, u64) {
        for name in std::mem::take(&mut self.touched) {
            let lacks = (false, false);
            let ports = self.control.resolve(&name).into_iter().filter(|port| port.has_any);
            let ports = ports.filter(|port| port.pool(Pool::Local).is_some_and(|mut local| local.next().is_none()));
            let is_outside = |port: &Resolved| port.vips.iter().any(|vip| vip.class != VipClass::ClusterIp);
            let (inside, outside) = ports.fold(lacks, |(inside, outside), port| {
                (inside || port.internal_local, outside || (port.external_local && is_outside(&port)))
            });
            match (inside, outside) {
                (false, false) => self.lacking.remove(&name),
                lacks => self.lacking.insert(name, lacks),
            };
        }
        let count = |of: fn(&(bool, bool)) -> bool| self.lacking.values().filter(|lacks| of(lacks)).count() as u64;
        (count(|lacks| lacks.0), count(|lacks| lacks.1))
    }

    /// The services in force, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The slices in force, by name.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> + Clone {
        self.slices.values()
    }
}

/// A table with little room, in which nothing is yet: it is replaced by a larger one when there is need.
///
/// # Errors
/// None in practice.
pub fn empty() -> Result<RuleTable<Vec<u8>>, ApplyError> {
    let room = Room { services: 8, vips: 32, segments: 1 << 14 };
    RuleTable::with_room(vec![0; room.bytes()], room)
}

/// A table with this image in it, and room for more.
///
/// # Errors
/// The image is not whole.
pub fn grown(image: &[u8]) -> Result<RuleTable<Vec<u8>>, ApplyError> {
    let room = Room::for_image(image).map_err(ApplyError::Delta)?;
    let mut rules = RuleTable::with_room(vec![0; room.bytes()], room)?;
    rules.apply(image)?;
    Ok(rules)
}
