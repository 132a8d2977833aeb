//! Reading every copy a node has, and waiting until the bad ones are made anew.
//!
//! Previous in the flow: [`crate::worker`], by the clock or on request. Next: the disk thread, which verifies and tells
//! of each bad copy ([`super::mend`]); here they are listed, with what became of them.
//!
//! Invariants:
//! - Copies are read at a rate, one at a time.
//! - A cycle is over when every copy was read, and each bad one is healed, not needed, or was waited for long enough.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bark_schema::data::DataQuery;
use bark_schema::ids::{BlockId, InodeId, PartitionId};
use bark_schema::operation::{Failure, NodeRequest, Query, Reply};
use bark_schema::upkeep::{BadCopy, CopyHealth};

use super::unexpected;
use crate::worker::gateway::Gateway;

/// Blocks listed at once.
const PAGE_MAX: u32 = 256;
/// Bad copies that are listed; more are counted.
const LISTED_MAX: usize = 1024;
/// Between two pieces of reading.
const PAUSE_US_MIN: u64 = 20_000;
/// Between two looks whether copies were made.
const LOOK_US: u64 = 300_000;
/// Bad copies are waited for this long, and again this long after each that was healed.
const PATIENCE_US: u64 = 30_000_000;

/// Where the reading of a node's copies is.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Counts cycles; another one that is begun ends the one under way.
    pub cycle: u64,
    pub is_running: bool,
    pub checked_blocks: u64,
    pub checked_bytes: u64,
    pub bad_count: u64,
    /// With the cycle each belongs to.
    bad: Vec<(u64, BadCopy)>,
}

impl Scrub {
    /// Bad copies that were found, by this or by whoever read them.
    pub fn note(&mut self, copies: &[crate::block_store::BadCopy]) {
        let cycle = match self.is_running {
            true => self.cycle,
            // What is found between two cycles is told with the second.
            false => self.cycle + 1,
        };
        self.bad_count += copies.len() as u64;
        for copy in copies.iter().take(LISTED_MAX.saturating_sub(self.bad.len())) {
            let bad = BadCopy {
                block: copy.block,
                segment: copy.segment,
                offset: copy.offset,
                inode: None,
                health: CopyHealth::Waiting,
            };
            self.bad.push((cycle, bad));
        }
    }

    /// Another cycle; answers its number.
    pub fn begin(&mut self) -> u64 {
        self.cycle += 1;
        let cycle = self.cycle;
        self.bad
            .retain(|(of, bad)| *of >= cycle || bad.health == CopyHealth::Waiting);
        *self = Scrub {
            cycle,
            is_running: true,
            checked_blocks: 0,
            checked_bytes: 0,
            bad_count: self.bad.len() as u64,
            bad: std::mem::take(&mut self.bad),
        };
        cycle
    }

    /// One more copy was read; false if that cycle is over.
    fn count(&mut self, cycle: u64, size: u64) -> bool {
        if self.cycle != cycle {
            return false;
        }
        self.checked_blocks += 1;
        self.checked_bytes += size;
        true
    }

    pub fn bad(&self) -> Vec<BadCopy> {
        self.bad.iter().map(|(_, bad)| *bad).collect()
    }

    fn waiting(&self) -> Vec<BlockId> {
        let bad = self.bad.iter();
        let waiting = bad.filter(|(_, bad)| bad.health == CopyHealth::Waiting);
        waiting.map(|(_, bad)| bad.block).collect()
    }

    /// What became of those that wait: `missing` are no better, `files` have them.
    fn settle(&mut self, missing: &BTreeSet<BlockId>, files: &BTreeMap<BlockId, InodeId>) {
        for (_, bad) in &mut self.bad {
            if bad.health != CopyHealth::Waiting {
                continue;
            }
            bad.inode = files.get(&bad.block).copied().or(bad.inode);
            bad.health = match (missing.contains(&bad.block), files.contains_key(&bad.block)) {
                (false, _) => CopyHealth::Healed,
                (true, true) => CopyHealth::Waiting,
                (true, false) => CopyHealth::Unneeded,
            };
        }
    }
}

/// One cycle, unless another is begun meanwhile.
pub async fn cycle(gateway: &Gateway, scrub: &RefCell<Scrub>, cycle: u64, bytes_per_second: u64) {
    let is_current = || scrub.borrow().cycle == cycle;
    let read = read_all(gateway, scrub, cycle, bytes_per_second).await;
    if let Err(failure) = read {
        tracing::warn!(%failure, "the copies of this node were not all read");
    }
    let mut patient_until_us = gateway.now().monotonic_us + PATIENCE_US;
    let mut waiting_before = usize::MAX;
    while is_current() {
        let waiting = scrub.borrow().waiting();
        if waiting.len() < waiting_before {
            waiting_before = waiting.len();
            patient_until_us = gateway.now().monotonic_us + PATIENCE_US;
        }
        if waiting.is_empty() || gateway.now().monotonic_us >= patient_until_us {
            break;
        }
        if let Err(failure) = look_after(gateway, scrub, waiting).await {
            tracing::debug!(%failure, "bad copies are looked after later");
        }
        if !scrub.borrow().waiting().is_empty() {
            gateway.sleep(LOOK_US).await;
        }
    }
    if is_current() {
        scrub.borrow_mut().is_running = false;
        let state = scrub.borrow();
        if state.bad_count > 0 {
            let (bad, unhealed) = (state.bad_count, state.waiting().len());
            tracing::warn!(bad, unhealed, "copies of this node were read; some were bad");
        }
    }
}

async fn read_all(
    gateway: &Gateway,
    scrub: &RefCell<Scrub>,
    cycle: u64,
    bytes_per_second: u64,
) -> Result<(), Failure> {
    let node = gateway.config().node;
    let (mut after, mut owed_us) = (None, 0);
    loop {
        let limit = PAGE_MAX;
        let page = match gateway
            .node(node, NodeRequest::BlockList { after, limit })
            .await?
        {
            Reply::Blocks(blocks) => blocks,
            other => return Err(unexpected(&other)),
        };
        if page.is_empty() {
            return Ok(());
        }
        after = page.last().copied();
        for block in page {
            let request = NodeRequest::BlockVerify {
                block,
                checksum: None,
            };
            // A bad one tells of itself, and one that is gone is nobody's.
            let size = match gateway.node(node, request).await {
                Ok(Reply::Count(size)) => size,
                _ => 0,
            };
            if !scrub.borrow_mut().count(cycle, size) {
                return Ok(());
            }
            owed_us += size * 1_000_000 / bytes_per_second.max(1);
            if owed_us >= PAUSE_US_MIN {
                gateway.sleep(std::mem::take(&mut owed_us)).await;
            }
        }
    }
}

/// What became of bad copies.
async fn look_after(gateway: &Gateway, scrub: &RefCell<Scrub>, waiting: Vec<BlockId>) -> Result<(), Failure> {
    let node = gateway.config().node;
    let request = NodeRequest::BlocksMissing {
        blocks: waiting.clone(),
    };
    let missing: BTreeSet<BlockId> = match gateway.node(node, request).await? {
        Reply::Blocks(blocks) => blocks.into_iter().collect(),
        other => return Err(unexpected(&other)),
    };
    let files = files_of(gateway, waiting).await?;
    scrub.borrow_mut().settle(&missing, &files);
    Ok(())
}

/// A file for each block that is in use.
async fn files_of(gateway: &Gateway, blocks: Vec<BlockId>) -> Result<BTreeMap<BlockId, InodeId>, Failure> {
    let mut by_home = BTreeMap::<PartitionId, Vec<BlockId>>::new();
    for block in blocks {
        if let Some(home) = block
            .home()
            .filter(|home| home.0 < gateway.config().partition_count)
        {
            by_home.entry(home).or_default().push(block);
        }
    }
    let mut files = BTreeMap::new();
    for (home, blocks) in by_home {
        let mut from = Some((InodeId(0), 0));
        while let Some(place) = from {
            let query = Query::Data(DataQuery::BlockFiles {
                blocks: blocks.clone(),
                from: place,
            });
            match gateway.query(home, query).await? {
                Reply::BlockFiles(page) => {
                    files.extend(page.found);
                    from = page.next;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
    Ok(files)
}
