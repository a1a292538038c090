//! Kubeconfigs that can't be used: each is said to be so at once, by the name of its file and with a reason.

use assert_cmd::Command;
use serde_json::{Value, json};

/// No certificate, in base64.
const NO_PEM: &str = "bm90IGEgY2VydGlmaWNhdGU=";

fn configuration(cluster: Value, user: Value) -> Value {
    let mut cluster = cluster;
    cluster["server"] = "https://127.0.0.1:1".into();
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut all = configuration(json!({}), json!({"token": "a"}));
    *all.pointer_mut(field).expect("a field") = value;
    all
}

#[test]
fn what_cannot_be_used_is_told_at_once() {
    let exec = |command: &str| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command}});
    for (what, config, expected) in [
        ("no context", with("/current-context", "".into()), "it has no current-context"),
        ("another's context", with("/current-context", "prod".into()), "\"prod\", which is none of its contexts: lab"),
        (
            "no such cluster",
            with("/contexts/0/context/cluster", "x".into()),
            "failed to load the cluster of context: x",
        ),
        ("no such user", with("/contexts/0/context/user", "x".into()), "is \"x\", which is none of its users"),
        ("no address", with("/clusters/0/cluster/server", Value::Null), "cluster url is missing"),
        ("no base64", configuration(json!({"certificate-authority-data": "%"}), json!({})), "base64"),
        (
            "no certificate",
            configuration(json!({"certificate-authority-data": NO_PEM}), json!({})),
            "no certificate in PEM",
        ),
        (
            "no such file",
            configuration(json!({"certificate-authority": "/no/ca.crt"}), json!({})),
            "'\"/no/ca.crt\"': No such file or directory",
        ),
        (
            "no key",
            configuration(json!({}), json!({"client-certificate-data": NO_PEM, "client-key-data": NO_PEM})),
            "private key",
        ),
        (
            "no token",
            configuration(json!({}), json!({"tokenFile": "/no/token"})),
            "the token in /no/token: No such file",
        ),
        ("no such plugin", configuration(json!({}), exec("/no/plugin")), "unable to run auth exec: No such file"),
        ("a plugin that fails", configuration(json!({}), exec("false")), "failed with status exit status: 1"),
        ("what was given up", configuration(json!({}), json!({"auth-provider": {"name": "gcp"}})), "oauth"),
    ] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), config.to_string()).expect("written");
        let path = file.path().to_str().expect("a path");
        let mut lb = Command::cargo_bin("lb").expect("lb is built");
        let lb = lb.args(["run", "--device", "tap:never-made", "--node", "a", "--kubeconfig", path]);
        let assert = lb.timeout(std::time::Duration::from_secs(20)).assert().code(2).stdout("");
        let said = String::from_utf8(assert.get_output().stderr.clone()).expect("text");
        assert!(said.contains(expected) && said.contains(path), "{what}: {said}");
    }
    for (what, arguments, expected) in [
        ("nowhere", &["--in-cluster", "--node", "a"][..], "this is no Pod of a cluster: "),
        ("no node", &["--in-cluster"], "--node"),
    ] {
        let mut lb = Command::cargo_bin("lb").expect("lb is built");
        let lb = lb.args(["run", "--device", "tap:never-made"]).args(arguments).env_remove("KUBERNETES_SERVICE_HOST");
        let assert = lb.assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).expect("text");
        assert!(said.contains(expected), "{what}: {said}");
    }
}
