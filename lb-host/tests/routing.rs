//! `lb test`, by the built `lb`: the project's own suite, and what the runner says of tests that fail, that
//! are misspelt, or that are not there.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/routing")
}

/// `lb test` of these arguments in a directory.
fn lb(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("lb").expect("lb is built");
    let output = command.current_dir(directory).arg("test").args(arguments).output().expect("lb runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("a file");
    }
    directory
}

/// Two endpoints on two nodes, one pod that dials them, and what is expected of it.
fn test(expect: &str) -> String {
    format!(
        r#"apiVersion: matryoshka/v1alpha1
kind: RoutingTest
metadata: {{name: local & <far>}}
spec:
  mode: iptables
  steps:
  - name: two nodes
    node: {{name: worker-1, addresses: [192.0.2.1]}}
    proxy: {{clusterCIDR: 10.244.0.0/16}}
    objects:
    - apiVersion: v1
      kind: Service
      metadata: {{name: web}}
      spec: {{clusterIP: 10.96.0.10, internalTrafficPolicy: Local, ports: [{{name: http, port: 80}}]}}
    - apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
      addressType: IPv4
      ports: [{{name: http, port: 8080}}]
      endpoints:
      - {{addresses: [10.244.1.1], nodeName: worker-1}}
      - {{addresses: [10.244.2.1], nodeName: worker-2}}
    flows:
    - name: pod
      packet: tcp 10.244.1.50:40000 -> 10.96.0.10:80
      expect: {expect}
"#
    )
}

const HOLDS: &str = r#"{verdict: forward, backends: ["10.244.1.1:8080"], masquerade: false}"#;
const FAILS: &str = r#"{verdict: forward, backends: ["10.244.1.1:8080", "10.244.2.1:8080"], masquerade: true}"#;

#[test]
fn the_suite_holds() {
    let (code, out, err) = lb(&suite(), &["."]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let last = out.lines().last().expect("a line");
    assert!(last.ends_with(" passed, 0 failed"), "{last}");
    assert!(last.split(' ').next().and_then(|count| count.parse().ok()).is_some_and(|count: usize| count > 100));
}

/// No expectation of the suite is idle: with each of one sort turned round every case that has one fails.
#[test]
fn every_expectation_is_judged() {
    type Turn = fn(&str) -> String;
    let masquerade: Turn = |text| {
        let turned =
            text.replace("masquerade: true", "masquerade: ??").replace("masquerade: false", "masquerade: true");
        turned.replace("masquerade: ??", "masquerade: false")
    };
    let verdict: Turn = |text| {
        let turned = text.replace("verdict: drop", "verdict: ??").replace("verdict: pass", "verdict: drop");
        turned.replace("verdict: ??", "verdict: pass")
    };
    let backends: Turn = |text| text.replace("backends: [\"", "backends: [\"192.0.2.99:1\", \"");
    let lists: Turn = |text| text.replace("cluster: [", "cluster: [\"192.0.2.99:1\", ").replace(", ]", "]");
    let flows: Turn = |text| {
        let turned = text.replace("expect: kept", "expect: ??").replace("expect: cleared", "expect: kept");
        turned.replace("expect: ??", "expect: cleared")
    };
    let health: Turn = |text| text.replace("localEndpoints: ", "localEndpoints: 1");
    let whole = directory(&[]);
    fs::create_dir(whole.path().join("clusters")).expect("a directory");
    let clusters =
        fs::read_dir(suite().join("clusters")).expect("the clusters").map(|entry| entry.expect("one").path());
    for cluster in clusters {
        let name = cluster.file_name().expect("a name");
        fs::copy(&cluster, whole.path().join("clusters").join(name)).expect("a copy");
    }
    let documents = fs::read_dir(suite()).expect("the suite").map(|entry| entry.expect("an entry").path());
    let texts: Vec<String> = documents
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    for (turn, key) in [
        (masquerade, "masquerade: "),
        (verdict, "verdict: drop"),
        (verdict, "verdict: pass"),
        (backends, "backends: [\""),
        (lists, "cluster: ["),
        (flows, "expect: kept"),
        (flows, "expect: cleared"),
        (health, "localEndpoints: "),
    ] {
        let having: Vec<&str> =
            texts.iter().flat_map(|text| text.split("---\n")).filter(|text| text.contains(key)).collect();
        assert!(!having.is_empty(), "{key}");
        let turned: Vec<String> = having.iter().map(|text| turn(text)).collect();
        fs::write(whole.path().join("turned.yaml"), turned.join("---\n")).expect("a file");
        let (code, out, err) = lb(whole.path(), &["turned.yaml"]);
        let expected = format!("0 passed, {} failed", having.len());
        assert_eq!((code, out.lines().last(), err.as_str()), (1, Some(expected.as_str()), ""), "{key}");
    }
}

#[test]
fn a_failure_explains_itself() {
    let files = directory(&[("a.yaml", &test(FAILS)), ("b.yaml", &test(HOLDS))]);
    let (code, out, err) = lb(files.path(), &["a.yaml", "b.yaml"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let expected = "\
FAIL local & <far> (a.yaml:1:1, iptables)
  FAIL two nodes: flow pod
         at           a.yaml:24:7
         expected     backends: [10.244.1.1:8080, 10.244.2.1:8080]
         got          backends: [10.244.1.1:8080]
         expected     masquerade: true
         got          masquerade: false
         packet       tcp 10.244.1.50:40000 -> 10.96.0.10:80
         path         service 10.96.0.10:80 -> pod 10.244.1.1:8080
         service      default/web:http/TCP
         source       pod
         because      ClusterIP with internalTrafficPolicy Local: endpoints on this node only (§6.3)
         masquerade   no: a pod's traffic to the ClusterIP is not (§8.1)
         endpoint     10.244.1.1:8080 on worker-1: can be chosen: ready
         endpoint     10.244.2.1:8080 on worker-2: not chosen: not on this node (§5.3)
1 passed, 1 failed
";
    assert_eq!(out, expected);
    let (_, out, _) = lb(files.path(), &["-v", "b.yaml"]);
    assert_eq!(out, "ok   local & <far> (b.yaml:1:1, iptables)\n  ok   two nodes: flow pod\n1 passed, 0 failed\n");
}

#[test]
fn machines_are_told_too() {
    let files = directory(&[("a.yaml", &format!("{}---\n{}", test(FAILS), test(HOLDS)))]);
    let (code, out, _) = lb(files.path(), &["a.yaml", "-o", "json", "--junit", "junit.xml"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    for (pointer, expected) in [
        ("/passed", Value::from(1)),
        ("/failed", Value::from(1)),
        ("/cases/0/name", "local & <far>".into()),
        ("/cases/0/passed", false.into()),
        ("/cases/0/mode", "iptables".into()),
        ("/cases/0/checks/0/check", "flow pod".into()),
        ("/cases/0/checks/0/place", "a.yaml:24:7".into()),
        ("/cases/0/checks/0/differences/1/of", "masquerade".into()),
        ("/cases/0/checks/0/differences/1/expected", "true".into()),
        ("/cases/0/checks/0/differences/1/got", "false".into()),
        ("/cases/0/checks/0/explanation/endpoints/1/outcome", "out".into()),
        ("/cases/1/passed", true.into()),
        ("/cases/1/checks/0/explanation", Value::Null),
    ] {
        assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
    }
    let junit = fs::read(files.path().join("junit.xml")).expect("the report");
    let report = quick_junit::Report::deserialize(junit.as_slice()).expect("JUnit's XML");
    assert_eq!((report.tests, report.failures), (2, 1));
    assert_eq!(report.test_suites[0].name.as_str(), "local & <far>");
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    let holds = test(HOLDS);
    let changed = |from: &str, to: &str| {
        assert!(holds.contains(from), "{from}");
        holds.replace(from, to)
    };
    for (text, expected) in [
        (
            changed("masquerade: false", "masqerade: false"),
            "a.yaml:26:76: unknown field spec.steps[0].flows[0].expect.masqerade; did you mean masquerade?",
        ),
        (changed("    flows:\n", "    flow:\n"), "a.yaml:24:7: unknown field spec.steps[0].flow; did you mean flows?"),
        (
            changed("verdict: forward", "verdict: foward"),
            "a.yaml:26:25: spec.steps[0].flows[0].expect.verdict cannot be read: unknown variant `foward`",
        ),
        (
            changed("packet: tcp 10.244.1.50:40000 ->", "packet: tcp 10.244.1.50:40000"),
            "a.yaml:25:15: \"tcp 10.244.1.50:40000 10.96.0.10:80\" is not a packet: there is no -> in it; write it like",
        ),
        (
            changed("10.244.1.1:8080", "10.244.1.1"),
            "a.yaml:26:45: \"10.244.1.1\" is no address and port; write it like 10.244.1.1:80",
        ),
        (changed("mode: iptables", "mode: iptable"), "a.yaml:5:9: \"iptable\" is no mode; give one of iptables"),
        (
            changed("{clusterCIDR", "{scheduler: best, clusterCIDR"),
            "a.yaml:9:24: \"best\" is no scheduler; take one of",
        ),
        (
            changed("clusterCIDR: 10.244.0.0/16", "detectLocalMode: BridgeInterface"),
            "a.yaml:9:30: detectLocalMode is BridgeInterface, but no interface is named; set proxy.detectLocal.bridge",
        ),
        (changed("10.244.0.0/16", "10.244.0.0"), "a.yaml:9:26: \"10.244.0.0\" is no block of addresses; write it like"),
        (changed("[192.0.2.1]", "[192.0.2]"), "a.yaml:8:40: \"192.0.2\" is no IP address; correct it"),
        (changed("kind: Service", "kind: Servcie"), "a.yaml:12:13: kind Servcie of apiVersion v1 is not one"),
        (changed("port: 80}", "port: 80000}"), "a.yaml:14:94: Service default/web: spec.ports[0].port is 80000"),
        (changed("    objects:", "    manifests: [no.yaml]\n    objects:"), "a.yaml:10:17: there is no no.yaml; name"),
        (test("{}"), "a.yaml:26:15: this flow expects nothing; give it a verdict, backends or masquerade"),
        (holds.split("    flows:").next().expect("text").to_owned(), "a.yaml:7:5: this test expects nothing; give"),
        (changed("RoutingTest", "RoutingTset"), "a.yaml:2:7: kind is RoutingTset, not RoutingTest; write kind"),
        (format!("{holds}---\n{{apiVersion: v1, kind: Service}}\n"), "a.yaml:28:24: kind is Service, not RoutingTest"),
        ("kind: [".to_owned(), "a.yaml:"),
    ] {
        let files = directory(&[("a.yaml", &text)]);
        let (code, out, err) = lb(files.path(), &["a.yaml"]);
        assert_eq!(code, 2, "{expected}\n{out}");
        assert!(err.starts_with(&format!("error: {expected}")), "{expected}\n{err}");
        assert_eq!(out.lines().last().map(|line| line.ends_with(" passed, 0 failed")), Some(true), "{expected}");
    }
}

#[test]
fn what_is_not_there_is_trouble() {
    let files =
        directory(&[("notes/cluster.yaml", "{apiVersion: v1, kind: Service, metadata: {name: a}}"), ("t.yaml", "")]);
    for (path, expected) in [
        ("none.yaml", "error: none.yaml: cannot be read: No such file or directory (os error 2); check the path\n"),
        ("notes", "error: notes: no routing test; name a file or a directory with documents of kind: RoutingTest\n"),
        ("t.yaml", "error: t.yaml: no routing test; name a file or a directory with documents of kind: RoutingTest\n"),
    ] {
        assert_eq!(lb(files.path(), &[path]), (2, "0 passed, 0 failed\n".to_owned(), expected.to_owned()));
    }
    assert_eq!(lb(files.path(), &[]).0, 2);
}

#[test]
fn of_a_directory_only_routing_tests_count() {
    let template = "{{ if .Values.on }}\nkind: Service\n{{ end }}\n";
    let files = directory(&[
        ("deep/er/a.yaml", &test(HOLDS)),
        ("deep/objects.yaml", "{apiVersion: v1, kind: Service, metadata: {name: a}}"),
        ("deep/template.yaml", template),
        ("notes.txt", "kind: RoutingTest"),
    ]);
    assert_eq!(lb(files.path(), &["."]), (0, "1 passed, 0 failed\n".to_owned(), String::new()));
    // What runs is told, even though something else could not be read.
    fs::write(files.path().join("b.yaml"), test("{verdict: forwards}")).expect("a file");
    let (code, out, err) = lb(files.path(), &["."]);
    assert_eq!((code, out.as_str()), (2, "1 passed, 0 failed\n"));
    assert!(err.starts_with("error: ./b.yaml:26:25: "), "{err}");
}

#[test]
fn objects_may_stand_in_files_of_their_own() {
    let text = test(HOLDS);
    let (head, rest) = text.split_once("    objects:\n").expect("objects");
    let (objects, flows) = rest.split_once("    flows:").expect("flows");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{objects}");
    let files = directory(&[
        ("tests/a.yaml", &format!("{head}    manifests: [../objects/web.yaml]\n    flows:{flows}")),
        ("objects/web.yaml", &list),
    ]);
    assert_eq!(lb(files.path(), &["tests"]), (0, "1 passed, 0 failed\n".to_owned(), String::new()));
}
