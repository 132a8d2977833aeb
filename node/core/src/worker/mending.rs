//! When to make copies of blocks anew, which and where: what a worker does for the copies of its partitions.
//!
//! Previous in the flow: the worker's clock ([`super::upkeep`]). Next: [`crate::request::mend`], as coroutines, one of
//! a kind a partition.
//!
//! Copies belong on the first nodes of a block's place on the ring. A node that is away for a short while keeps its
//! turn, and gets its copies when it is back; one that is away for long is passed over, also by blocks that had a copy
//! there, as far as there are nodes beside it.
//!
//! Invariants:
//! - Only a partition's leader makes copies.
//! - The bytes copied for the partitions of a worker have a rate, and clients that wait lower it.
//! - A pass looks at a bounded number of rows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::limits::BLOCK_SIZE_MAX;

use super::Worker;
use super::gateway::Gateway;
use super::under_way::UnderWay;
use crate::block_store::BadCopy;
use crate::partition::Partition;
use crate::request::mend::{self, Job, Mended};
use crate::state::BlockCopies;
use crate::time::Now;

/// Records a node is asked about at once. 1024: 16 KiB of ids, and a millisecond of the disk thread.
const PAGE_MAX: usize = 1024;
/// Blocks copied by one coroutine; what it made is recorded together.
const JOBS_MAX: usize = 64;
/// After a pass that made nothing and failed, doubled up to the maximum.
const PAUSE_US_MIN: u64 = 1_000_000;
const PAUSE_US_MAX: u64 = 64_000_000;
/// The part of the rate that is left while clients wait.
const BUSY_SHARE: u64 = 4;
const SECOND_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Chore {
    Mend(PartitionId),
    Compare(PartitionId),
}

/// Where the passes over one partition are.
#[derive(Default)]
struct Progress {
    mended: Option<BlockId>,
    /// How many passes in a row failed, and until when there is a pause for it.
    failures: Rc<Cell<u32>>,
    paused_until_us: u64,
    /// The round over all records that is under way.
    round: Option<Round>,
    /// Some node came: another round when this one is over.
    is_due: bool,
    compared_us: Option<u64>,
}

#[derive(Default)]
struct Round {
    after: Option<BlockId>,
}

/// What was done since the worker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MendCounts {
    /// Copies made anew for partitions led here.
    pub made: u64,
    /// Bad copies on this node.
    pub found_bad: u64,
}

#[derive(Default)]
pub struct Mending {
    under_way: UnderWay<Chore>,
    progress: BTreeMap<PartitionId, Progress>,
    away_since_us: BTreeMap<NodeNumber, u64>,
    begun_us: Option<u64>,
    /// Bytes that may be copied now; below 0 after a large block.
    credit: i64,
    counts: Rc<Cell<MendCounts>>,
}

impl Mending {
    /// A node came, perhaps without what it had.
    pub fn node_came(&mut self) {
        for progress in self.progress.values_mut() {
            progress.is_due = true;
        }
    }

    /// Before the partitions of a turn. `is_busy`: clients are waiting.
    pub fn begin(&mut self, gateway: &Gateway, now: Now, is_busy: bool) {
        for node in gateway.config().nodes.iter() {
            if gateway.reachable(node.number) {
                self.away_since_us.remove(&node.number);
            } else {
                self.away_since_us.entry(node.number).or_insert(now.monotonic_us);
            }
        }
        let since_us = self
            .begun_us
            .replace(now.monotonic_us)
            .unwrap_or(now.monotonic_us);
        let rate = gateway.config().cleaning.mend_bytes_per_second;
        let rate = if is_busy { rate / BUSY_SHARE } else { rate };
        let earned = now.monotonic_us.saturating_sub(since_us).min(SECOND_US) * rate / SECOND_US;
        // No more is saved up than one large block, or what a fifth of a second earns.
        let most = (rate / 5).max(BLOCK_SIZE_MAX as u64) as i64;
        self.credit = self.credit.saturating_add(earned as i64).min(most);
    }

    /// Starts what is due for a partition this node leads.
    pub fn mend_partition(&mut self, gateway: &Gateway, partition: &Partition, now: Now) {
        self.mend(gateway, partition, now);
        self.compare(gateway, partition, now);
    }

    fn mend(&mut self, gateway: &Gateway, partition: &Partition, now: Now) {
        let id = partition.id();
        let chore = Chore::Mend(id);
        let progress = self.progress.entry(id).or_default();
        let is_paused = now.monotonic_us < progress.paused_until_us;
        if self.credit <= 0 || is_paused || self.under_way.has(&chore) {
            return;
        }
        let after = progress.mended;
        let mut jobs = Vec::new();
        let mut short = partition.state().short_of_copies(after);
        let mut last = None;
        for _ in 0..PAGE_MAX {
            let copies = short.next();
            // Behind the last one the next pass begins at the first.
            last = copies.as_ref().map(|copies| copies.block);
            let Some(copies) = copies else { break };
            if let Some(job) = self.job(gateway, copies, now) {
                self.credit -= i64::from(job.copies.size) * job.missing as i64;
                jobs.push(job);
            }
            if jobs.len() >= JOBS_MAX || self.credit <= 0 {
                break;
            }
        }
        let Some(progress) = self.progress.get_mut(&id) else {
            return;
        };
        progress.mended = last;
        if jobs.is_empty() {
            return;
        }
        let (failures, counts) = (progress.failures.clone(), self.counts.clone());
        if failures.get() > 0 {
            let pause_us = (PAUSE_US_MIN << (failures.get() - 1).min(8)).min(PAUSE_US_MAX);
            progress.paused_until_us = now.monotonic_us + pause_us;
        }
        let work = gateway.clone();
        self.under_way.once(gateway, chore, async move {
            let mended = mend::mend(&work, id, jobs).await;
            count_made(&counts, mended);
            failures.set(match mended.made {
                0 => failures.get().saturating_add(1),
                _ => 0,
            });
        });
    }

    /// What can be done for a block now.
    fn job(&self, gateway: &Gateway, mut copies: BlockCopies, now: Now) -> Option<Job> {
        let config = gateway.config();
        let away_us = config.cleaning.away_us;
        let is_given_up = |node: &NodeNumber| {
            let since_us = self.away_since_us.get(node);
            since_us.is_some_and(|since_us| now.monotonic_us.saturating_sub(*since_us) >= away_us)
        };
        let given_up: Vec<NodeNumber> = copies.nodes.iter().copied().filter(is_given_up).collect();
        let mut missing = (copies.wanted + given_up.len()).saturating_sub(copies.nodes.len());
        let mut targets = Vec::new();
        for node in config.ring.block_replicas(copies.block, config.nodes.len()) {
            if copies.nodes.contains(&node) {
                continue;
            }
            if gateway.reachable(node) {
                targets.push(node);
            } else if !is_given_up(&node) && targets.len() < missing {
                // It is away for a moment: the copy is its own.
                missing -= 1;
            }
        }
        copies.nodes.retain(|node| gateway.reachable(*node));
        missing = missing.min(targets.len());
        (missing > 0 && !copies.nodes.is_empty()).then_some(Job {
            copies,
            missing,
            targets,
            given_up,
        })
    }

    /// Asks the nodes about the next records: in rounds, and a new round when a node came.
    fn compare(&mut self, gateway: &Gateway, partition: &Partition, now: Now) {
        let id = partition.id();
        let chore = Chore::Compare(id);
        let period_us = gateway.config().cleaning.copies_period_us;
        if self.under_way.has(&chore) {
            return;
        }
        let progress = self.progress.entry(id).or_default();
        if progress.round.is_none() {
            let waited = |since_us: u64| now.monotonic_us.saturating_sub(since_us) >= period_us;
            if !progress.is_due && !progress.compared_us.is_none_or(waited) {
                return;
            }
            progress.is_due = false;
            progress.compared_us = Some(now.monotonic_us);
            progress.round = Some(Round::default());
        }
        let after = progress.round.as_ref().and_then(|round| round.after);
        let page: Vec<BlockCopies> = partition.state().copies_after(after).take(PAGE_MAX).collect();
        let last = page.last().map(|copies| copies.block);
        progress.round = (page.len() >= PAGE_MAX).then_some(Round { after: last });
        if page.is_empty() {
            return;
        }
        let jobs = self.jobs_for_away(gateway, &page, now);
        let records = page.into_iter().map(|copies| {
            let nodes = copies.nodes.into_iter();
            let reachable = nodes.filter(|node| gateway.reachable(*node)).collect();
            (copies.block, reachable)
        });
        let (work, records, counts) = (gateway.clone(), records.collect(), self.counts.clone());
        self.under_way.once(gateway, chore, async move {
            mend::find_missing(&work, id, records).await;
            if !jobs.is_empty() {
                count_made(&counts, mend::mend(&work, id, jobs).await);
            }
        });
    }

    /// Blocks that name nodes which are not waited for any more. What there is no credit for waits for the next round.
    fn jobs_for_away(&mut self, gateway: &Gateway, page: &[BlockCopies], now: Now) -> Vec<Job> {
        let mut jobs = Vec::new();
        if self.away_since_us.is_empty() {
            return jobs;
        }
        for copies in page {
            if self.credit <= 0 || jobs.len() >= JOBS_MAX {
                break;
            }
            let job = self.job(gateway, copies.clone(), now);
            if let Some(job) = job.filter(|job| !job.given_up.is_empty()) {
                self.credit -= i64::from(job.copies.size) * job.missing as i64;
                jobs.push(job);
            }
        }
        jobs
    }

    /// A partition this node no longer leads is somebody else's to mend.
    pub fn forget_partition(&mut self, partition: PartitionId) {
        self.progress.remove(&partition);
    }
}

fn count_made(counts: &Cell<MendCounts>, mended: Mended) {
    let mut now = counts.get();
    now.made += mended.made as u64;
    counts.set(now);
}

impl Worker {
    pub fn mend_counts(&self) -> MendCounts {
        self.upkeep.mending.counts.get()
    }

    /// The disk thread found bad copies here.
    pub(super) fn tell_bad_copies(&self, bad: Vec<BadCopy>) {
        let counts = &self.upkeep.mending.counts;
        let mut now = counts.get();
        now.found_bad += bad.len() as u64;
        counts.set(now);
        self.upkeep.scrubbing.note(&bad);
        let gateway = self.gateway.clone();
        self.gateway.spawn(async move {
            mend::tell_bad_copies(&gateway, bad).await;
        });
    }
}
