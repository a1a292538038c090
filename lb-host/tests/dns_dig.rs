//! `lb dns`, and a real client of `lb dns --serve`: dig, over UDP and TCP of the loopback interface.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const ZONE: &str = "tests/dns/zone.yaml";

fn lb(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("dns").args(arguments.split(' '));
    command
}

/// What `lb dns` prints on standard output and on standard error, and its exit code.
fn run(arguments: &str) -> (String, String, Option<i32>) {
    let output = lb(arguments).output().expect("lb runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn short(arguments: &str) -> String {
    let (out, err, code) = run(&format!("-f {ZONE} --short {arguments}"));
    assert_eq!((err.as_str(), code), ("", Some(0)), "{arguments}");
    out.lines().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_name_is_printed_as_dig_prints_it() {
    let (out, err, code) = run(&format!("-f {ZONE} -n shop _http._tcp.web SRV"));
    let expected = "\
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 0
;; flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 2

;; QUESTION SECTION:
;_http._tcp.web.shop.svc.cluster.local. IN SRV

;; ANSWER SECTION:
_http._tcp.web.shop.svc.cluster.local. 5 IN SRV\t0 100 80 web.shop.svc.cluster.local.

;; ADDITIONAL SECTION:
web.shop.svc.cluster.local. 5\tIN\tA\t10.96.0.20
web.shop.svc.cluster.local. 5\tIN\tAAAA\tfd00:96::20
";
    assert_eq!((out.as_str(), err.as_str(), code), (expected, "", Some(0)));
    let (out, ..) = run(&format!("-f {ZONE} x.cluster.local."));
    let expected = "\
;; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN, id: 0
;; flags: qr aa rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 0

;; QUESTION SECTION:
;x.cluster.local.\t\tIN\tA

;; AUTHORITY SECTION:
cluster.local.\t\t5\tIN\tSOA\tns.dns.cluster.local. hostmaster.cluster.local. ";
    assert!(out.starts_with(expected), "{out}");
}

#[test]
fn names_are_looked_up_as_a_pod_would() {
    for (arguments, expected) in [
        ("-n shop web", "10.96.0.20"),
        ("web.shop AAAA", "fd00:96::20"),
        ("web", ""),
        ("kube-dns.kube-system.svc", "10.96.0.10"),
        ("web.shop.svc.cluster.local", "10.96.0.20"),
        ("dns-version.cluster.local. txt", "\"1.1.0\""),
        ("-x 10.96.0.20", "web.shop.svc.cluster.local."),
        ("-x fd00:96::20", "web.shop.svc.cluster.local."),
        ("-x 10.244.1.10", "10-244-1-10.web.shop.svc.cluster.local. first.web-two.shop.svc.cluster.local."),
        ("--pods insecure 192-0-2-1.shop.pod", "192.0.2.1"),
        ("--zone example.org web.shop.svc.example.org.", "10.96.0.20"),
        ("-n shop in", "web.shop.svc.cluster.local. 10.96.0.20"),
    ] {
        let told = if arguments == "web" {
            // Nobody knows it, and last of all it is asked for as it is, which is outside of the zone.
            let (out, err, code) = run(&format!("-f {ZONE} --short {arguments}"));
            assert!(err.starts_with("warning: outside of cluster.local.;"), "{err}");
            assert_eq!(code, Some(0));
            out
        } else {
            short(arguments)
        };
        assert_eq!(told, expected, "{arguments}");
    }
    let (out, ..) = run(&format!("-f {ZONE} -o json -n shop web-two"));
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let expected = serde_json::json!({
        "status": "NOERROR",
        "flags": ["qr", "aa", "rd"],
        "question": {"name": "web-two.shop.svc.cluster.local.", "class": "IN", "type": "A"},
        "answer": [{"name": "web-two.shop.svc.cluster.local.", "ttl": 5, "class": "IN", "type": "A", "data": "10.96.0.21"}],
        "authority": [],
        "additional": [],
    });
    assert_eq!(json, expected);
}

#[test]
fn trouble_is_told_with_exit_code_2() {
    for (arguments, expected) in [
        (format!("-f {ZONE}"), "<NAME>"),
        ("web".to_owned(), "no Kubernetes objects"),
        (format!("-f {ZONE} web FOO"), "not a record type like A"),
        (format!("-f {ZONE} a..b"), "is no name"),
        (format!("-f {ZONE} -x web"), "invalid value 'web'"),
        (
            format!("-f {ZONE} --serve 203.0.113.1:53535"),
            "cannot serve at 203.0.113.1:53535; take an address of this machine",
        ),
        (format!("-f {ZONE} --serve 127.0.0.1:0 web"), "cannot be used with"),
        (format!("-f {ZONE} --reverse-zones 10.0.0.0 web"), "not a block of addresses"),
    ] {
        let (out, err, code) = run(&arguments);
        assert_eq!((out.as_str(), code), ("", Some(2)), "{arguments}: {err}");
        assert!(err.contains(expected), "{arguments}: {err}");
    }
}

/// A server, which ends with the test.
struct Serving {
    process: Child,
    port: String,
}

impl Serving {
    fn start(arguments: &str) -> Self {
        let command = format!("-f {ZONE} --serve 127.0.0.1:0{arguments}");
        let mut process = lb(&command).stderr(Stdio::piped()).spawn().expect("lb runs");
        let mut line = String::new();
        BufReader::new(process.stderr.take().expect("standard error")).read_line(&mut line).expect("a line");
        let port = line.strip_prefix("serving DNS at 127.0.0.1:").and_then(|rest| rest.split_once(','));
        let port = port.unwrap_or_else(|| panic!("{line}")).0.to_owned();
        Self { process, port }
    }

    /// What dig prints.
    fn dig(&self, arguments: &str) -> String {
        let mut dig = Command::new("dig");
        dig.args(["-r", "+time=5", "+tries=2", "+nocookie", "@127.0.0.1", "-p", &self.port]).args(arguments.split(' '));
        let output = dig.output().expect("dig runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "dig {arguments}: {text}");
        text
    }

    #[cfg(unix)]
    fn stop(mut self, signal: &str) -> Option<i32> {
        let kill = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        self.process.wait().expect("an end").code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether dig is here. Where CI is set it must be.
fn has_dig() -> bool {
    let here = Command::new("dig").arg("-v").stderr(Stdio::null()).status().is_ok();
    assert!(here || std::env::var_os("CI").is_none(), "dig is missing: apt-get install bind9-dnsutils");
    if !here {
        eprintln!("SKIPPED: dig is missing: apt-get install bind9-dnsutils");
    }
    here
}

#[test]
fn dig_reads_what_the_table_says() {
    if !has_dig() {
        return;
    }
    let serving = Serving::start("");
    #[rustfmt::skip]
    let cases = [
        // what dig is asked, the data of its answers, in the order they come
        ("dns-version.cluster.local. TXT",                  "\"1.1.0\""),
        ("web.shop.svc.cluster.local. A",                   "10.96.0.20"),
        ("web.shop.svc.cluster.local. AAAA",                "fd00:96::20"),
        ("_http._tcp.web.shop.svc.cluster.local. SRV",      "0 100 80 web.shop.svc.cluster.local."),
        ("_pg._tcp.db.shop.svc.cluster.local. SRV",         "0 25 5432 10-244-2-14.db.shop.svc.cluster.local. 0 25 5432 db-0.db.shop.svc.cluster.local. 0 25 5432 db-1.db.shop.svc.cluster.local. 0 25 5433 db-5.db.shop.svc.cluster.local."),
        ("db.shop.svc.cluster.local. A",                    "10.244.2.10 10.244.2.11 10.244.2.14 10.244.2.15 10.244.2.16"),
        ("db-5.db.shop.svc.cluster.local. A",               "10.244.2.15 10.244.2.16"),
        ("2001-db8-1--0.six.shop.svc.cluster.local. AAAA",  "2001:db8:1::"),
        ("-x 10.96.0.20",                                   "web.shop.svc.cluster.local."),
        ("-x fd00:96::20",                                  "web.shop.svc.cluster.local."),
        ("-x 10.244.2.10",                                  "db-0.db.shop.svc.cluster.local."),
        ("out.shop.svc.cluster.local. CNAME",               "db.example.com."),
        ("in.shop.svc.cluster.local. A",                    "web.shop.svc.cluster.local. 10.96.0.20"),
        ("cluster.local. NS",                               "ns.dns.cluster.local."),
        ("nope.shop.svc.cluster.local. A",                  ""),
        ("web.shop.svc.cluster.local. MX",                  ""),
    ];
    for (question, expected) in cases {
        for transport in ["+notcp", "+tcp"] {
            let told = serving.dig(&format!("+short {transport} {question}"));
            assert_eq!(told.lines().collect::<Vec<_>>().join(" "), expected, "{transport} {question}");
        }
    }
}

#[test]
fn dig_and_lb_print_the_same() {
    if !has_dig() {
        return;
    }
    let serving = Serving::start("");
    for question in [
        "web.shop.svc.cluster.local. A",
        "WEB.shop.svc.CLUSTER.local. AAAA",
        "_pg._tcp.db.shop.svc.cluster.local. SRV",
        "web.shop.svc.cluster.local. SRV",
        "dns-version.cluster.local. TXT",
        "cluster.local. SOA",
        "cluster.local. NS",
        "cluster.local. ANY",
        "web.shop.svc.cluster.local. TYPE65400",
        "x.cluster.local. A",
        "web.shop.svc.cluster.local. TXT",
        "gone.shop.svc.cluster.local. A",
        "circle.shop.svc.cluster.local. A",
        "big.shop.svc.cluster.local. A",
        "example.com. A",
        "1.0.0.10.in-addr.arpa. PTR",
        "-x 10.244.1.10",
        "-x 2001:db8::1",
    ] {
        // What both have: the counts, and the sections line by line. Ids differ, and dig explains itself.
        let shared = |text: &str| {
            let lines = text
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with("; ") && !line.starts_with(";; global"));
            let lines = lines.filter(|line| {
                !line.starts_with(";; Got") && !line.starts_with(";; WARNING") && !line.starts_with(";; You are")
            });
            lines
                .map(|line| line.split_once(", id: ").map_or(line, |(status, _)| status).to_owned())
                .collect::<Vec<_>>()
        };
        let ours = shared(&run(&format!("-f {ZONE} {question}")).0);
        for transport in ["+notcp", "+tcp"] {
            let theirs = shared(&serving.dig(&format!("+noedns +nostats {transport} {question}")));
            // A datagram that was cut is told of before the stream that is whole.
            let theirs: Vec<_> = theirs.into_iter().filter(|line| !line.starts_with(";; Truncated")).collect();
            assert_eq!(theirs, ours, "{transport} {question}");
        }
    }
}

#[test]
fn a_long_list_is_cut_in_a_datagram_and_whole_in_a_stream() {
    if !has_dig() {
        return;
    }
    let serving = Serving::start("");
    for (flags, expected) in [
        // flags of dig, header flags, addresses (tests/dns/messages.rs has the sums), how it came
        ("+noedns +ignore", ("qr aa tc rd", 29, "(UDP)")),
        ("+bufsize=1232 +ignore", ("qr aa tc rd", 73, "(UDP)")),
        ("+bufsize=1655 +ignore", ("qr aa rd", 100, "(UDP)")),
        ("+noedns", ("qr aa rd", 100, "(TCP)")),
        ("+tcp", ("qr aa rd", 100, "(TCP)")),
    ] {
        let told = serving.dig(&format!("{flags} big.shop.svc.cluster.local. A"));
        let header = told.lines().find_map(|line| line.strip_prefix(";; flags: ")?.split_once(';')).expect(&told).0;
        let count = told.lines().filter(|line| line.starts_with("big.shop")).count();
        let came = told.lines().find(|line| line.starts_with(";; SERVER:")).expect(&told);
        assert_eq!((header, count), (expected.0, expected.1), "{flags}");
        assert!(came.ends_with(expected.2), "{flags}: {came}");
    }
}

#[test]
fn dig_is_told_what_is_not_for_it() {
    if !has_dig() {
        return;
    }
    let serving = Serving::start("");
    for (question, expected) in [
        ("version.bind. CH TXT", "status: REFUSED"),
        ("cluster.local. AXFR", "; Transfer failed."),
        ("+opcode=2 cluster.local. A", "status: NOTIMP"),
        ("+edns=1 +noednsnegotiation cluster.local. A", "status: BADVERS"),
        ("+header-only cluster.local. A", "status: FORMERR"),
        ("example.com. A", "status: REFUSED"),
        ("+dnssec web.shop.svc.cluster.local. A", "EDNS: version: 0, flags: do; udp: 1232"),
    ] {
        let told = serving.dig(question);
        assert!(told.contains(expected), "{question}: {told}");
    }
    // Several questions in one connection.
    let told = serving.dig("+tcp +keepopen +short web.shop.svc.cluster.local. A web-two.shop.svc.cluster.local. A");
    assert_eq!(told, "10.96.0.20\n10.96.0.21\n");
}

#[test]
fn an_upstream_has_the_rest() {
    if !has_dig() {
        return;
    }
    // The one zone's server is the other's outside.
    let outside = Serving::start(" --zone example.com");
    let serving = Serving::start(&format!(" --upstream 127.0.0.1:{} --reverse-zones 10.96.0.0/12", outside.port));
    for (question, expected) in [
        ("web.shop.svc.cluster.local. A", "10.96.0.20"),
        ("web.shop.svc.example.com. A", "10.96.0.20"),
        ("-x 10.244.2.10", "db-0.db.shop.svc.example.com."),
        ("-x 10.96.0.20", "web.shop.svc.cluster.local."),
        ("out.shop.svc.cluster.local. A", "db.example.com."),
    ] {
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(
                serving.dig(&format!("+short {transport} {question}")).trim_end(),
                expected,
                "{transport} {question}"
            );
        }
    }
    // What the upstream cuts is fetched over TCP.
    assert_eq!(serving.dig("+short +bufsize=4096 big.shop.svc.example.com. A").lines().count(), 100);
    let flags = serving.dig("db.example.com. A");
    assert!(flags.contains("status: NXDOMAIN") && flags.contains("flags: qr rd ra;"), "{flags}");
    let at = format!("-f {ZONE} --upstream 127.0.0.1:{} --short web.shop.svc.example.com.", outside.port);
    assert_eq!(run(&at), ("10.96.0.20\n".to_owned(), String::new(), Some(0)));
    let itself = format!("-f {ZONE} --serve 127.0.0.1:{0} --upstream 127.0.0.1:{0}", free_port());
    let (_, err, code) = run(&itself);
    assert!(err.contains("is this server itself") && code == Some(2), "{err}");
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("its address").port()
}

#[cfg(unix)]
#[test]
fn a_server_ends_when_it_is_told_to() {
    for signal in ["-TERM", "-INT"] {
        assert_eq!(Serving::start("").stop(signal), Some(0), "{signal}");
    }
}

#[test]
fn connections_are_bounded_and_survive_nonsense() {
    use std::io::{Read, Write};
    use std::net::{TcpStream, UdpSocket};
    let serving = Serving::start("");
    let address = format!("127.0.0.1:{}", serving.port);
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for nonsense in [&b""[..], b"x", &[0xff; 600]] {
        udp.send_to(nonsense, &address).expect("sent");
    }
    let mut open: Vec<_> = (0..128).map(|_| TcpStream::connect(&address).expect("a connection")).collect();
    for stream in &mut open {
        stream.write_all(&[0xff; 5]).expect("sent");
    }
    // One more is closed at once.
    let mut more = TcpStream::connect(&address).expect("a connection");
    more.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a timeout");
    assert_eq!(more.read(&mut [0; 1]).expect("its end"), 0);
    drop(open);
    // `web.shop.svc.cluster.local. A` with id 7, put together by hand.
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\x04shop\x03svc\x07cluster\x05local\0\0\x01\0\x01";
    udp.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a timeout");
    udp.send_to(query, &address).expect("sent");
    let mut answer = [0; 512];
    let length = udp.recv(&mut answer).expect("an answer");
    assert_eq!((&answer[..2], &answer[length - 4..length]), (&[0, 7][..], &[10, 96, 0, 20][..]));
}
