//! What became of a packet, in words.

use std::fmt::Write;

use lb_core::{Direction, DropReason, Flow, FlowId, Link, RejectReason, Tuple, Verdict};

/// A packet and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What the engine decided.
    pub verdict: Verdict,
    /// The flow it belongs to, if it was forwarded.
    pub flow: Option<&'a Flow>,
    /// Its bytes as they came in, from where `link` says on.
    pub packet: &'a [u8],
    /// What the first byte is part of; `None` if the engine does not know the link.
    pub link: Option<Link>,
}

/// The plain story: the verdict's word, and what was and what is, or why not.
pub fn tell(event: &Event<'_>, out: &mut String) {
    let code = event.verdict.code();
    out.push_str(Verdict::label(code).unwrap_or_default());
    // Writing to a string can't fail.
    let _ = match (event.verdict, event.flow) {
        (Verdict::Forward { direction, .. }, Some(flow)) => {
            let (before, after) = match direction {
                Direction::Original => (flow.original, flow.reply.reversed()),
                Direction::Reply => (flow.reply, flow.original.reversed()),
            };
            let undone = if direction == Direction::Reply { " undone" } else { "" };
            let snat = if flow.masqueraded { "+SNAT" } else { "" };
            write!(out, " (DNAT{snat}{undone}): {before} => {after}")
        }
        (Verdict::Drop(_), _) => write!(out, ": {}", DropReason::from_code(code).map_or("", DropReason::explanation)),
        (Verdict::Reject(_), _) => {
            write!(out, ": {}", RejectReason::from_code(code).map_or("", RejectReason::explanation))
        }
        _ => Ok(()),
    };
}

/// Stories of forwarded packets, which are the same for all packets of a flow in one direction: told once, and again when
/// another flow took the place.
pub(super) struct Stories<'o> {
    narrator: &'o dyn Fn(&Event<'_>, &mut String),
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

impl<'o> Stories<'o> {
    pub(super) fn new(narrator: &'o dyn Fn(&Event<'_>, &mut String)) -> Self {
        Self { narrator, told: vec![Told::default(); STORIES], other: String::new() }
    }

    /// The story of a packet.
    pub(super) fn of(&mut self, event: &Event<'_>) -> &str {
        let (Verdict::Forward { flow: id, direction }, Some(flow)) = (event.verdict, event.flow) else {
            self.other.clear();
            (self.narrator)(event, &mut self.other);
            return &self.other;
        };
        let about = Some((id, direction, flow.original, flow.reply, flow.slot));
        let place = (id.as_u32() as usize * 2 + usize::from(direction == Direction::Reply)) % STORIES;
        let told = &mut self.told[place];
        if told.about != about {
            told.about = about;
            told.story.clear();
            (self.narrator)(event, &mut told.story);
        }
        &told.story
    }
}
