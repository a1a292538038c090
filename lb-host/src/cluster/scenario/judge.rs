//! Whether what came of it is what was expected.

use std::collections::BTreeSet;

use lb_core::Instant;

use super::stage::{Stage, Traffic, row};
use super::written::{Expectation, Outcome, Seen};
use crate::cluster::program::{Failure, Fetched};
use crate::cluster::{MachineId, kubernetes::Kubernetes};
use crate::dns::client;
use crate::host::Error;
use crate::k8s::Problem;

/// `alpha-1` is like `alpha-*` and like itself.
fn is_like(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start))
}

fn outcome(fetched: &Fetched) -> Outcome {
    match &fetched.result {
        Ok(reply) if reply.status == 200 => Outcome::Ok,
        Err(Failure::Connection(Error::Refused)) => Outcome::Refused,
        Err(Failure::Connection(Error::TimedOut)) => Outcome::Timeout,
        Err(Failure::Connection(Error::Reset)) => Outcome::Reset,
        _ => Outcome::Failed,
    }
}

/// The address of a socket's text.
fn address(socket: &str) -> &str {
    socket.rsplit_once(':').map_or(socket, |(address, _)| address).trim_matches(['[', ']'])
}

impl Stage<'_> {
    pub(super) fn judge(&mut self, field: &str, expectation: &Expectation) {
        let modes = expectation.modes.as_ref();
        if modes.is_some_and(|modes| modes.iter().all(|mode| mode != self.mode.name)) {
            return;
        }
        for message in self.complaints(expectation) {
            let message = format!("[{} {:?}] {message}", self.mode.name, self.family);
            self.wrong.push(Problem::new(self.place(field), message, "it was expected otherwise"));
        }
    }

    fn complaints(&self, expectation: &Expectation) -> Vec<String> {
        if let Some(named) = &expectation.get {
            let Some(row) = row(&self.kubernetes, named) else {
                return vec![format!("there is no {} {}", named.kind, named.name)];
            };
            let lacking = expectation.contains.iter().flatten().filter(|words| !row.contains(words.as_str()));
            return lacking.map(|words| format!("{words:?} is not in: {row}")).collect();
        }
        let named = [&expectation.requests, &expectation.lookups, &expectation.transfer];
        let Some(name) = named.into_iter().flatten().next() else { return Vec::new() };
        match self.traffic.get(name) {
            None => vec![format!("there is no traffic called {name}")],
            Some((_, Traffic::Transfer(id))) => {
                let client = self.kubernetes.world().program(*id);
                let (outcome, progress) = client.map_or((None, (0, 0)), |client| (client.outcome(), client.progress()));
                let exact = outcome.is_some_and(|outcome| outcome.exact && outcome.error.is_none());
                (!exact)
                    .then(|| format!("{name} came to {outcome:?}; sent and received {progress:?}"))
                    .into_iter()
                    .collect()
            }
            Some((_, Traffic::Lookups(id))) => {
                let lookups = self.kubernetes.world().program(*id).map_or(&[][..], |client| client.lookups());
                let lookups = lookups.iter().filter(|one| within(expectation, one.started)).map(|one| {
                    let found = matches!(one.outcome, client::Outcome::Found { .. });
                    let outcome = if found { Outcome::Ok } else { Outcome::Failed };
                    (outcome, format!("at {:?} {:?}", one.started, one.outcome))
                });
                count(name, expectation, &lookups.collect::<Vec<_>>())
            }
            Some((machine, Traffic::Requests(id))) => {
                let results = self.kubernetes.fetched(*id);
                let results: Vec<_> = results.iter().filter(|one| within(expectation, one.started)).collect();
                let told: Vec<_> =
                    results.iter().map(|one| (outcome(one), format!("at {:?} {one}", one.started))).collect();
                let mut complaints = count(name, expectation, &told);
                complaints.extend(servers(name, expectation, &results));
                complaints.extend(seen(&self.kubernetes, *machine, expectation, &results));
                complaints
            }
        }
    }
}

fn within(expectation: &Expectation, started: Instant) -> bool {
    let since = expectation.since.map_or(Instant::ORIGIN, |span| Instant::ORIGIN.saturating_add(span.0));
    let until = expectation.until.map(|span| Instant::ORIGIN.saturating_add(span.0));
    started >= since && until.is_none_or(|until| started < until)
}

/// Of how it went, and how often.
fn count(name: &str, expectation: &Expectation, told: &[(Outcome, String)]) -> Vec<String> {
    let mut complaints = Vec::new();
    let least = expectation.at_least.unwrap_or(1);
    if told.len() < least {
        complaints.push(format!("{name} has come to an end {} times, not {least}", told.len()));
    }
    if let Some(wanted) = expectation.outcome {
        let others: Vec<_> = told.iter().filter(|(outcome, _)| *outcome != wanted).collect();
        if let [(_, first), ..] = others.as_slice() {
            let (some, all) = (others.len(), told.len());
            complaints.push(format!("{name}: {some} of {all} were not {wanted:?}; the first {first}"));
        }
    }
    complaints
}

/// Of who served.
fn servers(name: &str, expectation: &Expectation, results: &[&Fetched]) -> Vec<String> {
    let served: BTreeSet<&str> =
        results.iter().filter_map(|one| one.result.as_ref().ok()).map(|reply| reply.served_by.as_str()).collect();
    let mut complaints = Vec::new();
    if let Some(patterns) = &expectation.served_by {
        let all = patterns.iter().all(|pattern| served.iter().any(|one| is_like(one, pattern)));
        let only = served.iter().all(|one| patterns.iter().any(|pattern| is_like(one, pattern)));
        if !all || !only {
            complaints.push(format!("{name} was served by {served:?}, not by {patterns:?}"));
        }
    }
    let forbidden = expectation.not_served_by.iter().flatten();
    let hit = forbidden.filter(|pattern| served.iter().any(|one| is_like(one, pattern)));
    complaints.extend(hit.map(|pattern| format!("{name} was served by {pattern}")));
    if expectation.one_server && served.len() != 1 {
        complaints.push(format!("{name} was served by {served:?}, not by one"));
    }
    complaints
}

/// Of whom servers saw.
fn seen(it: &Kubernetes, from: MachineId, expectation: &Expectation, results: &[&Fetched]) -> Vec<String> {
    let Some(wanted) = expectation.seen else { return Vec::new() };
    let text = |id: MachineId| it.world().addresses(id).iter().map(ToString::to_string).collect::<Vec<_>>();
    let own = text(from);
    let nodes: Vec<_> = it.world().nodes().flat_map(text).collect();
    let right = |address: &str| match wanted {
        Seen::Client => own.iter().any(|own| own == address),
        Seen::Node => nodes.iter().any(|node| node == address),
    };
    let replies = results.iter().filter_map(|one| one.result.as_ref().ok());
    let wrong = replies.map(|reply| address(&reply.seen_as)).find(|address| !right(address));
    wrong.map(|address| format!("the server saw {address}, not the {wanted:?}'s")).into_iter().collect()
}
