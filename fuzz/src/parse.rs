//! Any bytes as a frame and as an IP packet: what `parse` says about them must be true of them.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_core::wire::{Content, Headers, parse};
use lb_core::{Address, Link};

/// Tries an input. What is wrong panics.
pub fn run(data: &[u8]) {
    for link in [Link::Ethernet, Link::Ip] {
        let Ok(Some(headers)) = parse(data, link) else { continue };
        let network = usize::from(headers.network);
        let transport = usize::from(headers.transport);
        assert!(network < transport && transport <= data.len(), "offsets leave the data: {headers:?}");
        assert_eq!(addresses(data, network), (headers.tuple.source, headers.tuple.destination), "not the addresses");
        assert_eq!(headers.tuple.zone, 0, "a packet's bytes know no zone");

        let ports = (headers.tuple.source_port, headers.tuple.destination_port);
        match headers.content {
            Content::Tcp(_) | Content::Udp | Content::Sctp(_) => assert_eq!(ports_at(data, transport), ports),
            Content::Error(quoted) => {
                let (inner, ports_inside) = (usize::from(quoted.network), usize::from(quoted.transport));
                assert!(transport < inner && inner < ports_inside, "a quoted packet outside its error: {headers:?}");
                assert_eq!(addresses(data, inner), (quoted.tuple.source, quoted.tuple.destination));
                let quoted_ports = (quoted.tuple.source_port, quoted.tuple.destination_port);
                assert_eq!(ports_at(data, ports_inside), quoted_ports);
                assert_eq!(ports, (0, 0), "an error has no ports of its own");
            }
            Content::EchoRequest | Content::LaterFragment | Content::Other => assert_eq!(ports, (0, 0)),
        }

        judged_alike(data, link, &headers);

        // What a link padded the packet with changes nothing.
        let end = transport + headers.transport_length as usize;
        if let Some(packet) = data.get(..end) {
            assert_eq!(parse(packet, link), Ok(Some(headers)), "padding was read");
        }
        // Nor does the link below it.
        if network > 0 {
            let inner = parse(&data[network..], Link::Ip).expect("well-formed").expect("an IP packet");
            assert_eq!(shifted(inner, headers.network), headers, "the link layer changed the packet");
        }
    }
}

/// What etherparse makes of it too must be the same.
fn judged_alike(data: &[u8], link: Link, headers: &Headers) {
    let judge = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(data),
        Link::Ip => SlicedPacket::from_ip(data),
    };
    let (Ok(judge), None) = (judge, headers.fragment) else { return };
    let ports = match (&judge.transport, headers.content) {
        (Some(TransportSlice::Tcp(tcp)), Content::Tcp(_)) => (tcp.source_port(), tcp.destination_port()),
        (Some(TransportSlice::Udp(udp)), Content::Udp) => (udp.source_port(), udp.destination_port()),
        _ => return,
    };
    let ends = match &judge.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header();
            (Address::v4(ip.source()), Address::v4(ip.destination()))
        }
        Some(NetSlice::Ipv6(ip)) => (Address::v6(ip.header().source()), Address::v6(ip.header().destination())),
        _ => return,
    };
    let tuple = headers.tuple;
    assert_eq!((tuple.source, tuple.destination), ends, "etherparse finds other addresses");
    assert_eq!((tuple.source_port, tuple.destination_port), ports, "etherparse finds other ports");
}

fn addresses(data: &[u8], network: usize) -> (Address, Address) {
    let ip = &data[network..];
    match ip[0] >> 4 {
        4 => (Address::v4(ip[12..16].try_into().unwrap()), Address::v4(ip[16..20].try_into().unwrap())),
        6 => (Address::v6(ip[8..24].try_into().unwrap()), Address::v6(ip[24..40].try_into().unwrap())),
        version => panic!("parsed an IP packet of version {version}"),
    }
}

fn ports_at(data: &[u8], transport: usize) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes(data[at..at + 2].try_into().unwrap());
    (port(transport), port(transport + 2))
}

fn shifted(mut headers: Headers, by: u16) -> Headers {
    headers.network += by;
    headers.transport += by;
    if let Content::Error(quoted) = &mut headers.content {
        quoted.network += by;
        quoted.transport += by;
    }
    headers
}
