//! What came of the cases, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::judge::Judged;
use super::run::Outcome;
use crate::explain;

/// Writes what does not hold, with the reasons; `verbose`, what holds too. The last line counts cases.
///
/// # Errors
/// `out` cannot be written to.
pub fn text(out: &mut dyn Write, outcomes: &[Outcome], verbose: bool) -> io::Result<()> {
    for outcome in outcomes.iter().filter(|outcome| verbose || !outcome.passed()) {
        let word = if outcome.passed() { "ok" } else { "FAIL" };
        writeln!(out, "{word:<4} {} ({}, {})", outcome.name, outcome.place, outcome.mode)?;
        for check in outcome.checks.iter().filter(|check| verbose || !check.holds()) {
            let word = if check.holds() { "ok" } else { "FAIL" };
            writeln!(out, "  {word:<4} {}: {}", check.step, check.check)?;
            reasons(out, check)?;
        }
    }
    writeln!(out, "{}", summary(outcomes))
}

/// `12 passed, 0 failed`.
fn summary(outcomes: &[Outcome]) -> String {
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    format!("{passed} passed, {} failed", outcomes.len() - passed)
}

/// Why a check does not hold; nothing if it does.
fn reasons(out: &mut dyn Write, check: &Judged) -> io::Result<()> {
    reason_lines(check).iter().try_for_each(|line| writeln!(out, "         {line}"))
}

/// The lines that tell why a check does not hold; none if it does.
pub(super) fn reason_lines(check: &Judged) -> Vec<String> {
    if check.holds() {
        return Vec::new();
    }
    let row = |name: &str, value: &str| format!("{name:<12} {value}");
    let mut lines = vec![row("at", &check.place.to_string())];
    for difference in &check.differences {
        lines.push(row("expected", &format!("{}: {}", difference.of, difference.expected)));
        lines.push(row("got", &format!("{}: {}", difference.of, difference.got)));
    }
    if let Some(explanation) = &check.explanation {
        lines.push(row("packet", &explanation.packet));
        if let Some(path) = &explanation.path {
            lines.push(row("path", &path.to_string()));
        }
        if let Some(service) = &explanation.service {
            lines.push(row("service", service));
        }
        lines.push(row("source", explanation.source));
        lines.push(row("because", &explanation.because));
        if let Some(masquerade) = &explanation.masquerade {
            let word = if masquerade.masquerade { "yes" } else { "no" };
            lines.push(row("masquerade", &format!("{word}: {}", masquerade.because)));
        }
        for endpoint in &explanation.endpoints {
            let node = endpoint.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
            let outcome = match endpoint.outcome {
                explain::Outcome::Chosen | explain::Outcome::Possible => "can be chosen",
                explain::Outcome::Out => "not chosen",
            };
            lines.push(row("endpoint", &format!("{}{node}: {outcome}: {}", endpoint.address, endpoint.because)));
        }
    }
    lines.extend(check.notes.iter().map(|note| row("note", note)));
    lines
}

#[derive(Serialize)]
struct All<'a> {
    passed: usize,
    failed: usize,
    cases: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    passed: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Writes all of it as one JSON object.
///
/// # Errors
/// `out` cannot be written to.
pub fn json(out: &mut dyn Write, outcomes: &[Outcome]) -> io::Result<()> {
    let cases: Vec<_> = outcomes.iter().map(|outcome| One { passed: outcome.passed(), outcome }).collect();
    let passed = cases.iter().filter(|case| case.passed).count();
    serde_json::to_writer_pretty(&mut *out, &All { passed, failed: cases.len() - passed, cases })?;
    writeln!(out)
}
