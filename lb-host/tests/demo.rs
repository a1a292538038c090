//! `lb demo` as a newcomer meets it: what it tells, that it is the same for the same seed, and that it can be wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lb_core::control::Mode;
use lb_host::clock;
use lb_host::cluster::{Link, Physics};
use lb_host::demo::{self, Colors, Options, Told};

fn told(seed: u64, mode: Option<Mode>, physics: Physics) -> (String, Told) {
    let mut out = Vec::new();
    let options = Options { seed, mode, physics, colors: Colors::Plain };
    let told = demo::run(options, &mut out, &mut |_| {}).unwrap();
    (String::from_utf8(out).unwrap(), told)
}

fn lb(arguments: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("lb")).arg("demo").args(arguments).output().unwrap()
}

/// The lines after a command line that contains this, until the next empty one.
fn after<'t>(text: &'t str, command: &str) -> Vec<&'t str> {
    let mut lines = text.lines().skip_while(|line| !line.contains(command));
    lines.next();
    lines.take_while(|line| !line.trim().is_empty()).map(str::trim).collect()
}

/// A row's columns.
fn columns(line: &str) -> Vec<&str> {
    line.split("   ").map(str::trim).filter(|column| !column.is_empty()).collect()
}

#[test]
fn who_has_seen_enough_may_go() {
    let mut story = Command::new(assert_cmd::cargo::cargo_bin!("lb"));
    let mut story = story.arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(story.stdout.take());
    let ended = story.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn the_readme_shows_what_is_told() {
    let readme = include_str!("../../README.md");
    let shown =
        readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a page of the story");
    let (text, _) = told(0, None, Physics::default());
    let told: Vec<&str> = text.lines().map(str::trim_start).collect();
    let shown: Vec<&str> = shown.lines().map(str::trim_start).collect();
    assert!(told.windows(shown.len()).any(|page| page == shown), "not told like this:\n{}", shown.join("\n"));
}

#[test]
fn the_story_holds_for_any_seed() {
    for seed in 0..10 {
        let (text, told) = told(seed, None, Physics::default());
        assert!(told.failed.is_empty(), "seed {seed}: {:?}\n{text}", told.failed);
        assert!(told.checks >= 40 && told.requests >= 250, "{} {}", told.checks, told.requests);
        for chapter in 1..=12 {
            let heading = format!("{chapter:>2}  ");
            assert!(text.lines().any(|line| line.starts_with(&heading)), "seed {seed} has no chapter {chapter}");
        }
    }
}

#[test]
fn the_story_holds_in_every_mode() {
    for mode in Mode::ALL {
        let (text, told) = told(3, Some(*mode), Physics::default());
        assert!(told.failed.is_empty(), "{}: {:?}\n{text}", mode.name, told.failed);
        assert!(text.contains(&format!("kube-proxy mode {}", mode.name)));
    }
}

#[test]
fn a_story_that_does_not_hold_is_told() {
    let cut = Link { loss: 1_000_000, ..Physics::default().client };
    let (text, told) = told(0, None, Physics { client: cut, ..Physics::default() });
    assert!(!told.failed.is_empty());
    for failed in &told.failed {
        let begin: String = failed.chars().take(30).collect();
        assert!(text.contains(&format!("\u{2717} NOT SO: {begin}")), "{failed}\n{text}");
    }
    assert!(text.contains(&format!("and {} DO NOT HOLD", told.failed.len())), "{text}");
}

#[test]
fn what_is_shown_is_of_one_piece() {
    let (text, _) = told(7, None, Physics::default());
    let services = after(&text, "$ kubectl get service example ");
    assert!(services[1].contains("<pending>"), "{services:?}");
    let row = columns(services[1]);
    let (cluster_ip, node_port) = (row[2], row[4].split([':', '/']).nth(1).unwrap());
    let last = text.match_indices("$ kubectl get service example ").nth(1).unwrap().0;
    let services = after(&text[last..], "$ kubectl get service example ");
    let external = columns(services[1])[3].split(',').find(|ip| ip.contains('.')).unwrap();
    let endpoints = after(&text, "$ kubectl get endpoints example ");
    let endpoints: BTreeSet<&str> = columns(endpoints[1])[1].split(',').collect();
    assert_eq!(endpoints.len(), 3);
    let nodes: Vec<&str> =
        text.lines().filter(|line| line.starts_with("    worker-") && line.contains("2001:")).collect();
    let nodes: BTreeSet<&str> = nodes.iter().map(|line| columns(line)[1]).collect();
    assert_eq!(nodes.len(), 4);

    // DNS, the doll and the ladder of headers speak of the same objects.
    assert!(text.contains(&format!("example.default.svc.cluster.local.  A  {cluster_ip}")), "{cluster_ip}");
    let doll: Vec<&str> =
        text.lines().skip_while(|line| line.trim() != format!("lb {external}:8081")).take(4).collect();
    let of = |at: usize, kind: &str| doll[at].trim().trim_start_matches("-> ").strip_prefix(kind).unwrap().to_owned();
    let node = of(1, "node ");
    assert_eq!(of(2, "service "), format!("{cluster_ip}:8081"));
    assert!(endpoints.contains(of(3, "pod ").as_str()), "{doll:?} {endpoints:?}");
    let (address, port) = node.split_once(':').unwrap();
    assert!(nodes.contains(address) && port == node_port, "{node} {nodes:?}");
    let ladder: Vec<&str> =
        text.lines().skip_while(|line| !(line.contains("laptop  ") && line.contains("sends"))).take(9).collect();
    let ends = |line: &str| {
        let (source, destination) = line.split_once(" -> ").unwrap();
        (source.split_whitespace().last().unwrap().to_owned(), destination.trim().to_owned())
    };
    let (client, dialled) = ends(ladder[0]);
    assert_eq!(dialled, format!("{external}:8081"));
    assert_eq!(ends(ladder[1]), (client.clone(), node));
    let home = ladder.iter().rfind(|line| line.contains("load-balancer")).unwrap();
    assert_eq!(ends(home), (dialled, client), "{ladder:#?}");
}

/// A line without its numbers, and however wide its columns are.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for part in line.split_whitespace().collect::<Vec<_>>().join(" ").split_inclusive(|c: char| !c.is_ascii_digit()) {
        let end = part.trim_start_matches(|c: char| c.is_ascii_digit());
        shape.push_str(if end.len() < part.len() { "0" } else { "" });
        shape.push_str(end);
    }
    shape
}

/// The numbers hang on the seed and on every draw since.
#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../README.md");
    let shown = readme.split_once("```text\n").unwrap().1.split_once("```").unwrap().0;
    let (text, _) = told(0, None, Physics::default());
    let printed: BTreeSet<String> = text.lines().map(shape).collect();
    let strange: Vec<&str> = shown.lines().filter(|line| !printed.contains(&shape(line))).collect();
    assert!(shown.lines().count() > 10 && strange.is_empty(), "not as it is printed: {strange:#?}");
    assert_eq!(shape("worker-12   DNAT  192.0.2.14:5"), "worker-0 DNAT 0.0.0.0:0");
}

#[test]
fn it_prints_the_same_for_the_same_seed_and_nothing_in_colours_to_a_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let run = |seed: &str, name: &str| {
        let output = lb(&["--seed", seed, "-o", file(name).to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
        (output.stdout, std::fs::read(file(name)).unwrap(), output.stderr)
    };
    let (first, again, other) = (run("5", "a"), run("5", "b"), run("6", "c"));
    assert!(first.0 == again.0 && first.1 == again.1, "the same seed, another story");
    assert!(first.0 != other.0 && first.1 != other.1, "another seed, the same story");
    assert!(!first.0.contains(&0x1b) && !first.2.contains(&0x1b));
    let said = String::from_utf8(first.2).unwrap();
    assert!(said.contains("s of the cluster's time in"), "{said}");
    let wide = String::from_utf8(first.0).unwrap();
    let wide: Vec<&str> = wide.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "wider than a terminal: {wide:#?}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("none/x.pcapng");
    for (arguments, reason) in [
        (vec!["-o", nowhere.to_str().unwrap()], "cannot write"),
        (vec!["-o", "-"], "name a file"),
        (vec!["--mode", "ebpf"], "choose one of iptables"),
        (vec!["--seed", "x"], "--seed"),
    ] {
        let output = lb(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty() && said.contains(reason), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn tshark_finds_nothing_wrong_with_its_packets() {
    if Command::new("tshark").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has to have tshark");
        eprintln!("!!! NOT CHECKED: the demo's capture, as there is no tshark: apt-get install tshark");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("walk.pcapng");
    assert_eq!(lb(&["-o", file.to_str().unwrap()]).status.code(), Some(0));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/demo_tshark.sh");
    let output = Command::new(script).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_takes_less_than_ten_seconds() {
    let begun = clock::now();
    told(0, None, Physics::default());
    // Debug builds are slower, and machines that test are busy.
    let limit = if cfg!(debug_assertions) { 60 } else { 10 };
    assert!((clock::now() - begun).as_secs() < limit);
}
