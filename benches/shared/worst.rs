//! The packets that cost most: errors that quote a packet, extension headers, fragments.

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use lb_core::{Family, Tuple};

use super::frames::{Kind, address, prototype};
use super::rig::{Frames, Mix, Rig, SERVICES};

fn frames(frames: impl Iterator<Item = Vec<u8>>) -> Frames {
    let (mut bytes, mut length) = (Vec::new(), 0);
    for frame in frames {
        length = frame.len();
        bytes.extend(frame);
    }
    Frames { bytes, length }
}

/// A frame of this kind and tuple.
fn frame(kind: Kind, tuple: &Tuple) -> Vec<u8> {
    let mut frame = prototype(kind, tuple.source.family() == Family::V4);
    address(&mut frame, tuple);
    frame
}

/// A router's word, over IPv4, on packets on their way to backends.
pub(crate) fn errors(mix: Mix) -> (Rig, Frames) {
    let rig = Rig::new(mix, SERVICES);
    let error = |flow: &lb_core::Flow| {
        let quoted = flow.reply.reversed();
        let [.., a, b, c, d] = quoted.source.octets();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2; 6], [2; 6])
            .ipv4([192, 0, 2, 200], [a, b, c, d], 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host))
            .write(&mut bytes, &frame(Kind::Ack, &quoted)[14..])
            .expect("written to memory");
        bytes
    };
    let frames = frames(rig.flows.iter().map(error));
    (rig, frames)
}

/// IPv6 packets with as many extension headers as are walked over.
pub(crate) fn extended(mix: Mix) -> (Rig, Frames) {
    const DESTINATION_OPTIONS: u8 = 60;
    let rig = Rig::new(mix, SERVICES);
    let extended = |flow: &lb_core::Flow| {
        let mut bytes = frame(Kind::Ack, &flow.original);
        let transport = bytes.split_off(14 + 40);
        let next = std::mem::replace(&mut bytes[14 + 6], DESTINATION_OPTIONS);
        let length = transport.len() as u16 + 64;
        bytes[14 + 4..14 + 6].copy_from_slice(&length.to_be_bytes());
        for last in [false, false, false, false, false, false, false, true] {
            // PadN fills it up (RFC 8200 §4.2).
            bytes.extend([if last { next } else { DESTINATION_OPTIONS }, 0, 1, 4, 0, 0, 0, 0]);
        }
        bytes.extend(transport);
        bytes
    };
    let frames = frames(rig.flows.iter().map(extended));
    (rig, frames)
}

/// IPv4 datagrams in two pieces, the one behind the other.
pub(crate) fn fragments(mix: Mix) -> (Rig, Frames) {
    let rig = Rig::new(mix, SERVICES);
    let mut identification = 0u16;
    let pieces = |flow: &lb_core::Flow| {
        identification += 1;
        let whole = frame(Kind::Datagram, &flow.original);
        [0x2000u16, 1].map(|fragment| {
            let mut bytes = whole[..14 + 20 + 8].to_vec();
            bytes[14 + 2..14 + 4].copy_from_slice(&28u16.to_be_bytes());
            bytes[14 + 4..14 + 6].copy_from_slice(&identification.to_be_bytes());
            bytes[14 + 6..14 + 8].copy_from_slice(&fragment.to_be_bytes());
            bytes
        })
    };
    let frames = frames(rig.flows.iter().flat_map(pieces));
    (rig, frames)
}
