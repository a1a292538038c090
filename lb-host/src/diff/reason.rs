//! Why two sides judge a packet differently, in words and paragraphs.

use lb_core::control::Mode;
use lb_core::rules::VipClass;

use super::Outcome;
use super::probe::{Aim, Probe};

type Told<'a> = (&'a Outcome, Option<Mode>);

/// Why. Between modes it is what tells the modes apart; within one it is the rule that now decides.
pub(super) fn reason(probe: &Probe, before: Told<'_>, after: Told<'_>) -> String {
    match (before.1, after.1) {
        (Some(old), Some(new)) if old.name != new.name => between_modes(probe, before.0, after.0, (old, new)),
        // What was dialled is nobody's any more: what it was tells more.
        _ if after.0.verdict == "pass" => format!("no longer: {}", before.0.because),
        _ => after.0.because.clone(),
    }
}

fn between_modes(probe: &Probe, old: &Outcome, new: &Outcome, modes: (Mode, Mode)) -> String {
    let has = |verdict: &str| old.verdict == verdict || new.verdict == verdict;
    let labelled = |label: &str| old.label == Some(label) || new.label == Some(label);
    let is_windows = [modes.0, modes.1].iter().any(|mode| mode.name == Mode::KERNELSPACE.name);
    let loopback = probe.tuple.destination.is_loopback();
    let closed = old.service.is_none() || new.service.is_none();
    let text = match probe.aim {
        Aim::Ping => "who answers pings to a service's address (§12.5)",
        Aim::Unmatched => "what becomes of packets to a service's address on a port that is none of its own (§6.6)",
        Aim::Unallocated => "what becomes of packets to a ClusterIP that is no service's (§6.6)",
        Aim::Dial(_) if has("punt") => "a proxy on the node ends the connection and dials an endpoint itself (§14.5)",
        Aim::Dial(VipClass::NodePort) if loopback => "whether NodePorts are open on loopback (§9.5, §9.6)",
        Aim::Dial(_) if has("pass") && is_windows => {
            "Windows makes no balancer where there is nothing to serve with, and rejects nothing (§14.4)"
        }
        Aim::Dial(VipClass::NodePort) if labelled("no-endpoints") => {
            "on which addresses NodePorts without endpoints are rejected (§6.9)"
        }
        Aim::Dial(VipClass::NodePort) if closed && labelled("no-local-endpoint") => {
            "on which of the node's addresses NodePorts are open, or dropped for want of an endpoint (§9.1, §6.9)"
        }
        Aim::Dial(VipClass::NodePort) if closed => "on which of the node's addresses NodePorts are open (§9.1)",
        Aim::Dial(_) if labelled("source-range") && has("reject") => {
            "whether source ranges or the want of endpoints is looked at first (§8.6)"
        }
        Aim::Dial(_) if labelled("source-range") => "whether loadBalancerSourceRanges are looked at (§8.6)",
        Aim::Dial(_) if labelled("no-local-endpoint") && has("forward") => {
            "whether the cluster's endpoints stand in where the policy is Local and none is on the node (§6.4, §7.4)"
        }
        Aim::Dial(_) if labelled("no-local-endpoint") => {
            "what a Local policy without an endpoint on the node comes to (§6.4)"
        }
        Aim::Dial(_) if labelled("no-endpoints") => "who is rejected where there are no endpoints (§6.8)",
        Aim::Dial(_) if old.verdict != new.verdict => "what is proxied at all (§12.1)",
        Aim::Dial(_) if old.pool != new.pool => {
            "whether traffic from inside goes past a Local policy, as if it came back from the load balancer (§7.4)"
        }
        Aim::Dial(_) if old.masquerade != new.masquerade => "whose address is masqueraded (§8.1)",
        Aim::Dial(_) => "whether a client that is its own backend is masqueraded (§8.2)",
    };
    let mut chapters: Vec<&str> = [modes.0, modes.1].into_iter().filter_map(|mode| chapter(mode.name)).collect();
    // What iptables does is the rule, told by the paragraph itself.
    chapters.retain(|chapter| *chapter != "§14.1" && !text.contains(chapter));
    if chapters.is_empty() { text.to_owned() } else { format!("{text}; {}", chapters.join(", ")) }
}

/// The chapter on a mode.
pub(super) fn chapter(mode: &str) -> Option<&'static str> {
    Some(match mode {
        "iptables" => "§14.1",
        "nftables" => "§14.2",
        "ipvs" => "§14.3",
        "kernelspace" => "§14.4",
        "userspace" => "§14.5",
        _ => return None,
    })
}
