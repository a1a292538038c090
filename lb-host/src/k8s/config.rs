//! KubeProxyConfiguration: what of it tells which way packets go.

use std::path::Path;

use serde::Deserialize;

use super::address::lenient_prefix;
use super::manifest::text;
use super::place::{Problem, Problems};
use super::settings::{self, DetectLocal, Settings};
use super::tree::Document;

/// Fields that kube-proxy has and that say nothing about which way a packet goes.
const OTHER: &[&str] = &[
    "apiVersion",
    "kind",
    "featureGates",
    "clientConnection",
    "logging",
    "hostnameOverride",
    "bindAddress",
    "healthzBindAddress",
    "metricsBindAddress",
    "bindAddressHardFail",
    "enableProfiling",
    "showHiddenMetricsForVersion",
    "iptables.masqueradeBit",
    "iptables.syncPeriod",
    "iptables.minSyncPeriod",
    "ipvs.syncPeriod",
    "ipvs.minSyncPeriod",
    "ipvs.excludeCIDRs",
    "ipvs.strictARP",
    "ipvs.tcpTimeout",
    "ipvs.tcpFinTimeout",
    "ipvs.udpTimeout",
    "nftables.masqueradeBit",
    "nftables.syncPeriod",
    "nftables.minSyncPeriod",
    "winkernel",
    "oomScoreAdj",
    "conntrack",
    "configSyncPeriod",
    "portRange",
    "windowsRunAsService",
    "linux",
    "windows",
    "syncPeriod",
    "minSyncPeriod",
    "udpIdleTimeout",
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    mode: String,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    detect_local_mode: String,
    detect_local: Option<Interfaces>,
    node_port_addresses: Option<Vec<String>>,
    iptables: Option<Iptables>,
    nftables: Option<Nftables>,
    ipvs: Option<Ipvs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Interfaces {
    bridge_interface: String,
    interface_name_prefix: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Iptables {
    masquerade_all: bool,
    localhost_node_ports: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Nftables {
    masquerade_all: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ipvs {
    scheduler: String,
}

/// What a KubeProxyConfiguration sets.
#[derive(Clone, Debug)]
pub struct Config {
    /// The settings.
    pub settings: Settings,
    /// Fields that kube-proxy does not know.
    pub unknown: Vec<Problem>,
}

/// Reads a KubeProxyConfiguration, `kubeproxy.config.k8s.io/v1alpha1`.
///
/// # Errors
/// It cannot be read, is none, or has a value that kube-proxy would refuse.
pub fn read(path: &Path) -> Result<Config, Problems> {
    let file = path.to_string_lossy();
    parse(&file, &text(path)?)
}

/// Reads a KubeProxyConfiguration from its text, which places call `file`.
///
/// # Errors
/// As [`read`].
pub fn parse(file: &str, text: &str) -> Result<Config, Problems> {
    let documents = Document::parse(file, text)?;
    let known = documents.iter().find(|document| document.text("kind") == Some("KubeProxyConfiguration"));
    let Some(document) = known else {
        let place = super::Place { file: file.into(), line: 0, column: 0 };
        let advice = "give a file with kind: KubeProxyConfiguration";
        return Err(Problem::new(place, "no KubeProxyConfiguration", advice).into());
    };
    let reading = document.read::<Configuration>()?;
    let other = |field: &str| OTHER.contains(&field);
    let unknown = reading.unknown.into_iter().filter(|unknown| !other(&unknown.field)).map(Into::into).collect();
    Ok(Config { settings: settings(document, &reading.value)?, unknown })
}

fn settings(document: &Document, config: &Configuration) -> Result<Settings, Problem> {
    let wrong = |field: &str, value: &str, advice: String| {
        Problem::new(document.place(field), format!("{field} is {value:?}, which is not known"), advice)
    };
    let mut settings = Settings::default();
    if !config.mode.is_empty() {
        let names = || lb_core::control::Mode::ALL.iter().map(|mode| mode.name).collect::<Vec<_>>().join(", ");
        settings.mode = settings::mode(&config.mode)
            .ok_or_else(|| wrong("mode", &config.mode, format!("give one of {}", names())))?;
    }
    for block in config.cluster_cidr.split(',').filter(|block| !block.is_empty()) {
        let advice = || "give a block like 10.244.0.0/16, or one of each family with a comma between".to_owned();
        settings.cluster_cidrs.push(lenient_prefix(block).ok_or_else(|| wrong("clusterCIDR", block, advice()))?);
    }
    settings.detect_local = match config.detect_local_mode.as_str() {
        "" | "ClusterCIDR" => DetectLocal::ClusterCidr,
        "NodeCIDR" => DetectLocal::NodeCidr,
        mode @ ("BridgeInterface" | "InterfaceNamePrefix") => {
            let named = config.detect_local.as_ref().map_or("", |interfaces| match mode {
                "BridgeInterface" => &interfaces.bridge_interface,
                _ => &interfaces.interface_name_prefix,
            });
            if named.is_empty() {
                let message = format!("detectLocalMode is {mode}, but detectLocal names no interface");
                let advice = "set detectLocal.bridgeInterface or detectLocal.interfaceNamePrefix";
                return Err(Problem::new(document.place("detectLocalMode"), message, advice));
            }
            DetectLocal::Interface
        }
        other => {
            let advice = "give ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix".to_owned();
            return Err(wrong("detectLocalMode", other, advice));
        }
    };
    for (index, entry) in config.node_port_addresses.iter().flatten().enumerate() {
        let field = format!("nodePortAddresses[{index}]");
        let parsed = entry.parse().map_err(|_| {
            wrong(&field, entry, "give a block like 192.0.2.0/24, or all, primary or localhost".to_owned())
        });
        settings.node_port_addresses.push(parsed?);
    }
    let iptables = config.iptables.as_ref();
    settings.masquerade_all = match settings.mode.name {
        "nftables" => config.nftables.as_ref().is_some_and(|nftables| nftables.masquerade_all),
        _ => iptables.is_some_and(|iptables| iptables.masquerade_all),
    };
    settings.localhost_node_ports = iptables.and_then(|iptables| iptables.localhost_node_ports).unwrap_or(true);
    let scheduler = config.ipvs.as_ref().map_or("", |ipvs| &ipvs.scheduler);
    if settings.mode.name == "ipvs" && !scheduler.is_empty() {
        let place = || document.place("ipvs.scheduler");
        let known = settings::scheduler(scheduler);
        settings.scheduler = Some(known.map_err(|(why, advice)| Problem::new(place(), why, advice))?);
    }
    Ok(settings)
}
