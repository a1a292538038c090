//! All of the control plane on one clock: the Service of the beginning, from `kubectl apply` to its end.

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use lb_core::Instant;
use lb_host::cluster::api::Api;
use lb_host::cluster::cloud::{self, Cloud};
use lb_host::cluster::controllers::{Controllers, Patience};
use lb_host::cluster::kubectl;
use lb_host::cluster::kubelet::{self, Action, Kubelet};

use super::{api_of, apply, at};

const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDRs: [10.244.1.0/24]},
  status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}, spec: {podCIDRs: [10.244.2.0/24]},
  status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: alpha-1, labels: {app: alpha}}, spec: {containers: [{name: alpha,
  readinessProbe: {initialDelaySeconds: 3, periodSeconds: 2, httpGet: {path: /ready, port: 8080}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: alpha-2, labels: {app: alpha}}, spec: {containers: [{name: alpha,
  readinessProbe: {initialDelaySeconds: 3, periodSeconds: 2, httpGet: {path: /ready, port: 8080}}}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: example}, spec: {type: LoadBalancer, selector: {app: alpha},
  clusterIP: 10.96.7.7, ports: [{name: main, port: 8081, targetPort: 8080, nodePort: 32255}]}}
";

/// The control plane, whole: what the box is composed of but for packets.
struct Plane {
    api: Api,
    controllers: Controllers,
    cloud: Cloud,
    kubelets: Vec<Kubelet>,
}

impl Plane {
    fn new(seed: u64) -> Self {
        let mut api = api_of(&["10.96.0.0/16"], (30_000, 32_767), seed);
        apply(&mut api, at(0), CLUSTER);
        let settings = kubelet::Settings { seed, ..kubelet::Settings::default() };
        let kubelets = api.list::<Node>().map(|node| Kubelet::new(node, settings.clone())).collect();
        let controllers = Controllers::new(Patience::default(), seed);
        Self { api, controllers, cloud: Cloud::new(cloud::Settings::default()), kubelets }
    }

    /// All that happens at a moment: everyone in turn until nobody has anything to say.
    fn settle(&mut self, now: Instant) {
        loop {
            let before = self.api.version();
            for kubelet in &mut self.kubelets {
                kubelet.observe(&self.api, now);
                for action in kubelet.due(now) {
                    match action {
                        Action::Probe(probe) => kubelet.result(probe.id, true),
                        Action::Stop(program) => kubelet.exited(&program, 0, now),
                        _ => {}
                    }
                }
                // What ended by being asked to is cleared away at once.
                kubelet.due(now);
                kubelet.report(&mut self.api, now).expect("a kubelet is not refused");
            }
            self.controllers.reconcile(&mut self.api, now).expect("no controller is refused");
            self.cloud.reconcile(&mut self.api, now).expect("the cloud is not refused");
            for check in self.cloud.due(now) {
                self.cloud.result(check.id, true);
            }
            if self.api.version() == before {
                return;
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let kubelets = self.kubelets.iter().filter_map(Kubelet::next_deadline);
        let others = [self.controllers.next_deadline(), self.cloud.next_deadline()];
        kubelets.chain(others.into_iter().flatten()).min().expect("heartbeats never end")
    }

    /// From deadline to deadline until `end`; time goes on with each.
    fn run(&mut self, mut now: Instant, end: Instant) {
        self.settle(now);
        while self.next_deadline() <= end {
            assert!(self.next_deadline() > now, "time stands still at {now:?}");
            now = self.next_deadline();
            self.settle(now);
        }
        self.settle(end);
    }
}

#[test]
fn the_story_is_told_in_kubectls_words() {
    let mut plane = Plane::new(1);
    let get = |plane: &Plane, second: u64| {
        let (api, now) = (&plane.api, at(second));
        [
            kubectl::get::<Service>(api, Some("default"), false, now),
            kubectl::get::<Endpoints>(api, Some("default"), false, now),
            kubectl::get::<Pod>(api, Some("default"), true, now),
        ]
    };
    assert_eq!(get(&plane, 0)[1], "No resources found in default namespace.\n");
    plane.run(at(0), at(1));
    let [services, endpoints, pods] = get(&plane, 1);
    assert_eq!(
        services,
        "NAME      TYPE           CLUSTER-IP   EXTERNAL-IP   PORT(S)          AGE\n\
         example   LoadBalancer   10.96.7.7    <pending>     8081:32255/TCP   1s\n"
    );
    assert_eq!(endpoints, "NAME      ENDPOINTS   AGE\nexample   <none>      1s\n");
    assert_eq!(
        pods,
        "NAME      READY   STATUS    RESTARTS   AGE   IP           NODE     NOMINATED NODE   READINESS GATES\n\
         alpha-1   0/1     Running   0          1s    10.244.1.2   node-1   <none>           <none>\n\
         alpha-2   0/1     Running   0          1s    10.244.2.2   node-2   <none>           <none>\n"
    );
    plane.run(at(1), at(9));
    let [services, endpoints, _] = get(&plane, 9);
    assert_eq!(
        services,
        "NAME      TYPE           CLUSTER-IP   EXTERNAL-IP   PORT(S)          AGE\n\
         example   LoadBalancer   10.96.7.7    203.0.113.1   8081:32255/TCP   9s\n"
    );
    assert_eq!(
        endpoints,
        "NAME      ENDPOINTS                         AGE\nexample   10.244.1.2:8080,10.244.2.2:8080   9s\n"
    );
    plane.api.delete::<Pod>(at(10), "default/alpha-1", None).expect("it is there");
    plane.run(at(10), at(11));
    let [_, endpoints, pods] = get(&plane, 11);
    assert!(endpoints.contains("example   10.244.2.2:8080   11s"), "{endpoints}");
    assert!(!pods.contains("alpha-1"), "{pods}");
    plane.api.delete::<Service>(at(12), "default/example", None).expect("it is there");
    plane.run(at(12), at(300));
    assert_eq!(get(&plane, 300)[0], "No resources found in default namespace.\n");
    let nodes = kubectl::get::<Node>(&plane.api, None, false, at(300));
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
}

#[test]
fn a_seed_is_a_history() {
    let history = |seed: u64| {
        let mut plane = Plane::new(seed);
        plane.run(at(0), at(30));
        plane.api.watch(0).iter().map(|event| format!("{event:?}")).collect::<Vec<_>>()
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1), history(2));
}
