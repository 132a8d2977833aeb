//! Who has good copies of blocks, and which blocks have too few.
//!
//! A block's row names the nodes that have a good copy. It begins with those that acknowledged the block to its
//! writer, which may be fewer than its file asks for, loses a node whose copy is missing or bad, and gains one
//! that was given a copy since. Nodes find out and copy ([`crate::request::mend`], [`crate::worker`]); the log decides what counts.
//!
//! Which blocks have too few is kept beside the rows, so that nobody has to look for them. How many are wanted
//! depends on a setting of the cluster where the file leaves it open. So this is no part of the state that replicas
//! compare: it follows from the rows and the setting.
//!
//! Invariants:
//! - The last node stays in a row, whatever is said of its copy: no copy is ever given up by a record alone.
//! - `short` holds the blocks in use with fewer nodes than wanted, all of them, once the setting is known.
//! - All files that point into a block want the same number of copies of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bark_schema::data::CopyChange;
use bark_schema::ids::{BlockId, InodeId, NodeNumber};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Failure, Refusal, Reply};
use bark_schema::policy::Policy;
use bark_schema::upkeep::BlockFiles;

use super::State;
use super::block::NODES_PER_BLOCK_MAX;
use super::extent::ExtentRow;

/// Rows of maps that one question about files looks at. 65536: a few milliseconds.
const ROWS_LOOKED_AT_MAX: usize = 1 << 16;

/// Blocks with too few copies, and how many they should have.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// Copies of what has no policy of its own; 0: not known yet, so nothing is kept.
    replicas: usize,
    short: BTreeMap<BlockId, u8>,
}

/// A block, its good copies and how many there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCopies {
    pub block: BlockId,
    pub size: u32,
    pub checksum: u32,
    pub nodes: Vec<NodeNumber>,
    pub wanted: usize,
}

impl State {
    /// From now on blocks with too few copies are known. `replicas`: of what has no policy of its own.
    pub fn watch_copies(&mut self, replicas: usize) {
        self.shortage.replicas = replicas;
        if replicas == 0 {
            return;
        }
        self.shortage.short = self
            .block_policies()
            .filter_map(|(block, policy)| {
                let wanted = policy.copies(replicas);
                let known = self.blocks.get(&block)?;
                (known.nodes.len() < wanted).then_some((block, wanted as u8))
            })
            .collect();
    }

    /// Blocks with too few copies behind `after`, in order.
    pub fn short_of_copies(&self, after: Option<BlockId>) -> impl Iterator<Item = BlockCopies> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.shortage.short.range((start, Bound::Unbounded));
        behind.filter_map(|(block, wanted)| self.copies_of(*block, usize::from(*wanted)))
    }

    /// All blocks in use behind `after`, in order; of those with enough copies, as many are wanted as there are.
    pub fn copies_after(&self, after: Option<BlockId>) -> impl Iterator<Item = BlockCopies> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.blocks.range((start, Bound::Unbounded));
        behind.filter_map(|(block, row)| {
            let wanted = self.shortage.short.get(block);
            self.copies_of(
                *block,
                wanted.map_or(row.nodes.len(), |wanted| usize::from(*wanted)),
            )
        })
    }

    fn copies_of(&self, block: BlockId, wanted: usize) -> Option<BlockCopies> {
        let row = self.blocks.get(&block)?;
        Some(BlockCopies {
            block,
            size: row.size,
            checksum: row.checksum,
            nodes: row.nodes.to_vec(),
            wanted,
        })
    }

    /// A block with too few copies that is not kept as such, found by looking at everything.
    pub(super) fn unnoticed_shortage(&self) -> Option<BlockId> {
        let replicas = self.shortage.replicas;
        let is_unnoticed = |(block, policy): &(BlockId, Policy)| {
            let nodes = self.blocks.get(block).map_or(0, |row| row.nodes.len());
            nodes < policy.copies(replicas) && !self.shortage.short.contains_key(block)
        };
        let found = self.block_policies().filter(|_| replicas > 0).find(is_unnoticed);
        found.map(|(block, _)| block)
    }

    /// Files that have these blocks, among the next rows of maps.
    pub(super) fn block_files(&self, blocks: &[BlockId], from: (InodeId, u64)) -> Result<Reply, Failure> {
        if blocks.len() > BLOCKS_PER_COMMAND_MAX {
            let sentence = "too many blocks at once";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        let wanted: BTreeSet<BlockId> = blocks.iter().copied().collect();
        let mut found = BTreeMap::new();
        let mut next = None;
        for (looked_at, (place, row)) in self.extents.range(from..).enumerate() {
            if looked_at >= ROWS_LOOKED_AT_MAX {
                next = Some(*place);
                break;
            }
            if let ExtentRow::Block { block, .. } = row
                && wanted.contains(block)
            {
                found.entry(*block).or_insert(place.0);
            }
        }
        let found = found.into_iter().collect();
        Ok(Reply::BlockFiles(BlockFiles { found, next }))
    }

    /// A new block came into use, for `inode`.
    pub(super) fn count_copies(&mut self, block: BlockId, nodes: usize, inode: InodeId) {
        let replicas = self.shortage.replicas;
        if replicas == 0 {
            return;
        }
        let wanted = match self.policy_of(inode) {
            Ok(policy) => policy.copies(replicas),
            Err(_) => replicas,
        };
        if nodes < wanted {
            self.shortage.short.insert(block, wanted as u8);
        }
    }

    /// The block went out of use.
    pub(super) fn forget_copies(&mut self, block: BlockId) {
        self.shortage.short.remove(&block);
    }

    pub(super) fn record_copies(&mut self, changes: &[CopyChange]) -> Result<Reply, Failure> {
        if changes.len() > BLOCKS_PER_COMMAND_MAX {
            let sentence = "too many copies at once";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        let mut in_use = Vec::new();
        for change in changes {
            if self.blocks.contains(&change.block) {
                in_use.push(change.block);
                self.record_copy(change);
            } else if change.has {
                // What came too late is dropped with the others.
                self.garbage.update(&change.block, |row| {
                    if !row.nodes.contains(&change.node) && row.nodes.len() < NODES_PER_BLOCK_MAX {
                        row.nodes.push(change.node);
                    }
                });
            }
        }
        in_use.dedup();
        Ok(Reply::Blocks(in_use))
    }

    fn record_copy(&mut self, change: &CopyChange) {
        let (mut before, mut after) = (0, 0);
        self.blocks.update(&change.block, |row| {
            before = row.nodes.len();
            let is_named = row.nodes.contains(&change.node);
            if change.has && !is_named && before < NODES_PER_BLOCK_MAX {
                row.nodes.push(change.node);
            } else if !change.has && is_named && before > 1 {
                row.nodes.remove(change.node);
            }
            after = row.nodes.len();
        });
        if self.shortage.replicas == 0 {
            return;
        }
        // What was not short had as many as it should, or more; then it is to keep those.
        let wanted = self.shortage.short.get(&change.block).copied();
        let wanted = wanted.unwrap_or(before as u8);
        if after < usize::from(wanted) {
            self.shortage.short.insert(change.block, wanted);
        } else {
            self.shortage.short.remove(&change.block);
        }
    }
}
