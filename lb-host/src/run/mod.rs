//! The live data plane: devices, the engine between them, and objects that change while traffic flows.
//!
//! ```text
//!   files --watch--> objects --rules::Following--> delta --.          .--> /metrics, /healthz, health check ports
//!   SIGHUP, SIGTERM --------------------------------------> worker ---+--> FILE, FILE.journal (flows)
//!                                  device --frames--> engine --frames--> device      '--> --log
//! ```
//! Workers own engines and queues of the devices (`worker.rs`, `crew.rs`); this thread waits for what changes.

#[cfg(feature = "watch")]
pub mod api;
mod crew;
mod files;
mod forward;
mod http;
mod journal;
mod latency;
mod lines;
mod neighbours;
mod origin;
mod queue;
mod serve;
#[cfg(feature = "watch")]
mod server;
mod status;
#[cfg(feature = "watch")]
mod token;
mod unwritten;
mod worker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use anyhow::Context;
use lb_core::control::{Label, Node};
use lb_core::rules::{ApplyError, VipClass};
use lb_core::{Address, Config, Instant, RuleTable, Share, Sizes};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use crate::clock::{self, Clock};
use crate::device::Name;
use crate::k8s::Problems;
use crate::metrics::Metrics;
use crate::rules::{self, Changes, Following};
use crew::Crew;
use http::{Answers, HealthPorts};
use journal::Journal;
use latency::Latency;
use lines::Lines;
use neighbours::Neighbours;
use status::Status;
use unwritten::Unwritten;
use worker::Setup;

pub use journal::FlowFileError;
pub use origin::{Files, Notice, Objects, Origin, Reading, Unheeded};

/// What a data plane is to do.
pub struct Options {
    /// Where frames come from and go back to.
    pub devices: Vec<Name>,
    /// Where the objects come from.
    pub origin: Box<dyn Origin>,
    /// The engine's key and seed.
    pub config: Config,
    /// How many threads share the traffic, at least 1.
    pub workers: u16,
    /// How many flows of each family may be tracked, by each of them.
    pub flows: u32,
    /// Where `/metrics`, `/healthz` and `/livez` are answered.
    pub metrics: Option<SocketAddr>,
    /// Where flows are logged.
    pub log: Option<PathBuf>,
    /// Where flows are kept for the next data plane.
    pub flow_file: Option<PathBuf>,
    /// Interfaces on which to say that the Services' addresses are here.
    pub answer_arp: Vec<String>,
    /// How long connections may take to end once it is to end itself.
    pub drain: Duration,
}

/// What this thread waits for.
enum Event {
    Signal(i32),
    /// A file that objects are read from changed.
    Changed,
    /// The data plane ended.
    Ended,
}

/// How often it is looked whether the last connection ended.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often the flow table is written to its file.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Clients remembered for session affinity, backends whose flows are counted, and fragmented datagrams under way.
const REMEMBERED: u32 = 65_536;

/// Runs until a SIGTERM or SIGINT, or until every device has come to its end. SIGHUP has the objects read again.
///
/// # Errors
/// It can't begin: objects, devices, ports or files; or a device failed.
pub fn run(mut options: Options) -> anyhow::Result<()> {
    let clock = Clock::start();
    let latency = Latency::since(clock.now());
    let (events, happened) = channel();
    signals(events.clone())?;
    let metrics = Arc::new(Metrics::new());
    let status = Arc::new(Status::new(clock.now(), (0..options.workers).map(|_| AtomicU64::new(0)).collect()));
    let counting: Arc<OnceLock<Weak<Crew>>> = Arc::default();
    let answers = Answers {
        clock,
        status: status.clone(),
        metrics: metrics.clone(),
        counts: {
            let counting = counting.clone();
            Arc::new(move || counting.get()?.upgrade()?.counts().ok())
        },
    };
    let served = options.metrics.map(|address| http::serve(address, answers.clone())).transpose()?;
    if let Some((address, _)) = &served {
        info!(%address, "answering /metrics, /healthz and /livez");
    }
    options.origin.watch(Notice(events.clone()))?;
    // §2.8: nothing is forwarded before everything was listed once.
    loop {
        match happened.recv()? {
            Event::Changed => break,
            Event::Signal(SIGHUP) => info!("SIGHUP: no objects were read yet"),
            Event::Signal(_) | Event::Ended => return Ok(()),
        }
    }
    let began = clock::now();
    let Reading { objects, refused, triggers } = options.origin.read()?;
    metrics.refused(refused);
    let (mut source, table) = Source::first(&objects)?;

    let unwritten = Unwritten::default();
    let flows = match &options.flow_file {
        Some(path) => journal::load(path, clock.now())?,
        None => Vec::new(),
    };
    let journal = match &options.flow_file {
        Some(path) => {
            journal::save(path, &flows)?;
            Some(Arc::new(Mutex::new(Journal::open(path, unwritten.clone())?)))
        }
        None => None,
    };
    let services = table.segments().map(|(slot, _)| slot + 1).max().unwrap_or(0);
    let sizes = Sizes {
        v4_flows: options.flows,
        v6_flows: options.flows,
        // A table that grows past this shares cursors, no more.
        services: services.saturating_mul(2).max(4096),
        affinity: REMEMBERED,
        backends: REMEMBERED,
        fragments: REMEMBERED,
    };
    let found = flows.len();
    let mut config = options.config.clone();
    if options.workers > 1 {
        let key = match &options.flow_file {
            Some(path) => journal::key(path)?,
            None => clock::random()?,
        };
        config.share = Share { core: 0, cores: options.workers, key };
        config.replies_per_second /= u32::from(options.workers);
    }
    let setup = Setup {
        devices: options.devices.clone(),
        config,
        sizes,
        rules: table,
        flows: flows.into(),
        clock,
        log: options.log.as_deref().map(|path| Lines::append(path, unwritten.clone())).transpose()?,
        journal,
        seen: status.seen(),
    };
    let (crew, restored) = Crew::start(options.workers, &setup, &events)?;
    let crew = Arc::new(crew);
    metrics.restored(restored);
    if restored < found {
        warn!(found, restored, "not all flows of the file could be taken over");
    }
    drop(setup);
    // Nobody else sets it.
    let _ = counting.set(Arc::downgrade(&crew));
    let neighbours = Neighbours::open(&options.answer_arp)?;
    let health_ports = HealthPorts::default();
    let mut plane = Plane { clock, crew, metrics, status, answers, health_ports, neighbours, latency, unwritten };
    plane.metrics.synced(clock.now(), clock::now() - began, source.changes(&objects), true);
    plane.programmed(triggers);
    plane.tell(&mut source, &objects);
    let devices: Vec<_> = options.devices.iter().map(Name::to_string).collect();
    plane.status.forwarding(clock.now());
    info!(devices = devices.join(" "), flows = restored, "forwarding");

    let outcome = plane.wait(&happened, &mut source, &mut options);
    plane.status.ending();
    let Plane { crew, answers, unwritten, .. } = plane;
    drop(answers);
    let flows = ended(crew)?;
    if let Some(path) = &options.flow_file {
        journal::save(path, &flows)?;
        Journal::open(path, unwritten.clone())?;
    }
    info!(flows = flows.len(), "ended");
    outcome.and_then(|()| unwritten.none())
}

/// The flows of a data plane that is to end.
fn ended(mut crew: Arc<Crew>) -> anyhow::Result<Vec<lb_core::Flow>> {
    // A scrape may be under way; it is over in a moment.
    loop {
        match Arc::try_unwrap(crew) {
            Ok(alone) => return alone.end(),
            Err(shared) => crew = shared,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signals(events: Sender<Event>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Where rules come from.
enum Source {
    Cluster(Box<Following>),
    Image,
}

impl Source {
    /// The source of these objects, and the first rules.
    fn first(objects: &Objects) -> anyhow::Result<(Self, RuleTable<Vec<u8>>)> {
        match objects {
            Objects::Image(table) => Ok((Self::Image, RuleTable::clone(table))),
            Objects::Changes { .. } => anyhow::bail!("changes of objects that were never read"),
            Objects::Cluster { services, slices, node, .. } => {
                let mut following = Following::new(Node::clone(node));
                following.put(services, slices, Node::clone(node));
                let mut first = Vec::new();
                following.control.delta(&mut first)?;
                tell_problems(&following);
                let table = rules::grown(&first)?;
                Ok((Self::Cluster(Box::new(following)), table))
            }
        }
    }

    /// How many objects these are, against none.
    fn changes(&self, objects: &Objects) -> Changes {
        match objects {
            Objects::Cluster { services, slices, .. } => {
                Changes { services: services.len() as u64, slices: slices.len() as u64 }
            }
            Objects::Image(_) | Objects::Changes { .. } => Changes::default(),
        }
    }
}

/// Service ports that there can be no rules for.
fn tell_problems(following: &Following) {
    for (service, problem) in following.control.problems() {
        warn!("Service {service}: {problem}");
    }
}

/// The addresses of all Services; those of nodes are their kernels' business.
fn addresses(source: &Source, objects: &Objects) -> BTreeSet<Address> {
    match (source, objects) {
        (Source::Cluster(following), _) => following
            .services()
            .flat_map(|one| [&one.cluster_ips, &one.external_ips, &one.load_balancer_ips])
            .flatten()
            .copied()
            .collect(),
        (Source::Image, Objects::Image(table)) => {
            let vips = table.segments().flat_map(|(_, segment)| segment.vips());
            vips.filter(|vip| vip.class != VipClass::NodePort).map(|vip| vip.address).collect()
        }
        (Source::Image, _) => BTreeSet::new(),
    }
}

/// A data plane at work.
struct Plane {
    clock: Clock,
    crew: Arc<Crew>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    answers: Answers,
    health_ports: HealthPorts,
    neighbours: Neighbours,
    latency: Latency,
    unwritten: Unwritten,
}

impl Plane {
    /// Does what happens until it is to end.
    fn wait(&mut self, happened: &Receiver<Event>, source: &mut Source, options: &mut Options) -> anyhow::Result<()> {
        let mut saved = clock::now();
        // When it ends at the latest, once it is to.
        let mut latest = None;
        loop {
            match happened.recv_timeout(if latest.is_some() { LOOK_EVERY } else { SAVE_EVERY }) {
                Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Event::Signal(SIGHUP)) => {
                    info!("SIGHUP: reading the objects again");
                    self.reload(source, options)?;
                }
                Ok(Event::Signal(signal)) if latest.is_some() || options.drain.is_zero() => {
                    info!(signal, "ending: finishing what is queued");
                    return Ok(());
                }
                Ok(Event::Signal(signal)) => {
                    info!(signal, grace = ?options.drain, "draining: new connections are to go elsewhere, those there are may end");
                    latest = Some(clock::now() + options.drain);
                    self.status.ending();
                    self.neighbours.serve(BTreeSet::new());
                }
                Ok(Event::Changed) => self.reload(source, options)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some((lines, why)) = self.unwritten.news() {
                self.metrics.unwritten(lines);
                error!(lines, "could not be written about flows, and traffic goes on: {why}");
            }
            if latest.is_some_and(|latest| clock::now() >= latest || self.is_idle()) {
                info!("drained: finishing what is queued");
                return Ok(());
            }
            if let Some(path) = options.flow_file.as_ref().filter(|_| clock::now() - saved >= SAVE_EVERY) {
                let flows = self.crew.flows();
                // Without room on the disk the journal still has the flows.
                let saving = flows.and_then(|flows| Ok(journal::save(path, &flows)?));
                saving.unwrap_or_else(|error| error!("the flows were not saved: {error:#}"));
                saved = clock::now();
            }
        }
    }

    /// Whether no connection is left, nor a data plane.
    fn is_idle(&self) -> bool {
        self.crew.counts().map_or(true, |counts| counts.connections == 0)
    }

    /// Reads the objects again and puts the difference in force; if something is wrong with them all is as it was.
    fn reload(&mut self, source: &mut Source, options: &mut Options) -> anyhow::Result<()> {
        let (began, now) = (clock::now(), self.clock.now());
        self.metrics.queued(now);
        self.status.queued(now);
        let read = options.origin.read();
        match read.and_then(|read| Ok((self.put(source, &read.objects)?, read))) {
            Ok((changed, Reading { objects, refused, triggers })) => {
                self.metrics.refused(refused);
                self.programmed(triggers);
                // Also where no rule changed: whether the node is to stay is no rule.
                self.tell(source, &objects);
                if let Some((changes, swapped)) = changed {
                    let took = clock::now() - began;
                    self.metrics.synced(self.clock.now(), took, changes, swapped);
                    let Changes { services, slices } = changes;
                    info!(services, slices, swapped, milliseconds = took.as_micros() as f64 / 1e3, "rules changed");
                }
            }
            Err(error) if error.is::<worker::Ended>() => return Ok(()),
            Err(error) => {
                self.metrics.refused(1);
                match error.downcast_ref::<Problems>() {
                    Some(Problems(problems)) => problems.iter().for_each(|problem| error!("refused: {problem}")),
                    None => error!("refused: {error:#}"),
                }
                error!("the rules stay as they were; correct the objects, they are read again when they change");
            }
        }
        self.status.settled(self.clock.now());
        Ok(())
    }

    /// Puts the difference to these objects in force. `None` if there is none; how many objects changed, and whether that took
    /// a table of its own.
    fn put(&self, source: &mut Source, objects: &Objects) -> anyhow::Result<Option<(Changes, bool)>> {
        match (source, objects) {
            (Source::Cluster(following), Objects::Cluster { services, slices, node, .. }) => {
                let changes = following.put(services, slices, Node::clone(node));
                self.put_difference(following, changes)
            }
            (Source::Cluster(following), Objects::Changes { changes, .. }) => {
                let changes = following.follow(changes.clone());
                self.put_difference(following, changes)
            }
            (Source::Image, Objects::Image(table)) => {
                self.crew.swap(table)?;
                Ok(Some((Changes::default(), true)))
            }
            _ => Ok(None),
        }
    }

    /// Puts in force what the control plane made of these changes.
    fn put_difference(&self, following: &mut Following, changes: Changes) -> anyhow::Result<Option<(Changes, bool)>> {
        self.metrics.pending(changes);
        let mut delta = Vec::new();
        let differs = following.control.delta(&mut delta)?;
        tell_problems(following);
        if !differs {
            return Ok((changes != Changes::default()).then_some((changes, false)));
        }
        match self.crew.apply(&delta)? {
            Ok(()) => return Ok(Some((changes, false))),
            Err(ApplyError::NoSpace { .. }) => {}
            Err(error) => warn!("the difference could not be applied, all rules are replaced: {error}"),
        }
        let table = rules::grown(&following.control.image()?).context("a larger table")?;
        self.crew.swap(&table)?;
        Ok(Some((changes, true)))
    }

    /// Measures how long these changes of slices took that are in force now.
    fn programmed(&mut self, triggers: Vec<(Label, Instant)>) {
        for took in self.latency.took(self.clock.now(), triggers) {
            self.metrics.programmed(took);
        }
    }

    /// Tells those who answer about the objects in force.
    fn tell(&mut self, source: &mut Source, objects: &Objects) {
        if let (Source::Cluster(following), Objects::Cluster { eligible, .. } | Objects::Changes { eligible, .. }) =
            (&mut *source, objects)
        {
            let (internal, external) = following.without_local_endpoints();
            self.metrics.without_local_endpoints(internal, external);
            let node = following.control.node();
            let ports = self.status.serving(node, *eligible, following.services(), following.slices());
            self.health_ports.update(&ports, &self.answers);
        }
        if !self.status.is_ending() {
            self.neighbours.serve(addresses(source, objects));
        }
    }
}
