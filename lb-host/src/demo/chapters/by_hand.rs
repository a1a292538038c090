//! Endpoints by hand, and an endpoint that is its own client.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use lb_core::Family::V4;

use super::{SHELL, WAREHOUSE, alphas, endpoint_addresses, is_node, is_of};
use crate::demo::Error;
use crate::demo::stage::{Stage, Visit};

pub(super) fn outside(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "A Service without a selector gets no endpoints from anybody. Write an Endpoints object of the same name, and Pods \
         talk to whatever stands in it as if it were a Service like any other: here a machine outside.",
    )?;
    stage.apply("outside.yaml", include_str!("../../../examples/demo/outside.yaml"))?;
    stage.settle();
    stage.kubectl_get::<Service>("service warehouse", true, |service| service.name() == "warehouse")?;
    stage.kubectl_get::<Endpoints>("endpoints warehouse", false, |endpoints| endpoints.name() == "warehouse")?;
    let visit = stage.visit(SHELL, "http://warehouse/", V4)?;
    stage.tell(&visit)?;
    let listed = endpoint_addresses(&stage.it, "default/warehouse");
    stage.check(
        visit.served_by() == WAREHOUSE && listed.iter().all(|address| is_of(&stage.it, WAREHOUSE, Some(*address))),
        &format!("{WAREHOUSE}, outside, served a Pod that dialled a ClusterIP"),
    )
}

pub(super) fn hairpin(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "A Pod may be dealt to itself. If it then saw its own address as the client's, it would answer itself directly, \
         and the answer would come from nobody that was dialled. So the node puts its own address in between.",
    )?;
    let Some(own) = alphas(&stage.it).into_keys().next() else {
        return stage.check(false, "there is a Pod behind the Service");
    };
    let itself = |visit: &Visit| visit.served_by() == own || visit.fetched.result.is_err();
    let mut met = None;
    for _ in 0..60 {
        let visit = stage.visit(&own, "http://example:8081/", V4)?;
        if itself(&visit) {
            met = Some(visit);
            break;
        }
    }
    let Some(visit) = met else { return stage.check(false, "of sixty calls one meets its caller") };
    stage.tell(&visit)?;
    if stage.mode() == "kernelspace" {
        let claim = "kernelspace has no masquerade for it: a Pod that is dealt to itself gets no answer";
        return stage.check(visit.fetched.result.is_err(), claim);
    }
    stage.check(
        visit.served_by() == own && is_node(&stage.it, visit.client_seen()),
        &format!("{own} served itself, and took its node for the client"),
    )
}
