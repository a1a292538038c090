//! Through the node's engine.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_core::{Origin, RuleTable, Tuple};
use lb_host::explain::{Outcome, explain};

use crate::lab::Program::Wait;
use crate::lab::{Lab, NODE_PORT, PORT, Plan, V4, V6, service};
use crate::{TCP, THREE, UDP};

#[test]
fn the_engine_redirects_every_address_of_a_service() {
    for (plan, protocol) in [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)] {
        let mut lab = Lab::with(plan, 1, protocol, None, THREE);
        let mut reached = Vec::new();
        for to in [(plan.cluster_ip, 80), (plan.external_ip, 80), (plan.lb_ip, 80), (plan.node, NODE_PORT)] {
            if protocol == TCP {
                reached.push(lab.visit(plan.client, to).unwrap());
            } else {
                let socket = lab.client.bind(None, 0).unwrap();
                reached.push(lab.ask(socket, plan.client, to));
                assert!(lab.pods[reached.last().unwrap()].heard.iter().all(|from| from.0 == plan.node));
            }
        }
        assert!(reached[..3].iter().collect::<BTreeSet<_>>().len() == 3 && reached[3] == reached[0], "{reached:?}");
        lab.run_for(Duration::from_secs(60));
        // Only ever from the address that was dialled, and no policy or source range in the way.
        assert_eq!((lab.client.strays().count(), lab.node.strays().count()), (0, 0));
        assert_eq!(lab.proxy.counters().connections, 4);
    }
}

#[test]
fn endpoints_see_the_node_and_the_client_sees_the_vip() {
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, TCP, None, &[(1, Wait)]);
        let client = lab.connect(plan.client, (plan.lb_ip, 80));
        let server = lab.accepted(1);
        assert_eq!(lab.pods[&1].host.remote(server).unwrap().0, plan.node);
        assert_eq!(lab.client.remote(client), Some((plan.lb_ip, 80)));
        let flows: Vec<_> = lab.engine.flows().collect();
        let web = lab.web();
        assert_eq!(flows.len(), 1, "the proxy's own connection is no service's");
        assert_eq!((flows[0].reply.source, flows[0].reply.source_port, flows[0].masqueraded), (web.0, web.1, false));
        assert_eq!(flows[0].reply.destination, plan.client);
        // No endpoint: the Vip accepts and closes. No service: it is nobody's.
        lab.put(service("shop/web", TCP, None), &[]);
        assert_eq!(lab.visit(plan.client, (plan.cluster_ip, 80)), None);
        lab.control.remove_service(&"shop/web".into());
        lab.settle();
        let tuple = dialling(plan, lab.now.as_nanos() as u16);
        assert!(lab.engine.rules().decide(&tuple, Origin::Wire).service.is_none());
    }
}

fn dialling(plan: Plan, source_port: u16) -> Tuple {
    let (source, destination) = (plan.client, plan.cluster_ip);
    Tuple { source, destination, source_port, destination_port: 80, protocol: TCP, zone: 0 }
}

#[test]
fn explain_shows_the_proxys_layer() {
    for plan in [V4, V6] {
        let mut lab = Lab::with(plan, 1, TCP, None, THREE);
        let rules = RuleTable::load(lab.redirect.image().unwrap()).unwrap();
        let tuple = Tuple { destination: plan.lb_ip, ..dialling(plan, 4000) };
        let got = explain(&rules, Some(&lab.control), &tuple, Origin::Wire, 1);
        let bracketed = |(address, port): (lb_core::Address, u16)| match address.is_v4() {
            true => format!("{address}:{port}"),
            false => format!("[{address}]:{port}"),
        };
        let layers = format!(
            "lb {} -> node {} -> service {} -> proxy {}",
            bracketed((plan.lb_ip, 80)),
            bracketed((plan.node, NODE_PORT)),
            bracketed((plan.cluster_ip, 80)),
            bracketed(lab.web())
        );
        assert_eq!((got.verdict, got.mode, got.path.unwrap().to_string()), ("punt", Some("userspace"), layers));
        assert!(got.because.ends_with("which dials any ready endpoint (§14.5)"), "{}", got.because);
        assert!(!got.masquerade.unwrap().masquerade);
        let endpoints: Vec<_> =
            got.endpoints.iter().map(|endpoint| (endpoint.address.clone(), endpoint.outcome)).collect();
        let expected = [1, 2, 3].map(|number| (bracketed((plan.pod(number), PORT)), Outcome::Possible));
        assert_eq!(endpoints, expected);
    }
}
