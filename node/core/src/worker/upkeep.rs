//! What a worker does by the clock: election ticks, deadlines, a look at who leads, finishing transactions
//! whose coordinator is gone.

use bark_schema::ids::TransactionId;
use bark_schema::operation::ClusterStatus;

use super::cleaning::Cleaning;
use super::mending::Mending;
use super::scrubbing::Scrubbing;
use super::under_way::UnderWay;
use super::{Durability, TICK_US, Worker};
use crate::request::recovery;
use crate::time::Now;

/// Every 5 ticks (200 ms): calls to moved leaders, unfinished transactions.
const RECOVERY_TICKS: u64 = 5;
/// Every 5 ticks (200 ms): patches to pack, blocks to drop, copies to make.
const CLEANING_TICKS: u64 = 5;
/// With more calls under way somebody is waiting, and copies are made slowly.
const CALLS_OF_QUIET_MAX: usize = 16;
/// Every 50 ticks (2 s): what directories take. Those who ask do not wait for it, so that many changes of a
/// directory become one report.
const REPORT_TICKS: u64 = 50;
/// Every 25 ticks (1 s): is another node the better leader? What the others shall know of this one.
const BALANCE_TICKS: u64 = 25;
/// A prepared transaction this old has probably lost its coordinator.
const PREPARED_AGE_NS: i64 = 1_000_000_000;

#[derive(Default)]
pub struct Upkeep {
    /// Transactions a coroutine of this worker is finishing.
    pub finishing: UnderWay<TransactionId>,
    pub cleaning: Cleaning,
    pub mending: Mending,
    pub scrubbing: Scrubbing,
}

impl Worker {
    pub(super) fn tick_if_due(&mut self, now: Now) {
        if now.monotonic_us < self.next_tick_us {
            return;
        }
        // A process that was paused does not make up for lost ticks: that would look like silence of others.
        self.next_tick_us = now.monotonic_us + TICK_US;
        self.ticks += 1;
        for partition in self.partitions.values_mut() {
            partition.tick(now);
        }
        self.expire_calls();
        self.tend_recalls();
        self.look_at_nodes(now);
        if self.ticks.is_multiple_of(RECOVERY_TICKS) {
            self.follow_leaders();
            self.recover_transactions(now);
        }
        if self.ticks.is_multiple_of(CLEANING_TICKS) {
            self.clean(now);
        }
        if self.ticks.is_multiple_of(REPORT_TICKS) {
            for partition in self.partitions.values().filter(|partition| partition.is_leader()) {
                self.upkeep.cleaning.report(&self.gateway, partition);
            }
        }
        if self.ticks.is_multiple_of(BALANCE_TICKS) {
            self.tell_standing(now);
            // The workers of a node take turns, so that it moves one a second.
            if (self.ticks / BALANCE_TICKS) % u64::from(self.config.worker_count)
                == u64::from(self.config.worker)
            {
                self.spread_leaders(now);
            }
            for partition in self.partitions.values().filter(|partition| partition.is_leader()) {
                self.upkeep.cleaning.defragment(&self.gateway, partition);
            }
        }
    }

    /// Packs patches, drops garbage and mends copies of the partitions led here; cleans the node's block store.
    fn clean(&mut self, now: Now) {
        if self.config.worker == 0 {
            self.upkeep.cleaning.clean_store(&self.gateway, now);
            self.upkeep.scrubbing.begin_if_due(&self.gateway, now);
        }
        let Upkeep {
            cleaning, mending, ..
        } = &mut self.upkeep;
        mending.begin(&self.gateway, now, self.calls.len() > CALLS_OF_QUIET_MAX);
        for partition in self.partitions.values() {
            if partition.is_leader() {
                cleaning.clean_partition(&self.gateway, partition, now);
                mending.mend_partition(&self.gateway, partition, now);
            } else {
                cleaning.forget_partition(partition.id());
                mending.forget_partition(partition.id());
            }
        }
    }

    fn recover_transactions(&mut self, now: Now) {
        for partition in self.partitions.values().filter(|partition| partition.is_leader()) {
            for (transaction, primary, prepared_at) in partition.state().prepared() {
                if now.unix_ns.saturating_sub(prepared_at) < PREPARED_AGE_NS {
                    continue;
                }
                let (gateway, participant) = (self.gateway.clone(), partition.id());
                self.upkeep
                    .finishing
                    .once(&self.gateway, transaction, async move {
                        recovery::resolve(&gateway, transaction, primary, participant).await;
                    });
            }
            for (transaction, commit, participants) in partition.state().undelivered_outcomes() {
                let (gateway, primary, participants) =
                    (self.gateway.clone(), partition.id(), participants.to_vec());
                self.upkeep
                    .finishing
                    .once(&self.gateway, transaction, async move {
                        recovery::deliver(&gateway, transaction, commit, primary, participants).await;
                    });
            }
        }
    }

    pub(super) fn local_status(&self) -> ClusterStatus {
        let mut nodes = self.config.nodes.as_ref().clone();
        for node in &mut nodes {
            node.reachable = self.gateway.reachable(node.number);
            node.refusal = self.gateway.refusal(node.number);
            let now_us = self.gateway.now().monotonic_us;
            self.leaders.describe(node, self.config.node, now_us);
        }
        ClusterStatus {
            cluster: self.config.cluster.clone(),
            node: self.config.node,
            nodes,
            partitions: self
                .partitions
                .values()
                .map(|partition| partition.status())
                .collect(),
            durability: match self.config.durability {
                Durability::Disk => "disk",
                Durability::Memory => "memory",
                Durability::None => "none",
            }
            .to_string(),
            replicas: u32::from(self.config.replicas),
            partition_count: u32::from(self.config.partition_count),
            disk_total_bytes: self.disk.total_bytes,
            disk_free_bytes: self.disk.free_bytes,
            block_bytes: self.disk.block_bytes,
        }
    }
}
