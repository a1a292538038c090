//! Which kinds of object service routing reads, which it passes over, and which are mistakes.

/// What becomes of an object of some apiVersion and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is read.
    Read,
    /// Its `items` are looked at, which are of this kind if they do not say another.
    List(Option<String>),
    /// Kubernetes knows it, service routing has no use for it.
    PassedOver,
    /// Nobody knows it: what to do about it.
    Unknown(String),
}

/// Read: group and kind, of version v1.
const READ: [(&str, &str); 7] = [
    ("", "Service"),
    ("", "Endpoints"),
    ("", "Pod"),
    ("", "Node"),
    ("", "Namespace"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("networking.k8s.io", "ServiceCIDR"),
];

/// Passed over: the groups that come with Kubernetes and what a dump of a cluster finds in them.
/// Kinds of groups under `k8s.io` that are not here, and of groups of other domains, are as well.
const PASSED_OVER: [(&str, &[&str]); 6] = [
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Event",
            "LimitRange",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "ServiceAccount",
        ],
    ),
    ("apps", &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("batch", &["CronJob", "Job"]),
    ("autoscaling", &["HorizontalPodAutoscaler", "Scale"]),
    ("policy", &["Eviction", "PodDisruptionBudget", "PodSecurityPolicy"]),
    ("extensions", &["DaemonSet", "Deployment", "Ingress", "NetworkPolicy", "ReplicaSet"]),
];

/// What becomes of an object of this apiVersion (`v1`, `apps/v1`) and kind.
pub(super) fn verdict(api_version: &str, kind: &str) -> Verdict {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if (group, kind) == ("", "List") {
        return Verdict::List(None);
    }
    let read = |kind: &str| READ.contains(&(group, kind));
    if read(kind) {
        return match version {
            "v1" => Verdict::Read,
            _ => Verdict::Unknown(format!("convert it to version v1 of its group, not {version}")),
        };
    }
    if let Some(item) = kind.strip_suffix("List")
        && (read(item) || passed_over(group, item))
    {
        return Verdict::List(Some(item.to_owned()));
    }
    // Somebody else's Service (say, serving.knative.dev's) is none of ours.
    if passed_over(group, kind) { Verdict::PassedOver } else { Verdict::Unknown(advice(group, kind)) }
}

fn passed_over(group: &str, kind: &str) -> bool {
    match PASSED_OVER.iter().find(|(known, _)| *known == group) {
        Some((_, kinds)) => kinds.contains(&kind),
        // A group that kinds are read of has many more; a slip of the pen is close to one that is read.
        None => group.contains('.') && near(group, kind).is_none(),
    }
}

fn advice(group: &str, kind: &str) -> String {
    let home = READ.iter().find(|(_, known)| *known == kind).map(|(group, kind)| match *group {
        "" => format!("{kind} is of apiVersion v1"),
        group => format!("{kind} is of apiVersion {group}/v1"),
    });
    let near = near(group, kind).map(|kind| format!("did you mean {kind}?"));
    let kinds: Vec<_> = READ.iter().map(|(_, kind)| *kind).collect();
    home.or(near).unwrap_or_else(|| format!("kinds read: {}", kinds.join(", ")))
}

/// The kind of this group that `kind` may be a misspelling of.
fn near(group: &str, kind: &str) -> Option<&'static str> {
    let read = READ.iter().filter(|(known, _)| *known == group).map(|(_, kind)| *kind);
    let passed = PASSED_OVER.iter().filter(|(known, _)| *known == group).flat_map(|(_, kinds)| kinds.iter().copied());
    let scored = read.chain(passed).map(|known| (strsim::damerau_levenshtein(known, kind), known));
    // One slip in three letters is still a likeness: Servcie, but not Foo for Pod.
    scored.min().filter(|(distance, known)| distance * 3 <= known.len()).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_passed_over_or_a_mistake() {
        let unknown = |advice: &str| Verdict::Unknown(advice.to_owned());
        for (version, kind, expected) in [
            ("v1", "Service", Verdict::Read),
            ("discovery.k8s.io/v1", "EndpointSlice", Verdict::Read),
            ("v1", "List", Verdict::List(None)),
            ("v1", "ServiceList", Verdict::List(Some("Service".into()))),
            ("v1", "ConfigMapList", Verdict::List(Some("ConfigMap".into()))),
            ("v1", "ConfigMap", Verdict::PassedOver),
            ("apps/v1", "Deployment", Verdict::PassedOver),
            ("networking.k8s.io/v1", "Ingress", Verdict::PassedOver),
            ("serving.knative.dev/v1", "Service", Verdict::PassedOver),
            ("v1", "Servcie", unknown("did you mean Service?")),
            ("apps/v1", "Deploymnet", unknown("did you mean Deployment?")),
            ("discovery.k8s.io/v1", "EndpointSlcie", unknown("did you mean EndpointSlice?")),
            ("v1", "EndpointSlice", unknown("EndpointSlice is of apiVersion discovery.k8s.io/v1")),
            (
                "discovery.k8s.io/v1beta1",
                "EndpointSlice",
                unknown("convert it to version v1 of its group, not v1beta1"),
            ),
            ("v1", "Foo", unknown("kinds read: Service, Endpoints, Pod, Node, Namespace, EndpointSlice, ServiceCIDR")),
        ] {
            assert_eq!(verdict(version, kind), expected, "{version} {kind}");
        }
    }
}
