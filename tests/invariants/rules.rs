//! A flow beside the rules.

use lb_core::rules::{Fate, Pool, Segment, Stale};
use lb_core::{Flow, Origin, RuleTable};

/// 5, of a flow that these rules have just begun for a packet of this origin.
pub fn allowed<M: AsRef<[u8]>>(rules: &RuleTable<M>, flow: &Flow, origin: Origin) {
    let decision = rules.decide(&flow.original, origin);
    let Fate::Forward { pool, masquerade, hairpin } = decision.fate else {
        panic!("a flow that the rules don't forward: {:?}", decision.fate);
    };
    let (_, segment) = decision.service.expect("the service that it dials");
    let (backend, port) = (flow.reply.source, flow.reply.source_port);
    let in_pool = |member: lb_core::rules::Backend| (member.address, member.port) == (backend, port);
    assert!(segment.pool(pool).any(in_pool), "{backend} port {port} is not in the pool");
    let masquerade = masquerade || (hairpin && backend == flow.original.source);
    assert_eq!(flow.masqueraded, masquerade, "masqueraded or not");
    if masquerade {
        let mine = rules.node().and_then(|node| node.masquerade(backend));
        assert_eq!(Some(flow.reply.destination), mine, "in whose name");
    } else {
        assert_eq!(flow.reply.destination, flow.original.source, "its client's address");
    }
}

/// 5, of a client's packet of any flow (SEMANTICS §11.5).
pub fn still_allowed<M: AsRef<[u8]>>(rules: &RuleTable<M>, flow: &Flow, origin: Origin) {
    let watched = rules.node().is_some_and(|node| node.stale(flow.original.protocol) == Stale::Reselect);
    let Some((_, segment)) = rules.decide(&flow.original, origin).service.filter(|_| watched) else { return };
    if segment.has_serving() {
        assert!(serves(&segment, flow), "{} feeds an endpoint that is gone", flow.original);
    }
}

fn serves(segment: &Segment<'_>, flow: &Flow) -> bool {
    let (address, port) = (flow.reply.source, flow.reply.source_port);
    let listed = segment.find_backend(address, port).and_then(|number| segment.backend(number));
    listed.is_some_and(|backend| backend.serving)
        || [Pool::Cluster, Pool::Local].into_iter().any(|pool| segment.pool_has(pool, address, port))
}
