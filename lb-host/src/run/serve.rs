//! HTTP for strangers: health check ports are open to whoever reaches the node. One thread a port, so many connections at a
//! time and each for so long; one too many ends the oldest, so that whoever holds connections open keeps nobody out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::fmt::rfc2822::DateTimePrinter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::clock::{self, Clock};

/// Connections to one port at a time.
const CONNECTIONS: usize = 64;
/// How long one may take to ask and be answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest question.
const HEAD: usize = 8 << 10;
/// How long to wait where no connection can be taken at all, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What is answered: status, headers, body.
pub(super) type Answered = (u16, Vec<(&'static str, String)>, String);

/// A port that is answered on, until this is dropped.
pub(super) struct Served {
    ending: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Answers what comes to `listener` by path and asker, in a thread of this name.
    ///
    /// # Errors
    /// The system has none.
    pub(super) fn new(
        listener: TcpListener,
        name: String,
        answer: impl Fn(&str, SocketAddr) -> Answered + Send + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let ending = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let ended = ending.clone();
        let clock = Clock::start();
        let thread = std::thread::Builder::new().name(name).spawn(move || serve(&listener, &ended, clock, &answer))?;
        Ok(Self { ending, thread: Some(thread) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The port is free when this returns.
        if self.ending.write(1).is_ok() {
            self.thread.take().map(JoinHandle::join);
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    until: Instant,
    asked: Vec<u8>,
    /// What is left to be sent, once it has asked.
    answer: Option<Vec<u8>>,
}

fn serve(listener: &TcpListener, ending: &EventFd, clock: Clock, answer: &impl Fn(&str, SocketAddr) -> Answered) {
    // The oldest first.
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut waiting = vec![PollFd::new(ending.as_fd(), PollFlags::POLLIN)];
        waiting.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        for connection in &connections {
            let speaks = connection.answer.as_ref().is_some_and(|left| !left.is_empty());
            let what = if speaks { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            waiting.push(PollFd::new(connection.stream.as_fd(), what));
        }
        let oldest = connections.first().map(|oldest| oldest.until.saturating_duration_since(clock::now()));
        let patience = oldest.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::NONE)
        });
        let _ = poll(&mut waiting, patience);
        if waiting.first().is_some_and(|ending| ending.any().unwrap_or(true)) {
            return;
        }
        accept(listener, &mut connections);
        let now = clock::now();
        connections.retain_mut(|connection| now < connection.until && connection.go_on(clock, answer).unwrap_or(false));
    }
}

/// Takes all that wait.
fn accept(listener: &TcpListener, connections: &mut Vec<Connection>) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                if connections.len() == CONNECTIONS {
                    connections.remove(0);
                }
                let until = clock::now() + PATIENCE;
                if stream.set_nonblocking(true).is_ok() {
                    connections.push(Connection { stream, peer, until, asked: Vec::new(), answer: None });
                }
                // Most have asked by now; and nobody is turned away for others that came with them.
                return;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            // Whoever came has gone again.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            // No file descriptor is left: the oldest gives up its.
            Err(_) if !connections.is_empty() => drop(connections.remove(0)),
            Err(_) => return std::thread::sleep(PAUSE),
        }
    }
}

impl Connection {
    /// Reads and writes what it can. Whether it goes on.
    fn go_on(&mut self, clock: Clock, answer: &impl Fn(&str, SocketAddr) -> Answered) -> io::Result<bool> {
        let mut some = [0; 1024];
        while self.answer.is_none() {
            match self.stream.read(&mut some) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.asked.extend_from_slice(&some[..count]);
                    self.answer = answered(&self.asked, clock, |path| answer(path, self.peer));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        while let Some(left) = self.answer.as_mut().filter(|left| !left.is_empty()) {
            match self.stream.write(left) {
                Ok(count) => drop(left.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        // Whoever is still speaking may hear the end of it before it is cut off (RFC 9112 §9.6).
        self.stream.shutdown(Shutdown::Write)?;
        match self.stream.read(&mut some) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// The answer to a question, once it is whole.
fn answered(asked: &[u8], clock: Clock, answer: impl FnOnce(&str) -> Answered) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let (status, headers, body) = match request.parse(asked) {
        Ok(httparse::Status::Complete(_)) => answer(request.path.unwrap_or_default()),
        Ok(httparse::Status::Partial) if asked.len() < HEAD => return None,
        Ok(httparse::Status::Partial) => (431, Vec::new(), String::new()),
        Err(_) => (400, Vec::new(), String::new()),
    };
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let mut text = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    // RFC 9110 §6.6.1: whoever has a clock says when.
    let date = jiff::Timestamp::from_nanosecond(clock.now().as_nanos().into()).ok();
    let date = date.and_then(|date| DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok());
    for (name, value) in date.map(|date| ("Date", date)).iter().chain(&headers) {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    // RFC 9110 §9.3.2: the headers alone.
    if request.method != Some("HEAD") {
        text += &body;
    }
    Some(text.into_bytes())
}
