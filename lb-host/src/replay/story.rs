//! What became of a packet, in words.

use std::fmt::Write;

use lb_core::rules::{Fate, RuleTable};
use lb_core::{Direction, DropReason, Flow, FlowId, Link, Origin, RejectReason, Tuple, Verdict, wire};

use crate::path::{self, Path};

/// A packet and what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    /// What the engine decided.
    pub(crate) verdict: Verdict,
    /// The flow it belongs to, if it was forwarded.
    pub(crate) flow: Option<&'a Flow>,
    /// Its bytes as they came in, from where `link` says on.
    pub(crate) packet: &'a [u8],
    /// What the first byte is part of; `None` if the engine does not know the link.
    pub(crate) link: Option<Link>,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// Writes the comment of a packet: the verdict's word, what it was and what it is, the rule and the layers that were
/// opened; or why not.
///
/// ```text
/// forward DNAT SNAT: tcp 198.51.100.7:40001 -> 203.0.113.10:8081 => tcp 192.0.2.11:29304 -> 10.244.2.10:8080
/// rule default/example:main/TCP
/// lb 203.0.113.10:8081 -> node 192.0.2.11:32255 -> service 10.96.100.50:8081 -> pod 10.244.2.10:8080
/// ```
fn tell<M: AsRef<[u8]>>(event: &Event<'_>, rules: &RuleTable<M>, out: &mut String) {
    let code = event.verdict.code();
    out.push_str(Verdict::label(code).unwrap_or_default());
    // Writing to a string can't fail.
    let _ = match (event.verdict, event.flow) {
        (Verdict::Forward { direction, .. }, Some(flow)) => {
            let (before, after) = match direction {
                Direction::Original => (flow.original, flow.leaves()),
                Direction::Reply => (flow.reply, flow.original.reversed()),
            };
            let source = before.source != after.source || before.source_port != after.source_port;
            let destination =
                before.destination != after.destination || before.destination_port != after.destination_port;
            let dnat = if destination { " DNAT" } else { "" };
            let snat = if source { " SNAT" } else { "" };
            let written = write!(out, "{dnat}{snat}: {before} => {after}");
            tell_rule(rules, flow, out);
            written
        }
        (Verdict::Drop(_), _) => write!(out, ": {}", DropReason::from_code(code).map_or("", DropReason::explanation)),
        (Verdict::Reject(_), _) => {
            write!(out, ": {}", RejectReason::from_code(code).map_or("", RejectReason::explanation))
        }
        _ => Ok(()),
    };
    if matches!(event.verdict, Verdict::Drop(_) | Verdict::Reject(_)) {
        tell_refusal(event, rules, out);
    }
}

/// The service port of a flow, and the layers that were opened to its backend.
fn tell_rule<M: AsRef<[u8]>>(rules: &RuleTable<M>, flow: &Flow, out: &mut String) {
    let Some(segment) = rules.segment(flow.slot) else { return };
    let _ = write!(out, "\nrule {}", String::from_utf8_lossy(segment.label()));
    if let Some(path) = flow_path(rules, flow) {
        let _ = write!(out, "\n{path}");
    }
}

/// The service port that refused a new flow.
fn tell_refusal<M: AsRef<[u8]>>(event: &Event<'_>, rules: &RuleTable<M>, out: &mut String) {
    let Some(link) = event.link else { return };
    let Ok(Some(headers)) = wire::parse(event.packet, link) else { return };
    let decision = rules.decide(&headers.tuple, event.origin);
    let (Fate::Drop(_) | Fate::Reject(_)) = decision.fate else { return };
    let _ = write!(out, "\n{}", headers.tuple);
    if let Some((_, segment)) = decision.service {
        let _ = write!(out, "\nrule {}", String::from_utf8_lossy(segment.label()));
    }
}

/// The layers that a flow opened; `None` if its service port is gone or no longer dialled like that.
pub(crate) fn flow_path<M: AsRef<[u8]>>(rules: &RuleTable<M>, flow: &Flow) -> Option<Path> {
    let segment = rules.segment(flow.slot)?;
    let class = path::class_of(&segment, &flow.original)?;
    let dialled = (flow.original.destination, flow.original.destination_port);
    let backend = (flow.reply.source, flow.reply.source_port);
    Some(path::path(&segment, rules.node().as_ref(), class, dialled, Some(backend)))
}

/// Stories of forwarded packets, which are the same for all packets of a flow in one direction: told once, and again when
/// another flow took the place.
pub(crate) struct Stories {
    told: Vec<Told>,
    other: String,
}

#[derive(Clone, Default)]
struct Told {
    /// Flow, direction, tuples and slot: all that a story may hang on.
    about: Option<(FlowId, Direction, Tuple, Tuple, u32)>,
    story: String,
}

/// Flows and directions whose stories are kept; a power of two.
const STORIES: usize = 1 << 13;

impl Stories {
    pub(crate) fn new() -> Self {
        Self { told: vec![Told::default(); STORIES], other: String::new() }
    }

    /// The story of a packet.
    pub(crate) fn of<M: AsRef<[u8]>>(&mut self, event: &Event<'_>, rules: &RuleTable<M>) -> &str {
        let (Verdict::Forward { flow: id, direction }, Some(flow)) = (event.verdict, event.flow) else {
            self.other.clear();
            tell(event, rules, &mut self.other);
            return &self.other;
        };
        let about = Some((id, direction, flow.original, flow.reply, flow.slot));
        let place = (id.as_u32() as usize * 2 + usize::from(direction == Direction::Reply)) % STORIES;
        let told = &mut self.told[place];
        if told.about != about {
            told.about = about;
            told.story.clear();
            tell(event, rules, &mut told.story);
        }
        &told.story
    }
}
