//! The packets that cost most: what they have in common is that they are bounded.

use crate::duel::{Row, duel};
use crate::packets::Traffic;
use crate::shared::rig::{Frames, Rig};
use crate::shared::worst::{errors, extended, fragments};
use crate::{SMALL, TCP4, TCP6, UDP4, hit};

pub(crate) fn p15() -> Vec<Row> {
    let mut peer = hit(TCP4, SMALL);
    let mut row = |what: &str, packets: (Rig, Frames)| {
        let mut ours = Traffic::forwarded(packets);
        duel("P15", what.into(), || ours.turn(), "known v4 TCP, 1k".into(), || peer.turn(), 20.0)
    };
    vec![
        row("an ICMP error", errors(TCP4)),
        row("eight extension headers", extended(TCP6)),
        row("fragments", fragments(UDP4)),
    ]
}
