//! When to pack patches and to drop blocks; what a worker does for the space of its partitions.
//!
//! Previous in the flow: the worker's clock ([`super::upkeep`]). Next: [`crate::request::pack`],
//! [`crate::request::defragment`], [`crate::request::collect`] and [`crate::request::usage`], as coroutines, one of a kind a partition.
//!
//! Invariants:
//! - Only a partition's leader packs and collects; worker 0 alone sweeps its node's store.
//! - A pass over a ledger looks at a bounded number of rows.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bark_schema::ids::{BlockId, InodeId, PartitionId};
use bark_schema::limits::{
    BLOCK_SIZE_DEFAULT, BLOCK_SIZE_MAX, BLOCKS_PER_COMMAND_MAX, MIB, USAGE_REPORTS_MAX,
};
use bark_schema::operation::{NodeRequest, Reply};

use super::gateway::Gateway;
use super::under_way::UnderWay;
use crate::partition::Partition;
use crate::request::{collect, defragment, pack, usage};
use crate::time::Now;

/// How long things lie before they are cleaned up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleaningConfig {
    /// A dropped block stays readable this long, for readers with an older layout.
    pub garbage_horizon_us: u64,
    /// A block nobody published is given up after this; its writer may still be at it.
    pub orphan_age_us: u64,
    /// Patches this old are packed, however few they are.
    pub patch_age_us: u64,
    /// Patches that take more than this are packed at once.
    pub patch_space_max: u64,
    /// How often a node looks at a page of its block store for lost blocks, and at its emptiest segment.
    pub store_period_us: u64,
    /// How often a leader asks the nodes whether they have the copies its blocks' records name. It also asks when a
    /// node comes.
    pub copies_period_us: u64,
    /// A node that was away for so long is not waited for: its copies are made elsewhere.
    pub away_us: u64,
    /// Of blocks copied for the partitions that a worker leads; a quarter of it while clients are waiting.
    pub mend_bytes_per_second: u64,
    /// How often a node reads all its copies; the first time after a seventh of it.
    pub scrub_period_us: u64,
    /// Of copies that are read for that, unless somebody waits for the end.
    pub scrub_bytes_per_second: u64,
}

impl CleaningConfig {
    /// A minute for readers, a day for writers, ten seconds for patches, ten minutes for nodes that are away.
    pub const STANDARD: CleaningConfig = CleaningConfig {
        garbage_horizon_us: 60_000_000,
        orphan_age_us: 24 * 3_600_000_000,
        patch_age_us: 10_000_000,
        patch_space_max: MIB as u64,
        store_period_us: 10_000_000,
        copies_period_us: 600_000_000,
        away_us: 600_000_000,
        // A third of a gigabit link, or what a rotating disk reads beside its other work.
        mend_bytes_per_second: 40 * MIB as u64,
        scrub_period_us: 7 * 24 * 3_600_000_000,
        // 4 TiB in a week.
        scrub_bytes_per_second: 8 * MIB as u64,
    };
}

/// Coroutines under way for one partition, or for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Chore {
    Pack(PartitionId),
    Collect(PartitionId),
    Defragment(PartitionId),
    Report(PartitionId),
    Sweep,
    Compact,
}

/// Where the passes over one partition are.
#[derive(Default)]
struct Progress {
    /// When patches were first seen since the last packing.
    patches_since_us: Option<u64>,
    packed: Option<(InodeId, u64)>,
    collected: Option<BlockId>,
    defragmented: Option<(InodeId, u64)>,
}

#[derive(Default)]
pub struct Cleaning {
    under_way: UnderWay<Chore>,
    progress: BTreeMap<PartitionId, Progress>,
    sweep: Rc<RefCell<collect::Sweep>>,
    store_swept_us: u64,
    store_compacted_us: u64,
    /// The last step of compaction left something to do.
    compacts_on: Rc<Cell<bool>>,
}

/// Between two steps of compaction while there is something to do. 200 ms: at 4 MiB a step, 20 MiB a second.
const COMPACTION_PAUSE_US: u64 = 200_000;

impl Cleaning {
    /// Starts what is due for a partition this node leads.
    pub fn clean_partition(&mut self, gateway: &Gateway, partition: &Partition, now: Now) {
        self.pack(gateway, partition, now);
        self.collect(gateway, partition, now);
    }

    fn pack(&mut self, gateway: &Gateway, partition: &Partition, now: Now) {
        let (id, config) = (partition.id(), gateway.config().cleaning);
        let progress = self.progress.entry(id).or_default();
        let space = partition.state().patch_space();
        if space == 0 {
            progress.patches_since_us = None;
            return;
        }
        let since_us = *progress.patches_since_us.get_or_insert(now.monotonic_us);
        let is_old = now.monotonic_us.saturating_sub(since_us) >= config.patch_age_us;
        let chore = Chore::Pack(id);
        if (!is_old && space <= config.patch_space_max) || self.under_way.has(&chore) {
            return;
        }
        // The more there is, the larger the block, so that a busy database does not outrun the packing.
        let size_max = (space as usize).clamp(BLOCK_SIZE_DEFAULT, BLOCK_SIZE_MAX);
        let patches = partition.state().patches_after(progress.packed, size_max);
        progress.packed = patches.last().map(|patch| (patch.inode, patch.offset));
        if patches.is_empty() {
            return;
        }
        if space <= config.patch_space_max {
            // The rest is due again after a while: a file that is written all the time is not packed
            // all the time.
            progress.patches_since_us = None;
        }
        let work = gateway.clone();
        self.under_way.once(gateway, chore, async move {
            pack::pack(&work, id, patches).await;
        });
    }

    fn collect(&mut self, gateway: &Gateway, partition: &Partition, now: Now) {
        let id = partition.id();
        let chore = Chore::Collect(id);
        if self.under_way.has(&chore) {
            return;
        }
        let progress = self.progress.entry(id).or_default();
        let horizon_ns = i64::try_from(gateway.config().cleaning.garbage_horizon_us)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        let mut looked_at = 0;
        let mut last = None;
        let mut rows = Vec::new();
        for (block, since, nodes) in partition.state().garbage_after(progress.collected) {
            looked_at += 1;
            last = Some(block);
            if now.unix_ns.saturating_sub(since) >= horizon_ns {
                rows.push((block, nodes.to_vec()));
            }
            if looked_at >= BLOCKS_PER_COMMAND_MAX {
                break;
            }
        }
        // At the end of the ledger the next pass begins at its start.
        progress.collected = last.filter(|_| looked_at >= BLOCKS_PER_COMMAND_MAX);
        if rows.is_empty() {
            return;
        }
        let work = gateway.clone();
        self.under_way.once(gateway, chore, async move {
            collect::collect(&work, id, rows).await;
        });
    }

    /// Joins the next file in pieces of a partition this node leads.
    pub fn defragment(&mut self, gateway: &Gateway, partition: &Partition) {
        let id = partition.id();
        let chore = Chore::Defragment(id);
        if self.under_way.has(&chore) {
            return;
        }
        let progress = self.progress.entry(id).or_default();
        let (run, last) = partition.state().fragments_after(progress.defragmented);
        progress.defragmented = last;
        if run.is_empty() {
            return;
        }
        let work = gateway.clone();
        self.under_way.once(gateway, chore, async move {
            defragment::defragment(&work, id, run).await;
        });
    }

    /// Reports what directories of a partition this node leads take, a level up.
    pub fn report(&self, gateway: &Gateway, partition: &Partition) {
        let id = partition.id();
        let chore = Chore::Report(id);
        if !partition.state().has_unreported_usage() || self.under_way.has(&chore) {
            return;
        }
        let (reports, _) = partition
            .state()
            .unreported_usage(InodeId(0), USAGE_REPORTS_MAX as u32);
        let work = gateway.clone();
        self.under_way.once(gateway, chore, async move {
            usage::report(&work, id, reports).await;
        });
    }

    /// Starts what is due for the node's block store.
    pub fn clean_store(&mut self, gateway: &Gateway, now: Now) {
        let config = gateway.config().cleaning;
        let waited = |since_us: u64| now.monotonic_us.saturating_sub(since_us);
        if waited(self.store_swept_us) >= config.store_period_us {
            self.store_swept_us = now.monotonic_us;
            let (work, sweep) = (gateway.clone(), self.sweep.clone());
            self.under_way.once(gateway, Chore::Sweep, async move {
                collect::sweep(&work, &sweep, config.orphan_age_us).await;
            });
        }
        let compaction_due = waited(self.store_compacted_us) >= config.store_period_us
            || (self.compacts_on.get() && waited(self.store_compacted_us) >= COMPACTION_PAUSE_US);
        if !compaction_due {
            return;
        }
        self.store_compacted_us = now.monotonic_us;
        let (work, compacts_on) = (gateway.clone(), self.compacts_on.clone());
        self.under_way.once(gateway, Chore::Compact, async move {
            let node = work.config().node;
            let result = work.node(node, NodeRequest::BlockCompact).await;
            compacts_on.set(matches!(result, Ok(Reply::Count(more)) if more > 0));
            if let Err(failure) = result {
                tracing::warn!(%failure, "no space was won back from dropped blocks");
            }
        });
    }

    /// What the passes over the node's store found.
    pub fn sweep(&self) -> Rc<RefCell<collect::Sweep>> {
        self.sweep.clone()
    }

    /// A partition this node no longer leads is somebody else's to clean.
    pub fn forget_partition(&mut self, partition: PartitionId) {
        self.progress.remove(&partition);
    }
}
