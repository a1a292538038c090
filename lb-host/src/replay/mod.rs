//! A capture through the engine, at the capture's own clock.
//!
//! Every packet of the input is written under `ingress`, everything that leaves under `egress` with a comment that
//! tells what became of it; a packet that does not leave carries that comment under `ingress`. With
//! [`Options::reflect`], a captured reply of a tracked flow is replaced by the reply that the backend must have sent
//! (see `reflect.rs`), which must come out as the captured one.

mod diff;
pub mod golden;
mod outline;
mod reflect;
pub(crate) mod story;
mod summary;
mod sums;

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};

use lb_core::{Address, Balancer, Datagram, Direction, Flow, Instant, Meta, Origin, Packet, Tuple, Verdict};

use crate::device::capture::{ReadError, Reader, Record, Side, Writer};
use crate::device::link::engine_part;
use crate::flow_log::{FlowLog, Moment};
use outline::{DatagramName, Ends};
use reflect::{Reflection, Reflector, Seen};
use story::{Event, Stories, flow_path};

pub use summary::Summary;

/// How a capture is replayed.
#[derive(Default)]
pub struct Options<'a> {
    /// Whether replies that come from a Vip are replaced by what the backend sent.
    pub reflect: bool,
    /// Where a line of JSON goes for every flow that begins, and one when it ends or the capture does.
    pub log: Option<&'a mut dyn Write>,
    /// Whether only the summary and the log are wanted: nothing is put into `output` then.
    pub summary_only: bool,
}

/// Why a replay did not come to its end; the cause is the error's source. What was written until then is no whole
/// capture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input can't be read further.
    #[error("after {frames} packets")]
    Read {
        /// Packets read and replayed before.
        frames: u64,
        /// What is wrong.
        source: ReadError,
    },
    /// The output can't be written.
    #[error("cannot write the output")]
    Write(#[source] io::Error),
    /// The log can't be written.
    #[error("cannot write the flow log")]
    Log(#[source] io::Error),
}

/// Fragments kept until their first comes, and as many more until it is known whose replies they are. Reassembly
/// gives up sooner or later as well (RFC 791 §3.2); the oldest gives way.
const KEPT: usize = 1024;

/// Differing replies that are described; the rest are counted.
const DESCRIBED: usize = 8;

/// Replays a capture: reads `input` to its end (pcap or pcapng, plain or compressed), writes pcapng to `output`.
///
/// The engine's time is the capture's, counted from its first packet; where that steps back, the engine's stands still.
///
/// # Errors
/// [`Error`]. Everything before the place of the error has been replayed and written.
pub fn run<M: AsRef<[u8]>>(
    input: impl Read,
    output: impl Write,
    balancer: &mut Balancer<'_, M>,
    options: Options<'_>,
) -> Result<Summary, Error> {
    let mut reader = Reader::new(input).map_err(|source| Error::Read { frames: 0, source })?;
    let flows_before = balancer.counters().flows_created;
    let mut replay = Replay {
        writer: Writer::new(output).map_err(Error::Write)?,
        reflector: options.reflect.then(Reflector::new),
        stories: Stories::new(),
        log: options.log.map(FlowLog::new),
        writes: !options.summary_only,
        clock: Clock::default(),
        settled: [0; Verdict::CODES],
        opened: HashMap::new(),
        held: VecDeque::new(),
        waiting: VecDeque::new(),
        work: Vec::new(),
        reply: Vec::new(),
        comment: String::new(),
        summary: Summary::default(),
        balancer,
    };
    let end = loop {
        match reader.next_record() {
            Ok(Some(record)) => replay.captured(&record)?,
            Ok(None) => break Ok(()),
            Err(source) => break Err(Error::Read { frames: replay.summary.packets, source }),
        }
    };
    replay.give_up_waiting(0)?;
    replay.give_up_held(0);
    replay.summary.flows = replay.balancer.counters().flows_created - flows_before;
    replay.finish(end)
}

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy)]
struct Frame {
    /// Its number in the input, from 1.
    number: u64,
    time: u64,
    link_type: u16,
    original_length: u32,
}

/// A packet put aside.
struct Kept {
    frame: Frame,
    bytes: Vec<u8>,
    /// For a made reply: what must come out.
    captured: Option<Vec<u8>>,
}

/// An address and a port.
type Socket = (Address, u16);

struct Replay<'a, 'o, 'm, M, W: Write> {
    balancer: &'a mut Balancer<'m, M>,
    writer: Writer<W>,
    reflector: Option<Reflector>,
    stories: Stories,
    log: Option<FlowLog<&'o mut dyn Write>>,
    /// Whether anybody wants the output.
    writes: bool,
    clock: Clock,
    /// Packets by the code of the verdict that was their last.
    settled: [u64; Verdict::CODES],
    /// Flows begun, by all that their path hangs on: one of each, and how many.
    opened: HashMap<(u32, Socket, Socket), (Flow, u64)>,
    /// Fragments that the engine asked to hold.
    held: VecDeque<(Datagram, Kept)>,
    /// Fragments that may be of replies.
    waiting: VecDeque<(DatagramName, Kept)>,
    /// The packet that the engine works on.
    work: Vec<u8>,
    reply: Vec<u8>,
    comment: String,
    summary: Summary,
}

impl<M: AsRef<[u8]>, W: Write> Replay<'_, '_, '_, M, W> {
    /// A packet of the input.
    fn captured(&mut self, record: &Record<'_>) -> Result<(), Error> {
        self.summary.packets += 1;
        let time = self.clock.advance(record.time);
        let Record { link_type, original_length, .. } = *record;
        let frame = Frame { number: self.summary.packets, time, link_type, original_length };
        // A little work often: no packet waits for a sweep of the whole table.
        if frame.number.is_multiple_of(64) {
            self.balancer.expire(self.clock.now, 256);
        }
        if frame.number.is_multiple_of(4096) {
            self.log_ends()?;
        }
        match self.reflector {
            None => self.submit(frame, record.data, None),
            Some(_) => self.reflect(frame, record.data),
        }
    }

    /// Submits a captured packet, or the reply it stands for.
    fn reflect(&mut self, frame: Frame, captured: &[u8]) -> Result<(), Error> {
        let (Some(reflector), Some((strip, link))) = (&mut self.reflector, engine_part(frame.link_type, captured))
        else {
            return self.submit(frame, captured, None);
        };
        let (head, packet) = captured.split_at(strip);
        let (reflection, first_of) = reflector.ask(packet, link, is_live(self.balancer, self.clock.now));
        if let Some(datagram) = first_of {
            // In the order of capture: later fragments that came first are held by the engine, too.
            for kept in take(&mut self.waiting, &datagram) {
                self.reflect(kept.frame, &kept.bytes)?;
            }
        }
        match reflection {
            Reflection::None => self.submit(frame, captured, None),
            Reflection::Made(made) => {
                self.summary.reflected += 1;
                self.submit(frame, &[head, &made].concat(), Some(captured))
            }
            Reflection::Wait(datagram) => {
                self.give_up_waiting(KEPT - 1)?;
                self.waiting.push_back((datagram, Kept { frame, bytes: captured.to_vec(), captured: None }));
                Ok(())
            }
        }
    }

    /// Submits a packet for the first time.
    fn submit(&mut self, frame: Frame, bytes: &[u8], captured: Option<&[u8]>) -> Result<(), Error> {
        let released = self.judge(frame, bytes, captured, true)?;
        for kept in released.map(|datagram| take(&mut self.held, &datagram)).unwrap_or_default() {
            self.judge(kept.frame, &kept.bytes, kept.captured.as_deref(), false)?;
        }
        Ok(())
    }

    /// Has the engine judge a packet and writes down what becomes of it. Says which held fragments may be submitted
    /// again.
    fn judge(
        &mut self,
        frame: Frame,
        bytes: &[u8],
        captured: Option<&[u8]>,
        is_new: bool,
    ) -> Result<Option<Datagram>, Error> {
        let now = self.clock.now;
        self.work.clear();
        self.work.extend_from_slice(bytes);
        let (strip, link) = match engine_part(frame.link_type, bytes) {
            Some((strip, link)) => (strip, Some(link)),
            None => (0, None),
        };
        let mut packet =
            Packet::new(&mut self.work[strip..], Meta { link: link.unwrap_or_default(), ..Meta::default() });
        let begun_before = self.balancer.counters().flows_created;
        let verdict = match link {
            Some(_) => self.balancer.process(now, &mut packet),
            None => Verdict::Pass,
        };
        let begins = self.balancer.counters().flows_created != begun_before;
        let releases = packet.releases;
        let mut answered = None;
        if let Verdict::Reject(reason) = verdict {
            const ROOM: usize = 2048;
            self.reply.clear();
            self.reply.extend_from_slice(&bytes[..strip]);
            self.reply.resize(strip + ROOM, 0);
            answered = self.balancer.write_reply(now, &packet, reason, &mut self.reply[strip..]);
        }
        let flow = match verdict {
            // Most packets are told nothing of.
            Verdict::Forward { flow, .. } if begins || self.writes || self.log.is_some() => self.balancer.flow(flow),
            _ => None,
        };

        let rules = self.balancer.rules();
        if self.writes {
            let event = Event { verdict, flow: flow.as_ref(), packet: &bytes[strip..], link, origin: Origin::Wire };
            let leaves = matches!(verdict, Verdict::Pass | Verdict::Accept | Verdict::Forward { .. });
            let Self { writer, comment, stories, .. } = self;
            if is_new {
                comment.clear();
                if captured.is_some() {
                    comment.push_str("reflect of frame ");
                    comment.push_str(&frame.number.to_string());
                }
                if !leaves {
                    comment.push_str(if comment.is_empty() { "" } else { "\n" });
                    comment.push_str(stories.of(&event, rules));
                }
                writer.write(Side::Ingress, &frame.record(bytes), comment).map_err(Error::Write)?;
            }
            if leaves {
                writer
                    .write(Side::Egress, &frame.record(&self.work), stories.of(&event, rules))
                    .map_err(Error::Write)?;
            }
            if let Some(length) = answered {
                comment.clear();
                comment.push_str("answer to frame ");
                comment.push_str(&frame.number.to_string());
                comment.push('\n');
                comment.push_str(stories.of(&event, rules));
                let reply = &self.reply[..strip + length];
                let record = Record { original_length: reply.len() as u32, ..frame.record(reply) };
                writer.write(Side::Egress, &record, comment).map_err(Error::Write)?;
            }
        }

        if let Some(flow) = flow.filter(|_| begins) {
            let Flow { slot, original, reply, .. } = flow;
            let path = (slot, (original.destination, original.destination_port), (reply.source, reply.source_port));
            self.opened.entry(path).or_insert((flow, 0)).1 += 1;
        }
        if let (Some(log), Some(flow)) = (&mut self.log, &flow)
            && let Verdict::Forward { flow: id, .. } = verdict
        {
            log.packet(Some(frame.number), self.clock.moment(), id, flow).map_err(Error::Log)?;
        }
        if let (Some(reflector), Verdict::Forward { flow, direction: Direction::Original }, Some(link)) =
            (&mut self.reflector, verdict, link)
        {
            reflector.learn(&bytes[strip..], &self.work[strip..], link, flow, is_live(self.balancer, now));
        }
        if let Verdict::Hold(datagram) = verdict {
            self.give_up_held(KEPT - 1);
            let captured = captured.map(<[u8]>::to_vec);
            self.held.push_back((datagram, Kept { frame, bytes: bytes.to_vec(), captured }));
            return Ok(releases);
        }
        self.settled[usize::from(verdict.code())] += 1;
        if let Some(captured) = captured {
            self.compare(frame, verdict, captured);
        }
        Ok(releases)
    }

    /// Whether a made reply came out as it was captured: it is what the engine last worked on.
    fn compare(&mut self, frame: Frame, verdict: Verdict, captured: &[u8]) {
        let is_reply = matches!(verdict, Verdict::Forward { direction: Direction::Reply, .. });
        if is_reply && self.work == captured {
            self.summary.identical += 1;
        } else if self.summary.differences.len() < DESCRIBED {
            let label = Verdict::label(verdict.code()).unwrap_or_default();
            let diff = diff::packets(captured, &self.work, frame.link_type);
            self.summary.differences.push(format!(
                "frame {}: the reply that was made for it came out different, with the verdict {label}\n{diff}",
                frame.number
            ));
        }
    }

    /// Replays the oldest waiting fragments as they were captured, until this many are left.
    fn give_up_waiting(&mut self, left: usize) -> Result<(), Error> {
        while self.waiting.len() > left
            && let Some((_, kept)) = self.waiting.pop_front()
        {
            self.submit(kept.frame, &kept.bytes, None)?;
        }
        Ok(())
    }

    /// Drops the oldest held fragments, until this many are left.
    fn give_up_held(&mut self, left: usize) {
        while self.held.len() > left
            && let Some((datagram, kept)) = self.held.pop_front()
        {
            let verdict = Verdict::Hold(datagram);
            self.settled[usize::from(verdict.code())] += 1;
            if let Some(captured) = kept.captured {
                self.work = kept.bytes;
                self.compare(kept.frame, verdict, &captured);
            }
        }
    }

    fn log_ends(&mut self) -> Result<(), Error> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.ends(self.clock.moment(), |id| self.balancer.flow(id)).map_err(Error::Log)
    }

    fn finish(mut self, end: Result<(), Error>) -> Result<Summary, Error> {
        self.log_ends()?;
        if let Some(log) = &mut self.log {
            log.open(self.clock.moment()).map_err(Error::Log)?;
        }
        for (code, count) in self.settled.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.summary.count(code as u8, *count);
        }
        for (flow, count) in self.opened.values() {
            if let Some(path) = flow_path(self.balancer.rules(), flow) {
                *self.summary.paths.entry(path.to_string()).or_default() += count;
            }
        }
        self.writer.finish().map_err(Error::Write)?;
        end.map(|()| self.summary)
    }
}

impl Frame {
    fn record<'b>(&self, data: &'b [u8]) -> Record<'b> {
        let Self { time, link_type, original_length, .. } = *self;
        Record { time: Some(time), link_type, original_length, data }
    }
}

/// The engine's time as the capture tells it.
#[derive(Default)]
struct Clock {
    /// The capture's time at the engine's origin.
    origin: Option<u64>,
    /// The last time told.
    last: u64,
    now: Instant,
}

impl Clock {
    /// Goes on to a packet's time, unless that is in the past; a packet without one came with the one before. Returns its
    /// time.
    fn advance(&mut self, time: Option<u64>) -> u64 {
        let time = time.unwrap_or(self.last);
        let origin = *self.origin.get_or_insert(time);
        self.last = time;
        self.now = self.now.max(Instant::from_nanos(time.saturating_sub(origin)));
        time
    }

    fn moment(&self) -> Moment {
        Moment { origin: self.origin.unwrap_or_default(), now: self.now }
    }
}

/// Whether the engine still knows a flow that was seen.
fn is_live<'b, M: AsRef<[u8]>>(balancer: &'b Balancer<'_, M>, now: Instant) -> impl Fn(&Seen) -> bool + 'b {
    move |seen| {
        let Ends { protocol, source, destination } = seen.ingress;
        let original = Tuple {
            source: source.ip().into(),
            destination: destination.ip().into(),
            source_port: source.port(),
            destination_port: destination.port(),
            protocol: lb_core::Protocol(protocol),
            zone: 0,
        };
        balancer.flow(seen.flow).is_some_and(|flow| flow.original == original && now < flow.deadline)
    }
}

/// Takes what was kept under this name, in order.
fn take<N: PartialEq>(kept: &mut VecDeque<(N, Kept)>, name: &N) -> Vec<Kept> {
    let (taken, rest): (Vec<_>, Vec<_>) = kept.drain(..).partition(|(of, _)| of == name);
    kept.extend(rest);
    taken.into_iter().map(|(_, kept)| kept).collect()
}
