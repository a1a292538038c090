//! Two contenders by turns, and what comes of it.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Turns of each, the one after the other.
const TURNS: usize = 15;

/// One comparison.
pub(crate) struct Row {
    goal: &'static str,
    what: String,
    ours: f64,
    peer: String,
    theirs: f64,
    ratio: f64,
    /// The highest good ratio; none where the row is for orientation.
    limit: Option<f64>,
}

impl Row {
    pub(crate) fn new(
        goal: &'static str,
        what: String,
        ours: f64,
        peer: String,
        theirs: f64,
        ratio: f64,
        limit: impl Into<Option<f64>>,
    ) -> Self {
        let limit = limit.into();
        Self { goal, what, ours, peer, theirs, ratio, limit }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { goal, what, ours, peer, theirs, ratio, limit } = self;
        // A ratio of a thousandth has figures that count, too.
        let digits = |ratio: f64| format!("{ratio:.*}", if ratio < 0.1 { 5 } else { 3 });
        let (ratio, limit) = (digits(*ratio), limit.map_or_else(String::new, digits));
        write!(f, "{goal}\t{what}\t{ours:.1}\t{peer}\t{theirs:.1}\t{ratio}\t{limit}")
    }
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds that this takes.
pub(crate) fn timed(work: impl FnOnce()) -> f64 {
    let start = lb_host::clock::now();
    work();
    (lb_host::clock::now() - start).as_nanos() as f64
}

/// Ours and the peer, turn by turn; of the turns' ratios the median counts.
pub(crate) fn duel(
    goal: &'static str,
    what: String,
    mut ours: impl FnMut() -> f64,
    peer: String,
    mut theirs: impl FnMut() -> f64,
    limit: impl Into<Option<f64>>,
) -> Row {
    // The first turn of each warms up.
    let (_, _) = (ours(), theirs());
    let turns: Vec<(f64, f64)> = (0..TURNS).map(|_| (ours(), theirs())).collect();
    let ratio = median(turns.iter().map(|(ours, theirs)| ours / theirs).collect());
    let (ours, theirs) = turns.into_iter().unzip();
    Row::new(goal, what, median(ours), peer, median(theirs), ratio, limit)
}

/// Ours against a number.
pub(crate) fn budget(goal: &'static str, what: String, ours: f64, budget: String, most: f64) -> Row {
    Row::new(goal, what, ours, budget, most, ours / most, 1.0)
}

/// A program of benches/peers, which measures a turn for each line that it reads and writes its figure.
pub(crate) struct Peer {
    child: Child,
    lines: BufReader<ChildStdout>,
    input: ChildStdin,
}

impl Peer {
    /// `None`, and loudly so, if it was not built.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Option<Self> {
        let program = std::env::var("PEERS").ok().map(|directory| Path::new(&directory).join(name));
        let Some(program) = program.filter(|program| program.exists()) else {
            eprintln!("!!! NOT MEASURED: {name} was not built (benches/goals says why)");
            return None;
        };
        let spawned = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.inspect_err(|error| eprintln!("!!! NOT MEASURED: {name}: {error}")).ok()?;
        let (lines, input) = (BufReader::new(child.stdout.take()?), child.stdin.take()?);
        let mut peer = Self { child, lines, input };
        // The first turn warms up, and shows whether this machine lets it run.
        if peer.ask().is_none() {
            eprintln!("!!! NOT MEASURED: {name} ended, and said why above");
            return None;
        }
        Some(peer)
    }

    pub(crate) fn turn(&mut self) -> f64 {
        self.ask().expect("the peer lives, and says a figure")
    }

    fn ask(&mut self) -> Option<f64> {
        let mut line = String::new();
        writeln!(self.input).and_then(|()| self.lines.read_line(&mut line)).ok()?;
        line.trim().parse().ok()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
