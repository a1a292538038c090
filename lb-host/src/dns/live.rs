//! The server on the sockets of the operating system, and an upstream behind them. Threads: one for datagrams,
//! a few that wait for the upstream, one a connection; all end with the process.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_proto::op::Query;

use super::client::{self, Config, Exchange};
use super::message::UNCUT;
use super::server::{Forward, Outcome, Server, Transport};
use super::stream::Stream;
use super::upstream::{Reply, Upstream};

/// Connections that are served at once; more are closed again.
const CONNECTIONS: usize = 128;
/// How long a connection may be silent (RFC 7766 §6.2.3 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams that may wait for the upstream at once; more are answered SERVFAIL.
const WAITING: usize = 256;
/// Threads that wait for the upstream.
const WAITERS: usize = 8;
/// How long the upstream has, each of two times: less than a client waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many stray datagrams are passed over before an answer counts as missing.
const STRAYS: usize = 16;
/// How often another port is tried where any will do, but not both TCP's and UDP's are free.
const PORTS: usize = 16;

/// An address open for datagrams and connections.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Opens an address for both; port 0 takes one that is free.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let open = || {
            let tcp = TcpListener::bind(address)?;
            let address = tcp.local_addr()?;
            Ok(Self { udp: UdpSocket::bind(address)?, tcp, address })
        };
        let tries = if address.port() == 0 { PORTS } else { 1 };
        let mut last = open();
        for _ in 1..tries {
            if !last.as_ref().is_err_and(|error: &io::Error| error.kind() == ErrorKind::AddrInUse) {
                break;
            }
            last = open();
        }
        last
    }

    /// The address, with its port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on threads of its own. `trouble` is told what ends it, if anything does.
    ///
    /// # Errors
    /// The operating system has no threads to give.
    pub fn serve(
        self,
        server: Server,
        upstream: Option<Remote>,
        trouble: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<()> {
        let server = Arc::new(server);
        let (waiting, waiters) = sync_channel(WAITING);
        let waiters = Arc::new(Mutex::new(waiters));
        for _ in 0..upstream.map_or(0, |_| WAITERS) {
            let (udp, waiters) = (self.udp.try_clone()?, Arc::clone(&waiters));
            spawn("dns upstream", move || {
                upstream.into_iter().for_each(|upstream| forward(&udp, &waiters, &upstream))
            })?;
        }
        let (udp, theirs) = (self.udp, Arc::clone(&server));
        let waiting = upstream.map(|_| waiting);
        spawn("dns udp", move || trouble(datagrams(&udp, &theirs, waiting.as_ref())))?;
        let tcp = self.tcp;
        spawn("dns tcp", move || connections(&tcp, &server, upstream))
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// A query that waits for the upstream, and who asked.
type Waiting = (Forward, SocketAddr);

fn datagrams(udp: &UdpSocket, server: &Server, waiting: Option<&SyncSender<Waiting>>) -> io::Error {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, client) = match udp.recv_from(&mut buffer) {
            Ok(received) => received,
            // An answer sent before could not be delivered.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Interrupted | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                ) =>
            {
                continue;
            }
            Err(error) => return error,
        };
        let reply = match server.take(&buffer[..length], Transport::Udp, waiting.is_some()) {
            Outcome::Silence => continue,
            Outcome::Reply(reply) => reply,
            Outcome::Forward(forward) => {
                let Some(waiting) = waiting else { continue };
                match waiting.try_send((forward, client)) {
                    Ok(()) => continue,
                    Err(TrySendError::Full((forward, _)) | TrySendError::Disconnected((forward, _))) => {
                        forward.finish(None)
                    }
                }
            }
        };
        // A client that cannot be reached asks again.
        let _ = udp.send_to(&reply, client);
    }
}

fn forward(udp: &UdpSocket, waiting: &Mutex<Receiver<Waiting>>, upstream: &Remote) {
    loop {
        let next = waiting.lock().map(|waiting| waiting.recv());
        let Ok(Ok((forward, client))) = next else { return };
        let reply = upstream.exchange(forward.question(), forward.id());
        let _ = udp.send_to(&forward.finish(reply), client);
    }
}

fn connections(tcp: &TcpListener, server: &Arc<Server>, upstream: Option<Remote>) {
    let open = Arc::new(AtomicUsize::new(0));
    for connection in tcp.incoming() {
        let Ok(connection) = connection else {
            // Most likely no descriptor is free: some connection ends soon.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (server, theirs) = (Arc::clone(server), Arc::clone(&open));
        let spawned = spawn("dns connection", move || {
            // However it ends, there is nobody else to tell.
            let _ = converse(connection, &server, upstream.as_ref().map(|upstream| upstream as &dyn Upstream));
            theirs.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(mut connection: TcpStream, server: &Server, upstream: Option<&dyn Upstream>) -> io::Result<()> {
    connection.set_read_timeout(Some(IDLE))?;
    connection.set_write_timeout(Some(IDLE))?;
    connection.set_nodelay(true)?;
    let mut stream = Stream::default();
    let mut buffer = vec![0; 4096];
    loop {
        let length = connection.read(&mut buffer)?;
        let mut received = &buffer[..length];
        if received.is_empty() {
            return Ok(());
        }
        while !received.is_empty() {
            received = &received[stream.receive(received)..];
            server.stream(&mut stream, upstream);
            while !stream.output().is_empty() {
                connection.write_all(stream.output())?;
                stream.sent(stream.output().len());
                server.stream(&mut stream, upstream);
            }
        }
    }
}

/// A server elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Upstream for Remote {
    fn ask(&self, question: &Query) -> Option<Reply> {
        // The port, which the operating system draws, tells answers apart.
        self.exchange(question, 0)
    }
}

impl Remote {
    fn exchange(&self, question: &Query, id: u16) -> Option<Reply> {
        let config = Config {
            servers: vec![self.address],
            search: Vec::new(),
            ndots: 0,
            attempts: 2,
            timeout: PATIENCE,
            datagram: Some(UNCUT),
            stops_at_no_data: false,
        };
        let mut exchange = Exchange::new(&config, question.clone(), id).ok()?;
        while let Some(outgoing) = exchange.next() {
            if ask(&outgoing, &mut exchange).is_err() {
                exchange.timed_out();
            }
        }
        let message = exchange.answer()?;
        Some(Reply {
            code: message.metadata.response_code,
            answers: message.answers.clone(),
            authorities: message.authorities.clone(),
        })
    }
}

/// Sends what is to be sent, and hands what is received to the exchange.
fn ask(outgoing: &client::Send, exchange: &mut Exchange) -> io::Result<()> {
    match outgoing.transport {
        Transport::Udp => {
            let any: SocketAddr = match outgoing.server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let udp = UdpSocket::bind(any)?;
            udp.connect(outgoing.server)?;
            udp.set_read_timeout(Some(outgoing.timeout))?;
            udp.send(&outgoing.query)?;
            let mut buffer = vec![0; usize::from(u16::MAX)];
            for _ in 0..STRAYS {
                let length = udp.recv(&mut buffer)?;
                if exchange.response(&buffer[..length]) {
                    return Ok(());
                }
            }
        }
        Transport::Tcp => {
            let mut tcp = TcpStream::connect_timeout(&outgoing.server, outgoing.timeout)?;
            tcp.set_read_timeout(Some(outgoing.timeout))?;
            tcp.set_write_timeout(Some(outgoing.timeout))?;
            let mut query = Stream::default();
            query.send(&outgoing.query);
            tcp.write_all(query.output())?;
            let mut length = [0; 2];
            tcp.read_exact(&mut length)?;
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            tcp.read_exact(&mut reply)?;
            if exchange.response(&reply) {
                return Ok(());
            }
        }
    }
    Err(ErrorKind::InvalidData.into())
}
