//! All flows of a balancer together.

use std::collections::BTreeSet;

use lb_core::{Balancer, Flow, Sizes};

/// 6 to 9, as far as they show from outside. `forgotten` says how many flows [`forget`](Balancer::forget) has ended.
pub fn check<M: AsRef<[u8]>>(balancer: &Balancer<'_, M>, sizes: Sizes, forgotten: u64) {
    let flows: Vec<Flow> = balancer.flows().collect();
    let of_v4 = flows.iter().filter(|flow| flow.original.source.is_v4()).count();
    assert!(of_v4 <= sizes.v4_flows as usize && flows.len() - of_v4 <= sizes.v6_flows as usize, "more flows than room");

    let mut keys = BTreeSet::new();
    for flow in &flows {
        for key in [flow.original, flow.reply] {
            assert!(keys.insert(key), "{key} belongs to two flows");
        }
    }

    let counters = balancer.counters();
    let ended = counters.flows_expired + counters.flows_evicted + counters.flows_cut + counters.flows_reselected;
    // A connection over one that was closed ends that one without a count of its own.
    assert!(flows.len() as u64 + ended + forgotten <= counters.flows_created, "more flows than began: {counters:?}");

    match balancer.next_deadline() {
        None => assert_eq!(flows.len(), 0, "flows without a deadline"),
        Some(next) => assert!(flows.iter().all(|flow| flow.deadline >= next), "one expires before the next deadline"),
    }
}
