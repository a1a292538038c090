//! What runs in Pods, by their containers' images: `coredns` serves the cluster's names, `bulk` takes and gives bytes,
//! `shell` and `pause` do nothing; any other is an HTTP server on each TCP port that it has and answers datagrams on each UDP
//! port. One that names no port has 8080, and the port that its readiness is asked at.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod as PodObject};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_core::{Address, Instant};

use super::watch::{News, Watch};
use super::{Kubernetes, Nobody};
use crate::cluster::kubelet::Program;
use crate::cluster::program::{self, BulkServer, DatagramServer, DnsServer, HttpServer};
use crate::cluster::{Cluster, MachineId, ProgramId};
use crate::dns::{self, Outside, Zone};
use crate::k8s::Placed;

/// A Pod that runs on a node.
pub(super) struct Pod {
    pub(super) key: String,
    pub(super) node: String,
    pub(super) machine: MachineId,
    /// Its machine is its own, and not the node's.
    own_machine: bool,
    containers: Vec<Running>,
    ready: bool,
    /// Of one that serves names.
    pub(super) watch: Option<Watch>,
}

/// A container's program, which is several here.
struct Running {
    program: Program,
    parts: Vec<Part>,
    /// It was asked to end.
    stopping: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Http(ProgramId<HttpServer>),
    Datagrams(ProgramId<DatagramServer>),
    Bulk(ProgramId<BulkServer>),
    Dns(ProgramId<DnsServer>),
}

impl Part {
    fn number(self) -> usize {
        match self {
            Self::Http(id) => id.number,
            Self::Datagrams(id) => id.number,
            Self::Bulk(id) => id.number,
            Self::Dns(id) => id.number,
        }
    }
}

impl Pod {
    /// Whether its readiness is as it should be.
    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }

    fn is_over(&self, world: &Cluster, running: &Running) -> bool {
        let machine = world.machine(self.machine);
        running.stopping
            && machine.is_none_or(|machine| running.parts.iter().all(|part| machine.is_over(part.number())))
    }

    pub(super) fn heard(&self, world: &Cluster) -> bool {
        self.containers.iter().any(|running| self.is_over(world, running))
    }

    /// The programs that have ended since it was last asked.
    pub(super) fn ended(&mut self, world: &mut Cluster) -> Vec<Program> {
        let over: Vec<bool> = self.containers.iter().map(|running| self.is_over(world, running)).collect();
        let mut over = over.into_iter();
        let (ended, rest) = self.containers.drain(..).partition::<Vec<_>, _>(|_| over.next() == Some(true));
        self.containers = rest;
        for running in &ended {
            running.parts.iter().for_each(|part| world.end(self.machine, part.number()));
        }
        ended.into_iter().map(|running| running.program).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.watch.as_ref()?.next_deadline()
    }

    /// Tells the DNS servers of the Pod of the rest of the world.
    pub(super) fn tell_upstream(&self, world: &mut Cluster, names: &Outside) {
        self.each_dns(world, |server| *server.upstream() = names.clone());
    }

    /// Tells them of the cluster.
    pub(super) fn tell_dns(&self, world: &mut Cluster, tell: impl Fn(&mut Zone)) {
        self.each_dns(world, |server| tell(server.zone()));
    }

    fn each_dns(&self, world: &mut Cluster, tell: impl Fn(&mut DnsServer)) {
        for part in self.containers.iter().flat_map(|running| &running.parts) {
            if let Part::Dns(id) = part
                && let Some(server) = world.program_mut(*id)
            {
                tell(server);
            }
        }
    }
}

impl Cluster {
    fn end(&mut self, id: MachineId, number: usize) {
        self.due.insert(id);
        self.machine_mut(id).into_iter().for_each(|machine| machine.end(number));
    }
}

/// The ports of a protocol that a container has.
fn ports(container: &Container, protocol: &str) -> Vec<u16> {
    let named = container.ports.iter().flatten();
    let own = named.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol);
    let mut ports: Vec<u16> = own.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
    if protocol == "TCP" {
        let probe = container.readiness_probe.as_ref();
        let asked = probe.and_then(|probe| {
            let http = probe.http_get.as_ref().map(|get| &get.port);
            http.or(probe.tcp_socket.as_ref().map(|tcp| &tcp.port))
        });
        if let Some(IntOrString::Int(port)) = asked {
            ports.extend(u16::try_from(*port).ok());
        }
        if container.ports.iter().flatten().next().is_none() && ports.is_empty() {
            ports.push(8080);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// `coredns` of `registry.k8s.io/coredns/coredns:v1.12`.
fn image(container: &Container) -> &str {
    let whole = container.image.as_deref().unwrap_or_default();
    let last = whole.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next().unwrap_or_default()
}

impl Kubernetes {
    pub(super) fn start(&mut self, node: &str, program: &Program, pod: &Arc<Placed<PodObject>>, own: &[Address]) {
        let Some(node_machine) = self.node(node) else { return };
        if !self.pods.contains_key(&program.uid) {
            let on_host = pod.object.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
            let machine = if on_host { node_machine } else { self.world.add_pod_as(pod.name(), node_machine, own) };
            let (key, node) = (pod.key(), node.to_owned());
            let fresh = Pod { key, node, machine, own_machine: !on_host, containers: vec![], ready: true, watch: None };
            self.pods.insert(program.uid.clone(), fresh);
        }
        let containers = pod.object.spec.iter().flat_map(|spec| &spec.containers);
        let Some(container) = containers.into_iter().find(|container| *container.name == *program.container) else {
            return;
        };
        let Some(machine) = self.pods.get(&program.uid).map(|pod| pod.machine) else { return };
        let parts = self.parts(machine, pod.name(), container);
        let watch = parts.iter().any(|part| matches!(part, Part::Dns(_))).then(|| {
            let chance = self.chance.named(&program.uid).named("watch");
            Watch::new(&self.api, self.plan.physics.sync, chance)
        });
        let Some(pod) = self.pods.get_mut(&program.uid) else { return };
        pod.containers.push(Running { program: program.clone(), parts, stopping: false });
        pod.watch = watch.or(pod.watch.take());
        let ready = pod.ready;
        let uid = program.uid.clone();
        self.set_ready_of(&uid, ready);
    }

    fn parts(&mut self, machine: MachineId, name: &str, container: &Container) -> Vec<Part> {
        let world = &mut self.world;
        let (tcp, udp) = (ports(container, "TCP"), ports(container, "UDP"));
        let get = container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        let path = get.and_then(|get| get.path.as_deref()).filter(|path| *path != "/").unwrap_or("/readyz");
        match image(container) {
            "shell" | "pause" => Vec::new(),
            "bulk" => tcp.iter().map(|port| Part::Bulk(world.run(machine, BulkServer::new(*port)))).collect(),
            "coredns" => {
                let mut zone = Zone::new(dns::Settings::default());
                News::everything(&self.api).tell(&self.api, &mut zone);
                zone.set_synced();
                vec![Part::Dns(world.run(machine, DnsServer::new(zone, self.names.clone(), 53)))]
            }
            _ => {
                let mut parts: Vec<_> = Vec::new();
                for port in tcp {
                    parts.push(Part::Http(world.run(machine, HttpServer::new(name, port).probed_at(path))));
                }
                for port in udp {
                    parts.push(Part::Datagrams(world.run(machine, DatagramServer::new(name, port))));
                }
                parts
            }
        }
    }

    pub(super) fn stop(&mut self, program: &Program) {
        let Some(pod) = self.pods.get_mut(&program.uid) else { return };
        self.world.due.insert(pod.machine);
        for running in pod.containers.iter_mut().filter(|running| running.program == *program) {
            running.stopping = true;
            if let Some(machine) = self.world.machine_mut(pod.machine) {
                running.parts.iter().for_each(|part| machine.stop(part.number()));
            }
        }
    }

    pub(super) fn kill(&mut self, program: &Program) {
        let Some(pod) = self.pods.get_mut(&program.uid) else { return };
        let (gone, rest) = pod.containers.drain(..).partition::<Vec<_>, _>(|running| running.program == *program);
        pod.containers = rest;
        let machine = pod.machine;
        for part in gone.iter().flat_map(|running| &running.parts) {
            self.world.end(machine, part.number());
        }
    }

    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid)
            && pod.own_machine
        {
            self.world.remove(pod.machine);
        }
    }

    /// Crashes all containers of a Pod: their connections are reset, and the kubelet starts them again in its own time.
    ///
    /// # Errors
    /// No such Pod runs.
    pub fn crash(&mut self, key: &str) -> Result<(), Nobody> {
        let uid = self.running(key)?;
        let Some(pod) = self.pods.get(&uid) else { return Err(Nobody(key.to_owned())) };
        let (node, programs) =
            (pod.node.clone(), pod.containers.iter().map(|one| one.program.clone()).collect::<Vec<_>>());
        for program in programs {
            self.kill(&program);
            let now = self.world.now;
            self.nodes.get_mut(&node).into_iter().for_each(|node| node.kubelet.exited(&program, 1, now));
        }
        self.log.note(self.world.now, format!("Pod {key}"), "crashes");
        self.stirred = true;
        Ok(())
    }

    /// Makes a Pod say from now on that it is ready, or that it is not, to whoever asks its readiness path.
    ///
    /// # Errors
    /// No such Pod runs.
    pub fn set_ready(&mut self, key: &str, ready: bool) -> Result<(), Nobody> {
        let uid = self.running(key)?;
        self.set_ready_of(&uid, ready);
        let what = if ready { "says that it is ready" } else { "says that it is not ready" };
        self.log.note(self.world.now, format!("Pod {key}"), what);
        self.stirred = true;
        Ok(())
    }

    fn set_ready_of(&mut self, uid: &str, ready: bool) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.ready = ready;
        for part in pod.containers.iter().flat_map(|running| &running.parts) {
            if let Part::Http(id) = part
                && let Some(server) = self.world.program_mut(*id)
            {
                server.ready = ready;
            }
        }
    }

    /// The machine of the Pod of this namespace and name.
    ///
    /// # Errors
    /// No such Pod runs.
    pub fn pod(&self, key: &str) -> Result<MachineId, Nobody> {
        let pod = self.pods.values().find(|pod| pod.key == key && self.world.machine(pod.machine).is_some());
        pod.map(|pod| pod.machine).ok_or_else(|| Nobody(key.to_owned()))
    }

    /// The Pods that run: their namespaces and names, and their nodes.
    pub fn running_pods(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pods.values().map(|pod| (pod.key.as_str(), pod.node.as_str()))
    }

    /// Runs a program in a Pod, besides its containers'.
    ///
    /// # Errors
    /// No such Pod runs.
    pub fn run_in<P: program::Program>(&mut self, key: &str, program: P) -> Result<ProgramId<P>, Nobody> {
        let machine = self.pod(key)?;
        Ok(self.world.run(machine, program))
    }

    /// The identity of a running Pod.
    fn running(&self, key: &str) -> Result<Arc<str>, Nobody> {
        let pod = self.pods.iter().find(|(_, pod)| pod.key == key);
        pod.map(|(uid, _)| uid.clone()).ok_or_else(|| Nobody(key.to_owned()))
    }
}
