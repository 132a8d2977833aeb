//! The blocks files point into, and the ledger of those nobody needs any more.
//!
//! A block has one row however many extents point into it; when the last one goes, the block moves to the
//! ledger `garbage`. After a while its leader tells the nodes to drop it, and then forgets the row. Blocks
//! are never found to be garbage by comparing lists: one that was stored and never published is reported by
//! a node that has it, and condemned by a log entry, which decides whether the report or the publishing
//! came first. A client that gives up what it wrote abandons the blocks it stored for it in the same way; nobody ever
//! read those, so they need not wait.
//!
//! Invariants:
//! - A block's `references` is the number of extents that point into it, at least one.
//! - No block is in `blocks` and in `garbage`; one that is garbage is never published again, nor is one that
//!   was condemned after it was forgotten: `fences` keeps the youngest condemned block of each client.
//! - Only blocks whose home is this partition are condemned here.

use std::ops::Bound;

use bark_schema::data::DataCommand;
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Command, Failure, Refusal, Reply, UnixNanos};
use bark_schema::upkeep::LedgerRow;

use super::State;
use super::codec::row_struct;
use super::extent::ExtentRow;
use super::node_list::NodeList;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockRow {
    pub(crate) references: u32,
    pub(crate) size: u32,
    pub(crate) checksum: u32,
    pub(crate) nodes: NodeList,
}
row_struct!(BlockRow {
    references,
    size,
    checksum,
    nodes
});

/// A block nothing points into any more: who has it, since when, and for how many bytes to be freed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GarbageRow {
    pub(crate) since: UnixNanos,
    pub(crate) size: u32,
    /// Nobody ever published it.
    pub(crate) condemned: bool,
    pub(crate) nodes: NodeList,
}
row_struct!(GarbageRow {
    since,
    size,
    condemned,
    nodes
});

/// A file of a terabyte has a million of these.
const _: () = assert!(size_of::<BlockRow>() <= 32 && size_of::<GarbageRow>() <= 32);

/// Since when nobody needs a block that nobody ever read: it waits for no reader.
const AT_ONCE: UnixNanos = 0;

/// Most nodes one block can be on.
pub(super) const NODES_PER_BLOCK_MAX: usize = 64;

/// What a client does with blocks nobody knows of, it does with those it cut itself.
pub(super) fn check_own_blocks(client: ClientId, command: &Command) -> Result<(), Failure> {
    if let Command::Data(DataCommand::AbandonBlocks { blocks, .. }) = command
        && blocks.iter().any(|block| block.client != client)
    {
        let sentence = "a client abandons blocks of its own only";
        return Err(Failure::refused(Refusal::InvalidArgument, sentence));
    }
    Ok(())
}

impl State {
    /// A block may be pointed into if it is what it was published as before, and neither garbage nor
    /// condemned.
    pub(super) fn check_block(&self, block: BlockId, size: u32, checksum: u32) -> Result<(), Failure> {
        let conflict = |sentence: &str| Err(Failure::refused(Refusal::Conflict, sentence));
        if let Some(known) = self.blocks.get(&block) {
            if (known.size, known.checksum) != (size, checksum) {
                return conflict("a block is known with other content");
            }
            return Ok(());
        }
        if block.home().is_some_and(|home| home != self.partition) {
            let sentence = "the block is for files of another partition";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        let is_fenced = |fence: &u64| block.home().is_some() && block.counter <= *fence;
        if self.garbage.contains(&block) || self.fences.get(&block.client).is_some_and(is_fenced) {
            return conflict("a block was dropped before");
        }
        Ok(())
    }

    /// Counts one more extent of `inode` that points into a checked block.
    pub(super) fn reference(
        &mut self,
        inode: InodeId,
        block: BlockId,
        size: u32,
        checksum: u32,
        nodes: &[NodeNumber],
    ) {
        let known = self.blocks.update(&block, |row| row.references += 1);
        if !known {
            self.block_bytes += u64::from(size);
            let row = BlockRow {
                references: 1,
                size,
                checksum,
                nodes: NodeList::new(nodes),
            };
            self.blocks.insert(block, row);
            self.count_copies(block, nodes.len(), inode);
        }
    }

    /// Counts one more extent like `row`.
    pub(super) fn retain(&mut self, row: &ExtentRow) {
        if let ExtentRow::Block { block, .. } = row {
            self.blocks.update(block, |row| row.references += 1);
        }
    }

    /// Counts one extent less; the last one takes the block to the ledger.
    pub(super) fn release(&mut self, block: BlockId) {
        let mut left = 0;
        self.blocks.update(&block, |row| {
            row.references -= 1;
            left = row.references;
        });
        if left == 0
            && let Some(row) = self.blocks.remove(&block)
        {
            self.block_bytes -= u64::from(row.size);
            self.forget_copies(block);
            self.discard(block, row.size, row.nodes, false);
        }
    }

    /// Puts a block nobody points into in the ledger.
    pub(super) fn discard(&mut self, block: BlockId, size: u32, nodes: NodeList, condemned: bool) {
        self.garbage_bytes += u64::from(size);
        let row = GarbageRow {
            since: self.time,
            size,
            condemned,
            nodes,
        };
        self.garbage.insert(block, row);
    }

    pub(super) fn condemn_blocks(&mut self, node: NodeNumber, blocks: &[BlockId]) -> Result<Reply, Failure> {
        check_count(blocks)?;
        for block in blocks {
            if block.home() != Some(self.partition) || self.blocks.contains(block) {
                continue;
            }
            let known = self.garbage.update(block, |row| {
                if !row.nodes.contains(&node) && row.nodes.len() < NODES_PER_BLOCK_MAX {
                    row.nodes.push(node);
                }
            });
            if !known {
                self.discard(*block, 0, NodeList::new(&[node]), true);
            }
        }
        Ok(Reply::Done)
    }

    /// Their client promised never to publish them, so nobody reads them and they are dropped without delay.
    pub(super) fn abandon_blocks(
        &mut self,
        blocks: &[BlockId],
        nodes: &[NodeNumber],
    ) -> Result<Reply, Failure> {
        check_count(blocks)?;
        if nodes.len() > NODES_PER_BLOCK_MAX {
            let sentence = "more nodes than a block can be on";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        for block in blocks {
            let is_known = self.blocks.contains(block) || self.garbage.contains(block);
            if block.home() == Some(self.partition) && !is_known {
                let row = GarbageRow {
                    since: AT_ONCE,
                    size: 0,
                    condemned: false,
                    nodes: NodeList::new(nodes),
                };
                self.garbage.insert(*block, row);
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn forget_blocks(&mut self, blocks: &[BlockId]) -> Result<Reply, Failure> {
        check_count(blocks)?;
        for block in blocks {
            let Some(row) = self.garbage.remove(block) else {
                continue;
            };
            self.garbage_bytes -= u64::from(row.size);
            if row.condemned {
                let fence = self.fences.get(&block.client).copied().unwrap_or(0);
                self.fences.insert(block.client, fence.max(block.counter));
            }
        }
        Ok(Reply::Done)
    }

    /// Those of `blocks` that are neither in use nor in the ledger.
    pub(super) fn unknown_blocks(&self, blocks: &[BlockId]) -> Result<Reply, Failure> {
        check_count(blocks)?;
        let is_unknown = |block: &BlockId| !self.blocks.contains(block) && !self.garbage.contains(block);
        Ok(Reply::Blocks(blocks.iter().copied().filter(is_unknown).collect()))
    }

    /// A page of the ledger.
    pub(super) fn ledger(&self, after: Option<BlockId>, limit: u32) -> Reply {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let limit = (limit as usize).min(BLOCKS_PER_COMMAND_MAX);
        let mut behind = self.garbage.range((start, Bound::Unbounded));
        let row = |(block, row): (&BlockId, &GarbageRow)| LedgerRow {
            block: *block,
            size: row.size,
            since: row.since,
            condemned: row.condemned,
            nodes: row.nodes.to_vec(),
        };
        let rows = behind.by_ref().take(limit).map(row).collect();
        let more = behind.next().is_some();
        Reply::Ledger { rows, more }
    }

    /// Blocks nothing points into any more, since when, and who has them.
    pub fn garbage(&self) -> impl Iterator<Item = (BlockId, UnixNanos, &[NodeNumber])> {
        self.garbage
            .iter()
            .map(|(block, row)| (*block, row.since, &row.nodes[..]))
    }

    /// The same behind `after`, in the order of the blocks.
    pub fn garbage_after(
        &self,
        after: Option<BlockId>,
    ) -> impl Iterator<Item = (BlockId, UnixNanos, &[NodeNumber])> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.garbage
            .range((start, Bound::Unbounded))
            .map(|(block, row)| (*block, row.since, &row.nodes[..]))
    }

    /// Blocks in use, and who has them.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockId, &[NodeNumber])> {
        self.blocks.iter().map(|(block, row)| (*block, &row.nodes[..]))
    }

    /// Whether an extent points into the block.
    pub fn is_referenced(&self, block: BlockId) -> bool {
        self.blocks.contains(&block)
    }
}

fn check_count(blocks: &[BlockId]) -> Result<(), Failure> {
    if blocks.len() > BLOCKS_PER_COMMAND_MAX {
        return Err(Failure::refused(
            Refusal::InvalidArgument,
            "too many blocks at once",
        ));
    }
    Ok(())
}
