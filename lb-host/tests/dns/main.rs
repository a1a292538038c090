//! Cluster DNS, rule by rule of SEMANTICS §19: what is expected is worked out by hand from its text.

mod client;
mod messages;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use lb_host::dns::server::{Server, Transport};
use lb_host::dns::{Outside, PodNames, Settings, Upstream, Zone};
use lb_host::k8s::{Cluster, Manifests, Taken};

fn cluster() -> Cluster {
    let mut manifests = Manifests::default();
    manifests.add("zone.yaml", include_str!("zone.yaml")).expect("manifests");
    Cluster::new(manifests, &Taken::AsWritten).expect("a cluster")
}

fn server(settings: Settings) -> Server {
    Server::new(Zone::of(&cluster().manifests, settings))
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect(text);
    name.set_fqdn(true);
    name
}

/// `NAME TYPE` as octets, with id 0x1234; names without a dot at the end are below the zone.
fn query(question: &str) -> Message {
    let (owner, kind) = question.split_once(' ').expect(question);
    let owner = if owner.ends_with('.') { owner.to_owned() } else { format!("{owner}.cluster.local.") };
    let kind =
        kind.parse().unwrap_or_else(|_| kind.strip_prefix("TYPE").expect(kind).parse::<u16>().expect(kind).into());
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(&owner), kind));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message")
}

fn ask(server: &Server, question: &str, upstream: Option<&dyn Upstream>) -> Message {
    let query = query(question);
    let answer = server.answer(&bytes(&query), Transport::Tcp, upstream).expect(question);
    let answer = Message::from_vec(&answer).expect(question);
    assert_eq!((answer.metadata.id, &answer.queries), (0x1234, &query.queries), "{question}");
    // Names compare without case; the question's must come back as it was.
    assert!(answer.queries[0].name().eq_case(query.queries[0].name()), "{question}");
    answer
}

/// `NOERROR`, `NXDOMAIN` or the like, or `NODATA`; each answer as type and data, with its owner if that is not
/// the question's and its time if that is not 5; the zone that a negative answer is of.
fn told(question: &str, answer: &Message) -> String {
    let code = match answer.metadata.response_code {
        ResponseCode::NoError if answer.authorities.is_empty() => "NOERROR",
        ResponseCode::NoError => "NODATA",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        other => panic!("{question}: {other}"),
    };
    let mut told = vec![code.to_owned()];
    for record in &answer.answers {
        let own = record.name.eq_case(answer.queries[0].name());
        let owner = if own { String::new() } else { format!("{} ", record.name) };
        let ttl = if record.ttl == 5 { String::new() } else { format!("@{} ", record.ttl) };
        told.push(format!("{owner}{ttl}{} {}", record.record_type(), record.data));
    }
    for record in &answer.authorities {
        let RData::SOA(soa) = &record.data else { panic!("{question}: {record}") };
        assert_eq!((record.ttl, soa.minimum), (5, 5), "{question}: a negative answer holds as long as a positive one");
        told.push(format!("({})", record.name));
    }
    let own = ["NOERROR", "NODATA", "NXDOMAIN"].contains(&code);
    assert_eq!(answer.metadata.authoritative, own, "{question}: AA");
    told.join("; ")
}

const GONE: &str = "NXDOMAIN; (cluster.local.)";
const NO_DATA: &str = "NODATA; (cluster.local.)";

fn outside() -> Outside {
    let mut outside = Outside::default();
    outside.put(name("db.example.com"), 60, RData::A("192.0.2.7".parse().expect("an address")));
    outside.put(name("www.example.com"), 60, RData::CNAME(hickory_proto::rr::rdata::CNAME(name("db.example.com"))));
    outside
}

#[test]
fn names_are_answered_as_the_specification_has_them() {
    let server = server(Settings::default());
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str)] = &[
        // rule, question, answer
        ("19.1",  "dns-version TXT",                        "NOERROR; @28800 TXT 1.1.0"),
        ("19.1",  "DNS-Version TXT",                        "NOERROR; @28800 TXT 1.1.0"),
        ("19.2",  "web.shop.svc A",                         "NOERROR; A 10.96.0.20"),
        ("19.2",  "web.shop.svc AAAA",                      "NOERROR; AAAA fd00:96::20"),
        ("19.2",  "WEB.Shop.SVC.Cluster.LOCAL. A",          "NOERROR; A 10.96.0.20"),
        ("19.2",  "_http._tcp.web.shop.svc SRV",            "NOERROR; SRV 0 100 80 web.shop.svc.cluster.local."),
        ("19.2",  "_HTTP._Tcp.web.shop.svc SRV",            "NOERROR; SRV 0 100 80 web.shop.svc.cluster.local."),
        ("19.2",  "_quic._udp.web.shop.svc SRV",            "NOERROR; SRV 0 100 443 web.shop.svc.cluster.local."),
        ("19.2",  "20.0.96.10.in-addr.arpa. PTR",           "NOERROR; PTR web.shop.svc.cluster.local."),
        ("19.2",  "0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa. PTR", "NOERROR; PTR web.shop.svc.cluster.local."),
        // Whether or not there are endpoints; an unnamed port has no name to ask for.
        ("19.2",  "kube-dns.kube-system.svc A",             "NOERROR; A 10.96.0.10"),
        ("19.2",  "_._tcp.web-two.shop.svc SRV",            GONE),
        ("19.3",  "db.shop.svc A",                          "NOERROR; A 10.244.2.10; A 10.244.2.11; A 10.244.2.14; A 10.244.2.15; A 10.244.2.16"),
        ("19.3",  "db.shop.svc AAAA",                       "NOERROR; AAAA fd00:244::2:10"),
        ("19.3",  "db-0.db.shop.svc A",                     "NOERROR; A 10.244.2.10"),
        ("19.3",  "db-0.db.shop.svc AAAA",                  "NOERROR; AAAA fd00:244::2:10"),
        ("19.3",  "db-5.db.shop.svc A",                     "NOERROR; A 10.244.2.15; A 10.244.2.16"),
        ("19.3",  "10-244-2-14.db.shop.svc A",              "NOERROR; A 10.244.2.14"),
        ("19.3",  "10-244-2-10.db.shop.svc A",              GONE),
        ("19.3",  "2001-db8--1.six.shop.svc AAAA",          "NOERROR; AAAA 2001:db8::1"),
        ("19.3",  "2001-db8-1--0.six.shop.svc AAAA",        "NOERROR; AAAA 2001:db8:1::"),
        ("19.3",  "six.shop.svc AAAA",                      "NOERROR; AAAA 2001:db8::1; AAAA 2001:db8:1::"),
        ("19.3",  "six.shop.svc A",                         NO_DATA),
        ("19.3",  "six.shop.svc SRV",                       NO_DATA),
        ("19.3",  "_pg._tcp.db.shop.svc SRV",               "NOERROR; SRV 0 25 5432 10-244-2-14.db.shop.svc.cluster.local.; SRV 0 25 5432 db-0.db.shop.svc.cluster.local.; SRV 0 25 5432 db-1.db.shop.svc.cluster.local.; SRV 0 25 5433 db-5.db.shop.svc.cluster.local."),
        ("19.3",  "10.2.244.10.in-addr.arpa. PTR",          "NOERROR; PTR db-0.db.shop.svc.cluster.local."),
        ("19.3",  "16.2.244.10.in-addr.arpa. PTR",          "NOERROR; PTR db-5.db.shop.svc.cluster.local."),
        ("19.3",  "10.1.244.10.in-addr.arpa. PTR",          "NOERROR; PTR 10-244-1-10.web.shop.svc.cluster.local.; PTR first.web-two.shop.svc.cluster.local."),
        ("19.4",  "db-1.db.shop.svc A",                     "NOERROR; A 10.244.2.11"),
        ("19.4",  "db-2.db.shop.svc A",                     GONE),
        ("19.4",  "db-3.db.shop.svc A",                     GONE),
        ("19.4",  "12.2.244.10.in-addr.arpa. PTR",          "NXDOMAIN; (in-addr.arpa.)"),
        ("19.4",  "early.shop.svc A",                       "NOERROR; A 10.244.3.10; A 10.244.3.11"),
        ("19.4",  "10-244-3-11.early.shop.svc A",           "NOERROR; A 10.244.3.11"),
        ("19.4",  "_amqp._tcp.early.shop.svc SRV",          "NOERROR; SRV 0 50 5672 10-244-3-10.early.shop.svc.cluster.local.; SRV 0 50 5672 10-244-3-11.early.shop.svc.cluster.local."),
        ("19.5",  "out.shop.svc CNAME",                     "NOERROR; CNAME db.example.com."),
        ("19.5",  "out.shop.svc A",                         "NOERROR; CNAME db.example.com."),
        ("19.5",  "out.shop.svc AAAA",                      "NOERROR; CNAME db.example.com."),
        ("19.5",  "out-dot.shop.svc CNAME",                 "NOERROR; CNAME www.example.com."),
        ("19.5",  "out.shop.svc SRV",                       NO_DATA),
        ("19.5",  "x.out.shop.svc A",                       GONE),
        ("19.5",  "literal.shop.svc A",                     GONE),
        ("19.5",  "in.shop.svc A",                          "NOERROR; CNAME web.shop.svc.cluster.local.; web.shop.svc.cluster.local. A 10.96.0.20"),
        ("19.5",  "in.shop.svc AAAA",                       "NOERROR; CNAME web.shop.svc.cluster.local.; web.shop.svc.cluster.local. AAAA fd00:96::20"),
        ("19.5",  "in.shop.svc CNAME",                      "NOERROR; CNAME web.shop.svc.cluster.local."),
        ("19.5",  "in-in.shop.svc A",                       "NOERROR; CNAME in.shop.svc.cluster.local.; in.shop.svc.cluster.local. CNAME web.shop.svc.cluster.local.; web.shop.svc.cluster.local. A 10.96.0.20"),
        ("19.5",  "gone.shop.svc A",                        "NXDOMAIN; CNAME nowhere.shop.svc.cluster.local.; (cluster.local.)"),
        ("19.5",  "circle.shop.svc A",                      "SERVFAIL"),
        ("19.5",  "circle.shop.svc CNAME",                  "NOERROR; CNAME elcric.shop.svc.cluster.local."),
        ("19.6",  "nope.shop.svc A",                        GONE),
        ("19.6",  "web.nope.svc A",                         GONE),
        ("19.6",  "nope.svc A",                             GONE),
        ("19.6",  "idle.shop.svc A",                        GONE),
        ("19.6",  "_pg._tcp.idle.shop.svc SRV",             GONE),
        ("19.6",  "nope.db.shop.svc A",                     GONE),
        ("19.6",  "_nope._tcp.web.shop.svc SRV",            GONE),
        ("19.6",  "_http._udp.web.shop.svc SRV",            GONE),
        ("19.6",  "http.tcp.web.shop.svc SRV",              GONE),
        ("19.6",  "foo A",                                  GONE),
        ("19.6",  "web.shop.foo A",                         GONE),
        ("19.6",  "a.b.c.web.shop.svc A",                   GONE),
        ("19.6",  "x._http._tcp.web.shop.svc SRV",          GONE),
        ("19.6",  "x.dns-version TXT",                      GONE),
        ("19.6",  "1.0.0.10.in-addr.arpa. PTR",             "NXDOMAIN; (in-addr.arpa.)"),
        ("19.6",  "1.20.0.96.10.in-addr.arpa. PTR",         "NXDOMAIN; (in-addr.arpa.)"),
        ("19.6",  "020.0.96.10.in-addr.arpa. PTR",          "NXDOMAIN; (in-addr.arpa.)"),
        ("19.6",  "300.0.96.10.in-addr.arpa. PTR",          "NXDOMAIN; (in-addr.arpa.)"),
        ("19.6",  "1.0.0.2.ip6.arpa. PTR",                  NO_DATA_6),
        ("19.6",  "f.f.f.f.ip6.arpa. PTR",                  "NXDOMAIN; (ip6.arpa.)"),
        ("19.6",  "web-two.shop.svc AAAA",                  NO_DATA),
        ("19.6",  "web.shop.svc TXT",                       NO_DATA),
        ("19.6",  "web.shop.svc MX",                        NO_DATA),
        ("19.6",  "web.shop.svc CNAME",                     NO_DATA),
        ("19.6",  "web.shop.svc TYPE65400",                 NO_DATA),
        ("19.6",  "nope.shop.svc TYPE65400",                GONE),
        ("19.6",  "cluster.local. A",                       NO_DATA),
        ("19.6",  "svc A",                                  NO_DATA),
        ("19.6",  "shop.svc A",                             NO_DATA),
        ("19.6",  "empty.svc A",                            NO_DATA),
        ("19.6",  "default.svc A",                          NO_DATA),
        ("19.6",  "dns-version A",                          NO_DATA),
        ("19.6",  "_http._tcp.web.shop.svc A",              NO_DATA),
        // A name exists if one below it does (RFC 8020).
        ("19.6",  "_tcp.web.shop.svc A",                    NO_DATA),
        ("19.6",  "_udp.db.shop.svc A",                     GONE),
        ("19.6",  "20.0.96.10.in-addr.arpa. A",             "NODATA; (in-addr.arpa.)"),
        ("19.6",  "0.96.10.in-addr.arpa. PTR",              "NODATA; (in-addr.arpa.)"),
        ("19.6",  "in-addr.arpa. PTR",                      "NODATA; (in-addr.arpa.)"),
        ("19.8",  "first.web-two.shop.svc A",               "NOERROR; A 10.244.1.10"),
        ("19.8",  "10-244-1-10.web.shop.svc A",             "NOERROR; A 10.244.1.10"),
        ("19.8",  "10-244-1-11.web.shop.svc A",             GONE),
        ("19.8",  "web.shop.svc SRV",                       "NOERROR; SRV 0 50 80 web.shop.svc.cluster.local.; SRV 0 50 443 web.shop.svc.cluster.local."),
        ("19.8",  "web-two.shop.svc SRV",                   "NOERROR; SRV 0 100 9000 web-two.shop.svc.cluster.local."),
        ("19.8",  "10-244-3-10.shop.pod A",                 GONE),
        ("19.8",  "shop.pod A",                             GONE),
        ("19.8",  "pod A",                                  GONE),
        ("19.8",  "*.shop.svc A",                           GONE),
        ("19.8",  "*.web.shop.svc A",                       GONE),
        ("19.8",  "any.web.shop.svc A",                     GONE),
        // All that a name has (RFC 8482 §4.3), in the order of types.
        ("ANY",   "dns-version ANY",                        "NOERROR; @28800 TXT 1.1.0"),
        ("ANY",   "web-two.shop.svc ANY",                   "NOERROR; A 10.96.0.21; SRV 0 100 9000 web-two.shop.svc.cluster.local."),
        ("ANY",   "out.shop.svc ANY",                       "NOERROR; CNAME db.example.com."),
        ("ANY",   "nope.shop.svc ANY",                      GONE),
        ("apex",  "cluster.local. NS",                      "NOERROR; NS ns.dns.cluster.local."),
        ("apex",  "ns.dns A",                               "NOERROR; A 10.96.0.10"),
        ("apex",  "dns A",                                  NO_DATA),
        ("AXFR",  "cluster.local. AXFR",                    "REFUSED"),
        ("AXFR",  "cluster.local. TYPE251",                    "REFUSED"),
        ("other", "example.com. A",                         "REFUSED"),
        ("other", "local. A",                               "REFUSED"),
        ("other", ". NS",                                   "REFUSED"),
        ("other", "mycluster.local. A",                     "REFUSED"),
    ];
    const NO_DATA_6: &str = "NODATA; (ip6.arpa.)";
    for (rule, question, expected) in cases {
        let answer = ask(&server, question, None);
        assert_eq!(told(question, &answer), *expected, "{rule}: {question}");
    }
}

#[test]
fn a_zone_tells_what_it_is() {
    let soa = ask(&server(Settings::default()), "cluster.local. SOA", None);
    let [Record { data: RData::SOA(soa), ttl: 5, .. }] = &soa.answers[..] else { panic!("{soa:?}") };
    assert_eq!((soa.mname.to_string(), soa.minimum), ("ns.dns.cluster.local.".to_owned(), 5));
}

#[test]
fn settings_change_what_there_is() {
    let with = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        server(settings)
    };
    let insecure = with(|settings| settings.pods = PodNames::Insecure);
    let verified = with(|settings| settings.pods = PodNames::Verified);
    let blocks = with(|settings| {
        let block = |text| lb_host::k8s::address::lenient_prefix(text).expect(text);
        settings.reverse = vec![block("10.96.0.0/12"), block("fd00:96::/108")];
    });
    let other = with(|settings| settings.origin = name("Example.ORG"));
    let times = with(|settings| settings.ttl = 30);
    const SIX: &str = "0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.";
    #[rustfmt::skip]
    let cases: &[(&Server, &str, &str)] = &[
        // §19.8: names of Pods
        (&insecure, "10-244-3-10.shop.pod A",                  "NOERROR; A 10.244.3.10"),
        (&insecure, "192-0-2-1.shop.pod A",                    "NOERROR; A 192.0.2.1"),
        (&insecure, "192-0-2-1.shop.pod AAAA",                 NO_DATA),
        (&insecure, "2001-db8--1.default.pod AAAA",            "NOERROR; AAAA 2001:db8::1"),
        (&insecure, "192-0-2-1.nope.pod A",                    GONE),
        (&insecure, "192-0-2-300.shop.pod A",                  GONE),
        (&insecure, "x.192-0-2-1.shop.pod A",                  GONE),
        (&insecure, "shop.pod A",                              NO_DATA),
        (&insecure, "nope.pod A",                              GONE),
        (&insecure, "pod A",                                   NO_DATA),
        (&verified, "10-244-3-10.shop.pod A",                  "NOERROR; A 10.244.3.10"),
        (&verified, "fd00-244-3--10.shop.pod AAAA",            "NOERROR; AAAA fd00:244:3::10"),
        (&verified, "10-244-3-11.shop.pod A",                  "NOERROR; A 10.244.3.11"),
        (&verified, "10-244-3-12.shop.pod A",                  GONE),
        (&verified, "10-244-3-10.default.pod A",               GONE),
        (&verified, "192-0-2-1.shop.pod A",                    GONE),
        // §19.6: owned reverse zones, cut at whole labels
        (&blocks,   "20.0.96.10.in-addr.arpa. PTR",            "NOERROR; PTR web.shop.svc.cluster.local."),
        (&blocks,   "21.1.97.10.in-addr.arpa. PTR",            "NXDOMAIN; (97.10.in-addr.arpa.)"),
        (&blocks,   "96.10.in-addr.arpa. PTR",                 "NODATA; (96.10.in-addr.arpa.)"),
        (&blocks,   "10.2.244.10.in-addr.arpa. PTR",           "REFUSED"),
        (&blocks,   "10.in-addr.arpa. PTR",                    "REFUSED"),
        (&blocks,   SIX,                                       "NOERROR; PTR web.shop.svc.cluster.local."),
        (&blocks,   "1.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR",       "REFUSED"),
        (&other,    "web.shop.svc.example.org. A",             "NOERROR; A 10.96.0.20"),
        (&other,    "20.0.96.10.in-addr.arpa. PTR",            "NOERROR; PTR web.shop.svc.example.org."),
        (&other,    "web.shop.svc A",                          "REFUSED"),
        (&times,    "web.shop.svc A",                          "NOERROR; @30 A 10.96.0.20"),
    ];
    for (server, question, expected) in cases {
        let question = if question.contains(' ') { (*question).to_owned() } else { format!("{question} PTR") };
        assert_eq!(told(&question, &ask(server, &question, None)), *expected, "{question}");
    }
}

#[test]
fn before_the_first_sync_nothing_is_denied() {
    // §19.10
    let mut server = Server::new(Zone::new(Settings::default()));
    for question in ["web.shop.svc A", "nope A", "cluster.local. A", "20.0.96.10.in-addr.arpa. PTR"] {
        assert_eq!(told(question, &ask(&server, question, None)), "SERVFAIL", "{question}");
    }
    assert_eq!(told("example.com. A", &ask(&server, "example.com. A", None)), "REFUSED");
    server.zone.set_synced();
    assert_eq!(told("web.shop.svc A", &ask(&server, "web.shop.svc A", None)), GONE);
}

#[test]
fn a_zone_follows_its_objects() {
    let cluster = cluster();
    let fresh = Zone::of(&cluster.manifests, Settings::default());
    let mut server = Server::new(Zone::new(Settings { pods: PodNames::Verified, ..Settings::default() }));
    server.zone.set_synced();
    // Services before their slices, the other way about than a fresh zone has them.
    cluster.manifests.services.iter().for_each(|service| server.zone.put_service(service.object.clone()));
    cluster.manifests.slices.iter().for_each(|slice| server.zone.put_slice(slice.object.clone()));
    cluster.manifests.pods.iter().for_each(|pod| server.zone.put_pod(&pod.object));
    let tells = |server: &Server, question: &str| told(question, &ask(server, question, None));
    let whole = Server::new(fresh);
    for question in ["db.shop.svc A", "_pg._tcp.db.shop.svc SRV", "10.1.244.10.in-addr.arpa. PTR", "out.shop.svc A"] {
        assert_eq!(tells(&server, question), tells(&whole, question), "{question}");
    }
    let slice = |name: &str| {
        let found = cluster.manifests.slices.iter().find(|slice| slice.name() == name);
        found.expect(name).object.clone()
    };
    let mut unready = slice("db-c");
    unready.endpoints = Some(Vec::new());
    server.zone.put_slice(unready);
    assert_eq!(tells(&server, "db.shop.svc AAAA"), NO_DATA);
    server.zone.remove_slice("shop", "db-a");
    assert_eq!(tells(&server, "db.shop.svc A"), "NOERROR; A 10.244.2.15; A 10.244.2.16");
    assert_eq!(tells(&server, "10.2.244.10.in-addr.arpa. PTR"), "NXDOMAIN; (in-addr.arpa.)");
    server.zone.remove_slice("shop", "db-b");
    assert_eq!(tells(&server, "db.shop.svc A"), GONE);
    // A slice that is given to another Service leaves the first.
    let mut moved = slice("web-4");
    moved.metadata.labels.as_mut().expect("labels").insert("kubernetes.io/service-name".to_owned(), "db".to_owned());
    server.zone.put_slice(moved);
    assert_eq!(tells(&server, "db.shop.svc A"), "NOERROR; A 10.244.1.10");
    assert_eq!(tells(&server, "10-244-1-10.web.shop.svc A"), GONE);
    server.zone.remove_service("shop", "web");
    assert_eq!(tells(&server, "web.shop.svc A"), GONE);
    assert_eq!(tells(&server, "20.0.96.10.in-addr.arpa. PTR"), "NXDOMAIN; (in-addr.arpa.)");
    assert_eq!(tells(&server, "10-244-3-10.shop.pod A"), "NOERROR; A 10.244.3.10");
    server.zone.remove_pod("shop", "queue-0");
    assert_eq!(tells(&server, "10-244-3-10.shop.pod A"), GONE);
    server.zone.put_namespace("new");
    assert_eq!(tells(&server, "new.svc A"), NO_DATA);
    server.zone.remove_namespace("new");
    assert_eq!(tells(&server, "new.svc A"), GONE);
}

#[test]
fn the_rest_of_the_world_is_the_upstreams() {
    let server = server(Settings::default());
    let outside = outside();
    #[rustfmt::skip]
    let cases: &[(&str, &str, bool)] = &[
        // question, answer, whether the zone itself says so
        ("db.example.com. A",    "NoError; A 192.0.2.7",                                                                       false),
        ("www.example.com. A",   "NoError; CNAME db.example.com.; A 192.0.2.7",                                                false),
        ("db.example.com. AAAA", "NoError",                                                                                    false),
        ("example.com. A",       "NoError",                                                                                    false),
        ("no.example.com. A",    "NXDomain",                                                                                   false),
        ("out.shop.svc A",       "NoError; CNAME db.example.com.; A 192.0.2.7",                                                true),
        ("out-dot.shop.svc A",   "NoError; CNAME www.example.com.; CNAME db.example.com.; A 192.0.2.7",                        true),
        ("out.shop.svc AAAA",    "NoError; CNAME db.example.com.",                                                             true),
        ("out.shop.svc CNAME",   "NoError; CNAME db.example.com.",                                                             true),
        ("nope.shop.svc A",      "NXDomain",                                                                                   true),
    ];
    for (question, expected, own) in cases {
        let answer = ask(&server, question, Some(&outside));
        let records = answer.answers.iter().map(|record| format!("; {} {}", record.record_type(), record.data));
        let told = format!("{:?}{}", answer.metadata.response_code, records.collect::<String>());
        assert_eq!((told.as_str(), answer.metadata.authoritative), (*expected, *own), "{question}");
        assert!(answer.metadata.recursion_available, "{question}");
    }
    /// Nobody is there.
    struct Dead;
    impl Upstream for Dead {
        fn ask(&self, _: &Query) -> Option<lb_host::dns::Reply> {
            None
        }
    }
    for question in ["example.com. A", "out.shop.svc A"] {
        assert_eq!(told(question, &ask(&server, question, Some(&Dead))), "SERVFAIL", "{question}");
    }
}

#[test]
fn targets_addresses_come_along() {
    let server = server(Settings::default());
    for (question, expected) in [
        (
            "_http._tcp.web.shop.svc SRV",
            "web.shop.svc.cluster.local. 10.96.0.20, web.shop.svc.cluster.local. fd00:96::20",
        ),
        ("web.shop.svc SRV", "web.shop.svc.cluster.local. 10.96.0.20, web.shop.svc.cluster.local. fd00:96::20"),
        (
            "_pg._tcp.db.shop.svc SRV",
            "10-244-2-14.db.shop.svc.cluster.local. 10.244.2.14, db-0.db.shop.svc.cluster.local. 10.244.2.10, \
             db-0.db.shop.svc.cluster.local. fd00:244::2:10, db-1.db.shop.svc.cluster.local. 10.244.2.11, \
             db-5.db.shop.svc.cluster.local. 10.244.2.15, db-5.db.shop.svc.cluster.local. 10.244.2.16",
        ),
        ("cluster.local. NS", "ns.dns.cluster.local. 10.96.0.10"),
        ("web.shop.svc A", ""),
    ] {
        let answer = ask(&server, question, None);
        let told: Vec<_> = answer.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
        assert_eq!(told.join(", "), expected, "{question}");
    }
}

#[test]
fn lists_of_addresses_turn_if_told_to() {
    let server = server(Settings::default()).turning();
    let firsts: Vec<_> = (0..6).map(|_| ask(&server, "db.shop.svc A", None).answers[0].data.to_string()).collect();
    let expected = ["10.244.2.10", "10.244.2.11", "10.244.2.14", "10.244.2.15", "10.244.2.16", "10.244.2.10"];
    assert_eq!(firsts, expected);
}
