//! What an API server takes, and what surprises all the same when packets come.

mod addresses;
mod endpoints;
mod service;

use lb_core::Prefix;

use super::manifest::Manifests;
use super::place::Problem;

/// What will surprise about `written` objects, which come to `applied` ones in a cluster; `blocks` are those that
/// its ClusterIPs come from, if known.
pub(super) fn surprises(written: &Manifests, applied: &Manifests, blocks: &[Prefix]) -> Vec<Problem> {
    let mut problems = Vec::new();
    written.services.iter().for_each(|service| service::service(service, &mut problems));
    addresses::cluster_ips(&written.services, blocks, &mut problems);
    addresses::claimed_twice(applied, &mut problems);
    addresses::on_nodes(applied, &mut problems);
    endpoints::sources(written, applied, &mut problems);
    endpoints::policies(applied, &mut problems);
    endpoints::hints(applied, &mut problems);
    endpoints::slices(&written.slices, &mut problems);
    endpoints::unread(written, &mut problems);
    problems
}
