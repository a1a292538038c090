//! `lb get rules`, `lb compile` and `lb inspect`, run as they are built.

use assert_cmd::Command;

fn lb(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("lb").expect("lb is built");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).args(arguments);
    command
}

/// What `lb` writes when all is well; arguments are parted by blanks.
fn output(arguments: &str) -> String {
    let arguments: Vec<_> = arguments.split(' ').collect();
    let assert = lb(&arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).expect("text")
}

/// The image that `arguments` compile, and what is told about it.
fn compiled(arguments: &str) -> (Vec<u8>, String) {
    let arguments: Vec<_> = arguments.split(' ').chain(["-o", "-"]).collect();
    let output = lb(&arguments).assert().success().get_output().clone();
    (output.stdout, String::from_utf8(output.stderr).expect("text"))
}

/// A table's rows below the headings, blanks made one.
fn rows(table: &str) -> Vec<String> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_row_for_everything_that_clients_dial() {
    let cluster_ip = "default/example:main/TCP ClusterIP 10.96.100.50:8081/TCP";
    let lb_ip = "default/example:main/TCP LoadBalancer 203.0.113.10:8081/TCP";
    let node_port = "default/example:main/TCP NodePort 0.0.0.0:32255/TCP";
    let cluster_ip6 = "default/example:main/TCP ClusterIP [fd00:10:96::50]:8081/TCP";
    let lb_ip6 = "default/example:main/TCP LoadBalancer [2001:db8:10::10]:8081/TCP";
    let node_port6 = "default/example:main/TCP NodePort [::]:32255/TCP";
    for (arguments, expected) in [
        // Of the four Pods one is not ready; no pool of local endpoints is in use (§5.1).
        ("--node worker-1", "Cluster random <none> 3 - yes"),
        ("--node worker-2 --mode nftables", "Cluster random <none> 3 - yes"),
        ("--node worker-1 --scheduler rr", "Cluster rr <none> 3 - yes"),
        ("--node worker-1 --scheduler maglev example", "Cluster maglev <none> 3 - yes"),
    ] {
        let expected =
            [cluster_ip, lb_ip, node_port, cluster_ip6, lb_ip6, node_port6].map(|row| format!("{row} {expected}"));
        assert_eq!(rows(&output(&format!("get rules -f seed {arguments}"))), expected, "{arguments}");
    }
    assert_eq!(rows(&output("get rules -f seed --node worker-1 -n other")), Vec::<String>::new());
    assert_eq!(output("get rules -f seed --node worker-1 -o name"), "rule/default/example:main/TCP\n");
}

#[test]
fn wide_tells_the_backends_and_the_node() {
    let wide = output("get rules -f seed --node worker-1 --scheduler maglev --cluster-cidr 10.244.0.0/16 -o wide");
    let mut lines = wide.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.nth(1).expect("the node").join(" "),
        "192.0.2.11,2001:db8:2::11 192.0.2.11,2001:db8:2::11,127.0.0.0/8 10.244.0.0/16 10.96.0.0/12 \
         192.0.2.11@0.0.0.0/0,2001:db8:2::11@::/0 30000-32767"
    );
    // The smallest prime above 100 for each of three backends is 307.
    let row = lines.nth(2).expect("a rule");
    assert_eq!(
        row[9..13],
        ["10.244.1.10:8080,10.244.1.11:8080,10.244.2.10:8080", "<none>", "<none>", "307,0"],
        "{row:?}"
    );
}

#[test]
fn the_image_that_firmware_embeds_is_what_lb_compiles() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-core/tests/golden");
    let manifest = std::fs::read_to_string(format!("{golden}/cluster.yaml")).expect("the manifest");
    let command = manifest.lines().find_map(|line| line.strip_prefix("#   lb ")).expect("a command in its head");
    let compile = command.strip_suffix(" -o rules.image").expect(command);
    let (image, _) = compiled(&compile.replace("cluster.yaml", &format!("{golden}/cluster.yaml")));
    assert!(image == std::fs::read(format!("{golden}/rules.image")).expect("the image"), "lb {command}");
}

#[test]
fn an_image_says_what_its_objects_do() {
    for arguments in
        ["-f seed --node worker-1", "-f services.yaml --node n --scheduler maglev", "-f seed --node worker-2"]
    {
        let (image, told) = compiled(&format!("compile {arguments}"));
        assert_eq!(compiled(&format!("compile {arguments}")).0, image, "the same each time: {arguments}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &image).expect("written");
        let path = file.path().to_str().expect("a path");
        let told = told.split_once(": ").expect("node: sizes").1;
        let inspected = output(&format!("inspect {path}"));
        let (header, table) = inspected.split_once("\n\n").expect("a header and a table");
        assert_eq!(header, format!("rule image of version 3, {}", told.trim_end()), "{arguments}");
        assert!(told.contains(&format!(" {} bytes:", image.len())), "{told}");
        assert_eq!(table, output(&format!("get rules {arguments}")), "{arguments}");
        assert_eq!(output(&format!("get rules --image {path}")), table, "{arguments}");
        // As JSON, the rules are the same, with the header and counts around them.
        let json = |arguments: &str| serde_json::from_str::<serde_json::Value>(&output(arguments)).expect("JSON");
        let (inspected, rules) =
            (json(&format!("inspect {path} -o json")), json(&format!("get rules {arguments} -o json")));
        assert_eq!((&inspected["rules"], &inspected["node"]), (&rules["rules"], &rules["node"]), "{arguments}");
        assert_eq!(inspected["bytes"], image.len(), "{arguments}");
        assert_eq!(inspected["vips"], rules["rules"].as_array().expect("a list").len(), "{arguments}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let (image, _) = compiled("compile -f seed --node worker-1");
    let length = image.len();
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = image.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let cut = format!("rule image cut short of its {length} bytes: fetch it again");
    for (bytes, expected) in [
        (Vec::new(), "not a rule image: compile one from the cluster's objects"),
        (b"apiVersion: v1\n".to_vec(), "not a rule image: compile one from the cluster's objects"),
        (image[..length - 1].to_vec(), cut.as_str()),
        (image[..100].to_vec(), cut.as_str()),
        (changed(200, &[0xff]), "rule image does not match its checksum: fetch or compile it again"),
        (changed(8, &[9]), "rule image of version 9, this engine reads version 3: compile it again"),
    ] {
        let expected = format!("error: -: {expected}\n");
        lb(&["inspect", "-"]).write_stdin(bytes).assert().code(2).stdout("").stderr(expected);
    }
    lb(&["inspect", "missing.img"])
        .assert()
        .code(2)
        .stderr("error: cannot read missing.img: No such file or directory (os error 2)\n");
}

#[test]
fn nothing_is_left_where_compiling_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rules.img");
    let arguments = ["compile", "-f", "seed", "--node", "nobody", "-o", path.to_str().expect("a path")];
    lb(&arguments).assert().code(2).stdout("");
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    std::fs::write(&path, "as it was").expect("written");
    lb(&arguments).assert().code(2);
    assert_eq!(std::fs::read(&path).expect("read"), b"as it was");
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    for (arguments, expected) in [
        ("get services -f seed --node worker-1", "only rules are a node's own"),
        ("get services --image x", "an image has rules only"),
        ("get rules --image x -f seed", "cannot be used with"),
        ("get rules -f seed", "the manifests have several Nodes"),
        ("compile -f seed --node worker-1", "--output <FILE>"),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let output = lb(&arguments).assert().code(2).stdout("").get_output().clone();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

/// A flag that shapes rules would have no effect on compiled ones.
#[test]
fn flags_that_shape_rules_do_not_go_with_an_image() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("rules.img");
    let image = image.to_str().expect("a path");
    lb(&["compile", "-f", "seed", "--node", "worker-1", "-o", image]).assert().success();
    let commands =
        [&["replay", "seed/walk.pcap"][..], &["explain", "tcp 198.51.100.7:1 -> 203.0.113.10:8081"], &["get", "rules"]];
    for command in commands {
        let with = |flags: &str| {
            let flags = flags.split_whitespace();
            lb(&command.iter().copied().chain(["--image", image]).chain(flags).collect::<Vec<_>>()).assert()
        };
        with("").success();
        with("--seed 7").success();
        for flags in [
            "-f seed",
            "--node worker-1",
            "--mode ipvs",
            "--scheduler rr",
            "--cluster-cidr 10.244.0.0/16",
            "--nodeport-addresses all",
            "--masquerade-all",
            "--config missing.yaml",
            "--service-cluster-ip-range 10.0.0.0/8",
            "--service-node-port-range 1-99",
        ] {
            let error = with(flags).code(2).stdout("").get_output().stderr.clone();
            assert!(String::from_utf8_lossy(&error).contains("cannot be used with"), "{command:?} {flags}");
        }
    }
}
