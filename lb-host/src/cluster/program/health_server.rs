//! The health-check ports of a node (SEMANTICS §10.1): each answers any request with what it was told last.

use std::collections::BTreeMap;

use lb_core::{Family, Instant};

use super::Program;
use crate::health::Answer;
use crate::host::{ConnectionId, Host, ListenerId};

/// Serves a node's health-check ports.
#[derive(Default)]
pub struct HealthServer {
    answers: BTreeMap<(u16, Family), Answer>,
    listeners: BTreeMap<u16, ListenerId>,
    open: Vec<(ConnectionId, u16, Vec<u8>)>,
}

impl HealthServer {
    /// Answers on these ports from now on, and on no others; each family for itself (§13.1).
    pub fn tell(&mut self, answers: BTreeMap<(u16, Family), Answer>) {
        self.answers = answers;
    }

    /// What is answered on a port of a family.
    pub fn answer(&self, port: u16, family: Family) -> Option<&Answer> {
        self.answers.get(&(port, family))
    }

    /// False when the connection is done with.
    fn serve(&self, host: &mut Host, id: ConnectionId, port: u16, arrived: &mut Vec<u8>) -> bool {
        let Ok(more) = host.recv(id, arrived) else { return false };
        let mut headers = [httparse::EMPTY_HEADER; 32];
        match httparse::Request::new(&mut headers).parse(arrived) {
            Ok(httparse::Status::Partial) => return more,
            Ok(httparse::Status::Complete(_)) => {}
            Err(_) => return false,
        }
        let family = host.local(id).map(|(address, _)| address.family());
        if let Some(answer) = family.and_then(|family| self.answer(port, family)) {
            let reason = if answer.status == 200 { "OK" } else { "Service Unavailable" };
            let headers: String = answer.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let (status, body) = (answer.status, &answer.body);
            let text = format!(
                "HTTP/1.1 {status} {reason}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            // Less than any buffer, and the first that is sent: there is room for it.
            let _ = host.send(id, text.as_bytes());
        }
        false
    }
}

impl Program for HealthServer {
    fn poll(&mut self, host: &mut Host, _: Instant) {
        let wanted = |port: &u16| [Family::V4, Family::V6].iter().any(|family| self.answer(*port, *family).is_some());
        let gone: Vec<u16> = self.listeners.keys().copied().filter(|port| !wanted(port)).collect();
        for listener in gone.iter().filter_map(|port| self.listeners.remove(port)) {
            host.unlisten(listener);
        }
        for (port, _) in self.answers.keys() {
            if !self.listeners.contains_key(port)
                && let Ok(listener) = host.listen(None, *port)
            {
                self.listeners.insert(*port, listener);
            }
        }
        for (port, listener) in &self.listeners {
            while let Some(id) = host.accept(*listener) {
                self.open.push((id, *port, Vec::new()));
            }
        }
        let mut open = std::mem::take(&mut self.open);
        open.retain_mut(|(id, port, arrived)| {
            let goes_on = self.serve(host, *id, *port, arrived);
            if !goes_on {
                host.release(*id);
            }
            goes_on
        });
        self.open = open;
    }

    fn end(&mut self, host: &mut Host) {
        std::mem::take(&mut self.listeners).into_values().for_each(|listener| host.unlisten(listener));
        self.open.drain(..).for_each(|(id, ..)| host.abort(id));
    }
}
