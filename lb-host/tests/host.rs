//! Hosts in memory, on a wire of two.

use std::collections::VecDeque;
use std::time::Duration;

use lb_core::{Address, Instant};
use lb_host::chance::Chance;
use lb_host::host::{ConnectionId, Error, Host, Strangeness};

const V4: (Address, Address) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2]));
const V6: (Address, Address) = (Address::from_bits(0xfd00 << 112 | 1), Address::from_bits(0xfd00 << 112 | 2));

/// Two hosts and what lies between them.
struct Wire {
    left: Host,
    right: Host,
    now: Instant,
    /// Packets under way, with the time they arrive and whether the right one gets them.
    flying: VecDeque<(Instant, bool, Vec<u8>)>,
    chance: Chance,
    loss: u32,
    jitter: u64,
    packets: usize,
}

impl Wire {
    fn new(seed: u64, loss: u32, jitter: u64) -> Self {
        Self::of(Host::new(&[V4.0, V6.0], seed), Host::new(&[V4.1, V6.1], seed + 1), seed, loss, jitter)
    }

    fn of(left: Host, right: Host, seed: u64, loss: u32, jitter: u64) -> Self {
        let chance = Chance::new(seed);
        Self { left, right, now: Instant::ORIGIN, flying: VecDeque::new(), chance, loss, jitter, packets: 0 }
    }

    /// Goes on to the next thing that happens; false if nothing ever will.
    fn step(&mut self) -> bool {
        for to_right in [true, false] {
            let sender = if to_right { &mut self.left } else { &mut self.right };
            for packet in sender.poll(self.now) {
                self.packets += 1;
                let delay = Duration::from_nanos(500_000 + self.chance.below(self.jitter));
                if !self.chance.in_a_million(self.loss) {
                    self.flying.push_back((self.now.saturating_add(delay), to_right, packet));
                }
            }
        }
        let deadlines = [self.left.next_deadline(self.now), self.right.next_deadline(self.now)];
        let next = self.flying.iter().map(|flying| flying.0).chain(deadlines.into_iter().flatten()).min();
        let Some(next) = next else { return false };
        self.now = next;
        while let Some(at) = self.flying.iter().position(|flying| flying.0 <= next) {
            let (_, to_right, packet) = self.flying.remove(at).unwrap();
            let receiver = if to_right { &mut self.right } else { &mut self.left };
            receiver.receive(next, packet);
        }
        true
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        while !holds(self) {
            let goes_on = self.step();
            assert!((goes_on || holds(self)) && self.now < Instant::from_secs(900), "{what}: not by {:?}", self.now);
        }
    }

    fn strays(&self) -> Vec<Strangeness> {
        self.left.strays().chain(self.right.strays()).map(|stray| stray.strangeness).collect()
    }
}

fn connected(wire: &mut Wire, to: Address, port: u16) -> (ConnectionId, ConnectionId) {
    let listener = wire.right.listen(None, port).unwrap();
    let client = wire.left.connect(wire.now, None, (to, port)).unwrap();
    let mut server = None;
    wire.until("accepted", |wire| {
        server = wire.right.accept(listener);
        server.is_some()
    });
    (client, server.unwrap())
}

#[test]
fn a_transfer_comes_whole_through_loss_and_reordering() {
    for (to, loss, jitter, seed) in
        [(V4.1, 0, 0, 1), (V6.1, 0, 0, 2), (V4.1, 20_000, 300_000, 3), (V6.1, 20_000, 300_000, 4)]
    {
        let mut wire = Wire::new(seed, loss, jitter);
        let (client, server) = connected(&mut wire, to, 80);
        let mut chance = Chance::new(seed);
        let bytes: Vec<u8> = (0..2_000_000 / 8).flat_map(|_| chance.draw().to_le_bytes()).collect();
        let (mut sent, mut got) = (0, Vec::new());
        wire.until("the end", |wire| {
            if sent < bytes.len() {
                sent += wire.left.send(client, &bytes[sent..]).unwrap();
                if sent == bytes.len() {
                    wire.left.release(client);
                }
            }
            !wire.right.recv(server, &mut got).unwrap()
        });
        assert!(got == bytes, "{} of {} bytes, or others", got.len(), bytes.len());
        wire.right.release(server);
        while wire.step() {}
        assert_eq!((wire.left.connections(), wire.right.connections()), (0, 0));
        assert!(wire.strays().iter().all(|stray| *stray == Strangeness::Late), "{:?}", wire.strays());
        assert!(wire.packets < 10_000, "{} packets", wire.packets);
    }
}

#[test]
fn many_connect_to_one_port_at_once() {
    let mut wire = Wire::new(5, 0, 200_000);
    let listener = wire.right.listen(None, 80).unwrap();
    let clients: Vec<_> = (0..100).map(|_| wire.left.connect(Instant::ORIGIN, None, (V4.1, 80)).unwrap()).collect();
    let mut served = 0;
    wire.until("all served", |wire| {
        while wire.right.accept(listener).is_some() {
            served += 1;
        }
        served == clients.len()
    });
    assert!(clients.iter().all(|client| wire.left.is_established(*client)));
}

#[test]
fn nobody_there_is_told_as_linux_tells_it() {
    for to in [V4.1, V6.1] {
        let mut wire = Wire::new(6, 0, 0);
        let refused = wire.left.connect(wire.now, None, (to, 81)).unwrap();
        wire.until("refused", |wire| wire.left.failure(refused).is_some());
        assert_eq!(wire.left.failure(refused), Some(Error::Refused));
        assert_eq!(wire.left.send(refused, b"x"), Err(Error::Refused));

        let socket = wire.left.bind(None, 5353).unwrap();
        wire.left.send_to(socket, None, (to, 54), b"hello").unwrap();
        let mut error = None;
        wire.until("told", |wire| {
            error = wire.left.udp_error(socket);
            error.is_some()
        });
        assert_eq!(error, Some(((to, 54), Error::Refused)));
        assert_eq!(wire.strays(), [Strangeness::Closed; 2], "a SYN and a datagram to closed ports");
    }
    // Silence.
    let mut wire = Wire::new(7, 1_000_000, 0);
    let dropped = wire.left.connect(wire.now, None, (V4.1, 80)).unwrap();
    wire.until("given up", |wire| wire.left.failure(dropped).is_some());
    assert_eq!(wire.left.failure(dropped), Some(Error::TimedOut));
    assert!(wire.now >= Instant::from_secs(127));
}

#[test]
fn icmp_errors_reach_whom_they_concern() {
    use etherparse::icmpv4::DestUnreachableHeader as V4Code;
    use etherparse::icmpv6::DestUnreachableCode as V6Code;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
    for (v4, v6, expected) in
        [(V4Code::Port, V6Code::Port, Error::Refused), (V4Code::HostUnknown, V6Code::NoRoute, Error::Unreachable)]
    {
        for (own, to) in [(V4.0, V4.1), (V6.0, V6.1)] {
            let mut host = Host::new(&[own], 8);
            let connection = host.connect(Instant::ORIGIN, None, (to, 80)).unwrap();
            let syn = host.poll(Instant::ORIGIN).pop_front().unwrap();
            let mut error = Vec::new();
            let octets = |address: Address| address.octets();
            // A router on the way, which quotes the SYN.
            let written = match own.is_v4() {
                true => PacketBuilder::ipv4([10, 9, 9, 9], octets(own)[12..].try_into().unwrap(), 64)
                    .icmpv4(Icmpv4Type::DestinationUnreachable(v4.clone()))
                    .write(&mut error, &syn),
                false => PacketBuilder::ipv6([9; 16], octets(own), 64)
                    .icmpv6(Icmpv6Type::DestinationUnreachable(v6))
                    .write(&mut error, &syn),
            };
            written.unwrap();
            let mut other = Host::new(&[own], 9);
            other.receive(Instant::ORIGIN, error.clone());
            assert_eq!(other.stray_counts()[&Strangeness::NoSocket], 1, "not its own SYN");
            host.receive(Instant::ORIGIN, error);
            assert_eq!(host.failure(connection), Some(expected));
            assert!(host.poll(Instant::from_secs(9)).is_empty(), "no reset, no other SYN");
        }
    }
}

#[test]
fn datagrams_of_every_length_and_echoes_come_back() {
    let mut wire = Wire::new(10, 0, 0);
    let server = wire.right.bind(None, 7).unwrap();
    let client = wire.left.bind(None, 0).unwrap();
    for (to, length) in [(V4.1, 0), (V4.1, 1472), (V4.1, 1473), (V4.1, 9000), (V6.1, 0), (V6.1, 1452)] {
        let payload: Vec<u8> = (0..length).map(|at: usize| at as u8).collect();
        wire.left.send_to(client, None, (to, 7), &payload).unwrap();
        let mut back = None;
        wire.until("echo", |wire| {
            if let Some(datagram) = wire.right.recv_from(server) {
                assert_eq!(datagram.to, to);
                wire.right.send_to(server, Some(datagram.to), datagram.from, &datagram.payload).unwrap();
            }
            back = wire.left.recv_from(client);
            back.is_some()
        });
        let back = back.unwrap();
        assert!(back.payload == payload && back.from == (to, 7), "{length} bytes to {to}");
    }
    assert_eq!(wire.left.send_to(client, None, (V6.1, 7), &[0; 1453]), Err(Error::TooLong));
    for to in [V4.1, V6.1] {
        wire.left.ping(to, 3).unwrap();
        let mut echo = None;
        wire.until("pong", |wire| {
            echo = wire.left.echo();
            echo.is_some()
        });
        let echo = echo.unwrap();
        assert_eq!((echo.from, echo.sequence, echo.error), (to, 3, None));
    }
    assert_eq!(wire.strays(), []);
}

#[test]
fn what_nobody_asked_for_is_kept_for_the_record() {
    let mut wire = Wire::new(11, 0, 0);
    let (client, server) = connected(&mut wire, V4.1, 80);
    wire.right.send(server, b"answer").unwrap();
    let mut answer = wire.right.poll(wire.now).pop_front().unwrap();
    // As if its source had not been translated back.
    let checksum_also = |packet: &mut [u8], at: usize, add: u8| {
        packet[at] += add;
        for sum in [10, 36] {
            let old = u16::from_be_bytes([packet[sum], packet[sum + 1]]);
            let (new, borrow) = old.overflowing_sub(u16::from(add));
            packet[sum..sum + 2].copy_from_slice(&(new - u16::from(borrow)).to_be_bytes());
        }
    };
    checksum_also(&mut answer, 15, 1);
    wire.left.receive(wire.now, answer.clone());
    let mut broken = answer.clone();
    *broken.last_mut().unwrap() ^= 1;
    wire.left.receive(wire.now, broken);
    wire.right.receive(wire.now, answer);
    wire.left.receive(wire.now, vec![0x45]);
    assert_eq!(
        wire.strays(),
        [Strangeness::NoSocket, Strangeness::WrongChecksum, Strangeness::Malformed, Strangeness::NotAddressed]
    );
    assert_eq!(wire.left.strays().next().unwrap().tuple.to_string().split_once(" -> ").unwrap().0, "tcp 10.0.0.3:80");
    wire.left.abort(client);
    wire.until("reset", |wire| wire.right.failure(server).is_some());
    assert_eq!(wire.right.failure(server), Some(Error::Reset));
}

#[test]
fn what_comes_after_a_port_was_given_back_is_late_and_not_strange() {
    for (to, port, kept) in [(V4.1, 54, false), (V6.1, 54, false), (V4.1, 53, true), (V6.1, 53, true)] {
        let mut wire = Wire::new(12, 0, 0);
        let server = wire.right.bind(None, 53).unwrap();
        let socket = wire.left.bind(None, 0).unwrap();
        wire.left.send_to(socket, None, (to, port), b"question").unwrap();
        wire.step();
        wire.left.unbind(socket);
        while let Some(datagram) = wire.right.recv_from(server) {
            wire.right.send_to(server, Some(to), datagram.from, b"answer").unwrap();
        }
        while wire.step() {}
        // A datagram, or an error about the one that was sent; who is asked in vain notes that, too.
        assert_eq!(wire.left.stray_counts().iter().collect::<Vec<_>>(), [(&Strangeness::Late, &1)], "{to}:{port}");
        assert_eq!(wire.right.stray_counts().is_empty(), kept, "{to}:{port}");
    }
}

#[test]
fn the_same_seed_is_the_same_packets() {
    let run = |seed| {
        let mut host = Host::new(&[V4.0], seed);
        host.connect(Instant::ORIGIN, None, (V4.1, 80)).unwrap();
        host.bind(None, 0).map(|socket| host.send_to(socket, None, (V4.1, 53), b"?")).unwrap().unwrap();
        host.poll(Instant::ORIGIN)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_lost_fin_is_repeated_however_often_the_data_before_it_is_confirmed() {
    let mut wire = Wire::new(12, 0, 0);
    let (client, server) = connected(&mut wire, V4.1, 80);
    wire.left.send(client, b"all there is").unwrap();
    let data = wire.left.poll(wire.now).pop_front().unwrap();
    wire.left.close(client);
    assert_eq!(wire.left.poll(wire.now).len(), 1, "the FIN, which is lost");
    wire.right.receive(wire.now, data);
    wire.now = wire.now.saturating_add(Duration::from_millis(20));
    let confirmation = wire.right.poll(wire.now).pop_front().unwrap();
    for _ in 0..5 {
        wire.left.receive(wire.now, confirmation.clone());
        wire.left.poll(wire.now);
    }
    wire.until("closed", |wire| !wire.right.recv(server, &mut Vec::new()).unwrap());
}

#[test]
fn who_gives_up_connecting_says_nothing() {
    for give_up in [Host::abort, Host::release] {
        let mut host = Host::new(&[V4.0], 13);
        let connection = host.connect(Instant::ORIGIN, None, (V4.1, 80)).unwrap();
        assert_eq!(host.poll(Instant::ORIGIN).len(), 1, "the SYN");
        give_up(&mut host, connection);
        assert!(host.poll(Instant::from_secs(300)).is_empty());
        assert_eq!(host.connections(), 0);
    }
}
