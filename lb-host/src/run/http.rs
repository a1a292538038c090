//! The ports that a data plane answers on itself: metrics and health, and the health checks of load balancers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use lb_core::Family;
use tracing::{error, info};

use super::serve::{Answered, Served};
use super::status::Status;
use crate::clock::Clock;
use crate::metrics::{self, Counts, Metrics};

/// What the answers are made of.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) clock: Clock,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) counts: Arc<dyn Fn() -> Option<Counts> + Send + Sync>,
}

/// Answers `/metrics`, `/healthz`, `/livez` and `/proxyMode`. Returns the address it listens on, and what ends it.
///
/// # Errors
/// The address can't be listened on.
pub(super) fn serve(address: SocketAddr, answers: Answers) -> anyhow::Result<(SocketAddr, Served)> {
    let listener = listen(address)?;
    let bound = listener.local_addr()?;
    Ok((bound, Served::new(listener, "metrics".to_owned(), move |path, _| answers.answer(path))?))
}

impl Answers {
    fn answer(&self, path: &str) -> Answered {
        let now = self.clock.now();
        match path.split('?').next().unwrap_or_default() {
            "/metrics" => match self.metrics.text((self.counts)()) {
                Ok(text) => (200, vec![("Content-Type", metrics::CONTENT_TYPE.to_owned())], text),
                Err(error) => (500, Vec::new(), error.to_string()),
            },
            "/healthz" => {
                let health = self.status.healthz(now);
                self.metrics.healthz(health.status);
                (health.status, json(), health.body)
            }
            "/livez" => {
                let health = self.status.livez(now);
                self.metrics.livez(health.status);
                (health.status, json(), health.body)
            }
            // As kube-proxy has it beside its metrics.
            "/proxyMode" => match self.status.mode() {
                Some(mode) => (200, Vec::new(), mode.to_owned()),
                None => (503, Vec::new(), "there is no node yet, or rules without one\n".to_owned()),
            },
            _ => (404, Vec::new(), "there are /metrics, /healthz, /livez and /proxyMode\n".to_owned()),
        }
    }
}

fn json() -> Vec<(&'static str, String)> {
    vec![("Content-Type", "application/json".to_owned()), ("X-Content-Type-Options", "nosniff".to_owned())]
}

/// The servers on Services' health check ports (SEMANTICS §10.1).
#[derive(Default)]
pub(super) struct HealthPorts {
    open: BTreeMap<u16, Served>,
}

impl HealthPorts {
    /// Answers on these ports and no others. One that can't be had is told, and tried again at the next change (§10.4).
    pub(super) fn update(&mut self, ports: &[u16], answers: &Answers) {
        self.open.retain(|port, _| ports.contains(port));
        for port in ports {
            if self.open.contains_key(port) {
                continue;
            }
            match Self::open(*port, answers.clone()) {
                Ok(served) => {
                    info!(port, "answering health checks");
                    self.open.insert(*port, served);
                }
                Err(error) => error!(port, "cannot answer health checks: {error:#}"),
            }
        }
    }

    fn open(port: u16, answers: Answers) -> anyhow::Result<Served> {
        // One socket for both families, where the system has both.
        let everywhere: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        let [both, v4] = everywhere.map(|address| SocketAddr::new(address, port));
        let listener = listen(both).or_else(|_| listen(v4))?;
        let served = Served::new(listener, format!("health-{port}"), move |_, peer| {
            let family = if peer.ip().to_canonical().is_ipv4() { Family::V4 } else { Family::V6 };
            match answers.status.checked(port, family, answers.clock.now()) {
                Some(answer) => (answer.status, answer.headers().to_vec(), answer.body),
                None => (503, Vec::new(), String::new()),
            }
        });
        Ok(served?)
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))
}
