//! The box that the story plays in, the page it is told on, and how each act of it looks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use lb_core::{Address, Family, Instant, Protocol};

use super::journey::{Journey, Leg, destination, source};
use super::ledger::{Ledger, Way};
use super::lookups::{self, Asked};
use super::page::{Colors, Page};
use super::{Error, Told};
use crate::cluster::api::Kind;
use crate::cluster::kubectl;
use crate::cluster::kubernetes::{FetchId, Kubernetes, Plan, Trouble};
use crate::cluster::program::{DnsClient, Fetched, Resolver};
use crate::cluster::{PODS, Passage};
use crate::dns::RecordType;
use crate::host::Socket;
use crate::k8s::{Document, Placed};
use crate::path::{self, Layer, socket};
use crate::table::Row;

/// How long anything may take that the story waits for.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) struct Stage<'w> {
    pub(super) it: Kubernetes,
    pub(super) page: Page<'w>,
    ledger: Ledger,
    chapter: usize,
    /// What was applied last, by kind, namespace and name.
    applied: BTreeMap<(String, String, String), serde_json::Value>,
}

/// A request and all that is known of it.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) from: String,
    /// What was asked for, as it would be typed.
    pub(super) to: String,
    pub(super) fetched: Fetched,
    pub(super) journey: Journey,
    pub(super) lookups: Vec<Asked>,
    /// The way of the first question to DNS.
    pub(super) dns: Option<Journey>,
}

impl Visit {
    /// Who served it; nobody is "".
    pub(super) fn served_by(&self) -> &str {
        self.fetched.result.as_ref().map_or("", |reply| &reply.served_by)
    }

    /// The client as the server saw it.
    pub(super) fn seen_as(&self) -> Option<Socket> {
        self.fetched.result.as_ref().ok().and_then(|reply| read_socket(&reply.seen_as))
    }

    /// The client's address as the server saw it.
    pub(super) fn client_seen(&self) -> Option<Address> {
        self.seen_as().map(|(address, _)| address)
    }

    pub(super) fn took(&self) -> Duration {
        self.fetched.ended.saturating_since(self.fetched.started)
    }
}

impl<'w> Stage<'w> {
    pub(super) fn new(plan: Plan, out: &'w mut dyn Write, colors: Colors) -> Result<Self, Error> {
        let mut it = Kubernetes::new(plan)?;
        it.world_mut().witness()?;
        Ok(Self { it, page: Page::new(out, colors), ledger: Ledger::default(), chapter: 0, applied: BTreeMap::new() })
    }

    pub(super) fn close(mut self) -> Result<Told, Error> {
        let (requests, time) = (self.ledger.requests(), self.it.now());
        let capture = self.it.world_mut().capture()?;
        let (checks, failed) = self.page.verdict();
        Ok(Told { checks, failed, requests, time, capture })
    }

    pub(super) fn chapter(&mut self, title: &str) -> Result<(), Error> {
        self.chapter += 1;
        Ok(self.page.heading(&format!("{:>2}  {title}", self.chapter))?)
    }

    pub(super) fn say(&mut self, text: &str) -> Result<(), Error> {
        Ok(self.page.say(text)?)
    }

    pub(super) fn show(&mut self, text: &str) -> Result<(), Error> {
        Ok(self.page.show(text)?)
    }

    pub(super) fn check(&mut self, holds: bool, claim: &str) -> Result<(), Error> {
        Ok(self.page.check(holds, claim)?)
    }

    /// Something typed now.
    pub(super) fn typed(&mut self, who: &str, command: &str) -> Result<(), Error> {
        let time = clock(self.it.now());
        Ok(self.page.command(who, command, &time)?)
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.it.run_for(Duration::from_secs(seconds));
    }

    /// Waits until something is so. Whether it came to be.
    pub(super) fn wait_for(&mut self, condition: impl FnMut(&Kubernetes) -> bool) -> bool {
        self.it.run_for_until(PATIENCE, condition)
    }

    /// Waits until every node's proxy has followed the API.
    pub(super) fn settle(&mut self) {
        self.wait(2);
    }

    /// `kubectl apply -f` of one of the example's files.
    pub(super) fn apply(&mut self, file: &str, text: &str) -> Result<(), Error> {
        let path = format!("lb-host/examples/demo/{file}");
        self.typed("", &format!("kubectl apply -f {path}"))?;
        let documents = Document::parse(&path, text).map_err(Trouble::from)?;
        let mut told = String::new();
        for document in &documents {
            let part = |path| document.text(path).unwrap_or_default().to_owned();
            let (kind, name) = (part("kind").to_lowercase(), part("metadata.name"));
            let group = if kind == "deployment" { ".apps" } else { "" };
            let before = self.applied.insert((kind.clone(), part("metadata.namespace"), name.clone()), document.json());
            let deed = match before {
                None => "created",
                Some(before) if before == document.json() => "unchanged",
                Some(_) => "configured",
            };
            // Writing to a string can't fail.
            let _ = writeln!(told, "{kind}{group}/{name} {deed}");
        }
        self.it.apply_documents(documents)?;
        self.show(&told)
    }

    /// `kubectl get` of some objects of a namespace.
    pub(super) fn kubectl_get<T: Row + Kind>(
        &mut self,
        arguments: &str,
        wide: bool,
        wanted: impl Fn(&Placed<T>) -> bool,
    ) -> Result<(), Error> {
        self.typed("", &format!("kubectl get {arguments}"))?;
        let now = self.it.now();
        let objects: Vec<&Placed<T>> =
            self.it.api().list::<T>().map(AsRef::as_ref).filter(|object| wanted(object)).collect();
        let table = match objects.as_slice() {
            [] => "No resources found in default namespace.\n".to_owned(),
            objects => kubectl::show(objects, false, wide, now),
        };
        self.show(&table)
    }

    /// Forgets what routers did so far.
    pub(super) fn look_away(&mut self) {
        self.it.world_mut().passages();
    }

    /// A request, all of it watched.
    pub(super) fn visit(&mut self, from: &str, to: &str, family: Family) -> Result<Visit, Error> {
        let mut visits = self.visits(from, to, family, 1)?;
        visits.pop().ok_or_else(|| crate::cluster::kubernetes::Nobody(from.to_owned()).into())
    }

    /// So many requests, one after the other.
    pub(super) fn visits(&mut self, from: &str, to: &str, family: Family, times: u64) -> Result<Vec<Visit>, Error> {
        self.look_away();
        let (machine, fetch) = self.it.prepare(from, to, &[family])?;
        let fetch = fetch.times(times, Duration::from_millis(50)).timeout(Duration::from_secs(3));
        let id = self.it.world_mut().run(machine, fetch);
        self.wait_for(|it| it.is_done(id));
        self.visited(from, to, id, None)
    }

    /// What came of requests so far. On a connection that is used again and again only the first of them has a way of its
    /// own to be found; `opened` is that of the first, if it was looked at before.
    pub(super) fn visited(
        &mut self,
        from: &str,
        to: &str,
        id: FetchId,
        opened: Option<Journey>,
    ) -> Result<Vec<Visit>, Error> {
        let passages = self.it.world_mut().passages();
        let machine = self.it.machine(from)?;
        let own = self.it.world().addresses(machine).to_vec();
        let own = |family| own.iter().copied().find(|own| own.family() == family);
        let mut last = opened.unwrap_or_default();
        let mut visits = Vec::new();
        for fetched in self.it.fetched(id).to_vec() {
            let during = between(&passages, fetched.started, fetched.ended);
            let journey = fetched.to.and_then(|to| {
                let seen = fetched.result.as_ref().ok().and_then(|reply| read_socket(&reply.seen_as));
                Some(Journey::of(during, own(to.0.family())?, to, Protocol::TCP, seen))
            });
            let journey = journey.filter(|journey| !journey.there.is_empty()).unwrap_or_else(|| last.clone());
            last = journey.clone();
            let asker = own(Family::V4);
            let lookups = asker.map(|own| lookups::asked(during, own)).unwrap_or_default();
            let server = lookups.first().map(|asked| asked.server);
            let dns = asker.zip(server).map(|(own, server)| Journey::of(during, own, server, Protocol::UDP, None));
            let (from, to) = (from.to_owned(), to.to_owned());
            let visit = Visit { from, to, fetched, journey, lookups, dns };
            let who = match &visit.fetched.result {
                Ok(reply) => reply.served_by.clone(),
                Err(failure) => format!("({})", failure.to_string().trim_start_matches("connection ")),
            };
            self.book(&visit.from, &visit.to, &visit.journey, &who, visit.client_seen());
            visits.push(visit);
        }
        Ok(visits)
    }

    /// The way of a connection that goes on.
    pub(super) fn opened(&mut self, from: &str, id: FetchId) -> Result<Journey, Error> {
        let passages = self.it.world_mut().passages();
        let machine = self.it.machine(from)?;
        let Some(fetched) = self.it.fetched(id).first() else { return Ok(Journey::default()) };
        let seen = fetched.result.as_ref().ok().and_then(|reply| read_socket(&reply.seen_as));
        let journey = fetched.to.and_then(|to| {
            let own = self.it.world().addresses(machine).iter().copied().find(|own| own.family() == to.0.family())?;
            Some(Journey::of(between(&passages, fetched.started, fetched.ended), own, to, Protocol::TCP, seen))
        });
        Ok(journey.unwrap_or_default())
    }

    /// What a Pod's resolver finds under a name, its search list included.
    pub(super) fn dig(&mut self, from: &str, name: &str, kind: RecordType) -> Result<Vec<Asked>, Error> {
        self.typed(from, &format!("dig +search {name} {kind}"))?;
        self.look_away();
        let machine = self.it.machine(from)?;
        let Some(config) = self.it.resolver_config("default") else { return Ok(Vec::new()) };
        let client = DnsClient::new(Resolver::new(config, 0), name, &[kind], 1, Duration::ZERO);
        let client = self.it.world_mut().run(machine, client);
        self.wait_for(|it| it.world().program(client).is_none_or(DnsClient::is_done));
        let passages = self.it.world_mut().passages();
        let own = self.it.world().addresses(machine).iter().copied().find(|own| own.is_v4());
        let asked = own.map(|own| lookups::asked(&passages, own)).unwrap_or_default();
        self.tell_lookups(&asked)?;
        Ok(asked)
    }

    /// Enters a request into the table at the end.
    pub(super) fn book(&mut self, from: &str, to: &str, journey: &Journey, served_by: &str, seen_as: Option<Address>) {
        let own = self.it.machine(from).map(|machine| self.it.world().addresses(machine)).unwrap_or_default();
        let way = Way {
            mode: self.mode(),
            from: from.to_owned(),
            dialled: short(to),
            kept: seen_as.is_some_and(|seen| own.contains(&seen)),
        };
        self.ledger.enter(way, journey, served_by, seen_as);
    }

    pub(super) fn requests(&self) -> usize {
        self.ledger.requests()
    }

    pub(super) fn table(&mut self) -> Result<(), Error> {
        for (mode, table) in self.ledger.tables() {
            self.say(&format!("kube-proxy mode {mode}"))?;
            self.page.gap()?;
            self.page.show_wide(&table)?;
        }
        Ok(())
    }

    /// The mode that nodes are in.
    pub(super) fn mode(&self) -> &'static str {
        self.it.proxy().mode.name
    }

    /// What was typed, and what came of it; then the layers and every header.
    pub(super) fn tell(&mut self, visit: &Visit) -> Result<(), Error> {
        self.tell_answer(visit)?;
        self.tell_journey(&visit.journey, &visit.from, visit.served_by())
    }

    pub(super) fn tell_answer(&mut self, visit: &Visit) -> Result<(), Error> {
        let time = clock(visit.fetched.started);
        self.page.command(&visit.from, &format!("curl {}", visit.to), &time)?;
        match &visit.fetched.result {
            Ok(reply) => {
                let body = String::from_utf8_lossy(&reply.body).into_owned();
                self.show(body.trim_end())
            }
            Err(failure) => self.show(&format!("curl: {failure}, after {:?}", visit.took())),
        }
    }

    pub(super) fn tell_journey(&mut self, journey: &Journey, from: &str, server: &str) -> Result<(), Error> {
        self.page.gap()?;
        self.show(&doll(journey))?;
        self.page.gap()?;
        let rows = self.rows(journey, from, server);
        let columns = |of: fn(&Step) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
        let (who, deed, from) = (columns(|row| &row.who), columns(|row| row.deed), columns(|row| &row.source));
        let mut back = false;
        for row in &rows {
            if row.back && !std::mem::replace(&mut back, true) {
                self.page.gap()?;
            }
            let header = match row.source.as_str() {
                "" => String::new(),
                source => format!("{source:<from$} -> {}", row.destination),
            };
            self.show(&format!("{:<who$}  {:<deed$}  {header}", row.who, row.deed))?;
        }
        Ok(())
    }

    /// The lines of a journey, a machine a line.
    fn rows(&self, journey: &Journey, from: &str, server: &str) -> Vec<Step> {
        let mut rows = Vec::new();
        for (legs, back) in [(&journey.there, false), (&journey.back, true)] {
            for (number, leg) in legs.iter().enumerate() {
                let who = match (number, back) {
                    (0, false) => from.to_owned(),
                    (0, true) => server.to_owned(),
                    _ => format!("proxy of {}", leg.hops.first().map_or("", |hop| &hop.router)),
                };
                let deed = match (number, back) {
                    (0, false) => "sends",
                    (_, false) => "dials",
                    (_, true) => "answers",
                };
                rows.push(Step::new(who, deed, Some(&leg.sent), back));
                rows.extend(hops(leg, back));
            }
        }
        rows
    }

    /// What a client asked of DNS and was told, a record a line.
    pub(super) fn tell_lookups(&mut self, asked: &[Asked]) -> Result<(), Error> {
        let mut lines: Vec<(&str, String, &str)> = Vec::new();
        for asked in asked {
            let nothing = |why| (asked.name.as_str(), asked.kind.to_string(), why);
            match asked.found.as_deref() {
                None => lines.push(nothing("NXDOMAIN")),
                Some([]) => lines.push(nothing("no such record")),
                Some(records) => lines.extend(
                    records.iter().map(|found| (found.owner.as_str(), found.kind.to_string(), found.data.as_str())),
                ),
            }
        }
        let (owner, kind) =
            lines.iter().fold((0, 0), |(owner, kind), line| (owner.max(line.0.len()), kind.max(line.1.len())));
        lines.iter().try_for_each(|line| self.show(&format!("{:<owner$}  {:<kind$}  {}", line.0, line.1, line.2)))
    }
}

/// A line of a journey.
struct Step {
    who: String,
    deed: &'static str,
    source: String,
    destination: String,
    back: bool,
}

impl Step {
    fn new(who: String, deed: &'static str, header: Option<&lb_core::Tuple>, back: bool) -> Self {
        let text = |of: fn(&lb_core::Tuple) -> Socket| {
            header.map(of).map_or_else(String::new, |(address, port)| socket(address, port))
        };
        Self { who, deed, source: text(source), destination: text(destination), back }
    }
}

fn hops(leg: &Leg, back: bool) -> impl Iterator<Item = Step> {
    leg.hops.iter().map(move |hop| Step::new(hop.router.clone(), hop.deed, hop.left.as_ref(), back))
}

/// The layers on one line, or inside each other where they are long.
pub(super) fn doll(journey: &Journey) -> String {
    let layers: Vec<String> = journey.doll.iter().map(|layer| format!("{} {}", word(layer), layer.address)).collect();
    let line = layers.join(" -> ");
    if line.len() <= 74 {
        return line;
    }
    let nested = layers.iter().enumerate().map(|(depth, layer)| match depth {
        0 => layer.clone(),
        _ => format!("{}-> {layer}", "   ".repeat(depth - 1)),
    });
    nested.collect::<Vec<_>>().join("\n")
}

/// What a layer is: an endpoint need be no Pod.
fn word(layer: &Layer) -> String {
    let in_pods = |(address, _): Socket| PODS.iter().any(|block| block.contains(address));
    match layer.kind {
        path::Kind::Pod if !read_socket(&layer.address).is_some_and(in_pods) => "endpoint".to_owned(),
        kind => kind.to_string(),
    }
}

/// How the story tells the time.
pub(super) fn clock(time: Instant) -> String {
    let millis = time.as_nanos() / 1_000_000;
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

/// An address and a port, as servers write whom they see.
pub(super) fn read_socket(text: &str) -> Option<Socket> {
    let socket: std::net::SocketAddr = text.parse().ok()?;
    Some((socket.ip().into(), socket.port()))
}

/// What `curl` is given for an address and a port.
pub(super) fn url(at: Socket) -> String {
    format!("http://{}/", socket(at.0, at.1))
}

/// What was dialled, in few words.
fn short(to: &str) -> String {
    let to = to.trim_start_matches("http://").trim_end_matches('/');
    to.replace(".default.svc.cluster.local.:", "...:").replace(".default.svc.cluster.local:", "...:")
}

/// What routers did from one moment to another.
pub(super) fn between(passages: &[Passage], from: Instant, to: Instant) -> &[Passage] {
    let (begin, end) = (
        passages.partition_point(|passage| passage.time < from),
        passages.partition_point(|passage| passage.time <= to),
    );
    passages.get(begin..end).unwrap_or_default()
}
