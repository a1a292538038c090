//! Several workers: queues of one device, each with its balancer, which hand each other what is the other's.

use crate::connections::{self, Connections};
use crate::lab::{self, Lb, Stick};
use crate::objects::{V4, V6, backend, write};
use crate::{lab as new_lab, speed};

/// Clients, so that every worker has some.
const CLIENTS: usize = 16;
/// Connections to each address.
const EACH: usize = 64;

/// Gives the client more addresses.
fn more_clients(lab: &lab::Lab) -> [Vec<String>; 2] {
    let v4: Vec<String> = (0..CLIENTS).map(|number| format!("192.0.2.{}", 101 + number)).collect();
    let v6: Vec<String> = (0..CLIENTS).map(|number| format!("2001:db8::{}", 101 + number)).collect();
    for (address, length) in v4.iter().map(|one| (one, 32)).chain(v6.iter().map(|one| (one, 128))) {
        let nodad = if length == 128 { " nodad" } else { "" };
        lab.ip("client", &format!("addr add {address}/{length} dev eth0{nodad}\n"));
        lab.ip("node", &format!("{} route add {address} dev client\n", if length == 32 { "-4" } else { "-6" }));
    }
    [v4, v6]
}

#[test]
fn workers_share_what_comes() {
    if !lab::possible(&["python3", "iperf3", "ss", "curl"]) {
        return;
    }
    for stick in [Stick::TapQueues, Stick::Veth] {
        let backends = [backend(0, 7000), backend(1, 7000), backend(2, 7000)];
        let (mut lab, path) = new_lab(stick, &backends);
        for pod in ["pod0", "pod1", "pod2"] {
            connections::serve(&mut lab, pod, 7000);
        }
        let [v4, v6] = more_clients(&lab);
        let (flows, log) = (lab.path("flows"), lab.path("log"));
        let more = ["--flow-file", flows.to_str().expect("a path"), "--log", log.to_str().expect("a path")];
        let more = [&["--workers", "3"], &more[..]].concat();
        let mut lb = Lb::start(&lab, &path, &more);

        let mut all = [Connections::open(&lab, EACH, &v4, &V4), Connections::open(&lab, EACH, &v6, &V6)];
        for one in &mut all {
            assert_eq!(one.answered(), [EACH; 3], "{stick:?}");
        }
        let count = (6 * EACH) as f64;
        assert_eq!(lab.metric("lb_connections"), count, "{stick:?}: a connection is one worker's");
        let device = if stick == Stick::Veth { "af_packet:lb1" } else { "tap:lb0" };
        let handed_on = || lab.metric(&format!("lb_device_handed_on_total{{device=\"{device}\"}}"));
        assert!(handed_on() > 0.0, "{stick:?}: no kernel can know whose a reply is");

        // Rules change at each worker while everybody talks.
        for update in 1..=30 {
            let more = backend(update % 3, 7000 + update as u16);
            write(&path, &[&backends[..], &[more]].concat());
            lb.until("rules changed", update);
            if update % 5 == 0 {
                for one in &mut all {
                    assert_eq!(one.ask(), [EACH; 3], "{stick:?}, update {update}");
                }
            }
        }
        write(&path, &backends);
        lb.until("rules changed", 31);
        assert_eq!(lab.metric("lb_connections"), count, "{stick:?}: none was begun anew");

        // Killed: each flow comes back to the worker whose it was.
        lb.signal("-KILL");
        assert_eq!(lb.ended(), None);
        let mut lb = Lb::start(&lab, &path, &more);
        assert_eq!(lab.metric("lb_flows_restored_total"), count, "{stick:?}");
        for one in &mut all {
            assert_eq!(one.ask(), [EACH; 3], "{stick:?}, after a kill");
        }
        assert_eq!(lab.metric("lb_flows_created_total"), count, "{stick:?}: none began anew");

        lb.signal("-TERM");
        assert_eq!(lb.ended(), Some(0), "{stick:?}: {}", lb.said());
        let log = std::fs::read_to_string(log).expect("a log");
        let events = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object a line"));
        assert_eq!(events.filter(|line| line["event"] == "new").count() as f64, count, "{stick:?}");
    }
}

/// Datagrams in pieces: those of a reply to a masqueraded flow have no port that says whose they are, but for the first.
#[test]
fn workers_hand_on_pieces() {
    if !lab::possible(&["iperf3", "ss", "curl"]) {
        return;
    }
    for stick in [Stick::TapQueues, Stick::Veth] {
        let (mut lab, path) = new_lab(stick, &[backend(0, 5201)]);
        lab.start("pod0", "iperf3", &["-s"]);
        lab.await_port("pod0", 5201);
        let [v4, _] = more_clients(&lab);
        let _lb = Lb::start(&lab, &path, &["--workers", "3"]);
        for from in v4.iter().step_by(6) {
            for direction in [&[][..], &["-R"]] {
                let arguments =
                    ["-c", "203.0.113.10", "-p", "80", "-B", from, "-u", "-b", "20M", "-l", "9000", "-n", "2M"];
                let end = speed::iperf(&lab, &[&arguments[..], direction].concat());
                let number = |what: &str| end["sum"][what].as_f64().unwrap_or(0.0);
                let good = number("bytes") >= 2e6 && number("lost_percent") < 50.0;
                assert!(good, "{stick:?}: iperf3 {arguments:?} {direction:?}: {end}");
            }
        }
    }
}
