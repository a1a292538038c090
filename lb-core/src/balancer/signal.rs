//! What a packet says about its flow by its headers, or what is wrong with them.

use crate::flow::Signal;
use crate::verdict::DropReason;
use crate::wire::plain::{DATAGRAM, Plain};
use crate::wire::{Content, Malformed, TcpFlags};

/// What a packet says about its flow.
pub(super) fn signal(content: Content) -> Signal {
    match content {
        Content::Tcp(flags) => tcp_signal(flags),
        Content::Udp => Signal::Datagram,
        // Chunk types of RFC 9260 §3.2.
        Content::Sctp(1) => Signal::SctpInit,
        Content::Sctp(2 | 10) => Signal::SctpHandshake,
        Content::Sctp(6 | 7 | 8 | 14) => Signal::SctpClose,
        Content::Sctp(_) => Signal::SctpData,
        Content::LaterFragment | Content::Error(_) | Content::EchoRequest | Content::Other => Signal::Silent,
    }
}

fn tcp_signal(flags: TcpFlags) -> Signal {
    by_signs(flags.0 % DATAGRAM)
}

/// What a plain packet says about its flow.
#[inline(always)]
pub(super) fn signal_of(plain: &Plain) -> Signal {
    by_signs(plain.signs)
}

/// By [`Plain::signs`]: which of them a packet has is not to be guessed at.
#[inline(always)]
fn by_signs(signs: u8) -> Signal {
    #[allow(clippy::indexing_slicing, reason = "the compiler computes it: past the end it would not build")]
    const SIGNALS: [Signal; 2 * DATAGRAM as usize] = {
        let mut signals = [Signal::Datagram; 2 * DATAGRAM as usize];
        let mut i = 0;
        while i < DATAGRAM as usize {
            let flags = TcpFlags(i as u8);
            signals[i] = match (flags.rst(), flags.syn(), flags.ack(), flags.fin()) {
                (true, ..) => Signal::Reset,
                (_, true, true, _) => Signal::SynAck,
                (_, true, false, _) => Signal::Syn,
                (_, false, _, true) => Signal::Fin,
                (_, false, _, false) => Signal::Segment,
            };
            i += 1;
        }
        signals
    };
    SIGNALS.get(usize::from(signs) % SIGNALS.len()).copied().unwrap_or(Signal::Segment)
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Truncated => Self::Truncated,
            Malformed::IpHeader => Self::BadIpHeader,
            Malformed::TransportHeader => Self::BadTransportHeader,
            Malformed::TooManyExtensions => Self::TooManyExtensions,
            Malformed::Fragment => Self::BadFragment,
            Malformed::MappedAddress => Self::MappedAddress,
        }
    }
}
