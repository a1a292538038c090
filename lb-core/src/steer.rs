//! Which core a packet is for, where several share the traffic and each has a balancer of its own.
//!
//! A client decides: all that it sends to Services, what comes back to it, the fragments of both and ICMP errors about
//! either meet on one core, as does what is remembered of it for session affinity.
//!
//! | packet | goes to the core of |
//! | --- | --- |
//! | to a Service: to an address that is one's alone, or to a port of the node that is one's or in the node ports' range | its source |
//! | to another port of an address that the node masquerades with | the port: its remainder by the number of cores |
//! | to anywhere else: it may be a backend's reply | its destination |
//! | an ICMP error | the packet that would answer the one that it quotes |
//! | a fragment, the first one too | its source if to a Service's address or the node's, else its destination |
//!
//! The last row is by addresses alone, as later fragments have no ports. Where ports would have said otherwise (a backend's
//! fragmented reply to a masqueraded flow), the balancer of that core waits for the first fragment and answers
//! [`Verdict::Elsewhere`](crate::Verdict::Elsewhere) for all of them: whoever calls it hands them on, and is not answered that again.
//!
//! That the replies of a flow come back is no hope but a condition: a balancer begins a flow only for its own
//! clients, and gives it a source port only if the reply is steered to it.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lb_core::{Address, Balancer, Block, Config, Link, RuleTable, Share, Sizes, Steer, blocks};
//!
//! let steer = Steer::new(2, b"a secret of ours");
//! let client = Address::v4([10, 244, 0, 2]);
//! let sizes = Sizes { v4_flows: 1024, v6_flows: 1024, services: 16, affinity: 64, backends: 64, fragments: 16 };
//! let mut memory = [vec![Block::ZERO; blocks(sizes)], vec![Block::ZERO; blocks(sizes)]];
//! let mut balancers = Vec::new();
//! for (core, memory) in (0..).zip(&mut memory) {
//!     let share = Share { core, cores: 2, key: *b"a secret of ours" };
//! #   // An empty one: the examples of the crate and of `control` show how it is filled.
//! #   let room = lb_core::rules::Room { services: 1, vips: 1, segments: 64 };
//! #   let rules = RuleTable::with_room(vec![0u8; room.bytes()], room)?;
//!     // Each has rules of its own, kept alike by the same deltas.
//!     let config = Config { share, ..Config::new([7; 16], core.into()) };
//!     balancers.push(Balancer::new(config, sizes, memory, rules)?);
//! }
//!
//! // An answer to that client, 10.244.1.10:5353 -> 10.244.0.2:4000, from whatever queue it came.
//! let answer = [
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x65, 0x61, 10, 244, 1, 10, 10, 244, 0, 2, // IPv4
//!     0x14, 0xe9, 0x0f, 0xa0, 0, 8, 0, 0, // UDP
//! ];
//! let core = balancers[0].steer(&answer, Link::Ip);
//! assert_eq!(core, balancers[1].steer(&answer, Link::Ip));
//! assert_eq!(core, steer.client(client));
//! # Ok(())
//! # }
//! ```

use crate::hash::AddressHash;
use crate::rules::{Receiver, RuleTable};
use crate::tuple::{Address, Tuple};
use crate::wire::{self, Content, Link};

/// Tells which of several cores a packet is for. The same at every core, given the same number, key and rules.
#[derive(Clone, Copy)]
pub struct Steer {
    hash: AddressHash,
    cores: u16,
}

impl Steer {
    /// Among this many cores, at least 1, by a hash of clients' addresses under this key: strongly universal, so that whoever does not
    /// know the key can't choose addresses that meet on one core.
    pub fn new(cores: u16, key: &[u8; 16]) -> Self {
        Self { hash: AddressHash::new(key), cores: cores.max(1) }
    }

    /// How many cores there are.
    pub const fn cores(&self) -> u16 {
        self.cores
    }

    /// The core that has all flows of this client, below [`cores`](Self::cores).
    #[inline]
    pub fn client(&self, address: Address) -> u16 {
        if self.cores == 1 { 0 } else { self.share(address) }
    }

    fn share(&self, address: Address) -> u16 {
        ((u64::from(self.hash.of(address.bits(), 0)) * u64::from(self.cores)) >> 32) as u16
    }

    /// The core that this packet is for. `None` if any core may have it, as it is neither of a flow nor begins one: it is not IP,
    /// malformed, or of a protocol without ports.
    ///
    /// Pure: of the bytes only headers and what an ICMP error quotes are read. Two tables of other rules may say
    /// otherwise of a service that only one of them has; a balancer that is then given a stranger's packet says so.
    pub fn core<M: AsRef<[u8]>>(&self, rules: &RuleTable<M>, data: &[u8], link: Link) -> Option<u16> {
        // Where flash is dear one reader does.
        if usize::BITS >= 64
            && let Some(plain) = wire::plain::read(data, link, 0)
        {
            return Some(self.tuple(rules, &(&plain.tuple).into()));
        }
        let headers = wire::parse(data, link).ok()??;
        match headers.content {
            _ if headers.fragment.is_some() => Some(self.fragment(rules, &headers.tuple)),
            Content::Error(quoted) => Some(self.tuple(rules, &quoted.tuple.reversed())),
            Content::Tcp(_) | Content::Udp | Content::Sctp(_) => Some(self.tuple(rules, &headers.tuple)),
            Content::EchoRequest | Content::LaterFragment | Content::Other => None,
        }
    }

    /// The core that a packet of this tuple is for, whose ports are known.
    pub(crate) fn tuple<M: AsRef<[u8]>>(&self, rules: &RuleTable<M>, tuple: &Tuple) -> u16 {
        if self.cores == 1 {
            return 0;
        }
        match rules.receiver(tuple.destination) {
            Receiver::Service => self.client(tuple.source),
            Receiver::Node { .. } if rules.serves_on_node(tuple) => self.client(tuple.source),
            Receiver::Node { masquerades: true } => tuple.destination_port.checked_rem(self.cores).unwrap_or(0),
            Receiver::Node { masquerades: false } | Receiver::Other => self.client(tuple.destination),
        }
    }

    /// The core that all fragments of a datagram with these addresses go to first.
    fn fragment<M: AsRef<[u8]>>(&self, rules: &RuleTable<M>, tuple: &Tuple) -> u16 {
        self.client(match rules.receiver(tuple.destination) {
            Receiver::Service | Receiver::Node { .. } => tuple.source,
            Receiver::Other => tuple.destination,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores of one node may be of several machines (a NIC's and its host's): what one says, all must say, whatever their byte order.
    #[test]
    fn a_client_has_one_core_on_every_machine() {
        let steer = Steer::new(1000, &[7; 16]);
        let clients =
            [[10, 244, 0, 1], [10, 244, 0, 2], [203, 0, 113, 5]].map(|client| steer.client(Address::v4(client)));
        let v6 = steer.client(Address::from_bits(0x2001_0db8 << 96 | 1));
        assert_eq!((clients, v6), ([418, 798, 777], 226));
    }
}
