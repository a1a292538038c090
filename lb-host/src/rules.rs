//! From a cluster's objects to the rules of one of its nodes, and from one state of them to the next.

use std::collections::BTreeMap;

use lb_core::RuleTable;
use lb_core::control::{Control, Label, Node, Service, Slice};
use lb_core::rules::{ApplyError, Room};

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
        Self { control: Control::new(node), services: BTreeMap::new(), slices: BTreeMap::new() }
    }

    /// Tells the control plane all objects of the next state; those that it no longer has are taken out.
    pub fn put(&mut self, services: &[Service], slices: &[Slice], node: Node) -> Changes {
        self.control.put_node(node);
        let services: BTreeMap<_, _> = services.iter().map(|one| (one.name.clone(), one.clone())).collect();
        let slices: BTreeMap<_, _> = slices.iter().map(|one| (one.name.clone(), one.clone())).collect();
        let changes =
            Changes { services: differing(&self.services, &services), slices: differing(&self.slices, &slices) };
        let gone = self.services.keys().filter(|name| !services.contains_key(*name));
        gone.for_each(|name| self.control.remove_service(name));
        let gone = self.slices.keys().filter(|name| !slices.contains_key(*name));
        gone.for_each(|name| self.control.remove_slice(name));
        services.values().for_each(|service| self.control.put_service(service.clone()));
        slices.values().for_each(|slice| self.control.put_slice(slice.clone()));
        (self.services, self.slices) = (services, slices);
        changes
    }

    /// Tells the control plane what became of some objects, at the cost of those.
    pub fn follow(&mut self, changes: Vec<Change>) -> Changes {
        let mut count = Changes::default();
        for change in changes {
            match change {
                Change::Service(service) => {
                    count.services += 1;
                    self.services.insert(service.name.clone(), service.clone());
                    self.control.put_service(service);
                }
                Change::NoService(name) => {
                    count.services += 1;
                    self.services.remove(&name);
                    self.control.remove_service(&name);
                }
                Change::Slice(slice) => {
                    count.slices += 1;
                    self.slices.insert(slice.name.clone(), slice.clone());
                    self.control.put_slice(slice);
                }
                Change::NoSlice(name) => {
                    count.slices += 1;
                    self.slices.remove(&name);
                    self.control.remove_slice(&name);
                }
                Change::Node(node) => self.control.put_node(node),
            }
        }
        count
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

/// How many entries are not the same in both.
fn differing<T: PartialEq>(before: &BTreeMap<Label, T>, now: &BTreeMap<Label, T>) -> u64 {
    let gone = before.keys().filter(|name| !now.contains_key(*name)).count();
    (gone + now.iter().filter(|(name, one)| before.get(*name) != Some(one)).count()) as u64
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
