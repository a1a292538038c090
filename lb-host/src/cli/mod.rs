//! The command line. One file a subcommand; what several take is in [`args`].
//!
//! Exit codes: 0 fine; 1 ran, and found a difference or a failed check; 2 could not run. Results go to
//! standard output, everything else to standard error.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::k8s::Problems;

pub mod args;
mod compile;
mod completions;
mod demo;
mod diff;
mod dig;
mod dns;
mod explain;
mod get;
mod inspect;
mod lint;
mod man;
mod replay;
mod rules;
mod run;
mod test;

/// Kubernetes service routing explained, tested and replayed, without a cluster.
#[derive(Debug, Parser)]
#[command(name = "lb", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A new subcommand is a line here, and a line in [`Command::run`].
#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Get(get::Get),
    Explain(explain::Explain),
    Diff(diff::Diff),
    Dns(dns::Dns),
    Compile(compile::Compile),
    Inspect(inspect::Inspect),
    Lint(lint::Lint),
    Completions(completions::Completions),
    Man(man::Man),
    Replay(replay::Replay),
    Run(run::Run),
    Test(test::Test),
}

impl Command {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        match self {
            Self::Demo(demo) => demo.run(out),
            Self::Get(get) => get.run(out),
            Self::Explain(explain) => explain.run(out),
            Self::Diff(diff) => diff.run(out),
            Self::Dns(dns) => dns.run(out),
            Self::Compile(compile) => compile.run(),
            Self::Inspect(inspect) => inspect.run(out),
            Self::Lint(lint) => lint.run(out),
            Self::Completions(completions) => completions.run(out),
            Self::Man(man) => man.run(),
            Self::Replay(replay) => replay.run(out),
            Self::Run(run) => run.run(),
            Self::Test(test) => test.run(out),
        }
    }
}

/// How a command that could run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1: a difference was found, or a check failed.
    Different,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // Rust programs ignore SIGPIPE, so that a closed pipe is an error like any other: told apart below.
    let mut out = std::io::BufWriter::new(Standard(std::io::stdout().lock()));
    let result = Cli::parse().command.run(&mut out).and_then(|outcome| Ok(out.flush().map(|()| outcome)?));
    match result {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Different) => ExitCode::from(1),
        Err(error) if closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(2)
        }
    }
}

/// Standard output, whose errors say that they are its.
struct Standard<'a>(std::io::StdoutLock<'a>);

impl Standard<'_> {
    fn named<T>(written: std::io::Result<T>) -> std::io::Result<T> {
        written.map_err(|error| std::io::Error::new(error.kind(), format!("cannot write standard output: {error}")))
    }
}

impl Write for Standard<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::named(self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Self::named(self.0.flush())
    }
}

/// Whether the reader of our output went away, as `head` does when it has seen enough.
fn closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

/// One line an error: each problem of the input, or else an error and its causes.
fn print_error(error: &anyhow::Error) {
    // Nobody is left to tell when standard error is closed too.
    let mut stderr = std::io::stderr().lock();
    let _ = match error.downcast_ref::<Problems>() {
        Some(Problems(problems)) => problems.iter().try_for_each(|problem| writeln!(stderr, "error: {problem}")),
        None => writeln!(stderr, "error: {error:#}"),
    };
}

/// Tells something that may surprise, and goes on.
fn warn(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {message}");
}
