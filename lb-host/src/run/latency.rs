//! How long changes of endpoints took from where they happened to rules in force: the SLI of network programming.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_core::Instant;
use lb_core::control::Label;

/// What was measured by now.
pub(super) struct Latency {
    /// What happened before is not this data plane's to be quick about.
    since: Instant,
    /// Slices and the last change of theirs that was heard of.
    heard: BTreeMap<Label, Instant>,
}

impl Latency {
    /// For a data plane that begins now.
    pub(super) fn since(now: Instant) -> Self {
        Self { since: now, heard: BTreeMap::new() }
    }

    /// How long each change took that is new among these and is in force now. One from the future took no time: clocks differ.
    pub(super) fn took(&mut self, now: Instant, triggers: Vec<(Label, Instant)>) -> Vec<Duration> {
        let news = triggers.into_iter().filter_map(|(slice, at)| {
            let before = self.heard.insert(slice, at);
            (at > self.since && before != Some(at)).then(|| now.saturating_since(at))
        });
        news.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_counts_once_from_when_it_happened() {
        let at = Instant::from_secs;
        let mut latency = Latency::since(at(100));
        // (what, now, slice, when it happened, seconds that it took)
        for (what, now, slice, trigger, expected) in [
            ("it happened before the start", 101, "web-1", 90, None),
            ("it happened since", 112, "web-1", 110, Some(2)),
            ("the same again", 120, "web-1", 110, None),
            ("the next", 121, "web-1", 120, Some(1)),
            ("another slice's", 125, "web-2", 120, Some(5)),
            ("by a clock that is ahead", 130, "web-2", 140, Some(0)),
        ] {
            let took = latency.took(at(now), vec![(slice.into(), at(trigger))]);
            assert_eq!(took, Vec::from_iter(expected.map(Duration::from_secs)), "{what}");
        }
    }
}
