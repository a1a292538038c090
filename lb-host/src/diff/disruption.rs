//! Maglev slots that moved: because they had to, or not.

use std::collections::BTreeMap;

use lb_core::rules::{Pool, Segment};
use lb_core::{Family, RuleTable};
use serde::Serialize;

use crate::listing::label;

/// How far one pool's Maglev table moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disruption {
    /// The service port.
    pub service: String,
    /// cluster or local.
    pub pool: &'static str,
    /// Slots before and after.
    pub slots: (u32, u32),
    /// Whose backend is gone from the pool.
    pub forced: Share,
    /// Whose backend is still there, and whose flows go elsewhere all the same.
    pub collateral: Share,
    /// Of those, the ones that a new backend took, as it must take some.
    pub collateral_to_new: Share,
}

/// A part of all flows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Slots, if the table has as many as before.
    pub slots: Option<u64>,
    /// Per cent of all.
    pub percent: f64,
}

/// The tables of both sides that are not alike.
pub(super) fn disruptions(before: &RuleTable<Vec<u8>>, after: &RuleTable<Vec<u8>>) -> Vec<Disruption> {
    let mut disruptions = Vec::new();
    let after: BTreeMap<u64, Segment<'_>> = after.segments().map(|(_, segment)| (segment.id(), segment)).collect();
    for (_, old) in before.segments() {
        let Some(new) = after.get(&old.id()) else { continue };
        disruptions.extend([Pool::Cluster, Pool::Local].into_iter().filter_map(|pool| disruption(&old, new, pool)));
    }
    disruptions.sort_by(|a, b| (&a.service, a.pool).cmp(&(&b.service, b.pool)));
    disruptions
}

fn disruption(old: &Segment<'_>, new: &Segment<'_>, pool: Pool) -> Option<Disruption> {
    let sizes = (old.maglev_size(pool), new.maglev_size(pool));
    if sizes.0 == 0 || sizes.1 == 0 {
        return None;
    }
    let (ours, theirs) = (u64::from(sizes.0), u64::from(sizes.1));
    // A hash falls into the slot of its share of the table, so tables of two sizes are laid over each other: a slot
    // of one is as wide as the other has slots.
    let (mut at, mut i, mut j) = (0, 0, 0);
    let (mut forced, mut collateral, mut to_new) = (0, 0, 0);
    while let (Some(was), Some(is)) = (old.maglev(pool, i), new.maglev(pool, j)) {
        let ends = ((u64::from(i) + 1) * theirs, (u64::from(j) + 1) * ours);
        let end = ends.0.min(ends.1);
        let width = end - at;
        if (was.address, was.port) != (is.address, is.port) {
            if new.pool_has(pool, was.address, was.port) {
                collateral += width;
                to_new += if old.pool_has(pool, is.address, is.port) { 0 } else { width };
            } else {
                forced += width;
            }
        }
        (at, i, j) = (end, i + u32::from(ends.0 == end), j + u32::from(ends.1 == end));
    }
    let share = |width: u64| Share {
        slots: (ours == theirs).then_some(width / ours),
        percent: width as f64 * 100.0 / (ours * theirs) as f64,
    };
    let family = if old.family() == Family::V6 { " IPv6" } else { "" };
    (forced + collateral > 0).then(|| Disruption {
        service: format!("{}{family}", label(old)),
        pool: if pool == Pool::Cluster { "cluster" } else { "local" },
        slots: sizes,
        forced: share(forced),
        collateral: share(collateral),
        collateral_to_new: share(to_new),
    })
}
