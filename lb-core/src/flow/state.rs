//! What is known of a flow's life: states, the signals that change them, and how long each lasts.
//!
//! Tracking is liberal: sequence numbers are not looked at, no packet is refused for the state its flow
//! is in. States only set how long a silent flow is remembered and which flows give way first.

use super::Direction;
use super::clock::Ticks;
use crate::config::Timeouts;
use crate::tuple::Protocol;

/// Where a flow stands. TCP's names are those of RFC 9293 §3.3.2 as Linux' conntrack uses them for an
/// observer in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
#[allow(missing_docs, reason = "named by the RFC")]
pub enum State {
    /// TCP: SYN seen from the client.
    SynSent = 1,
    /// TCP: SYN+ACK seen from the backend.
    SynReceived = 2,
    /// TCP: picked up in mid-stream, nothing seen yet from the backend.
    PickedUp = 3,
    Established = 4,
    FinWait = 5,
    CloseWait = 6,
    LastAck = 7,
    TimeWait = 8,
    /// TCP: reset.
    Close = 9,
    /// UDP: nothing seen yet from the backend.
    Unreplied = 10,
    /// UDP: seen both ways.
    Stream = 11,
    /// SCTP: association being set up (RFC 9260 §5.1).
    SctpOpening = 12,
    SctpEstablished = 13,
    /// SCTP: SHUTDOWN or ABORT seen (RFC 9260 §9).
    SctpClosing = 14,
}

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Syn,
    SynAck,
    Fin,
    Reset,
    /// Any other TCP segment.
    Segment,
    /// A UDP datagram.
    Datagram,
    /// SCTP INIT.
    SctpInit,
    /// SCTP INIT ACK or COOKIE ECHO.
    SctpHandshake,
    /// SCTP ABORT, SHUTDOWN, SHUTDOWN ACK or SHUTDOWN COMPLETE.
    SctpClose,
    /// Any other SCTP packet.
    SctpData,
    /// A later fragment, or an ICMP error: says nothing.
    Silent,
}

impl Signal {
    /// Every signal, by rising number.
    const ALL: [Self; 11] = [
        Self::Syn,
        Self::SynAck,
        Self::Fin,
        Self::Reset,
        Self::Segment,
        Self::Datagram,
        Self::SctpInit,
        Self::SctpHandshake,
        Self::SctpClose,
        Self::SctpData,
        Self::Silent,
    ];
}

/// Which flows give way to a newcomer when the table is full: the lower first, [`Class::Established`]
/// never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Embryonic = 0,
    Closing = 1,
    Unreplied = 2,
    Established = 3,
}

impl State {
    /// The state of a flow whose first packet this is. A TCP flow may begin in the middle
    /// (SEMANTICS §11.9); it is taken for established once the backend is heard.
    pub(crate) const fn first(signal: Signal, protocol: Protocol) -> Self {
        match signal {
            Signal::Syn => Self::SynSent,
            // What a FIN comes to is for `next` to say, which sees the first packet too.
            Signal::SynAck | Signal::Segment | Signal::Fin => Self::PickedUp,
            Signal::Reset => Self::Close,
            // A later fragment whose first is remembered and whose flow is not.
            Signal::Silent => match protocol {
                Protocol::TCP => Self::PickedUp,
                Protocol::SCTP => Self::SctpOpening,
                _ => Self::Unreplied,
            },
            Signal::Datagram => Self::Unreplied,
            Signal::SctpInit => Self::SctpOpening,
            Signal::SctpHandshake | Signal::SctpData => Self::SctpOpening,
            Signal::SctpClose => Self::SctpClosing,
        }
    }

    /// The state after this packet.
    #[inline(always)]
    pub(crate) fn next(self, signal: Signal, direction: Direction) -> Self {
        Self::next_of(self as u8, signal, direction).unwrap_or(self)
    }

    /// The state that a packet leads to from the state of this number; `None` if there is no such state, or the packet ends the flow.
    #[inline(always)]
    pub(crate) fn next_of(number: u8, signal: Signal, direction: Direction) -> Option<Self> {
        /// By state, signal and direction: read for every packet. Numbers go up to 15, so that no row is of odd length.
        #[allow(clippy::indexing_slicing, reason = "the compiler computes it: past the end it would not build")]
        const NEXT: [[[Option<State>; 2]; 16]; 16] = {
            let mut table = [[[None; 2]; 16]; 16];
            let mut cell = 0;
            while cell < 16 * Signal::ALL.len() {
                let (state, signal) = (cell % 16, Signal::ALL[cell / 16]);
                if let Some(before) = State::from_u8(state as u8) {
                    let [to, back] = &mut table[state][cell / 16];
                    if !before.ends_with(signal, Direction::Original) {
                        *to = Some(before.after(signal, Direction::Original));
                    }
                    *back = Some(before.after(signal, Direction::Reply));
                }
                cell += 1;
            }
            table
        };
        let ways = NEXT.get(usize::from(number))?.get(signal as usize)?;
        *ways.get(direction as usize)?
    }

    const fn after(self, signal: Signal, direction: Direction) -> Self {
        use Direction::{Original, Reply};
        match (self, signal, direction) {
            (_, Signal::Reset, _) => Self::Close,
            // Sequence numbers are not looked at, so a reset may be forged: whoever goes on speaking is
            // believed as one picked up in mid-stream is.
            (Self::Close, Signal::Segment, _) => Self::PickedUp,
            (Self::SynSent, Signal::SynAck, Reply) => Self::SynReceived,
            // Simultaneous open (RFC 9293 §3.5): the answer to a SYN is a SYN.
            (Self::SynSent, Signal::Syn, Reply) => Self::SynReceived,
            (Self::SynReceived, Signal::Segment, Original) => Self::Established,
            (Self::PickedUp, Signal::Segment | Signal::SynAck, Reply) => Self::Established,
            (Self::SynSent | Self::SynReceived | Self::PickedUp | Self::Established, Signal::Fin, _) => Self::FinWait,
            (Self::FinWait | Self::CloseWait, Signal::Fin, _) => Self::LastAck,
            (Self::FinWait, Signal::Segment, _) => Self::CloseWait,
            (Self::LastAck, Signal::Segment, _) => Self::TimeWait,
            (Self::Unreplied, Signal::Datagram, Reply) => Self::Stream,
            (_, Signal::SctpClose, _) => Self::SctpClosing,
            (Self::SctpOpening, Signal::SctpData, Reply) => Self::SctpEstablished,
            // A new association over the old one's ports.
            (Self::SctpClosing, Signal::SctpInit, Original) => Self::SctpOpening,
            (state, _, _) => state,
        }
    }

    /// Whether a packet ends a flow in this state: a client's SYN that opens a new connection over an old one's
    /// ports, which then is a new flow and chooses its backend afresh.
    #[inline(always)]
    pub(crate) const fn ends_with(self, signal: Signal, direction: Direction) -> bool {
        self.is_over() && matches!((signal, direction), (Signal::Syn, Direction::Original))
    }

    const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close)
    }

    pub(crate) const fn class(self) -> Class {
        match self {
            Self::SynSent | Self::SynReceived | Self::PickedUp | Self::SctpOpening => Class::Embryonic,
            Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait | Self::Close | Self::SctpClosing => {
                Class::Closing
            }
            Self::Unreplied => Class::Unreplied,
            Self::Established | Self::Stream | Self::SctpEstablished => Class::Established,
        }
    }

    /// The state of this number.
    #[inline(always)]
    pub(crate) const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::PickedUp,
            4 => Self::Established,
            5 => Self::FinWait,
            6 => Self::CloseWait,
            7 => Self::LastAck,
            8 => Self::TimeWait,
            9 => Self::Close,
            10 => Self::Unreplied,
            11 => Self::Stream,
            12 => Self::SctpOpening,
            13 => Self::SctpEstablished,
            14 => Self::SctpClosing,
            _ => return None,
        })
    }
}

/// [`Timeouts`] in ticks, by state.
#[derive(Clone, Debug)]
pub(crate) struct Lifetimes([u32; 16]);

impl Lifetimes {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        let mut lifetimes = Self([0; 16]);
        for (state, timeout) in [
            (State::SynSent, timeouts.tcp_syn_sent),
            (State::SynReceived, timeouts.tcp_syn_received),
            (State::PickedUp, timeouts.tcp_picked_up),
            (State::Established, timeouts.tcp_established),
            (State::FinWait, timeouts.tcp_fin_wait),
            (State::CloseWait, timeouts.tcp_close_wait),
            (State::LastAck, timeouts.tcp_last_ack),
            (State::TimeWait, timeouts.tcp_time_wait),
            (State::Close, timeouts.tcp_close),
            (State::Unreplied, timeouts.udp_unreplied),
            (State::Stream, timeouts.udp_stream),
            (State::SctpOpening, timeouts.sctp_opening),
            (State::SctpEstablished, timeouts.sctp_established),
            (State::SctpClosing, timeouts.sctp_closing),
        ] {
            if let Some(ticks) = lifetimes.0.get_mut(state as usize) {
                *ticks = Ticks::of(timeout);
            }
        }
        lifetimes
    }

    /// How long a flow in this state is remembered without traffic, in ticks.
    #[inline(always)]
    pub(crate) fn of(&self, state: State) -> u32 {
        self.0.get(state as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original as O, Reply as R};

    #[test]
    fn a_tcp_connection_from_syn_to_time_wait() {
        let mut state = State::first(Signal::Syn, Protocol::TCP);
        assert_eq!(state, State::SynSent);
        for (signal, direction, expected) in [
            (Signal::Syn, O, State::SynSent), // retransmitted
            (Signal::SynAck, R, State::SynReceived),
            (Signal::SynAck, R, State::SynReceived),
            (Signal::Segment, O, State::Established),
            (Signal::Segment, R, State::Established),
            (Signal::Fin, R, State::FinWait),
            (Signal::Segment, O, State::CloseWait),
            (Signal::Segment, O, State::CloseWait), // half-closed: the client still sends
            (Signal::Fin, O, State::LastAck),
            (Signal::Segment, R, State::TimeWait),
        ] {
            state = state.next(signal, direction);
            assert_eq!(state, expected, "after {signal:?} {direction:?}");
        }
        assert!(state.is_over());
    }

    #[test]
    fn a_forged_reset_does_not_last() {
        let mut state = State::Established.next(Signal::Reset, O);
        assert_eq!(state, State::Close);
        for (direction, expected) in [(R, State::PickedUp), (O, State::PickedUp), (R, State::Established)] {
            state = state.next(Signal::Segment, direction);
            assert_eq!(state, expected);
        }
    }

    #[test]
    fn spoofed_packets_from_one_side_alone_never_make_a_flow_established() {
        for first in [Signal::Syn, Signal::Segment, Signal::Datagram, Signal::SctpInit, Signal::SctpData] {
            let mut state = State::first(first, Protocol::TCP);
            for signal in [Signal::Segment, Signal::Syn, Signal::Datagram, Signal::SctpData, Signal::SctpHandshake] {
                state = state.next(signal, O);
                assert!(state.class() < Class::Established, "{first:?} then {signal:?}");
            }
        }
    }
}
