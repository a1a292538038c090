//! The scenarios of tests/scenarios, each in every mode and family that it is for.

use std::path::PathBuf;

use lb_host::cluster::scenario::Scenario;
use lb_host::k8s::Document;

fn play(file: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(file);
    let scenarios = Scenario::read(&[path]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(!scenarios.is_empty());
    let mut wrong = Vec::new();
    for scenario in &scenarios {
        for mode in &scenario.modes {
            for family in &scenario.families {
                match scenario.play(*mode, *family, 1) {
                    Ok(problems) => wrong.extend(problems.iter().map(ToString::to_string)),
                    Err(problems) => panic!("{} {family:?}: {problems}", mode.name),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

macro_rules! scenarios {
    ($($name:ident: $file:literal,)*) => {
        $(#[test] fn $name() { play($file); })*

        #[test]
        fn no_file_is_forgotten() {
            let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
            let mut files: Vec<_> =
                directory.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            let mut known = vec![$($file),*];
            known.sort();
            assert_eq!(files, known);
        }
    };
}

scenarios! {
    a_client_stays_with_its_endpoint_for_three_hours: "affinity.yaml",
    a_resolver_with_a_fixed_port_survives_new_dns_servers: "dns.yaml",
    every_type_of_service_carries_http: "five-types.yaml",
    an_endpoint_reaches_its_own_service: "hairpin.yaml",
    local_keeps_the_clients_address_and_drains: "local.yaml",
    a_node_is_lost_and_comes_back: "node-loss.yaml",
    readiness_flaps: "readiness.yaml",
    a_rolling_update_fails_no_request: "rolling-update.yaml",
    ten_megabytes_are_exact: "transfers.yaml",
}

#[test]
fn what_is_wrong_is_told_by_its_place() {
    let head = "apiVersion: matryoshka/v1alpha1\nkind: Scenario\nmetadata: {name: x}\nspec:\n";
    for (spec, expected) in [
        ("  modes: [iptabels]\n  timeline: []\n", "x.yaml:5:11: \"iptabels\" is no mode"),
        ("  timeline:\n  - {at: 3, roll: default/web}\n", "x.yaml:6:10: spec.timeline[0].at cannot be read"),
        ("  timeline:\n  - {at: 3s}\n", "x.yaml:6:5: a step does one thing, not 0"),
        ("  timeline:\n  - {at: 3s, rol: x}\n", "x.yaml:6:19: spec.timeline[0].rol is an unknown field"),
        ("  timeline:\n  - {at: 3s, roll: x}\n  - {at: 2s, roll: x}\n", "x.yaml:7:10: is before the step above"),
        ("  timeline:\n  - {at: 3s, expect: [{outcome: ok}]}\n", "x.yaml:6:23: it is not clear what this is about"),
        ("  timeline:\n  - {at: 1s, roll: default/web}\n", "x.yaml:6:5: there is no Deployment default/web"),
        ("  objects: [{kind: Servise, apiVersion: v1}]\n  timeline: []\n", "x.yaml:5:20: kind Servise"),
        (
            "  timeline:\n  - {at: 1s, expect: [{requests: shop}]}\n",
            "x.yaml:6:23: [iptables V4] there is no traffic called shop",
        ),
    ] {
        let document = Document::parse("x.yaml", &format!("{head}{spec}")).unwrap().remove(0);
        let told = match Scenario::of(&document).and_then(|it| it.play(it.modes[0], it.families[0], 1)) {
            Err(problems) => problems.to_string(),
            Ok(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        assert!(told.contains(expected), "{spec}\n{told}");
    }
}
