//! `lb run` with the kernel's own network stacks and well-known programs on both sides.
//!
//! Needs root, for network namespaces, and the programs of some Debian packages; where they are missing it says so, and
//! in CI fails.

mod connections;
mod drain;
mod ecmp;
mod lab;
mod link;
mod objects;
mod speed;
mod stream;
mod workers;

use std::path::PathBuf;
use std::process::{Child, Stdio};

use lab::{Lab, Lb, PODS, Stick, pod_number, text, until};
use objects::{Backend, V4, V6, backend, manifests, put, write};
use stream::Stream;

const STICKS: [Stick; 2] = [Stick::Tap, Stick::Veth];

/// A lab with these backends in its manifests, and the manifests' path.
fn lab(stick: Stick, backends: &[Backend]) -> (Lab, PathBuf) {
    let lab = Lab::new(stick, 1500);
    let objects = lab.path("objects");
    std::fs::create_dir(&objects).expect("a directory");
    let path = objects.join("cluster.yaml");
    write(&path, backends);
    (lab, path)
}

/// Has every Pod answer HTTP with its name.
fn web(lab: &mut Lab, port: u16) {
    for pod in 0..PODS {
        nginx(lab, pod, port);
    }
}

/// Starts an nginx in a Pod; returns its id.
fn nginx(lab: &mut Lab, pod: usize, port: u16) -> u32 {
    let home = lab.path(&format!("nginx-{pod}-{port}"));
    std::fs::create_dir(&home).expect("a directory");
    let home = home.display();
    let config = format!(
        "daemon off; master_process on; worker_processes 1; pid {home}/pid; error_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {home}/a; proxy_temp_path {home}/b;\n\
         fastcgi_temp_path {home}/c; uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;\n\
         server {{ listen {port}; listen [::]:{port}; location / {{ return 200 \"pod{pod}\\n\"; }}\n\
         location = /who {{ return 200 \"$remote_addr\\n\"; }} }} }}\n"
    );
    let file = lab.path(&format!("nginx-{pod}-{port}.conf"));
    std::fs::write(&file, config).expect("written");
    let name = format!("pod{pod}");
    let id = lab.start(&name, "nginx", &["-c", file.to_str().expect("a path")]);
    lab.await_port(&name, port);
    id
}

/// Has a Pod send back what it gets on a port.
fn echo(lab: &mut Lab, pod: usize, port: u16) {
    let name = format!("pod{pod}");
    lab.start(&name, "socat", &[&format!("TCP6-LISTEN:{port},ipv6only=0,fork,reuseaddr"), "PIPE"]);
    lab.await_port(&name, port);
}

#[test]
fn every_address_of_a_service_leads_to_its_backends() {
    if !lab::possible(&["nginx", "curl", "ss"]) {
        return;
    }
    for stick in STICKS {
        let (mut lab, path) = lab(stick, &[backend(0, 8080), backend(1, 8080)]);
        web(&mut lab, 8080);
        let mut lb = Lb::start(&lab, &path, &[]);
        for from in ["client", "pod2", "pod0", "node"] {
            for address in V4.iter().chain(&V6) {
                let body = lab.curl(from, &format!("http://{address}/")).unwrap_or_else(|error| error);
                assert!(["pod0\n", "pod1\n"].contains(&body.as_str()), "{stick:?}: {from} to {address}: {body}");
            }
        }
        // §8.1: with a local detector whoever is no Pod is masqueraded; with externalTrafficPolicy Local nobody.
        for (from, to, expected) in [
            ("client", "http://10.96.0.10/who", "192.0.2.1\n"),
            ("pod2", "http://10.96.0.10/who", "10.244.0.13\n"),
            ("pod2", "http://203.0.113.10/who", "192.0.2.1\n"),
        ] {
            let seen = lab.curl(from, to).expect("an answer");
            assert_eq!(seen, expected, "{stick:?}: {from} to {to}");
        }
        // §6.4: nobody there at all is told at once.
        let refused = lab.curl("client", "http://10.96.0.99/").expect_err("nobody");
        assert!(refused.contains("(7)"), "{stick:?}: {refused}");
        // What is no Service's is routed as ever.
        let direct = lab.curl("client", &format!("http://10.244.0.{}:8080/", pod_number(2))).expect("a Pod");
        assert_eq!(direct, "pod2\n", "{stick:?}");
        assert!(lab.metric("lb_packets_total{verdict=\"no-endpoints\"}") >= 1.0);
        lb.signal("-TERM");
        assert_eq!(lb.ended(), Some(0), "{stick:?}: {}", lb.said());
    }
}

/// curl at work: it prints a line a request.
struct Requests {
    child: Child,
    what: String,
    count: usize,
}

fn requests(lab: &Lab, address: &str, count: usize, keep_alive: bool) -> Requests {
    let mut command = lab.command("client", "curl");
    command.args(["-sS", "-g", "--max-time", "60", "-w", "%{http_code}\\n"]);
    if !keep_alive {
        command.args(["-H", "Connection: close"]);
    }
    let mut config = String::new();
    for number in 0..count {
        config += &format!("url = \"http://{address}/{number}\"\noutput = \"/dev/null\"\n");
    }
    let file = lab.path(&format!("curl-{address}-{keep_alive}"));
    std::fs::write(&file, config).expect("written");
    let child = command.arg("-K").arg(file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl");
    Requests { child, what: format!("{address}, keep-alive {keep_alive}"), count }
}

impl Requests {
    fn all_answered(self) {
        let output = self.child.wait_with_output().expect("its output");
        // By its exit code it tells of the last request only.
        let [printed, complaints] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let good = printed.lines().filter(|line| *line == "200").count();
        assert_eq!((good, printed.lines().count()), (self.count, self.count), "{}: {complaints}", self.what);
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_some()
    }
}

#[test]
fn no_request_fails_while_backends_are_replaced() {
    if !lab::possible(&["nginx", "curl", "ss"]) {
        return;
    }
    const REPLACED: usize = 50;
    const EACH: usize = 1700;
    let mut backends: Vec<_> = (0..PODS).map(|pod| backend(pod, 8000)).collect();
    let (mut lab, path) = lab(Stick::Tap, &backends);
    let mut ids: Vec<u32> = (0..PODS).map(|pod| nginx(&mut lab, pod, 8000)).collect();
    let lb = Lb::start(&lab, &path, &[]);

    // 10,200 requests in all, and more for as long as backends are replaced.
    let mut running: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|keep_alive| V4.map(|address| (address, keep_alive)))
        .map(|(address, keep_alive)| requests(&lab, address, EACH, keep_alive))
        .collect();
    let mut more = requests(&lab, V6[2], EACH, false);
    for replaced in 0..REPLACED {
        let (pod, port) = (replaced % PODS, 8001 + replaced as u16);
        let id = nginx(&mut lab, pod, port);
        // The new one serves, the old one serves no one new.
        backends[pod].terminating = true;
        let new = backend(pod, port);
        write(&path, &[&backends[..], &[new]].concat());
        lb.until("rules changed", replaced * 2 + 1);
        // It answers whom it has, and ends; whom it has not accepted yet nginx would reset.
        lab.until_accepted(&format!("pod{pod}"), backends[pod].port);
        let graceful = std::process::Command::new("kill").args(["-QUIT", &ids[pod].to_string()]).status();
        assert!(graceful.is_ok_and(|status| status.success()));
        (backends[pod], ids[pod]) = (new, id);
        write(&path, &backends);
        lb.until("rules changed", replaced * 2 + 2);
        if more.is_over() {
            std::mem::replace(&mut more, requests(&lab, V6[2], EACH, false)).all_answered();
        }
    }
    running.push(more);
    running.into_iter().for_each(Requests::all_answered);
    assert_eq!(lb.count("refused"), 0, "{}", lb.said());
    assert_eq!(lab.metric("lb_device_dropped_total{device=\"tap:lb0\"}"), 0.0);
}

#[test]
fn a_stream_survives_a_hundred_updates_and_a_kill() {
    if !lab::possible(&["socat", "ss", "curl"]) {
        return;
    }
    for stick in STICKS {
        let (mut lab, path) = lab(stick, &[backend(0, 7000)]);
        echo(&mut lab, 0, 7000);
        let flows = lab.path("flows");
        let more = ["--flow-file", flows.to_str().expect("a path")];
        let mut lb = Lb::start(&lab, &path, &more);
        let mut streams: Vec<_> = [V4[0], V4[1], V4[2], V6[0]].map(|to| Stream::connect(&lab, "client", to)).into();
        streams.iter_mut().for_each(Stream::echo);
        for update in 0..100 {
            // The backend that is spoken to goes, stays, and is joined by others.
            let all = [backend(0, 7000), backend(1, 7000), backend(2, 7000 + update)];
            write(&path, &all[usize::from(update % 3 == 2)..2 + usize::from(update % 2)]);
            lb.until("rules changed", usize::from(update) + 1);
            streams.iter_mut().for_each(Stream::echo);
        }
        // One that is in no file yet, only in the journal.
        write(&path, &[backend(0, 7000)]);
        lb.until("rules changed", 101);
        streams.push(Stream::connect(&lab, "client", V6[1]));
        streams.iter_mut().for_each(Stream::echo);
        lb.signal("-KILL");
        assert_eq!(lb.ended(), None);
        let lb = Lb::start(&lab, &path, &more);
        assert!(lab.metric("lb_flows_restored_total") >= 5.0, "{stick:?}: {}", lb.said());
        streams.iter_mut().for_each(Stream::echo);
        assert_eq!(
            lab.metric("lb_flows_created_total"),
            lab.metric("lb_flows_restored_total"),
            "{stick:?}: none began anew"
        );
    }
}

#[test]
fn a_thousand_connections_at_a_time_are_kept_apart() {
    if !lab::possible(&["socat", "python3", "ss"]) {
        return;
    }
    const SERVER: &str = "
import asyncio
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line); await writer.drain()
async def main():
    server = await asyncio.start_server(serve, '0.0.0.0', 7000, backlog=2048)
    await server.serve_forever()
asyncio.run(main())";
    const CLIENT: &str = "
import asyncio
async def main():
    ends = []
    for number in range(1000):
        to = [('10.96.0.10', 80), ('192.0.2.1', 30080), ('203.0.113.10', 80)][number % 3]
        ends.append(await asyncio.open_connection(*to))
    for round in range(3):
        for number, (_, writer) in enumerate(ends):
            writer.write(f'{number} {round}\\n'.encode())
        for number, (reader, _) in enumerate(ends):
            line = await asyncio.wait_for(reader.readline(), 20)
            assert line == f'{number} {round}\\n'.encode(), line
    print('all', len(ends))
asyncio.run(main())";
    let (mut lab, path) = lab(Stick::Tap, &[backend(0, 7000), backend(1, 7000), backend(2, 7000)]);
    for pod in ["pod0", "pod1", "pod2"] {
        lab.start(pod, "sh", &["-c", &format!("ulimit -n 4096; exec python3 -c \"{SERVER}\"")]);
        lab.await_port(pod, 7000);
    }
    let _lb = Lb::start(&lab, &path, &[]);
    let script = format!("ulimit -n 4096; exec python3 -c \"{CLIENT}\"");
    let output = lab.command("client", "sh").args(["-c", &script]).output().expect("python");
    assert_eq!(text(output), Ok("all 1000\n".to_owned()));
    assert_eq!(lab.metric("lb_flows"), 1000.0);
}

#[test]
fn large_segments_and_unfinished_checksums_go_through() {
    if !lab::possible(&["iperf3", "ethtool", "ss"]) {
        return;
    }
    for (stick, mtu, offloads) in [
        (Stick::Tap, 1500, true),
        (Stick::Tap, 9000, true),
        (Stick::Tap, 1500, false),
        (Stick::Veth, 1500, true),
        (Stick::Veth, 9000, true),
        (Stick::Veth, 1500, false),
    ] {
        let what = format!("{stick:?}, MTU {mtu}, offloads {offloads}");
        let mut lab = Lab::new(stick, mtu);
        let path = lab.path("cluster.yaml");
        write(&path, &[backend(0, 5201)]);
        if !offloads {
            for name in ["client", "pod0"] {
                let off = ["-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
                text(lab.command(name, "ethtool").args(off).output().expect("ethtool")).expect("offloads off");
            }
        }
        lab.start("pod0", "iperf3", &["-s"]);
        lab.await_port("pod0", 5201);
        let _lb = Lb::start(&lab, &path, &[]);
        for arguments in [
            &["-c", "203.0.113.10", "-p", "80"][..],
            &["-c", "10.96.0.10", "-p", "80", "-R"],
            &["-6", "-c", "fd00:96::10", "-p", "80"],
            &["-c", "192.0.2.1", "-p", "30080", "-u", "-b", "20M", "-l", "1200"],
            // Longer than any link takes: fragments.
            &["-c", "203.0.113.10", "-p", "80", "-u", "-b", "20M", "-l", "20000"],
        ] {
            let is_tcp = !arguments.contains(&"-u");
            let amount = if is_tcp { "32M" } else { "4M" };
            let end = speed::iperf(&lab, &[arguments, &["-n", amount]].concat());
            let number = |sum: &str, what: &str| end[sum][what].as_f64().unwrap_or(0.0);
            // A receiver stops to count when the sender is done, which may be some megabytes ahead.
            let good = match is_tcp {
                true => number("sum_received", "bytes") >= 16e6,
                // A machine that is busy with other things loses some at its sockets; wrong checksums would lose all.
                false => number("sum", "bytes") >= 4e6 && number("sum", "lost_percent") < 50.0,
            };
            assert!(good, "{what}: iperf3 {arguments:?}: {end}");
        }
    }
}

#[test]
fn dig_gets_answers_over_udp_and_tcp() {
    if !lab::possible(&["dig", "dnsmasq", "ss"]) {
        return;
    }
    let (mut lab, path) = lab(Stick::Veth, &[backend(0, 53), backend(1, 53)]);
    for pod in ["pod0", "pod1"] {
        lab.start(
            pod,
            "dnsmasq",
            &["-k", "-C", "/dev/null", "-R", "-h", "-u", "root", "--address=/lb.test/192.0.2.53"],
        );
        lab.await_port(pod, 53);
    }
    let lb = Lb::start(&lab, &path, &[]);
    for (server, port) in [("10.96.0.10", "80"), ("192.0.2.1", "30080"), ("fd00:96::10", "80")] {
        for transport in ["+notcp", "+tcp"] {
            for name in ["a.lb.test", "b.lb.test", "c.lb.test"] {
                let mut command = lab.command("client", "dig");
                command.args([&format!("@{server}"), "-p", port, transport, "+short", "+tries=1", "+time=5", name]);
                let answer = text(command.output().expect("dig"));
                assert_eq!(answer, Ok("192.0.2.53\n".to_owned()), "{server} {transport} {name}");
            }
        }
    }
    // §11.5: a client that keeps its port is moved when its backend goes.
    write(&path, &[backend(1, 53)]);
    lb.until("rules changed", 1);
    let mut command = lab.command("client", "dig");
    command.args(["@10.96.0.10", "-p", "80", "-b", "192.0.2.100#5300", "+short", "+tries=1", "+time=5", "d.lb.test"]);
    assert_eq!(text(command.output().expect("dig")), Ok("192.0.2.53\n".to_owned()));
    write(&path, &[backend(0, 53)]);
    lb.until("rules changed", 2);
    assert_eq!(text(command.output().expect("dig")), Ok("192.0.2.53\n".to_owned()));
    assert!(lab.metric("lb_flows_reselected_total") >= 1.0);
}

#[test]
fn a_bad_edit_is_refused_and_told() {
    if !lab::possible(&["nginx", "curl", "ss"]) {
        return;
    }
    let (mut lab, path) = lab(Stick::Tap, &[backend(0, 8080)]);
    web(&mut lab, 8080);
    let lb = Lb::start(&lab, &path, &[]);
    let good = manifests(&[backend(0, 8080)], "");
    let line = good.lines().position(|line| line.contains("port: 80, nodePort")).expect("a line") + 1;
    put(&path, &good.replacen("port: 80, nodePort", "port: 80000, nodePort", 1));
    lb.until("refused", 1);
    assert!(lb.said().contains(&format!("cluster.yaml:{line}:")), "{}", lb.said());
    assert_eq!(lab.metric("lb_reloads_refused_total"), 1.0);
    assert_eq!(lab.curl("client", "http://10.96.0.10/").as_deref(), Ok("pod0\n"), "the old rules stay");
    put(&path, &good.replace("8080", "8081"));
    lb.until("rules changed", 1);
    assert!(lab.curl("client", "http://10.96.0.10/").is_err(), "nobody listens there");
    put(&path, &good);
    lb.until("rules changed", 2);
    assert_eq!(lab.curl("client", "http://10.96.0.10/").as_deref(), Ok("pod0\n"));
    lb.signal("-HUP");
    lb.until("SIGHUP", 1);
    assert_eq!(lab.metric("lb_reloads_refused_total"), 1.0);
    assert!(lab.metric("kubeproxy_sync_proxy_rules_endpoint_changes_total") >= 7.0);
}

#[test]
fn health_is_answered_where_load_balancers_ask() {
    if !lab::possible(&["curl", "ss"]) {
        return;
    }
    let (lab, path) = lab(Stick::Tap, &[backend(0, 8080)]);
    let lb = Lb::start(&lab, &path, &[]);
    let status = |from: &str, url: &str| {
        let mut command = lab.command(from, "curl");
        text(command.args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]).output().expect("curl"))
    };
    let asked = |from: &str, url: &str| status(from, url).unwrap_or_else(|error| error);
    assert_eq!(asked("client", "http://192.0.2.1:31000/"), "200", "§10.2: an endpoint is here");
    assert_eq!(asked("client", "http://[2001:db8::1]:31000/"), "503", "of the other family none is");
    let body = lab.curl("client", "http://192.0.2.1:31000/").expect("an answer");
    assert!(body.contains("\"localEndpoints\": 1") && body.contains("\"name\": \"local\""), "{body}");
    assert_eq!(asked("node", "http://127.0.0.1:10249/healthz"), "200");
    assert_eq!(lab.curl("node", "http://127.0.0.1:10249/proxyMode").as_deref(), Ok("iptables"));
    // §10.6: the node is to go.
    put(&path, &manifests(&[backend(0, 8080)], "{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}"));
    until("the taint", || asked("node", "http://127.0.0.1:10249/healthz") == "503");
    assert_eq!(asked("node", "http://127.0.0.1:10249/livez"), "200");
    assert_eq!(asked("client", "http://192.0.2.1:31000/"), "200", "§10.4: which these do not look at");
    // §10.1: the Service goes, and its port.
    let text = manifests(&[backend(0, 8080)], "");
    put(&path, &text.replace("  healthCheckNodePort: 31000\n", "").replace("externalTrafficPolicy: Local", ""));
    lb.until("rules changed", 1);
    until("the port to close", || asked("client", "http://192.0.2.1:31000/").starts_with("exit"));
    assert!(lab.metric("kubeproxy_proxy_healthz_total{code=\"503\"}") >= 1.0);
}
