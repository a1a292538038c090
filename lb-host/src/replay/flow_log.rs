//! One line of JSON for every flow that begins, and one when it ends: `end`, or `open` if the capture ends first.

use std::collections::HashMap;
use std::io::{self, Write};

use lb_core::{Flow, FlowId, Tuple};
use serde::Serialize;

use super::Clock;

/// Writes the log. Beginnings are written as they happen; ends when they are noticed, with the time when they
/// happened.
pub(super) struct FlowLog<'a> {
    out: &'a mut dyn Write,
    /// Flows that have begun and were not seen to end, each as it was at its last packet.
    live: HashMap<Tuple, (FlowId, Flow)>,
}

#[derive(Serialize)]
struct Line {
    event: &'static str,
    /// Seconds since 1970, in decimal: a JSON number would lose nanoseconds.
    time: String,
    /// The packet that began it.
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u64>,
    /// From the client to the Vip.
    original: String,
    /// The same packet as it leaves.
    translated: String,
    masqueraded: bool,
    /// From the client, from the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<[u32; 2]>,
}

impl<'a> FlowLog<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, live: HashMap::new() }
    }

    /// A packet of this flow was forwarded.
    pub(super) fn packet(&mut self, frame: u64, clock: &Clock, id: FlowId, flow: &Flow) -> io::Result<()> {
        if let Some((before, was)) = self.live.insert(flow.original, (id, *flow)) {
            if before == id && was.reply == flow.reply {
                return Ok(());
            }
            self.end(clock, &was)?;
        }
        self.line("new", clock.capture_time(clock.now), flow, Some(frame), None)
    }

    /// Writes the ends of the flows that are no more, in the order in which they ended.
    pub(super) fn ends(&mut self, clock: &Clock, flow: impl Fn(FlowId) -> Option<Flow>) -> io::Result<()> {
        let is_over = |original: &Tuple, (id, was): &(FlowId, Flow)| {
            was.deadline <= clock.now || flow(*id).is_none_or(|flow| flow.original != *original)
        };
        let mut ended: Vec<Flow> =
            self.live.extract_if(|original, live| is_over(original, live)).map(|(_, (_, flow))| flow).collect();
        ended.sort_unstable_by_key(|flow| (flow.deadline.min(clock.now), flow.original));
        ended.iter().try_for_each(|flow| self.end(clock, flow))
    }

    /// Writes the flows that are still there when the capture is over, with the time of its end.
    pub(super) fn open(&mut self, clock: &Clock) -> io::Result<()> {
        let mut open: Vec<Flow> = self.live.drain().map(|(_, (_, flow))| flow).collect();
        open.sort_unstable_by_key(|flow| flow.original);
        let time = clock.capture_time(clock.now);
        open.iter().try_for_each(|flow| self.line("open", time, flow, None, Some(flow.packets)))
    }

    fn end(&mut self, clock: &Clock, flow: &Flow) -> io::Result<()> {
        let time = clock.capture_time(flow.deadline.min(clock.now));
        self.line("end", time, flow, None, Some(flow.packets))
    }

    fn line(
        &mut self,
        event: &'static str,
        time: u64,
        flow: &Flow,
        frame: Option<u64>,
        packets: Option<[u32; 2]>,
    ) -> io::Result<()> {
        let line = Line {
            event,
            time: format!("{}.{:09}", time / 1_000_000_000, time % 1_000_000_000),
            frame,
            original: flow.original.to_string(),
            translated: flow.leaves().to_string(),
            masqueraded: flow.masqueraded,
            packets,
        };
        serde_json::to_writer(&mut *self.out, &line)?;
        self.out.write_all(b"\n")
    }
}
