//! What the balancer does with new flows of one sort: which backends they reach, and as whom.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::rules::Fate;
use lb_core::{Balancer, Block, Config, Instant, Link, Meta, Origin, Packet, RuleTable, Sizes, Tuple, Verdict, blocks};

use super::format::{Socket, Word};
use crate::dialled;

/// What became of a flow's first packet, and of others like it.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Sends the flow, and then others that differ in the source port alone until every backend was seen.
///
/// Nothing is remembered of clients (§7.6): what is asked is which backends can be a new client's.
pub(super) fn observe<M: AsRef<[u8]>>(rules: RuleTable<M>, packet: &Tuple, origin: Origin) -> Observed {
    let pool: BTreeSet<Socket> = {
        let decision = rules.decide(packet, origin);
        match (decision.fate, decision.service) {
            (Fate::Forward { pool, .. }, Some((_, segment))) => {
                segment.pool(pool).map(|backend| (backend.address, backend.port)).collect()
            }
            _ => BTreeSet::new(),
        }
    };
    let most = (DRAWS * pool.len() + 16).min(PORTS);
    let flows = most as u32 + 1;
    let sizes = Sizes { v4_flows: flows, v6_flows: flows, services: 64, affinity: 0, backends: 0, fragments: 0 };
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
        let word = word(verdict);
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
        // Enough were sent for a stray to show, and nobody is missing.
        if sent >= 4 * seen.pool.len() + 8 && seen.pool.iter().all(|member| seen.reached.contains_key(member)) {
            break;
        }
    }
    seen
}

fn word(verdict: Verdict) -> Word {
    match verdict {
        Verdict::Pass => Word::Pass,
        Verdict::Accept => Word::Accept,
        Verdict::Forward { .. } => Word::Forward,
        Verdict::Drop(_) | Verdict::Hold(_) => Word::Drop,
        Verdict::Reject(_) => Word::Reject,
    }
}
