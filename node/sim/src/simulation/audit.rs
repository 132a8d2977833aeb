//! What is checked while a run goes on, and when it is over.
//!
//! Previous in the flow: every turn and every `Audit` event. Next: `tree` for the file tree at rest, `usage` for
//! what its directories take, `ledger` for blocks.
//!
//! Invariants checked:
//! - One leader a term.
//! - Replicas that applied the same have equal states.
//! - Counters are equal to what a full scan counts, and rows agree with each other.
//! - After the repair everybody comes to rest: scripts end, replicas are equal, no transaction is left, and no
//!   inode without a name.

use std::collections::BTreeMap;

use bark_core::block_store::BlockStore;
use bark_core::partition::Partition;
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{Query, Reply};

use super::{AUDIT_INTERVAL_US, REST_US_MAX, Simulation};
use crate::client::Phase;
use crate::doctor;
use crate::ledger;
use crate::tree;
use crate::usage;
use crate::world::Event;

/// One audit in so many looks at every row of every replica.
const SCAN_ODDS: u64 = 10;

impl Simulation {
    /// One leader a term: what Raft promises before everything else.
    pub(super) fn note_leaders(&mut self, number: u16, worker: u16) {
        let mut won = Vec::new();
        let Simulation {
            nodes,
            leaders,
            stage,
            ..
        } = self;
        let Some(cell) = nodes[usize::from(number) - 1].cell(worker) else {
            return;
        };
        for partition in cell.worker.partitions().filter(|partition| partition.is_leader()) {
            let key = (partition.id(), partition.term());
            let leader = *leaders.entry(key).or_insert_with(|| {
                won.push(key);
                number
            });
            if leader != number {
                stage.fail(format!(
                    "{} has two leaders in term {}: nodes {leader} and {number}",
                    key.0, key.1
                ));
            }
        }
        for (partition, term) in won {
            self.election_was_won(number, partition, term);
        }
    }

    /// Compares replicas; after the repair, decides whether the run is over.
    pub(super) fn audit(&mut self) -> bool {
        self.compare_states();
        if self.world.random.chance(SCAN_ODDS) {
            self.scan_states();
        }
        let now_us = self.world.now_us;
        self.world.after(AUDIT_INTERVAL_US, Event::Audit);
        let phase = self.stage.phase.get();
        if phase == Phase::Work {
            return false;
        }
        let late = now_us > self.healed_at_us + REST_US_MAX;
        if phase == Phase::Drain {
            // Requests begun before the repair end by their own deadlines; then the verification begins.
            if now_us > self.healed_at_us + 12_000_000 {
                self.stage.phase.set(Phase::Verify);
                self.pump_all();
            }
            return false;
        }
        if let Some(client) = self.clients.iter().position(|client| !client.is_done()) {
            if late {
                self.stage
                    .fail(format!("client {client} did not finish after the repair"));
            }
            return false;
        }
        let damaged = self.stage.damaged.get().map(NodeNumber);
        let clean = || ledger::check_clean(&self.states(), &self.stores(), damaged);
        let whole = || self.check_copies(damaged);
        match self.rest().and_then(|()| clean()).and_then(|()| whole()) {
            Ok(()) => {
                let states = self.states();
                if let Err(reason) = tree::check(&states).and_then(|()| usage::check(&states)) {
                    self.stage.fail(reason);
                }
                self.scan_states();
                if let Err(reason) = ledger::check(&states) {
                    self.stage.fail(reason);
                }
                if let Err(reason) = doctor::check(&states, &self.stores(), damaged) {
                    self.stage.fail(reason);
                }
                true
            }
            Err(reason) => {
                if late {
                    self.stage
                        .fail(format!("the cluster does not come to rest: {reason}"));
                }
                false
            }
        }
    }

    /// Replicas that applied the same entries have the same state.
    fn compare_states(&mut self) {
        let Simulation {
            nodes, hashes, stage, ..
        } = self;
        for node in nodes.iter() {
            let Some(running) = &node.running else { continue };
            for partition in running.workers.iter().flat_map(|cell| cell.worker.partitions()) {
                let (applied, hash) = (partition.state().applied(), partition.state().hash());
                let (first, who) = *hashes
                    .entry((partition.id(), applied))
                    .or_insert((hash, node.number));
                if first != hash {
                    stage.fail(format!(
                        "{} has different states after {applied} commands: {first:016x} on node {who}, {hash:016x} on node {}",
                        partition.id(),
                        node.number
                    ));
                }
            }
        }
    }

    /// The rows of every replica agree with each other and with its counters.
    fn scan_states(&self) {
        for (number, partition) in self.replicas() {
            if let Err(reason) = partition.state().audit() {
                let id = partition.id();
                self.stage.fail(format!("{id} on node {number}: {reason}"));
            }
        }
    }

    /// Every replica is up, has applied the same and has no transaction left.
    fn rest(&self) -> Result<(), String> {
        let mut applied: BTreeMap<PartitionId, (u64, u64)> = BTreeMap::new();
        let mut led = 0;
        for node in &self.nodes {
            let running = node
                .running
                .as_ref()
                .ok_or_else(|| format!("node {} is down", node.number))?;
            for partition in running.workers.iter().flat_map(|cell| cell.worker.partitions()) {
                let state = partition.state();
                let here = (state.applied(), state.hash());
                let first = *applied.entry(partition.id()).or_insert(here);
                if first != here {
                    return Err(format!(
                        "{} is at {here:?} on node {}, elsewhere at {first:?}",
                        partition.id(),
                        node.number
                    ));
                }
                if let Some((transaction, ..)) = state.prepared().next() {
                    return Err(format!(
                        "{transaction:?} is prepared in {} and never finished",
                        partition.id()
                    ));
                }
                if let Some((transaction, ..)) = state.undelivered_outcomes().next() {
                    return Err(format!(
                        "the outcome of {transaction:?} stays in {}",
                        partition.id()
                    ));
                }
                if state.has_unreported_usage() {
                    return Err(format!("{} has sizes of directories to report", partition.id()));
                }
                if let Ok(Reply::Partition(status)) = state.query(0, &Query::PartitionStatus)
                    && status.orphans > 0
                {
                    return Err(format!("{} still has {} orphans", partition.id(), status.orphans));
                }
                led += u16::from(partition.is_leader());
            }
        }
        if led != self.shape.partitions {
            return Err(format!("{led} of {} partitions are led", self.shape.partitions));
        }
        Ok(())
    }

    fn check_copies(&self, damaged: Option<NodeNumber>) -> Result<(), String> {
        let states = self.states();
        self.nodes.iter().try_for_each(|node| {
            let number = NodeNumber(node.number);
            ledger::check_copies(&states, number, &node.data_disk, damaged == Some(number))
        })
    }

    fn stores(&self) -> BTreeMap<NodeNumber, &BlockStore> {
        let running = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.number, node.running.as_ref()?)));
        running
            .map(|(number, running)| (NodeNumber(number), running.blocks()))
            .collect()
    }

    fn states(&self) -> BTreeMap<PartitionId, &bark_core::state::State> {
        self.replicas().map(|(_, it)| (it.id(), it.state())).collect()
    }

    fn replicas(&self) -> impl Iterator<Item = (u16, &Partition)> {
        let running = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.number, node.running.as_ref()?)));
        running.flat_map(|(number, running)| {
            let partitions = running.workers.iter().flat_map(|cell| cell.worker.partitions());
            partitions.map(move |partition| (number, partition))
        })
    }
}
