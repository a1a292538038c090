//! The manifest is applied, and all that a Service is comes to be.

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::Family;

use super::{EXAMPLE, alphas, cluster_ip, endpoint_addresses, external_ip, ports, told_log};
use crate::demo::Error;
use crate::demo::stage::Stage;

pub(super) fn tell(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "Pods are cattle: they come and go, and their addresses with them. A Service is what stays. Its selector says \
         which Pods it is for, and a Service of type LoadBalancer has one of type NodePort inside, which has one of type \
         ClusterIP inside.",
    )?;
    let begun = stage.it.log().len();
    stage.apply("example.yaml", include_str!("../../../examples/demo/example.yaml"))?;
    stage.kubectl_get::<Service>("service example", false, |service| service.key() == EXAMPLE)?;
    let applied = stage.it.now();
    let v4 = cluster_ip(&stage.it, EXAMPLE, Family::V4);
    let v6 = cluster_ip(&stage.it, EXAMPLE, Family::V6);
    let (_, node_port) = ports(&stage.it, EXAMPLE);
    stage.check(
        v4.is_some() && v6.is_some() && (30_000..=32_767).contains(&node_port),
        "a ClusterIP of each family and a NodePort are there at once: the API server itself gives them",
    )?;
    stage.check(
        external_ip(&stage.it, EXAMPLE, Family::V4).is_none() && endpoint_addresses(&stage.it, EXAMPLE).is_empty(),
        "no address outside yet, and no endpoints: those are others' work",
    )?;
    stage.say(
        "Kubelets start the Pods and probe them; a Pod whose probe succeeds is ready, and its address becomes an endpoint. \
         Meanwhile the cloud controller makes a load balancer. Who did what, and when:",
    )?;
    let complete = stage
        .wait_for(|it| external_ip(it, EXAMPLE, Family::V4).is_some() && endpoint_addresses(it, EXAMPLE).len() == 3);
    let ended = stage.it.now();
    stage.settle();
    let told =
        told_log(stage, begun, &["Pod default/alpha", "EndpointSlice default/example", "Service default/example"]);
    stage.page.gap()?;
    stage.show(&told)?;
    let of_example = |name: Option<&str>| name == Some("example");
    stage.kubectl_get::<Pod>("pods -l app=alpha", false, |pod| pod.label("app") == Some("alpha"))?;
    stage.kubectl_get::<Endpoints>("endpoints example", false, |endpoints| endpoints.key() == EXAMPLE)?;
    stage.kubectl_get::<EndpointSlice>("endpointslices -l kubernetes.io/service-name=example", false, |slice| {
        of_example(slice.label("kubernetes.io/service-name"))
    })?;
    stage.kubectl_get::<Service>("service example", false, |service| service.key() == EXAMPLE)?;
    let ready = alphas(&stage.it);
    let of_pods = ready.values().flat_map(|(_, own)| own.iter().copied().filter(|own| own.is_v4())).collect();
    stage.check(
        complete && endpoint_addresses(&stage.it, EXAMPLE) == of_pods,
        "the endpoints are the addresses of the ready Pods with the label app=alpha, and no others",
    )?;
    stage.check(
        external_ip(&stage.it, EXAMPLE, Family::V4).is_some()
            && external_ip(&stage.it, EXAMPLE, Family::V6).is_some()
            && ended > applied,
        &format!(
            "an address outside of each family came later, {:?} after the Service",
            ended.saturating_since(applied)
        ),
    )
}
