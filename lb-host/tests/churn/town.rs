//! The box that churns: its objects, its traffic, what happens to them, and what must hold.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use lb_core::Family::{self, V4, V6};
use lb_core::control::Mode;
use lb_core::{Checksum, Meta, Protocol, Sizes, Tuple, Verdict};
use lb_host::chance::Chance;
use lb_host::cluster::kubernetes::{FetchId, Kubernetes, Plan};
use lb_host::cluster::program::{BulkClient, DnsClient, Resolver};
use lb_host::cluster::{Judgement, Link, MachineId, ProgramId};
use lb_host::dns::RecordType;
use lb_host::host::{Strangeness, Stray};

use crate::oracle::{Birth, Oracle};
use crate::{packet, table};

const NODES: usize = 3;

/// What a node of the box has room for.
const SIZES: Sizes =
    Sizes { v4_flows: 4096, v6_flows: 4096, services: 512, affinity: 512, backends: 512, fragments: 64 };

pub(crate) struct Town {
    it: Kubernetes,
    mode: Mode,
    /// The Service is of externalTrafficPolicy Local.
    local: bool,
    chance: Chance,
    fetches: Vec<(String, FetchId)>,
    lookups: Vec<ProgramId<DnsClient>>,
    transfers: Vec<(Family, ProgramId<BulkClient>)>,
    /// The last birth of each TCP flow at a node.
    flows: BTreeMap<(MachineId, Tuple), Birth>,
    oracle: Oracle,
    /// Packets that were looked at.
    packets: u64,
    off: Option<String>,
    story: Vec<String>,
    capture: Vec<u8>,
    recording: bool,
}

fn objects(local: bool) -> String {
    let policy = if local { "Local" } else { "Cluster" };
    let template = |app: &str, more: &str| {
        format!(
            "{{metadata: {{labels: {{app: {app}}}}}, spec: {{terminationGracePeriodSeconds: 8, containers: [{{name: {app},
            lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}, {more}}}]}}}}"
        )
    };
    let web = template(
        "web",
        "ports: [{containerPort: 8080}], readinessProbe: {periodSeconds: 1, failureThreshold: 2, httpGet: {path: /ready, port: 8080}}",
    );
    let bulk = template("bulk", "image: bulk, ports: [{containerPort: 9000}]");
    format!(
        "
{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: 3, selector: {{}}, template: {web}}}}}
---
{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: bulk}}, spec: {{replicas: 2, selector: {{}}, template: {bulk}}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: LoadBalancer, externalTrafficPolicy: {policy},
  selector: {{app: web}}, ipFamilyPolicy: PreferDualStack, ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: bulk}}, spec: {{selector: {{app: bulk}}, ipFamilyPolicy: PreferDualStack,
  ports: [{{port: 9000}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{nodeName: worker-1, containers: [{{name: shell, image: shell}}]}}}}
"
    )
}

/// What holds for any packet (tests/invariants, 1 to 3 and 11).
fn sound(judgement: &Judgement) {
    let Judgement { origin, came, left, verdict, flow, answer, .. } = judgement;
    let meta = Meta { link: lb_core::Link::Ip, checksum: Checksum::Complete, origin: *origin, zone: 0 };
    let whole = packet::Passage { came, left, meta, hops: 0 };
    match (verdict, flow) {
        (Verdict::Forward { direction, .. }, Some(flow)) => packet::forwarded(&whole, flow, *direction),
        (Verdict::Forward { .. }, None) => panic!("forwarded by no flow"),
        _ => packet::untouched(&whole),
    }
    if let Some(answer) = answer {
        packet::answer(came, answer, lb_core::Link::Ip);
    }
}

impl Town {
    pub(crate) fn new(seed: u64, record: bool) -> Self {
        let mut chance = Chance::new(seed).named("churn");
        let mode = Mode::ALL[chance.below(Mode::ALL.len() as u64) as usize];
        // ipvs falls back to other nodes without masquerade (SEMANTICS §14.3), and then a client hears from a stranger.
        let local = [Mode::IPTABLES, Mode::NFTABLES].contains(&mode) && chance.below(2) == 0;
        let mut plan = Plan::of(seed, mode);
        let rough = |link: Link| Link { jitter: Duration::from_micros(300), loss: 5_000, duplication: 1_000, ..link };
        plan.physics.node = rough(plan.physics.node);
        plan.physics.client = rough(plan.physics.client);
        let mut it = Kubernetes::new(plan).unwrap();
        it.add_nodes(NODES).unwrap();
        it.add_dns().unwrap();
        it.add_client("laptop");
        it.apply(&objects(local)).unwrap();
        if record {
            it.world_mut().record().unwrap();
        }
        it.run_for(Duration::from_secs(25));
        let mut town = Self {
            it,
            mode,
            local,
            chance,
            fetches: Vec::new(),
            lookups: Vec::new(),
            transfers: Vec::new(),
            flows: BTreeMap::new(),
            oracle: Oracle::default(),
            packets: 0,
            off: None,
            story: Vec::new(),
            capture: Vec::new(),
            recording: record,
        };
        town.listen();
        town.begin();
        town
    }

    pub(crate) fn steps(&self) -> usize {
        12
    }

    pub(crate) fn capture(self) -> Vec<u8> {
        self.capture
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.it.run_for(time);
    }

    /// Takes note of all packets from now on.
    fn listen(&mut self) {
        for (_, node) in self.nodes() {
            self.it.world_mut().judgements(node);
        }
    }

    fn nodes(&self) -> Vec<(String, MachineId)> {
        let names = self.it.node_names().map(str::to_owned);
        names.filter_map(|name| Some((name.clone(), self.it.node(&name)?))).collect()
    }

    fn begin(&mut self) {
        let ms = Duration::from_millis;
        for family in [V4, V6] {
            let address = self.it.load_balancer_address("default/web", family).unwrap();
            let kept = self.it.prepare("laptop", (address, 80), &[family]).unwrap();
            let fetch = self.it.world_mut().run(kept.0, kept.1.keep_alive().times(1_000, ms(200)));
            self.fetches.push((format!("laptop, one connection {family:?}"), fetch));
            for (from, to) in [("laptop", format!("[{address}]:80")), ("shell", "http://web/".to_owned())] {
                let to = if family == V4 { to.replace(['[', ']'], "") } else { to };
                let (machine, fetch) = self.it.prepare(from, to.as_str(), &[family]).unwrap();
                let fetch = self.it.world_mut().run(machine, fetch.timeout(ms(2_000)).times(1_000, ms(150)));
                self.fetches.push((format!("{from} {family:?}"), fetch));
            }
            let mut config = self.it.resolver_config("default").unwrap();
            config.servers.retain(|server| server.is_ipv4() == (family == V4));
            let port = if family == V4 { 5353 } else { 5354 };
            let resolver = Resolver::new(config, port);
            let client = DnsClient::new(resolver, "web", &[RecordType::A], 1_000, ms(200));
            self.lookups.push(self.it.run_in("default/shell", client).unwrap());
        }
    }

    fn pods(&self, start: &str) -> Vec<String> {
        let pods = self.it.running_pods().map(|(key, _)| key.to_owned());
        pods.filter(|key| key.starts_with(start)).collect()
    }

    fn any(&mut self, from: Vec<String>) -> Option<String> {
        if from.is_empty() {
            return None;
        }
        let index = self.chance.below(from.len() as u64) as usize;
        from.into_iter().nth(index)
    }

    /// Something happens.
    pub(crate) fn disturb(&mut self) {
        let what = self.chance.below(9);
        let web = self.pods("default/web-");
        let pod = self.any(web);
        let told = match (what, pod) {
            (0, Some(pod)) => self.it.crash(&pod).map(|()| format!("{pod} crashes")),
            (1, Some(pod)) => self.it.set_ready(&pod, false).map(|()| format!("{pod} is unready")),
            (2, Some(pod)) => self.it.set_ready(&pod, true).map(|()| format!("{pod} is ready")),
            (3, Some(pod)) => {
                // It may be on its way out already.
                let _ = self.it.delete::<Pod>(&pod);
                Ok(format!("{pod} is deleted"))
            }
            (4, _) => {
                let replicas = self.chance.below(5) as i32;
                self.it.scale("default/web", replicas).map(|()| format!("web is {replicas}"))
            }
            (5, _) => self.it.roll("default/web").map(|()| "web rolls".to_owned()),
            (6, _) => self.it.roll("kube-system/coredns").map(|()| "coredns rolls".to_owned()),
            (7, _) => {
                let family = if self.chance.below(2) == 0 { V4 } else { V6 };
                self.transfer(family);
                Ok(format!("a transfer {family:?}"))
            }
            _ => Ok(self.switch()),
        };
        let told = told.unwrap_or_else(|nobody| nobody.to_string());
        self.story.push(format!("{:?}: {told}", self.it.now()));
    }

    fn transfer(&mut self, family: Family) {
        use k8s_openapi::api::core::v1::Service;
        let service = self.it.api().get::<Service>("default/bulk").unwrap();
        let own = lb_host::k8s::service::cluster_ips(service.object.spec.as_ref().unwrap());
        let address = own.into_iter().find(|own| own.family() == family).unwrap();
        let client = BulkClient::new((address, 9000), 40_000, 40_000);
        let id = self.it.run_in("default/shell", client).unwrap();
        self.transfers.push((family, id));
    }

    /// A node without power gets it back, or one loses it; not the one that asks.
    fn switch(&mut self) -> String {
        match self.off.take() {
            Some(node) => {
                self.it.power_on(&node).unwrap();
                let machine = self.it.node(&node).unwrap();
                self.it.world_mut().judgements(machine);
                format!("{node} has power")
            }
            None => {
                let node = format!("worker-{}", 2 + self.chance.below(NODES as u64 - 1));
                // What its engine still has to tell is told now.
                self.gather().unwrap_or_else(|why| panic!("{why}"));
                self.it.power_off(&node).unwrap();
                self.off = Some(node.clone());
                format!("{node} has no power")
            }
        }
    }

    fn fail<T>(&self, why: String) -> Result<T, String> {
        let log: Vec<_> = self.it.log().iter().rev().take(60).map(ToString::to_string).collect();
        let log = log.into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(format!("{} local {}: {why}\n{}\n{log}", self.mode.name, self.local, self.story.join("\n")))
    }

    /// Packets that were judged, each as any balancer is to; flows that began, each to whom the node's rules let it.
    fn gather(&mut self) -> Result<(), String> {
        self.oracle.read(&self.it);
        for (name, node) in self.nodes() {
            for judgement in self.it.world_mut().judgements(node) {
                if std::panic::catch_unwind(|| sound(&judgement)).is_err() {
                    return self.fail(format!("{name}: the invariant told above does not hold for {judgement:?}"));
                }
                self.packets += 1;
                let Some(flow) = judgement.flow.filter(|_| judgement.begun) else { continue };
                let birth = Birth { time: judgement.time, flow };
                let own = self.it.world().addresses(node).to_vec();
                if let Err(why) = self.oracle.judge(self.mode, &name, &own, &birth) {
                    return self.fail(format!("{why}: {birth:?}"));
                }
                // An oracle that says yes to everything is none.
                let mut wrong = birth;
                wrong.flow.reply.source_port ^= 1;
                if self.mode != Mode::USERSPACE && self.oracle.judge(self.mode, &name, &own, &wrong).is_ok() {
                    return self.fail(format!("nobody serves what the oracle allows: {wrong:?}"));
                }
                if birth.flow.original.protocol == Protocol::TCP {
                    self.flows.insert((node, birth.flow.original), birth);
                }
            }
        }
        Ok(())
    }

    /// What holds at every step.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        self.gather()?;
        for (name, node) in self.nodes() {
            let world = self.it.world();
            let (counted, judged) = (world.counters(node).map(|all| all.packets()), world.judged(node));
            if counted != judged {
                return self.fail(format!("{name} counts {counted:?} packets of {judged:?}"));
            }
            // What holds for any balancer (tests/invariants): here of flows that a whole cluster makes and breaks.
            let sound = world.look(node, |balancer| {
                let check = || table::check(balancer, SIZES, 0);
                std::panic::catch_unwind(AssertUnwindSafe(check)).is_ok()
            });
            if sound != Some(true) {
                return self.fail(format!("{name}: the invariant told above does not hold"));
            }
            let moved = world.look(node, |balancer| {
                let known = balancer.flows().filter_map(|flow| Some((flow, self.flows.get(&(node, flow.original))?)));
                let mut moved = known.filter(|(flow, birth)| flow.reply != birth.flow.reply);
                moved.next().map(|(flow, birth)| format!("{name}: {flow:?} was {birth:?}"))
            });
            if let Some(moved) = moved.flatten() {
                return self.fail(format!("a flow has moved: {moved}"));
            }
        }
        // A server may be given the address of one that is gone, and hears of its connections; a client asks for all it hears.
        let strange = |name: &str, stray: &Stray| match stray.strangeness {
            Strangeness::Late | Strangeness::Closed => false,
            Strangeness::NoSocket => ["laptop", "shell"].contains(&name),
            _ => true,
        };
        let stray = self.it.world().strays().find(|(name, stray)| strange(name, stray));
        if let Some((name, stray)) = stray {
            let told = format!("{name} heard {} at {:?}: {:?}", stray.tuple, stray.time, stray.strangeness);
            return self.fail(told);
        }
        if let Some(failure) = self.it.world().failures().first() {
            return self.fail(failure.to_string());
        }
        if let Some(refused) = self.it.log().iter().find(|entry| entry.what.starts_with("was refused")) {
            return self.fail(refused.to_string());
        }
        Ok(())
    }

    /// All is quiet again: everybody is served, and every transfer that was let in has come whole.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        if self.off.is_some() {
            self.switch();
        }
        for pod in self.pods("default/web-") {
            let _ = self.it.set_ready(&pod, true);
        }
        self.it.scale("default/web", 3).unwrap();
        self.it.run_for(Duration::from_secs(75));
        self.check()?;
        if self.packets < 10_000 {
            return self.fail(format!("only {} packets were looked at", self.packets));
        }
        for (who, id) in std::mem::take(&mut self.fetches) {
            self.it.finish(id);
            // The one connection may wait for a server that is gone.
            if who.contains("one connection") {
                continue;
            }
            // A cable may lose a request twice; nobody loses many.
            let results = self.it.fetched(id);
            let failed: Vec<_> = results.iter().rev().take(20).filter(|one| one.result.is_err()).collect();
            if results.len() < 20 || failed.len() > 2 {
                return self
                    .fail(format!("{who} at the end: {} requests, of the last 20 failed {failed:?}", results.len()));
            }
        }
        if self.mode != Mode::KERNELSPACE {
            for id in &self.lookups {
                let last = self.it.world().program(*id).and_then(|client| client.lookups().last());
                if last.is_none_or(|last| last.addresses().is_empty()) {
                    return self.fail(format!("a resolver at the end: {last:?}"));
                }
            }
        }
        let transfers =
            self.transfers.iter().filter_map(|(family, id)| Some((*family, *id, self.it.world().program(*id)?)));
        let wrong = transfers.filter_map(|(family, _, client)| Some((family, client.outcome()?)));
        if let Some(wrong) = wrong.into_iter().find(|(_, outcome)| !outcome.exact && outcome.error.is_none()) {
            return self.fail(format!("a transfer came to {wrong:?}"));
        }
        if self.recording {
            self.capture = self.it.world_mut().capture().unwrap();
        }
        Ok(())
    }
}
