//! The data plane that a case's steps go through: made anew, or brought from state to state by deltas, with
//! the flows that it had before.

use lb_core::flow::State;
use lb_core::rules::ApplyError;
use lb_core::{
    Balancer, Block, Config, Direction, Flow, Instant, Link, Meta, Packet, Protocol, RestoreError, RuleTable, Sizes,
    Tuple, Verdict, blocks,
};

use super::format::{ConntrackCheck, Step};
use crate::dialled;
use crate::k8s::Problem;
use crate::path::socket;
use crate::rules::{Following, empty, grown};

/// Rules that can be updated, and the control plane behind them.
pub(super) struct DataPlane {
    pub(super) objects: Following,
    pub(super) rules: RuleTable<Vec<u8>>,
}

/// What became of a flow that there was before.
#[derive(Clone, Debug)]
pub(super) struct Survivor {
    pub(super) kept: bool,
    /// In words.
    pub(super) story: String,
}

impl DataPlane {
    /// A data plane in the state of `step`, reached from `before` if there is one, else from nothing; and what
    /// became of the flows it had.
    ///
    /// # Errors
    /// The state cannot be compiled, or the flows not be had.
    pub(super) fn enter(before: Option<Self>, step: &Step, case: &Problem) -> Result<(Self, Vec<Survivor>), Problem> {
        let trouble = |error: &dyn std::fmt::Display| Problem { message: error.to_string(), ..case.clone() };
        let fresh = || Ok(Self { objects: Following::new(step.node.clone()), rules: empty()? });
        let mut plane = before.map_or_else(fresh, Ok).map_err(|error: ApplyError| trouble(&error))?;
        let _ = plane.objects.put(&step.services, &step.slices, step.node.clone());
        let image = plane.objects.control.image().map_err(|error| trouble(&error))?;
        let mut delta = Vec::new();
        plane.objects.control.delta(&mut delta).map_err(|error| trouble(&error))?;

        let flows = u32::try_from(step.conntrack.len()).unwrap_or(u32::MAX).saturating_mul(2).max(1);
        let sizes = Sizes { v4_flows: flows, v6_flows: flows, services: 1, affinity: 0, backends: 0, fragments: 0 };
        let mut memory = vec![Block::ZERO; blocks(sizes)];
        let mut balancer =
            Balancer::new(Config::new([0; 16], 0), sizes, &mut memory, plane.rules).map_err(|error| trouble(&error))?;
        for check in &step.conntrack {
            restore(&mut balancer, check).map_err(|error| {
                let advice = "give each flow once";
                Problem::new(check.place.clone(), format!("this flow cannot be: {error}"), advice)
            })?;
        }
        if !delta.is_empty() {
            match balancer.apply_rules(&delta) {
                Err(ApplyError::NoSpace { .. }) => {
                    let grown = grown(&image).map_err(|error| trouble(&error))?;
                    drop(balancer.swap_rules(grown));
                }
                applied => applied.map_err(|error| trouble(&error))?,
            }
        }
        let survivors = step.conntrack.iter().map(|check| survivor(&mut balancer, check)).collect();
        plane.rules = balancer.swap_rules(empty().map_err(|error| trouble(&error))?);
        Ok((plane, survivors))
    }
}

/// The flow as the balancer knew it: seen both ways, not masqueraded.
fn flow(check: &ConntrackCheck, client_port: u16) -> Flow {
    let original = check.flow;
    let (source, source_port) = check.to;
    let (destination, destination_port) = (original.source, client_port);
    Flow {
        original,
        reply: Tuple { source, source_port, destination, destination_port, ..original },
        state: match original.protocol {
            Protocol::TCP => State::Established,
            Protocol::UDP => State::Stream,
            _ => State::SctpEstablished,
        },
        deadline: Instant::from_secs(120),
        masqueraded: false,
        direct: false,
        packets: [1, 1],
        slot: u32::MAX,
    }
}

type Tracking<'m> = Balancer<'m, Vec<u8>>;

fn restore(balancer: &mut Tracking<'_>, check: &ConntrackCheck) -> Result<(), RestoreError> {
    // Two flows of one client port may lead to one backend, where the second got another port.
    let other_ports =
        (1024..=u16::MAX).take_while(|_| check.to != (check.flow.destination, check.flow.destination_port));
    let mut tried = Err(RestoreError::Taken);
    for port in std::iter::once(check.flow.source_port).chain(other_ports) {
        tried = balancer.restore(&flow(check, port)).map(drop);
        if tried != Err(RestoreError::Taken) {
            break;
        }
    }
    tried
}

/// Sends the backend's next packet and the client's, and sees whether they still meet (SEMANTICS §11.5).
fn survivor(balancer: &mut Tracking<'_>, check: &ConntrackCheck) -> Survivor {
    let known = balancer.flows().find(|flow| flow.original == check.flow);
    let Some(known) = known else { return Survivor { kept: false, story: "cleared".to_owned() } };
    let released = |balancer: &Tracking<'_>| balancer.counters().flows_reselected + balancer.counters().flows_cut;
    let before = released(balancer);
    let mut send = |tuple: &Tuple| {
        let mut bytes = dialled::packet(tuple);
        let meta = Meta { link: Link::Ip, ..Meta::default() };
        balancer.process(Instant::ORIGIN, &mut Packet::new(&mut bytes, meta))
    };
    let answered = matches!(send(&known.reply), Verdict::Forward { direction: Direction::Reply, .. });
    let verdict = send(&known.original);
    let moved = released(balancer) != before;
    let now = match verdict {
        Verdict::Forward { flow, .. } => balancer
            .flow(flow)
            .map(|flow| format!("its next packet goes to {}", socket(flow.reply.source, flow.reply.source_port))),
        _ => None,
    };
    let now = now.unwrap_or_else(|| format!("its next packet meets {}", Verdict::label(verdict.code()).unwrap_or("?")));
    let replies = if answered { "replies are translated" } else { "replies are dropped" };
    let kept = answered && !moved && matches!(verdict, Verdict::Forward { .. });
    Survivor { kept, story: format!("{}: {now}, {replies}", if kept { "kept" } else { "cleared" }) }
}
