//! `lb dns`: what a cluster's DNS answers, or a server that does.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::{Args, ValueEnum};
use lb_core::Prefix;

use super::args::{self, Form, ObjectArgs, RangeArgs};
use super::{Outcome, dig, warn};
use crate::dns::client::{Config, Lookup};
use crate::dns::live::{Remote, Sockets};
use crate::dns::server::{Server, Transport};
use crate::dns::{Name, PodNames, RecordType, ResponseCode, Settings, Upstream, Zone};

/// Print what cluster DNS answers, as dig does; or serve it
///
/// A name without a dot at its end is looked up as a Pod in the namespace of -n would: with the search list
/// `NS.svc.ZONE svc.ZONE ZONE` and ndots 5, so `web`, `web.shop` and `web.shop.svc` find `web.shop.svc.cluster.local`.
/// A name with a dot at its end is taken as it is. The last answer is printed, with the name that it is for; that
/// there is no such name is an answer like any other (exit code 0). Names outside of the zone are refused unless
/// there is an --upstream.
///
/// With --serve the answers are given to anyone who asks at that address, over UDP and TCP, until SIGINT or SIGTERM.
#[derive(Debug, Args)]
pub(super) struct Dns {
    /// What to look up
    #[arg(required_unless_present_any = ["reverse", "serve"])]
    name: Option<String>,
    /// Of which type: A, AAAA, SRV, PTR, TXT, CNAME, ANY, ... [default: A]
    #[arg(value_name = "TYPE", value_parser = dig::record_type)]
    kind: Option<RecordType>,
    /// Kubernetes objects: YAML or JSON, as `kubectl get -o yaml` prints them; `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    filenames: Vec<PathBuf>,
    /// The namespace of the Pod that asks
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Look up the names of an address
    #[arg(short = 'x', long, value_name = "ADDRESS", conflicts_with = "name")]
    reverse: Option<IpAddr>,
    /// Serve at this address; port 0 takes a free one, which is printed
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["name", "reverse", "short", "output"])]
    serve: Option<SocketAddr>,
    /// Ask this server for names outside of the zone
    #[arg(long, value_name = "IP:PORT")]
    upstream: Option<SocketAddr>,
    /// Start each list of addresses with another, as most clusters do [default: sorted]
    #[arg(long, requires = "serve")]
    rotate: bool,
    /// The zone's name
    #[arg(long, default_value = "cluster.local", value_parser = zone)]
    zone: Name,
    /// How long answers hold, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    ttl: u32,
    /// Names of Pods, such as 10-244-1-10.default.pod.cluster.local
    #[arg(long, value_enum, default_value_t)]
    pods: Pods,
    /// Blocks of addresses whose reverse names are answered here, known or not [default: all]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = args::prefix)]
    reverse_zones: Vec<Prefix>,
    /// Print the data of the answers alone
    #[arg(long, conflicts_with = "output")]
    short: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    ranges: RangeArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Pods {
    /// None
    #[default]
    Disabled,
    /// One for every address, in namespaces that exist
    Insecure,
    /// Those of Pods that exist
    Verified,
}

impl Dns {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let objects = ObjectArgs { filenames: self.filenames.clone(), namespace: None, all_namespaces: true };
        let cluster = objects.cluster(&self.ranges)?;
        let server = Server::new(Zone::of(&cluster.manifests, self.settings()));
        let upstream = self.upstream.map(|address| Remote { address });
        match self.serve {
            Some(address) => serve(if self.rotate { server.turning() } else { server }, address, upstream),
            None => self.print(out, &server, upstream),
        }
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings { origin: self.zone.clone(), ttl: self.ttl, ..Settings::default() };
        settings.pods = match self.pods {
            Pods::Disabled => PodNames::Disabled,
            Pods::Insecure => PodNames::Insecure,
            Pods::Verified => PodNames::Verified,
        };
        if !self.reverse_zones.is_empty() {
            settings.reverse.clone_from(&self.reverse_zones);
        }
        settings
    }

    fn print(&self, out: &mut dyn Write, server: &Server, upstream: Option<Remote>) -> anyhow::Result<Outcome> {
        let (name, kind) = match (&self.reverse, &self.name) {
            (Some(address), _) => (dig::reverse_name(*address), RecordType::PTR),
            (None, name) => (name.clone().unwrap_or_default(), RecordType::A),
        };
        let kind = self.kind.unwrap_or(kind);
        // Nobody is dialled: there is one server, and it is this process.
        let here = vec![SocketAddr::from(([127, 0, 0, 1], 53))];
        let pod = Config::pod(&self.namespace, server.zone.origin(), here);
        let pod = pod.with_context(|| format!("namespace {:?} is no part of a name", self.namespace))?;
        let once = Config { attempts: 1, timeout: Duration::ZERO, ..pod };
        let lookup = Lookup::new(&once, &name, &[kind], 0);
        let mut lookup = lookup.map_err(|error| {
            anyhow!("{name:?} is no name: {error}; give one like web.shop or web.shop.svc.cluster.local.")
        })?;
        while let Some(query) = lookup.next() {
            let upstream = upstream.as_ref().map(|upstream| upstream as &dyn Upstream);
            let answer = server.answer(&query.query, Transport::Tcp, upstream);
            if !answer.is_some_and(|answer| lookup.response(&answer)) {
                lookup.timed_out();
            }
        }
        let message = lookup.answer().context("no answer")?;
        if message.metadata.response_code == ResponseCode::Refused && upstream.is_none() {
            warn(&format!("outside of {}; --upstream IP:PORT asks a server that knows more", server.zone.origin()));
        }
        match self.output {
            Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&dig::json(message))?)?,
            Form::Table if self.short => dig::write_short(out, message)?,
            Form::Table => dig::write(out, message)?,
        }
        Ok(Outcome::Fine)
    }
}

fn serve(server: Server, address: SocketAddr, upstream: Option<Remote>) -> anyhow::Result<Outcome> {
    let sockets = Sockets::open(address).with_context(|| {
        format!("cannot serve at {address}; take an address of this machine and a free port, such as 127.0.0.1:5353")
    })?;
    let address = sockets.address();
    if let Some(Remote { address: upstream }) = upstream {
        let here = upstream.ip() == address.ip() || address.ip().is_unspecified() && upstream.ip().is_loopback();
        ensure!(
            upstream.port() != address.port() || !here,
            "--upstream {upstream} is this server itself; name another"
        );
    }
    let (told, endings) = mpsc::channel();
    let stop = told.clone();
    // The first signal ends it; more come to nothing.
    ctrlc::set_handler(move || drop(stop.send(None))).context("cannot wait for SIGINT and SIGTERM")?;
    let started = sockets.serve(server, upstream, move |error| drop(told.send(Some(error))));
    started.context("cannot start serving")?;
    writeln!(std::io::stderr(), "serving DNS at {address}, UDP and TCP")?;
    match endings.recv().ok().flatten() {
        None => Ok(Outcome::Fine),
        Some(error) => Err(error).with_context(|| format!("cannot serve at {address} any more")),
    }
}

fn zone(text: &str) -> Result<Name, String> {
    let name = Name::from_ascii(text).ok().filter(|name| name.num_labels() > 0);
    name.ok_or_else(|| "not a name like cluster.local".to_owned())
}
