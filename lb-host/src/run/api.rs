//! Objects as a cluster's API server has them, now and from now on (feature `watch`).
//!
//! ```text
//! list, then watch --event--> converted object --> pending changes --read--> rules
//!   ^--- 410 Gone: list again; what is not in the list any more is gone. Disconnected: watch from where it was
//! ```
//! Nothing is told before Services, EndpointSlices and the Node, in nftables mode ServiceCIDRs too, were listed once (SEMANTICS
//! §2.1, §2.8).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use lb_core::control::{self, Label, Mode};
use lb_core::{Instant, Prefix};
use tracing::{error, info, warn};

use super::server::{self, has_forgotten, is_unreadable, knows_none, trouble};
use super::{Notice, Objects, Reading};
use crate::k8s::address::lenient_prefix;
use crate::k8s::{Settings, endpoints, node, service};
use crate::rules::Change;

/// §2.2, §2.3: what no proxy is to see is not even asked for.
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// What is known of the cluster; shared by the watching thread and whoever reads.
#[derive(Clone)]
pub struct Cluster(Arc<Mutex<Known>>);

struct Known {
    node_name: String,
    settings: Settings,
    services: BTreeMap<Label, control::Service>,
    slices: BTreeMap<Label, control::Slice>,
    node: Option<(control::Node, bool)>,
    /// What the node was made from.
    node_object: Option<Node>,
    /// The blocks of ServiceCIDRs, which are the cluster's wherever there are some.
    blocks: BTreeMap<Label, Vec<Prefix>>,
    /// How many kinds are to be listed before anything is told.
    kinds: usize,
    /// Names of the kinds that were listed.
    listed: BTreeSet<&'static str>,
    /// Whether all was read once, and what became of which object since.
    was_read: bool,
    pending: BTreeMap<(&'static str, Label), Change>,
    /// When what slices tell happened, and how many changes were refused, since then.
    triggers: Vec<(Label, Instant)>,
    refused: u64,
}

impl Cluster {
    /// Watches the API server that `kubeconfig` leads to, or the one of the cluster that this runs in, as the node of this
    /// name; gives notice when there is something to [read](Self::read).
    ///
    /// # Errors
    /// The configuration can't be used. A server that can't be reached is none: it is tried again.
    pub fn watch(
        kubeconfig: Option<&Path>,
        node_name: &str,
        settings: Settings,
        notice: Notice,
    ) -> anyhow::Result<Self> {
        // §2.1: the other modes have no use for them (§6.6).
        let follows_blocks = settings.mode == Mode::NFTABLES;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, server) = runtime.block_on(server::client(kubeconfig))?;
        let known = Known {
            node_name: node_name.to_owned(),
            settings,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            node: None,
            node_object: None,
            blocks: BTreeMap::new(),
            kinds: if follows_blocks { 4 } else { 3 },
            listed: BTreeSet::new(),
            was_read: false,
            pending: BTreeMap::new(),
            triggers: Vec::new(),
            refused: 0,
        };
        let cluster = Self(Arc::new(Mutex::new(known)));
        let own = cluster.clone();
        let node_only = format!("metadata.name={node_name}");
        std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            runtime.block_on(async {
                info!(%server, "watching");
                let services = Config::default().labels(OURS);
                futures_util::join!(
                    own.follow::<Service>(Api::all(client.clone()), services.clone(), &notice),
                    own.follow::<EndpointSlice>(Api::all(client.clone()), services, &notice),
                    own.follow::<Node>(Api::all(client.clone()), Config::default().fields(&node_only), &notice),
                    async {
                        if follows_blocks {
                            own.follow::<ServiceCIDR>(Api::all(client), Config::default(), &notice).await;
                        }
                    },
                );
            });
        })?;
        Ok(cluster)
    }

    /// All objects the first time, what became of them since from then on.
    pub fn read(&self) -> Reading {
        self.with(|known| {
            let pending = std::mem::take(&mut known.pending);
            let (node, eligible) = known
                .node
                .clone()
                .unwrap_or_else(|| (node::of_parts(&known.node_name, None, Vec::new(), &[], &known.settings), true));
            let objects = if std::mem::replace(&mut known.was_read, true) {
                Objects::Changes { changes: pending.into_values().collect(), eligible }
            } else {
                let (services, slices) = (known.services.values().cloned(), known.slices.values().cloned());
                let (services, slices) = (services.collect(), slices.collect());
                Objects::Cluster { services, slices, node: Box::new(node), eligible }
            };
            let (refused, triggers) = (std::mem::take(&mut known.refused), std::mem::take(&mut known.triggers));
            Reading { objects, refused, triggers }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the objects of a kind for ever.
    async fn follow<K>(&self, api: Api<K>, config: Config, notice: &Notice)
    where
        K: Watched
            + Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        loop {
            let events = watcher(api.clone(), config.clone()).default_backoff();
            pin_mut!(events);
            let mut listed = BTreeSet::new();
            while let Some(event) = events.next().await {
                let is_complete = !matches!(event, Ok(Event::Init | Event::InitApply(_)));
                match event {
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(object)) => {
                        listed.insert(name(&object));
                        self.with(|known| K::put(known, object));
                    }
                    Ok(Event::InitDone) => self.with(|known| K::forget_others(known, &listed)),
                    Ok(Event::Apply(object)) => self.with(|known| K::put(known, object)),
                    Ok(Event::Delete(object)) => self.with(|known| K::remove(known, &name(&object))),
                    // A server of before 1.33 may not have them: then the blocks are those of the flags.
                    Err(error) if K::KIND == ServiceCIDR::KIND && knows_none(&error) => {
                        if self.with(|known| known.listed.insert(K::KIND)) {
                            info!("the API server has no ServiceCIDRs");
                        }
                    }
                    Err(error) => {
                        warn!(kind = K::KIND, "the API server: {}; it is tried again", trouble(&error));
                        if has_forgotten(&error) {
                            break;
                        }
                        self.with(|known| known.refused += u64::from(is_unreadable(&error)));
                    }
                }
                let news = self.with(|known| {
                    let all = known.listed.len() == known.kinds && known.node.is_some();
                    let changed = !known.pending.is_empty() || !known.triggers.is_empty() || known.refused > 0;
                    all && is_complete && (!known.was_read || changed)
                });
                if news && notice.give().is_err() {
                    return;
                }
            }
        }
    }
}

/// The name that the control plane knows an object by.
fn name(object: &impl Resource) -> Label {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

impl Known {
    /// Works out what the node is from what is known by now.
    fn see_node(&mut self) {
        let Some(object) = self.node_object.clone() else { return };
        let (name, eligible) = (name(&object), node::is_eligible(&object));
        let mut settings = self.settings.clone();
        if !self.blocks.is_empty() {
            settings.service_cidrs = self.blocks.values().flatten().copied().collect();
        }
        match node::node(&[object.into()], Some(&self.node_name), &settings) {
            Ok(node) if self.node.as_ref() != Some(&(node.clone(), eligible)) => {
                self.pending.insert((Node::KIND, name), Change::Node(node.clone()));
                self.node = Some((node, eligible));
            }
            Ok(_) => {}
            Err(error) => self.refuse(&error),
        }
    }

    /// An object is not as it is to be: what it was before stays in force.
    fn refuse(&mut self, problem: &impl std::fmt::Display) {
        error!("refused: {problem}");
        self.refused += 1;
    }
}

/// A kind of object that is followed.
trait Watched {
    const KIND: &'static str;
    /// The object came or changed; one that is not for proxies (§2) is none.
    fn put(known: &mut Known, object: Self);
    fn remove(known: &mut Known, name: &Label);
    /// Those that are known.
    fn names(known: &Known) -> Vec<Label>;

    /// All were listed: what is known and was not among them is gone.
    fn forget_others(known: &mut Known, listed: &BTreeSet<Label>) {
        known.listed.insert(Self::KIND);
        let gone: Vec<_> = Self::names(known).into_iter().filter(|name| !listed.contains(name)).collect();
        gone.iter().for_each(|name| Self::remove(known, name));
        if Self::KIND == Node::KIND && known.node.is_none() {
            let name = &known.node_name;
            warn!("there is no Node \"{name}\" (yet): nothing is forwarded before; is --node its name in the API?");
        }
    }
}

impl Watched for Service {
    const KIND: &'static str = "Service";

    fn put(known: &mut Known, object: Self) {
        let name = name(&object);
        match service::service(&object.into()) {
            // Most of what is listed again is as it was.
            Ok(Some(service)) if known.services.get(&name) == Some(&service) => {}
            Ok(Some(service)) => {
                known.pending.insert((Self::KIND, name.clone()), Change::Service(service.clone()));
                known.services.insert(name, service);
            }
            Ok(None) => Self::remove(known, &name),
            Err(problem) => known.refuse(&problem),
        }
    }

    fn remove(known: &mut Known, name: &Label) {
        if known.services.remove(name).is_some() {
            known.pending.insert((Self::KIND, name.clone()), Change::NoService(name.clone()));
        }
    }

    fn names(known: &Known) -> Vec<Label> {
        known.services.keys().cloned().collect()
    }
}

impl Watched for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";

    fn put(known: &mut Known, object: Self) {
        let (name, triggered) = (name(&object), endpoints::triggered(&object));
        match endpoints::slice(&object.into()) {
            Ok(Some(slice)) if known.slices.get(&name) == Some(&slice) => {}
            Ok(Some(slice)) => {
                known.triggers.extend(triggered.map(|at| (name.clone(), at)));
                known.pending.insert((Self::KIND, name.clone()), Change::Slice(slice.clone()));
                known.slices.insert(name, slice);
            }
            Ok(None) => Self::remove(known, &name),
            Err(problem) => known.refuse(&problem),
        }
    }

    fn remove(known: &mut Known, name: &Label) {
        if known.slices.remove(name).is_some() {
            // What it tells is of when it was last written, not of when it went.
            known.triggers.retain(|(slice, _)| slice != name);
            known.pending.insert((Self::KIND, name.clone()), Change::NoSlice(name.clone()));
        }
    }

    fn names(known: &Known) -> Vec<Label> {
        known.slices.keys().cloned().collect()
    }
}

impl Watched for Node {
    const KIND: &'static str = "Node";

    fn put(known: &mut Known, object: Self) {
        known.node_object = Some(object);
        known.see_node();
    }

    /// A node that was deleted goes on with what it had: its Pods are still there for a while.
    fn remove(known: &mut Known, name: &Label) {
        if let Some((node, eligible)) = known.node.as_mut().filter(|(_, eligible)| *eligible) {
            *eligible = false;
            known.pending.insert((Self::KIND, name.clone()), Change::Node(node.clone()));
        }
    }

    fn names(known: &Known) -> Vec<Label> {
        known.node.iter().map(|(node, _)| node.name.clone()).collect()
    }
}

impl Watched for ServiceCIDR {
    const KIND: &'static str = "ServiceCIDR";

    fn put(known: &mut Known, object: Self) {
        let blocks = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        let blocks = blocks.filter_map(|block| lenient_prefix(block)).collect();
        known.blocks.insert(name(&object), blocks);
        known.see_node();
    }

    fn remove(known: &mut Known, name: &Label) {
        known.blocks.remove(name);
        known.see_node();
    }

    fn names(known: &Known) -> Vec<Label> {
        known.blocks.keys().cloned().collect()
    }
}
