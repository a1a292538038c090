//! What was sent where, for the table at the end.

use std::collections::BTreeSet;

use lb_core::Address;

use super::journey::Journey;
use crate::table;

/// What the requests of one line have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) mode: &'static str,
    /// From whom.
    pub(super) from: String,
    /// What was dialled.
    pub(super) dialled: String,
    /// The server saw the client's own address.
    pub(super) kept: bool,
}

/// A line.
#[derive(Debug)]
struct Line {
    way: Way,
    /// The routers that translated.
    through: BTreeSet<String>,
    /// Who served, or why nobody did.
    served_by: BTreeSet<String>,
    /// The client's addresses as servers saw them.
    seen_as: BTreeSet<String>,
    requests: usize,
}

/// All requests.
#[derive(Debug, Default)]
pub(super) struct Ledger(Vec<Line>);

impl Ledger {
    pub(super) fn enter(&mut self, way: Way, journey: &Journey, served_by: &str, seen_as: Option<Address>) {
        let at = self.0.iter().position(|line| line.way == way).unwrap_or(self.0.len());
        if at == self.0.len() {
            let (through, served_by, seen_as, requests) = Default::default();
            self.0.push(Line { way, through, served_by, seen_as, requests });
        }
        let Some(line) = self.0.get_mut(at) else { return };
        let lb = |name: &str| if name == "load-balancer" { "lb".to_owned() } else { name.to_owned() };
        line.through.extend(journey.translators().into_iter().map(lb));
        line.served_by.insert(served_by.trim_end_matches(".example.com").to_owned());
        line.seen_as.extend(seen_as.map(|address| address.to_string()));
        line.requests += 1;
    }

    pub(super) fn requests(&self) -> usize {
        self.0.iter().map(|line| line.requests).sum()
    }

    /// The modes, in the order in which they came, and the table of each: a line for all that dialled the same.
    pub(super) fn tables(&self) -> Vec<(&'static str, String)> {
        let mut modes: Vec<&'static str> = Vec::new();
        for line in &self.0 {
            if !modes.contains(&line.way.mode) {
                modes.push(line.way.mode);
            }
        }
        modes.into_iter().map(|mode| (mode, self.table(mode))).collect()
    }

    fn table(&self, mode: &str) -> String {
        let rows = self.0.iter().filter(|line| line.way.mode == mode).map(|line| {
            let numbers = [braces(&line.through), braces(&line.served_by), braces(&line.seen_as)];
            let words = [line.way.from.clone(), line.way.dialled.clone()];
            words.into_iter().chain(numbers).chain([line.requests.to_string()]).collect()
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let mut out = Vec::new();
        // Writing to memory does not fail, and what was written is text.
        let _ = table::write(&mut out, &["FROM", "DIALLED", "THROUGH", "SERVED BY", "SEEN AS", "CALLS"], &rows);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Words in one, as a shell has it: `worker-{1,2}`, and those of another beginning after a comma.
fn braces(words: &BTreeSet<String>) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for word in words {
        let at = word.rfind(['-', '.']).map_or(0, |at| at + 1);
        let (begins, ends) = word.split_at(at);
        match groups.last_mut() {
            Some((known, all)) if *known == begins && !begins.is_empty() => all.push(ends),
            _ => groups.push((begins, vec![ends])),
        }
    }
    let told = groups.iter().map(|(begins, ends)| match ends.as_slice() {
        [end] => format!("{begins}{end}"),
        [first, .., last] if follow(ends) => format!("{begins}{{{first}..{last}}}"),
        ends => format!("{begins}{{{}}}", ends.join(",")),
    });
    if groups.is_empty() { "-".to_owned() } else { told.collect::<Vec<_>>().join(",") }
}

/// Whether these are three numbers or more, one after the other.
fn follow(words: &[&str]) -> bool {
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    numbers.len() == words.len() && words.len() > 2 && numbers.is_sorted_by(|one, next| one + 1 == *next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_put_together() {
        for (words, expected) in [
            (&[][..], "-"),
            (&["worker-1"], "worker-1"),
            (&["worker-1", "load-balancer", "worker-3"], "load-balancer,worker-{1,3}"),
            (&["192.0.2.11", "192.0.2.12"], "192.0.2.{11,12}"),
            (&["alpha-1-1", "alpha-1-2", "alpha-1-3"], "alpha-1-{1..3}"),
            (&["alpha-1-1", "alpha-1-2", "alpha-1-4"], "alpha-1-{1,2,4}"),
            (&["a", "b"], "a,b"),
        ] {
            assert_eq!(braces(&words.iter().map(ToString::to_string).collect()), expected);
        }
    }
}
