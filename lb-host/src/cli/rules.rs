//! Compiled rules, printed: `lb get rules` and `lb inspect`.

use std::collections::BTreeSet;
use std::io::Write;

use super::args::Output;
use crate::listing::{Listing, NodeRow, Row};
use crate::table::{self, NONE, list};

const NARROW: [&str; 9] =
    ["SERVICE-PORT", "CLASS", "ADDRESS", "POLICY", "SCHEDULER", "AFFINITY", "CLUSTER", "LOCAL", "ENDPOINTS"];
const WIDE: [&str; 5] = ["CLUSTER-BACKENDS", "LOCAL-BACKENDS", "SOURCE-RANGES", "MAGLEV", "SEGMENT"];
const NODE: [&str; 6] =
    ["NODE-ADDRESSES", "NODEPORT-ADDRESSES", "POD-SOURCES", "SERVICE-CIDRS", "MASQUERADE-AS", "RESERVED-PORTS"];

/// Prints rules in the form asked for.
pub(super) fn print(out: &mut dyn Write, listing: &Listing, form: Output) -> anyhow::Result<()> {
    match form {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(listing)?)?,
        Output::Yaml => write!(out, "{}", serde_saphyr::to_string(listing)?)?,
        Output::Name => {
            let names: BTreeSet<_> = listing.rules.iter().map(|row| &row.service).collect();
            for name in names {
                writeln!(out, "rule/{name}")?;
            }
        }
        Output::Table => table::write(out, &NARROW, &listing.rules.iter().map(narrow).collect::<Vec<_>>())?,
        Output::Wide => {
            if let Some(node) = &listing.node {
                table::write(out, &NODE, [&self::node(node)])?;
                writeln!(out)?;
            }
            let headings = [&NARROW[..], &WIDE[..]].concat();
            table::write(out, &headings, &listing.rules.iter().map(wide).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn narrow(row: &Row) -> Vec<String> {
    // A pool that is not in use differs from an empty one.
    let size = |pool: &Option<Vec<String>>| pool.as_ref().map_or("-".to_owned(), |pool| pool.len().to_string());
    vec![
        row.service.clone(),
        row.class.unwrap_or(NONE).to_owned(),
        row.address.clone().unwrap_or_else(|| NONE.to_owned()),
        row.policy.to_owned(),
        row.scheduler.to_owned(),
        row.affinity.map_or(NONE.to_owned(), |seconds| format!("{seconds}s")),
        size(&row.cluster),
        size(&row.local),
        if row.has_endpoints { "yes" } else { "no" }.to_owned(),
    ]
}

fn wide(row: &Row) -> Vec<String> {
    let maglev = row.maglev.map_or(NONE.to_owned(), |(cluster, local)| format!("{cluster},{local}"));
    let mut cells = narrow(row);
    cells.extend([
        list(row.cluster.iter().flatten()),
        list(row.local.iter().flatten()),
        list(&row.source_ranges),
        maglev,
        row.segment.clone(),
    ]);
    cells
}

fn node(node: &NodeRow) -> Vec<String> {
    let masquerade = node.masquerade.iter().map(|one| format!("{}@{}", one.address, one.destination));
    vec![
        list(&node.addresses),
        list(&node.node_port_addresses),
        list(&node.pod_sources),
        list(&node.service_cidrs),
        list(masquerade),
        format!("{}-{}", node.reserved_ports.0, node.reserved_ports.1),
    ]
}
