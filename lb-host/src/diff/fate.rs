//! Asks both sides for the fate of a packet, and tells where they differ.

use lb_core::Tuple;

use super::probe::{Probe, Sources, probes};
use super::reason::reason;
use super::{FateChange, Outcome, Side};
use crate::path::socket;

/// Asks both sides about every probe, and tells those that they answer differently.
pub(super) fn fates(before: &Side<'_>, after: &Side<'_>, sources: &Sources) -> Vec<FateChange> {
    probes(before, after, sources).iter().filter_map(|probe| ask(before, after, probe)).collect()
}

/// Asks both sides about one.
pub(super) fn ask(before: &Side<'_>, after: &Side<'_>, probe: &Probe) -> Option<FateChange> {
    let [old, new] = [before, after].map(|side| Outcome::of(side.rules, &probe.tuple, probe.origin));
    if old.is_like(&new) {
        return None;
    }
    Some(FateChange {
        source: probe.source,
        does: probe.aim.words(),
        packet: probe.tuple.to_string(),
        destination: destination(&probe.tuple),
        reason: reason(probe, (&old, before.mode()), (&new, after.mode())),
        before: old,
        after: new,
    })
}

fn destination(tuple: &Tuple) -> String {
    match tuple.protocol.has_ports() {
        true => format!("{} {}", tuple.protocol, socket(tuple.destination, tuple.destination_port)),
        false => format!("{} {}", tuple.protocol, tuple.destination),
    }
}
