//! Routing tests: a cluster's objects, one node, and what must become of the first packet of some flows.
//!
//! ```text
//! files --read--> Case --data_plane--> rules, as reached --observe, judge--> Outcome --report, junit--> people, machines
//! ```

mod data_plane;
mod format;
mod judge;
mod junit;
mod observe;
mod read;
mod report;
mod run;
mod written;

pub use format::{Case, ConntrackCheck, EndpointsCheck, FlowCheck, HealthCheck, Step};
pub use judge::{Difference, Judged};
pub use junit::junit;
pub use read::{Tests, read};
pub use report::{json, text};
pub use run::{Outcome, run};
pub use written::Word;
