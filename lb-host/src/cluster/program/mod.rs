//! What runs on hosts.

mod bulk;
mod datagrams;
mod http_client;
mod http_server;

use std::any::Any;

use lb_core::Instant;

use crate::host::{Host, Socket};
use crate::path;

pub use bulk::{BulkClient, BulkServer, Outcome};
pub use datagrams::{Answer, DatagramClient, DatagramServer, Query};
pub use http_client::{Exchange, HttpClient, Reply};
pub use http_server::HttpServer;

/// A program on a host: asked whenever a packet has come and when it wants to be, it does what it can and returns.
pub trait Program: Any {
    /// Does what is to be done by now.
    fn poll(&mut self, host: &mut Host, now: Instant);

    /// When it wants to be asked again if no packet comes.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Is killed: what it listens on is closed, its connections are reset.
    fn end(&mut self, host: &mut Host);
}

/// How servers write whom they see.
fn seen(socket: Socket) -> String {
    path::socket(socket.0, socket.1)
}
