//! Who is reached where.

use std::collections::BTreeMap;

use lb_core::{Address, Prefix};

use super::machine::{MachineId, Place};

/// Where a packet is: at a machine, or at the gateway between the nodes and the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Station {
    Machine(MachineId),
    Gateway,
}

/// Addresses and where they lead.
#[derive(Debug, Default)]
pub(super) struct Fabric {
    addresses: BTreeMap<Address, MachineId>,
    places: BTreeMap<MachineId, Place>,
    /// What the outside sends to a node, the longest prefix first.
    routes: Vec<(Prefix, MachineId)>,
}

impl Fabric {
    pub(super) fn enter(&mut self, machine: MachineId, place: Place, addresses: &[Address]) {
        self.places.insert(machine, place);
        self.addresses.extend(addresses.iter().map(|address| (*address, machine)));
    }

    pub(super) fn leave(&mut self, machine: MachineId) {
        self.places.remove(&machine);
        self.addresses.retain(|_, owner| *owner != machine);
        self.routes.retain(|(_, node)| *node != machine);
    }

    pub(super) fn route(&mut self, prefix: Prefix, node: MachineId) {
        self.routes.retain(|(known, _)| *known != prefix);
        self.routes.push((prefix, node));
        self.routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.length()));
    }

    pub(super) fn owner(&self, address: Address) -> Option<MachineId> {
        self.addresses.get(&address).copied()
    }

    /// Where a packet for `destination` goes from here; `None` if nobody knows.
    pub(super) fn next(&self, from: Station, destination: Address) -> Option<Station> {
        let owner = self.owner(destination).and_then(|owner| Some((owner, *self.places.get(&owner)?)));
        let at = match from {
            Station::Machine(machine) => Some((machine, *self.places.get(&machine)?)),
            Station::Gateway => None,
        };
        Some(match (at, owner) {
            // A pod's and a client's only way.
            (Some((_, Place::Pod(node))), _) => Station::Machine(node),
            (Some((_, Place::Outside)), _) => Station::Gateway,
            // A node hands its own pods their packets, other nodes theirs; the rest is for the gateway.
            (Some((node, Place::Node)), Some((pod, Place::Pod(behind)))) if node == behind => Station::Machine(pod),
            (_, Some((_, Place::Pod(behind)))) => Station::Machine(behind),
            (_, Some((node, Place::Node))) => Station::Machine(node),
            (Some((_, Place::Node)), _) => Station::Gateway,
            (None, Some((client, Place::Outside))) => Station::Machine(client),
            (None, None) => Station::Machine(self.routes.iter().find(|(prefix, _)| prefix.contains(destination))?.1),
        })
    }

    /// The machine whose cable is between two neighbours, or the two whose cables are.
    pub(super) fn cables(&self, from: Station, to: Station) -> [Option<Station>; 2] {
        let single = |station: Station| match station {
            Station::Machine(machine) => !matches!(self.places.get(&machine), Some(Place::Node)),
            Station::Gateway => false,
        };
        match (single(from), single(to)) {
            (true, _) => [Some(from), None],
            (_, true) => [Some(to), None],
            _ => [Some(from), Some(to)],
        }
    }
}
