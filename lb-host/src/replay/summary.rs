//! What a replay came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lb_core::{DropReason, RejectReason, Verdict};
use serde::{Serialize, Serializer};

/// Counts over a whole replay. Every packet of the input is counted once; a made reply in the place of the captured one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Packets read.
    pub packets: u64,
    /// Translated, in either direction.
    pub forwarded: u64,
    /// Left alone: no business of the balancer's, or for the node itself.
    pub passed: u64,
    /// Refused with an ICMP error, whether or not one was written.
    pub rejected: u64,
    /// Dropped, by reason; `hold` are fragments whose first never came.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Flows begun.
    pub flows: u64,
    /// Flows by the layers that they opened, from what was dialled to the pod.
    #[serde(skip)]
    pub paths: BTreeMap<String, u64>,
    /// Replies of which the backend's own was made.
    pub reflected: u64,
    /// Those of them that came out as they were captured.
    pub identical: u64,
    /// Those dropped because their headers contradict themselves, which `dropped` counts too.
    pub malformed: u64,
    /// How long it took, in seconds, by the clock on the wall; the caller measures it.
    #[serde(rename = "elapsed_s", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// The first few reflected replies that did not come out as they were captured.
    #[serde(skip)]
    pub differences: Vec<String>,
}

/// Reasons that speak of the packet alone: not of what the balancer knows or can hold, nor of how much of the packet
/// was captured.
const MALFORMED: [DropReason; 4] =
    [DropReason::BadIpHeader, DropReason::BadTransportHeader, DropReason::BadFragment, DropReason::MappedAddress];

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}

impl Summary {
    /// Counts packets by the code of the verdict that was their last.
    pub(super) fn count(&mut self, code: u8, count: u64) {
        if let Some(reason) = DropReason::from_code(code) {
            *self.dropped.entry(reason.label()).or_default() += count;
            self.malformed += if MALFORMED.contains(&reason) { count } else { 0 };
        } else if RejectReason::from_code(code).is_some() {
            self.rejected += count;
        } else {
            match Verdict::label(code) {
                Some("pass" | "accept") => self.passed += count,
                Some(held @ "hold") => *self.dropped.entry(held).or_default() += count,
                _ => self.forwarded += count,
            }
        }
    }

    /// Whether every reflected reply came out as it was captured.
    pub fn is_faithful(&self) -> bool {
        self.reflected == self.identical
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "packets    {}", self.packets)?;
        writeln!(f, "forwarded  {}", self.forwarded)?;
        writeln!(f, "passed     {}", self.passed)?;
        writeln!(f, "rejected   {}", self.rejected)?;
        writeln!(f, "dropped    {}", self.dropped.values().sum::<u64>())?;
        for (reason, count) in &self.dropped {
            writeln!(f, "  {reason:<22} {count}")?;
        }
        writeln!(f, "malformed  {}", self.malformed)?;
        writeln!(f, "flows      {}", self.flows)?;
        for (path, flows) in &self.paths {
            writeln!(f, "  {flows:<8} {path}")?;
        }
        if self.reflected > 0 {
            writeln!(f, "reflected  {}, of which identical {}", self.reflected, self.identical)?;
        }
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "elapsed    {seconds:.3} s")
    }
}
