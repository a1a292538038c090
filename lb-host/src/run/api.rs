//! Objects as a cluster's API server has them, now and from now on (feature `watch`).
//!
//! ```text
//! list, then watch --event--> converted object --> pending changes --read--> rules
//!   ^--- 410 Gone, disconnected: wait, list again; what is not in the list any more is gone
//! ```
//! Nothing is told before Services, EndpointSlices and the Node, in nftables mode ServiceCIDRs too, were listed once (SEMANTICS
//! §2.1, §2.8).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use lb_core::Prefix;
use lb_core::control::{self, Label, Mode};
use tracing::{error, info, warn};

use super::{Notice, Objects};
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
        let config = match kubeconfig {
            None => kube::Config::incluster().context("--in-cluster, and this is no Pod of a cluster")?,
            Some(path) => {
                let read = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
                let options = KubeConfigOptions::default();
                runtime
                    .block_on(kube::Config::from_custom_kubeconfig(read, &options))
                    .with_context(|| path.display().to_string())?
            }
        };
        let server = config.cluster_url.clone();
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
        };
        let cluster = Self(Arc::new(Mutex::new(known)));
        let own = cluster.clone();
        let node_only = format!("metadata.name={node_name}");
        std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            runtime.block_on(async {
                let client = match Client::try_from(config) {
                    Ok(client) => client,
                    Err(error) => return error!("the API server can't be spoken to: {error}"),
                };
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
    pub fn read(&self) -> Objects {
        self.with(|known| {
            let pending = std::mem::take(&mut known.pending);
            let (node, eligible) = known
                .node
                .clone()
                .unwrap_or_else(|| (node::of_parts(&known.node_name, None, Vec::new(), &[], &known.settings), true));
            if std::mem::replace(&mut known.was_read, true) {
                return Objects::Changes { changes: pending.into_values().collect(), eligible };
            }
            let (services, slices) = (known.services.values().cloned(), known.slices.values().cloned());
            Objects::Cluster { services: services.collect(), slices: slices.collect(), node: Box::new(node), eligible }
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
        let events = watcher(api, config).default_backoff();
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
                Ok(Event::InitDone) => self.with(|known| {
                    known.listed.insert(K::KIND);
                    let gone = K::names(known).into_iter().filter(|name| !listed.contains(name));
                    gone.collect::<Vec<_>>().iter().for_each(|name| K::remove(known, name));
                    if K::KIND == <Node as Watched>::KIND && known.node.is_none() {
                        let name = &known.node_name;
                        warn!("there is no Node \"{name}\" (yet): nothing is forwarded before; is --node its name in the API?");
                    }
                }),
                Ok(Event::Apply(object)) => self.with(|known| K::put(known, object)),
                Ok(Event::Delete(object)) => self.with(|known| K::remove(known, &name(&object))),
                // A server of before 1.33 may not have them: then the blocks are those of the flags.
                Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                    if status.code == 404 && K::KIND == ServiceCIDR::KIND =>
                {
                    info!("the API server has no ServiceCIDRs");
                    self.with(|known| known.listed.insert(K::KIND));
                }
                Err(error) => {
                    // With its causes: that nobody listens there, or whose certificate is not believed.
                    warn!(kind = K::KIND, "the API server: {:#}; it is tried again", anyhow::Error::new(error));
                    continue;
                }
            }
            let news = self.with(|known| {
                let all = known.listed.len() == known.kinds && known.node.is_some();
                all && is_complete && (!known.was_read || !known.pending.is_empty())
            });
            if news && notice.give().is_err() {
                break;
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
            Err(error) => error!("refused: {error}"),
        }
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
}

impl Watched for Service {
    const KIND: &'static str = "Service";

    fn put(known: &mut Known, object: Self) {
        let name = name(&object);
        match service::service(&object.into()) {
            Ok(Some(service)) => {
                known.pending.insert((Self::KIND, name.clone()), Change::Service(service.clone()));
                known.services.insert(name, service);
            }
            Ok(None) => Self::remove(known, &name),
            Err(problem) => error!("refused: {problem}"),
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
        let name = name(&object);
        match endpoints::slice(&object.into()) {
            Ok(Some(slice)) => {
                known.pending.insert((Self::KIND, name.clone()), Change::Slice(slice.clone()));
                known.slices.insert(name, slice);
            }
            Ok(None) => Self::remove(known, &name),
            Err(problem) => error!("refused: {problem}"),
        }
    }

    fn remove(known: &mut Known, name: &Label) {
        if known.slices.remove(name).is_some() {
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
