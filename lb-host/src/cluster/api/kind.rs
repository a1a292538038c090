//! The kinds of objects that the store keeps, and what sets each apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, PodStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::{pod, service};
use crate::k8s::allocate::Allocator;
use crate::k8s::check::Checked;
use crate::k8s::{Placed, Problem, defaults};

/// The objects of one kind, by namespace and name.
pub type Shelf<T> = BTreeMap<String, Arc<Placed<T>>>;

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Shelves {
    services: Shelf<Service>,
    slices: Shelf<EndpointSlice>,
    endpoints: Shelf<Endpoints>,
    pods: Shelf<Pod>,
    nodes: Shelf<Node>,
    namespaces: Shelf<Namespace>,
    service_cidrs: Shelf<ServiceCIDR>,
}

/// An object of any kind, as it was at some resource version.
#[derive(Clone, Debug)]
pub enum Any {
    /// A v1 Service.
    Service(Arc<Placed<Service>>),
    /// A discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice(Arc<Placed<EndpointSlice>>),
    /// A v1 Endpoints.
    Endpoints(Arc<Placed<Endpoints>>),
    /// A v1 Pod.
    Pod(Arc<Placed<Pod>>),
    /// A v1 Node.
    Node(Arc<Placed<Node>>),
    /// A v1 Namespace.
    Namespace(Arc<Placed<Namespace>>),
    /// A networking.k8s.io/v1 ServiceCIDR.
    ServiceCIDR(Arc<Placed<ServiceCIDR>>),
}

/// A kind that the store keeps.
pub trait Kind: Checked + Clone + PartialEq + 'static {
    /// Its objects.
    fn shelf(shelves: &Shelves) -> &Shelf<Self>;
    /// Its objects, to change.
    fn shelf_mut(shelves: &mut Shelves) -> &mut Shelf<Self>;
    /// One of its objects as one of any kind.
    fn any(object: Arc<Placed<Self>>) -> Any;
    /// An object of any kind as one of this, if it is.
    fn of(any: &Any) -> Option<&Arc<Placed<Self>>>;

    /// Writes what was left out.
    fn complete(&mut self) {}

    /// What a write to the object itself does to its status: it stays `old`'s, or starts empty.
    fn keep_status(&mut self, _old: Option<&Self>) {}

    /// Before defaults: takes over from the object that it replaces what it leaves out and may not lose.
    fn carry(&mut self, _old: &Self) {}

    /// After defaults: drops what belonged to what the object was before, and says what may not change.
    fn change(_new: &mut Placed<Self>, _old: &Placed<Self>) -> Vec<Problem> {
        Vec::new()
    }

    /// Takes the numbers that it asks for and gives it those that it lacks, or says why not and leaves the
    /// allocator as it was.
    fn allocate(_allocator: &mut Allocator, _new: &mut Placed<Self>, _old: Option<&Self>) -> Vec<Problem> {
        Vec::new()
    }

    /// Gives back its numbers.
    fn release(&self, _allocator: &mut Allocator) {}

    /// For how many seconds it lives on after it was deleted, unless the request says otherwise.
    fn grace(&self) -> i64 {
        0
    }
}

/// What all kinds write alike.
macro_rules! kept {
    ($kind:ident, $shelf:ident) => {
        fn shelf(shelves: &Shelves) -> &Shelf<Self> {
            &shelves.$shelf
        }

        fn shelf_mut(shelves: &mut Shelves) -> &mut Shelf<Self> {
            &mut shelves.$shelf
        }

        fn any(object: Arc<Placed<Self>>) -> Any {
            Any::$kind(object)
        }

        fn of(any: &Any) -> Option<&Arc<Placed<Self>>> {
            match any {
                Any::$kind(object) => Some(object),
                _ => None,
            }
        }
    };
}

impl Kind for Service {
    kept!(Service, services);

    fn complete(&mut self) {
        defaults::service(self);
    }

    fn keep_status(&mut self, old: Option<&Self>) {
        self.status = old.and_then(|old| old.status.clone());
    }

    fn carry(&mut self, old: &Self) {
        service::carry(self, old);
    }

    fn change(new: &mut Placed<Self>, old: &Placed<Self>) -> Vec<Problem> {
        service::change(new, old)
    }

    fn allocate(allocator: &mut Allocator, new: &mut Placed<Self>, old: Option<&Self>) -> Vec<Problem> {
        service::allocate(allocator, new, old)
    }

    fn release(&self, allocator: &mut Allocator) {
        self.spec.iter().for_each(|spec| allocator.release(spec));
    }
}

impl Kind for EndpointSlice {
    kept!(EndpointSlice, slices);

    fn complete(&mut self) {
        defaults::slice(self);
    }

    /// §16.8
    fn change(new: &mut Placed<Self>, old: &Placed<Self>) -> Vec<Problem> {
        let (now, before) = (&new.object.address_type, &old.object.address_type);
        let problem = || {
            let message = format_args!("is {now}, and was {before}: it cannot change");
            new.problem("addressType", message, "make another slice")
        };
        (now != before).then(problem).into_iter().collect()
    }
}

impl Kind for Endpoints {
    kept!(Endpoints, endpoints);
}

impl Kind for Pod {
    kept!(Pod, pods);

    fn complete(&mut self) {
        defaults::pod(self);
    }

    fn keep_status(&mut self, old: Option<&Self>) {
        let pending = PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() };
        self.status = old.map_or(Some(pending), |old| old.status.clone());
    }

    /// A manifest that is applied again does not know where the Pod runs.
    fn carry(&mut self, old: &Self) {
        pod::carry(self, old);
    }

    fn change(new: &mut Placed<Self>, old: &Placed<Self>) -> Vec<Problem> {
        pod::change(new, old)
    }

    fn grace(&self) -> i64 {
        pod::grace(self)
    }
}

impl Kind for Node {
    kept!(Node, nodes);

    /// A node registers with its status.
    fn keep_status(&mut self, old: Option<&Self>) {
        if let Some(old) = old {
            self.status = old.status.clone();
        }
    }
}

impl Kind for Namespace {
    kept!(Namespace, namespaces);
}

impl Kind for ServiceCIDR {
    kept!(ServiceCIDR, service_cidrs);
}
