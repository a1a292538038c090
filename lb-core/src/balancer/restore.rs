//! Flows as they are seen from outside: told, put back from another balancer or from before a restart, ended.

use super::{Balancer, RestoreError, flags, load_key};
use crate::flow::{Flow, FlowId, Ticks};
use crate::tuple::Tuple;
use crate::tuple::packed::Packed;

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// A flow by its name; `None` once it has ended.
    pub fn flow(&self, id: FlowId) -> Option<Flow> {
        self.flows.flow(self.now, id)
    }

    /// Every flow, those past their deadline but not yet forgotten included.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.flows.ids().filter_map(|id| self.flow(id))
    }

    /// Every flow whose name is this one or a later one, by rising names.
    #[cfg(feature = "ffi")]
    pub(crate) fn flows_from(&self, first: FlowId) -> impl Iterator<Item = (FlowId, Flow)> {
        self.flows.ids().skip_while(move |id| *id < first).filter_map(|id| Some((id, self.flow(id)?)))
    }

    /// Puts a flow in that another balancer, or this one before a restart, had; its next packet is
    /// compared with the rules. Its deadline must lie within four years of the times that other calls bring
    /// ([`expire`](Self::expire) says why).
    ///
    /// # Errors
    /// [`RestoreError`]; nothing has changed then.
    pub fn restore(&mut self, flow: &Flow) -> Result<FlowId, RestoreError> {
        let (original, reply) = (&flow.original, &flow.reply);
        let alike = |tuple: &Tuple| (tuple.source.family(), tuple.destination.family(), tuple.protocol, tuple.zone);
        if alike(original) != alike(reply)
            || original.source.family() != original.destination.family()
            || original == reply
        {
            return Err(RestoreError::Mixed);
        }
        // The original's destination may be no Service's any more, and its client is what decides.
        if [self.steer.client(original.source), self.steer.tuple(&self.rules, reply)] != [self.core; 2] {
            return Err(RestoreError::Elsewhere);
        }
        let tuples = [original, reply].map(Packed::from);
        let spots = tuples.map(|tuple| self.flows.spot(&tuple));
        if tuples.iter().zip(spots).any(|(tuple, spot)| self.find_live(spot, tuple).is_some()) {
            return Err(RestoreError::Taken);
        }
        let flags = flags(flow.masqueraded, flow.direct);
        let inserted = self.insert(tuples.each_ref(), spots, u32::MAX, flow.state, flags);
        let id = inserted.map_err(|_| RestoreError::Full)?;
        self.flows.touch(id, flow.state, Ticks::at(flow.deadline));
        if let Some(entry) = self.flows.entry_mut(id) {
            entry.packets = flow.packets;
            entry.checked = self.rules.generation().wrapping_sub(1);
        }
        let service = self.rules.owner_of_flow(original).map(|(_, segment)| segment);
        if let Some(segment) = service.filter(|segment| segment.scheduler().counts()) {
            self.flows.count(id, load_key(&self.key, segment.id(), reply.source, reply.source_port));
        }
        Ok(id)
    }

    /// Ends a flow and says what it was, as an operator does who deletes it from Linux' table with `conntrack -D`; `None` if
    /// it has ended already. The client's next packet chooses anew.
    pub fn forget(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.flow(id)?;
        self.flows.remove(id);
        Some(flow)
    }
}
