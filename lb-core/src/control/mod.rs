//! The control arrow: objects in, rule images and deltas out. Feature `alloc`.
//!
//! ```text
//! Service, Slice, Node --resolve--> Resolved --compile--> segments --collect--> image / delta
//! ```

mod candidate;
mod compile;
mod mode;
mod objects;
mod resolve;
mod windows;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

pub use candidate::{Candidate, Standing};
pub use compile::CompileError;
pub use mode::{EndpointRule, Mode};
pub use objects::*;
pub use resolve::{Resolved, resolve};

use crate::rules::image::fingerprint;
use crate::rules::{Vip, VipClass};
use crate::tuple::{Address, Protocol};

/// The state of the control plane for one node: the objects, and the segments that they come to.
///
/// Put objects in and take them out in any order; then [`delta`](Self::delta) gives what changed since
/// the last one, at the cost of the services that changed. The bytes depend on the objects alone.
pub struct Control {
    node: Node,
    services: BTreeMap<Label, Known>,
    /// Which service each slice belongs to.
    slices: BTreeMap<Label, Label>,
    claims: BTreeMap<Frontend, BTreeSet<Claim>>,
    segments: BTreeMap<u64, Compiled>,
    node_section: Box<[u8]>,
    /// Services to be looked at anew.
    changed: BTreeSet<Label>,
    node_changed: bool,
    /// Ports on which the node answers health checks, and for how many services.
    health_checks: BTreeMap<u16, usize>,
    /// Service ports that have no rules, by service.
    problems: BTreeMap<Label, Vec<CompileError>>,
    /// Segments that are not as they were at the last delta, and what their fingerprint was then.
    pending: BTreeMap<u64, Option<u64>>,
    fingerprint: u64,
    delivered: u64,
}

/// What is known of a service: the object if it is there, its slices, the segments compiled from them.
#[derive(Default)]
struct Known {
    service: Option<Service>,
    slices: BTreeMap<Label, Slice>,
    claimed: Vec<(Frontend, Claim)>,
    segments: Vec<u64>,
}

struct Compiled {
    bytes: Box<[u8]>,
    label: Label,
}

/// What at most one service port can have: an address or, for a node port, a family; port; protocol.
type Frontend = (bool, Address, u16, Protocol);

/// A service port's claim to a frontend: of several, the one of the lowest service name, port name and
/// protocol has it, whatever came first.
type Claim = (Label, Label, Protocol);

fn frontend(vip: &Vip) -> Frontend {
    (vip.class == VipClass::NodePort, vip.address, vip.port, vip.protocol)
}

impl Control {
    /// The control plane of this node, without services.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            claims: BTreeMap::new(),
            segments: BTreeMap::new(),
            node_section: Box::default(),
            changed: BTreeSet::new(),
            node_changed: true,
            health_checks: BTreeMap::new(),
            problems: BTreeMap::new(),
            pending: BTreeMap::new(),
            fingerprint: 0,
            delivered: 0,
        }
    }

    /// Adds a service, or replaces the one of its name.
    pub fn put_service(&mut self, service: Service) {
        let known = self.services.entry(service.name.clone()).or_default();
        if known.service.as_ref() != Some(&service) {
            self.changed.insert(service.name.clone());
            let port = service.health_check_port;
            let before = known.service.replace(service).and_then(|before| before.health_check_port);
            self.count_health_checks(before, port);
        }
    }

    /// Takes a service out; its slices stay, for a service of that name to come.
    pub fn remove_service(&mut self, name: &Label) {
        if let Some(known) = self.services.get_mut(name) {
            let before = known.service.take().and_then(|before| before.health_check_port);
            self.changed.insert(name.clone());
            self.count_health_checks(before, None);
        }
    }

    /// Takes note that a service's health check port was `before` and is `now`.
    fn count_health_checks(&mut self, before: Option<u16>, now: Option<u16>) {
        if before == now {
            return;
        }
        if let Some(port) = now {
            *self.health_checks.entry(port).or_insert(0) += 1;
        }
        if let Some(services) = before.and_then(|port| self.health_checks.get_mut(&port)) {
            *services -= 1;
        }
        self.health_checks.retain(|_, services| *services > 0);
        self.node_changed = true;
    }

    /// Adds a slice, or replaces the one of its name.
    pub fn put_slice(&mut self, slice: Slice) {
        // Most often its service has it already, and nobody need be asked whose it is.
        let before = self.services.get_mut(&slice.service).and_then(|known| known.slices.get_mut(&slice.name));
        if let Some(before) = before {
            if *before != slice {
                self.changed.insert(slice.service.clone());
                *before = slice;
            }
            return;
        }
        self.remove_slice(&slice.name);
        self.slices.insert(slice.name.clone(), slice.service.clone());
        self.changed.insert(slice.service.clone());
        self.services.entry(slice.service.clone()).or_default().slices.insert(slice.name.clone(), slice);
    }

    /// Takes a slice out.
    pub fn remove_slice(&mut self, name: &Label) {
        let Some(service) = self.slices.remove(name) else { return };
        if let Some(known) = self.services.get_mut(&service) {
            known.slices.remove(name);
            self.changed.insert(service);
        }
    }

    /// Replaces what is known of the node, upon which every service is looked at anew. Under another key the next delta is
    /// a full image again, for a table of its own.
    pub fn put_node(&mut self, node: Node) {
        if self.node != node {
            if self.node.proxy.key != node.proxy.key {
                // Every directory and Maglev table is another: no delta leads there, a full image does.
                self.delivered = 0;
                self.pending = self.segments.keys().map(|id| (*id, None)).collect();
            }
            self.node = node;
            self.node_changed = true;
            self.changed.extend(self.services.keys().cloned());
        }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter_map(|known| known.service.as_ref())
    }

    /// What may serve each port of a service, and why not the others.
    pub fn resolve(&self, service: &str) -> Vec<Resolved> {
        self.services.get(service).map(|known| known.resolve(&self.node)).unwrap_or_default()
    }

    /// Service ports that have no rules as of the last [`delta`](Self::delta) or [`image`](Self::image), each with its
    /// service's name and the reason. All others are served.
    pub fn problems(&self) -> impl Iterator<Item = (&Label, &CompileError)> {
        self.problems.iter().flat_map(|(service, problems)| problems.iter().map(move |problem| (service, problem)))
    }

    /// Writes to `out` what changed since the last delta, as a delta on the table that the earlier ones
    /// built; the first is a full image. False, and `out` left empty, if nothing did. A service port that an image can't
    /// hold is left out of it, which [`problems`](Self::problems) tells.
    ///
    /// # Errors
    /// [`CompileError`] if the node itself exceeds what an image can hold; nothing is lost, and the next call
    /// tries again.
    pub fn delta(&mut self, out: &mut Vec<u8>) -> Result<bool, CompileError> {
        out.clear();
        self.settle()?;
        let now = |id: &u64| fingerprint(*id, self.section(*id));
        // A change that was undone is none (SEMANTICS §4.8).
        let differs = |(id, before): &(&u64, &Option<u64>)| match before {
            Some(before) => !self.section_exists(**id) || now(id) != *before,
            None => self.section_exists(**id),
        };
        let sections: Vec<(u64, &[u8])> =
            self.pending.iter().filter(differs).map(|(id, _)| (*id, self.section(*id))).collect();
        if !sections.is_empty() {
            compile::image(&self.node.proxy.key, self.delivered, self.fingerprint, &sections, out);
        }
        self.pending.clear();
        self.delivered = self.fingerprint;
        Ok(!out.is_empty())
    }

    /// The full image of the objects as they are. What [`delta`](Self::delta) will give is not touched.
    ///
    /// # Errors
    /// As [`delta`](Self::delta).
    pub fn image(&mut self) -> Result<Vec<u8>, CompileError> {
        self.settle()?;
        let mut sections: Vec<(u64, &[u8])> = Vec::with_capacity(self.segments.len() + 1);
        sections.push((0, &self.node_section));
        sections.extend(self.segments.iter().map(|(id, segment)| (*id, &*segment.bytes)));
        let mut out = Vec::new();
        compile::image(&self.node.proxy.key, 0, self.fingerprint, &sections, &mut out);
        Ok(out)
    }

    fn section(&self, id: u64) -> &[u8] {
        if id == 0 { &self.node_section } else { self.segments.get(&id).map_or(&[], |segment| &segment.bytes) }
    }

    fn section_exists(&self, id: u64) -> bool {
        !self.section(id).is_empty()
    }

    /// Brings the segments up to the objects.
    fn settle(&mut self) -> Result<(), CompileError> {
        if self.node_changed {
            let health_checks: Vec<u16> = self.health_checks.keys().copied().collect();
            let section = compile::node_section(&self.node, &health_checks)?;
            self.replace(0, Some(Compiled { bytes: section.into(), label: self.node.name.clone() }));
            self.node_changed = false;
        }
        // A service port whose id was another's may have it to itself by now.
        let twins =
            self.problems.iter().filter(|(_, all)| all.iter().any(|p| matches!(p, CompileError::SameId { .. })));
        self.changed.extend(twins.map(|(service, _)| service.clone()));
        // A claim won or lost changes others: they come after, again if they were here before.
        while let Some(name) = self.changed.pop_first() {
            let ports = self.claim(&name);
            self.recompile(&name, ports);
        }
        Ok(())
    }

    /// Brings a service's claims up to date. Whoever wins or loses a frontend by it is changed too. What the service comes to
    /// is handed back.
    fn claim(&mut self, name: &Label) -> Vec<Resolved> {
        let Some(known) = self.services.get_mut(name) else { return Vec::new() };
        let resolved = known.resolve(&self.node);
        let claimed = resolved.iter().flat_map(claims).collect();
        let before = core::mem::replace(&mut known.claimed, claimed);
        let known = &*known;
        for (frontend, claim) in before.iter().filter(|claim| !known.claimed.contains(claim)) {
            let Some(claims) = self.claims.get_mut(frontend) else { continue };
            claims.remove(claim);
            self.changed.extend(claims.first().map(|(service, ..)| service.clone()));
            if claims.is_empty() {
                self.claims.remove(frontend);
            }
        }
        for (frontend, claim) in known.claimed.iter().filter(|claim| !before.contains(claim)) {
            let claims = self.claims.entry(*frontend).or_default();
            self.changed.extend(claims.first().map(|(service, ..)| service.clone()));
            claims.insert(claim.clone());
        }
        resolved
    }

    fn recompile(&mut self, name: &Label, ports: Vec<Resolved>) {
        let (mut compiled, mut problems) = (Vec::new(), Vec::new());
        for resolved in ports {
            let own = (resolved.service.clone(), resolved.port.name.clone(), resolved.port.protocol);
            let has = |vip: &&Vip| self.claims.get(&frontend(vip)).and_then(BTreeSet::first) == Some(&own);
            let vips: Vec<Vip> = resolved.vips.iter().filter(has).copied().collect();
            let primary = self.node.primary(resolved.family);
            let label = Label::from(resolved.label());
            let id = compile::id(&label, resolved.family);
            let twin = self.segments.get(&id).filter(|other| other.label != label);
            let bytes = match twin {
                Some(other) => Err(CompileError::SameId { labels: (other.label.clone(), label.clone()) }),
                None => compile::segment(&resolved, (&label, id), &vips, &self.node.proxy, primary),
            };
            match bytes {
                Ok(bytes) => compiled.push((id, Compiled { bytes: bytes.into(), label })),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            self.problems.remove(name);
        } else {
            self.problems.insert(name.clone(), problems);
        }
        let now: Vec<u64> = compiled.iter().map(|(id, _)| *id).collect();
        let Some(known) = self.services.get_mut(name) else { return };
        let before = core::mem::replace(&mut known.segments, now.clone());
        if known.service.is_none() && known.slices.is_empty() {
            self.services.remove(name);
        }
        before.into_iter().filter(|id| !now.contains(id)).for_each(|id| self.replace(id, None));
        compiled.into_iter().for_each(|(id, segment)| self.replace(id, Some(segment)));
    }

    /// Puts a section in the place of the one of this id, or takes that away.
    fn replace(&mut self, id: u64, section: Option<Compiled>) {
        let print = |bytes: &[u8]| Some(fingerprint(id, bytes)).filter(|_| !bytes.is_empty());
        let now = section.as_ref().and_then(|section| print(&section.bytes));
        let before = match section {
            Some(section) if id == 0 => print(&core::mem::replace(&mut self.node_section, section.bytes)),
            Some(section) => self.segments.insert(id, section).and_then(|before| print(&before.bytes)),
            None => self.segments.remove(&id).and_then(|before| print(&before.bytes)),
        };
        self.fingerprint = self.fingerprint.wrapping_sub(before.unwrap_or(0)).wrapping_add(now.unwrap_or(0));
        self.pending.entry(id).or_insert(before);
    }
}

impl Known {
    fn resolve(&self, node: &Node) -> Vec<Resolved> {
        let Some(service) = &self.service else { return Vec::new() };
        resolve(service, self.slices.values(), node)
    }
}

fn claims(resolved: &Resolved) -> impl Iterator<Item = (Frontend, Claim)> {
    let claim = (resolved.service.clone(), resolved.port.name.clone(), resolved.port.protocol);
    resolved.vips.iter().map(move |vip| (frontend(vip), claim.clone()))
}
