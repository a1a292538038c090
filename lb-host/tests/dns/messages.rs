//! What server and client make of octets: sizes, streams, and what is no message at all.

use super::{Zone, ask, bytes, name, outside, query, server};
use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use lb_host::dns::Settings;
use lb_host::dns::client::{Config, Lookup};
use lb_host::dns::server::{Server, Transport};
use lb_host::dns::stream::Stream;
use lb_host::k8s::Manifests;
use proptest::prelude::*;

#[test]
fn datagrams_keep_to_their_size() {
    let mut server = server(Settings::default());
    // The header is 12, the question 28 + 4, each A record 16, the OPT record 11 octets.
    for (size, limit, expected_count, expected_cut) in [
        (None, 4096, 29, true),
        (Some(512), 4096, 28, true),
        (Some(100), 4096, 28, true),
        (Some(1232), 4096, 73, true),
        (Some(1655), 4096, 100, false),
        (Some(1654), 4096, 99, true),
        (Some(65535), 4096, 100, false),
        (Some(65535), 1232, 73, true),
    ] {
        server.datagram = limit;
        let mut query = query("big.shop.svc A");
        if let Some(size) = size {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(true);
            query.set_edns(edns);
        }
        let bytes = server.datagram(&bytes(&query), None).expect("an answer");
        let whole = usize::from(size.unwrap_or(512).max(512).min(limit));
        assert!(bytes.len() <= whole, "{size:?}: {}", bytes.len());
        let answer = Message::from_vec(&bytes).expect("a message");
        let told = (answer.answers.len(), answer.metadata.truncation);
        assert_eq!(told, (expected_count, expected_cut), "{size:?}");
        let edns = answer.edns.map(|edns| (edns.version(), edns.flags().dnssec_ok));
        assert_eq!(edns, size.map(|_| (0, true)), "{size:?}");
        let first: Vec<_> = answer.answers.iter().take(2).map(|record| record.data.to_string()).collect();
        assert_eq!(first, ["10.244.5.1", "10.244.5.2"]);
    }
    let tcp = ask(&server, "_p._tcp.big.shop.svc SRV", None);
    assert_eq!((tcp.answers.len(), tcp.additionals.len(), tcp.metadata.truncation), (100, 100, false));
}

#[test]
fn what_is_only_helpful_is_left_out_without_a_word() {
    // RFC 2181 §9. Header and question are 12 + 42 octets, each of seven SRV records 57: 59 are left for addresses,
    // of 16 each.
    let endpoints: String = (1..=7).map(|last| format!("- {{addresses: [10.0.0.{last}]}}\n")).collect();
    let text = format!(
        "kind: Service\napiVersion: v1\nmetadata: {{name: seven, namespace: shop}}\n\
         spec: {{clusterIP: None, ports: [{{name: p, port: 1}}]}}\n---\n\
         kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv4\n\
         metadata: {{name: seven-4, namespace: shop, labels: {{kubernetes.io/service-name: seven}}}}\n\
         ports: [{{name: p, port: 1, protocol: TCP}}]\nendpoints:\n{endpoints}"
    );
    let mut manifests = Manifests::default();
    manifests.add("seven.yaml", &text).expect("manifests");
    let server = Server::new(Zone::of(&manifests, Settings::default()));
    let answer = server.datagram(&bytes(&query("_p._tcp.seven.shop.svc SRV")), None).expect("an answer");
    assert_eq!(answer.len(), 12 + 42 + 7 * 57 + 3 * 16);
    let answer = Message::from_vec(&answer).expect("a message");
    assert_eq!((answer.answers.len(), answer.additionals.len(), answer.metadata.truncation), (7, 3, false));
}

#[test]
fn what_is_no_plain_question_is_told_so() {
    let server = server(Settings::default());
    let plain = bytes(&query("web.shop.svc A"));
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        change(&mut bytes);
        bytes
    };
    let classed = |class| {
        let mut query = query("web.shop.svc A");
        query.queries[0].set_query_class(class);
        bytes(&query)
    };
    let versioned = {
        let mut query = query("web.shop.svc A");
        let mut edns = Edns::new();
        edns.set_version(1);
        query.set_edns(edns);
        bytes(&query)
    };
    let twice_edns = changed(|bytes| {
        bytes[11] = 2;
        for _ in 0..2 {
            bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        }
    });
    #[rustfmt::skip]
    let cases = [
        ("a question",                plain.clone(),                              Some(ResponseCode::NoError)),
        ("an answer",                 changed(|bytes| bytes[2] |= 0x80),          None),
        ("nothing",                   Vec::new(),                                 None),
        ("less than a header",        plain[..11].to_vec(),                       None),
        ("a header alone",            plain[..12].to_vec(),                       Some(ResponseCode::FormErr)),
        ("a question cut short",      plain[..20].to_vec(),                       Some(ResponseCode::FormErr)),
        ("no question",               changed(|bytes| bytes[5] = 0),              Some(ResponseCode::FormErr)),
        ("two questions",             changed(|bytes| bytes[5] = 2),              Some(ResponseCode::FormErr)),
        ("a name that points ahead",  changed(|bytes| bytes[12] = 0xff),          Some(ResponseCode::FormErr)),
        ("two OPT records",           twice_edns,                                 Some(ResponseCode::FormErr)),
        ("IQUERY",                    changed(|bytes| bytes[2] |= 1 << 3),        Some(ResponseCode::NotImp)),
        ("STATUS",                    changed(|bytes| bytes[2] |= 2 << 3),        Some(ResponseCode::NotImp)),
        ("NOTIFY",                    changed(|bytes| bytes[2] |= 4 << 3),        Some(ResponseCode::NotImp)),
        ("UPDATE",                    changed(|bytes| bytes[2] |= 5 << 3),        Some(ResponseCode::NotImp)),
        ("an opcode of no name",      changed(|bytes| bytes[2] |= 15 << 3),       Some(ResponseCode::NotImp)),
        ("class CH",                  classed(DNSClass::CH),                      Some(ResponseCode::Refused)),
        ("class ANY",                 classed(DNSClass::ANY),                     Some(ResponseCode::Refused)),
        // 16 is BADVERS here, BADSIG in a signed message.
        ("EDNS version 1",            versioned,                                  Some(ResponseCode::BADVERS)),
    ];
    for (what, query, expected) in cases {
        let answer = server.datagram(&query, None);
        let Some(expected) = expected else {
            assert_eq!(answer, None, "{what}");
            continue;
        };
        let answer = answer.expect(what);
        let (flags, opcode) = (answer[2], (answer[2] >> 3) & 0xf);
        assert_eq!((flags & 0x80, opcode, flags & 1), (0x80, (query[2] >> 3) & 0xf, 1), "{what}: QR, opcode, RD");
        assert_eq!(answer[..2], query[..2], "{what}: the id");
        let message = Message::from_vec(&answer).expect(what);
        let high = message.edns.as_ref().map_or(0, Edns::rcode_high);
        assert_eq!(u16::from(high) << 4 | u16::from(answer[3] & 0xf), u16::from(expected), "{what}");
    }
}

#[test]
fn a_stream_answers_in_order_whatever_its_pieces() {
    let server = server(Settings::default());
    let questions = ["web.shop.svc A", "big.shop.svc A", "nope A", "db.shop.svc AAAA"];
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for question in questions {
        for (to, message) in [
            (&mut input, bytes(&query(question))),
            (&mut expected, server.answer(&bytes(&query(question)), Transport::Tcp, None).expect(question)),
        ] {
            to.extend(u16::try_from(message.len()).expect("a length").to_be_bytes());
            to.extend(message);
        }
    }
    for size in [1, 2, 3, 7, 64, input.len()] {
        let (mut stream, mut output) = (Stream::default(), Vec::<u8>::new());
        for piece in input.chunks(size) {
            assert_eq!(stream.receive(piece), piece.len());
            server.stream(&mut stream, None);
            output.extend(stream.output());
            stream.sent(stream.output().len());
        }
        assert_eq!(output, expected, "{size}");
    }
}

#[test]
fn a_client_that_does_not_read_is_not_served() {
    let server = server(Settings::default());
    let message = bytes(&query("big.shop.svc A"));
    let framed = [&u16::try_from(message.len()).expect("a length").to_be_bytes()[..], &message].concat();
    let mut stream = Stream::default();
    let (mut taken, mut most) = (0, 0);
    for _ in 0..10_000 {
        taken += stream.receive(&framed);
        server.stream(&mut stream, None);
        most = most.max(stream.output().len());
    }
    assert!(most < 2 * 65_537 && taken < 3 * 65_537, "{most} octets to send, {taken} octets taken");
    let before = stream.output().len();
    stream.sent(before);
    server.stream(&mut stream, None);
    assert!(!stream.output().is_empty(), "it is served again once it has read");
}

/// Octets that begin as a question does, more often than not.
fn almost_queries() -> impl Strategy<Value = Vec<u8>> {
    let questions = prop::sample::select(vec![
        "web.shop.svc A",
        "_pg._tcp.db.shop.svc SRV",
        "big.shop.svc ANY",
        "in.shop.svc A",
        "10.in-addr.arpa. PTR",
    ]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..40);
    (questions, changes, tail, any::<bool>()).prop_map(|(question, changes, tail, edns)| {
        let mut query = query(question);
        if edns {
            query.set_edns(Edns::new());
        }
        let mut bytes = bytes(&query);
        bytes.extend(tail);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_octets_confuse_the_server(query in prop_oneof![prop::collection::vec(any::<u8>(), 0..80), almost_queries()]) {
        thread_local!(static SERVER: Server = server(Settings::default()));
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Some(answer) = SERVER.with(|server| server.answer(&query, transport, Some(&outside()))) {
                let message = Message::from_vec(&answer).expect("an answer that can be read");
                prop_assert_eq!(&answer[..2], &query[..2]);
                prop_assert_eq!(message.metadata.message_type, MessageType::Response);
                prop_assert!(transport == Transport::Tcp || answer.len() <= 4096);
            }
        }
    }

    #[test]
    fn no_octets_confuse_the_client(answers in prop::collection::vec(almost_queries(), 0..8)) {
        let config = Config::pod("shop", &name("cluster.local"), vec![([10, 96, 0, 10], 53).into()]).expect("a configuration");
        let mut lookup = Lookup::new(&config, "web", &[RecordType::A], 0x1234).expect("a lookup");
        for mut answer in answers {
            // As an answer, so that more than the first look is taken.
            if let Some(flags) = answer.get_mut(2) {
                *flags |= 0x80;
            }
            lookup.response(&answer);
        }
        let mut steps = 0;
        while lookup.next().is_some() {
            lookup.timed_out();
            steps += 1;
        }
        prop_assert!(lookup.outcome().is_some() && steps <= 8);
    }
}
