//! Says on links, by ARP and neighbour discovery, that the addresses of Services are here.
//!
//! Where nobody routes them here (Vips in a subnet of the link, as small clusters without BGP have them) someone has to answer whoever
//! looks for them. Frames that come in consequence are the kernel's to receive and to send to `lb run`'s device.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use lb_core::Address;
use nix::sys::socket::sockopt::SetStruct;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use tracing::warn;

use crate::device::af_packet::link;
use crate::device::neighbour::{Mac, announcement, answer};

/// The longest question: an Ethernet header and what IPv6 guarantees.
const QUESTION: usize = 14 + 1280;

/// How long a link that is down is left alone.
const DOWN: Duration = Duration::from_millis(200);

/// The links that are answered on, and the addresses that are asked for.
#[derive(Default)]
pub(super) struct Neighbours {
    links: Vec<Arc<Link>>,
    here: Arc<Mutex<BTreeSet<Address>>>,
}

struct Link {
    name: String,
    socket: OwnedFd,
    own: Mac,
}

nix::setsockopt_impl!(
    AttachFilter,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog,
    SetStruct<libc::sock_fprog>
);
nix::setsockopt_impl!(
    AddMembership,
    libc::SOL_PACKET,
    libc::PACKET_ADD_MEMBERSHIP,
    libc::packet_mreq,
    SetStruct<libc::packet_mreq>
);

#[derive(Clone, Copy)]
struct AttachFilter;
#[derive(Clone, Copy)]
struct AddMembership;

/// (operation, jump if so, jump if not, value): ARP, or a neighbour solicitation right behind IPv6's header.
const QUESTIONS: [(u32, u8, u8, u32); 9] = [
    (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 12),
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 6, 0, 0x0806),
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 4, 0x86dd),
    (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 20),
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 2, 58),
    (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 54),
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, 135),
    (libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    (libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
];

impl Neighbours {
    /// Begins to answer on these interfaces, about no address yet.
    ///
    /// # Errors
    /// There is no such interface, or the right `CAP_NET_RAW` is missing.
    pub(super) fn open(interfaces: &[String]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for name in interfaces {
            let link = Link::open(name).with_context(|| format!("answering on {name}"))?;
            let link = Arc::new(link);
            let (answering, here) = (link.clone(), all.here.clone());
            std::thread::Builder::new().name(format!("arp-{name}")).spawn(move || answering.answer_all(&here))?;
            all.links.push(link);
        }
        Ok(all)
    }

    /// From now on these addresses are here, and no others; those that were not before are announced.
    pub(super) fn serve(&self, addresses: BTreeSet<Address>) {
        let new: Vec<Address> = {
            let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
            let new = addresses.difference(&here).copied().collect();
            *here = addresses;
            new
        };
        for link in &self.links {
            let frames = new.iter().filter_map(|address| announcement(link.own, (*address).into()));
            frames.for_each(|frame| link.say(&frame));
        }
    }
}

impl Link {
    fn open(name: &str) -> io::Result<Self> {
        let address = link(name)?;
        let own = address.addr().filter(|own| *own != [0; 6]);
        let own = own.ok_or_else(|| io::Error::other("it has no Ethernet address, so nobody asks there"))?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        let mut filter = QUESTIONS.map(|(code, jt, jf, k)| libc::sock_filter { code: code as u16, jt, jf, k });
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        setsockopt(&socket, AttachFilter, &program)?;
        // Solicitations go to a group for each address.
        let groups = libc::packet_mreq {
            mr_ifindex: address.ifindex() as i32,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        setsockopt(&socket, AddMembership, &groups)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { name: name.to_owned(), socket, own })
    }

    /// Answers until the process ends.
    fn answer_all(&self, here: &Mutex<BTreeSet<Address>>) {
        let mut frame = [0; QUESTION];
        loop {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => {
                    let is_here = |address: std::net::IpAddr| {
                        here.lock().unwrap_or_else(PoisonError::into_inner).contains(&address.into())
                    };
                    if let Some(frame) = answer(&frame[..length.min(QUESTION)], self.own, is_here) {
                        self.say(&frame);
                    }
                }
                Err(_) => std::thread::sleep(DOWN),
            }
        }
    }

    fn say(&self, frame: &[u8]) {
        if let Err(error) = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            warn!(interface = self.name, "could not say whose an address is: {error}");
        }
    }
}
