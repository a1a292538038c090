//! A Pod's resolver: search list, ndots, and asking again (SEMANTICS §19).

use super::{name, outside, server};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use lb_host::dns::Settings;
use lb_host::dns::client::{Config, Lookup, Outcome};
use lb_host::dns::server::{Server, Transport};

/// Runs a lookup against a server: the outcome, and each query as `udp NAME TYPE`.
fn resolve(config: &Config, server: &Server, text: &str, types: &[RecordType]) -> (Outcome, Vec<String>) {
    let outside = outside();
    let mut lookup = Lookup::new(config, text, types, 7).expect(text);
    let mut asked = Vec::new();
    while let Some(send) = lookup.next() {
        let question = Message::from_vec(&send.query).expect("a query").queries.remove(0);
        let transport = if send.transport == Transport::Udp { "udp" } else { "tcp" };
        asked.push(format!("{transport} {} {}", question.name(), question.query_type()));
        let answer = server.answer(&send.query, send.transport, Some(&outside)).expect("an answer");
        assert!(lookup.response(&answer));
    }
    (lookup.outcome().expect("an outcome").clone(), asked)
}

#[test]
fn a_pod_finds_names_by_its_search_list() {
    // §19.9
    let server = server(Settings::default());
    let glibc =
        Config::pod("shop", &name("cluster.local"), vec![([10, 96, 0, 10], 53).into()]).expect("a configuration");
    let musl = Config { stops_at_no_data: true, ..glibc.clone() };
    let few = Config { ndots: 1, ..glibc.clone() };
    #[rustfmt::skip]
    let cases: &[(&str, &Config, &str, &str, &str, &str)] = &[
        // what, how, name, types, addresses or how it failed, queries
        ("its own namespace",       &glibc, "web",                             "A",      "10.96.0.20",                "udp web.shop.svc.cluster.local. A"),
        ("both families",           &glibc, "web",                             "A AAAA", "10.96.0.20 fd00:96::20",    "udp web.shop.svc.cluster.local. A, udp web.shop.svc.cluster.local. AAAA"),
        ("another namespace",       &glibc, "kube-dns.kube-system",            "A",      "10.96.0.10",                "udp kube-dns.kube-system.shop.svc.cluster.local. A, udp kube-dns.kube-system.svc.cluster.local. A"),
        ("with svc",                &glibc, "web.shop.svc",                    "AAAA",   "fd00:96::20",               "udp web.shop.svc.shop.svc.cluster.local. AAAA, udp web.shop.svc.svc.cluster.local. AAAA, udp web.shop.svc.cluster.local. AAAA"),
        ("absolute",                &glibc, "web.shop.svc.cluster.local.",     "A",      "10.96.0.20",                "udp web.shop.svc.cluster.local. A"),
        ("five dots",               &glibc, "a.db-0.db.shop.svc.x",            "A",      "none",                      "udp a.db-0.db.shop.svc.x. A, udp a.db-0.db.shop.svc.x.shop.svc.cluster.local. A, udp a.db-0.db.shop.svc.x.svc.cluster.local. A, udp a.db-0.db.shop.svc.x.cluster.local. A"),
        ("outside, at last",        &glibc, "db.example.com",                  "A",      "192.0.2.7",                 "udp db.example.com.shop.svc.cluster.local. A, udp db.example.com.svc.cluster.local. A, udp db.example.com.cluster.local. A, udp db.example.com. A"),
        ("outside, at first",       &few,   "db.example.com",                  "A",      "192.0.2.7",                 "udp db.example.com. A"),
        ("an alias",                &glibc, "out",                             "A",      "192.0.2.7",                 "udp out.shop.svc.cluster.local. A"),
        ("cut, so in a stream",     &glibc, "db-0.db",                         "A",      "10.244.2.10",               "udp db-0.db.shop.svc.cluster.local. A"),
        ("no data goes on",         &glibc, "web-two.shop.svc.cluster.local",  "AAAA",   "no data",                   "udp web-two.shop.svc.cluster.local.shop.svc.cluster.local. AAAA, udp web-two.shop.svc.cluster.local.svc.cluster.local. AAAA, udp web-two.shop.svc.cluster.local.cluster.local. AAAA, udp web-two.shop.svc.cluster.local. AAAA"),
        ("no data goes on",         &glibc, "web-two",                         "AAAA",   "no data",                   "udp web-two.shop.svc.cluster.local. AAAA, udp web-two.svc.cluster.local. AAAA, udp web-two.cluster.local. AAAA, udp web-two. AAAA"),
        ("no data ends it",         &musl,  "web-two",                         "AAAA",   "no data",                   "udp web-two.shop.svc.cluster.local. AAAA"),
        ("one family is enough",    &musl,  "web-two",                         "AAAA A", "10.96.0.21",                "udp web-two.shop.svc.cluster.local. AAAA, udp web-two.shop.svc.cluster.local. A"),
        ("a failure ends it",       &glibc, "circle",                          "A",      "ServFail",                  "udp circle.shop.svc.cluster.local. A, udp circle.shop.svc.cluster.local. A"),
    ];
    for (what, config, text, types, expected, expected_queries) in cases {
        let types: Vec<RecordType> = types.split(' ').map(|kind| kind.parse().expect(kind)).collect();
        let (outcome, asked) = resolve(config, &server, text, &types);
        let told = match &outcome {
            Outcome::Found { .. } => outcome.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" "),
            Outcome::NoData => "no data".to_owned(),
            Outcome::NoName => "none".to_owned(),
            Outcome::Failed(code) => format!("{:?}", code.expect("a reason")),
        };
        assert_eq!((told.as_str(), asked.join(", ").as_str()), (*expected, *expected_queries), "{what}: {text}");
    }
    let (outcome, asked) = resolve(&glibc, &server, "big", &[RecordType::A]);
    assert_eq!(outcome.addresses().count(), 100);
    assert_eq!(asked, ["udp big.shop.svc.cluster.local. A", "tcp big.shop.svc.cluster.local. A"]);
}

#[test]
fn a_pod_asks_again_and_elsewhere() {
    let server = server(Settings::default());
    let addresses = vec![([10, 96, 0, 10], 53).into(), ([10, 96, 0, 11], 53).into()];
    let config = Config::pod("shop", &name("cluster.local"), addresses).expect("a configuration");
    // Nobody answers: each server twice, in turn.
    let mut lookup = Lookup::new(&config, "web", &[RecordType::A], 7).expect("a lookup");
    let mut asked = Vec::new();
    while let Some(send) = lookup.next() {
        assert_eq!(send.timeout.as_secs(), 5);
        asked.push(send.server.to_string());
        lookup.timed_out();
    }
    assert_eq!(asked, ["10.96.0.10:53", "10.96.0.11:53", "10.96.0.10:53", "10.96.0.11:53"]);
    assert_eq!(lookup.outcome(), Some(&Outcome::Failed(None)));
    // What does not answer the question is not taken for its answer.
    let mut lookup = Lookup::new(&config, "web", &[RecordType::A], 7).expect("a lookup");
    let send = lookup.next().expect("a query");
    let right = server.datagram(&send.query, None).expect("an answer");
    let mut other_id = right.clone();
    other_id[1] ^= 1;
    let mut other_name = right.clone();
    other_name[13] ^= 1;
    let mut question = right.clone();
    question[2] &= 0x7f;
    for (what, wrong) in [("id", other_id), ("name", other_name), ("question", question), ("nothing", Vec::new())] {
        assert!(!lookup.response(&wrong), "{what}");
        assert_eq!(lookup.next(), Some(send.clone()), "{what}");
    }
    // Names compare without case.
    let mut upper = right;
    upper[13..16].make_ascii_uppercase();
    assert!(lookup.response(&upper));
    assert_eq!(lookup.outcome().expect("an outcome").addresses().count(), 1);
    assert!(Lookup::new(&config, "a..b", &[RecordType::A], 7).is_err());
    assert!(Lookup::new(&config, "web", &[], 7).is_err());
}
