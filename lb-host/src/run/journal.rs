//! The flow table in files, so that a data plane that is started again knows every flow.
//!
//! ```text
//! FILE               all flows, written anew every few seconds, at once under its name
//! FILE.journal       a line for every flow that began since, written before its first packet leaves
//! FILE.journal.old   the same from before, while FILE is being written
//! FILE.key           how clients are shared out, where there are several workers
//! ```
//! A process that is killed leaves the three as they are; the next reads them in the order FILE, old, journal, and of two
//! lines about one pair of ends the later holds. A line is a JSON object. Times are seconds since 1970.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_core::flow::State;
use lb_core::{Flow, Instant, Timeouts, Tuple};
use serde::{Deserialize, Serialize};

use super::unwritten::Unwritten;
use crate::clock;
use crate::device::capture::Output;
use crate::dialled;

/// Where flows are written down while they begin.
pub(super) struct Journal {
    path: PathBuf,
    out: BufWriter<File>,
    unwritten: Unwritten,
}

/// A flow in words.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    original: String,
    reply: String,
    state: String,
    /// In nanoseconds since 1970.
    deadline: u64,
    #[serde(default)]
    masqueraded: bool,
    #[serde(default)]
    direct: bool,
    packets: [u32; 2],
}

/// A file of flows can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FlowFileError {
    /// It can't be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which one.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// A line is no flow.
    #[error("{path}:{line}: is no flow: {reason}; remove the line, or the file if it is not one of `lb run`'s")]
    Line {
        /// Which file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

const STATES: [State; 14] = [
    State::SynSent,
    State::SynReceived,
    State::PickedUp,
    State::Established,
    State::FinWait,
    State::CloseWait,
    State::LastAck,
    State::TimeWait,
    State::Close,
    State::Unreplied,
    State::Stream,
    State::SctpOpening,
    State::SctpEstablished,
    State::SctpClosing,
];

impl Line {
    fn of(flow: &Flow) -> Self {
        Self {
            original: flow.original.to_string(),
            reply: flow.reply.to_string(),
            state: format!("{:?}", flow.state),
            deadline: flow.deadline.as_nanos(),
            masqueraded: flow.masqueraded,
            direct: flow.direct,
            packets: flow.packets,
        }
    }

    fn flow(&self) -> Result<Flow, String> {
        let tuple = |text: &str| dialled::parse(text).map_err(|error| error.to_string());
        let state = STATES.into_iter().find(|state| format!("{state:?}") == self.state);
        Ok(Flow {
            original: tuple(&self.original)?,
            reply: tuple(&self.reply)?,
            state: state.ok_or_else(|| format!("{:?} is no state", self.state))?,
            deadline: Instant::from_nanos(self.deadline),
            masqueraded: self.masqueraded,
            direct: self.direct,
            packets: self.packets,
            slot: u32::MAX,
        })
    }
}

fn write(out: &mut impl Write, flow: &Flow) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line::of(flow))?;
    out.write_all(b"\n")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(path: &Path) -> impl Fn(io::Error) -> FlowFileError {
    let path = path.display().to_string();
    move |error| FlowFileError::Io { path: path.clone(), error }
}

impl Journal {
    /// Begins an empty journal beside the file of flows `path`, where all is that an earlier one had.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn open(path: &Path, unwritten: Unwritten) -> Result<Self, FlowFileError> {
        let journal = beside(path, ".journal");
        let file = File::create(&journal).map_err(failed(&journal))?;
        Ok(Self { path: path.to_path_buf(), out: BufWriter::new(file), unwritten })
    }

    /// Adds a flow. Where there is no room the next [`save`] has it, once there is.
    pub(super) fn add(&mut self, flow: &Flow) {
        let mut line = Vec::new();
        // Whole or not at all, and what the file took half of goes on where that ends.
        let added = write(&mut line, flow).and_then(|()| self.out.write_all(&line));
        added.unwrap_or_else(|error| self.unwritten.add(1, &error));
    }

    /// Hands the lines to the system, which keeps them whatever becomes of this process. What it doesn't take now is tried again
    /// with the next.
    pub(super) fn flush(&mut self) {
        let _ = self.out.flush();
    }

    /// Begins an empty journal: what is in this one is about to be in the file. While an old one is still there, which
    /// says that the file is not yet written, this one goes on.
    ///
    /// # Errors
    /// The new one can't be begun.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let (journal, old) = (beside(&self.path, ".journal"), beside(&self.path, ".journal.old"));
        self.out.flush()?;
        if old.exists() {
            return Ok(());
        }
        fs::rename(&journal, &old)?;
        match File::options().append(true).create(true).open(&journal) {
            Ok(file) => self.out = BufWriter::new(file),
            // Lines go on to where the name went: to be found there it has to go back.
            Err(error) => return fs::rename(&old, &journal).and(Err(error)),
        }
        Ok(())
    }
}

/// The key by which clients are shared out between workers, kept beside the file of flows: a flow has to come back to the worker that
/// its ports tell.
///
/// # Errors
/// It can't be read or written, or is none.
pub(super) fn key(path: &Path) -> Result<[u8; 16], FlowFileError> {
    let path = beside(path, ".key");
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "is no key: 32 hexadecimal digits; remove the file");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let key = (text.len() == 32).then(|| u128::from_str_radix(&text, 16).ok()).flatten();
            key.map(u128::to_be_bytes).ok_or_else(|| failed(&path)(invalid()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = clock::random().map_err(failed(&path))?;
            let written = Output::secret(&path).and_then(|mut file| {
                write!(file, "{:032x}", u128::from_be_bytes(key))?;
                file.publish()
            });
            written.map_err(failed(&path)).map(|()| key)
        }
        Err(error) => Err(failed(&path)(error)),
    }
}

/// Writes all flows to `path`, which replaces what was there in one step; the old journal goes.
///
/// # Errors
/// It can't be written; what was there is as it was.
pub(super) fn save(path: &Path, flows: &[Flow]) -> Result<(), FlowFileError> {
    let mut out = Output::create(path).map_err(failed(path))?;
    flows.iter().try_for_each(|flow| write(&mut out, flow)).map_err(failed(path))?;
    out.publish().map_err(failed(path))?;
    match fs::remove_file(beside(path, ".journal.old")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// No flow stays longer than this after its last packet.
const LONGEST: Duration = Timeouts::LINUX.tcp_established;

/// The flows that a data plane left behind and whose time has not passed, the latest first. If the clock has gone back since, none
/// stays for longer than it may.
///
/// # Errors
/// Something is there that can't be read. The last line of a journal may have been cut by a crash of the machine, and is then
/// left out.
pub(super) fn load(path: &Path, now: Instant) -> Result<Vec<Flow>, FlowFileError> {
    let mut flows: HashMap<Tuple, (usize, Flow)> = HashMap::new();
    let mut count = 0;
    for (suffix, is_journal) in [("", false), (".journal.old", true), (".journal", true)] {
        let path = beside(path, suffix);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.map_err(failed(&path))?,
        };
        let mut lines = BufReader::new(file).lines().enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let line = line.map_err(failed(&path))?;
            let read = serde_json::from_str::<Line>(&line).map_err(|error| error.to_string());
            match read.and_then(|line| line.flow()) {
                Ok(mut flow) => {
                    count += 1;
                    flow.deadline = flow.deadline.min(now.saturating_add(LONGEST));
                    flows.insert(flow.original, (count, if is_journal { later(flow) } else { flow }));
                }
                Err(_) if is_journal && lines.peek().is_none() => {}
                Err(reason) => {
                    let path = path.display().to_string();
                    return Err(FlowFileError::Line { path, line: number + 1, reason });
                }
            }
        }
    }
    let mut flows: Vec<_> = flows.into_values().filter(|(_, flow)| flow.deadline > now).collect();
    flows.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    Ok(flows.into_iter().map(|(_, flow)| flow).collect())
}

/// A flow as it may be by now, of which only the beginning was written down: a connection that was being opened
/// is picked up in its midst.
fn later(flow: Flow) -> Flow {
    match flow.state {
        State::SynSent | State::SynReceived => Flow { state: State::PickedUp, ..flow },
        _ => flow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client_port: u16, backend: &str, state: State) -> Flow {
        let tuple = |text: String| dialled::parse(&text).expect("a packet");
        Flow {
            original: tuple(format!("tcp 192.0.2.1:{client_port} -> 203.0.113.1:80")),
            reply: tuple(format!("tcp {backend} -> 192.0.2.1:{client_port}")),
            state,
            deadline: Instant::from_secs(100),
            masqueraded: true,
            direct: false,
            packets: [3, 2],
            slot: u32::MAX,
        }
    }

    #[test]
    fn what_is_saved_or_begun_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("flows");
        let now = Instant::from_secs(50);
        assert_eq!(load(&path, now).expect("nothing"), []);

        let (first, second) =
            (flow(1000, "10.0.0.1:80", State::Established), flow(1001, "10.0.0.2:80", State::SynSent));
        let v6 = Flow {
            original: dialled::parse("udp [fd00::1]:53000 -> [fd00::a]:53").expect("a packet"),
            reply: dialled::parse("udp [fd00::2]:5353 -> [fd00::1]:53000").expect("a packet"),
            state: State::Stream,
            ..first
        };
        let mut journal = Journal::open(&path, Unwritten::default()).expect("a journal");
        save(&path, &[first, v6]).expect("saved");
        journal.add(&second);
        journal.flush();
        let picked_up = Flow { state: State::PickedUp, ..second };
        assert_eq!(load(&path, now).expect("all"), [picked_up, v6, first], "the latest first");

        // The process dies between turning the journal and writing the file.
        journal.turn().expect("turned");
        let again = flow(1000, "10.0.0.9:80", State::Established);
        journal.add(&again);
        journal.turn().expect("turned, though the old one is there");
        assert_eq!(load(&path, now).expect("all"), [again, picked_up, v6], "of two lines the later holds");

        save(&path, &[again]).expect("saved");
        assert_eq!(load(&path, now).expect("all"), [again]);
        assert_eq!(load(&path, Instant::from_secs(100)).expect("all"), [], "their time has passed");

        // The clock was set back by years between the one process and the next.
        let late = Flow { deadline: Instant::from_secs(1 << 30), ..v6 };
        save(&path, &[late]).expect("saved");
        let latest = load(&path, now).expect("all").iter().map(|flow| flow.deadline).max();
        assert_eq!(latest, Some(now.saturating_add(LONGEST)), "it would stay for years");
    }

    #[test]
    fn a_line_that_is_no_flow_is_told_with_its_place() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("flows");
        let good = flow(1000, "10.0.0.1:80", State::Established);
        save(&path, &[good]).expect("saved");
        let text = fs::read_to_string(&path).expect("a file");
        let load = |name: &str, text: String| {
            fs::write(directory.path().join(name), text).expect("written");
            load(&path, Instant::ORIGIN).map(|flows| flows.len()).map_err(|error| error.to_string())
        };
        assert_eq!(load("flows.journal", format!("{text}{{\"orig")), Ok(1), "a journal may have been cut");
        for (what, text, expected) in [
            ("not JSON", format!("{text}nothing\n"), "flows:2: is no flow: expected"),
            (
                "a state of another kind",
                text.replace("Established", "Open"),
                "flows:1: is no flow: \"Open\" is no state",
            ),
            ("no packet", text.replace(" -> ", " to "), "flows:1: is no flow: "),
        ] {
            let error = load("flows", text).expect_err(what);
            assert!(error.contains(expected), "{what}: {error}");
        }
    }
}
