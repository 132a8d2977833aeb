//! Dropping blocks nobody needs: those in a partition's ledger, and those nobody ever published.
//!
//! A leader tells the nodes in a ledger row to drop the block and, when all of them did, proposes to
//! forget the row. What is in the ledger never comes back into use, so it does not matter whether this
//! leader still leads. Each node also walks through its own store, asks the homes of its blocks about them,
//! and reports those nobody knows for a long time; the home's log decides.
//!
//! Invariants:
//! - A block is dropped only because of a ledger row, never because it was not found somewhere.
//! - A row is forgotten only after every node of the cluster that it names has dropped the block durably.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bark_schema::data::{DataCommand, DataQuery};
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Command, Failure, NodeRequest, Query, Reply};
use bark_schema::upkeep::{Orphan, Orphans};
use futures::future::join_all;

use super::unexpected;
use crate::worker::gateway::Gateway;

/// Rows of a ledger: blocks, and who has them.
pub type Rows = Vec<(BlockId, Vec<NodeNumber>)>;

/// Drops the blocks of ledger rows on their nodes and forgets the rows that are done.
pub async fn collect(gateway: &Gateway, partition: PartitionId, rows: Rows) {
    let known: BTreeSet<NodeNumber> = gateway.config().nodes.iter().map(|node| node.number).collect();
    let mut by_node = BTreeMap::<NodeNumber, Vec<BlockId>>::new();
    for (block, nodes) in &rows {
        for node in nodes.iter().filter(|node| known.contains(node)) {
            by_node.entry(*node).or_default().push(*block);
        }
    }
    let deletes = by_node.into_iter().map(|(node, blocks)| async move {
        let request = NodeRequest::BlockDelete { blocks };
        (node, gateway.node(node, request).await.is_ok())
    });
    let answers = join_all(deletes).await.into_iter();
    let done: BTreeSet<NodeNumber> = answers.filter_map(|(node, done)| done.then_some(node)).collect();
    let blocks: Vec<BlockId> = rows
        .into_iter()
        .filter(|(_, nodes)| {
            nodes
                .iter()
                .all(|node| done.contains(node) || !known.contains(node))
        })
        .map(|(block, _)| block)
        .collect();
    if blocks.is_empty() {
        return;
    }
    let command = Command::Data(DataCommand::ForgetBlocks { blocks });
    if let Err(failure) = gateway.command(partition, command).await {
        tracing::debug!(partition = partition.0, %failure, "dropped blocks stay in the ledger a little longer");
    }
}

/// What a node remembers between steps of the walk through its own block store.
#[derive(Default)]
pub struct Sweep {
    /// The last block looked at.
    after: Option<BlockId>,
    /// Blocks no home knows, and since when in this node's monotonic time.
    unknown: BTreeMap<BlockId, u64>,
}

impl Sweep {
    /// Forgets what is not in the store any more: blocks between `after` and the end of a page of the store that are not in it.
    /// Most were given up by their clients, and would take the place of others.
    fn forget_dropped(&mut self, after: Option<BlockId>, page: &[BlockId]) {
        let is_passed =
            |block: &BlockId| after < Some(*block) && page.last().is_none_or(|last| block <= last);
        self.unknown
            .retain(|block, _| !is_passed(block) || page.binary_search(block).is_ok());
    }
}

/// Most blocks a sweep remembers as unknown; others are found again on a later round.
const UNKNOWN_MAX: usize = 1 << 16;
/// Blocks looked at in one step.
const SWEEP_PAGE: u32 = 1024;

/// Orphans of a node that are told one by one.
const ORPHANS_TOLD_MAX: usize = 1024;

/// Looks at the next blocks of this node's store. Blocks unknown for `age_us` are reported.
pub async fn sweep(gateway: &Gateway, sweep: &RefCell<Sweep>, age_us: u64) {
    let after = sweep.borrow().after;
    match next_orphans(gateway, sweep, after).await {
        Ok((last, orphans)) => {
            sweep.borrow_mut().after = last;
            let old = orphans.into_iter().filter(|(_, age)| *age >= age_us);
            let old: Vec<BlockId> = old.map(|(block, _)| block).collect();
            if let Err(failure) = condemn(gateway, sweep, old).await {
                tracing::debug!(%failure, "lost blocks of this node will be given up later");
            }
        }
        Err(failure) => tracing::debug!(%failure, "blocks of this node will be checked later"),
    }
}

/// Goes through the whole store. With `give_up`, orphans that are old enough are reported; their homes' logs decide.
/// Errors: whatever could not be found out; nothing is reported then.
pub async fn orphans(gateway: &Gateway, sweep: &RefCell<Sweep>, give_up: bool) -> Result<Reply, Failure> {
    let (node, age_us) = (gateway.config().node, gateway.config().cleaning.orphan_age_us);
    let mut found = Orphans {
        node,
        ..Orphans::default()
    };
    let mut old = Vec::new();
    let mut after = None;
    loop {
        let (last, orphans) = next_orphans(gateway, sweep, after).await?;
        for (block, block_age_us) in orphans {
            let request = NodeRequest::BlockVerify {
                block,
                checksum: None,
            };
            let size = match gateway.node(node, request).await {
                Ok(Reply::Count(size)) => size as u32,
                // Dropped meanwhile, or bad: it takes its space all the same.
                _ => 0,
            };
            let is_old = block_age_us >= age_us;
            found.count += 1;
            found.bytes += u64::from(size);
            if is_old {
                old.push(block);
            }
            if found.orphans.len() < ORPHANS_TOLD_MAX {
                found.orphans.push(Orphan {
                    block,
                    size,
                    age_ms: block_age_us / 1_000,
                    is_old,
                });
            }
        }
        if last.is_none() {
            break;
        }
        after = last;
    }
    if give_up {
        found.given_up = old.len() as u64;
        condemn(gateway, sweep, old).await?;
    }
    Ok(Reply::Orphans(found))
}

/// The last block of the next page behind `after`, none at the end; and those of the page that their homes do not know,
/// with their ages.
async fn next_orphans(
    gateway: &Gateway,
    sweep: &RefCell<Sweep>,
    after: Option<BlockId>,
) -> Result<(Option<BlockId>, Vec<(BlockId, u64)>), Failure> {
    let node = gateway.config().node;
    let limit = SWEEP_PAGE;
    let page = match gateway
        .node(node, NodeRequest::BlockList { after, limit })
        .await?
    {
        Reply::Blocks(blocks) => blocks,
        other => return Err(unexpected(&other)),
    };
    let last = page.last().copied();
    sweep.borrow_mut().forget_dropped(after, &page);
    let mut by_home = BTreeMap::<PartitionId, Vec<BlockId>>::new();
    for block in page {
        if let Some(home) = block.home()
            && home.0 < gateway.config().partition_count
        {
            by_home.entry(home).or_default().push(block);
        }
    }
    let mut orphans = Vec::new();
    for (home, blocks) in by_home {
        let query = Query::Data(DataQuery::UnknownBlocks {
            blocks: blocks.clone(),
        });
        let unknown: BTreeSet<BlockId> = match gateway.query(home, query).await? {
            Reply::Blocks(blocks) => blocks.into_iter().collect(),
            other => return Err(unexpected(&other)),
        };
        let now_us = gateway.now().monotonic_us;
        let mut sweep = sweep.borrow_mut();
        for block in blocks {
            if !unknown.contains(&block) {
                sweep.unknown.remove(&block);
            } else if sweep.unknown.len() < UNKNOWN_MAX {
                let since = *sweep.unknown.entry(block).or_insert(now_us);
                orphans.push((block, now_us.saturating_sub(since)));
            }
        }
    }
    Ok((last, orphans))
}

/// Reports blocks of this node to their homes.
async fn condemn(gateway: &Gateway, sweep: &RefCell<Sweep>, old: Vec<BlockId>) -> Result<(), Failure> {
    let mut by_home = BTreeMap::<PartitionId, Vec<BlockId>>::new();
    for block in old {
        if let Some(home) = block.home() {
            by_home.entry(home).or_default().push(block);
        }
    }
    for (home, blocks) in by_home {
        for blocks in blocks.chunks(BLOCKS_PER_COMMAND_MAX) {
            let command = Command::Data(DataCommand::CondemnBlocks {
                node: gateway.config().node,
                blocks: blocks.to_vec(),
            });
            gateway.command(home, command).await?;
            let mut sweep = sweep.borrow_mut();
            for block in blocks {
                sweep.unknown.remove(block);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::ClientId;

    use super::*;

    #[test]
    fn blocks_that_are_gone_are_forgotten_when_the_walk_passes_their_place() {
        // Goal: what clients gave up does not fill the memory of a sweep. Method: pages that miss some of what is remembered.
        let block = |counter| BlockId {
            client: ClientId(1),
            counter,
        };
        let mut sweep = Sweep {
            unknown: (1..=9).map(|counter| (block(counter), 0)).collect(),
            ..Sweep::default()
        };
        let left = |sweep: &Sweep| -> Vec<u64> { sweep.unknown.keys().map(|block| block.counter).collect() };
        sweep.forget_dropped(None, &[block(2), block(3)]);
        assert_eq!(left(&sweep), [2, 3, 4, 5, 6, 7, 8, 9]);
        sweep.forget_dropped(Some(block(3)), &[block(5), block(7)]);
        assert_eq!(left(&sweep), [2, 3, 5, 7, 8, 9]);
        sweep.forget_dropped(Some(block(7)), &[]);
        assert_eq!(left(&sweep), [2, 3, 5, 7]);
    }
}
