//! Dropping blocks nobody needs: those in a partition's ledger, and those nobody ever published.
//!
//! A leader tells the nodes in a ledger row to drop the block and, when all of them did, proposes to
//! forget the row. What is in the ledger never comes back into use, so it does not matter whether this
//! leader still leads. Each node also walks through its own store, asks the homes of its blocks about them,
//! and reports those nobody knows for a long time; the home's log decides.
//!
//! Invariants:
//! - A block is dropped only because of a ledger row, never because it was not found somewhere.
//! - A row is forgotten only after every node it names has dropped the block durably.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::data::{DataCommand, DataQuery};
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::operation::{Command, Failure, NodeRequest, Query, Reply};
use futures::future::join_all;

use super::unexpected;
use crate::worker::gateway::Gateway;

/// Rows of a ledger: blocks, and who has them.
pub type Rows = Vec<(BlockId, Vec<NodeNumber>)>;

/// Drops the blocks of ledger rows on their nodes and forgets the rows that are done.
pub async fn collect(gateway: &Gateway, partition: PartitionId, rows: Rows) {
    let mut by_node = BTreeMap::<NodeNumber, Vec<BlockId>>::new();
    for (block, nodes) in &rows {
        for node in nodes {
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
        .filter(|(_, nodes)| nodes.iter().all(|node| done.contains(node)))
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

/// Most blocks a sweep remembers as unknown; others are found again on a later round.
const UNKNOWN_MAX: usize = 1 << 16;
/// Blocks looked at in one step.
const SWEEP_PAGE: u32 = 1024;

/// Looks at the next blocks of this node's store. Blocks unknown for `age_us` are reported.
pub async fn sweep(gateway: &Gateway, mut sweep: Sweep, age_us: u64) -> Sweep {
    if let Err(failure) = try_sweep(gateway, &mut sweep, age_us).await {
        tracing::debug!(%failure, "blocks of this node will be checked later");
    }
    sweep
}

async fn try_sweep(gateway: &Gateway, sweep: &mut Sweep, age_us: u64) -> Result<(), Failure> {
    let node = gateway.config().node;
    let request = NodeRequest::BlockList {
        after: sweep.after,
        limit: SWEEP_PAGE,
    };
    let page = match gateway.node(node, request).await? {
        Reply::Blocks(blocks) => blocks,
        other => return Err(unexpected(&other)),
    };
    sweep.after = page.last().copied();
    let mut by_home = BTreeMap::<PartitionId, Vec<BlockId>>::new();
    for block in page {
        if let Some(home) = block.home()
            && home.0 < gateway.config().partition_count
        {
            by_home.entry(home).or_default().push(block);
        }
    }
    for (home, blocks) in by_home {
        let query = Query::Data(DataQuery::UnknownBlocks {
            blocks: blocks.clone(),
        });
        let unknown: BTreeSet<BlockId> = match gateway.query(home, query).await? {
            Reply::Blocks(blocks) => blocks.into_iter().collect(),
            other => return Err(unexpected(&other)),
        };
        let now_us = gateway.now().monotonic_us;
        let mut old = Vec::new();
        for block in blocks {
            if !unknown.contains(&block) {
                sweep.unknown.remove(&block);
            } else if sweep.unknown.len() < UNKNOWN_MAX {
                let since = *sweep.unknown.entry(block).or_insert(now_us);
                if now_us.saturating_sub(since) >= age_us {
                    old.push(block);
                }
            }
        }
        if !old.is_empty() {
            let command = Command::Data(DataCommand::CondemnBlocks {
                node,
                blocks: old.clone(),
            });
            gateway.command(home, command).await?;
            for block in old {
                sweep.unknown.remove(&block);
            }
        }
    }
    Ok(())
}
