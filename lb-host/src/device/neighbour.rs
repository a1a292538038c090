//! Who has this address? ARP (RFC 826) and neighbour discovery (RFC 4861) as frames: pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, err,
};

/// Six octets of Ethernet.
pub type Mac = [u8; 6];

/// Everybody on the link, and every node of IPv6 on it.
const ALL: Mac = [0xff; 6];
const ALL_NODES: (Mac, Ipv6Addr) = ([0x33, 0x33, 0, 0, 0, 1], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

/// RFC 4861 §7.1.1: what was forwarded has fewer.
const HOPS: u8 = 255;

/// The answer to a frame, if it asks for an address that `is_ours`: it is at `own`.
pub fn answer(frame: &[u8], own: Mac, is_ours: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match (packet.net?, packet.transport) {
        (NetSlice::Arp(arp), _) => {
            let asked = arp.to_packet().try_eth_ipv4().ok()?;
            let is_question =
                asked.operation == ArpOperation::REQUEST && is_ours(Ipv4Addr::from(asked.target_ipv4).into());
            let target = (asked.sender_mac, asked.sender_ipv4);
            is_question
                .then(|| arp_frame(own, asked.target_ipv4, ArpOperation::REPLY, target, asked.sender_mac).ok())?
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination());
            let is_good = header.hop_limit() == HOPS && icmp.is_checksum_valid(header.source(), destination);
            let address = Ipv6Addr::from(*icmp.payload().first_chunk::<16>()?);
            let is_question = icmp.icmp_type() == Icmpv6Type::NeighborSolicitation;
            if !is_good || !is_question || !is_ours(address.into()) {
                return None;
            }
            // §7.2.4: whoever has no address yet is told along with all others.
            let (to, solicited) = match source.is_unspecified() {
                true => (ALL_NODES, false),
                false => ((packet.link?.to_header()?.ethernet2()?.source, source), true),
            };
            advertisement(own, address, to, solicited).ok()
        }
        _ => None,
    }
}

/// Tells all on the link, unasked, that an address is at `own` (RFC 5227 §3, RFC 4861 §7.2.6): whoever had it elsewhere forgets that.
pub fn announcement(own: Mac, address: IpAddr) -> Option<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            let address = address.octets();
            arp_frame(own, address, ArpOperation::REQUEST, ([0; 6], address), ALL).ok()
        }
        IpAddr::V6(address) => advertisement(own, address, ALL_NODES, false).ok(),
    }
}

type Written = Result<Vec<u8>, err::packet::BuildWriteError>;

fn arp_frame(own: Mac, address: [u8; 4], operation: ArpOperation, target: (Mac, [u8; 4]), to: Mac) -> Written {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: own,
        sender_ipv4: address,
        target_mac: target.0,
        target_ipv4: target.1,
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(own, to).arp(packet.into()).write(&mut frame)?;
    Ok(frame)
}

fn advertisement(own: Mac, address: Ipv6Addr, (mac, to): (Mac, Ipv6Addr), solicited: bool) -> Written {
    let flags = NeighborAdvertisementHeader { router: false, solicited, r#override: true };
    // The target, and the option that says where it is (§4.6.1).
    let body = [&address.octets()[..], &[2, 1], &own].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(own, mac)
        .ipv6(address.octets(), to.octets(), HOPS)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(flags))
        .write(&mut frame, &body)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 9];
    const ASKER: Mac = [2, 0, 0, 0, 0, 1];
    const V4: [u8; 4] = [203, 0, 113, 10];

    fn is_ours(address: IpAddr) -> bool {
        [IpAddr::from(V4), "2001:db8:1::10".parse().expect("an address")].contains(&address)
    }

    /// An ARP packet of 192.0.2.1 about an address.
    fn arp(operation: u8, target: [u8; 4]) -> Vec<u8> {
        let head = [&ALL[..], &ASKER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &ASKER, &[192, 0, 2, 1]].concat();
        [&head[..], &[0; 6], &target].concat()
    }

    /// A solicitation of 2001:db8::1, or of nobody yet.
    fn solicitation(from: &str, target: &str, hops: u8) -> Vec<u8> {
        let (from, target) =
            (from.parse::<Ipv6Addr>().expect("one"), target.parse::<Ipv6Addr>().expect("one").octets());
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(ASKER, [0x33, 0x33, 0xff, 0, 0, 0x10])
            .ipv6(from.octets(), target, hops)
            .icmpv6(Icmpv6Type::NeighborSolicitation)
            .write(&mut frame, &target)
            .expect("written");
        frame
    }

    #[test]
    fn who_asks_for_ours_is_told_where_it_is() {
        let mut broken = solicitation("2001:db8::1", "2001:db8:1::10", 255);
        broken[60] ^= 1;
        for (what, frame, answered) in [
            ("a request", arp(1, V4), true),
            ("one for another's", arp(1, [203, 0, 113, 11]), false),
            ("a reply", arp(2, V4), false),
            ("half of it", arp(1, V4)[..30].to_vec(), false),
            ("a solicitation", solicitation("2001:db8::1", "2001:db8:1::10", 255), true),
            ("one that is to find out whether an address is free", solicitation("::", "2001:db8:1::10", 255), true),
            ("one for another's", solicitation("2001:db8::1", "2001:db8:1::11", 255), false),
            ("one from off the link", solicitation("2001:db8::1", "2001:db8:1::10", 254), false),
            ("one with a wrong checksum", broken, false),
        ] {
            assert_eq!(answer(&frame, OWN, is_ours).is_some(), answered, "{what}");
        }
    }

    #[test]
    fn answers_are_as_their_rfcs_have_them() {
        // RFC 826: sender and target exchanged, the sender's hardware address filled in.
        let expected = [&ASKER[..], &OWN, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &OWN, &V4, &ASKER, &[192, 0, 2, 1]].concat();
        assert_eq!(answer(&arp(1, V4), OWN, is_ours), Some(expected));
        // RFC 5227 §3: a request for one's own address.
        let expected = [&ALL[..], &OWN, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &OWN, &V4, &[0; 6], &V4].concat();
        assert_eq!(announcement(OWN, V4.into()), Some(expected));
        // RFC 4861 §4.4: flags S and O to who asked, O alone to all.
        let asked = answer(&solicitation("2001:db8::1", "2001:db8:1::10", 255), OWN, is_ours).expect("an answer");
        let anonymous = answer(&solicitation("::", "2001:db8:1::10", 255), OWN, is_ours).expect("an answer");
        for (frame, to, flags, last) in [(asked, ASKER, 0x60, 1), (anonymous, ALL_NODES.0, 0x20, 1)] {
            assert_eq!((&frame[..6], &frame[6..12], frame[53]), (&to[..], &OWN[..], last));
            assert_eq!((frame[21], frame[54], frame[58]), (HOPS, 136, flags));
            assert_eq!(
                frame[62..],
                [&"2001:db8:1::10".parse::<Ipv6Addr>().expect("one").octets()[..], &[2, 1], &OWN].concat()
            );
            // RFC 4443 §2.3: all of it, pseudo-header included, adds up to all ones.
            let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
            let words = pseudo.chunks(2).chain(frame[54..].chunks(2));
            let sum = words.fold(0_u32, |sum, word| sum + u32::from(word[0]) * 256 + u32::from(word[1]));
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
    }
}
