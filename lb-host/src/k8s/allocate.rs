//! ClusterIPs and NodePorts for Services that have none yet (SEMANTICS §16.3, §17).
//!
//! Where the API server draws at random, the draw here is a keyed hash of the Service's name: the same
//! on every machine, and unmoved by what else is in the manifests unless the two collide.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use lb_core::{Address, Family, Prefix};
use siphasher::sip::SipHasher13;

use super::address::lenient_address;
use super::service::{headless, kind};
use super::{Placed, Problem, defaults};

/// What is allocated from, and the seed of the draw.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// The blocks of ClusterIPs; a Service of one family gets one of the first.
    pub cluster_ips: Vec<Prefix>,
    /// The first and last NodePort.
    pub node_ports: (u16, u16),
    /// The same seed, the same draw.
    pub seed: u64,
}

/// Numbers to give out: those below `dynamic` only when the others are gone (§17.1, §17.2).
#[derive(Clone, Debug)]
struct Pool {
    first: u128,
    last: u128,
    dynamic: u128,
    taken: BTreeSet<u128>,
}

impl Pool {
    /// The numbers `first..=last`, of which the lowest `offset` are for explicit requests.
    fn new(first: u128, last: u128, offset: u128) -> Self {
        let dynamic = first.saturating_add(offset);
        Self { first, last, dynamic: if dynamic > last { first } else { dynamic }, taken: BTreeSet::new() }
    }

    /// A block's addresses without the network's own and, in IPv4, the broadcast address (§17.4).
    fn addresses(block: Prefix) -> Self {
        let bits = if block.address().is_v4() { 32 } else { 128 } - u32::from(block.length());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let first = block.address().bits().saturating_add(1);
        let last = block.address().bits() + (size - 1) - u128::from(block.address().is_v4());
        Self::new(first, last, band(size, 16, 256))
    }

    fn ports((first, last): (u16, u16)) -> Self {
        let size = u128::from(last.saturating_sub(first)) + 1;
        Self::new(first.into(), last.into(), band(size, 32, 128))
    }

    /// A free number: the first from a drawn one on, wrapping inside the dynamic band, else the static.
    fn draw(&mut self, draw: u64) -> Option<u128> {
        let free = |from: u128, to: u128| {
            let size = to.checked_sub(from)?.checked_add(1)?;
            let start = from + u128::from(draw) % size;
            (start..=to).chain(from..start).find(|number| !self.taken.contains(number))
        };
        let below = self.dynamic.checked_sub(1).filter(|below| *below >= self.first);
        let number = free(self.dynamic, self.last).or_else(|| free(self.first, below?))?;
        self.taken.insert(number);
        Some(number)
    }
}

/// The size of the static band of a range (§17.1).
fn band(size: u128, part: u128, most: u128) -> u128 {
    if size < 16 { 0 } else { (size / part).max(16).min(most) }
}

/// Gives every Service the ClusterIPs, NodePorts and health-check port that it lacks and its type
/// calls for. Those that are written down are reserved first.
///
/// # Errors
/// A range is exhausted, or there is none of a family.
pub fn allocate(services: &mut [Placed<Service>], ranges: &Ranges) -> Result<(), Vec<Problem>> {
    let mut allocator = Allocator::new(ranges);
    for spec in services.iter().filter_map(|service| service.object.spec.as_ref()) {
        allocator.reserve(spec);
    }
    let mut problems = Vec::new();
    for service in services {
        problems.extend(allocator.complete(service));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What is given out and what is free, as Services come, change and go.
#[derive(Clone, Debug)]
pub struct Allocator {
    blocks: Vec<(Prefix, Pool)>,
    ports: Pool,
    /// The key of the draws. Whoever allocates over time changes it between them, or a Service that comes
    /// back would always find its old numbers.
    pub seed: u64,
}

impl Allocator {
    /// All of these ranges is free, but for the API server's own address, `default/kubernetes` (§17.4).
    pub fn new(ranges: &Ranges) -> Self {
        let mut blocks: Vec<_> = ranges.cluster_ips.iter().map(|block| (*block, Pool::addresses(*block))).collect();
        for (_, pool) in &mut blocks {
            pool.taken.insert(pool.first);
        }
        Self { blocks, ports: Pool::ports(ranges.node_ports), seed: ranges.seed }
    }

    /// Takes the numbers that a Service has written down, whether they are free or not.
    pub fn reserve(&mut self, spec: &ServiceSpec) {
        for (block, pool) in &mut self.blocks {
            pool.taken.extend(written_ips(spec).filter(|ip| block.contains(*ip)).map(Address::bits));
        }
        self.ports.taken.extend(written_ports(spec).map(|(_, port)| port));
    }

    /// Gives back what a Service has.
    pub fn release(&mut self, spec: &ServiceSpec) {
        for (block, pool) in &mut self.blocks {
            for ip in written_ips(spec).filter(|ip| block.contains(*ip)) {
                pool.taken.remove(&ip.bits());
            }
            pool.taken.insert(pool.first);
        }
        for (_, port) in written_ports(spec) {
            self.ports.taken.remove(&port);
        }
    }

    /// What a Service has written down and cannot have: numbers that another has, addresses outside the
    /// ranges. Its own older numbers must have been released.
    pub fn conflicts(&self, service: &Placed<Service>) -> Vec<Problem> {
        let Some(spec) = service.object.spec.as_ref() else { return Vec::new() };
        let mut problems = Vec::new();
        // The API server's own Service asks for the address that is kept for it.
        let own = service.key() == "default/kubernetes";
        for ip in written_ips(spec).collect::<BTreeSet<_>>() {
            let field = if spec.cluster_ip.as_deref().and_then(lenient_address) == Some(ip) {
                "spec.clusterIP"
            } else {
                "spec.clusterIPs[1]"
            };
            match self.blocks.iter().find(|(block, _)| block.contains(ip)).map(|(_, pool)| pool) {
                Some(pool) if !(pool.first..=pool.last).contains(&ip.bits()) => {
                    let message = format_args!("is {ip}, the network's own or its broadcast address");
                    problems.push(service.problem(field, message, "give another, or leave it out to get one"));
                }
                Some(pool) if pool.taken.contains(&ip.bits()) && !(own && ip.bits() == pool.first) => {
                    let message = format_args!("is {ip}, which is already allocated");
                    problems.push(service.problem(field, message, "give another, or leave it out to get one"));
                }
                Some(_) => {}
                None => {
                    let blocks: Vec<_> = self.blocks.iter().map(|(block, _)| block.to_string()).collect();
                    let message = format_args!("is {ip}, outside the cluster's {}", blocks.join(", "));
                    problems.push(service.problem(field, message, "give one inside, or leave it out to get one"));
                }
            }
        }
        for (field, port) in written_ports(spec) {
            if self.ports.taken.contains(&port) {
                let message = format_args!("is {port}, which is already allocated");
                problems.push(service.problem(&field, message, "give another, or leave it out to get one"));
            }
        }
        problems
    }

    /// Gives a Service the ClusterIPs, NodePorts and health-check port that it lacks and its type calls
    /// for; says what could not be given.
    pub fn complete(&mut self, service: &mut Placed<Service>) -> Vec<Problem> {
        let addresses = cluster_ips(service, &mut self.blocks, self.seed).err();
        let ports = node_ports(service, &mut self.ports, self.seed).err();
        addresses.into_iter().chain(ports).collect()
    }
}

/// The ClusterIPs that are written down.
fn written_ips(spec: &ServiceSpec) -> impl Iterator<Item = Address> {
    let proxied = kind(spec) != "ExternalName";
    let ips = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    ips.filter(move |_| proxied).filter_map(|ip| lenient_address(ip))
}

/// The NodePorts that are written down, each with its field.
fn written_ports(spec: &ServiceSpec) -> impl Iterator<Item = (String, u128)> {
    let ports = spec.ports.iter().flatten().enumerate();
    let ports = ports.map(|(index, port)| (format!("spec.ports[{index}].nodePort"), port.node_port));
    let all = ports.chain([("spec.healthCheckNodePort".to_owned(), spec.health_check_node_port)]);
    all.filter_map(|(field, port)| Some((field, u128::try_from(port?).ok().filter(|port| *port != 0)?)))
}

/// The draw for what is asked in `service`'s name.
fn draw(seed: u64, service: &Placed<Service>, what: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 0);
    hasher.write(service.key().as_bytes());
    hasher.write(what.as_bytes());
    hasher.finish()
}

fn cluster_ips(service: &mut Placed<Service>, blocks: &mut [(Prefix, Pool)], seed: u64) -> Result<(), Problem> {
    let Some(spec) = service.object.spec.as_ref().filter(|spec| kind(spec) != "ExternalName" && !headless(spec)) else {
        return Ok(());
    };
    let mut ips: Vec<String> = spec.cluster_ips.clone().unwrap_or_default();
    let present: Vec<_> = ips.iter().filter_map(|ip| lenient_address(ip)).map(Address::family).collect();
    let dual = spec.ip_family_policy.as_deref() == Some("RequireDualStack");
    for family in families(spec, blocks) {
        if present.contains(&family) {
            continue;
        }
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let Some((_, pool)) = blocks.iter_mut().find(|(block, _)| block.address().family() == family) else {
            let field = if dual { "spec.ipFamilyPolicy" } else { "spec.ipFamilies" };
            let advice = format!("add an {name} block to --service-cluster-ip-range");
            return Err(service.problem(
                field,
                format_args!("asks for {name}, which this cluster does not serve"),
                advice,
            ));
        };
        let first = service.key() == "default/kubernetes" && ips.is_empty();
        let number = if first { Some(pool.first) } else { pool.draw(draw(seed, service, name)) };
        let Some(number) = number else {
            let advice = "widen --service-cluster-ip-range, or write an address down";
            return Err(service.problem(
                "spec.clusterIP",
                format_args!("cannot be given: no {name} ClusterIP is free"),
                advice,
            ));
        };
        ips.push(Address::from_bits(number).to_string());
    }
    let spec = service.object.spec.get_or_insert_default();
    spec.cluster_ip = ips.first().cloned();
    let families = ips.iter().filter_map(|ip| lenient_address(ip)).map(|ip| defaults::family(ip).to_owned());
    spec.ip_families = Some(families.collect());
    spec.cluster_ips = Some(ips);
    Ok(())
}

/// The families that a Service is to have: what it says, else by its policy those that the cluster
/// serves, of which the first alone is the default (§13.2).
fn families(spec: &ServiceSpec, blocks: &[(Prefix, Pool)]) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten();
    let mut families: Vec<_> = named.map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    let served = blocks.iter().map(|(block, _)| block.address().family());
    let present = spec.cluster_ips.iter().flatten().filter_map(|ip| lenient_address(ip)).map(Address::family);
    let both = [Family::V4, Family::V6];
    let (wanted, most): (Vec<_>, _) = match spec.ip_family_policy.as_deref() {
        Some("RequireDualStack") => (present.chain(served).chain(both).collect(), 2),
        Some("PreferDualStack") => (present.chain(served).collect(), 2),
        _ => (present.chain(served).collect(), 1),
    };
    for family in wanted {
        if families.len() < most && !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

fn node_ports(service: &mut Placed<Service>, pool: &mut Pool, seed: u64) -> Result<(), Problem> {
    let exhausted = |service: &Placed<Service>, field: &str| {
        let advice = "widen --service-node-port-range, or write a port down";
        service.problem(field, "cannot be given: no NodePort is free", advice)
    };
    let Some(spec) = service.object.spec.as_ref() else { return Ok(()) };
    let wanted = match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    };
    let mut ports = spec.ports.clone().unwrap_or_default();
    // One number serves the same port over several protocols (§16.3).
    let mut shared: BTreeMap<i32, i32> = BTreeMap::new();
    shared.extend(ports.iter().filter_map(|port| Some((port.port, port.node_port.filter(|number| *number != 0)?))));
    let mut used: BTreeSet<_> = ports.iter().map(|port| (port.protocol.clone(), port.node_port)).collect();
    for (index, port) in ports.iter_mut().enumerate() {
        if !wanted || port.node_port.is_some_and(|number| number != 0) {
            continue;
        }
        let reused =
            shared.get(&port.port).copied().filter(|number| !used.contains(&(port.protocol.clone(), Some(*number))));
        port.node_port = match reused {
            Some(number) => Some(number),
            None => {
                let what = format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP"));
                let number = pool.draw(draw(seed, service, &what)).and_then(|number| i32::try_from(number).ok());
                Some(number.ok_or_else(|| exhausted(service, &format!("spec.ports[{index}].nodePort")))?)
            }
        };
        shared.extend(port.node_port.map(|number| (port.port, number)));
        used.insert((port.protocol.clone(), port.node_port));
    }
    let local = spec.external_traffic_policy.as_deref() == Some("Local") && kind(spec) == "LoadBalancer";
    let health = match spec.health_check_node_port.filter(|port| *port != 0) {
        None if local => {
            let number =
                pool.draw(draw(seed, service, "healthCheckNodePort")).and_then(|number| i32::try_from(number).ok());
            Some(number.ok_or_else(|| exhausted(service, "spec.healthCheckNodePort"))?)
        }
        written => written,
    };
    let spec = service.object.spec.get_or_insert_default();
    spec.health_check_node_port = health;
    if !ports.is_empty() {
        spec.ports = Some(ports);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_band_starts_where_the_keps_say() {
        // SEMANTICS §17.1, §17.3; KEP-3070 for ClusterIPs, KEP-3668 for NodePorts.
        for (block, dynamic) in [
            ("10.96.0.0/12", "10.96.1.1"),
            ("10.96.0.0/16", "10.96.1.1"),
            ("10.0.0.0/20", "10.0.1.1"),
            ("10.0.0.0/22", "10.0.0.65"),
            ("10.0.0.0/24", "10.0.0.17"),
            ("10.0.0.0/28", "10.0.0.1"),
            ("10.0.0.0/29", "10.0.0.1"),
            ("fd00::/108", "fd00::101"),
        ] {
            let pool = Pool::addresses(super::super::address::lenient_prefix(block).expect("a block"));
            assert_eq!(Address::from_bits(pool.dynamic).to_string(), dynamic, "{block}");
        }
        assert_eq!(Pool::ports((30_000, 32_767)).dynamic, 30_086);
        assert_eq!(Pool::ports((30_000, 30_009)).dynamic, 30_000);
    }

    #[test]
    fn a_pool_gives_the_dynamic_band_first_and_every_number_once() {
        let mut pool = Pool::new(100, 131, 16);
        let drawn: Vec<_> = (0..33u64).map(|draw| pool.draw(draw.wrapping_mul(7919))).collect();
        let (dynamic, rest) = drawn.split_at(16);
        assert!(dynamic.iter().all(|number| (116..=131).contains(&number.expect("a number"))));
        let (static_band, none) = rest.split_at(16);
        assert!(static_band.iter().all(|number| (100..=115).contains(&number.expect("a number"))));
        assert_eq!(none, [None]);
        assert_eq!(drawn.iter().flatten().collect::<BTreeSet<_>>().len(), 32);
    }

    #[test]
    fn a_draw_of_the_last_number_wraps_inside_the_band() {
        let mut pool = Pool::new(100, 131, 16);
        assert_eq!([pool.draw(15), pool.draw(15), pool.draw(14)], [Some(131), Some(116), Some(130)]);
    }
}
