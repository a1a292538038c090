//! `wire` and `nat` against independent judges: etherparse for where things are and what an Internet
//! checksum is, the crc crate for CRC32c.
//!
//! A rewritten packet must be, byte for byte, the packet that etherparse makes of the new tuple from
//! scratch; so its checksums are those of a full computation, and its payload is untouched.

#[allow(unreachable_pub, reason = "a test has no outside")]
mod packets;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_core::nat::{self, Untranslatable};
use lb_core::wire::{Content, Fragment, Headers, Malformed, parse};
use lb_core::{Checksum, Link};
use packets::{Ends, Spec, Transport};
use proptest::prelude::*;

fn headers(frame: &[u8]) -> Headers {
    parse(frame, Link::Ethernet).expect("well-formed").expect("IP")
}

/// A packet with ports and the ends it is to have.
fn translation() -> impl Strategy<Value = (Spec, Ends)> {
    any::<bool>().prop_flat_map(|v6| (packets::packet(v6), packets::ends(v6)))
}

/// An error and the ends that it and its quoted packet are to have.
fn error_translation() -> impl Strategy<Value = (Spec, Ends, Ends)> {
    any::<bool>().prop_flat_map(|v6| (packets::error(v6), packets::ends(v6), packets::ends(v6)))
}

fn about(spec: &Spec) -> (&Spec, usize) {
    match &spec.transport {
        Transport::Error { about, quoted, .. } => (about, *quoted),
        _ => panic!("no error"),
    }
}

/// The error as it would be about the translated packet.
fn expected_error(spec: &Spec, outer: &Ends, inner: &Ends) -> Spec {
    let Transport::Error { kind, about, quoted } = &spec.transport else { panic!("no error") };
    let transport = Transport::Error { kind: *kind, about: Box::new(about.with(inner)), quoted: *quoted };
    Spec { transport, source_port: 0, destination_port: 0, ..spec.with(outer) }
}

fn rewrite_error(frame: &mut [u8], headers: &Headers, outer: &Ends, inner: &Ends, checksum: Checksum) {
    let Content::Error(quoted) = headers.content else { panic!("{headers:?}") };
    let (source, destination) = outer.addresses();
    let to = inner.tuple(quoted.tuple.protocol);
    nat::rewrite_error(frame, headers, &quoted, source, destination, &to, checksum).expect("translatable");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn headers_are_where_etherparse_finds_them((spec, _) in translation(), padding in 0..20usize) {
        let mut frame = spec.frame();
        frame.resize(frame.len() + padding, 0x55);
        let found = headers(&frame);
        prop_assert_eq!(found.tuple, spec.tuple());
        prop_assert_eq!(found.fragment, None);

        let judge = SlicedPacket::from_ethernet(&frame).unwrap();
        let network = match judge.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => ip.header().slice(),
            NetSlice::Ipv6(ip) => ip.header().slice(),
            NetSlice::Arp(_) => unreachable!("made as IP"),
        };
        let payload = judge.ip_payload().unwrap();
        let offset = |part: &[u8]| part.as_ptr() as usize - frame.as_ptr() as usize;
        prop_assert_eq!(usize::from(found.network), offset(network));
        prop_assert_eq!(usize::from(found.transport), offset(payload.payload));
        prop_assert_eq!(found.transport_length as usize, payload.payload.len());
        prop_assert_eq!(found.tuple.protocol.0, payload.ip_number.0);
        match (found.content, &judge.transport) {
            (Content::Tcp(flags), Some(TransportSlice::Tcp(tcp))) => {
                prop_assert_eq!(found.tuple.source_port, tcp.source_port());
                prop_assert_eq!(found.tuple.destination_port, tcp.destination_port());
                prop_assert_eq!(
                    [flags.fin(), flags.syn(), flags.rst(), flags.ack()],
                    [tcp.fin(), tcp.syn(), tcp.rst(), tcp.ack()]
                );
            }
            (Content::Udp, Some(TransportSlice::Udp(udp))) => {
                prop_assert_eq!(found.tuple.source_port, udp.source_port());
                prop_assert_eq!(found.tuple.destination_port, udp.destination_port());
            }
            (Content::Sctp(chunk), None) => prop_assert_eq!(chunk, 1),
            (content, transport) => prop_assert!(false, "{:?} is not {:?}", content, transport),
        }
    }

    #[test]
    fn fragments_are_what_etherparse_reads(
        (spec, to) in translation(),
        (units, more, identification) in (0..8000u16, any::<bool>(), any::<u32>()),
    ) {
        let mut whole = spec.transport_bytes();
        whole.resize(whole.len().next_multiple_of(8), 0);
        let length = whole.len() as u32;
        let mut frame = spec.frame();
        frame.truncate(headers(&frame).network.into());
        frame.extend(spec.datagram(whole, Some((units * 8, more, identification))));
        let found = headers(&frame);

        let judge = SlicedPacket::from_ethernet(&frame).unwrap();
        let payload = judge.ip_payload().unwrap();
        prop_assert_eq!(found.fragment.is_some(), payload.fragmented);
        prop_assert_eq!(usize::from(found.transport), payload.payload.as_ptr() as usize - frame.as_ptr() as usize);
        prop_assert_eq!(found.content == Content::LaterFragment, units != 0);
        let Some(fragment) = found.fragment else { return Ok(()) };
        let identification = if spec.source.is_ipv4() { identification & 0xffff } else { identification };
        prop_assert_eq!(fragment, Fragment { identification, offset: u32::from(units) * 8, length, more });

        drop(judge);

        // Only the first is written to behind its IP headers; SCTP's not even that.
        let before = frame.clone();
        let moved = (spec.source_port, spec.destination_port) != (to.source_port, to.destination_port);
        let result = nat::rewrite(&mut frame, &found, &to.tuple(spec.protocol()), Checksum::Complete);
        if units == 0 && matches!(spec.transport, Transport::Sctp) && moved {
            prop_assert_eq!(result, Err(Untranslatable::FragmentedSctp));
            prop_assert_eq!(frame, before);
        } else {
            prop_assert_eq!(result, Ok(()));
            let mut whole = spec.with(&to).transport_bytes();
            whole.resize(length as usize, 0);
            if units != 0 {
                whole = before[found.transport.into()..].to_vec();
            }
            let fragment = Some((units * 8, more, identification));
            prop_assert_eq!(&frame[found.network.into()..], spec.with(&to).datagram(whole, fragment));
        }
    }

    #[test]
    fn a_rewritten_packet_is_the_one_made_of_the_new_tuple((spec, to) in translation()) {
        let mut frame = spec.frame();
        let found = headers(&frame);
        nat::rewrite(&mut frame, &found, &to.tuple(spec.protocol()), Checksum::Complete).unwrap();
        prop_assert_eq!(&frame, &spec.with(&to).frame());
        // And back.
        let found = headers(&frame);
        nat::rewrite(&mut frame, &found, &spec.tuple(), Checksum::Complete).unwrap();
        prop_assert_eq!(&frame, &spec.frame());
    }

    #[test]
    fn a_rewritten_error_is_the_one_about_the_new_tuple((spec, outer, inner) in error_translation()) {
        let mut frame = spec.frame();
        let found = headers(&frame);
        let Content::Error(quoted) = found.content else { panic!("{found:?}") };
        prop_assert_eq!(quoted.tuple, about(&spec).0.tuple());
        rewrite_error(&mut frame, &found, &outer, &inner, Checksum::Complete);
        prop_assert_eq!(&frame, &expected_error(&spec, &outer, &inner).frame());
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong((spec, to) in translation(), wrong in 1..0xffffu16) {
        let mut frame = spec.frame();
        let found = headers(&frame);
        let at = usize::from(found.transport) + spec.checksum_offset();
        let right_before = u16::from_be_bytes([frame[at], frame[at + 1]]);
        if matches!(spec.transport, Transport::Udp { checksum: false }) {
            return Ok(());
        }
        let sctp = matches!(spec.transport, Transport::Sctp);
        let damaged = if sctp { right_before ^ wrong } else { modulo(right_before, wrong) };
        frame[at..at + 2].copy_from_slice(&damaged.to_be_bytes());
        if matches!(spec.transport, Transport::Udp { .. }) && damaged == 0 {
            return Ok(());
        }
        nat::rewrite(&mut frame, &found, &to.tuple(spec.protocol()), Checksum::Complete).unwrap();

        let mut expected = spec.with(&to).frame();
        let right_after = u16::from_be_bytes([expected[at], expected[at + 1]]);
        let after = u16::from_be_bytes([frame[at], frame[at + 1]]);
        if sctp {
            prop_assert_eq!(after ^ right_after, wrong);
        } else {
            prop_assert_eq!(u32::from(after) % 65535, u32::from(modulo(right_after, wrong)) % 65535);
        }
        expected[at..at + 2].copy_from_slice(&frame[at..at + 2]);
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn a_checksum_left_to_hardware_keeps_its_part((spec, to) in translation()) {
        let frame = spec.frame();
        let found = headers(&frame);
        let at = usize::from(found.transport) + spec.checksum_offset();
        let partial = |spec: &Spec| {
            let sum = !spec.pseudo_header(found.transport_length as usize).ones_complement();
            sum.to_be().to_be_bytes()
        };
        let sctp = matches!(spec.transport, Transport::Sctp);
        for checksum in [Checksum::Partial, Checksum::Absent] {
            let mut expected = spec.with(&to).frame();
            let mut frame = frame.clone();
            if sctp || checksum == Checksum::Absent {
                let width = if sctp { 4 } else { 2 };
                expected[at..at + width].copy_from_slice(&frame[at..at + width]);
            } else {
                frame[at..at + 2].copy_from_slice(&partial(&spec));
                expected[at..at + 2].copy_from_slice(&partial(&spec.with(&to)));
            }
            nat::rewrite(&mut frame, &found, &to.tuple(spec.protocol()), checksum).unwrap();
            prop_assert_eq!(&frame, &expected, "{:?}", checksum);
        }
    }

    /// A capture may end anywhere: what is at hand is translated as if the rest were there.
    #[test]
    fn every_prefix_is_truncated_or_translated_alike((spec, to) in translation()) {
        let frame = spec.frame();
        let whole = headers(&frame);
        let expected = spec.with(&to).frame();
        for length in 0..frame.len() {
            let mut prefix = frame[..length].to_vec();
            match parse(&prefix, Link::Ethernet) {
                Err(why) => {
                    prop_assert_eq!(why, Malformed::Truncated);
                    prop_assert!(length < usize::from(whole.transport) + 20);
                }
                Ok(found) => {
                    prop_assert_eq!(found, Some(whole));
                    nat::rewrite(&mut prefix, &whole, &to.tuple(spec.protocol()), Checksum::Complete).unwrap();
                    prop_assert_eq!(&prefix[..], &expected[..length]);
                }
            }
        }
    }

    /// What follows the packet in its frame is neither read nor written.
    #[test]
    fn padding_is_not_the_packets((spec, outer, inner) in error_translation(), padding in 0..64usize) {
        let mut frame = spec.frame();
        let bare = headers(&frame);
        frame.resize(frame.len() + padding, 0x55);
        let padded = headers(&frame);
        prop_assert_eq!(bare, padded);
        rewrite_error(&mut frame, &padded, &outer, &inner, Checksum::Complete);
        let mut expected = expected_error(&spec, &outer, &inner).frame();
        expected.resize(frame.len(), 0x55);
        prop_assert_eq!(frame, expected);
    }

    /// Cut or damaged anywhere: a result, and no write before an error is found.
    #[test]
    fn nothing_panics(
        (spec, outer, inner) in error_translation(),
        plain in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        other_length in any::<prop::sample::Index>(),
    ) {
        let mut frame = if plain { about(&spec).0.frame() } else { spec.frame() };
        for (at, value) in damage {
            *at.get_mut(&mut frame) = value;
        }
        frame.truncate(length.index(frame.len() + 1));
        let Ok(Some(found)) = parse(&frame, Link::Ethernet) else { return Ok(()) };
        let mut out = [0; 1400];
        let _ = nat::write_unreachable(&frame, Link::Ethernet, &found, &mut out);
        // Headers of this frame, applied to a part of it.
        frame.truncate(other_length.index(frame.len() + 1));
        let before = frame.clone();
        let (source, destination) = outer.addresses();
        let result = match found.content {
            Content::Error(quoted) => {
                let to = inner.tuple(quoted.tuple.protocol);
                nat::rewrite_error(&mut frame, &found, &quoted, source, destination, &to, Checksum::Complete)
            }
            _ => nat::rewrite(&mut frame, &found, &outer.tuple(found.tuple.protocol), Checksum::Complete),
        };
        if result.is_err() {
            prop_assert_eq!(&frame, &before);
        }
        let _ = nat::write_unreachable(&before, Link::Ip, &found, &mut out);
    }

    #[test]
    fn a_refusal_is_a_right_error_about_the_packet((spec, _) in translation(), payload in 0..3000usize) {
        let long = Spec { payload: vec![0xa5; payload], ..spec };
        let frame = long.frame();
        let found = headers(&frame);
        let mut out = [0; 1302];
        let Some(length) = nat::write_unreachable(&frame, Link::Ethernet, &found, &mut out) else { return Ok(()) };
        let reply = &out[..length];
        // The same frame made from scratch: an error about the packet, sent by its destination.
        let v4 = long.source.is_ipv4();
        let quoted: usize = if v4 { 576 - 28 } else { 1280 - 48 };
        let network = usize::from(found.network);
        let behind = usize::from(found.transport) - network;
        let expected = Spec {
            tags: long.tags.clone(),
            source: long.destination,
            destination: long.source,
            options: 0,
            extensions: Vec::new(),
            transport: Transport::Error {
                kind: if v4 { 3 } else { 1 },
                about: Box::new(long.clone()),
                quoted: quoted.saturating_sub(behind),
            },
            source_port: 0,
            destination_port: 0,
            payload: Vec::new(),
        };
        let judge = SlicedPacket::from_ethernet(reply).unwrap();
        let message = judge.ip_payload().unwrap().payload;
        let right = match judge.transport.unwrap() {
            TransportSlice::Icmpv4(icmp) => {
                prop_assert_eq!([icmp.type_u8(), icmp.code_u8()], [3, 3]);
                icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
            }
            TransportSlice::Icmpv6(icmp) => {
                prop_assert_eq!([icmp.type_u8(), icmp.code_u8()], [1, 4]);
                let NetSlice::Ipv6(ip) = judge.net.as_ref().unwrap() else { panic!("ICMPv6 over IPv6") };
                icmp.is_checksum_valid(ip.header().source(), ip.header().destination())
            }
            other => panic!("{other:?}"),
        };
        prop_assert!(right);
        prop_assert_eq!(&message[8..], &expected.transport_bytes()[8..]);
        prop_assert_eq!(&reply[0..6], &frame[6..12]);
        prop_assert_eq!(&reply[6..12], &frame[0..6]);
        prop_assert_eq!(&reply[12..network], &frame[12..network]);
        let replied = headers(reply);
        prop_assert_eq!(replied.tuple, expected.tuple());
        let longest = if v4 { 576 } else { 1280 };
        prop_assert!(length - network <= longest);
        if let NetSlice::Ipv4(ip) = judge.net.unwrap() {
            prop_assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
        }
        for short in 0..length {
            prop_assert_eq!(nat::write_unreachable(&frame, Link::Ethernet, &found, &mut [0; 1302][..short]), None);
        }
    }
}

/// A checksum that is off by a difference, modulo 65535.
fn modulo(checksum: u16, difference: u16) -> u16 {
    ((u32::from(checksum) + u32::from(difference)) % 65535) as u16
}

#[test]
fn who_is_not_answered() {
    let spec = |source: &str, destination: &str| Spec {
        tags: Vec::new(),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        options: 0,
        extensions: Vec::new(),
        transport: Transport::Udp { checksum: true },
        source_port: 40000,
        destination_port: 53,
        payload: vec![1, 2, 3],
    };
    let answered =
        |frame: &[u8]| nat::write_unreachable(frame, Link::Ethernet, &headers(frame), &mut [0; 1302]).is_some();
    for (source, destination, expected) in [
        ("10.0.0.1", "10.96.0.10", true),
        ("0.0.0.0", "10.96.0.10", false),
        ("0.1.2.3", "10.96.0.10", false),
        ("127.0.0.1", "10.96.0.10", false),
        ("224.0.0.1", "10.96.0.10", false),
        ("240.0.0.1", "10.96.0.10", false),
        ("255.255.255.255", "10.96.0.10", false),
        ("10.0.0.1", "224.0.0.1", false),
        ("10.0.0.1", "255.255.255.255", false),
        ("2001:db8::1", "2001:db8::2", true),
        ("::", "2001:db8::2", false),
        ("::1", "2001:db8::2", false),
        ("ff02::1", "2001:db8::2", false),
        ("2001:db8::1", "ff02::1", false),
    ] {
        assert_eq!(answered(&spec(source, destination).frame()), expected, "{source} -> {destination}");
    }

    let udp = spec("10.0.0.1", "10.96.0.10");
    let mut broadcast = udp.frame();
    broadcast[..6].fill(0xff);
    assert!(!answered(&broadcast), "a link-layer broadcast");

    let error = |about: Spec, quoted| Spec {
        transport: Transport::Error { kind: 3, about: Box::new(about), quoted },
        source_port: 0,
        destination_port: 0,
        ..spec("10.0.0.1", "10.96.0.10")
    };
    assert!(!answered(&error(udp.clone(), 8).frame()), "an error");
    assert!(!answered(&error(udp.clone(), 2).frame()), "an error that quotes too little");

    let mut frame = udp.frame();
    frame.truncate(14);
    frame.extend(udp.datagram(vec![0; 16], Some((8, false, 1))));
    assert!(!answered(&frame), "a later fragment");
    frame.truncate(14);
    frame.extend(udp.datagram(udp.transport_bytes()[..8].to_vec(), Some((0, true, 1))));
    assert!(answered(&frame), "a first fragment");

    for (kind, expected) in [(8, true), (13, true), (0, true), (5, false), (11, false)] {
        let mut frame = error(udp.clone(), 8).frame();
        frame[14 + 20] = kind;
        assert_eq!(answered(&frame), expected, "ICMP type {kind}");
    }
    for (kind, expected) in [(128, true), (2, false), (100, false), (137, false)] {
        let transport = Transport::Error { kind, about: Box::new(spec("2001:db8::2", "2001:db8::1")), quoted: 8 };
        let frame = Spec { transport, ..spec("2001:db8::1", "2001:db8::2") }.frame();
        assert_eq!(answered(&frame), expected, "ICMPv6 type {kind}");
    }
}

#[test]
fn only_like_takes_the_place_of_like() {
    let spec = |source: &str, transport| Spec {
        tags: Vec::new(),
        source: source.parse().unwrap(),
        destination: source.parse().unwrap(),
        options: 0,
        extensions: Vec::new(),
        transport,
        source_port: 1,
        destination_port: 2,
        payload: Vec::new(),
    };
    let udp = || Transport::Udp { checksum: true };
    let frame = spec("10.0.0.1", udp()).frame();
    let echo = {
        let mut frame =
            spec("10.0.0.1", Transport::Error { kind: 8, about: Box::new(spec("10.0.0.2", udp())), quoted: 8 });
        frame.source_port = 0;
        frame
    };
    for (name, frame, to) in [
        ("another family", &frame, spec("2001:db8::1", udp()).tuple()),
        ("another protocol", &frame, spec("10.0.0.2", Transport::Tcp { flags: 0, options: 0 }).tuple()),
        ("a packet without ports", &echo.frame(), echo.tuple()),
    ] {
        let mut written = frame.clone();
        let result = nat::rewrite(&mut written, &headers(frame), &to, Checksum::Complete);
        assert_eq!(result, Err(Untranslatable::Mismatch), "{name}");
        assert_eq!(&written, frame, "{name}");
    }
}
