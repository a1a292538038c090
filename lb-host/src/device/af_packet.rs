//! Packet sockets: frames of any interface (packet(7)).
//!
//! `PACKET_VNET_HDR` puts the head of [`Frame`] in front of every frame, both ways, so that what a veth's
//! peer left undone (`TP_STATUS_CSUMNOTREADY`, segments of 64 KiB) is told and handed on. A ring (`TPACKET_V3`) would save
//! the copy, but its frames have one size, which would have to be that of the largest segment.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SetSockOpt, SockFlag, SockProtocol, SockType, SockaddrStorage,
    bind, recvmmsg, sendmmsg, setsockopt, socket, sockopt,
};

use super::frame::HEAD;
use super::{Device, Frame, Received, passes};

/// A socket on all frames that an interface receives.
pub struct PacketSocket {
    socket: OwnedFd,
    name: String,
    index: usize,
    /// It was told that the interface is down, which is the last that it hears of one that is removed.
    is_down: bool,
}

nix::setsockopt_impl!(VnetHeader, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool, nix::sys::socket::sockopt::SetBool);
nix::setsockopt_impl!(IgnoreOutgoing, libc::SOL_PACKET, IGNORE_OUTGOING, bool, nix::sys::socket::sockopt::SetBool);
nix::setsockopt_impl!(
    BypassQueue,
    libc::SOL_PACKET,
    libc::PACKET_QDISC_BYPASS,
    bool,
    nix::sys::socket::sockopt::SetBool
);

nix::setsockopt_impl!(Fanout, libc::SOL_PACKET, libc::PACKET_FANOUT, u32, nix::sys::socket::sockopt::SetStruct<u32>);

/// `PACKET_IGNORE_OUTGOING` of linux/if_packet.h.
const IGNORE_OUTGOING: libc::c_int = 23;

/// Frames that are given to the kernel at a time, and room for those that wait to be received.
const BURST: usize = 64;
const QUEUE: usize = 32 << 20;

#[derive(Clone, Copy)]
struct VnetHeader;
#[derive(Clone, Copy)]
struct IgnoreOutgoing;
#[derive(Clone, Copy)]
struct BypassQueue;
#[derive(Clone, Copy)]
struct Fanout;

impl PacketSocket {
    /// Opens a socket on the interface of this name; one of several among which the kernel shares out frames by flow.
    ///
    /// # Errors
    /// There is no such interface, or the right `CAP_NET_RAW` is missing.
    pub fn open(name: &str, queues: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        let socket = socket.map_err(|error| match error {
            Errno::EPERM => io::Error::other(format!("{}: it takes CAP_NET_RAW", io::Error::from(error))),
            _ => error.into(),
        })?;
        set(&socket, VnetHeader, true)?;
        set(&socket, IgnoreOutgoing, true)?;
        set(&socket, BypassQueue, true)?;
        // More than the sysctl's limit needs CAP_NET_ADMIN, and is only a matter of bursts.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE);
        let _ = setsockopt(&socket, sockopt::SndBuf, &QUEUE);
        let link = link(name)?;
        bind(socket.as_raw_fd(), &link)?;
        if queues > 1 {
            // A number for this process' sockets on this interface, as other processes may share theirs out, too.
            let group = (std::process::id() as u16).wrapping_add(link.ifindex() as u16);
            setsockopt(&socket, Fanout, &(u32::from(group) | libc::PACKET_FANOUT_HASH << 16))?;
        }
        // What came between opening and binding is of any interface.
        let mut frame = Frame::new();
        while nix::sys::socket::recv(socket.as_raw_fd(), frame.room(), MsgFlags::MSG_DONTWAIT).is_ok() {}
        Ok(Self { socket, name: name.to_owned(), index: link.ifindex(), is_down: false })
    }

    /// While the interface is down, whether it is still there.
    fn wait_for_interface(&self) -> io::Result<()> {
        let is_there = link(&self.name).is_ok_and(|link| link.ifindex() == self.index);
        if is_there { Ok(()) } else { Err(super::removed()) }
    }
}

fn set<O: SetSockOpt<Val = bool>>(socket: &OwnedFd, option: O, value: bool) -> io::Result<()> {
    Ok(setsockopt(socket, option, &value)?)
}

/// The link-layer address of an interface, which names it to [`bind`].
pub(crate) fn link(name: &str) -> io::Result<LinkAddr> {
    let links = getifaddrs()?.filter(|one| one.interface_name == name).filter_map(|one| one.address);
    let link = links.filter_map(|address| address.as_link_addr().copied()).next();
    link.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such interface; `ip link` lists them"))
}

impl Device for PacketSocket {
    fn receive(&mut self, frames: &mut [Frame]) -> io::Result<Received> {
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(frames.len(), None);
        let mut slices: Vec<_> = frames.iter_mut().map(|frame| [IoSliceMut::new(frame.room())]).collect();
        let received = recvmmsg(self.socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
        let lengths: Vec<usize> = match received {
            Ok(messages) => messages.map(|message| message.bytes).collect(),
            Err(error) if passes(&error.into()) => {
                self.is_down |= error == Errno::ENETDOWN;
                if self.is_down {
                    self.wait_for_interface()?;
                }
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        self.is_down &= lengths.is_empty();
        for (frame, length) in frames.iter_mut().zip(&lengths) {
            frame.set_length(*length);
        }
        Ok(Received::Frames(lengths.len()))
    }

    fn send(&mut self, frames: &[Frame]) -> io::Result<usize> {
        let mut dropped = 0;
        for mut rest in frames.chunks(BURST) {
            while !rest.is_empty() {
                let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(rest.len(), None);
                let slices: Vec<_> = rest.iter().map(|frame| [IoSlice::new(frame.with_head())]).collect();
                let nowhere = vec![None; rest.len()];
                let flags = MsgFlags::MSG_DONTWAIT;
                let sent = sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, &nowhere, [], flags);
                let count = match sent {
                    Ok(messages) => messages.count(),
                    // The first one can't go: a full queue, or a head that makes no sense to the kernel.
                    Err(error) if passes(&error.into()) || error == Errno::EINVAL => 0,
                    Err(error) => return Err(error.into()),
                };
                dropped += usize::from(count == 0);
                rest = &rest[count.max(1)..];
            }
        }
        Ok(dropped)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

/// The head of a frame is what the kernel prepends here.
const _: () = assert!(HEAD == 10 && size_of::<LinkAddr>() >= 8);
