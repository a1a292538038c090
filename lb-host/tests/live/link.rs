//! Addresses of Services on a link that clients are on too: somebody has to say where they are.

use crate::lab::{self, Lb, Stick, text, until};
use crate::objects::{backend, manifests, put};
use crate::{lab as new_lab, nginx};

/// Which Ethernet address the client knows for one of IP's; none if it found nobody.
fn known(lab: &lab::Lab, address: &str) -> Option<String> {
    let mut command = lab.command("client", "ip");
    let line = text(command.args(["neigh", "show", address]).output().expect("ip")).expect("neighbours");
    Some(line.split_once("lladdr ")?.1.split(' ').next()?.to_owned())
}

#[test]
fn clients_on_the_link_find_the_addresses_of_services() {
    if !lab::possible(&["nginx", "curl", "ss"]) {
        return;
    }
    let (mut lab, path) = new_lab(Stick::Tap, &[backend(0, 8080)]);
    nginx(&mut lab, 0, 8080);
    // For the client these are on its own link, not behind the node.
    let [v4, v6] = ["203.0.113.10", "2001:db8:1::10"];
    lab.ip("client", "route add 203.0.113.0/24 dev eth0\n-6 route add 2001:db8:1::/64 dev eth0\n");
    // A machine that had the address before.
    let gone = "02:00:00:00:00:99";
    lab.ip("client", &format!("neigh replace {v4} lladdr {gone} dev eth0 nud stale\n"));
    let mut lb = Lb::start(&lab, &path, &["--answer-arp", "client", "--drain", "60"]);
    until("the announcement to be heard", || known(&lab, v4).is_some_and(|now| now != gone));
    let mac = known(&lab, v4);
    lab.ip("client", "neigh flush all\n");
    for url in [format!("http://{v4}/"), format!("http://[{v6}]/"), format!("http://{v4}/")] {
        assert_eq!(lab.curl("client", &url).as_deref(), Ok("pod0\n"), "{url}");
    }
    assert_eq!([known(&lab, v4), known(&lab, v6)], [mac.clone(), mac]);
    // Nobody's.
    let nobody = lab.curl("client", "http://203.0.113.11/").expect_err("nobody is there");
    assert!(nobody.contains("(7)") || nobody.contains("(28)"), "{nobody}");
    // It comes with its Service.
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: more}\nspec: {clusterIP: 10.96.0.12, \
                   externalIPs: [203.0.113.12], selector: {app: web}, ports: [{port: 80}]}\n";
    put(&path, &(manifests(&[backend(0, 8080)], "") + service));
    lb.until("rules changed", 1);
    let refused = lab.curl("client", "http://203.0.113.12/").expect_err("it has no endpoints");
    assert!(refused.contains("refused") || refused.contains("(7)"), "{refused}");
    assert!(known(&lab, "203.0.113.12").is_some());
    lb.signal("-TERM");
    assert_eq!(lb.ended(), Some(0));
}
