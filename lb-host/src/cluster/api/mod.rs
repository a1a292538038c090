//! The API server's store: objects as Kubernetes keeps them, and what happened to them, in order.
//!
//! A write is checked, completed and allocated for as `k8s` does it offline; it changes the store and
//! appends one event, or it is refused and changes nothing. Whoever wants to know reads the events behind
//! the one that they read last.

mod kind;
mod pod;
mod refusal;
mod service;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lb_core::{Family, Instant};
use siphasher::sip::SipHasher13;

pub use kind::{Any, Kind, Shelf, Shelves};
pub use refusal::Refusal;

use super::calendar;
use crate::k8s::allocate::Allocator;
use crate::k8s::check::{Limits, refusals_of};
use crate::k8s::{Manifests, Placed, Problem, Problems, Ranges};

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is not as it was.
    Modified,
    /// It is no more; the event has what it was last.
    Deleted,
}

/// One change of the store.
#[derive(Clone, Debug)]
pub struct Event {
    /// The resource version that the change made.
    pub version: u64,
    /// What became of the object.
    pub change: Change,
    /// The object.
    pub object: Any,
}

impl Event {
    /// The object if it is of this kind.
    pub fn of<T: Kind>(&self) -> Option<&Arc<Placed<T>>> {
        T::of(&self.object)
    }
}

/// The store.
#[derive(Clone, Debug)]
pub struct Api {
    shelves: Shelves,
    events: Vec<Event>,
    allocator: Allocator,
    limits: Limits,
    seed: u64,
    /// When each node was last heard of: Leases, which change too often to be events.
    leases: BTreeMap<String, Instant>,
}

impl Api {
    /// An empty store that allocates from these ranges. Their seed is that of all names and numbers drawn.
    pub fn new(ranges: &Ranges) -> Self {
        let mut families: Vec<Family> = ranges.cluster_ips.iter().map(|block| block.address().family()).collect();
        families.dedup();
        Self {
            shelves: Shelves::default(),
            events: Vec::new(),
            allocator: Allocator::new(ranges),
            limits: Limits { families, node_ports: ranges.node_ports },
            seed: ranges.seed,
            leases: BTreeMap::new(),
        }
    }

    /// The resource version of the last change; 0 before the first.
    pub fn version(&self) -> u64 {
        self.events.len() as u64
    }

    /// The changes behind resource version `since`, in order. Whoever starts at 0 gets all there ever were.
    pub fn watch(&self, since: u64) -> &[Event] {
        let read = usize::try_from(since).unwrap_or(usize::MAX);
        self.events.get(read..).unwrap_or_default()
    }

    /// The object of this namespace and name, `default/web`, or of this name, for what has no namespace.
    pub fn get<T: Kind>(&self, key: &str) -> Option<&Arc<Placed<T>>> {
        T::shelf(&self.shelves).get(key)
    }

    /// The objects of a kind, by namespace and name.
    pub fn list<T: Kind>(&self) -> impl Iterator<Item = &Arc<Placed<T>>> {
        T::shelf(&self.shelves).values()
    }

    /// Creates an object, completed.
    ///
    /// # Errors
    /// It is there already, or not as it may be.
    pub fn create<T: Kind>(&mut self, now: Instant, mut new: Placed<T>) -> Result<Arc<Placed<T>>, Refusal> {
        let key = new.key();
        if self.get::<T>(&key).is_some() {
            return Err(Refusal::AlreadyExists { kind: T::KIND, key });
        }
        if new.name().is_empty() {
            let problem = new.problem("metadata.name", "is missing", "name the object");
            return Err(Problems::from(problem).into());
        }
        let namespace = T::namespaced().then(|| new.namespace().to_owned());
        let uid = self.uid(&key);
        let metadata = new.object.metadata_mut();
        metadata.namespace = namespace;
        metadata.uid = Some(uid);
        metadata.creation_timestamp = Some(calendar::time(now));
        metadata.deletion_timestamp = None;
        metadata.deletion_grace_period_seconds = None;
        new.object.keep_status(None);
        self.admit(&mut new, None)?;
        Ok(self.put(Change::Added, new))
    }

    /// Replaces an object but for its status, completed; what was allocated and is left out stays. An object
    /// that says at which resource version it was read must not have changed since.
    ///
    /// # Errors
    /// It is not there, was changed meanwhile, or is not as it may be.
    pub fn update<T: Kind>(&mut self, mut new: Placed<T>) -> Result<Arc<Placed<T>>, Refusal> {
        let old = self.current(&new)?;
        new.object.keep_status(Some(&old.object));
        new.object.carry(&old.object);
        keep_identity(new.object.metadata_mut(), old.object.metadata());
        self.admit(&mut new, Some(&old))?;
        // The last finalizer of an object that was deleted holds it no longer.
        let held = |object: &T| object.metadata().finalizers.as_ref().is_some_and(|all| !all.is_empty());
        if old.object.metadata().deletion_timestamp.is_some() && held(&old.object) && !held(&new.object) {
            let put = self.put(Change::Modified, new);
            self.remove::<T>(&put.key());
            return Ok(put);
        }
        Ok(self.replace(&old, new))
    }

    /// Replaces an object's status, and nothing else.
    ///
    /// # Errors
    /// The object is not there, or was changed since it was read.
    pub fn update_status<T: Kind>(&mut self, new: Placed<T>) -> Result<Arc<Placed<T>>, Refusal> {
        let old = self.current(&new)?;
        let mut next = Placed::clone(&old);
        next.object.keep_status(Some(&new.object));
        Ok(self.replace(&old, next))
    }

    /// Creates an object, or updates it whatever its version.
    ///
    /// # Errors
    /// It is not as it may be.
    pub fn apply<T: Kind>(&mut self, now: Instant, mut new: Placed<T>) -> Result<Arc<Placed<T>>, Refusal> {
        if self.get::<T>(&new.key()).is_none() {
            return self.create(now, new);
        }
        new.object.metadata_mut().resource_version = None;
        self.update(new)
    }

    /// Applies all objects that were read: nodes first, then what runs on them, then what leads there.
    ///
    /// # Errors
    /// All that was refused; the others are applied.
    pub fn apply_all(&mut self, now: Instant, manifests: Manifests) -> Result<(), Vec<Refusal>> {
        let mut refused = Vec::new();
        self.apply_each(now, manifests.namespaces, &mut refused);
        self.apply_each(now, manifests.service_cidrs, &mut refused);
        self.apply_each(now, manifests.nodes, &mut refused);
        // Numbers that are written down come before those that are drawn.
        let explicit = |service: &Placed<k8s_openapi::api::core::v1::Service>| {
            let spec = service.object.spec.as_ref();
            let ip = spec.and_then(|spec| spec.cluster_ip.as_ref()).is_some_and(|ip| !ip.is_empty());
            ip || spec.iter().flat_map(|spec| spec.ports.iter().flatten()).any(|port| port.node_port.is_some())
        };
        let (first, then): (Vec<_>, Vec<_>) = manifests.services.into_iter().partition(explicit);
        self.apply_each(now, first, &mut refused);
        self.apply_each(now, then, &mut refused);
        self.apply_each(now, manifests.pods, &mut refused);
        self.apply_each(now, manifests.endpoints, &mut refused);
        self.apply_each(now, manifests.slices, &mut refused);
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    fn apply_each<T: Kind>(&mut self, now: Instant, objects: Vec<Placed<T>>, refused: &mut Vec<Refusal>) {
        refused.extend(objects.into_iter().filter_map(|object| self.apply(now, object).err()));
    }

    /// Deletes an object: at once, or once its grace period, in seconds, is over and its finalizers are gone.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete<T: Kind>(&mut self, now: Instant, key: &str, grace: Option<u32>) -> Result<(), Refusal> {
        let Some(old) = self.get::<T>(key).cloned() else {
            return Err(Refusal::NotFound { kind: T::KIND, key: key.to_owned() });
        };
        let usual = old.object.grace();
        // Nothing is gained by waiting for what does not end by itself.
        let grace = if usual == 0 { 0 } else { grace.map_or(usual, i64::from) };
        let held = old.object.metadata().finalizers.as_ref().is_some_and(|all| !all.is_empty());
        if grace == 0 && !held {
            self.remove::<T>(key);
            return Ok(());
        }
        let mut new = Placed::clone(&old);
        let metadata = new.object.metadata_mut();
        // A second request can only shorten what the first began.
        let shorter = metadata.deletion_grace_period_seconds.is_none_or(|before| grace < before);
        if metadata.deletion_timestamp.is_none() || shorter {
            let end = now.saturating_add(std::time::Duration::from_secs(grace.unsigned_abs()));
            metadata.deletion_timestamp = Some(calendar::time(end));
            metadata.deletion_grace_period_seconds = Some(grace);
        }
        self.replace(&old, new);
        Ok(())
    }

    /// Takes note that a node's kubelet is there.
    pub fn renew_lease(&mut self, now: Instant, node: &str) {
        self.leases.insert(node.to_owned(), now);
    }

    /// When a node's kubelet was last heard of.
    pub fn lease(&self, node: &str) -> Option<Instant> {
        self.leases.get(node).copied()
    }

    /// What is stored in the place of `new`, if `new` is based on it.
    fn current<T: Kind>(&self, new: &Placed<T>) -> Result<Arc<Placed<T>>, Refusal> {
        let key = new.key();
        let Some(old) = self.get::<T>(&key) else { return Err(Refusal::NotFound { kind: T::KIND, key }) };
        let stored = old.object.metadata().resource_version.clone().unwrap_or_default();
        match new.object.metadata().resource_version.clone().filter(|read| !read.is_empty() && *read != stored) {
            Some(read) => Err(Refusal::Conflict { kind: T::KIND, key, read, stored }),
            None => Ok(old.clone()),
        }
    }

    fn admit<T: Kind>(&mut self, new: &mut Placed<T>, old: Option<&Placed<T>>) -> Result<(), Refusal> {
        let refuse = |problems: Vec<Problem>| if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) };
        new.object.complete();
        if let Some(old) = old {
            refuse(T::change(new, old))?;
        }
        refuse(refusals_of(new, &self.limits))?;
        self.allocator.seed = self.draw("allocation");
        refuse(T::allocate(&mut self.allocator, new, old.map(|old| &old.object)))?;
        Ok(())
    }

    /// Stores `new` in the place of `old`, unless it is no other.
    fn replace<T: Kind>(&mut self, old: &Arc<Placed<T>>, mut new: Placed<T>) -> Arc<Placed<T>> {
        new.object.metadata_mut().resource_version = old.object.metadata().resource_version.clone();
        if new.object == old.object { old.clone() } else { self.put(Change::Modified, new) }
    }

    fn put<T: Kind>(&mut self, change: Change, mut new: Placed<T>) -> Arc<Placed<T>> {
        let version = self.version() + 1;
        new.object.metadata_mut().resource_version = Some(version.to_string());
        let new = Arc::new(new);
        T::shelf_mut(&mut self.shelves).insert(new.key(), new.clone());
        self.events.push(Event { version, change, object: T::any(new.clone()) });
        new
    }

    fn remove<T: Kind>(&mut self, key: &str) {
        let Some(old) = T::shelf_mut(&mut self.shelves).remove(key) else { return };
        old.object.release(&mut self.allocator);
        let version = self.version() + 1;
        let mut last = Arc::unwrap_or_clone(old);
        last.object.metadata_mut().resource_version = Some(version.to_string());
        self.events.push(Event { version, change: Change::Deleted, object: T::any(last.into()) });
    }

    /// A draw for the next change.
    fn draw(&self, what: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, self.version());
        hasher.write(what.as_bytes());
        hasher.finish()
    }

    /// An identity in the form of RFC 9562 §5.8: no other object has it, were it even of the same name.
    fn uid(&self, key: &str) -> String {
        let (high, low) = (self.draw(key), self.draw(&format!("{key} uid")));
        let (high, low) = (high & !0xf000 | 0x8000, low >> 2 | 1 << 63);
        let parts = (high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff);
        format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", parts.0, parts.1, parts.2, parts.3, parts.4)
    }
}

/// What no update changes of an object's metadata.
fn keep_identity(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.namespace = old.namespace.clone();
    new.uid = old.uid.clone();
    new.creation_timestamp = old.creation_timestamp.clone();
    new.deletion_timestamp = old.deletion_timestamp.clone();
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
}
