//! One conversation: what both sides have said so far, and how each looks to the other.

use std::net::SocketAddr;

use crate::packets;
use crate::world::{self, Place};

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    New,
    /// The client has spoken.
    SynSent,
    /// The backend has asked for a connection at the same time.
    Crossing,
    SynReceived,
    /// The client has shown SCTP's cookie.
    Accepting,
    Open,
    /// Both have said their last, and one confirmation is due.
    Closing,
    /// It has ended, and may be opened once more.
    Done,
    Over,
}

pub struct Talk {
    pub protocol: u8,
    pub client: SocketAddr,
    pub dialled: SocketAddr,
    /// Nobody has the address that is dialled, so nobody answers by it.
    pub is_service: bool,
    /// The client as its backend sees it, and the backend.
    pub met: Option<(SocketAddr, SocketAddr)>,
    /// The backend of the connection that was over the same ports before.
    pub before: Option<SocketAddr>,
    /// The last packet that arrived at the backend.
    pub at_backend: Option<Vec<u8>>,
    /// The last one that arrived at the client.
    pub at_client: Option<Vec<u8>>,
    pub stage: Stage,
    pub client_next: u32,
    pub server_next: u32,
    pub client_closed: bool,
    pub server_closed: bool,
    pub client_closed_last: bool,
    /// The backend has said something other than a reset.
    pub is_answered: bool,
    /// Before the backend said anything, there was a reset.
    pub is_forgotten: bool,
    /// The same, as of the last packet.
    pub was_forgotten: bool,
}

impl Talk {
    pub fn new(protocol: u8, client: SocketAddr, dialled: SocketAddr, (client_next, server_next): (u32, u32)) -> Self {
        Self {
            protocol,
            client,
            dialled,
            is_service: false,
            met: None,
            before: None,
            at_backend: None,
            at_client: None,
            stage: Stage::New,
            client_next,
            server_next,
            client_closed: false,
            server_closed: false,
            client_closed_last: false,
            is_answered: false,
            is_forgotten: false,
            was_forgotten: false,
        }
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether a Service took it.
    pub fn is_translated(&self) -> bool {
        self.met.is_some_and(|(_, backend)| backend != self.dialled)
    }

    /// A new connection over the same ports.
    pub fn reopen(&mut self) {
        (self.client_closed, self.server_closed) = (false, false);
        (self.is_answered, self.is_forgotten, self.was_forgotten) = (false, false, false);
        self.client_next = self.client_next.wrapping_add(1_000_000);
        self.server_next = self.server_next.wrapping_add(2_000_000);
        self.before = self.met.map(|(_, backend)| backend);
        (self.met, self.at_backend, self.at_client) = (None, None, None);
        self.stage = Stage::SynSent;
    }

    /// From whom and to whom the next packet of this side goes, as that side knows them.
    pub fn ends(&self, by_client: bool) -> Option<(SocketAddr, SocketAddr)> {
        match by_client {
            true => Some((self.client, self.dialled)),
            false => self.met.map(|(seen, backend)| (backend, seen)),
        }
    }

    /// Where the packets of this side come from.
    pub fn place(&self, by_client: bool) -> Place {
        world::place_of(self.ends(by_client).map_or(self.client, |(from, _)| from).ip())
    }

    pub fn sequence_of(&self, by_client: bool) -> u32 {
        if by_client { self.client_next } else { self.server_next }
    }

    pub fn expected_by(&self, by_client: bool) -> u32 {
        self.sequence_of(!by_client)
    }

    /// Counts what a segment takes of the sequence, and what it does to the connection.
    pub fn said(&mut self, by_client: bool, flags: &str, length: usize) {
        match flags.contains('R') {
            true => self.is_forgotten |= !self.is_answered,
            false => self.is_answered |= !by_client,
        }
        let taken = length as u32 + u32::from(flags.contains(['S', 'F']));
        let next = if by_client { &mut self.client_next } else { &mut self.server_next };
        *next = next.wrapping_add(taken);
    }

    /// Learns from what the kernel let through of a packet of this conversation: who the backend is.
    pub fn saw(&mut self, given: &[Vec<u8>], taken: &[(Place, Vec<u8>)]) {
        let Some(sent) = given.iter().find_map(|packet| packets::ends(packet)) else { return };
        let Some((ends, packet)) = taken.iter().find_map(|(_, packet)| Some((packets::ends(packet)?, packet))) else {
            return;
        };
        if sent != (self.client, self.dialled) {
            self.at_client = Some(packet.clone());
        } else if ends.1 != self.dialled || !self.is_service {
            self.met = Some(ends);
            self.at_backend = Some(packet.clone());
        }
    }
}
