//! What becomes of a packet: the one numbered list of verdicts and reasons.
//!
//! Counters, metric labels, capture comments and the C header all take their words from here. A
//! number, once published, is never given to another reason.

#[cfg(feature = "ffi")]
use core::ffi::CStr;

use crate::flow::{Direction, FlowId};

/// What became of a packet. A packet is never an error: malformed ones are dropped for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[must_use]
pub enum Verdict {
    /// Not ours: untouched, to be routed as if the balancer were not there.
    Pass,
    /// For the node itself, untranslated: to be delivered locally.
    Accept,
    /// Rewritten in place: to be routed by its new destination.
    Forward {
        /// The flow it belongs to.
        flow: FlowId,
        /// Which way it goes.
        direction: Direction,
    },
    /// A fragment whose first is still missing, untouched: the caller keeps it and submits it again
    /// when a packet comes back with this datagram in [`Packet::releases`](crate::Packet::releases).
    Hold(Datagram),
    /// A packet that [`Steer`](crate::Steer) can't tell the core of, untouched: to be submitted to the balancer of this core.
    Elsewhere(u16),
    /// To be dropped without a word.
    Drop(DropReason),
    /// To be dropped and answered with what [`write_reply`](crate::Balancer::write_reply) writes.
    Reject(RejectReason),
}

impl Verdict {
    /// The number of this verdict, its reason included: an index into
    /// [`Counters::verdicts`](crate::Counters::verdicts), below [`Verdict::CODES`].
    pub const fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Accept => 1,
            Self::Forward { direction: Direction::Original, .. } => 2,
            Self::Forward { direction: Direction::Reply, .. } => 3,
            Self::Hold(_) => 4,
            Self::Elsewhere(_) => 5,
            Self::Drop(reason) => reason as u8,
            Self::Reject(reason) => reason as u8,
        }
    }

    /// One more than the largest code.
    pub const CODES: usize = 64;

    /// The word for a code in metrics and comments, `None` if no verdict has it.
    pub const fn label(code: u8) -> Option<&'static str> {
        Some(match code {
            0 => "pass",
            1 => "accept",
            2 => "forward",
            3 => "forward-reply",
            4 => "hold",
            5 => "elsewhere",
            _ => match DropReason::from_code(code) {
                Some(reason) => reason.label(),
                None => match RejectReason::from_code(code) {
                    Some(reason) => reason.label(),
                    None => return None,
                },
            },
        })
    }

    /// The word for a code and the sentence that explains it, as C takes them.
    #[cfg(feature = "ffi")]
    pub(crate) fn c_words(code: u8) -> Option<(&'static CStr, &'static CStr)> {
        Some(match code {
            0 => (c"pass", c"Not a Service's: routed as if the balancer were not there."),
            1 => (c"accept", c"For the node itself, untranslated."),
            2 => (c"forward", c"From a client, rewritten to its backend."),
            3 => (c"forward-reply", c"From a backend, rewritten to its client."),
            4 => (c"hold", c"A fragment whose first is still missing."),
            5 => (c"elsewhere", c"For another core's balancer."),
            _ => {
                let drop = || DropReason::from_code(code).map(DropReason::c_words);
                return drop().or_else(|| RejectReason::from_code(code).map(RejectReason::c_words));
            }
        })
    }
}

/// The name of one fragmented IP datagram, by which the caller finds the fragments it holds.
///
/// A keyed hash of addresses, protocol, identification and zone; two datagrams sharing a name does
/// no harm, as a fragment resubmitted too early is merely held again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Datagram(pub(crate) u64);

impl Datagram {
    /// The name as a number, for a caller's own hash table.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// Declares a list of reasons, and from the one list its numbers, labels and explanations.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($number:literal $variant:ident $label:literal $text:literal)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $text] $variant = $number,)*
        }

        impl $name {
            /// Every reason, by rising number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The reason of this number.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The word for it in metrics and capture comments.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            /// The sentence that explains it.
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Label and explanation, each with the NUL that ends it.
            #[cfg(feature = "ffi")]
            fn c_words(self) -> (&'static CStr, &'static CStr) {
                const fn ended(text: &'static str) -> &'static CStr {
                    // In constants alone, so that a text with a NUL in it would not compile.
                    match CStr::from_bytes_with_nul(text.as_bytes()) {
                        Ok(text) => text,
                        Err(_) => panic!("a NUL inside"),
                    }
                }
                match self {
                    $(Self::$variant => const { (ended(concat!($label, "\0")), ended(concat!($text, "\0"))) })*
                }
            }
        }
    };
}

reasons! {
    /// Why a packet is dropped in silence.
    DropReason {
        8  Truncated            "truncated"              "The bytes at hand end before the headers do."
        9  BadIpHeader          "bad-ip-header"          "The IP header contradicts itself: version, header length or total length."
        10 BadTransportHeader   "bad-transport-header"   "The transport header contradicts itself or does not fit in the packet."
        11 TooManyExtensions    "too-many-extensions"    "More IPv6 extension headers than the engine walks over."
        12 BadFragment          "bad-fragment"           "A fragment that no host would send: empty, misaligned, within a transport header, or past the end of any datagram."
        13 MappedAddress        "mapped-address"         "An IPv6 packet with an IPv4-mapped address, which must not be on a wire (RFC 4291 §2.5.5.2)."
        14 MartianSource        "martian-source"         "A Service is dialled from an address that no host can have: multicast, broadcast, the zero network; or from loopback, and not by the node itself (RFC 1122 §3.2.1.3)."
        15 Land                 "land"                   "A Service is dialled from the very address and port that is dialled: the answer would come back as another question."
        16 NoLocalEndpoint      "no-local-endpoint"      "The traffic policy is Local and this node has no usable endpoint (SEMANTICS §6.4)."
        17 SourceRange          "source-range"           "The source is in none of the Service's loadBalancerSourceRanges (SEMANTICS §8.6)."
        18 UnallocatedClusterIp "unallocated-cluster-ip" "The destination lies in the Service CIDR but belongs to no Service (SEMANTICS §6.6)."
        19 LoopbackGuard        "loopback-guard"         "A packet to a loopback address that did not come from one (SEMANTICS §9.5)."
        24 FlowTableFull        "flow-table-full"        "No room for a new flow and no flow of a lower class to evict."
        25 NoPort               "no-port"                "None of the source ports tried for a translation towards this backend is free."
        26 NoMasqueradeAddress  "no-masquerade-address"  "The flow must be masqueraded and the node has no address of this family."
        27 FragmentTableFull    "fragment-table-full"    "No room to remember another fragmented datagram."
        28 FragmentOverlap      "fragment-overlap"       "A fragment overlaps an earlier one of its datagram (RFC 5722)."
        29 StaleFlow            "stale-flow"             "The flow's backend may no longer serve it and nothing may take its place (SEMANTICS §11.5)."
        30 UntranslatableSctp   "untranslatable-sctp"    "A fragmented SCTP packet whose ports must change: its CRC32c covers bytes that are in other fragments."
        31 UnrelatedError       "unrelated-error"        "An ICMP error that quotes a packet from a Vip, of no known flow."
        32 Redirect             "redirect"               "An ICMP redirect about a flow: it would lead past the translation."
    }
}

reasons! {
    /// Why a packet is refused with an ICMP error.
    RejectReason {
        48 NoEndpoints   "no-endpoints"   "The Service has no usable endpoint in the whole cluster (SEMANTICS §6.4)."
        49 UnmatchedPort "unmatched-port" "The address is a Service's, the port is not (SEMANTICS §6.6)."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_below_the_bound_and_labelled() {
        let mut seen = [false; Verdict::CODES];
        let drops = DropReason::ALL.iter().map(|r| Verdict::Drop(*r));
        let rejects = RejectReason::ALL.iter().map(|r| Verdict::Reject(*r));
        for verdict in drops.chain(rejects).chain([Verdict::Pass, Verdict::Accept, Verdict::Elsewhere(1)]) {
            let code = verdict.code();
            assert!(!core::mem::replace(&mut seen[code as usize], true), "{code} is taken twice");
            assert!(Verdict::label(code).is_some());
        }
        assert_eq!(Verdict::label(63), None);
    }
}
