//! Packets in, verdicts out.

use core::mem::size_of;

use super::balancer::lb_balancer;
use super::borrow::{Out, Versioned, handle, handle_mut, slice, slice_mut, struct_size};
use super::status::{call, lb_status};
use crate::{Checksum, Direction, Instant, Link, Meta, Origin, Packet, RejectReason, Verdict};

/// What a packet's first byte is part of.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum lb_link {
    /// An Ethernet II frame, with up to two VLAN tags.
    Ethernet = 0,
    /// An IPv4 or IPv6 header, by its version.
    Ip = 1,
}

/// The state of a packet's transport checksum, which its bytes don't tell.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum lb_checksum {
    /// It covers the packet: updated by the difference, so that a right one stays right and a wrong one wrong.
    Complete = 0,
    /// It covers the pseudo-header only and hardware adds the rest: updated by the addresses' difference.
    Partial = 1,
    /// There is none yet, all of it is hardware's to fill in: left alone.
    Absent = 2,
}

/// Where a packet came from, as far as the caller knows better than its source address tells.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum lb_origin {
    /// Received.
    Wire = 0,
    /// Received on an interface that only pods use.
    Pod = 1,
    /// Sent by the node itself.
    Node = 2,
}

/// What is to be done with a packet.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum lb_action {
    /// Not ours, untouched: route it as if the balancer were not there.
    Pass = 0,
    /// For the node itself, untouched: deliver it locally.
    Accept = 1,
    /// Rewritten in place: route it by its new destination.
    Forward = 2,
    /// A fragment whose first is missing, untouched: keep it until a packet `releases` its `datagram`, and then submit
    /// it again.
    Hold = 3,
    /// Drop it without a word.
    Drop = 4,
    /// Drop it, and send what `lb_write_reply` writes.
    Reject = 5,
    /// For the balancer of another `core`, untouched: hand it over. Only where several share the traffic, and only fragments and
    /// what was not steered.
    Elsewhere = 6,
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum lb_direction {
    /// From the client to the backend.
    Original = 0,
    /// Back.
    Reply = 1,
}

/// A byte that should be one of the enum's numbers; a byte from C may be any.
type LinkByte = u8;
type ChecksumByte = u8;
type OriginByte = u8;
type ActionByte = u8;
type DirectionByte = u8;
pub(super) type CodeByte = u8;

/// What a packet's bytes can't tell about it. All zeros: a whole Ethernet frame from the wire.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct lb_meta {
    /// The address space that its addresses belong to; 0 where there is only one.
    pub zone: u16,
    pub link: LinkByte,
    pub checksum: ChecksumByte,
    pub origin: OriginByte,
    /// Zero.
    pub reserved: [u8; 3],
}

impl lb_meta {
    fn meta(self) -> Result<Meta, lb_status> {
        let link = match self.link {
            0 => Link::Ethernet,
            1 => Link::Ip,
            _ => return Err(lb_status::Value),
        };
        let checksum = match self.checksum {
            0 => Checksum::Complete,
            1 => Checksum::Partial,
            2 => Checksum::Absent,
            _ => return Err(lb_status::Value),
        };
        let origin = match self.origin {
            0 => Origin::Wire,
            1 => Origin::Pod,
            2 => Origin::Node,
            _ => return Err(lb_status::Value),
        };
        if self.reserved != [0; 3] {
            return Err(lb_status::Value);
        }
        Ok(Meta { link, checksum, origin, zone: self.zone })
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct lb_verdict {
    /// What to do with the packet.
    pub action: ActionByte,
    /// Why: an index of counters (`lb_verdict_count`) and of words (`lb_code_label`).
    pub code: CodeByte,
    /// With `LB_ACTION_FORWARD`: which way it goes.
    pub direction: DirectionByte,
    /// Whether `releases` holds the name of a datagram.
    pub has_releases: bool,
    /// With `LB_ACTION_FORWARD`: the flow, as `lb_flow_by_id` knows it, until that flow ends.
    pub flow: u32,
    /// With `LB_ACTION_HOLD`: the name of the fragmented datagram it is of.
    pub datagram: u64,
    /// The datagram whose held fragments may be submitted again, after this packet.
    pub releases: u64,
    /// With `LB_ACTION_ELSEWHERE`: whose it is.
    pub core: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

impl lb_verdict {
    fn new(verdict: Verdict, releases: Option<u64>) -> Self {
        let plain = Self {
            code: verdict.code(),
            has_releases: releases.is_some(),
            releases: releases.unwrap_or(0),
            ..Self::default()
        };
        match verdict {
            Verdict::Pass => Self { action: lb_action::Pass as u8, ..plain },
            Verdict::Accept => Self { action: lb_action::Accept as u8, ..plain },
            Verdict::Forward { flow, direction } => {
                let direction = match direction {
                    Direction::Original => lb_direction::Original,
                    Direction::Reply => lb_direction::Reply,
                };
                let (action, direction) = (lb_action::Forward as u8, direction as u8);
                Self { action, direction, flow: flow.as_u32(), ..plain }
            }
            Verdict::Hold(datagram) => Self { action: lb_action::Hold as u8, datagram: datagram.as_u64(), ..plain },
            Verdict::Elsewhere(core) => Self { action: lb_action::Elsewhere as u8, core, ..plain },
            Verdict::Drop(_) => Self { action: lb_action::Drop as u8, ..plain },
            Verdict::Reject(_) => Self { action: lb_action::Reject as u8, ..plain },
        }
    }
}

/// One packet: in, what the caller knows; out, the verdict.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_packet {
    /// `sizeof (lb_packet)`; the same for every packet of an array.
    pub struct_size: u32,
    /// In: what the bytes can't tell.
    pub meta: lb_meta,
    /// In: the bytes at hand, from the link or IP header on. May be fewer than the packet's own length where a first
    /// segment ends; those beyond the packet (padding) are left alone. Rewritten in place.
    pub data: *mut u8,
    /// In: how many bytes.
    pub length: usize,
    /// Out.
    pub verdict: lb_verdict,
}

// SAFETY: repr(C), a u32 first; numbers, a pointer that is checked before it is used, and a bool that is only written.
unsafe impl Versioned for lb_packet {
    const FIRST: usize = size_of::<Self>();
    const ABSENT: Self = Self {
        struct_size: 0,
        meta: lb_meta { zone: 0, link: 0, checksum: 0, origin: 0, reserved: [0; 3] },
        data: core::ptr::null_mut(),
        length: 0,
        verdict: lb_verdict {
            action: 0,
            code: 0,
            direction: 0,
            has_releases: false,
            flow: 0,
            datagram: 0,
            releases: 0,
            core: 0,
            reserved: [0; 3],
        },
    };
}

/// How many packets the engine is given at once: what a poll-mode driver hands over, less where stack is dear.
const BURST: usize = if usize::BITS >= 64 { 32 } else { 4 };

/// Fewer than this go one by one: laying out a burst costs more than it brings.
const FEW: usize = 4;

/// Judges packets in order, rewrites those that are forwarded, and leaves a verdict in each. If any of them can't be
/// (a NULL pointer, a number that is none of its enum's), nothing has happened to any.
///
/// @param now     nanoseconds since an origin of the caller's choice, the same for every call
/// @param packets an array; the buffers must not overlap
/// @param count   how many; any number, 32 at a time are best
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_process_batch(
    balancer: *mut lb_balancer,
    now: u64,
    packets: *mut lb_packet,
    count: usize,
) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let balancer = unsafe { handle_mut(balancer) }?;
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the first one is there; only structs of this very size are known, so that the array is one of ours.
        unsafe { struct_size(packets) }?;
        // SAFETY: NULL or valid for `count`.
        let packets = unsafe { slice_mut(packets, count) }?;
        for packet in &*packets {
            // SAFETY: the struct is there, and its data is NULL or valid for its length.
            unsafe { (struct_size(packet)?, slice(packet.data, packet.length)?) };
            packet.meta.meta()?;
        }
        let now = Instant::from_nanos(now);
        for burst in packets.chunks_mut(BURST) {
            // On large machines alone: where flash is dear there is one way for all.
            if usize::BITS >= 64 && burst.len() < FEW {
                for packet in burst {
                    // SAFETY: checked above; no two buffers overlap by the caller's promise.
                    let data = unsafe { slice_mut(packet.data, packet.length) }.unwrap_or_default();
                    let mut judged = Packet::new(data, packet.meta.meta().unwrap_or_default());
                    let verdict = balancer.inner.process(now, &mut judged);
                    packet.verdict = lb_verdict::new(verdict, judged.releases.map(|datagram| datagram.as_u64()));
                }
                continue;
            }
            let mut engine: [Packet<'_>; BURST] = core::array::from_fn(|at| match burst.get(at) {
                Some(packet) => {
                    // SAFETY: checked above; no two buffers overlap by the caller's promise.
                    let data = unsafe { slice_mut(packet.data, packet.length) }.unwrap_or_default();
                    Packet::new(data, packet.meta.meta().unwrap_or_default())
                }
                None => Packet::new(&mut [], Meta::default()),
            });
            let filled = engine.get_mut(..burst.len()).unwrap_or_default();
            balancer.inner.process_batch(now, filled);
            for (packet, judged) in burst.iter_mut().zip(filled) {
                packet.verdict = lb_verdict::new(judged.verdict, judged.releases.map(|datagram| datagram.as_u64()));
            }
        }
        Ok(())
    })
}

/// Says which core each packet is for, where several share the traffic (`lb_config`): the same whichever balancer is asked
/// that has the same rules. A client's packets, the replies to it, fragments and ICMP errors of both come to one core. What any
/// core may have (ARP, a ping) stays with this one. Reads headers only; judge the packet on its core, with `lb_process_batch`.
///
/// @param balancer this core's
/// @param packets  an array, as for `lb_process_batch`
/// @param count    how many
/// @param cores    receives a core for each
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_steer(
    balancer: *const lb_balancer,
    packets: *const lb_packet,
    count: usize,
    cores: *mut u16,
) -> lb_status {
    call(|| {
        // SAFETY: NULL or valid.
        let balancer = unsafe { handle(balancer) }?;
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the first one is there; only structs of this very size are known, so that the array is one of ours.
        unsafe { struct_size(packets) }?;
        // SAFETY: NULL or valid for `count`; two arrays by the caller's promise.
        let (packets, cores) = unsafe { (slice(packets, count)?, slice_mut(cores, count)?) };
        for packet in packets {
            // SAFETY: the struct is there, and its data is NULL or valid for its length.
            unsafe { (struct_size(packet)?, slice(packet.data, packet.length)?) };
            packet.meta.meta()?;
        }
        for (packet, core) in packets.iter().zip(cores) {
            // SAFETY: checked above.
            let data = unsafe { slice(packet.data, packet.length) }.unwrap_or_default();
            *core = balancer.inner.steer(data, packet.meta.meta().unwrap_or_default().link);
        }
        Ok(())
    })
}

/// Writes the ICMP error that answers a packet whose verdict is `LB_ACTION_REJECT`, as a packet of the same link:
/// 1280 bytes and the link header always suffice. `LB_STATUS_NOTHING` if there is to be no answer: too many already in
/// this second, a packet that must not be answered (RFC 1122 3.2.2, RFC 4443 2.4), or too little room.
///
/// @param packet  as it came back from `lb_process_batch`
/// @param out     receives the answer; not the packet's own buffer
/// @param room    how many bytes there are
/// @param written receives how many were written
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_write_reply(
    balancer: *mut lb_balancer,
    now: u64,
    packet: *const lb_packet,
    out: *mut u8,
    room: usize,
    written: *mut usize,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (balancer, written) = unsafe { (handle_mut(balancer)?, Out::plain(written)?) };
        // SAFETY: the same; the struct's verdict is not read as a whole, as its bool may hold any byte.
        let (meta, data, length, code) = unsafe {
            struct_size(packet)?;
            ((*packet).meta, (*packet).data, (*packet).length, (*packet).verdict.code)
        };
        let reason = RejectReason::from_code(code).ok_or(lb_status::Value)?;
        // SAFETY: the packet's bytes and the place for the answer are two buffers by the caller's promise.
        let (data, out) = unsafe { (slice_mut(data, length)?, slice_mut(out, room)?) };
        let packet = Packet::new(data, meta.meta()?);
        let length = balancer.inner.write_reply(Instant::from_nanos(now), &packet, reason, out);
        written.put(length.ok_or(lb_status::Nothing)?);
        Ok(())
    })
}
