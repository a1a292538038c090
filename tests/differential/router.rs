//! The kernel as a router, in the namespace that this process lives in: packets go in and come out of TUN devices, and out of
//! the node's own raw sockets. All of it happens inside the system call that gives the packet, so when that is back
//! everything that came of the packet is there to be read.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use lb_core::Family;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::packets;
use crate::world::{self, GATEWAY, NODE, Place};

/// What is delivered to the node shows on this device: a rule copies it there, where no program is to take it.
const DELIVERED: &str = "own0";

/// In both families: what the node is given shows, and goes no further, as the node's own stack has no part in this.
const WITNESS: &str = "
table ip witness {
chain input { type filter hook input priority 300
 dup to 169.254.9.1 device \"own0\"
 drop
}
}
table ip6 witness {
chain input { type filter hook input priority 300
 dup to 2001:db8:ffff::1 device \"own0\"
 drop
}
}
";

pub struct Router {
    outside: SyncDevice,
    pods: SyncDevice,
    delivered: SyncDevice,
    own_v4: OwnedFd,
    own_v6: OwnedFd,
}

impl Router {
    /// Makes a router of a namespace that has nothing in it yet.
    pub fn new() -> Self {
        let device = |name: &str| {
            let device = DeviceBuilder::new().name(name).enable(false).build_sync().expect("a TUN device");
            device.set_nonblocking(true).expect("a device that does not block");
            device
        };
        let raw = |family| socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).expect("a raw socket");
        let router = Self {
            outside: device("out0"),
            pods: device("pod0"),
            delivered: device(DELIVERED),
            own_v4: raw(AddressFamily::Inet),
            own_v6: raw(AddressFamily::Inet6),
        };
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            // Refusals are not to be few (SEMANTICS §6.4), nor is anybody to be told of a shorter way.
            ("ipv4/icmp_ratemask", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            // kube-proxy's own, in iptables mode (SEMANTICS §9.5).
            ("ipv4/conf/all/route_localnet", "1"),
            // A busy machine is not to be an association's end: whatever is short is as long as a scenario may take, as it is for
            // the engine (judge.rs).
            ("netfilter/nf_conntrack_tcp_timeout_close", "120"),
            ("netfilter/nf_conntrack_sctp_timeout_closed", "120"),
            ("netfilter/nf_conntrack_sctp_timeout_cookie_wait", "120"),
            ("netfilter/nf_conntrack_sctp_timeout_cookie_echoed", "120"),
            ("netfilter/nf_conntrack_sctp_timeout_shutdown_sent", "120"),
            ("netfilter/nf_conntrack_sctp_timeout_shutdown_recd", "120"),
            ("netfilter/nf_conntrack_sctp_timeout_shutdown_ack_sent", "120"),
        ] {
            std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let of = |text| world::of(Family::V6, text);
        for device in ["out0", "pod0", DELIVERED] {
            for (name, value) in [("rp_filter", "0"), ("send_redirects", "0")] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/{name}"), value).unwrap();
            }
            run("ip", &format!("link set {device} addrgenmode none"), "");
            // The node takes a datagram of any length; so must who looks on.
            let mtu = if device == DELIVERED { 65535 } else { 1500 };
            run("ip", &format!("link set {device} up mtu {mtu}"), "");
        }
        run("ip", "link set lo up", "");
        for (address, device) in [
            (format!("{NODE}/24"), "out0"),
            (format!("{GATEWAY}/24"), "pod0"),
            (format!("{}/64", of(NODE)), "out0"),
            (format!("{}/64", of(GATEWAY)), "pod0"),
            ("169.254.9.2/24".into(), DELIVERED),
            ("2001:db8:ffff::2/64".into(), DELIVERED),
        ] {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            run("ip", &format!("address add {address} dev {device}{nodad}"), "");
        }
        run("ip", "route add default dev out0", "");
        run("ip", "-6 route add default dev out0", "");
        router
    }

    /// Forgets every rule and every flow.
    pub fn clear(&self) {
        run("nft", "-f -", &format!("flush ruleset\n{WITNESS}"));
        run("conntrack", "-F", "");
        let _ = self.read();
    }

    /// Gives a packet to the kernel from this side, and says what came out.
    pub fn give(&self, from: Place, packet: &[u8]) -> Vec<(Place, Vec<u8>)> {
        match from {
            Place::Outside => self.outside.send(packet).map(drop).expect("sent"),
            Place::Pods => self.pods.send(packet).map(drop).expect("sent"),
            Place::Node => self.send(packet),
        }
        self.read()
    }

    /// Sends a packet as a program on the node would.
    fn send(&self, packet: &[u8]) {
        let no_flags = MsgFlags::empty();
        let sent = match packets::addresses(packet).1 {
            IpAddr::V4(to) => {
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
                sendto(self.own_v4.as_raw_fd(), packet, &to, no_flags)
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, 0));
                sendto(self.own_v6.as_raw_fd(), packet, &to, no_flags)
            }
        };
        // A rule that drops what the node sends tells the sender so.
        assert!(matches!(sent, Ok(_) | Err(nix::errno::Errno::EPERM)), "{sent:?}");
    }

    fn read(&self) -> Vec<(Place, Vec<u8>)> {
        let mut all = Vec::new();
        let mut buffer = [0; 65536];
        for (place, device) in
            [(Place::Outside, &self.outside), (Place::Pods, &self.pods), (Place::Node, &self.delivered)]
        {
            loop {
                match device.recv(&mut buffer) {
                    Ok(length) => {
                        let packet = &buffer[..length];
                        if !is_chatter(packet) {
                            all.push((place, packet.to_vec()));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{place:?}: {error}"),
                }
            }
        }
        all
    }
}

/// What the kernel says of itself: who listens to which groups, whether there is another router; and that it has waited long
/// enough for fragments of an earlier scenario (RFC 792, RFC 4443 §3.3: code 1), the one thing that it does by the clock.
fn is_chatter(packet: &[u8]) -> bool {
    let waited = if packets::is_v4(packet) { [11, 1] } else { [3, 1] };
    let message = packets::message(packet);
    packets::addresses(packet).1.is_multicast() || message.is_some_and(|message| message.starts_with(&waited))
}

/// Runs a program with this input and returns its output; panics if it fails.
pub fn run(program: &str, arguments: &str, input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let output = child.wait_with_output().expect(program);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {told}\n{input}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
