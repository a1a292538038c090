//! What became of a packet, in words.

use std::fmt::Write;

use lb_core::{Direction, DropReason, Flow, Link, RejectReason, Verdict};

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
            write!(out, ": {before} => {after}")
        }
        (Verdict::Drop(_), _) => write!(out, ": {}", DropReason::from_code(code).map_or("", DropReason::explanation)),
        (Verdict::Reject(_), _) => {
            write!(out, ": {}", RejectReason::from_code(code).map_or("", RejectReason::explanation))
        }
        _ => Ok(()),
    };
}
