//! The built `lb`: its tables, its exit codes, and on which stream it says what.

use assert_cmd::Command;

fn lb(arguments: &str) -> Command {
    let mut command = Command::cargo_bin("lb").expect("lb is built");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).args(arguments.split(' '));
    command
}

/// What `lb` writes, given `input`, when all is well.
fn output(arguments: &str, input: &str) -> String {
    let assert = lb(arguments).write_stdin(input).assert().success().stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).expect("text")
}

#[test]
fn the_example_comes_to_what_kubectl_would_print() {
    for (arguments, expected) in [
        (
            "get services -f seed/cluster.yaml",
            "NAME      TYPE           CLUSTER-IP     EXTERNAL-IP                    PORT(S)          AGE\n\
             example   LoadBalancer   10.96.100.50   2001:db8:10::10,203.0.113.10   8081:32255/TCP   <unknown>\n",
        ),
        (
            "get svc -f seed -o wide -A",
            "NAMESPACE   NAME      TYPE           CLUSTER-IP     EXTERNAL-IP                    PORT(S)          AGE         SELECTOR\n\
             default     example   LoadBalancer   10.96.100.50   2001:db8:10::10,203.0.113.10   8081:32255/TCP   <unknown>   app=alpha\n",
        ),
        (
            "get endpoints -f seed",
            "NAME      ENDPOINTS                                            AGE\n\
             example   10.244.1.10:8080,10.244.1.11:8080,10.244.2.10:8080   <unknown>\n",
        ),
        (
            "get endpointslices -f seed",
            "NAME        ADDRESSTYPE   PORTS   ENDPOINTS                                                           AGE\n\
             example-1   IPv4          8080    10.244.1.10,10.244.1.11,10.244.2.10 + 1 more...                     <unknown>\n\
             example-2   IPv6          8080    fd00:10:244:1::10,fd00:10:244:1::11,fd00:10:244:2::10 + 1 more...   <unknown>\n",
        ),
        (
            "get nodes -f seed -o wide worker-2",
            "NAME       STATUS   ROLES    AGE         VERSION     INTERNAL-IP   EXTERNAL-IP   OS-IMAGE    KERNEL-VERSION   CONTAINER-RUNTIME\n\
             worker-2   Ready    <none>   <unknown>   <unknown>   192.0.2.12    <none>        <unknown>   <unknown>        <unknown>\n",
        ),
        ("get services -f seed -o name", "service/example\n"),
        ("get services -f services.yaml -n kube-system -o name", "service/kube-dns\n"),
        (
            "get endpoints -f services.yaml -n shop -o name",
            "endpoints/database\nendpoints/warehouse\nendpoints/web\nendpoints/web-outside\n",
        ),
    ] {
        assert_eq!(output(arguments, ""), expected, "{arguments}");
    }
}

#[test]
fn what_get_prints_can_be_read_again() {
    for form in ["yaml", "json"] {
        let services = output(&format!("get services -f services.yaml -A -o {form}"), "");
        let slices = output(&format!("get endpointslices -f services.yaml -A -o {form}"), "");
        assert_eq!(output(&format!("get services -f - -A -o {form}"), &services), services, "{form}");
        assert_eq!(output(&format!("get endpointslices -f - -A -o {form}"), &slices), slices, "{form}");
    }
}

#[test]
fn cells_are_filled_as_kubectl_fills_them() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, type: TYPE, externalIPs: [7.7.7.7], \
                   ports: [{name: a, port: 80}, {name: b, port: 81}]}, \
                   status: {loadBalancer: {ingress: [{ip: 8.8.8.8}, {hostname: lb.example}, {ip: 1.1.1.1}, {ip: 8.8.8.8}]}}}";
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}, \
                 addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}], ports: PORTS}";
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {node-role.kubernetes.io/worker: '', kubernetes.io/role: agent, \
                node-role.kubernetes.io/: ''}}}";
    let balanced = service.replace("TYPE", "LoadBalancer");
    let two = slice.replace("PORTS", "[{name: a, port: 8080}, {name: b, port: 8081}]");
    let unnumbered = slice.replace("PORTS", "[{name: a}, {name: b, port: 81}]");
    for (what, input, cell) in [
        // A set of the balancer's addresses, the Service's own behind it.
        ("services", balanced.clone(), " 1.1.1.1,8.8.8.8,lb.example,7.7.7.7 "),
        ("services", service.replace("TYPE", "NodePort"), " 7.7.7.7 "),
        // Port by port.
        ("endpoints", format!("{balanced}\n---\n{two}"), " 10.0.0.1:8080,10.0.0.2:8080,10.0.0.1:8081 + 1 more... "),
        ("endpointslices", unnumbered, " a,81 "),
        ("nodes", node.to_owned(), " agent,worker "),
    ] {
        let table = output(&format!("get {what} -f -"), &input);
        assert!(table.contains(cell), "{cell:?} is not in\n{table}");
    }
}

#[test]
fn json_objects_may_follow_each_other() {
    let service = |name: &str, port: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"ports\":[{{\"port\":{port}}}]}}}}"
        )
    };
    let (a, b) = (service("a", "80"), service("b", "8e1"));
    for between in ["", " ", "\n", "\n\n  ", "\n---\n"] {
        let names = output("get services -f - -o name", &format!("{a}{between}{b}\n"));
        assert_eq!(names, "service/a\nservice/b\n", "{between:?}");
    }
    // Places count from where the file begins.
    let bad = service("c", "true");
    let column = bad.find("true").expect("there") + 1;
    for (text, place) in [
        (format!("{a}{bad}"), format!("-:1:{}: ", a.len() + column)),
        (format!("{a}\n{bad}"), format!("-:2:{column}: ")),
        (format!("{a}\n\n {bad}"), format!("-:3:{}: ", column + 1)),
        (format!("{a}\n{b}\n{{\n{}", &bad[1..]), format!("-:4:{}: ", column - 1)),
    ] {
        let assert = lb("get services -f -").write_stdin(text).assert().code(2).stdout("");
        let error = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(error.starts_with(&format!("error: {place}")), "{error} is not at {place}");
    }
}

#[test]
fn whole_numbers_are_ports_however_they_are_written() {
    for port in ["80", "80.0", "8e1", "080", "0x50", "0o120", "+80"] {
        let service =
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{port: {port}}}]}}}}");
        assert!(output("get services -f -", &service).contains(" 80/TCP "), "{port}");
    }
    for port in ["80.5", "8e30", "'80'", ".nan", ".inf", "9007199254740993.0"] {
        let service =
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{port: {port}}}]}}}}");
        lb("get services -f -").write_stdin(service).assert().code(2).stdout("");
    }
}

#[test]
fn trouble_is_told_on_stderr_with_exit_code_2() {
    let foo = "apiVersion: v1\nkind: Foo\n";
    for (arguments, input, expected) in [
        (
            "get services -f missing.yaml",
            "",
            "error: missing.yaml: cannot be read: No such file or directory (os error 2); check the path given to -f\n",
        ),
        ("get services", "", "error: no Kubernetes objects; name files, directories or - with -f\n"),
        (
            "get services -f -",
            foo,
            "error: -:2:7: kind Foo of apiVersion v1 is not one that service routing reads; kinds read: Service, Endpoints, Pod, Node, Namespace, EndpointSlice, ServiceCIDR\n",
        ),
        ("get services -f seed nope", "", "error: services \"nope\" not found; see `lb get services -A`\n"),
        (
            "man missing",
            "",
            "error: cannot write manual pages to missing; name a directory that exists: No such file or directory (os error 2)\n",
        ),
    ] {
        lb(arguments).write_stdin(input).assert().code(2).stdout("").stderr(expected);
    }
    let two = format!("{foo}---\n{foo}");
    let assert = lb("get services -f -").write_stdin(two).assert().code(2);
    assert_eq!(String::from_utf8_lossy(&assert.get_output().stderr).matches("error: -:").count(), 2);
    for scheduler in ["lblc", "lblcr"] {
        let assert =
            lb(&format!("get rules -f seed --node worker-1 --scheduler {scheduler}")).assert().code(2).stdout("");
        let error = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        let expected =
            "balances caches by destination and kube-proxy's services have none; take one of random, rr, wrr";
        assert!(error.contains(&format!("{scheduler} {expected}")), "{error}");
        let config = format!("kind: KubeProxyConfiguration\nmode: ipvs\nipvs: {{scheduler: {scheduler}}}\n");
        let assert = lb("get rules -f seed --node worker-1 --config -").write_stdin(config).assert().code(2).stdout("");
        let error = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(error.contains(&format!("-:3:19: {scheduler} {expected}")), "{error}");
    }
    lb("get").assert().code(2);
    lb("frobnicate").assert().code(2);
    lb("get services -f seed --service-node-port-range 9-1").assert().code(2);
}

#[test]
fn what_is_passed_over_is_told_in_one_warning() {
    let input = "{apiVersion: apps/v1, kind: Deployment}\n---\n{apiVersion: v1, kind: Secret}\n";
    let expected = "warning: passed over 1 Deployment, 1 Secret: service routing does not read them\n\
                    warning: no services in namespace default; -A looks in all\n";
    lb("get services -f -").write_stdin(input).assert().success().stdout("").stderr(expected);
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_trouble() {
    use std::process::{Command, Stdio};
    let mut lb = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lb starts");
    drop(lb.stdout.take());
    let output = lb.wait_with_output().expect("lb ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_bad_byte_has_its_place() {
    let assert = lb("get services -f -").write_stdin(b"apiVersion: v1\nkind: \xff\n".to_vec()).assert().code(2);
    assert.stderr("error: -:2:7: not UTF-8; save the file as UTF-8\n");
}
