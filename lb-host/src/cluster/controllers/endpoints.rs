//! The v1 Endpoints of Services with a selector (SEMANTICS §18.4), for those who still read them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::Instant;

use crate::cluster::api::{Api, Change, Refusal};
use crate::k8s::Placed;
use crate::k8s::endpoint_controller::{MANAGED_BY, SELECTING, endpoints_of};
use crate::k8s::endpoints::service_key;
use crate::k8s::service::kind;

/// The most addresses that a v1 Endpoints lists, and the note on one that would have more (§18.4).
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Keeps a v1 Endpoints beside each Service with a selector, as its slices have it.
#[derive(Clone, Debug, Default)]
pub struct EndpointsController {
    seen: u64,
}

impl EndpointsController {
    /// Looks at the Services whose slices changed.
    ///
    /// # Errors
    /// The API's.
    pub fn reconcile(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        let mut touched = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for event in api.watch(self.seen) {
            if let Some(service) = event.of::<Service>() {
                let known = if event.change == Change::Deleted { &mut gone } else { &mut touched };
                known.insert(service.key());
            }
            touched.extend(event.of::<EndpointSlice>().and_then(|slice| service_key(slice)));
            touched.extend(event.of::<Endpoints>().map(|endpoints| endpoints.key()));
        }
        self.seen = api.version();
        for key in touched {
            one(api, &key, now)?;
        }
        for key in gone {
            // Also those that a user made go with their Service.
            if api.get::<Service>(&key).is_none() && api.get::<Endpoints>(&key).is_some() {
                api.delete::<Endpoints>(now, &key, None)?;
            }
        }
        Ok(())
    }
}

fn one(api: &mut Api, key: &str, now: Instant) -> Result<(), Refusal> {
    let Some(service) = api.get::<Service>(key) else { return Ok(()) };
    let spec = service.object.spec.as_ref();
    let selects =
        spec.is_some_and(|spec| !spec.selector.iter().all(BTreeMap::is_empty) && kind(spec) != "ExternalName");
    if !selects {
        return Ok(());
    }
    let own = |slice: &&EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == SELECTING)
    };
    let slices = api.list::<EndpointSlice>().filter(|slice| service_key(slice).as_deref() == Some(key));
    let slices: Vec<&EndpointSlice> = slices.map(|slice| &slice.object).filter(own).collect();
    let mut made = endpoints_of(service, &slices);
    truncate(&mut made.object);
    match api.get::<Endpoints>(key) {
        None => api.create(now, made)?,
        Some(stored) => {
            let mut next = Placed::clone(stored);
            next.object.subsets = made.object.subsets;
            next.object.metadata.labels = made.object.metadata.labels;
            next.object.metadata.annotations = made.object.metadata.annotations;
            api.update(next)?
        }
    };
    Ok(())
}

/// Drops what is too many, of those not ready first, and says so.
fn truncate(endpoints: &mut Endpoints) {
    let mut room = MOST;
    let mut dropped = false;
    let subsets = endpoints.subsets.get_or_insert_default();
    for ready in [true, false] {
        for subset in subsets.iter_mut() {
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            let Some(list) = list else { continue };
            dropped |= list.len() > room;
            list.truncate(room);
            room -= list.len();
        }
    }
    for subset in subsets.iter_mut() {
        subset.addresses.take_if(|list| list.is_empty());
        subset.not_ready_addresses.take_if(|list| list.is_empty());
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    endpoints.subsets.take_if(|subsets| subsets.is_empty());
    if dropped {
        let annotations = endpoints.metadata.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
}
