//! A scenario as it was, on paper: what changed, what was given, what the kernel let out, and when. Every scenario is judged by what
//! it says here, so one that fails is judged the same without the kernel and its chance.
//!
//! ```text
//! seed 842
//! change 1302
//! endpoint 0 1 10.244.1.12 ready+serving node-a zone-1 -
//! step 1304 Plain 6 Node - -
//! given 4500022e...
//! taken Pods 4500022e...
//! ```
//!
//! Times are milliseconds. What a seed makes of a cluster (`objects.rs`) is not written down; its endpoints are, all of them at each
//! change.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::{FromStr, Lines, SplitWhitespace};
use std::time::Duration;

use lb_core::control::Endpoint;
use lb_host::chance::Chance;

use crate::objects::Objects;
use crate::script::{Event, Kind, Step};
use crate::world::Place;

/// A word for nothing.
const NONE: &str = "-";

/// Everything that happened in a scenario, and when.
pub fn write(seed: u64, events: &[(Duration, Event)]) -> String {
    let mut text = format!("seed {seed}\n");
    for (at, event) in events {
        let at = at.as_millis();
        match event {
            Event::Change(objects) => {
                writeln!(text, "change {at}").unwrap();
                for (served, slice, endpoint) in objects.endpoints() {
                    writeln!(text, "endpoint {served} {slice} {}", words(endpoint)).unwrap();
                }
            }
            Event::Step(step) => {
                let Step { kind, talk, is_forgotten, before, from, given, taken } = step;
                let forgotten = if *is_forgotten { "forgotten" } else { NONE };
                let before = before.map_or(NONE.into(), |before| before.to_string());
                writeln!(text, "step {at} {kind:?} {talk} {from:?} {forgotten} {before}").unwrap();
                given.iter().for_each(|packet| writeln!(text, "given {}", hex(packet)).unwrap());
                taken.iter().for_each(|(to, packet)| writeln!(text, "taken {to:?} {}", hex(packet)).unwrap());
            }
        }
    }
    text
}

/// The same, read: the seed, the objects that it began with, and what happened. Panics at what [`write`] did not write.
pub fn read(text: &str) -> (u64, Objects, Vec<(Duration, Event)>) {
    let mut lines = text.lines().peekable();
    let seed = lines.next().and_then(|line| line.strip_prefix("seed ")).and_then(|seed| seed.parse().ok());
    let seed = seed.expect("a scenario begins with its seed");
    let objects = Objects::new(seed, &mut Chance::new(seed).named("objects"));
    let mut events = Vec::new();
    let mut now = objects.clone();
    while let Some(line) = lines.next() {
        let (kind, mut words) = split(line);
        let at = Duration::from_millis(next(&mut words));
        let event = match kind {
            "change" => {
                now.unserve();
                while let Some(line) = following(&mut lines, "endpoint") {
                    let (_, mut words) = split(line);
                    let (served, slice) = (next(&mut words), next(&mut words));
                    now.serve(served, slice, endpoint(&mut words));
                }
                Event::Change(now.clone())
            }
            "step" => Event::Step(step(&mut words, &mut lines)),
            _ => panic!("{line}: neither a change nor a step"),
        };
        events.push((at, event));
    }
    (seed, objects, events)
}

fn step(words: &mut SplitWhitespace, lines: &mut Peekable<Lines>) -> Step {
    let mut word = || words.next().expect("six words of a step");
    let kind = Kind::ALL.into_iter().find(named(word())).expect("a kind");
    let talk = word().parse().expect("a conversation's number");
    let from = place(word());
    let is_forgotten = word() != NONE;
    let before = word().parse().ok();
    let mut step = Step { kind, talk, is_forgotten, before, from, given: Vec::new(), taken: Vec::new() };
    while let Some(line) = following(lines, "given") {
        step.given.push(bytes(split(line).1.next().expect("a packet")));
    }
    while let Some(line) = following(lines, "taken") {
        let (_, mut words) = split(line);
        let (to, packet) = (words.next().expect("a place"), words.next().expect("a packet"));
        step.taken.push((place(to), bytes(packet)));
    }
    step
}

fn words(endpoint: &Endpoint) -> String {
    let Endpoint { address, ready, serving, terminating, node, zone_hints, node_hints } = endpoint;
    let states = [(ready, "ready"), (serving, "serving"), (terminating, "terminating")];
    let states: Vec<&str> = states.into_iter().filter(|(is_so, _)| **is_so).map(|(_, name)| name).collect();
    let list = |labels: Vec<String>| if labels.is_empty() { NONE.into() } else { labels.join("+") };
    let labels = |labels: &[lb_core::control::Label]| list(labels.iter().map(ToString::to_string).collect());
    let (zones, nodes) = (labels(zone_hints), labels(node_hints));
    let node = labels(node.as_slice());
    format!("{address} {} {node} {zones} {nodes}", list(states.into_iter().map(Into::into).collect()))
}

fn endpoint(words: &mut SplitWhitespace) -> Endpoint {
    let address: std::net::IpAddr = next(words);
    let mut list = || -> Vec<&str> {
        words.next().expect("five words of an endpoint").split('+').filter(|word| *word != NONE).collect()
    };
    let (states, node, zones, nodes) = (list(), list(), list(), list());
    let is = |state| states.contains(&state);
    Endpoint {
        address: address.into(),
        ready: is("ready"),
        serving: is("serving"),
        terminating: is("terminating"),
        node: node.first().map(|node| (*node).into()),
        zone_hints: zones.into_iter().map(Into::into).collect(),
        node_hints: nodes.into_iter().map(Into::into).collect(),
    }
}

fn split(line: &str) -> (&str, SplitWhitespace<'_>) {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    (kind, rest.split_whitespace())
}

/// The next line, if it is of this kind.
fn following<'t>(lines: &mut Peekable<Lines<'t>>, kind: &str) -> Option<&'t str> {
    lines.next_if(|line| split(line).0 == kind)
}

fn next<T: FromStr>(words: &mut SplitWhitespace) -> T {
    words.next().and_then(|word| word.parse().ok()).expect("a number or an address")
}

fn place(name: &str) -> Place {
    [Place::Outside, Place::Pods, Place::Node].into_iter().find(named(name)).expect("a place")
}

fn named<T: std::fmt::Debug>(name: &str) -> impl Fn(&T) -> bool {
    move |one| format!("{one:?}") == name
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16).expect("a hexadecimal digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
