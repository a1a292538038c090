//! Proxy ports and NodePorts.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::control::ServicePort;
use lb_core::{Instant, Protocol};
use lb_host::host::Error;
use lb_host::proxy::{Options, Trouble};

use crate::lab::Program::Echo;
use crate::lab::{Lab, NODE_PORT, V4, V6, service};
use crate::{TCP, UDP};

/// A service of one port besides the web shop's.
fn plain(name: &str, number: u8) -> lb_core::control::Service {
    let mut service = service(name, TCP, None);
    service.cluster_ips = vec![lb_core::Address::v4([10, 96, 1, number])];
    (service.external_ips, service.load_balancer_ips) = (Vec::new(), Vec::new());
    service.ports[0].node_port = None;
    service
}

#[test]
fn ports_come_from_the_range_and_go_back_to_it() {
    let mut given = BTreeSet::new();
    for seed in 0..10 {
        let mut lab = Lab::new(V4, Options { ports: Some(40_000..=40_002), ..Options::new(seed) });
        lab.run_until(Instant::from_secs(5));
        for number in 1..=5 {
            lab.put(plain(&format!("shop/{number}"), number), &[]);
        }
        let ports = |lab: &Lab| {
            lab.proxy.ports().map(|(key, port)| (key.service.to_string(), port)).collect::<BTreeMap<_, _>>()
        };
        let before = ports(&lab);
        given.insert(before["shop/1"]);
        assert_eq!(before.values().copied().collect::<BTreeSet<_>>(), BTreeSet::from([40_000, 40_001, 40_002]));
        assert_eq!(before.len(), 3);
        // The others wait for a second.
        assert_eq!(lab.proxy.next_deadline(), Some(Instant::from_secs(6)));
        lab.run_until(Instant::from_nanos(5_999_999_999));
        assert!(lab.proxy.troubles().is_empty());
        lab.run_until(Instant::from_secs(6));
        let troubles: Vec<_> = lab.proxy.troubles().iter().map(|(key, trouble)| (&*key.service, *trouble)).collect();
        assert_eq!(troubles, [("shop/4", Trouble::NoPortLeft), ("shop/5", Trouble::NoPortLeft)]);
        // What is released is for the next in need.
        lab.control.remove_service(&"shop/2".into());
        lab.settle();
        let after = ports(&lab);
        assert_eq!((after["shop/4"], after["shop/1"]), (before["shop/2"], before["shop/1"]));
        assert_eq!(lab.proxy.troubles().len(), 1);
    }
    assert!(given.len() > 1, "the first port is chosen at random: {given:?}");
    // Without a range the host chooses, for each family and protocol.
    let mut lab = Lab::new(V4, Options::new(1));
    let mut both = service("shop/web", TCP, None);
    both.ports.push(ServicePort { name: "dns".into(), protocol: UDP, port: 53, node_port: None });
    both.ports.push(ServicePort { name: "sig".into(), protocol: Protocol::SCTP, port: 54, node_port: Some(30_054) });
    lab.put(both, &[]);
    let ports: Vec<_> = lab.proxy.ports().collect();
    assert!(ports.len() == 4 && ports.iter().all(|(_, port)| *port >= 32_768), "{ports:?}");
    let troubles: Vec<_> = lab.proxy.troubles().iter().map(|(key, trouble)| (&*key.port, *trouble)).collect();
    assert_eq!(troubles, [("sig", Trouble::Protocol); 2], "one a family");
}

#[test]
fn node_ports_are_really_open() {
    for (plan, protocol) in [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)] {
        let mut lab = Lab::new(plan, Options::new(1));
        lab.start(1, Echo);
        // Somebody else has it.
        let other = match protocol {
            TCP => Ok(lab.node.listen(Some(plan.node), NODE_PORT).unwrap()),
            _ => Err(lab.node.bind(Some(plan.node), NODE_PORT).unwrap()),
        };
        lab.put(service("shop/web", protocol, None), &[1]);
        let trouble = Trouble::NodePort { address: plan.node, port: NODE_PORT, error: Error::InUse };
        assert_eq!(lab.proxy.troubles().values().copied().collect::<Vec<_>>(), [trouble]);
        match other {
            Ok(listener) => lab.node.unlisten(listener),
            Err(socket) => lab.node.unbind(socket),
        }
        let port = lab.web();
        lab.settle();
        assert!(lab.proxy.troubles().is_empty() && lab.web() == port);
        let taken = lab.node.listen(Some(plan.node), NODE_PORT).is_err();
        assert_eq!((taken, lab.node.bind(Some(plan.node), NODE_PORT).is_err()), (protocol == TCP, protocol == UDP));
        if protocol == TCP {
            // By whom no engine redirects: the node itself.
            let id = lab.node.connect(lab.now, None, (plan.node, NODE_PORT)).unwrap();
            let syn = lab.node.poll(lab.now).pop_front().unwrap();
            lab.node.receive(lab.now, syn);
            let answer = lab.node.poll(lab.now).pop_front().unwrap();
            lab.node.receive(lab.now, answer);
            assert!(lab.node.is_established(id));
        }
    }
}
