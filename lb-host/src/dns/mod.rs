//! Cluster DNS (SEMANTICS §19): a zone that is a pure view of the cluster's objects, the messages it answers,
//! and the resolver that a pod asks it with. No socket is opened here but in [`live`].
//!
//! ```text
//! objects --zone--> names
//! query bytes --message--> question --answer--> records --message--> answer bytes      (server: datagrams, streams)
//! name --client--> query bytes, time after time, until one is answered
//! ```

pub mod answer;
pub mod client;
pub mod live;
pub mod message;
pub mod server;
pub mod stream;
pub mod upstream;
pub mod zone;

pub use hickory_proto::op::{Query as Question, ResponseCode};
pub use hickory_proto::rr::{Name, RData, Record, RecordType};
pub use server::Server;
pub use upstream::{Outside, Reply, Upstream};
pub use zone::{PodNames, Settings, Zone};
