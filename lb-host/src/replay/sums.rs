//! Checksums of a translated packet, without the engine: in full where the packet is whole and was right,
//! else by RFC 1624, so that a wrong one stays wrong by the same difference.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use super::outline::{Outline, protocol};

/// Puts new addresses and, if it shows any, new ports in a packet, and its checksums right. `None`, and the packet
/// half changed, if nobody could tell what the checksum is to be.
pub(super) fn translate(
    frame: &mut [u8],
    outline: &Outline,
    (source, destination): (IpAddr, IpAddr),
    ports: Option<(u16, u16)>,
) -> Option<()> {
    let before = frame.to_vec();
    translate_from(&before, frame, outline, (source, destination), ports)
}

/// The same for a packet whose payload has already been changed from what it was `before`: an ICMP error's quote.
pub(super) fn translate_from(
    before: &[u8],
    frame: &mut [u8],
    outline: &Outline,
    (source, destination): (IpAddr, IpAddr),
    ports: Option<(u16, u16)>,
) -> Option<()> {
    let network = outline.network;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put(frame, network + 12, &source.octets())?;
            put(frame, network + 16, &destination.octets())?;
            let header = network..network + usize::from(frame.get(network)? & 0xf) * 4;
            let sum = |packet: &[u8]| Some(Sum16BitWords::new().add_slice(packet.get(header.clone())?));
            word(before, frame, network + 10, true, &sum, false)?;
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put(frame, network + 8, &source.octets())?;
            put(frame, network + 24, &destination.octets())?;
        }
        _ => return None,
    }
    if let (Some((source, destination)), Some(_)) = (ports, outline.ports) {
        put(frame, outline.transport, &source.to_be_bytes())?;
        put(frame, outline.transport + 2, &destination.to_be_bytes())?;
    }
    let Some(at) = outline.checksum() else { return Some(()) };
    if outline.protocol == protocol::SCTP {
        return crc(before, frame, outline, at);
    }
    let is_udp = outline.protocol == protocol::UDP;
    if is_udp && frame.get(at..at + 2)? == [0, 0] {
        return Some(()); // RFC 768: none was made. RFC 6935: nor need there be over IPv6, in tunnels.
    }
    let whole = outline.missing == 0 && outline.fragment.is_none();
    let sum = |packet: &[u8]| covered(packet, outline);
    word(before, frame, at, whole, &sum, is_udp)
}

/// Sets the 16-bit checksum at this offset. `sum` is over everything that it covers, itself included.
fn word(
    before: &[u8],
    frame: &mut [u8],
    at: usize,
    whole: bool,
    sum: &dyn Fn(&[u8]) -> Option<Sum16BitWords>,
    is_udp: bool,
) -> Option<()> {
    let finished = |sum: Sum16BitWords| match is_udp {
        true => sum.to_ones_complement_with_no_zero().to_be(),
        false => sum.ones_complement().to_be(),
    };
    let blank = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        put(&mut packet, at, &[0, 0])?;
        Some(packet)
    };
    let captured = u16::from_be_bytes(*before.get(at..)?.first_chunk()?);
    let was_right = whole && finished(sum(&blank(before)?)?) == captured;
    let checksum = match was_right {
        true => finished(sum(&blank(frame)?)?),
        // All ones is minus zero, and no update can give it back (RFC 1624 §3); a sum that is right never is.
        false if captured == 0xffff && !is_udp => return None,
        false => {
            // The sums differ by what was changed: HC' = ~(~HC + ~m + m').
            let [old, new] = [sum(&blank(before)?)?, sum(&blank(frame)?)?].map(|sum| !sum.ones_complement().to_be());
            match !ones_sum([!captured, !old, new]) {
                0 if is_udp => 0xffff,
                checksum => checksum,
            }
        }
    };
    put(frame, at, &checksum.to_be_bytes())
}

/// The one's complement sum of these words.
fn ones_sum(words: [u16; 3]) -> u16 {
    let sum: u32 = words.into_iter().map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// The sum over what a transport checksum covers, as far as it is at hand: the message, and for all but ICMP the
/// pseudo-header (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1).
fn covered(packet: &[u8], outline: &Outline) -> Option<Sum16BitWords> {
    let mut message = packet.get(outline.transport..outline.end)?;
    if outline.protocol == protocol::UDP {
        let length = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
        // A length of nothing, or of more than there is, is not for this to judge.
        message = message.get(..length.into()).filter(|_| length >= 8).unwrap_or(message);
    }
    let sum = Sum16BitWords::new().add_slice(message);
    if outline.protocol == protocol::ICMP {
        return Some(sum);
    }
    let addresses = match outline.source.is_ipv4() {
        true => outline.network + 12..outline.network + 20,
        false => outline.network + 8..outline.network + 40,
    };
    let length = (message.len() as u32).to_be_bytes();
    Some(sum.add_slice(packet.get(addresses)?).add_slice(&length).add_2bytes([0, outline.protocol]))
}

/// Sets SCTP's CRC32c (RFC 9260 appendix A). A CRC is linear: what changes it is the same whatever the bytes that
/// didn't change were, so that zeros may stand for those not at hand, and a wrong one stays wrong by the same.
fn crc(before: &[u8], frame: &mut [u8], outline: &Outline, at: usize) -> Option<()> {
    if outline.ports? == ports(frame, outline)? {
        return Some(()); // It covers nothing else that could have changed.
    }
    if outline.fragment.is_some() {
        return None; // How many bytes follow in other fragments, this one doesn't tell.
    }
    let of = |packet: &[u8]| {
        let mut message = packet.get(outline.transport..outline.end)?.to_vec();
        put(&mut message, at - outline.transport, &[0; 4])?;
        message.resize(message.len() + outline.missing, 0);
        Some(crc32c::crc32c(&message))
    };
    let captured = u32::from_le_bytes(*before.get(at..)?.first_chunk()?);
    let checksum = captured ^ of(before)? ^ of(frame)?;
    put(frame, at, &checksum.to_le_bytes())
}

fn ports(frame: &[u8], outline: &Outline) -> Option<(u16, u16)> {
    let [a, b, c, d] = *frame.get(outline.transport..)?.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    frame.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}
