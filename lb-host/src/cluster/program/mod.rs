//! What runs on hosts.

mod bulk;
mod check;
mod datagrams;
mod dns_server;
mod fetch;
mod health_server;
mod http_client;
mod http_server;
mod resolver;

use std::any::Any;

use lb_core::Instant;

use crate::host::{Host, Socket};
use crate::path;

pub use bulk::{BulkClient, BulkServer, Outcome};
pub use check::Check;
pub use datagrams::{Answer, DatagramClient, DatagramServer, Query};
pub use dns_server::DnsServer;
pub use fetch::{Failure, Fetch, Fetched, Target};
pub use health_server::HealthServer;
pub use http_client::{Exchange, HttpClient, Reply};
pub use http_server::HttpServer;
pub use resolver::{DnsClient, Resolved, Resolver};

/// A program on a host: asked whenever a packet has come and when it wants to be, it does what it can and returns.
pub trait Program: Any {
    /// Does what is to be done by now.
    fn poll(&mut self, host: &mut Host, now: Instant);

    /// When it wants to be asked again if no packet comes.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Is asked to end, as SIGTERM does. Unless it has something to finish first it ends at once.
    fn stop(&mut self, host: &mut Host) {
        self.end(host);
    }

    /// Whether it has nothing left to do since it was asked to end.
    fn is_over(&self) -> bool {
        true
    }

    /// Is killed: what it listens on is closed, its connections are reset.
    fn end(&mut self, host: &mut Host);
}

/// How servers write whom they see.
fn seen(socket: Socket) -> String {
    path::socket(socket.0, socket.1)
}
