//! Who dialled the Services whose affinity ends within a scenario, and when: nobody is to come back in the moment of its end, of
//! which the kernel's clock and the script's may think differently.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::objects::SHORT_AFFINITY;

const TIMEOUT: Duration = Duration::from_secs(SHORT_AFFINITY as u64);
/// How far from the end is far enough, on a busy machine too.
const EDGE: Duration = Duration::from_millis(350);

/// Every packet of a client to a service port, as any may have begun a flow.
#[derive(Default)]
pub struct Visits(BTreeMap<(String, IpAddr), Vec<Duration>>);

impl Visits {
    pub fn note(&mut self, port: &str, client: IpAddr, now: Duration) {
        self.0.entry((port.into(), client)).or_default().push(now);
    }

    /// How long to wait until none of a client's visits is about to be forgotten.
    pub fn until_clear(&self, port: &str, client: IpAddr, now: Duration) -> Duration {
        let Some(visits) = self.0.get(&(port.to_owned(), client)) else { return Duration::ZERO };
        // Later visits are forgotten later, so one pass in their order finds the first moment that is near no end.
        let clear = visits.iter().fold(now, |clear, visit| {
            let end = *visit + TIMEOUT;
            if clear + EDGE > end && clear < end + EDGE { end + EDGE } else { clear }
        });
        clear - now
    }

    /// How long to wait until all of them are forgotten.
    pub fn until_forgotten(&self, port: &str, client: IpAddr, now: Duration) -> Duration {
        let last = self.0.get(&(port.to_owned(), client)).and_then(|visits| visits.last());
        last.map_or(Duration::ZERO, |last| (*last + TIMEOUT + EDGE).saturating_sub(now))
    }
}
