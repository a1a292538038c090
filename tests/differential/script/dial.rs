//! Who dials whom, from which port.

use std::net::{IpAddr, SocketAddr};

use lb_core::Family;

use super::{FIRST_PORT, Script, TALKS, is_short};
use crate::endpoints::Port;
use crate::objects::{chance_of, one_of};
use crate::packets::{self, SCTP, TCP, UDP};
use crate::talk::{Stage, Talk};
use crate::world::{self, CLIENTS, GATEWAY, LOCAL_PODS, LOOPBACK, NODE, REMOTE_PODS};

impl Script<'_> {
    /// What a client may dial, a service's or not.
    fn dialled(&mut self, protocol: u8) -> SocketAddr {
        let is_its = |port: &&Port| port.protocol == packets::name(protocol);
        let ports: Vec<&Port> = self.ports.iter().filter(is_its).collect();
        let port = *one_of(&mut self.chance, &ports);
        let vips: Vec<IpAddr> = port.external_ips.iter().chain(&port.load_balancer_ips).copied().collect();
        let mut all = vec![SocketAddr::new(port.cluster_ip, port.port)];
        all.extend(vips.iter().map(|ip| SocketAddr::new(*ip, port.port)));
        let family = self.objects.family;
        for node in [NODE, GATEWAY] {
            all.extend(port.node_port.map(|number| SocketAddr::new(world::of(family, node), number)));
        }
        if !chance_of(&mut self.chance, 92) {
            let unknown = if vips.is_empty() { port.cluster_ip } else { *one_of(&mut self.chance, &vips) };
            let pod = *one_of(&mut self.chance, &REMOTE_PODS);
            all = vec![
                SocketAddr::new(port.cluster_ip, 81),
                SocketAddr::new(unknown, 81),
                SocketAddr::new(world::of(family, "10.96.0.200"), port.port),
                SocketAddr::new(world::of(family, pod), 9000),
            ];
        }
        *one_of(&mut self.chance, &all)
    }

    fn client(&mut self) -> IpAddr {
        let text = match self.chance.below(100) {
            0..40 => *one_of(&mut self.chance, &CLIENTS),
            40..75 => *one_of(&mut self.chance, &LOCAL_PODS),
            75..85 => *one_of(&mut self.chance, &REMOTE_PODS),
            85..96 => NODE,
            _ => GATEWAY,
        };
        self.of(text)
    }

    pub(super) fn begin(&mut self) -> Option<usize> {
        let port = FIRST_PORT + self.talks.len() as u16;
        if self.talks.len() >= usize::from(TALKS) {
            return None;
        }
        let protocol = match self.below(100) {
            0..55 => TCP,
            55..85 => UDP,
            _ => SCTP,
        };
        let (client, dialled) = (self.client(), self.dialled(protocol));
        let sequences = (self.chance.draw() as u32, self.chance.draw() as u32);
        let (client, dialled) = match self.own_loopback(protocol, port) {
            Some(ends) => ends,
            None => (self.same_port(protocol, dialled).unwrap_or(SocketAddr::new(client, port)), dialled),
        };
        let mut talk = Talk::new(protocol, client, dialled, sequences);
        talk.is_service = self.ports.iter().any(|port| port.is_dialled_by(dialled));
        self.talks.push(talk);
        Some(self.talks.len() - 1)
    }

    /// At times, the node itself, by a loopback address and a node port.
    fn own_loopback(&mut self, protocol: u8, port: u16) -> Option<(SocketAddr, SocketAddr)> {
        if self.objects.family != Family::V4 || !self.objects.is_iptables() || !self.happens(8) {
            return None;
        }
        let is_its = |one: &&Port| one.protocol == packets::name(protocol);
        let numbers: Vec<u16> = self.ports.iter().filter(is_its).filter_map(|one| one.node_port).collect();
        let own = self.of(LOOPBACK);
        let number = (!numbers.is_empty()).then(|| *one_of(&mut self.chance, &numbers))?;
        Some((SocketAddr::new(own, port), SocketAddr::new(own, number)))
    }

    /// At times, a client that is connected already and dials something else from the same port: if that has the same
    /// endpoint, the endpoint must see two ports.
    fn same_port(&mut self, protocol: u8, dialled: SocketAddr) -> Option<SocketAddr> {
        let connected = |talk: &&Talk| {
            let is_known = talk.is_answered && !talk.is_forgotten;
            protocol == TCP
                && talk.protocol == TCP
                && talk.stage == Stage::Open
                && talk.is_translated()
                && is_known
                && !talk.client.ip().is_loopback()
        };
        let clients: Vec<SocketAddr> = self.talks.iter().filter(connected).map(|talk| talk.client).collect();
        if clients.is_empty() || !self.happens(15) {
            return None;
        }
        let client = *one_of(&mut self.chance, &clients);
        // Two conversations between the same ends would be one; of three it may be one that has ended which is in the way.
        let mut own = self.talks.iter().filter(|talk| talk.client == client);
        let is_second = own.next().is_some_and(|talk| talk.dialled != dialled) && own.next().is_none();
        is_second.then_some(client)
    }

    /// A client whom a Service remembers for a short while dials it anew: at once, or when it is forgotten.
    pub(super) fn come_back(&mut self) {
        let visitors: Vec<_> = self
            .talks
            .iter()
            .filter(|talk| talk.is_translated() && self.short_of(talk).is_some())
            .map(|talk| (talk.protocol, talk.client.ip(), talk.dialled))
            .collect();
        if visitors.is_empty() || self.talks.len() >= usize::from(TALKS) {
            return self.open();
        }
        let (protocol, client, dialled) = *one_of(&mut self.chance, &visitors);
        let client = SocketAddr::new(client, FIRST_PORT + self.talks.len() as u16);
        let sequences = (self.chance.draw() as u32, self.chance.draw() as u32);
        let mut talk = Talk::new(protocol, client, dialled, sequences);
        talk.is_service = true;
        if self.happens(40) {
            let port = self.short_of(&talk).expect("a service port that forgets");
            std::thread::sleep(self.visits.until_forgotten(port, client.ip(), self.now()));
        }
        self.talks.push(talk);
        self.advance(self.talks.len() - 1);
    }

    /// The service port with a short affinity that a conversation is with.
    pub(super) fn short_of(&self, talk: &Talk) -> Option<&str> {
        let is_its = |port: &&Port| port.protocol == packets::name(talk.protocol) && port.is_dialled_by(talk.dialled);
        self.ports.iter().filter(|port| is_short(port)).find(is_its).map(|port| port.name.as_str())
    }
}
