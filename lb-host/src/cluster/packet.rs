//! IP packets as routers treat them: where they go, one hop less, in fragments, or answered by an error.

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode as V4Exceeded};
use etherparse::icmpv6::TimeExceededCode as V6Exceeded;
use etherparse::{Icmpv4Type, Icmpv6Type, Ipv4Header, Ipv4HeaderSlice, PacketBuilder};
use lb_core::Address;

/// The shortest header of each version.
const V4: usize = 20;
const V6: usize = 40;

/// Why a router can't send a packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It has come through as many routers as it may.
    TimeExceeded,
    /// It is longer than this, which is what the next link carries, and may not be cut.
    TooBig(usize),
}

/// Who sent a packet, and where it is to go.
pub(super) fn addresses(packet: &[u8]) -> Option<(Address, Address)> {
    let v4 = |at: usize| Some(Address::v4(*packet.get(at..)?.first_chunk()?));
    let v6 = |at: usize| Some(Address::v6(*packet.get(at..)?.first_chunk()?));
    match packet.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// Where a packet is to go.
pub(super) fn destination(packet: &[u8]) -> Option<Address> {
    addresses(packet).map(|(_, destination)| destination)
}

/// Takes one hop off (RFC 1812 §5.3.1, RFC 8200 §3).
pub(super) fn hop(packet: &mut [u8]) -> Result<(), Trouble> {
    match packet {
        [first, _, _, _, _, _, _, limit, rest @ ..] if *first >> 4 == 6 && rest.len() >= V6 - 8 => {
            *limit = limit.checked_sub(1).filter(|left| *left > 0).ok_or(Trouble::TimeExceeded)?;
        }
        [_, _, _, _, _, _, _, _, limit, _, high, low, rest @ ..] if rest.len() >= V4 - 12 => {
            *limit = limit.checked_sub(1).filter(|left| *left > 0).ok_or(Trouble::TimeExceeded)?;
            // RFC 1141: the word that the limit is the high half of is 0x100 less, so the sum is that much more.
            let (sum, carry) = u16::from_be_bytes([*high, *low]).overflowing_add(0x100);
            [*high, *low] = (sum + u16::from(carry)).to_be_bytes();
        }
        _ => {}
    }
    Ok(())
}

/// The packet in pieces that are no longer than `mtu` (RFC 791 §3.2).
pub(super) fn fit(packet: Vec<u8>, mtu: usize) -> Result<Vec<Vec<u8>>, (Trouble, Vec<u8>)> {
    if packet.len() <= mtu {
        return Ok(vec![packet]);
    }
    let too_big = |packet| Err((Trouble::TooBig(mtu), packet));
    let Ok(header) = Ipv4HeaderSlice::from_slice(&packet).map(|slice| slice.to_header()) else {
        return too_big(packet);
    };
    let room = mtu.saturating_sub(header.header_len()) / 8 * 8;
    if header.dont_fragment || room == 0 {
        return too_big(packet);
    }
    let payload = packet.get(header.header_len()..header.total_len.into()).unwrap_or_default();
    let pieces = payload.chunks(room).enumerate();
    let made: Option<Vec<_>> = pieces.map(|(nth, piece)| fragment(&header, nth * room, piece, payload.len())).collect();
    match made {
        Some(made) => Ok(made),
        None => too_big(packet),
    }
}

fn fragment(whole: &Ipv4Header, at: usize, piece: &[u8], all: usize) -> Option<Vec<u8>> {
    let mut header = whole.clone();
    header.total_len = u16::try_from(header.header_len() + piece.len()).ok()?;
    header.more_fragments = whole.more_fragments || at + piece.len() < all;
    header.fragment_offset = (whole.fragment_offset.value() + u16::try_from(at / 8).ok()?).try_into().ok()?;
    header.header_checksum = header.calc_header_checksum();
    let mut out = header.to_bytes().to_vec();
    out.extend_from_slice(piece);
    Some(out)
}

/// What a router answers; `None` if errors, later fragments or groups would be answered (RFC 1122 §3.2.2,
/// RFC 4443 §2.4 (e)), or if the router's address is of the other family.
pub(super) fn complaint(trouble: Trouble, packet: &[u8], own: Address) -> Option<Vec<u8>> {
    let (source, _) = addresses(packet)?;
    let headers = lb_core::wire::parse(packet, lb_core::Link::Ip).ok()??;
    let later = headers.fragment.is_some_and(|fragment| fragment.offset > 0);
    let error = matches!(headers.content, lb_core::wire::Content::Error(_));
    if later || error || source.is_v4() != own.is_v4() || source.is_multicast() {
        return None;
    }
    let mut out = Vec::new();
    let last = |address: Address| *address.octets().last_chunk::<4>().unwrap_or(&[0; 4]);
    let written = match own.is_v4() {
        true => {
            // RFC 1812 §4.3.2.3: no longer than 576 bytes.
            let quote = packet.get(..576 - V4 - 8).unwrap_or(packet);
            let message = match trouble {
                Trouble::TimeExceeded => Icmpv4Type::TimeExceeded(V4Exceeded::TtlExceededInTransit),
                Trouble::TooBig(mtu) => {
                    let next_hop_mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu })
                }
            };
            PacketBuilder::ipv4(last(own), last(source), 64).icmpv4(message).write(&mut out, quote)
        }
        false => {
            // RFC 4443 §2.4 (c): no longer than the smallest MTU.
            let quote = packet.get(..1280 - V6 - 8).unwrap_or(packet);
            let message = match trouble {
                Trouble::TimeExceeded => Icmpv6Type::TimeExceeded(V6Exceeded::HopLimitExceeded),
                Trouble::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: u32::try_from(mtu).unwrap_or(u32::MAX) },
            };
            PacketBuilder::ipv6(own.octets(), source.octets(), 64).icmpv6(message).write(&mut out, quote)
        }
    };
    written.ok().map(|()| out)
}
