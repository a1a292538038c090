//! Echo requests and what answers them.

use std::collections::VecDeque;

use lb_core::{Address, Protocol};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

use super::{Error, Host, address, ip};

/// What came of an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Who answered; of an error whom it is about.
    pub from: Address,
    /// The request's number.
    pub sequence: u16,
    /// What went wrong, if it did.
    pub error: Option<Error>,
}

pub(super) struct Pinger {
    handle: SocketHandle,
    identifier: u16,
    errors: VecDeque<Echo>,
}

/// Echo requests and answers that may wait, and their bytes.
const WAITING: (usize, usize) = (16, 4096);
/// What a request carries: enough to be seen.
const PAYLOAD: &[u8; 8] = b"lb-echo!";

impl Host {
    /// Sends an echo request.
    ///
    /// # Errors
    /// [`Error::NoAddress`] without an address of that family; [`Error::InUse`] if too many wait to be sent.
    pub fn ping(&mut self, to: Address, sequence: u16) -> Result<(), Error> {
        let own = self.address_towards(to).ok_or(Error::NoAddress)?;
        let (handle, identifier) = self.pinger()?;
        let socket = self.sockets.get_mut::<Socket>(handle);
        let checksums = ChecksumCapabilities::default();
        let mut message = [0; 8 + PAYLOAD.len()];
        match to.is_v4() {
            true => Icmpv4Repr::EchoRequest { ident: identifier, seq_no: sequence, data: PAYLOAD }
                .emit(&mut Icmpv4Packet::new_unchecked(&mut message), &checksums),
            false => {
                let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) = (own.into(), to.into()) else {
                    return Err(Error::NoAddress);
                };
                Icmpv6Repr::EchoRequest { ident: identifier, seq_no: sequence, data: PAYLOAD }.emit(
                    &source,
                    &destination,
                    &mut Icmpv6Packet::new_unchecked(&mut message),
                    &checksums,
                );
            }
        }
        socket.send_slice(&message, ip(to)).map_err(|_| Error::InUse)
    }

    /// The next answer to an echo request, or the next error about one.
    pub fn echo(&mut self) -> Option<Echo> {
        let pinger = self.pinger.as_mut()?;
        if let Some(error) = pinger.errors.pop_front() {
            return Some(error);
        }
        let (message, from) = self.sockets.get_mut::<Socket>(pinger.handle).recv().ok()?;
        let &[_, _, _, _, _, _, a, b] = message.first_chunk()?;
        Some(Echo { from: address(from), sequence: u16::from_be_bytes([a, b]), error: None })
    }

    /// The one socket for all of a host's requests, made for the first.
    fn pinger(&mut self) -> Result<(SocketHandle, u16), Error> {
        if let Some(pinger) = &self.pinger {
            return Ok((pinger.handle, pinger.identifier));
        }
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; WAITING.0], vec![0; WAITING.1]);
        let mut socket = Socket::new(buffer(), buffer());
        let identifier = self.chance.below(1 << 16) as u16;
        socket.bind(Endpoint::Ident(identifier)).map_err(|_| Error::InUse)?;
        let handle = self.sockets.add(socket);
        self.pinger = Some(Pinger { handle, identifier, errors: VecDeque::new() });
        Ok((handle, identifier))
    }

    /// Takes note of an error if what it quotes, from `at` on, is one of this host's requests.
    pub(super) fn fail_ping(&mut self, packet: &[u8], at: usize, error: Error) -> bool {
        let quoted = packet.get(at..).unwrap_or_default();
        let Ok(Some(headers)) = lb_core::wire::parse(quoted, lb_core::Link::Ip) else { return false };
        let (Protocol::ICMP | Protocol::ICMPV6) = headers.tuple.protocol else { return false };
        let message = quoted.get(usize::from(headers.transport)..).unwrap_or_default();
        let (Some(&[_, _, _, _, a, b, c, d]), Some(pinger)) = (message.first_chunk(), &mut self.pinger) else {
            return false;
        };
        let known = u16::from_be_bytes([a, b]) == pinger.identifier;
        if known {
            let sequence = u16::from_be_bytes([c, d]);
            pinger.errors.push_back(Echo { from: headers.tuple.destination, sequence, error: Some(error) });
        }
        known
    }
}
