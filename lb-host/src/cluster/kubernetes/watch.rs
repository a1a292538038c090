//! Whoever follows the API at a pace of its own: what it has seen, and when it looks again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::Instant;

use super::Kubernetes;
use crate::chance::Chance;
use crate::cluster::api::Api;
use crate::cluster::engine::Change;
use crate::dns::Zone;
use crate::k8s::{Placed, endpoints, service};

/// A watch. Between two looks changes gather, and one that is undone meanwhile is none (SEMANTICS §4.8).
#[derive(Clone, Debug)]
pub(super) struct Watch {
    seen: u64,
    noticed: u64,
    next: Option<Instant>,
    pace: (Duration, Duration),
    chance: Chance,
}

impl Watch {
    /// One that has just listed everything.
    pub(super) fn new(api: &Api, pace: (Duration, Duration), chance: Chance) -> Self {
        Self { seen: api.version(), noticed: api.version(), next: None, pace, chance }
    }

    /// Notices that something happened which concerns proxies and DNS.
    pub(super) fn notice(&mut self, api: &Api, now: Instant) {
        let news = api.watch(self.noticed).iter().any(|event| {
            event.of::<Service>().is_some()
                || event.of::<EndpointSlice>().is_some()
                || event.of::<Namespace>().is_some()
        });
        self.noticed = api.version();
        if news && self.next.is_none() {
            let (least, most) = self.pace;
            let spread = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
            self.next = Some(now.saturating_add(least + Duration::from_nanos(self.chance.below(spread))));
        }
    }

    pub(super) const fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// What has changed since the last look, if it is time to look.
    pub(super) fn look(&mut self, api: &Api, now: Instant) -> Option<News> {
        self.next.filter(|next| *next <= now)?;
        self.next = None;
        let mut news = News::default();
        for event in api.watch(self.seen) {
            if let Some(service) = event.of::<Service>() {
                news.services.insert(service.key());
            } else if let Some(slice) = event.of::<EndpointSlice>() {
                news.slices.insert(slice.key());
            } else if let Some(namespace) = event.of::<Namespace>() {
                news.namespaces.insert(namespace.key());
            }
        }
        self.seen = api.version();
        Some(news)
    }
}

/// The names of what is not as it was.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    services: BTreeSet<String>,
    slices: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl News {
    /// All there is.
    pub(super) fn everything(api: &Api) -> Self {
        Self {
            services: api.list::<Service>().map(|one| one.key()).collect(),
            slices: api.list::<EndpointSlice>().map(|one| one.key()).collect(),
            namespaces: api.list::<Namespace>().map(|one| one.key()).collect(),
        }
    }

    /// As a proxy takes it. An object that a proxy does not read is none.
    pub(super) fn changes<'a>(&'a self, api: &'a Api) -> impl Iterator<Item = Change> {
        let services = self.services.iter().map(|key| {
            let there = api.get::<Service>(key).and_then(|one| service::service(one).ok().flatten());
            there.map_or_else(|| Change::NoService(key.as_str().into()), Change::Service)
        });
        let slices = self.slices.iter().map(|key| {
            let there = api.get::<EndpointSlice>(key).and_then(|one| endpoints::slice(one).ok().flatten());
            there.map_or_else(|| Change::NoSlice(key.as_str().into()), Change::Slice)
        });
        services.chain(slices)
    }

    /// As a DNS server takes it.
    pub(super) fn tell(&self, api: &Api, zone: &mut Zone) {
        let split = |key: &str| key.split_once('/').map(|(space, name)| (space.to_owned(), name.to_owned()));
        for (key, (namespace, name)) in self.slices.iter().filter_map(|key| Some((key, split(key)?))) {
            match api.get::<EndpointSlice>(key) {
                Some(slice) => zone.put_slice(object(slice)),
                None => zone.remove_slice(&namespace, &name),
            }
        }
        for (key, (namespace, name)) in self.services.iter().filter_map(|key| Some((key, split(key)?))) {
            match api.get::<Service>(key) {
                Some(service) => zone.put_service(object(service)),
                None => zone.remove_service(&namespace, &name),
            }
        }
        for name in &self.namespaces {
            match api.get::<Namespace>(name) {
                Some(_) => zone.put_namespace(name),
                None => zone.remove_namespace(name),
            }
        }
    }
}

fn object<T: Clone>(placed: &Arc<Placed<T>>) -> T {
    placed.object.clone()
}

impl Kubernetes {
    /// Proxies and DNS servers take in what they see.
    pub(super) fn tend_watches(&mut self) {
        let now = self.world.now;
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let Some(node) = self.nodes.get_mut(&name).filter(|node| node.connected()) else { continue };
            node.watch.notice(&self.api, now);
            if let Some(news) = node.watch.look(&self.api, now) {
                self.follow(&name, &news);
            }
        }
        let pods: Vec<Arc<str>> = self.pods.keys().cloned().collect();
        for uid in pods {
            let Some(pod) = self.pods.get_mut(&uid) else { continue };
            if !self.nodes.get(&pod.node).is_some_and(|node| node.connected()) {
                continue;
            }
            let Some(watch) = &mut pod.watch else { continue };
            watch.notice(&self.api, now);
            if let Some(news) = watch.look(&self.api, now) {
                pod.tell_dns(&mut self.world, |zone| news.tell(&self.api, zone));
            }
        }
    }
}
