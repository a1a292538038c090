//! What the balancer does with new flows of one sort: which backends they reach, and as whom.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::pick::Scheduler;
use lb_core::rules::{Fate, Pool};
use lb_core::{Balancer, Block, Config, Instant, Link, Meta, Origin, Packet, RuleTable, Sizes, Tuple, Verdict, blocks};

use super::format::Socket;
use super::written::Word;
use crate::dialled;

/// What became of a flow's first packet, and of others like it.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// The first packet's verdict.
    pub(super) verdict: Word,
    /// Other verdicts that flows like it met.
    pub(super) others: BTreeSet<Word>,
    /// Backends that the rules allow.
    pub(super) pool: BTreeSet<Socket>,
    /// Backends that were reached, and whether the source was replaced on the way.
    pub(super) reached: BTreeMap<Socket, bool>,
}

/// Flows sent to see each member of a pool: of `n` members each is missed with a chance of less than
/// `e^-40` by 40 `n` draws.
const DRAWS: usize = 40;

/// Ports that the flows of one client may have.
const PORTS: usize = 60_000;

/// The backends that the rules allow a flow, and whether a proxy on the node is to dial them.
fn allowed<M: AsRef<[u8]>>(rules: &RuleTable<M>, packet: &Tuple, origin: Origin) -> (BTreeSet<Socket>, bool) {
    let decision = rules.decide(packet, origin);
    let (pool, punted) = match decision.fate {
        Fate::Forward { pool, .. } => (pool, false),
        Fate::Punt => (Pool::Cluster, true),
        _ => return (BTreeSet::new(), false),
    };
    let members = decision.service.into_iter().flat_map(|(_, segment)| segment.pool(pool));
    (members.map(|backend| (backend.address, backend.port)).collect(), punted)
}

/// Sends the flow, and then others that differ in the source port alone until every backend was seen.
///
/// Nothing is remembered of clients (§7.6): what is asked is which backends can be a new client's.
pub(super) fn observe<M: AsRef<[u8]>>(rules: RuleTable<M>, packet: &Tuple, origin: Origin) -> Observed {
    let (pool, punted) = allowed(&rules, packet, origin);
    let most = (DRAWS * pool.len() + 32).min(PORTS);
    let flows = most as u32 + 1;
    let backends = pool.len() as u32 * 4 + 16;
    let sizes = Sizes { v4_flows: flows, v6_flows: flows, services: 64, affinity: 0, backends, fragments: 0 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let mut seen = Observed { verdict: Word::Drop, others: BTreeSet::new(), pool, reached: BTreeMap::new() };
    // The memory is as large as `blocks` says.
    let Ok(mut balancer) = Balancer::new(Config::new([0; 16], 0), sizes, &mut memory, rules) else { return seen };
    let ports = (0..=u16::MAX).map(|step| packet.source_port.wrapping_add(step)).filter(|port| *port != 0);
    for (sent, port) in ports.take(most).enumerate() {
        let tuple = Tuple { source_port: if packet.protocol.has_ports() { port } else { 0 }, ..*packet };
        let mut bytes = dialled::packet(&tuple);
        let meta = Meta { link: Link::Ip, origin, ..Meta::default() };
        let verdict = balancer.process(Instant::ORIGIN, &mut Packet::new(&mut bytes, meta));
        let word = if punted && verdict == Verdict::Accept { Word::Punt } else { word(verdict) };
        if sent == 0 {
            seen.verdict = word;
        } else if word != seen.verdict {
            seen.others.insert(word);
        }
        if let Verdict::Forward { flow, .. } = verdict
            && let Some(flow) = balancer.flow(flow)
        {
            seen.reached.insert((flow.reply.source, flow.reply.source_port), flow.masqueraded);
        }
        if word == Word::Punt {
            // The proxy dials in the node's own name (§14.5); nothing passes here that shows it.
            seen.reached.extend(seen.pool.iter().map(|member| (*member, true)));
        }
        // Enough were sent for a stray to show, and nobody is missing.
        if sent >= seen.pool.len() + 16 && !seen.lacks() {
            break;
        }
    }
    seen
}

impl Observed {
    /// Whether the backend depends on addresses and the cluster's key alone, so that no two flows between
    /// the same addresses show different ones.
    pub(super) fn is_hashed<M: AsRef<[u8]>>(rules: &RuleTable<M>, packet: &Tuple, origin: Origin) -> bool {
        let service = rules.decide(packet, origin).service;
        service.is_some_and(|(_, segment)| {
            matches!(segment.scheduler(), Scheduler::SourceHash | Scheduler::DestinationHash)
        })
    }

    /// Whether other rules treat the flow alike, whichever backends chance had it show.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let masquerades = |backend, masqueraded: &bool| other.reached.get(backend).is_none_or(|too| too == masqueraded);
        (self.verdict, &self.pool) == (other.verdict, &other.pool)
            && self.reached.iter().all(|(backend, masqueraded)| masquerades(backend, masqueraded))
    }

    /// Whether a backend that the rules allow was not reached yet.
    pub(super) fn lacks(&self) -> bool {
        self.pool.iter().any(|member| !self.reached.contains_key(member))
    }

    /// How many draws are enough for all of the pool.
    pub(super) fn draws(&self) -> u64 {
        (DRAWS * self.pool.len()) as u64
    }

    /// Adds what a balancer of another key was seen to do.
    pub(super) fn join(&mut self, other: &Self) {
        self.reached.extend(&other.reached);
        if other.verdict != self.verdict {
            self.others.insert(other.verdict);
        }
    }
}

fn word(verdict: Verdict) -> Word {
    match verdict {
        Verdict::Pass => Word::Pass,
        Verdict::Accept => Word::Accept,
        Verdict::Forward { .. } => Word::Forward,
        Verdict::Drop(_) | Verdict::Hold(_) | Verdict::Elsewhere(_) => Word::Drop,
        Verdict::Reject(_) => Word::Reject,
    }
}
