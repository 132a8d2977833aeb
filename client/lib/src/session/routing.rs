//! Which node an attempt goes to.

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::Failure;

use super::{CallId, Phase, REDIRECTS_MAX, Session};

impl Session {
    /// Where the next attempt goes: the hint, else the leader, else the replica after the last one tried.
    pub(super) fn choose(&self, now: u64, call: CallId) -> Option<NodeNumber> {
        let pending = self.calls.get(&call)?;
        if let Some(node) = pending.named.or(pending.hint) {
            return Some(node);
        }
        let partition = pending.request.partition();
        let candidates = match partition {
            Some(partition) => self
                .topology
                .replicas
                .get(usize::from(partition.0))
                .filter(|replicas| !replicas.is_empty())
                .unwrap_or(&self.topology.nodes),
            None => &self.topology.nodes,
        };
        let avoided = |node: &NodeNumber| self.avoided.get(node).is_some_and(|until| *until > now);
        let leader = partition.and_then(|partition| self.leader(partition));
        if let Some(leader) = leader.filter(|leader| !avoided(leader)) {
            return Some(leader);
        }
        let start = match pending
            .tried
            .and_then(|tried| candidates.iter().position(|node| *node == tried))
        {
            Some(position) => position + 1,
            None => 0,
        };
        let in_turn = (0..candidates.len()).map(|step| candidates[(start + step) % candidates.len()]);
        in_turn
            .clone()
            .find(|node| !avoided(node))
            .or_else(|| in_turn.clone().next())
    }

    pub(super) fn learn_redirect(
        &mut self,
        partition: Option<PartitionId>,
        node: NodeNumber,
        leader: Option<NodeNumber>,
    ) {
        let Some(partition) = partition else { return };
        match leader {
            Some(leader) if leader != node && self.topology.nodes.contains(&leader) => {
                self.leaders.insert(partition, leader);
            }
            _ => self.forget_leader(partition, node),
        }
    }

    fn forget_leader(&mut self, partition: PartitionId, node: NodeNumber) {
        if self.leaders.get(&partition) == Some(&node) {
            self.leaders.remove(&partition);
        }
    }

    pub(super) fn redirect(&mut self, now: u64, call: CallId, node: NodeNumber, leader: Option<NodeNumber>) {
        let Some(pending) = self.calls.get_mut(&call) else {
            return;
        };
        pending.last_failure = Some(Failure::Busy("the partition has no leader".into()));
        let hint = leader.filter(|leader| *leader != node && self.topology.nodes.contains(leader));
        if let Some(hint) = hint
            && pending.redirects < REDIRECTS_MAX
            && self.avoided.get(&hint).is_none_or(|until| *until <= now)
        {
            pending.redirects += 1;
            pending.hint = Some(hint);
            pending.phase = Phase::Ready;
            self.ready.push_back(call);
            self.set_timer(call, u64::MAX);
            return;
        }
        pending.redirects = 0;
        self.back_off(now, call);
    }
}
