//! One line of JSON for every flow that begins and every flow that ends.

use std::collections::HashMap;
use std::io::{self, Write};

use lb_core::{Flow, FlowId, Instant, Tuple};
use serde::Serialize;

/// Writes the log. Beginnings are written as they happen; ends when they are noticed, with the time when they
/// happened.
pub(super) struct FlowLog<'a> {
    out: &'a mut dyn Write,
    live: HashMap<Tuple, Live>,
}

/// A flow that has begun and was not seen to end.
struct Live {
    id: FlowId,
    /// As it was at its last packet.
    flow: Flow,
    /// The capture's time then, in nanoseconds, and the engine's would be `flow.deadline` less the idle time.
    time: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'a str,
    /// Seconds since 1970, in decimal: a JSON number would lose nanoseconds.
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u64>,
    /// From the client to the Vip.
    original: String,
    /// The same packet as it left.
    translated: String,
    masqueraded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<[u32; 2]>,
}
