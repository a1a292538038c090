//! Whose turn it is, and which client is whose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lab::Program::Echo;
use crate::lab::{DELAY, Lab, V4, V6, service};
use crate::{TCP, THREE};

#[test]
fn endpoints_take_turns_in_a_shuffled_order() {
    let mut orders = BTreeMap::new();
    for seed in 0..120 {
        let mut lab = Lab::with(V4, seed, TCP, None, THREE);
        let got = lab.visits(if seed < 6 { 9 } else { 3 });
        assert!(got.iter().enumerate().all(|(turn, endpoint)| *endpoint == got[turn % 3]), "{got:?}");
        assert_eq!(got[..3].iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
        *orders.entry(got[..3].to_vec()).or_insert(0) += 1;
    }
    // Of 120 draws 20 each: 5 is off by more than three and a half deviations.
    assert!(orders.len() == 6 && orders.values().all(|count| *count > 5), "{orders:?}");
}

#[test]
fn the_order_is_new_when_endpoints_change_and_only_then() {
    let mut reshuffled = 0;
    for seed in 0..20 {
        let mut lab = Lab::with(V6, seed, TCP, None, THREE);
        lab.start(4, Echo);
        let first = lab.visits(4);
        // The same endpoints: order and turn go on.
        lab.put(service("shop/web", TCP, None), &[3, 2, 1]);
        assert_eq!(lab.visits(3), [first[1], first[2], first[0]]);
        // Another endpoint: a new order, from its start.
        lab.put(service("shop/web", TCP, None), &[1, 2, 3, 4]);
        let second = lab.visits(8);
        assert_eq!(second[..4], second[4..]);
        assert_eq!(second[..4].iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3, 4]));
        // Back again: the index starts at 0 whatever it was.
        lab.visits(1);
        lab.put(service("shop/web", TCP, None), &[1, 2, 3]);
        let third = lab.visits(6);
        assert_eq!(third[..3], third[3..]);
        reshuffled += usize::from(third[..3] != first[..3]);
    }
    assert!(reshuffled > 8, "{reshuffled} of 20, five in six expected");
}

#[test]
fn a_client_keeps_its_endpoint_for_as_long_as_it_comes_back_in_time() {
    for (plan, affinity, ttl) in [(V4, 100, 100), (V6, 100, 100), (V4, 0, 10_800), (V4, 1, 1)] {
        let mut lab = Lab::with(plan, 1, TCP, Some(affinity), THREE);
        let (web, ttl) = (lab.web(), Duration::from_secs(ttl));
        let own = lab.visit(plan.client, web).unwrap();
        // A millionth of a second less than the time keeps it, counted from each connection; all of it does not. A connection
        // is accepted three packets after it began, and five before its answer is there.
        for _ in 0..3 {
            lab.run_for(ttl - 8 * DELAY - Duration::from_micros(1));
            assert_eq!(lab.visit(plan.client, web), Some(own));
        }
        assert_eq!(lab.proxy.remembered(), 1);
        let another = lab.visit(plan.other, web).unwrap();
        assert_ne!(another, own, "another address is another client");
        lab.run_for(ttl - 8 * DELAY);
        let third = lab.visit(plan.other, web).unwrap();
        assert!(![own, another].contains(&third), "expired: the next one, remembered");
        assert_eq!(lab.visit(plan.other, web), Some(third));
        lab.run_for(ttl);
        assert_eq!(lab.proxy.remembered(), 0, "purged");
    }
}

#[test]
fn a_clients_endpoint_is_forgotten_when_it_goes() {
    let mut lab = Lab::with(V4, 1, TCP, Some(100), THREE);
    let web = lab.web();
    let own = lab.visit(V4.client, web).unwrap();
    let others: Vec<u8> = [1, 2, 3].into_iter().filter(|other| *other != own).collect();
    lab.put(service("shop/web", TCP, Some(100)), &others);
    let next = lab.visit(V4.client, web).unwrap();
    assert!(others.contains(&next));
    lab.put(service("shop/web", TCP, Some(100)), &[1, 2, 3]);
    assert_eq!(lab.visit(V4.client, web), Some(next), "it came back too late");
    lab.put(service("shop/web", TCP, None), &[1, 2, 3]);
    assert_eq!(lab.visits(3).into_iter().collect::<BTreeSet<_>>().len(), 3, "no affinity any more");
}
