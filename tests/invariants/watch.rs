//! A balancer that is watched: everything that goes through it is checked.

use lb_core::rules::ApplyError;
use lb_core::wire::{self, Content};
use lb_core::{
    Address, Balancer, Block, Config, Datagram, Direction, DropReason, Flow, FlowId, Instant, Meta, Packet,
    RestoreError, RuleTable, Sizes, Tuple, Verdict,
};

use super::packet::{self, Passage};
use super::{rules, table};

/// What became of a packet: the verdict, its bytes, and the datagram whose fragments it releases.
pub type Judged = (Verdict, Vec<u8>, Option<Datagram>);

/// A balancer and its twin, which is given the same and must say the same.
pub struct Watch<'m, M> {
    balancer: Balancer<'m, M>,
    twin: Balancer<'m, M>,
    sizes: Sizes,
    now: Instant,
    forgotten: u64,
    /// The flow that a packet had last.
    last: Option<FlowId>,
}

impl<'m, M: AsRef<[u8]> + Clone> Watch<'m, M> {
    pub fn new(config: &Config, sizes: Sizes, [one, other]: [&'m mut [Block]; 2], rules: RuleTable<M>) -> Self {
        let balancer =
            |memory, rules| Balancer::new(config.clone(), sizes, memory, rules).expect("memory as it asks for");
        let (balancer, twin) = (balancer(one, rules.clone()), balancer(other, rules));
        Self { balancer, twin, sizes, now: Instant::ORIGIN, forgotten: 0, last: None }
    }

    pub fn balancer(&self) -> &Balancer<'m, M> {
        &self.balancer
    }

    /// Judges these one by one, and in a batch.
    pub fn process(&mut self, now: Instant, frames: &[(Vec<u8>, Meta)]) -> Vec<Judged> {
        self.now = now;
        let judged: Vec<Judged> = frames.iter().map(|(data, meta)| self.process_one(data, *meta)).collect();
        let mut copies: Vec<Vec<u8>> = frames.iter().map(|(data, _)| data.clone()).collect();
        let mut batch: Vec<Packet<'_>> =
            copies.iter_mut().zip(frames).map(|(data, (_, meta))| Packet::new(data, *meta)).collect();
        self.twin.process_batch(now, &mut batch);
        for (packet, (verdict, data, releases)) in batch.iter().zip(&judged) {
            assert_eq!(
                (packet.verdict, &*packet.data, packet.releases),
                (*verdict, data.as_slice(), *releases),
                "a batch differs"
            );
        }
        judged
    }

    fn process_one(&mut self, came: &[u8], meta: Meta) -> Judged {
        let known = self.known(came, meta);
        let before = self.balancer.counters().clone();
        let mut left = came.to_vec();
        let mut handed = Packet::new(&mut left, meta);
        let verdict = self.balancer.process(self.now, &mut handed);
        assert_eq!(handed.verdict, verdict, "two verdicts");
        let releases = handed.releases;

        let passage = Passage { came, left: &left, meta, hops: 0 };
        let after = self.balancer.counters();
        let code = usize::from(verdict.code());
        let counted = (after.packets() - before.packets(), after.verdicts[code] - before.verdicts[code]);
        assert_eq!(counted, (1, 1), "a packet is counted once");
        let begun = after.flows_created != before.flows_created;
        match verdict {
            Verdict::Forward { flow: id, direction } => {
                let flow = self.balancer.flow(id).expect("a flow that a packet just had");
                packet::forwarded(&passage, &flow, direction);
                if begun {
                    rules::allowed(self.balancer.rules(), &flow, meta.origin);
                }
                // A client's ICMP error still goes to whom it is about.
                if direction == Direction::Original && !packet::is_error(&passage) {
                    rules::still_allowed(self.balancer.rules(), &flow, meta.origin);
                }
                self.last = Some(id);
            }
            _ => packet::untouched(&passage),
        }
        if let Some(flow) = known.filter(|flow| self.lives(flow)) {
            let translated = matches!(
                verdict,
                Verdict::Forward { .. } | Verdict::Drop(DropReason::StaleFlow | DropReason::UntranslatableSctp)
            );
            assert!(translated, "{verdict:?} of a packet of the flow {} / {}", flow.original, flow.reply);
        }
        if let Verdict::Reject(reason) = verdict {
            let mut answer = [0; 1320];
            let mut twin = answer;
            let packet = Packet::new(&mut left, meta);
            let written = self.balancer.write_reply(self.now, &packet, reason, &mut answer);
            assert_eq!(written, self.twin.write_reply(self.now, &packet, reason, &mut twin), "another answer");
            if let Some(length) = written {
                packet::answer(came, &answer[..length], meta.link);
                assert_eq!(answer, twin, "another answer");
            }
        }
        (verdict, left, releases)
    }

    /// The live flow that a packet is of by its own ports.
    fn known(&self, data: &[u8], meta: Meta) -> Option<Flow> {
        let headers = wire::parse(data, meta.link).ok()??;
        let has_ports = matches!(headers.content, Content::Tcp(_) | Content::Udp | Content::Sctp(_));
        let tuple = Tuple { zone: meta.zone, ..headers.tuple };
        let is_its = |flow: &Flow| (flow.original == tuple || flow.reply == tuple) && flow.deadline > self.now;
        (has_ports && headers.fragment.is_none()).then(|| self.balancer.flows().find(is_its))?
    }

    fn lives(&self, flow: &Flow) -> bool {
        self.balancer.flows().any(|other| (other.original, other.reply) == (flow.original, flow.reply))
    }

    pub fn expire(&mut self, now: Instant, budget: usize) {
        self.now = now;
        let due = self.balancer.flows().filter(|flow| flow.deadline <= now).count();
        let counted = self.balancer.counters().flows_expired;
        let forgotten = self.balancer.expire(now, budget);
        assert_eq!(self.balancer.counters().flows_expired - counted, forgotten as u64, "not counted as they are told");
        assert_eq!(forgotten, self.twin.expire(now, budget), "the twin forgets others");
        assert!(forgotten <= due.min(budget), "{forgotten} of {due} flows, looking at {budget}");
        if budget >= (self.sizes.v4_flows + self.sizes.v6_flows) as usize {
            assert_eq!(forgotten, due, "a whole sweep leaves some");
        }
    }

    /// Puts a flow in, unless it or one of its tuples is there.
    pub fn restore(&mut self, flow: &Flow) -> Result<FlowId, RestoreError> {
        let restored = self.balancer.restore(flow);
        assert_eq!(restored, self.twin.restore(flow), "the twin restores otherwise");
        restored
    }

    /// Ends the flow that a packet had last, and says what it was.
    pub fn forget(&mut self) -> Option<Flow> {
        let id = self.last.take()?;
        let flow = self.balancer.forget(id);
        assert_eq!(flow, self.twin.forget(id), "the twin forgets another");
        self.forgotten += u64::from(flow.is_some());
        flow
    }

    /// Puts other rules in the place of these.
    pub fn swap(&mut self, rules: &RuleTable<M>) {
        let _ = (self.balancer.swap_rules(rules.clone()), self.twin.swap_rules(rules.clone()));
    }

    /// 6 to 10, of all flows at once.
    pub fn check(&mut self) {
        table::check(&self.balancer, self.sizes, self.forgotten);
        let flows: Vec<Flow> = self.balancer.flows().collect();
        assert!(flows.iter().copied().eq(self.twin.flows()), "the twin has other flows");
        assert_eq!(self.balancer.counters().verdicts, self.twin.counters().verdicts, "the twin counts otherwise");
        for flow in flows.iter().filter(|flow| flow.deadline > self.now) {
            for key in [flow.original, flow.reply] {
                let probe = Flow { original: key, reply: nobodys(key), ..*flow };
                assert_eq!(self.balancer.restore(&probe), Err(RestoreError::Taken), "{key} is not found");
            }
        }
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> Watch<'_, M> {
    pub fn apply(&mut self, delta: &[u8]) -> Result<(), ApplyError> {
        let applied = self.balancer.apply_rules(delta);
        assert_eq!(applied, self.twin.apply_rules(delta), "the twin applies otherwise");
        applied
    }
}

/// A tuple of the same sort that no packet of these tests has.
fn nobodys(key: Tuple) -> Tuple {
    let address = if key.source.is_v4() { Address::v4([198, 18, 255, 254]) } else { Address::v6([0xfd; 16]) };
    Tuple { source: address, destination: address, source_port: 1, destination_port: 2, ..key }
}
