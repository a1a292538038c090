//! The deliberate differences, each a rule of its own: as narrow as can be said, counted and shown. Their reasons are in
//! ARCHITECTURE.md's table.

use lb_core::{Direction, DropReason, RejectReason, Verdict};

use crate::endpoints::Port;
use crate::judge::Ours;
use crate::packets;
use crate::script::{Kind, Step};
use crate::world::{self, Place};

/// A difference that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    /// A client whose stray packet began a flow here is remembered by that flow's endpoint.
    StrayRemembered,
    /// A client is remembered by an endpoint that went and came back; kube-proxy deletes its memory with its rules.
    RememberedBack,
    /// A refusal is sent by the address that was dialled, not by the node's own.
    RefusedByVip,
    /// What is in state INVALID to the kernel: it lets it pass untranslated, or drops it in iptables mode.
    Invalid,
    /// An ICMP error that quotes a packet from a Vip, of no known flow, is dropped.
    UnrelatedError,
    /// A reply from a backend that stopped serving its UDP flow is dropped.
    StaleReply,
    /// The node's own packet from a loopback address is refused without a word.
    LoopbackUnanswered,
    /// An ICMP error that quotes the ports and less than eight bytes is translated; the kernel's NAT can't and drops it.
    PortsAlone,
    /// A connection that was reset before the backend said anything else goes on if somebody goes on: the kernel has forgotten
    /// it at the reset.
    ForgottenAtReset,
    /// A flow that the kernel let begin, untranslated, before its Service had anybody to serve it is the Service's once it has.
    BeganUnserved,
    /// An ICMP error about a UDP flow whose backend stopped serving finds the backend; to the kernel the flow is gone.
    StaleError,
    /// The node's own packet to an address of policy Local without a local endpoint is served by another (§7.4); nftables
    /// mode has dropped it before it could be.
    OwnShortCircuit,
    /// The node's own packet of a flow that nobody has answered yet goes on; nftables mode asks for endpoints before it
    /// translates on output, and there are none any more.
    OwnCheckedAgain,
    /// The firewall of a Service without endpoints is asked first, also about the node's own packets, which nftables mode
    /// refuses.
    OwnFirewall,
    /// A UDP flow was silent while its backend did not serve but another did, and now is as it was, or nobody serves: the kernel's
    /// entry was deleted meanwhile.
    ClearedMeanwhile,
    /// A SYN over a connection that was reset by a sequence number nowhere near, went on and ended: the engine has forgotten
    /// at the reset who had closed already, and goes on with the old flow.
    AgedByReset,
    /// A SYN over a connection that has ended begins a new flow; the kernel goes on with the old one, to a backend that is
    /// none any more, unless the backend closed first or the client reset it.
    Reopened,
    /// A backend's SYN meets a client's that opens a connection anew over one which that backend had reset: the kernel goes on with the
    /// old one, to which a backend's SYN is INVALID.
    CrossedReopening,
    /// Fragments are translated one by one; the kernel sends none of a datagram that never becomes whole.
    NeverWhole,
}

impl Listed {
    /// Whether engine and kernel may know different things afterwards.
    pub fn parts(self, kind: Kind) -> bool {
        let begins = matches!(kind, Kind::StrayEnd | Kind::BadChecksum);
        matches!(
            self,
            Self::NeverWhole
                | Self::BeganUnserved
                | Self::OwnShortCircuit
                | Self::ForgottenAtReset
                | Self::Reopened
                | Self::CrossedReopening
                | Self::ClearedMeanwhile
                | Self::AgedByReset
        ) || begins
    }
}

/// Whether both sides let the same out. Fragments are compared as the datagram that they are: the kernel makes it whole, may
/// cut it up anew, and names IPv6's anew; the node takes it in one.
pub fn same(ours: &[(Place, Vec<u8>)], theirs: &[(Place, Vec<u8>)]) -> bool {
    if let ([(our_place, our)], [(their_place, their)]) = (ours, theirs) {
        return our_place == their_place && our == their;
    }
    let whole = |all: &[(Place, Vec<u8>)]| {
        let place = all.first()?.0;
        let pieces: Vec<&[u8]> = all.iter().filter(|(at, _)| *at == place).map(|(_, packet)| &packet[..]).collect();
        let whole = (pieces.len() == all.len()).then(|| packets::whole(&pieces))??;
        Some((place, whole))
    };
    ours.is_empty() && theirs.is_empty() || whole(ours).is_some_and(|ours| whole(theirs) == Some(ours))
}

/// A difference, and what is known of it.
pub struct Seen<'j> {
    pub is_iptables: bool,
    pub ports: &'j [Port],
    pub step: &'j Step,
    pub ours: &'j Ours,
    /// What becomes of the packet if nobody touches it.
    pub untouched: (Place, Vec<u8>),
    /// There was a reset in the conversation whose sequence number was nowhere near.
    pub was_aged: bool,
    /// Earlier packets of the conversation were not translated by either.
    pub was_passed: bool,
    /// kube-proxy has deleted the kernel's entry of the engine's flow.
    pub was_cleared: bool,
}

impl Seen<'_> {
    /// The deliberate difference that this is, if it is one.
    pub fn listed(&self) -> Option<Listed> {
        let (step, ours, verdict) = (self.step, self.ours, *self.ours.verdicts.first()?);
        let is_forwarded = matches!(verdict, Verdict::Forward { direction: Direction::Original, .. });
        match step.kind {
            Kind::Error | Kind::UnknownError
                if self.is_invalid() && verdict == Verdict::Drop(DropReason::UnrelatedError) =>
            {
                return Some(Listed::UnrelatedError);
            }
            Kind::BadChecksum | Kind::StrayEnd | Kind::OutOfWindow if self.is_invalid() => {
                return Some(Listed::Invalid);
            }
            Kind::Error | Kind::ShortError if self.is_invalid() && self.is_about_stale_flow() => {
                return Some(Listed::StaleError);
            }
            // §6.6 is about new flows, which to the kernel this is none of.
            Kind::ShortError
                if verdict == Verdict::Reject(RejectReason::UnmatchedPort)
                    && ours.out.is_empty()
                    && self.is_invalid() =>
            {
                return Some(Listed::UnrelatedError);
            }
            Kind::ShortError if step.taken.is_empty() && packets::quotes_ports(&step.given[0]) => {
                return Some(Listed::PortsAlone);
            }
            Kind::UnknownError | Kind::ShortError
                if self.step.taken.is_empty() && self.is_invalid() && verdict == Verdict::Pass =>
            {
                return Some(Listed::Invalid);
            }
            Kind::Incomplete | Kind::Overlapping if step.taken.is_empty() => return Some(Listed::NeverWhole),
            _ => {}
        }
        let is_answered = matches!(&step.taken[..], [(Place::Node, their)] if packets::message(their).is_some());
        let by_loopback = packets::addresses(&step.given[0]).0.is_loopback();
        if by_loopback && is_answered && matches!(verdict, Verdict::Reject(_)) && ours.out.is_empty() {
            return Some(Listed::LoopbackUnanswered);
        }
        let goes_elsewhere = matches!(verdict, Verdict::Forward { .. })
            && matches!((&ours.out[..], &step.taken[..]), ([(_, our)], [(_, their)]) if packets::ends(our) != packets::ends(their));
        if step.is_forgotten && (self.is_invalid() || goes_elsewhere) {
            return Some(Listed::ForgottenAtReset);
        }
        let kernels = step.taken.iter().find_map(|(_, packet)| packets::ends(packet)).map(|(_, backend)| backend);
        if kernels.is_some() && kernels == step.before && packets::is_syn(&step.given[0]) {
            return Some(Listed::Reopened);
        }
        let is_reply = matches!(verdict, Verdict::Forward { direction: Direction::Reply, .. });
        if is_reply && step.before.is_some() && packets::is_syn(&step.given[0]) && self.is_invalid() {
            return Some(Listed::CrossedReopening);
        }
        if is_forwarded && self.was_aged && step.before.is_some() && packets::is_syn(&step.given[0]) {
            return Some(Listed::AgedByReset);
        }
        if ours.verdicts.contains(&Verdict::Drop(DropReason::StaleFlow)) && ours.out.is_empty() {
            return Some(Listed::StaleReply);
        }
        let ends = |all: &[(Place, Vec<u8>)]| all.iter().find_map(|(_, packet)| packets::ends(packet));
        if self.was_cleared && ends(&ours.out) != ends(&step.taken) {
            return Some(Listed::ClearedMeanwhile);
        }
        let is_untranslated = step.taken == [self.untouched.clone()] || (self.is_own() && step.taken.is_empty());
        if is_forwarded && self.was_passed && is_untranslated {
            return Some(Listed::BeganUnserved);
        }
        if let Some((port, is_external)) = self.own_in_nftables() {
            let is_local = if is_external { port.external_local } else { port.internal_local };
            let is_empty = is_local && port.local.is_empty();
            let is_refused = matches!(&step.taken[..], [(Place::Node, their)] if packets::message(their).is_some());
            if is_forwarded && is_external && is_empty && port.has_any && step.taken.is_empty() {
                return Some(Listed::OwnShortCircuit);
            }
            if is_forwarded && ((is_refused && !port.has_any) || (step.taken.is_empty() && is_empty)) {
                return Some(Listed::OwnCheckedAgain);
            }
            if verdict == Verdict::Drop(DropReason::SourceRange) && is_refused && !port.has_any {
                return Some(Listed::OwnFirewall);
            }
        }
        if let ([(_, our)], [(_, their)]) = (&ours.out[..], &step.taken[..])
            && ours.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Reject(_)))
        {
            return is_same_refusal(&step.given, our, their).then_some(Listed::RefusedByVip);
        }
        None
    }

    /// Whether the kernel took the packet for INVALID: it is not translated, and in iptables mode dropped where it would be
    /// forwarded.
    fn is_invalid(&self) -> bool {
        match self.is_iptables && self.untouched.0 != Place::Node && self.step.from != Place::Node {
            true => self.step.taken.is_empty(),
            false => self.step.taken == [self.untouched.clone()],
        }
    }

    /// Whether the node sends it to itself.
    fn is_own(&self) -> bool {
        (self.step.from, self.untouched.0) == (Place::Node, Place::Node)
    }

    /// Whether this is about a UDP packet of a service port to whose backend, as the engine has it, nothing should go any more.
    fn is_about_stale_flow(&self) -> bool {
        let quoted = |packet: &[u8]| {
            let quote = packets::message(packet)?.get(8..).filter(|quote| packets::protocol(quote) == packets::UDP)?;
            packets::ends(quote)
        };
        let Some((_, our)) = self.ours.out.first() else { return false };
        // The client complains, so what is quoted went from the service port to it.
        let (Some((dialled, _)), Some((backend, _))) = (quoted(&self.step.given[0]), quoted(our)) else { return false };
        let port = self.ports.iter().find(|port| port.protocol == "udp" && port.is_dialled_by(dialled));
        port.is_some_and(|port| !port.serving.contains(&backend))
    }

    /// The service port that a packet of the node's own dials in nftables mode, and whether by an external address.
    fn own_in_nftables(&self) -> Option<(&Port, bool)> {
        if self.is_iptables || self.step.from != Place::Node {
            return None;
        }
        let (_, to) = packets::ends(&self.step.given[0])?;
        let protocol = packets::name(packets::protocol(&self.step.given[0]));
        let is_vip = |port: &&Port| port.protocol == protocol && port.port == to.port() && port.is_dialled_by(to);
        self.ports.iter().find(is_vip).map(|port| (port, port.cluster_ip != to.ip()))
    }
}

/// Whether both packets refuse this one: to the same host, with the same type and code, the quote that of the packet but for
/// hops. Of fragments the kernel quotes the whole that it made of them.
fn is_same_refusal(given: &[Vec<u8>], ours: &[u8], theirs: &[u8]) -> bool {
    let (Some(our), Some(their)) = (packets::message(ours), packets::message(theirs)) else { return false };
    let by_node = world::place_of(packets::addresses(theirs).0) == Place::Node;
    let alike = by_node
        && packets::addresses(ours).1 == packets::addresses(theirs).1
        && our[..2] == their[..2]
        && our[4..8] == their[4..8]
        && given.iter().any(|packet| packet.starts_with(&our[8..]));
    if let [packet] = given {
        let without_hops = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            match packets::is_v4(&packet) {
                true => packet[8..12].fill(0),
                false => packet[7] = 0,
            }
            packet
        };
        return alike && without_hops(&our[8..]) == without_hops(&their[8..]) && packets::offset(packet).is_none();
    }
    alike && packets::ends(&our[8..]).is_some_and(|ends| packets::ends(&their[8..]) == Some(ends))
}
