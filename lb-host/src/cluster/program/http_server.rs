//! An HTTP/1.1 server that says who it is and whom it sees.

use lb_core::Instant;

use super::{Program, seen};
use crate::host::{ConnectionId, Host, ListenerId};

/// Serves any path with 200 and a line that says who served whom, and one of its choice, `/readyz`, with 200 or 503.
/// Asked to end, it takes no more connections and finishes those that it has.
///
/// ```text
/// HTTP/1.1 200 OK
/// X-Served-By: web-1
/// X-Seen-As: 10.244.1.9:40001
///
/// web-1 serves 10.244.1.9:40001
/// ```
pub struct HttpServer {
    name: String,
    port: u16,
    listener: Option<ListenerId>,
    open: Vec<Open>,
    served: u64,
    probed: String,
    stopping: bool,
    /// Whether `/readyz` says 200.
    pub ready: bool,
    /// Whether anything else is answered 503.
    pub failing: bool,
}

struct Open {
    id: ConnectionId,
    arrived: Vec<u8>,
    answer: Vec<u8>,
    /// The request that is being answered was the last.
    last: bool,
}

/// A request's head and what follows it that is its body.
struct Request {
    path: String,
    closes: bool,
    length: usize,
}

impl HttpServer {
    /// A server of this name on a port of all addresses.
    pub fn new(name: &str, port: u16) -> Self {
        let name = name.to_owned();
        let (probed, stopping) = ("/readyz".to_owned(), false);
        Self { name, port, listener: None, open: Vec::new(), served: 0, probed, stopping, ready: true, failing: false }
    }

    /// Tells whether it is ready under another path than `/readyz`.
    #[must_use]
    pub fn probed_at(self, path: &str) -> Self {
        Self { probed: path.to_owned(), ..self }
    }

    /// How many requests were answered.
    pub const fn served(&self) -> u64 {
        self.served
    }

    fn answer(&self, path: &str, client: &str) -> String {
        let probe = path == self.probed;
        let healthy = if probe { self.ready } else { !self.failing };
        let (status, body) = match healthy {
            true => ("200 OK", format!("{} serves {client}\n", self.name)),
            false => ("503 Service Unavailable", format!("{} is not ready\n", self.name)),
        };
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nX-Served-By: {}\r\nX-Seen-As: {client}\r\nContent-Length: {length}\r\n\r\n{body}",
            self.name
        )
    }
}

impl Program for HttpServer {
    fn poll(&mut self, host: &mut Host, _: Instant) {
        if self.listener.is_none() && !self.stopping {
            self.listener = host.listen(None, self.port).ok();
        }
        self.accept(host);
        let mut open = std::mem::take(&mut self.open);
        open.retain_mut(|connection| {
            let goes_on = self.serve(host, connection).unwrap_or(false);
            if !goes_on {
                host.release(connection.id);
            }
            goes_on
        });
        self.open = open;
    }

    fn stop(&mut self, host: &mut Host) {
        self.accept(host);
        self.stopping = true;
        self.listener.take().into_iter().for_each(|listener| host.unlisten(listener));
    }

    fn is_over(&self) -> bool {
        self.stopping && self.open.is_empty()
    }

    fn end(&mut self, host: &mut Host) {
        self.listener.take().into_iter().for_each(|listener| host.unlisten(listener));
        self.open.drain(..).for_each(|connection| host.abort(connection.id));
    }
}

impl HttpServer {
    fn accept(&mut self, host: &mut Host) {
        let Some(listener) = self.listener else { return };
        while let Some(id) = host.accept(listener) {
            self.open.push(Open { id, arrived: Vec::new(), answer: Vec::new(), last: false });
        }
    }

    /// False when the connection is done with; `None` when it has failed.
    fn serve(&mut self, host: &mut Host, connection: &mut Open) -> Option<bool> {
        let more = host.recv(connection.id, &mut connection.arrived).ok()?;
        while !connection.last {
            let Some((request, length)) = request(&connection.arrived)? else { break };
            connection.arrived.drain(..length);
            let client = seen(host.remote(connection.id)?);
            connection.answer.extend_from_slice(self.answer(&request.path, &client).as_bytes());
            connection.last = request.closes || self.stopping;
            self.served += 1;
        }
        let sent = host.send(connection.id, &connection.answer).ok()?;
        connection.answer.drain(..sent);
        let idle = connection.arrived.is_empty() && connection.answer.is_empty();
        Some(!connection.answer.is_empty() || (more && !connection.last && !(self.stopping && idle)))
    }
}

/// The first request of what has arrived and how long it is; `None` within if it is not all there, without if it is none.
#[allow(clippy::option_option, reason = "not yet and never are two things")]
fn request(bytes: &[u8]) -> Option<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(bytes).ok()? else { return Some(None) };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let length = match header("content-length") {
        Some(text) => text.trim().parse().ok()?,
        None => 0,
    };
    let says_close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let request = Request { path: parsed.path?.to_owned(), closes: says_close || parsed.version == Some(0), length };
    let whole = head.checked_add(request.length)?;
    Some((bytes.len() >= whole).then_some((request, whole)))
}
