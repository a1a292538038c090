//! The thread that owns the engine: devices in, devices out, and between two batches whatever the others ask of it.

use std::fs::File;
use std::io::BufWriter;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lb_core::flow::State;
use lb_core::rules::ApplyError;
use lb_core::{Balancer, Block, Config, Counters, Flow, Instant, RuleTable, Sizes, blocks};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Event;
use super::forward::Forwarder;
use super::journal::Journal;
use crate::clock::Clock;
use crate::device::{Device, Frame, Name, Received};
use crate::flow_log::{FlowLog, Moment};

/// Frames received at a time.
const BATCH: usize = 64;
/// Entries of the flow table that are looked at for their deadline after a batch, and when nothing else is to be done.
const SWEEP: usize = 64;
const IDLE_SWEEP: usize = 4096;
/// How long it may sleep.
const NAP: u16 = 250;
/// How often ends of flows are looked for, for the log.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// How long frames that are queued when it is to end may keep it busy.
const DRAIN: Duration = Duration::from_secs(1);

/// What the thread begins with.
pub(super) struct Setup {
    pub(super) devices: Vec<Name>,
    pub(super) config: Config,
    pub(super) sizes: Sizes,
    pub(super) rules: RuleTable<Vec<u8>>,
    /// Flows of an earlier data plane; of two that clash the first is taken.
    pub(super) flows: Vec<Flow>,
    pub(super) clock: Clock,
    pub(super) log: Option<PathBuf>,
    pub(super) journal: Option<Journal>,
}

/// What it can be asked.
enum Command {
    Apply(Vec<u8>, Sender<Result<(), ApplyError>>),
    Swap(Box<RuleTable<Vec<u8>>>),
    Counts(Sender<Counts>),
    Flows(Sender<Vec<Flow>>),
    End,
}

/// What was counted until now.
#[derive(Clone, Debug)]
pub struct Counts {
    /// By the engine.
    pub engine: Counters,
    /// Flows in the table.
    pub flows: u64,
    /// Those of them that are connections (TCP) and associations (SCTP) which nobody has ended.
    pub connections: u64,
    /// By each device, under its name.
    pub devices: Vec<(String, DeviceCounts)>,
}

/// Frames of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// That it could not take.
    pub dropped: u64,
}

/// The thread, as seen from the others.
pub(super) struct Worker {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: JoinHandle<anyhow::Result<Vec<Flow>>>,
    /// When it last was at work.
    pub(super) seen: Arc<AtomicU64>,
}

/// The thread does not answer: it has ended, for a reason that [`Worker::end`] tells.
#[derive(Debug, thiserror::Error)]
#[error("the data plane has ended")]
pub(super) struct Ended;

impl Worker {
    /// Starts it; devices are open and flows are back when this returns. Says how many flows are.
    ///
    /// # Errors
    /// A device can't be opened, or there is not enough memory.
    pub(super) fn start(setup: Setup, events: Sender<Event>) -> anyhow::Result<(Self, usize)> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let seen = Arc::new(AtomicU64::new(setup.clock.now().as_nanos()));
        let (commands, asked) = channel();
        let (ready, begun) = channel();
        let (waking, seen_by) = (wake.clone(), seen.clone());
        let thread = std::thread::Builder::new().name("data-plane".to_owned()).spawn(move || {
            let result = work(setup, &asked, &waking, &seen_by, &ready);
            // Nobody listens any more if all ends at once.
            let _ = events.send(Event::Ended);
            result
        })?;
        match begun.recv() {
            Ok(restored) => Ok((Self { commands, wake, thread, seen }, restored)),
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| Ended.into())),
        }
    }

    /// Applies a delta to the rules; packets see all of it or nothing.
    ///
    /// # Errors
    /// [`Ended`]; or within, why it was not applied.
    pub(super) fn apply(&self, delta: Vec<u8>) -> Result<Result<(), ApplyError>, Ended> {
        self.ask(|answer| Command::Apply(delta, answer))
    }

    /// Puts other rules in place of those in force.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn swap(&self, rules: RuleTable<Vec<u8>>) -> Result<(), Ended> {
        self.send(Command::Swap(rules.into()))
    }

    /// What was counted.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn counts(&self) -> Result<Counts, Ended> {
        self.ask(Command::Counts)
    }

    /// Every flow; those that begin later are in the journal.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn flows(&self) -> Result<Vec<Flow>, Ended> {
        self.ask(Command::Flows)
    }

    /// Has it finish what is queued and stop; the flows that it had.
    ///
    /// # Errors
    /// Why it had ended before.
    pub(super) fn end(self) -> anyhow::Result<Vec<Flow>> {
        // If it has ended already its result says why.
        let _ = self.send(Command::End);
        joined(self.thread)
    }

    fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).map_err(|_| Ended)?;
        self.wake.write(1).map(drop).map_err(|_| Ended)
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, Ended> {
        let (answer, answered) = channel();
        self.send(command(answer))?;
        answered.recv().map_err(|_| Ended)
    }
}

fn joined(thread: JoinHandle<anyhow::Result<Vec<Flow>>>) -> anyhow::Result<Vec<Flow>> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the data plane's thread panicked: please report this")))
}

/// A device at work.
struct Open {
    name: Name,
    device: Box<dyn Device>,
    counts: DeviceCounts,
    ended: bool,
}

impl Open {
    fn failed(&self) -> impl FnOnce() -> String + use<> {
        let name = self.name.to_string();
        move || name
    }

    /// Takes a batch through the engine and back. Whether there was one.
    fn turn(&mut self, now: Instant, frames: &mut [Frame], forwarder: &mut Forwarder<'_>) -> anyhow::Result<bool> {
        let count = match self.device.receive(frames).with_context(self.failed())? {
            Received::End => {
                self.ended = true;
                return Ok(false);
            }
            Received::Frames(0) => return Ok(false),
            Received::Frames(count) => count,
        };
        self.counts.received += count as u64;
        let leaving = forwarder.forward(now, &mut frames[..count]).context("the log of flows")?;
        for frames in [&frames[..leaving], forwarder.extra()] {
            let dropped = self.device.send(frames).with_context(self.failed())?;
            self.counts.sent += (frames.len() - dropped) as u64;
            self.counts.dropped += dropped as u64;
        }
        Ok(true)
    }
}

/// The thread.
fn work(
    setup: Setup,
    commands: &Receiver<Command>,
    wake: &EventFd,
    seen: &AtomicU64,
    ready: &Sender<usize>,
) -> anyhow::Result<Vec<Flow>> {
    let Setup { devices, config, sizes, rules, flows, clock, log, journal } = setup;
    let mut memory = memory(sizes)?;
    let mut forwarder = Forwarder::new(Balancer::new(config, sizes, &mut memory, rules)?);
    forwarder.balancer.expire(clock.now(), 0);
    let restored = flows.iter().filter(|flow| forwarder.balancer.restore(flow).is_ok()).count();
    forwarder.journal = journal;
    if let Some(path) = &log {
        let file = File::options().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        forwarder.log = Some(FlowLog::new(Box::new(BufWriter::new(file))));
    }
    let mut open = Vec::new();
    for name in devices {
        let device = name.open().with_context(|| name.to_string())?;
        open.push(Open { name, device, counts: DeviceCounts::default(), ended: false });
    }
    // Who started this waits for it.
    let _ = ready.send(restored);

    let mut frames: Vec<Frame> = (0..BATCH).map(|_| Frame::new()).collect();
    let (mut ending, mut logged) = (None, clock.now());
    loop {
        let now = clock.now();
        seen.store(now.as_nanos(), Ordering::Relaxed);
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::End => ending = Some(now.saturating_add(DRAIN)),
                command => answer(command, &mut forwarder, &open).context("the journal of flows")?,
            }
        }
        let mut busy = false;
        for device in open.iter_mut().filter(|device| !device.ended) {
            busy |= device.turn(now, &mut frames, &mut forwarder)?;
        }
        forwarder.balancer.expire(now, if busy { SWEEP } else { IDLE_SWEEP });
        if now.saturating_since(logged) >= LOG_EVERY {
            forwarder.log_ends(now).context("the log of flows")?;
            logged = now;
        }
        if open.iter().all(|device| device.ended) || ending.is_some_and(|latest| !busy || now >= latest) {
            break;
        }
        if !busy {
            sleep(&open, wake)?;
        }
    }
    let now = clock.now();
    forwarder.log_ends(now).context("the log of flows")?;
    if let Some(log) = &mut forwarder.log {
        log.open(Moment { origin: 0, now }).and_then(|()| log.flush()).context("the log of flows")?;
    }
    for Open { name, device, .. } in open {
        device.finish().with_context(|| name.to_string())?;
    }
    Ok(forwarder.balancer.flows().collect())
}

fn answer(command: Command, forwarder: &mut Forwarder<'_>, open: &[Open]) -> std::io::Result<()> {
    // Whoever asked may have gone in the meantime.
    match command {
        Command::Apply(delta, answer) => drop(answer.send(forwarder.balancer.apply_rules(&delta))),
        Command::Swap(rules) => drop(forwarder.balancer.swap_rules(*rules)),
        Command::Counts(answer) => {
            let devices = open.iter().map(|device| (device.name.to_string(), device.counts)).collect();
            let (mut flows, mut connections) = (0, 0);
            for flow in forwarder.balancer.flows() {
                flows += 1;
                connections += u64::from(is_connection(flow.state));
            }
            drop(answer.send(Counts { engine: forwarder.balancer.counters().clone(), flows, connections, devices }));
        }
        Command::Flows(answer) => {
            forwarder.journal.as_mut().map_or(Ok(()), Journal::turn)?;
            drop(answer.send(forwarder.balancer.flows().collect()));
        }
        Command::End => {}
    }
    Ok(())
}

/// Whether a flow in this state is one that somebody would miss.
fn is_connection(state: State) -> bool {
    use State::{
        CloseWait, Established, FinWait, LastAck, PickedUp, SctpEstablished, SctpOpening, SynReceived, SynSent,
    };
    matches!(
        state,
        SynSent | SynReceived | PickedUp | Established | FinWait | CloseWait | LastAck | SctpOpening | SctpEstablished
    )
}

/// Waits for frames or a command, and not for long.
fn sleep(open: &[Open], wake: &EventFd) -> anyhow::Result<()> {
    let live = || open.iter().filter(|device| !device.ended);
    if live().any(|device| device.device.readable().is_none()) {
        return Ok(());
    }
    let readable = live().filter_map(|device| device.device.readable()).chain([wake.as_fd()]);
    let mut waiting: Vec<_> = readable.map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
    match poll(&mut waiting, PollTimeout::from(NAP)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error).context("waiting for frames"),
    }
    // Empty is as good as read.
    let _ = wake.read();
    Ok(())
}

/// Memory for tables of these sizes.
fn memory(sizes: Sizes) -> anyhow::Result<Vec<Block>> {
    let count = blocks(sizes);
    let mut memory = Vec::new();
    if memory.try_reserve_exact(count).is_err() {
        let gigabytes = count as f64 * size_of::<Block>() as f64 / 1e9;
        let flows = sizes.v4_flows;
        anyhow::bail!(
            "{flows} flows of each family need {gigabytes:.1} GB, which can't be had: give fewer with --flows"
        );
    }
    memory.resize(count, Block::ZERO);
    Ok(memory)
}
