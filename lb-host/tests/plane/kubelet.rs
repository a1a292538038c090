//! The kubelet: a Pod's life to the second.

use k8s_openapi::api::core::v1::{Node, Pod};
use lb_core::Instant;
use lb_host::cluster::api::Api;
use lb_host::cluster::kubelet::{Action, Kubelet, Program, Question, Reuse, Settings};

use super::{api, apply, at, object, value};

const NODE: &str =
    "{apiVersion: v1, kind: Node, metadata: {name: one}, spec: {podCIDRs: [10.244.1.0/29, 'fd00:10:244:1::/64']},
    status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}";

/// A node, its kubelet and the API, and how the programs behave.
struct Bench {
    api: Api,
    kubelet: Kubelet,
    /// From second to second (inclusive), probes succeed.
    well: Vec<(u64, u64)>,
    /// Probes are not answered at all from this second on.
    silent: u64,
    /// For how long a program goes on once it was asked to stop.
    lingers: u64,
    /// What happened, each with its second.
    log: Vec<String>,
    stops: Vec<(u64, Program)>,
}

impl Bench {
    fn new(reuse: Reuse) -> Self {
        let mut api = api();
        apply(&mut api, at(0), NODE);
        let settings = Settings { reuse, jitter: false, ..Settings::default() };
        let kubelet = Kubelet::new(api.get::<Node>("one").expect("a node"), settings);
        let (well, log, stops) = (vec![(0, 9999)], Vec::new(), Vec::new());
        Self { api, kubelet, well, silent: 9999, lingers: 0, log, stops }
    }

    fn pod(&mut self, second: u64, name: &str, spec: &str, container: &str) {
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: one, {spec}
              containers: [{{name: c, {container}}}]}}}}"
        );
        self.api.create(at(second), object::<Pod>(&yaml)).expect("admitted");
    }

    fn ready(&self, name: &str) -> bool {
        let conditions = value::<Pod>(&self.api, &format!("default/{name}"), "/status/conditions");
        let all = conditions.as_array().cloned().unwrap_or_default();
        all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    }

    /// Everything that is to happen in this second.
    fn second(&mut self, second: u64) {
        let now = at(second);
        for (_, program) in self.stops.extract_if(.., |(end, _)| *end <= second).collect::<Vec<_>>() {
            self.kubelet.exited(&program, 0, now);
        }
        self.kubelet.observe(&self.api, now);
        let before = self.names().iter().map(|name| (name.clone(), self.ready(name))).collect::<Vec<_>>();
        for action in self.kubelet.due(now) {
            match action {
                Action::Start { program, addresses, .. } => {
                    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                    self.log.push(format!("{second} start {} {}", program.pod, addresses.join(" ")));
                }
                Action::Stop(program) => {
                    self.log.push(format!("{second} stop {}", program.pod));
                    self.stops.push((second + self.lingers, program));
                }
                Action::Kill(program) => self.log.push(format!("{second} kill {}", program.pod)),
                Action::Remove { pod, .. } => self.log.push(format!("{second} remove {pod}")),
                Action::Probe(probe) => {
                    self.log.push(format!("{second} probe"));
                    if second < self.silent {
                        let well = self.well.iter().any(|(from, to)| (*from..=*to).contains(&second));
                        self.kubelet.result(probe.id, well);
                    }
                }
            }
        }
        self.kubelet.report(&mut self.api, now).expect("a kubelet is not refused");
        for (name, was) in before {
            if self.api.get::<Pod>(&format!("default/{name}")).is_some() && self.ready(&name) != was {
                self.log.push(format!("{second} {}", if was { "not ready" } else { "ready" }));
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.api.list::<Pod>().map(|pod| pod.name().to_owned()).collect()
    }

    fn run(&mut self, from: u64, to: u64) -> Vec<String> {
        (from..=to).for_each(|second| self.second(second));
        std::mem::take(&mut self.log)
    }

    /// The probes and changes of readiness alone.
    fn readiness(&mut self, from: u64, to: u64) -> String {
        let log = self.run(from, to).into_iter().filter(|line| line.ends_with("probe") || line.ends_with("ready"));
        log.map(|line| line.replace(" probe", "p").replace(" not ready", "N").replace(" ready", "R"))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A rule, a readinessProbe, when its probes succeed, and what happens.
type Case = (&'static str, &'static str, &'static [(u64, u64)], &'static str);

#[test]
fn readiness_comes_and_goes_to_the_second() {
    // The Pod arrives at 10 and starts at 11, which is where ticks start. `p` is a probe, R ready, N not.
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // rule, readinessProbe, when probes succeed, what happens until second 45
        ("no probe: ready while it runs", "", &[], "11R"),
        ("the defaults: period 10",  "readinessProbe: {tcpSocket: {port: 80}}", &[(0, 99)], "11p 11R 21p 31p 41p"),
        ("period",                   "readinessProbe: {periodSeconds: 7, tcpSocket: {port: 80}}", &[(0, 99)], "11p 11R 18p 25p 32p 39p"),
        ("the first tick behind the delay, not its end", "readinessProbe: {initialDelaySeconds: 5, periodSeconds: 8, tcpSocket: {port: 80}}", &[(0, 99)], "19p 19R 27p 35p 43p"),
        ("a delay that ends with a tick", "readinessProbe: {initialDelaySeconds: 16, periodSeconds: 8, tcpSocket: {port: 80}}", &[(0, 99)], "27p 27R 35p 43p"),
        ("successThreshold: so many in a row", "readinessProbe: {periodSeconds: 5, successThreshold: 3, tcpSocket: {port: 80}}", &[(0, 16), (26, 99)], "11p 16p 21p 26p 31p 36p 36R 41p"),
        ("failureThreshold: so many in a row", "readinessProbe: {periodSeconds: 5, failureThreshold: 2, tcpSocket: {port: 80}}", &[(0, 16), (26, 26)], "11p 11R 16p 21p 26p 31p 36p 36N 41p"),
        ("failureThreshold is 3 unless said", "readinessProbe: {periodSeconds: 5, tcpSocket: {port: 80}}", &[(0, 16)], "11p 11R 16p 21p 26p 31p 31N 36p 41p"),
        ("a port that nothing is called", "ports: [{name: web, containerPort: 80}], readinessProbe: {httpGet: {port: api}}", &[(0, 99)], ""),
    ];
    for (rule, container, well, expected) in cases {
        let mut bench = Bench::new(Reuse::Oldest);
        bench.well = well.to_vec();
        bench.run(0, 9);
        bench.pod(10, "p", "", container);
        assert_eq!(bench.readiness(10, 45), *expected, "{rule}");
    }
}

#[test]
fn a_probe_without_an_answer_fails_with_its_timeout() {
    // Probes at 11, 16 are answered. That of 21 fails at 24, that of 26 at 29; a late answer counts for nothing.
    let mut bench = Bench::new(Reuse::Oldest);
    bench.silent = 20;
    bench.pod(
        10,
        "p",
        "",
        "readinessProbe: {periodSeconds: 5, timeoutSeconds: 3, failureThreshold: 2, tcpSocket: {port: 80}}",
    );
    assert_eq!(bench.readiness(10, 34), "11p 11R 16p 21p 26p 29N 31p");
    // Slower than its period: the tick that passed meanwhile is made up for at once, and only that one.
    let mut bench = Bench::new(Reuse::Oldest);
    bench.silent = 0;
    bench.pod(10, "p", "", "readinessProbe: {periodSeconds: 2, timeoutSeconds: 5, tcpSocket: {port: 80}}");
    assert_eq!(bench.readiness(10, 22), "11p 16p 21p");
}

#[test]
fn a_probe_asks_as_it_is_written() {
    let web = "ports: [{name: web, containerPort: 8080}],";
    #[rustfmt::skip]
    let cases = [
        ("httpGet: {path: /ready?full=1, port: web}",  8080, Question::Http { path: "/ready?full=1".into(), headers: vec![], tls: false }),
        ("httpGet: {port: 81, scheme: HTTPS, httpHeaders: [{name: Host, value: a.test}]}", 81,
            Question::Http { path: "/".into(), headers: vec![("Host".into(), "a.test".into())], tls: true }),
        ("tcpSocket: {port: web}",                     8080, Question::Tcp),
        ("grpc: {port: 9000, service: s}",             9000, Question::Grpc { service: "s".into() }),
        ("exec: {command: [cat, /ok]}",                0,    Question::Exec { command: vec!["cat".into(), "/ok".into()] }),
    ];
    for (probe, port, question) in cases {
        let mut bench = Bench::new(Reuse::Oldest);
        bench.pod(0, "p", "", &format!("{web} readinessProbe: {{timeoutSeconds: 4, {probe}}}"));
        bench.kubelet.observe(&bench.api, at(0));
        let actions = bench.kubelet.due(at(1));
        let probes =
            actions.iter().filter_map(|action| if let Action::Probe(probe) = action { Some(probe) } else { None });
        let probes: Vec<_> = probes.collect();
        assert_eq!(probes.len(), 1, "{probe}");
        assert_eq!((probes[0].address.to_string(), probes[0].port), ("10.244.1.2".to_owned(), port), "{probe}");
        assert_eq!((&probes[0].question, probes[0].timeout.as_secs()), (&question, 4), "{probe}");
    }
}

#[test]
fn a_pod_ends_in_its_grace_period() {
    let hook = "lifecycle: {preStop: {sleep: {seconds: 4}}}";
    #[rustfmt::skip]
    let cases = [
        // rule, spec, container, for how long the program goes on, what happens from its deletion at 20 on
        ("it stops at once",          "",                                   "",   0,  "20 stop, 21 remove"),
        ("it drains first",           "",                                   "",   12, "20 stop, 32 remove"),
        ("it does not stop",          "terminationGracePeriodSeconds: 10,", "",   99, "20 stop, 30 kill, 30 remove"),
        ("30 seconds unless said",    "",                                   "",   99, "20 stop, 50 kill, 50 remove"),
        ("its hook sleeps before",    "",                                   hook, 3,  "24 stop, 27 remove"),
        ("the hook is in the period", "terminationGracePeriodSeconds: 6,",  hook, 99, "24 stop, 26 kill, 26 remove"),
    ];
    for (rule, spec, container, lingers, expected) in cases {
        let mut bench = Bench::new(Reuse::Oldest);
        bench.lingers = lingers;
        bench.pod(0, "p", spec, container);
        bench.run(0, 19);
        bench.api.delete::<Pod>(at(20), "default/p", None).expect("it is there");
        let log = bench.run(20, 60).join(", ").replace(" default/p", "");
        assert_eq!(log, expected, "{rule}");
        assert!(bench.names().is_empty(), "{rule}: it is gone from the API too");
    }
}

#[test]
fn readiness_is_probed_to_the_end() {
    // It fails its probes from 22 on, so that it is not serving any more while it drains.
    let mut bench = Bench::new(Reuse::Oldest);
    (bench.lingers, bench.well) = (20, vec![(0, 21)]);
    bench.pod(0, "p", "", "readinessProbe: {periodSeconds: 5, failureThreshold: 1, tcpSocket: {port: 80}}");
    bench.run(0, 19);
    bench.api.delete::<Pod>(at(20), "default/p", None).expect("it is there");
    assert_eq!(bench.readiness(20, 45), "21p 26p 26N 31p 36p");
}

#[test]
fn a_deletion_by_force_leaves_a_second() {
    let mut bench = Bench::new(Reuse::Oldest);
    bench.lingers = 99;
    bench.pod(0, "p", "", "");
    bench.run(0, 9);
    bench.api.delete::<Pod>(at(10), "default/p", Some(0)).expect("it is there");
    assert!(bench.names().is_empty(), "the API does not wait for the node");
    assert_eq!(bench.run(10, 15), ["10 stop default/p", "11 kill default/p", "11 remove default/p"]);
}

#[test]
fn a_crash_is_followed_by_longer_and_longer_waits() {
    let mut bench = Bench::new(Reuse::Oldest);
    bench.pod(0, "p", "", "");
    bench.run(0, 1);
    let crash = |bench: &mut Bench, second: u64| {
        let uid = value::<Pod>(&bench.api, "default/p", "/metadata/uid").as_str().unwrap_or_default().into();
        bench.kubelet.exited(&Program { pod: "default/p".into(), uid, container: "c".into() }, 1, at(second));
    };
    // kubelet: once it looks, then 10 s, 20 s, 40 s.
    let mut starts = Vec::new();
    let mut second = 2;
    for wait in [1, 10, 20, 40] {
        crash(&mut bench, second);
        let log = bench.run(second, second + wait);
        assert!(bench.ready("p"), "it runs again");
        let start = log.iter().find(|line| line.contains("start")).cloned().unwrap_or_default();
        assert_eq!(start, format!("{} start default/p 10.244.1.2 fd00:10:244:1::2", second + wait));
        starts.push(value::<Pod>(&bench.api, "default/p", "/status/containerStatuses/0/restartCount"));
        second += wait + 5;
    }
    assert_eq!(starts, [1, 2, 3, 4]);
    crash(&mut bench, second);
    bench.second(second);
    assert!(!bench.ready("p"));
    let reason = value::<Pod>(&bench.api, "default/p", "/status/containerStatuses/0/state/waiting/reason");
    assert_eq!(reason, "CrashLoopBackOff");
    // It has run for ten minutes: all is forgiven.
    bench.run(second + 1, second + 80);
    crash(&mut bench, second + 800);
    assert_eq!(bench.run(second + 800, second + 801).len(), 3, "not ready, started, ready");
}

#[test]
fn a_pod_that_is_not_to_restart_comes_to_its_end() {
    for (policy, code, phase) in [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")] {
        let mut bench = Bench::new(Reuse::Oldest);
        bench.pod(0, "p", &format!("restartPolicy: {policy},"), "");
        bench.run(0, 1);
        let uid = value::<Pod>(&bench.api, "default/p", "/metadata/uid").as_str().unwrap_or_default().into();
        bench.kubelet.exited(&Program { pod: "default/p".into(), uid, container: "c".into() }, code, at(2));
        assert_eq!(bench.run(2, 9), ["2 remove default/p", "2 not ready"], "{policy} {code}");
        assert_eq!(value::<Pod>(&bench.api, "default/p", "/status/phase"), phase);
    }
}

#[test]
fn an_address_is_anothers_once_its_pod_is_gone() {
    for (reuse, expected) in
        [(Reuse::Oldest, "10.244.1.3"), (Reuse::Lowest, "10.244.1.2"), (Reuse::Latest, "10.244.1.2")]
    {
        let mut bench = Bench::new(reuse);
        bench.pod(0, "old", "", "");
        bench.run(0, 4);
        bench.api.delete::<Pod>(at(5), "default/old", None).expect("it is there");
        bench.run(5, 9);
        bench.pod(10, "new", "", "");
        bench.run(10, 12);
        assert_eq!(value::<Pod>(&bench.api, "default/new", "/status/podIP"), expected, "{reuse:?}");
        let six = value::<Pod>(&bench.api, "default/new", "/status/podIPs/1/ip");
        assert_eq!(six, expected.replace("10.244.1.", "fd00:10:244:1::"), "{reuse:?}");
    }
    // A /29 has five; the sixth Pod waits for one to go.
    let mut bench = Bench::new(Reuse::Oldest);
    (0..6).for_each(|number| bench.pod(0, &format!("p{number}"), "", ""));
    assert_eq!(bench.run(0, 3).iter().filter(|line| line.contains("start")).count(), 5);
    assert!(bench.kubelet.next_deadline().is_some_and(|next| next > at(3)), "nothing is due meanwhile");
    let waiting = bench
        .names()
        .into_iter()
        .find(|name| value::<Pod>(&bench.api, &format!("default/{name}"), "/status/podIP").is_null());
    let waiting = waiting.expect("one waits");
    let other = bench.names().into_iter().find(|name| *name != waiting).expect("five run");
    bench.api.delete::<Pod>(at(4), &format!("default/{other}"), None).expect("it is there");
    assert!(bench.run(4, 9).iter().any(|line| line.contains(&format!("start default/{waiting}"))));
}

#[test]
fn jitter_is_drawn_from_the_seed() {
    let first = |seed: u64| -> Instant {
        let mut bench = Bench::new(Reuse::Oldest);
        let settings = Settings { seed, jitter: true, ..Settings::default() };
        bench.kubelet = Kubelet::new(bench.api.get::<Node>("one").expect("a node"), settings);
        bench.pod(0, "p", "", "readinessProbe: {periodSeconds: 10, tcpSocket: {port: 80}}");
        bench.kubelet.observe(&bench.api, at(0));
        bench.kubelet.due(at(1));
        bench.kubelet.report(&mut bench.api, at(1)).expect("a kubelet is not refused");
        bench.kubelet.next_deadline().expect("a probe")
    };
    let drawn: Vec<_> = (0..8).map(first).collect();
    assert_eq!(drawn, (0..8).map(first).collect::<Vec<_>>());
    assert!(drawn.iter().all(|next| (at(1)..=at(11)).contains(next)), "within the period");
    assert!(drawn.iter().any(|next| *next != drawn[0]));
}
