//! How Windows' kernelspace mode fills its balancers (SEMANTICS §14.4).

use alloc::format;
use alloc::vec::Vec;

use super::candidate::{Candidate, Standing};
use crate::rules::{Vip, VipClass};

/// The host networking service takes one target port a balancer: the first endpoint's, in the order of
/// their text, counts for all.
pub(super) fn one_port(candidates: &mut Vec<Candidate>) {
    let text = |candidate: &&Candidate| format!("{}:{}", candidate.address, candidate.port);
    let Some(port) = candidates.iter().min_by_key(text).map(|candidate| candidate.port) else { return };
    candidates.iter_mut().for_each(|candidate| candidate.port = port);
    candidates.dedup_by_key(|candidate| candidate.address);
}

/// How each endpoint stands towards the two pools. Where a load balancer's endpoints all fail to serve,
/// the filter is set aside, and NodePort and external IPs get no balancer.
pub(super) fn stand(candidates: &mut [Candidate], vips: &mut Vec<Vip>, external_local: bool, uses: (bool, bool)) {
    let balanced = vips.iter().any(|vip| vip.class == VipClass::LoadBalancer);
    let considered = || candidates.iter().filter(|candidate| !external_local || candidate.local);
    let unfiltered = balanced && !considered().any(|candidate| candidate.serving);
    let last_resort = balanced && !unfiltered && considered().all(|candidate| candidate.terminating);
    if unfiltered {
        vips.retain(|vip| matches!(vip.class, VipClass::ClusterIp | VipClass::LoadBalancer));
    }
    for candidate in candidates {
        let standing = match (unfiltered, last_resort) {
            (true, _) => Standing::LastResort,
            (_, true) if candidate.serving => Standing::LastResort,
            (_, false) if candidate.ready && (balanced || candidate.serving) => Standing::Member,
            _ => Standing::NotReady,
        };
        candidate.cluster = if uses.0 { standing } else { Standing::Unused };
        candidate.own = match (uses.1, candidate.local) {
            (false, _) => Standing::Unused,
            (true, false) => Standing::Remote,
            (true, true) => standing,
        };
    }
}
