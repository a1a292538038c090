//! Flows: looked up, saved, brought back.

use core::mem::size_of;

use super::balancer::lb_balancer;
use super::borrow::{Out, Versioned, handle, handle_mut, read, slice_mut, struct_size};
use super::status::{call, lb_status};
use crate::flow::State;
use crate::{Address, Flow, FlowId, Instant, Protocol, RestoreError, Tuple};

/// Where a flow stands; TCP's names are those of RFC 9293 3.3.2 as Linux' conntrack uses them.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum lb_state {
    TcpSynSent = 1,
    TcpSynReceived = 2,
    /// Picked up in mid-stream, the backend not heard yet.
    TcpPickedUp = 3,
    TcpEstablished = 4,
    TcpFinWait = 5,
    TcpCloseWait = 6,
    TcpLastAck = 7,
    TcpTimeWait = 8,
    /// Reset.
    TcpClose = 9,
    /// Nothing seen yet from the backend.
    UdpUnreplied = 10,
    /// Seen both ways.
    UdpStream = 11,
    SctpOpening = 12,
    SctpEstablished = 13,
    SctpClosing = 14,
}

type StateByte = u8;

/// What a flow is recognised by. Ports are numbers of this machine, not of the wire.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_tuple {
    /// The sender, in network order; an IPv4 address as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// The receiver.
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    /// The address space, from `lb_meta`.
    pub zone: u16,
    /// As in the IP header: 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

impl lb_tuple {
    const NONE: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        zone: 0,
        protocol: 0,
        reserved: 0,
    };

    fn new(tuple: &Tuple) -> Self {
        Self {
            source: tuple.source.octets(),
            destination: tuple.destination.octets(),
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            zone: tuple.zone,
            protocol: tuple.protocol.0,
            reserved: 0,
        }
    }

    fn tuple(&self) -> Tuple {
        Tuple {
            source: Address::v6(self.source),
            destination: Address::v6(self.destination),
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: Protocol(self.protocol),
            zone: self.zone,
        }
    }
}

/// A flow as it can be shown, saved and brought back.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_flow {
    /// `sizeof (lb_flow)`; the same for every flow of an array.
    pub struct_size: u32,
    /// Its name in its balancer, until it ends. Ignored by `lb_restore`.
    pub id: u32,
    /// As the client sends: from itself to the address it dialled.
    pub original: lb_tuple,
    /// As the backend answers: from itself to the client, or to the masquerade address.
    pub reply: lb_tuple,
    /// When it will be forgotten if no packet comes, in nanoseconds since the caller's origin.
    pub deadline: u64,
    /// Packets seen from the client and from the backend, each wrapping at 2^32.
    pub packets: [u32; 2],
    /// The slot of its service port in the rules that last decided about it. Ignored by `lb_restore`.
    pub slot: u32,
    /// Where it stands.
    pub state: StateByte,
    /// 1 if its source was replaced by the node's own address, else 0.
    pub masqueraded: u8,
    /// 1 if the client's packets are left as they are and the backend answers directly, else 0.
    pub direct: u8,
    /// Zero.
    pub reserved: u8,
}

// SAFETY: repr(C), a u32 first, numbers only.
unsafe impl Versioned for lb_flow {
    const FIRST: usize = size_of::<Self>();
    const ABSENT: Self = Self {
        struct_size: 0,
        id: 0,
        original: lb_tuple::NONE,
        reply: lb_tuple::NONE,
        deadline: 0,
        packets: [0; 2],
        slot: 0,
        state: 0,
        masqueraded: 0,
        direct: 0,
        reserved: 0,
    };
}

impl lb_flow {
    fn new(struct_size: u32, id: FlowId, flow: &Flow) -> Self {
        Self {
            struct_size,
            id: id.as_u32(),
            original: lb_tuple::new(&flow.original),
            reply: lb_tuple::new(&flow.reply),
            deadline: flow.deadline.as_nanos(),
            packets: flow.packets,
            slot: flow.slot,
            state: state_number(flow.state) as u8,
            masqueraded: flow.masqueraded.into(),
            direct: flow.direct.into(),
            reserved: 0,
        }
    }

    fn flow(&self) -> Result<Flow, lb_status> {
        let flag = |byte| match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(lb_status::Value),
        };
        Ok(Flow {
            original: self.original.tuple(),
            reply: self.reply.tuple(),
            state: state(self.state).ok_or(lb_status::Value)?,
            deadline: Instant::from_nanos(self.deadline),
            masqueraded: flag(self.masqueraded)?,
            direct: flag(self.direct)?,
            packets: self.packets,
            slot: self.slot,
        })
    }
}

/// A flow by its name; `LB_STATUS_NOTHING` once it has ended.
///
/// @param id   `lb_verdict.flow`
/// @param flow receives it; its `struct_size` must be set
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_flow_by_id(balancer: *const lb_balancer, id: u32, flow: *mut lb_flow) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (balancer, out) = unsafe { (handle(balancer)?, Out::versioned(flow)?) };
        let found = balancer.inner.flow(FlowId(id)).ok_or(lb_status::Nothing)?;
        let size = out.size();
        out.put(lb_flow::new(size, FlowId(id), &found));
        Ok(())
    })
}

/// Saves flows, as many as there is room for, from where the last call ended. Begin with a `position` of 0 and go on
/// until `count` is 0. Flows that begin or end in between may or may not be among them.
///
/// @param position where to go on; advanced
/// @param flows    an array; `struct_size` must be set in every one
/// @param room     how many there are
/// @param count    receives how many were written
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_flows(
    balancer: *const lb_balancer,
    position: *mut u32,
    flows: *mut lb_flow,
    room: usize,
    count: *mut usize,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (balancer, count, position) = unsafe { (handle(balancer)?, Out::plain(count)?, slice_mut(position, 1)?) };
        // SAFETY: NULL or valid for `room`.
        let flows = unsafe { slice_mut(flows, room) }?;
        for flow in &*flows {
            // SAFETY: the struct is there.
            unsafe { struct_size(flow) }?;
        }
        let [position] = position else { return Err(lb_status::Null) };
        let mut written = 0;
        for (out, (id, flow)) in flows.iter_mut().zip(balancer.inner.flows_from(FlowId(*position))) {
            *out = lb_flow::new(out.struct_size, id, &flow);
            *position = id.0.saturating_add(1);
            written += 1;
        }
        count.put(written);
        Ok(())
    })
}

/// Puts a flow in that another balancer, or this one before a restart, had. Its next packet is compared with the rules.
///
/// @param flow as saved
/// @param id   receives its name here; may be NULL
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_restore(balancer: *mut lb_balancer, flow: *const lb_flow, id: *mut u32) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (balancer, flow, id) = unsafe { (handle_mut(balancer)?, read(flow)?, Out::optional(id)?) };
        let restored = balancer.inner.restore(&flow.flow()?).map_err(|error| match error {
            RestoreError::Taken => lb_status::Taken,
            RestoreError::Full => lb_status::Full,
            RestoreError::Mixed => lb_status::Mixed,
            RestoreError::Elsewhere => lb_status::Elsewhere,
        })?;
        if let Some(id) = id {
            id.put(restored.as_u32());
        }
        Ok(())
    })
}

const fn state_number(state: State) -> lb_state {
    match state {
        State::SynSent => lb_state::TcpSynSent,
        State::SynReceived => lb_state::TcpSynReceived,
        State::PickedUp => lb_state::TcpPickedUp,
        State::Established => lb_state::TcpEstablished,
        State::FinWait => lb_state::TcpFinWait,
        State::CloseWait => lb_state::TcpCloseWait,
        State::LastAck => lb_state::TcpLastAck,
        State::TimeWait => lb_state::TcpTimeWait,
        State::Close => lb_state::TcpClose,
        State::Unreplied => lb_state::UdpUnreplied,
        State::Stream => lb_state::UdpStream,
        State::SctpOpening => lb_state::SctpOpening,
        State::SctpEstablished => lb_state::SctpEstablished,
        State::SctpClosing => lb_state::SctpClosing,
    }
}

fn state(number: u8) -> Option<State> {
    State::from_u8(number).filter(|state| state_number(*state) as u8 == number)
}
