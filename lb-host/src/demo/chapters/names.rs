//! Services that are names and nothing else.

use k8s_openapi::api::core::v1::Service;
use lb_core::Family::V4;

use super::{SHELL, is_of, ready_pods};
use crate::demo::Error;
use crate::demo::stage::Stage;
use crate::dns::RecordType;

pub(super) fn external(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "ExternalName is the odd one out: no virtual address, no proxying, a CNAME. Programs in every environment say \
         \"database\", and each namespace decides which that is.",
    )?;
    stage.apply("databases.yaml", include_str!("../../../examples/demo/databases.yaml"))?;
    stage.wait_for(|it| ["prod/app", "dev/app"].iter().all(|pod| it.pod(pod).is_ok()));
    stage.settle();
    for environment in ["prod", "dev"] {
        let key = format!("{environment}/database");
        let arguments = format!("service database -n {environment}");
        stage.kubectl_get::<Service>(&arguments, false, |service| service.key() == key)?;
        let visit = stage.visit(&format!("{environment}/app"), "http://database:5432/", V4)?;
        stage.tell_answer(&visit)?;
        stage.page.gap()?;
        stage.tell_lookups(&visit.lookups)?;
        let expected = format!("{environment}.database.example.com");
        let alias = visit.lookups.iter().flat_map(|asked| asked.found.iter().flatten());
        let alias = alias.into_iter().any(|found| found.kind == RecordType::CNAME);
        stage.check(
            visit.served_by() == expected && alias && visit.journey.translators().is_empty(),
            &format!("in {environment} it is {expected}, and no node translated anything"),
        )?;
    }
    Ok(())
}

pub(super) fn headless(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "Databases and the like want to know each other one by one. A headless Service (clusterIP: None) has no address of \
         its own: its name stands for all Pods, each Pod has a name under it, and SRV records tell ports.",
    )?;
    stage.apply("headless.yaml", include_str!("../../../examples/demo/headless.yaml"))?;
    stage.wait_for(|it| ready_pods(it, "app", "db").len() == 2);
    stage.settle();
    stage.kubectl_get::<Service>("service db", false, |service| service.name() == "db")?;
    let all = stage.dig(SHELL, "db", RecordType::A)?;
    let own = ready_pods(&stage.it, "app", "db");
    let mut expected: Vec<String> =
        own.values().flat_map(|(_, own)| own.iter().filter(|own| own.is_v4()).map(ToString::to_string)).collect();
    let mut found: Vec<String> =
        all.iter().flat_map(|asked| asked.found.iter().flatten().map(|found| found.data.clone())).collect();
    expected.sort();
    found.sort();
    let ports = stage.dig(SHELL, "_http._tcp.db", RecordType::SRV)?;
    let count = ports.iter().flat_map(|asked| asked.found.iter().flatten());
    let count = count.filter(|found| found.kind == RecordType::SRV).count();
    stage.check(found == expected && !found.is_empty(), "the name stands for both Pods' addresses")?;
    stage.check(count == 2, "SRV tells each Pod's name and port")?;
    let visit = stage.visit(SHELL, "http://db-1.db:8080/", V4)?;
    stage.tell_answer(&visit)?;
    stage.page.gap()?;
    stage.tell_lookups(&visit.lookups)?;
    stage.tell_journey(&visit.journey, SHELL, visit.served_by())?;
    stage.check(
        visit.served_by() == "db-1"
            && visit.journey.translators().is_empty()
            && is_of(&stage.it, SHELL, visit.client_seen()),
        "db-1 itself was dialled, and no header was changed on the way",
    )
}
