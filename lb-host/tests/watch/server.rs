//! A small stand-in for an API server, that lists, watches, forgets and hangs up.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub const NODES: &str = "/api/v1/nodes";
pub const BLOCKS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

#[derive(Default)]
pub struct State {
    pub version: u64,
    pub objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    pub watchers: Vec<(&'static str, TcpStream)>,
    pub requests: Vec<String>,
    /// Lists of these are refused, by this status.
    pub unavailable: Vec<(&'static str, u16)>,
    /// The server does not know these kinds.
    pub unheard_of: Vec<&'static str>,
    /// Watches are answered with 410 Gone, in this way.
    pub forgotten: Option<Gone>,
    /// Whose watchers were told so.
    pub told_gone: Vec<&'static str>,
    /// Every watch ends as soon as it has begun.
    pub ends_at_once: bool,
    /// Services are listed one at a time, and so often the next page is no longer to be had.
    pub pages: Option<u32>,
}

/// How a server says that it has forgotten.
#[derive(Clone, Copy)]
pub enum Gone {
    /// By an event, as one does that looks into its cache.
    Event,
    /// By its status.
    Status,
    /// It was restored, and has never come so far.
    Restored,
}

impl State {
    /// A list, or a page of it.
    fn list(&mut self, path: &str, query: &str, mut items: Vec<Value>) -> (u16, Value) {
        let mut meta = json!({"resourceVersion": self.version.to_string()});
        if let Some(lost) = self.pages.as_mut().filter(|_| path == SERVICES) {
            let from =
                query.split('&').find_map(|part| part.strip_prefix("continue=")).and_then(|from| from.parse().ok());
            let from: usize = from.unwrap_or(0);
            if from > 0 && *lost > 0 {
                *lost -= 1;
                return (410, status(410));
            }
            if from + 1 < items.len() {
                meta["continue"] = (from + 1).to_string().into();
            }
            items = items.into_iter().skip(from).take(1).collect();
        }
        // As Go writes a list of none.
        let items = if items.is_empty() { Value::Null } else { items.into() };
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items}))
    }
}

#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    pub address: std::net::SocketAddr,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = Self { state: Arc::default(), address };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = serving.clone();
                // Whoever hangs up has what it wanted.
                std::thread::spawn(move || server.answer(stream).ok());
            }
        });
        server
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("the state"))
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let path = [SERVICES, SLICES, NODES, BLOCKS].into_iter().find(|known| *known == path).expect("a known path");
        let is_watch = query.contains("watch=true");
        let mut state = self.state.lock().expect("the state");
        state.requests.push(target.clone());
        if !is_watch {
            let refused = state.unavailable.iter().find(|(kind, _)| *kind == path).map(|(_, code)| *code);
            let (code, body) = match (refused, state.unheard_of.contains(&path)) {
                (Some(code), _) => (code, status(code)),
                (_, true) => (404, status(404)),
                _ => {
                    let items: Vec<_> = state.objects.entry(path).or_default().values().cloned().collect();
                    state.list(path, query, items)
                }
            };
            let body = body.to_string();
            return write!(
                stream,
                "HTTP/1.1 {code} As asked\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        if state.forgotten.is_some() {
            state.told_gone.push(path);
        }
        if let Some((code, body)) = match state.forgotten {
            Some(Gone::Status) => Some((410, status(410))),
            Some(Gone::Restored) => Some((504, restored())),
            Some(Gone::Event) | None => None,
        } {
            let body = body.to_string();
            return write!(
                stream,
                "HTTP/1.1 {code} As asked\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        if state.ends_at_once {
            return write!(stream, "0\r\n\r\n");
        }
        if state.forgotten.is_some() {
            return send(&mut stream, "ERROR", &status(410));
        }
        // What happened since the version that is asked for.
        let since =
            query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).and_then(|n| n.parse().ok());
        let since: u64 = since.expect("a version");
        let missed: Vec<_> = state.objects.entry(path).or_default().values().cloned().collect();
        for object in missed.iter().filter(|object| version(object) > since) {
            send(&mut stream, "MODIFIED", object)?;
        }
        state.watchers.push((path, stream));
        Ok(())
    }

    /// Stores an object and tells who watches.
    pub fn put(&self, path: &'static str, name: &str, mut object: Value) {
        self.with(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let before = state.objects.entry(path).or_default().insert(name.to_owned(), object.clone());
            tell(state, path, if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        });
    }

    pub fn delete(&self, path: &'static str, name: &str) {
        self.with(|state| {
            state.version += 1;
            let object = state.objects.entry(path).or_default().remove(name).expect("an object");
            tell(state, path, "DELETED", &object);
        });
    }

    pub fn hang_up(&self) {
        self.with(|state| {
            state.watchers.drain(..).for_each(|(_, stream)| drop(stream.shutdown(std::net::Shutdown::Both)))
        });
    }

    pub fn until_watched(&self) {
        let kinds = [SERVICES, SLICES, NODES];
        self.until(|state| kinds.iter().all(|path| state.watchers.iter().any(|(of, _)| of == path)));
    }

    /// Waits until this is so.
    pub fn until(&self, is_so: impl Fn(&State) -> bool) {
        for _ in 0..2000 {
            if self.with(|state| is_so(state)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never came to that: {:?}", self.with(|state| state.requests.clone()));
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).unwrap_or(0)
}

pub fn tell(state: &mut State, path: &str, event: &str, object: &Value) {
    state.watchers.retain_mut(|(of, stream)| *of != path || send(stream, event, object).is_ok());
}

fn send(stream: &mut TcpStream, event: &str, object: &Value) -> std::io::Result<()> {
    let line = format!("{}\n", json!({"type": event, "object": object}));
    write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
    stream.flush()
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "message": "as asked", "code": code})
}

/// As a server of 1.33 says it.
fn restored() -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Timeout", "code": 504,
        "message": "Timeout: Too large resource version: 500, current: 10",
        "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1},
    })
}
