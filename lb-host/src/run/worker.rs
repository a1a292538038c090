//! A thread that owns an engine: devices in, devices out, and between two batches whatever the others ask of it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lb_core::flow::State;
use lb_core::rules::ApplyError;
use lb_core::{Balancer, Block, Config, Flow, RuleTable, Share, Sizes, blocks};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::Event;
use super::forward::Forwarder;
use super::journal::Journal;
use super::lines::Lines;
use super::queue::{BATCH, Belts, Queue};
use crate::clock::Clock;
use crate::device::{Device, Frame, Name};
use crate::flow_log::FlowLog;
use crate::metrics::Counts;

/// Entries of the flow table that are looked at for their deadline after a batch, and when nothing else is to be done.
const SWEEP: usize = 64;
const IDLE_SWEEP: usize = 4096;
/// How long it may sleep.
const NAP: u16 = 250;
/// How often ends of flows are looked for, for the log.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// How long frames that are queued when it is to end may keep it busy.
const DRAIN: Duration = Duration::from_secs(1);

/// What every worker begins with.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) devices: Vec<Name>,
    /// How they share the clients; each is told its own number besides.
    pub(super) config: Config,
    pub(super) sizes: Sizes,
    pub(super) rules: RuleTable<Vec<u8>>,
    /// Flows of an earlier data plane; of two that clash the first is taken.
    pub(super) flows: Arc<[Flow]>,
    pub(super) clock: Clock,
    pub(super) log: Option<Lines>,
    pub(super) journal: Option<Arc<Mutex<Journal>>>,
    /// When each was last at work.
    pub(super) seen: Arc<[AtomicU64]>,
}

/// What one of several has for itself.
pub(super) struct Place {
    /// Which it is, from 0.
    pub(super) number: usize,
    /// By device.
    pub(super) belts: Vec<Belts>,
    /// What wakes each.
    pub(super) wakes: Vec<Arc<EventFd>>,
}

/// What it can be asked.
pub(super) enum Command {
    Apply(Vec<u8>, Sender<Result<(), ApplyError>>),
    Swap(Box<RuleTable<Vec<u8>>>),
    Counts(Sender<Counts>),
    Flows(Sender<Vec<Flow>>),
    End,
}

/// The thread, as seen from the others.
pub(super) struct Worker {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: JoinHandle<anyhow::Result<Vec<Flow>>>,
}

/// The thread does not answer: it has ended, for a reason that [`Worker::joined`] tells.
#[derive(Debug, thiserror::Error)]
#[error("the data plane has ended")]
pub(super) struct Ended;

impl Worker {
    /// Starts it; its queues are open and flows are back when this returns. Says how many flows are.
    ///
    /// # Errors
    /// A device can't be opened, or there is not enough memory.
    pub(super) fn start(setup: Setup, place: Place, events: Sender<Event>) -> anyhow::Result<(Self, usize)> {
        let wake = place.wakes[place.number].clone();
        let (commands, asked) = channel();
        let (ready, begun) = channel();
        let thread = std::thread::Builder::new().name(format!("worker-{}", place.number)).spawn(move || {
            let result = work(setup, place, &asked, &ready);
            // Nobody listens any more if all ends at once.
            let _ = events.send(Event::Ended);
            result
        })?;
        match begun.recv() {
            Ok(restored) => Ok((Self { commands, wake, thread }, restored)),
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| Ended.into())),
        }
    }

    /// Has it do something.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn send(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).map_err(|_| Ended)?;
        self.wake.write(1).map(drop).map_err(|_| Ended)
    }

    /// Asks it something; the answer comes.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<Receiver<T>, Ended> {
        let (answer, answered) = channel();
        self.send(command(answer))?;
        Ok(answered)
    }

    /// Waits for its end; the flows that it had.
    ///
    /// # Errors
    /// Why it ended.
    pub(super) fn joined(self) -> anyhow::Result<Vec<Flow>> {
        joined(self.thread)
    }
}

fn joined(thread: JoinHandle<anyhow::Result<Vec<Flow>>>) -> anyhow::Result<Vec<Flow>> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the data plane's thread panicked: please report this")))
}

/// The thread.
fn work(setup: Setup, place: Place, commands: &Receiver<Command>, ready: &Sender<usize>) -> anyhow::Result<Vec<Flow>> {
    let Setup { devices, config, sizes, rules, flows, clock, log, journal, seen } = setup;
    let Place { number, belts, wakes } = place;
    let mut memory = memory(sizes)?;
    let share = Share { core: number as u16, ..config.share };
    let config = Config { share, seed: config.seed.wrapping_add(number as u64), ..config };
    let mut forwarder = Forwarder::new(Balancer::new(config, sizes, &mut memory, rules)?);
    forwarder.balancer.expire(clock.now(), 0);
    let restored = flows.iter().filter(|flow| forwarder.balancer.restore(flow).is_ok()).count();
    drop(flows);
    forwarder.journal = journal;
    forwarder.log = log.map(FlowLog::new);
    let queues = devices.into_iter().zip(belts).map(|(name, belts)| Queue::open(name, belts));
    let mut queues = queues.collect::<anyhow::Result<Vec<_>>>()?;
    // Who started this waits for it.
    let _ = ready.send(restored);

    let mut frames: Vec<Frame> = (0..BATCH).map(|_| Frame::new()).collect();
    let (mut ending, mut logged) = (None, clock.now());
    loop {
        let now = clock.now();
        seen[number].store(now.as_nanos(), Ordering::Relaxed);
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::End => ending = Some(now.saturating_add(DRAIN)),
                command => answer(command, &mut forwarder, &queues),
            }
        }
        let mut busy = false;
        for queue in queues.iter_mut().filter(|queue| !queue.ended) {
            busy |= queue.turn(now, &mut frames, &mut forwarder, &wakes)?;
        }
        forwarder.balancer.expire(now, if busy { SWEEP } else { IDLE_SWEEP });
        if now.saturating_since(logged) >= LOG_EVERY {
            forwarder.log_ends(now);
            logged = now;
        }
        if queues.iter().all(|queue| queue.ended) || ending.is_some_and(|latest| !busy || now >= latest) {
            break;
        }
        if !busy {
            sleep(&queues, &wakes[number])?;
        }
    }
    let now = clock.now();
    forwarder.log_ends(now);
    forwarder.log_open(now);
    queues.into_iter().try_for_each(Queue::finish)?;
    Ok(forwarder.balancer.flows().collect())
}

fn answer(command: Command, forwarder: &mut Forwarder<'_>, queues: &[Queue]) {
    // Whoever asked may have gone in the meantime.
    match command {
        Command::Apply(delta, answer) => drop(answer.send(forwarder.balancer.apply_rules(&delta))),
        Command::Swap(rules) => drop(forwarder.balancer.swap_rules(*rules)),
        Command::Counts(answer) => {
            let devices = queues.iter().map(|queue| (queue.name(), queue.counts)).collect();
            let (mut flows, mut connections) = (0, 0);
            for flow in forwarder.balancer.flows() {
                flows += 1;
                connections += u64::from(is_connection(flow.state));
            }
            drop(answer.send(Counts { engine: forwarder.balancer.counters().clone(), flows, connections, devices }));
        }
        Command::Flows(answer) => drop(answer.send(forwarder.balancer.flows().collect())),
        Command::End => {}
    }
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
fn sleep(queues: &[Queue], wake: &EventFd) -> anyhow::Result<()> {
    let live = || queues.iter().filter(|queue| !queue.ended).map(Queue::device);
    if live().any(|device| device.readable().is_none()) {
        return Ok(());
    }
    let readable = live().filter_map(Device::readable).chain([wake.as_fd()]);
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
