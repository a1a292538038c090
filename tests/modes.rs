//! What packets show of the modes' peculiarities (SEMANTICS §14).

mod common;

use common::cluster::{address, node, twins, web};
use common::frames;
use common::lab::Lab;
use lb_core::Verdict;
use lb_core::control::{Mode, Node, Proxy, Service, Slice};

fn node_of(mode: Mode) -> Node {
    Node { proxy: Proxy { mode, ..node().proxy }, ..node() }
}

/// `web`, whose destinations are to be kept, with a load balancer's IP.
fn kept(endpoints: &[&str]) -> (Service, Slice) {
    let (service, slice) = web(endpoints);
    let load_balancer_ips = ["198.51.100.8", &twins("198.51.100.8")].map(address).to_vec();
    (Service { preserve_destination: true, load_balancer_ips, ..service }, slice)
}

/// §14.4: the packet goes to a local endpoint as it is, and what that answers in the Vip's name passes.
#[test]
fn what_keeps_its_destination_leaves_as_it_came() {
    const CLIENT: &str = "203.0.113.5:40000";
    for twin in [str::to_owned, |text: &str| twins(text)] {
        for vip in ["198.51.100.8:80", "192.0.2.10:30080"].map(twin) {
            let (client, pod) = (twin(CLIENT), twin("10.244.1.2:8080"));
            let mut lab = Lab::new(node_of(Mode::KERNELSPACE), [kept(&["10.244.1.2 node-a", "10.244.2.3 node-b"])]);
            let asked = frames::frame("S", &client, &vip);
            let sent = lab.send(&asked);
            assert_eq!(sent.to_string(), format!("-> {client} > {vip}"));
            assert_eq!(sent.frame, asked);
            let Verdict::Forward { flow, .. } = sent.verdict else { panic!("{sent}") };
            let flow = lab.engine.flow(flow).unwrap();
            assert_eq!((flow.reply.source, flow.reply.source_port), {
                let socket: std::net::SocketAddr = pod.parse().unwrap();
                (socket.ip().into(), socket.port())
            });
            assert_eq!((flow.leaves(), flow.answer()), (flow.original, flow.original.reversed()));
            assert_eq!(lab.kind("SA", &vip, &client).to_string(), "pass");
            assert_eq!(lab.kind("A", &client, &vip).to_string(), format!("-> {client} > {vip}"), "and stays so");

            // Saved and restored it is the same flow.
            let mut other = Lab::new(node_of(Mode::KERNELSPACE), [kept(&["10.244.1.2 node-a"])]);
            other.engine.restore(&flow).unwrap();
            assert_eq!(other.kind("A", &client, &vip).to_string(), format!("-> {client} > {vip}"));
        }
        let mut others = Lab::new(node_of(Mode::IPTABLES), [kept(&["10.244.1.2 node-a"])]);
        let told = others.kind("S", &twin(CLIENT), &twin("198.51.100.8:80")).to_string();
        assert!(told.ends_with(&twin(" > 10.244.1.2:8080")), "Windows' alone: {told}");
    }
}
