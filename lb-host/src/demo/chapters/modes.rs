//! The same calls in every mode.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_core::Address;
use lb_core::Family::V4;
use lb_core::control::Mode;

use super::{EXAMPLE, LAPTOP, SHELL, alphas, cluster_ip, external_ip, is_node, is_of, ports};
use crate::cluster::settings;
use crate::demo::Error;
use crate::demo::stage::{Stage, Visit, doll, url};
use crate::table;

/// A port that no Service has.
const CLOSED: u16 = 9;

pub(super) fn tell(stage: &mut Stage<'_>, only: Option<Mode>) -> Result<(), Error> {
    stage.say(
        "A virtual IP is kube-proxy's work, and it has done it in five ways. On every node kube-proxy is now started anew, \
         in one mode after the other; objects, Pods and callers stay as they are.",
    )?;
    let modes: Vec<Mode> = match only {
        Some(mode) => vec![mode],
        None => ["userspace", "iptables", "nftables", "ipvs", "kernelspace"]
            .iter()
            .filter_map(|name| Mode::ALL.iter().find(|mode| mode.name == *name).copied())
            .collect(),
    };
    let mut rows = Vec::new();
    for mode in modes {
        let row = in_mode(stage, mode)?;
        claims(stage, mode, &row)?;
        rows.push(row);
    }
    stage.say(
        "Side by side: who served six calls in a row, whom a Pod took for the client, and two questions at the edge.",
    )?;
    let mut told = Vec::new();
    let headings = ["MODE", "SIX CALLS", "SHELL SEEN AS", "LAPTOP SEEN AS", "CLOSED PORT", "PING"];
    table::write(&mut told, &headings, &rows)?;
    stage.page.gap()?;
    stage.show(&String::from_utf8_lossy(&told))
}

/// A line of the table; empty if there is nobody to call.
fn in_mode(stage: &mut Stage<'_>, mode: Mode) -> Result<Vec<String>, Error> {
    stage.typed("", &format!("kube-proxy --proxy-mode={}", mode.name))?;
    stage.it.set_proxy(settings(mode))?;
    stage.settle();
    let addresses = cluster_ip(&stage.it, EXAMPLE, V4).zip(external_ip(&stage.it, EXAMPLE, V4));
    let Some((service_ip, outside)) = addresses else { return Ok(Vec::new()) };
    let (port, _) = ports(&stage.it, EXAMPLE);
    let inside = stage.visits(SHELL, &url((service_ip, port)), V4, 6)?;
    let from_outside = stage.visit(LAPTOP, &url((outside, port)), V4)?;
    let closed = stage.visit(SHELL, &url((service_ip, CLOSED)), V4)?;
    let closed = closed.fetched.result.map_or_else(|failure| failure.to_string(), |reply| reply.served_by);
    let ping = ping(stage, service_ip)?;
    let names: Vec<String> = alphas(&stage.it).into_keys().collect();
    let number = |visit: &Visit| names.iter().position(|name| name == visit.served_by()).map_or(0, |at| at + 1);
    let order: Vec<String> = inside.iter().map(|visit| number(visit).to_string()).collect();
    let seen = |visit: Option<&Visit>| {
        let address = visit.and_then(Visit::client_seen);
        match address {
            None => "-".to_owned(),
            Some(address) if is_of(&stage.it, SHELL, Some(address)) || is_of(&stage.it, LAPTOP, Some(address)) => {
                "itself".to_owned()
            }
            Some(address) if is_node(&stage.it, Some(address)) => "a node".to_owned(),
            Some(address) => address.to_string(),
        }
    };
    let row = vec![
        mode.name.to_owned(),
        order.join(" "),
        seen(inside.first()),
        seen(Some(&from_outside)),
        closed,
        ping.to_owned(),
    ];
    if let Some(visit) = inside.first() {
        stage.tell_answer(visit)?;
        if mode == Mode::USERSPACE {
            // Two connections, where others translate one.
            stage.tell_journey(&visit.journey, SHELL, visit.served_by())?;
        } else {
            stage.page.gap()?;
            stage.show(&doll(&visit.journey))?;
        }
    }
    stage.tell_answer(&from_outside)?;
    stage.page.gap()?;
    stage.show(&doll(&from_outside.journey))?;
    Ok(row)
}

/// Whether a ping of an address is answered.
fn ping(stage: &mut Stage<'_>, to: Address) -> Result<&'static str, Error> {
    let machine = stage.it.machine(SHELL)?;
    let sent = stage.it.world_mut().host_mut(machine).map(|host| host.ping(to, 1));
    stage.it.run_for(Duration::from_secs(1));
    let echo = stage.it.world_mut().host_mut(machine).and_then(|host| host.echo());
    Ok(match (sent, echo) {
        (Some(Ok(())), Some(echo)) if echo.error.is_none() && echo.from == to => "answered",
        (Some(Ok(())), Some(_)) => "refused",
        _ => "silence",
    })
}

fn claims(stage: &mut Stage<'_>, mode: Mode, row: &[String]) -> Result<(), Error> {
    let column = |number: usize| row.get(number).map_or("", String::as_str);
    let each: BTreeSet<&str> = column(1).split(' ').collect();
    let served = column(1).split(' ').count() == 6 && !each.contains("0");
    match mode {
        Mode::USERSPACE => {
            stage.check(
                served && column(2) == "a node",
                "calls end at a proxy on the node, which dials in the node's name",
            )?;
            stage.check(turns(column(1)), "it deals in turns")
        }
        Mode::IPTABLES => stage.check(
            served && column(2) == "itself",
            "the kernel translates by rules, and the caller's address stays; who serves is drawn by lot",
        ),
        Mode::NFTABLES => stage.check(
            served && column(2) == "itself" && column(4).contains("refused"),
            "as iptables; but a port that the Service does not have is refused, where iptables lets it go astray",
        ),
        Mode::IPVS => {
            stage.check(served && turns(column(1)), "in turns, one after the other: IPVS' own scheduler, rr")?;
            stage.check(column(5) == "answered", "the address is bound to the node, so it answers a ping")
        }
        _ => stage.check(served && column(2) == "itself", "Windows' own virtual switch: the same, by other hands"),
    }
}

/// Whether three take turns.
fn turns(order: &str) -> bool {
    let order: Vec<&str> = order.split(' ').collect();
    let first: BTreeSet<_> = order.iter().take(3).collect();
    first.len() == 3 && order.iter().zip(order.iter().skip(3)).all(|(one, again)| one == again)
}
