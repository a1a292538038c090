//! What an API server would refuse, and what will surprise: everything, in the order of the input.

use lb_core::{Address, Family, Prefix};

use super::allocate::{Ranges, allocate};
use super::check::{Limits, refusals};
use super::manifest::Manifests;
use super::place::Problem;
use super::surprise::surprises;
use super::tree::Document;
use super::{defaults, endpoint_controller};

/// What is taken to hold of the cluster that the objects are for.
#[derive(Clone, Debug)]
pub struct Assumed {
    /// The address families that it serves; empty for those of its blocks, or both where no block is known.
    pub families: Vec<Family>,
    /// The blocks that ClusterIPs come from, if known.
    pub cluster_ips: Vec<Prefix>,
    /// Its first and last NodePort.
    pub node_ports: (u16, u16),
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// An API server refuses it.
    Error,
    /// It is taken, and does what not everybody expects.
    Warning,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where, what, and what to do.
    pub problem: Problem,
}

/// All findings about the objects that these documents are, by place.
pub fn lint(documents: Vec<Document>, assumed: &Assumed) -> Vec<Finding> {
    let mut manifests = Manifests::default();
    let mut errors: Vec<Problem> =
        documents.into_iter().flat_map(|document| manifests.add_document(document)).collect();
    let blocks = if assumed.cluster_ips.is_empty() { manifests.service_cidrs() } else { assumed.cluster_ips.clone() };
    let limits = Limits { families: families(assumed, &blocks), node_ports: assumed.node_ports };
    errors.extend(refusals(&manifests, &limits));

    // Whatever is wrong, the rest is looked at as the cluster would have it.
    let mut applied = manifests.clone();
    applied.services.iter_mut().for_each(|service| defaults::service(&mut service.object));
    applied.slices.iter_mut().for_each(|slice| defaults::slice(&mut slice.object));
    let ranges = Ranges { cluster_ips: both_families(&blocks), node_ports: assumed.node_ports, seed: 0 };
    errors.extend(allocate(&mut applied.services, &ranges).err().into_iter().flatten());
    let made = endpoint_controller::slices(&applied);
    applied.slices.extend(made.slices);

    let mut warnings: Vec<Problem> = manifests.unknown_fields().chain(made.warnings).collect();
    warnings.extend(surprises(&manifests, &applied, &blocks));
    let mut findings: Vec<_> =
        errors.into_iter().map(|problem| Finding { severity: Severity::Error, problem }).collect();
    findings.extend(warnings.into_iter().map(|problem| Finding { severity: Severity::Warning, problem }));
    findings.sort_by(|a, b| {
        let key = |finding: &Finding| {
            let Problem { place, field, message, .. } = finding.problem.clone();
            (place, finding.severity, field, message)
        };
        key(a).cmp(&key(b))
    });
    findings
}

fn families(assumed: &Assumed, blocks: &[Prefix]) -> Vec<Family> {
    if !assumed.families.is_empty() {
        return assumed.families.clone();
    }
    let known = |family: &Family| blocks.is_empty() || blocks.iter().any(|block| block.address().family() == *family);
    [Family::V4, Family::V6].into_iter().filter(known).collect()
}

/// The blocks, and one to draw from for a family that has none: whether it is served is told by `refusals`.
fn both_families(blocks: &[Prefix]) -> Vec<Prefix> {
    let stand_in = [
        // The API server's own default, and a unique local block (RFC 4193 §3).
        Prefix::new(Address::v4([10, 96, 0, 0]), 12),
        Prefix::new(Address::from_bits(0xfd00_0010_0096 << 80), 112),
    ];
    let absent = |block: &Prefix| !blocks.iter().any(|known| known.address().family() == block.address().family());
    blocks.iter().copied().chain(stand_in.into_iter().filter(absent)).collect()
}
