//! One line of JSON for every flow that begins, and one when it ends: `end`, or `open` if the log ends first. The same
//! for a replayed capture and for live traffic.

use std::collections::HashMap;
use std::io::{self, Write};

use lb_core::{Flow, FlowId, Instant, Tuple};
use serde::Serialize;

/// The engine's time, and what its origin is on the clock that the log is written by.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Nanoseconds since 1970 at the engine's origin.
    pub origin: u64,
    /// The engine's time.
    pub now: Instant,
}

impl Moment {
    fn at(self, instant: Instant) -> u64 {
        self.origin.saturating_add(instant.as_nanos())
    }
}

/// Writes the log. Beginnings are written as they happen; ends when they are noticed, with the time when they
/// happened.
pub struct FlowLog<W> {
    out: W,
    /// Flows that have begun and were not seen to end, each as it was at its last packet.
    live: HashMap<Tuple, (FlowId, Flow)>,
}

#[derive(Serialize)]
struct Line {
    event: &'static str,
    /// Seconds since 1970, in decimal: a JSON number would lose nanoseconds.
    time: String,
    /// The packet of the capture that began it.
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

impl<W: Write> FlowLog<W> {
    /// A log without lines.
    pub fn new(out: W) -> Self {
        Self { out, live: HashMap::new() }
    }

    /// A packet of this flow was forwarded: the one of this number in a capture.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn packet(&mut self, frame: Option<u64>, moment: Moment, id: FlowId, flow: &Flow) -> io::Result<()> {
        if let Some((before, was)) = self.live.insert(flow.original, (id, *flow)) {
            if before == id && was.reply == flow.reply {
                return Ok(());
            }
            self.end(moment, &was)?;
        }
        self.line("new", moment.at(moment.now), flow, frame, None)
    }

    /// Writes the ends of the flows that are no more, in the order in which they ended.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn ends(&mut self, moment: Moment, flow: impl Fn(FlowId) -> Option<Flow>) -> io::Result<()> {
        // What a flow came to is kept while it can still be asked for.
        let is_over = |original: &Tuple, (id, was): &mut (FlowId, Flow)| match flow(*id) {
            Some(flow) if flow.original == *original => {
                *was = flow;
                was.deadline <= moment.now
            }
            _ => true,
        };
        let mut ended: Vec<Flow> =
            self.live.extract_if(|original, live| is_over(original, live)).map(|(_, (_, flow))| flow).collect();
        ended.sort_unstable_by_key(|flow| (flow.deadline.min(moment.now), flow.original));
        ended.iter().try_for_each(|flow| self.end(moment, flow))
    }

    /// Writes the flows that are still there when all is over, with the time of its end.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn open(&mut self, moment: Moment) -> io::Result<()> {
        let mut open: Vec<Flow> = self.live.drain().map(|(_, (_, flow))| flow).collect();
        open.sort_unstable_by_key(|flow| flow.original);
        let time = moment.at(moment.now);
        open.iter().try_for_each(|flow| self.line("open", time, flow, None, Some(flow.packets)))
    }

    /// Hands on what was written so far.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn end(&mut self, moment: Moment, flow: &Flow) -> io::Result<()> {
        let time = moment.at(flow.deadline.min(moment.now));
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
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }
}
