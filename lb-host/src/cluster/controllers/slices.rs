//! The EndpointSlice controllers, both: slices of the Pods that a Service selects, and mirrors of v1 Endpoints that
//! users made (SEMANTICS §18). What the slices are to hold is `k8s::endpoint_controller`'s; here it is spread over
//! the slices that exist already, so that a change touches as few as may be and names stay.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use lb_core::Instant;
use siphasher::sip::SipHasher13;

use crate::cluster::api::{Api, Change, Refusal};
use crate::k8s::Placed;
use crate::k8s::endpoint_controller::{Given, Group, MANAGED_BY, MIRRORING, SELECTING, SLICE, groups};
use crate::k8s::endpoints::service_key;

/// The controllers.
#[derive(Clone, Debug)]
pub struct EndpointSlices {
    seen: u64,
    seed: u64,
    /// Which Services' slices have a Pod.
    holders: BTreeMap<String, BTreeSet<String>>,
    /// What endpoints and their hints take from each Node.
    nodes: BTreeMap<String, Facts>,
    warnings: BTreeSet<String>,
}

impl EndpointSlices {
    /// The controllers of a new cluster; `seed` draws slices' names.
    pub fn new(seed: u64) -> Self {
        let (holders, nodes, warnings) = Default::default();
        Self { seen: 0, seed, holders, nodes, warnings }
    }

    /// Brings the slices of the Services that are touched by what happened up to date.
    ///
    /// # Errors
    /// The API's.
    pub fn reconcile(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        let touched = self.touched(api);
        self.seen = api.version();
        for key in touched {
            self.one(api, &key, now)?;
        }
        Ok(())
    }

    /// What could not be made of the objects, each once.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.iter().map(String::as_str)
    }

    /// The Services that what happened may make a difference to.
    fn touched(&mut self, api: &Api) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let mut pods: BTreeMap<String, &Arc<Placed<Pod>>> = BTreeMap::new();
        let mut moved = false;
        for event in api.watch(self.seen) {
            touched.extend(event.of::<Service>().map(|service| service.key()));
            touched.extend(event.of::<Endpoints>().map(|endpoints| endpoints.key()));
            touched.extend(event.of::<EndpointSlice>().and_then(|slice| service_key(slice)));
            if let Some(pod) = event.of::<Pod>() {
                pods.insert(pod.key(), pod);
            }
            if let Some(node) = event.of::<Node>() {
                let facts = Some(facts(&node.object)).filter(|_| event.change != Change::Deleted);
                let before = match &facts {
                    Some(facts) => self.nodes.insert(node.name().to_owned(), facts.clone()),
                    None => self.nodes.remove(node.name()),
                };
                moved |= before != facts;
            }
        }
        if moved {
            touched.extend(api.list::<Service>().map(|service| service.key()));
        }
        if !pods.is_empty() {
            for service in api.list::<Service>() {
                if pods.values().any(|pod| selects(service, pod)) {
                    touched.insert(service.key());
                }
            }
            // A Pod whose labels changed is still in slices of Services that no longer select it.
            touched.extend(pods.keys().filter_map(|pod| self.holders.get(pod)).flatten().cloned());
        }
        touched
    }

    fn one(&mut self, api: &mut Api, key: &str, now: Instant) -> Result<(), Refusal> {
        let managed = |slice: &&Arc<Placed<EndpointSlice>>| {
            service_key(slice).as_deref() == Some(key)
                && slice.label(MANAGED_BY).is_some_and(|manager| [SELECTING, MIRRORING].contains(&manager))
        };
        let mut stored: Vec<_> = api.list::<EndpointSlice>().filter(managed).cloned().collect();
        for services in self.holders.values_mut() {
            services.remove(key);
        }
        let Some(service) = api.get::<Service>(key).cloned() else {
            return stored.iter().try_for_each(|slice| api.delete::<EndpointSlice>(now, &slice.key(), None));
        };
        let namespace = service.namespace();
        let pods = api.list::<Pod>().map(Arc::as_ref).filter(|pod| pod.namespace() == namespace);
        let (nodes, endpoints) = (api.list::<Node>().map(Arc::as_ref), api.list::<Endpoints>().map(Arc::as_ref));
        let mut warnings = Vec::new();
        let groups = groups(&service, &Given::of(pods, nodes, endpoints), &mut warnings);
        self.warnings.extend(warnings.iter().map(ToString::to_string));
        for pod in
            groups.iter().flat_map(|group| &group.endpoints).filter_map(|one| one.target_ref.as_ref()?.name.clone())
        {
            self.holders.entry(format!("{namespace}/{pod}")).or_default().insert(key.to_owned());
        }
        self.holders.retain(|_, services| !services.is_empty());
        let mut wanted: Vec<(Option<Arc<Placed<EndpointSlice>>>, EndpointSlice)> = Vec::new();
        for group in &groups {
            let like = group.slice(&service, None, Vec::new());
            let same = |slice: &mut Arc<Placed<EndpointSlice>>| {
                slice.object.address_type == like.address_type
                    && slice.object.ports == like.ports
                    && slice.label(MANAGED_BY) == Some(group.manager)
            };
            let own: Vec<_> = stored.extract_if(.., same).collect();
            for (slice, endpoints) in spread(group, own) {
                let name = slice.as_ref().map(|slice| slice.name().to_owned());
                wanted.push((slice, group.slice(&service, name, endpoints)));
            }
        }
        for (place, mut slice) in wanted {
            let place = place.or_else(|| {
                // One that is to go is made into one that is to come: its name stays.
                let kept = stored.iter().position(|old| old.object.address_type == slice.address_type);
                kept.map(|index| stored.remove(index))
            });
            slice.metadata.owner_references = Some(vec![owner(&service)]);
            match place {
                Some(place) => {
                    let mut next = Placed::clone(&place);
                    next.object.metadata.labels = slice.metadata.labels;
                    next.object.ports = slice.ports;
                    next.object.endpoints = slice.endpoints;
                    api.update(next)?;
                }
                None => {
                    slice.metadata.generate_name = Some(format!("{}-", service.name()));
                    slice.metadata.name = Some(self.name(api, &service));
                    api.create(now, service.made(slice))?;
                }
            }
        }
        stored.iter().try_for_each(|slice| api.delete::<EndpointSlice>(now, &slice.key(), None))
    }

    /// A name that is free: the Service's and five letters, as the API server makes of `generateName`.
    fn name(&self, api: &Api, service: &Placed<Service>) -> String {
        // No vowels, and nothing that looks like another.
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut draw = 0;
        loop {
            let mut hasher = SipHasher13::new_with_keys(self.seed, api.version());
            hasher.write(service.key().as_bytes());
            hasher.write_u64(draw);
            let mut bits = hasher.finish();
            let letters = [(); 5].map(|()| {
                let letter = LETTERS.get((bits % 27) as usize).copied().unwrap_or(b'b');
                bits /= 27;
                char::from(letter)
            });
            let name = format!("{}-{}", service.name(), String::from_iter(letters));
            if api.get::<EndpointSlice>(&format!("{}/{name}", service.namespace())).is_none() {
                return name;
            }
            draw += 1;
        }
    }
}

/// A Node's labels, among them its zone, its allocatable resources, and whether it is ready (SEMANTICS §18.6, §18.11).
type Facts = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, Quantity>>, Option<String>);

fn facts(node: &Node) -> Facts {
    let status = node.status.as_ref();
    let ready = status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|one| one.type_ == "Ready");
    let allocatable = status.and_then(|status| status.allocatable.clone());
    (node.metadata.labels.clone(), allocatable, ready.map(|one| one.status.clone()))
}

fn selects(service: &Placed<Service>, pod: &Placed<Pod>) -> bool {
    let selector = service.object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    service.namespace() == pod.namespace()
        && selector.is_some_and(|selector| !selector.is_empty())
        && selector.into_iter().flatten().all(|(key, value)| pod.label(key) == Some(value))
}

fn owner(service: &Placed<Service>) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.name().to_owned(),
        uid: service.object.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A slice, or a new one in the place of none, and what it is to hold.
type Holding = (Option<Arc<Placed<EndpointSlice>>>, Vec<Endpoint>);

/// Spreads a group's endpoints over the slices that it has: each stays where it is; new ones go where endpoints
/// changed anyway, then where there is room, then into new slices. Slices that this leaves empty are not among
/// those returned, but that a group without endpoints keeps one, the placeholder of §18.8.
fn spread(group: &Group, own: Vec<Arc<Placed<EndpointSlice>>>) -> Vec<Holding> {
    let identity = |one: &Endpoint| {
        let pod = one.target_ref.as_ref().and_then(|pod| pod.uid.clone());
        (one.addresses.first().cloned().unwrap_or_default(), pod)
    };
    let mut left: BTreeMap<_, _> = group.endpoints.iter().map(|one| (identity(one), one.clone())).collect();
    let mut holdings: Vec<Holding> = Vec::new();
    for slice in own {
        let before = slice.object.endpoints.as_deref().unwrap_or_default();
        let kept = before.iter().filter_map(|one| left.remove(&identity(one))).collect();
        holdings.push((Some(slice), kept));
    }
    // In the order of the group, which is the Pods'.
    let mut new = group.endpoints.iter().filter_map(|one| left.remove(&identity(one))).peekable();
    let unchanged =
        |(slice, kept): &Holding| slice.as_ref().is_some_and(|slice| slice.object.endpoints.as_ref() == Some(kept));
    holdings.sort_by_key(unchanged);
    for (_, kept) in &mut holdings {
        while kept.len() < SLICE && new.peek().is_some() {
            kept.extend(new.next());
        }
    }
    while new.peek().is_some() {
        holdings.push((None, new.by_ref().take(SLICE).collect()));
    }
    let empty = group.endpoints.is_empty();
    if empty {
        holdings.truncate(1);
        if holdings.is_empty() {
            holdings.push((None, Vec::new()));
        }
    }
    holdings.retain(|(_, kept)| empty || !kept.is_empty());
    holdings
}
