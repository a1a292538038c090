//! What happens to packets between the moments at which somebody asks: cables, routers, machines' turns.

use std::time::Duration;

use lb_core::Origin;
use lb_core::control::Mode;

use super::engine::EngineError;
use super::fabric::Station;
use super::machine::{MachineId, Place};
use super::router::Out;
use super::{Cluster, Event, packet};
use crate::proxy::{self, Proxy};

impl Cluster {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, packet } => self.arrive(from, to, packet),
            Event::Alarm(id) => {
                let now = self.now;
                if let Some(machine) = self.machine_mut(id).filter(|machine| machine.alarm == Some(now)) {
                    machine.alarm = None;
                    self.due.insert(id);
                }
            }
            Event::Learn(station, change) => {
                let Some(router) = self.routers.get_mut(&station) else { return };
                router.engine.learn(change);
                if let Err(failure) = self.sync(station) {
                    self.failures.push(failure);
                }
            }
            Event::Expire(station) => {
                if let Some(router) = self.routers.get_mut(&station).filter(|router| router.expiry == Some(self.now)) {
                    router.expiry = None;
                    router.engine.expire(self.now);
                    self.plan_expiry(station);
                }
            }
        }
    }

    /// Makes what a router has learnt count, for its engine and, in userspace mode, for its proxy.
    pub(super) fn sync(&mut self, station: Station) -> Result<(), EngineError> {
        let Some(router) = self.routers.get_mut(&station) else { return Ok(()) };
        let machine = match station {
            Station::Machine(id) => self.machines.get_mut(id.0).and_then(Option::as_mut),
            Station::Gateway => None,
        };
        let Some(machine) = machine else { return router.engine.sync(None) };
        if router.engine.node().proxy.mode == Mode::USERSPACE {
            let mut chance = self.chance.named(&machine.name).named("proxy");
            let proxy = machine.proxy.get_or_insert_with(|| Proxy::new(proxy::Options::new(chance.draw())));
            proxy.sync(self.now, &mut machine.host, router.engine.control());
        } else if let Some(proxy) = machine.proxy.take() {
            proxy.close(&mut machine.host);
        }
        // Ports that are waited for are a reason to be asked.
        if let Station::Machine(id) = station {
            self.due.insert(id);
        }
        router.engine.sync(machine.proxy.as_ref())
    }

    fn arrive(&mut self, from: Station, to: Station, packet: Vec<u8>) {
        let behind = |station: Station| match station {
            Station::Machine(id) => self.machine(id).is_some_and(|machine| matches!(machine.place, Place::Pod(_))),
            Station::Gateway => false,
        };
        let origin = if behind(from) { Origin::Pod } else { Origin::Wire };
        if self.routers.contains_key(&to) {
            return self.pass(to, origin, packet);
        }
        let now = self.now;
        match to {
            Station::Machine(id) => match self.machine_mut(id) {
                Some(machine) => {
                    machine.host.receive(now, packet);
                    self.due.insert(id);
                }
                None => self.losses.late += 1,
            },
            Station::Gateway => self.losses.gateway += 1,
        }
    }

    /// A packet through a router.
    fn pass(&mut self, station: Station, origin: Origin, packet: Vec<u8>) {
        if station == Station::Gateway && !self.admission.admits(&packet) {
            self.losses.refused += 1;
            return;
        }
        let Some(router) = self.routers.get_mut(&station) else { return };
        let out = router.pass(self.now, origin, packet, &mut self.trace);
        self.plan_expiry(station);
        self.hand_out(station, out);
    }

    fn hand_out(&mut self, station: Station, out: Vec<Out>) {
        for out in out {
            match (out, station) {
                (Out::Forward(packet), _) => self.transmit(station, packet),
                (Out::Deliver(packet), Station::Machine(id)) => {
                    let now = self.now;
                    if let Some(machine) = self.machine_mut(id) {
                        machine.host.receive(now, packet);
                        self.due.insert(id);
                    }
                }
                (Out::Deliver(_), Station::Gateway) => self.losses.gateway += 1,
            }
        }
    }

    /// Puts a packet on the cables to whoever is next.
    fn transmit(&mut self, from: Station, packet: Vec<u8>) {
        let next = packet::destination(&packet).and_then(|destination| self.fabric.next(from, destination));
        let Some(to) = next else {
            self.losses.unroutable += 1;
            return;
        };
        let cables = self.fabric.cables(from, to).into_iter().flatten().collect::<Vec<_>>();
        let mut mtu = usize::MAX;
        for at in &cables {
            mtu = self.cable(*at).map_or(mtu, |cable| cable.link.mtu.min(mtu));
        }
        match packet::fit(packet, mtu) {
            Ok(pieces) => {
                for piece in pieces {
                    let mut delays = vec![Duration::ZERO];
                    for at in &cables {
                        delays = self.cable(*at).map_or_else(Vec::new, |cable| cable.carry(&delays));
                    }
                    for delay in delays {
                        let packet = piece.clone();
                        self.events.plan(self.now.saturating_add(delay), Event::Arrive { from, to, packet });
                    }
                }
            }
            Err((trouble, packet)) => self.complain(from, trouble, &packet),
        }
    }

    /// Tells a packet's sender that it can't be sent on from here.
    fn complain(&mut self, at: Station, trouble: packet::Trouble, about: &[u8]) {
        let now = self.now;
        if let Some(router) = self.routers.get_mut(&at) {
            let out = router.complain(now, trouble, about, &mut self.trace);
            return self.hand_out(at, out);
        }
        let Station::Machine(id) = at else { return };
        if let Some(machine) = self.machine_mut(id) {
            let own = machine.host.addresses().to_vec();
            // Its own kernel tells it.
            for message in own.into_iter().filter_map(|own| packet::complaint(trouble, about, own)) {
                machine.host.receive(now, message);
            }
            self.due.insert(id);
        }
    }

    /// Lets a machine do what it can.
    pub(super) fn turn(&mut self, id: MachineId) {
        let now = self.now;
        let Some(machine) = self.machine_mut(id) else { return };
        let place = machine.place;
        for packet in machine.turn(now) {
            let own = packet::destination(&packet).is_some_and(|to| self.addresses(id).contains(&to));
            match place {
                // All that a node sends passes its own engine first.
                Place::Node => self.pass(Station::Machine(id), Origin::Node, packet),
                _ if own => {
                    if let Some(machine) = self.machine_mut(id) {
                        machine.host.receive(now, packet);
                        self.due.insert(id);
                    }
                }
                _ => self.transmit(Station::Machine(id), packet),
            }
        }
        let Some(machine) = self.machine_mut(id) else { return };
        let next = machine.next_deadline(now);
        if let Some(next) = next.filter(|next| machine.alarm.is_none_or(|alarm| *next < alarm)) {
            machine.alarm = Some(next);
            self.events.plan(next, Event::Alarm(id));
        }
    }

    fn plan_expiry(&mut self, station: Station) {
        /// The engine's own resolution.
        const TICK: Duration = Duration::from_nanos(1_000_000_000 / 16);
        let Some(router) = self.routers.get_mut(&station) else { return };
        let due = router.engine.next_deadline().map(|due| due.max(self.now.saturating_add(TICK)));
        if let Some(due) = due.filter(|due| router.expiry.is_none_or(|planned| *due < planned)) {
            router.expiry = Some(due);
            self.events.plan(due, Event::Expire(station));
        }
    }
}
