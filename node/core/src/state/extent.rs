//! Where a large file's bytes are: extents, the blocks they point into, and the ledger of dropped blocks.
//!
//! An extent is a run of a file inside a block. Publishing overlays: what lies below is cut away. A block
//! has one row however many extents point into it; when the last one goes, the block moves to the ledger
//! `garbage`, from where the block stores are told to drop it after a while. Blocks are never found to
//! be garbage by comparing lists.
//!
//! Invariants:
//! - Extents of a file do not overlap, lie within its size, and are counted in its inode.
//! - A block's `references` is the number of extents that point into it, at least one.
//! - No block is in `blocks` and in `garbage`; one that is garbage is never published again.

use std::ops::Bound;

use bark_schema::ids::{BlockId, InodeId, NodeNumber};
use bark_schema::limits::{BLOCK_SIZE_MAX, EXTENTS_PER_COMMAND_MAX, FILE_SIZE_MAX};
use bark_schema::operation::{Extent, Failure, Refusal, Reply, UnixNanos};

use super::State;
use super::codec::row_struct;
use super::inode::Body;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ExtentRow {
    pub(crate) length: u32,
    pub(crate) block_offset: u32,
    pub(crate) block: BlockId,
}
row_struct!(ExtentRow {
    length,
    block_offset,
    block
});

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockRow {
    pub(crate) references: u32,
    pub(crate) size: u32,
    pub(crate) checksum: u32,
    pub(crate) nodes: Vec<NodeNumber>,
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
    pub(crate) nodes: Vec<NodeNumber>,
}
row_struct!(GarbageRow { since, size, nodes });

/// Most nodes one block can be on.
const NODES_PER_BLOCK_MAX: usize = 64;

impl State {
    pub(super) fn publish(
        &mut self,
        inode: InodeId,
        extents: &[Extent],
        size: u64,
        replace_all: bool,
        base_version: Option<u64>,
    ) -> Result<Reply, Failure> {
        let row = self.regular(inode)?;
        self.check_inode_unlocked(inode)?;
        if base_version.is_some_and(|version| version != row.version) {
            return Err(Failure::refused(
                Refusal::Conflict,
                "the file changed since it was read",
            ));
        }
        let size = if replace_all { size } else { size.max(row.size) };
        check_extents(extents, size)?;
        if let Body::Inline(bytes) = &row.body
            && !replace_all
            && !covers(extents, bytes.len() as u64)
        {
            return Err(Failure::refused(
                Refusal::Conflict,
                "the file has inline bytes the blocks do not cover",
            ));
        }
        self.check_blocks(extents)?;

        // New references first: a block that is published again over itself must not become garbage.
        for extent in extents {
            self.reference(extent);
        }
        self.inodes.update(&inode, |row| {
            if let Body::Inline(_) = row.body {
                row.body = Body::Extents { count: 0 };
            }
        });
        if replace_all {
            self.cut_extents(inode, 0, u64::MAX);
        }
        for extent in extents {
            self.cut_extents(inode, extent.offset, extent.offset + u64::from(extent.length));
            let row = ExtentRow {
                length: extent.length,
                block_offset: extent.block_offset,
                block: extent.block,
            };
            self.extents.insert((inode, extent.offset), row);
            self.count_extents(inode, 1);
        }
        self.set_size(inode, size);
        self.settle_body(inode);
        let time = self.time;
        self.inodes.update(&inode, |row| row.touch_content(time));
        Ok(Reply::Attributes(self.inode(inode)?.attributes(inode)))
    }

    /// Blocks must be what they were published as before, and not garbage.
    fn check_blocks(&self, extents: &[Extent]) -> Result<(), Failure> {
        for extent in extents {
            if self.garbage.contains(&extent.block) {
                return Err(Failure::refused(Refusal::Conflict, "a block was dropped before"));
            }
            let known = self.blocks.get(&extent.block);
            if known.is_some_and(|row| row.size != extent.block_size || row.checksum != extent.checksum) {
                return Err(Failure::refused(
                    Refusal::Conflict,
                    "a block is known with other content",
                ));
            }
        }
        Ok(())
    }

    fn reference(&mut self, extent: &Extent) {
        let known = self.blocks.update(&extent.block, |row| row.references += 1);
        if !known {
            let row = BlockRow {
                references: 1,
                size: extent.block_size,
                checksum: extent.checksum,
                nodes: extent.nodes.clone(),
            };
            self.blocks.insert(extent.block, row);
        }
    }

    fn release(&mut self, block: BlockId) {
        let mut left = 0;
        self.blocks.update(&block, |row| {
            row.references -= 1;
            left = row.references;
        });
        if left == 0
            && let Some(row) = self.blocks.remove(&block)
        {
            let since = self.time;
            self.garbage.insert(
                block,
                GarbageRow {
                    since,
                    size: row.size,
                    nodes: row.nodes,
                },
            );
        }
    }

    /// Takes the bytes `from .. to` away from a file's extents, cutting those that reach over the ends.
    pub(super) fn cut_extents(&mut self, inode: InodeId, from: u64, to: u64) {
        for (offset, row) in self.overlapping(inode, from, to) {
            let end = offset + u64::from(row.length);
            self.extents.remove(&(inode, offset));
            self.count_extents(inode, -1);
            if offset < from {
                let left = ExtentRow {
                    length: (from - offset) as u32,
                    ..row
                };
                self.blocks.update(&row.block, |block| block.references += 1);
                self.extents.insert((inode, offset), left);
                self.count_extents(inode, 1);
            }
            if end > to {
                let skipped = (to - offset) as u32;
                let right = ExtentRow {
                    length: row.length - skipped,
                    block_offset: row.block_offset + skipped,
                    block: row.block,
                };
                self.blocks.update(&row.block, |block| block.references += 1);
                self.extents.insert((inode, to), right);
                self.count_extents(inode, 1);
            }
            self.release(row.block);
        }
    }

    /// Extents that overlap `from .. to`, by offset.
    fn overlapping(&self, inode: InodeId, from: u64, to: u64) -> Vec<(u64, ExtentRow)> {
        self.overlaps(inode, from, to).collect()
    }

    fn overlaps(&self, inode: InodeId, from: u64, to: u64) -> impl Iterator<Item = (u64, ExtentRow)> {
        let before = self.extents.range((inode, 0)..(inode, from)).next_back();
        let first = match before {
            Some(((_, offset), row)) if offset + u64::from(row.length) > from => *offset,
            _ => from,
        };
        let bounds = (
            Bound::Included((inode, first)),
            Bound::Excluded((inode, to.max(first))),
        );
        self.extents
            .range(bounds)
            .map(|((_, offset), row)| (*offset, *row))
    }

    /// At most `count_max` extents that overlap `from .. to`, by offset.
    pub(super) fn extents_between(
        &self,
        inode: InodeId,
        from: u64,
        to: u64,
        count_max: usize,
    ) -> Vec<Extent> {
        let rows = self.overlaps(inode, from, to).take(count_max);
        rows.filter_map(|(offset, row)| {
            let block = self.blocks.get(&row.block)?;
            Some(Extent {
                offset,
                length: row.length,
                block: row.block,
                block_offset: row.block_offset,
                block_size: block.size,
                checksum: block.checksum,
                nodes: block.nodes.clone(),
            })
        })
        .collect()
    }

    /// Blocks nothing points into any more, since when, and who has them.
    pub fn garbage(&self) -> impl Iterator<Item = (BlockId, UnixNanos, &[NodeNumber])> {
        self.garbage
            .iter()
            .map(|(block, row)| (*block, row.since, &row.nodes[..]))
    }

    fn count_extents(&mut self, inode: InodeId, by: i64) {
        self.inodes.update(&inode, |row| {
            if let Body::Extents { count } = &mut row.body {
                *count = count.saturating_add_signed(by);
            }
        });
    }

    /// A file that lost its last extent may hold inline bytes again.
    pub(super) fn settle_body(&mut self, inode: InodeId) {
        self.inodes.update(&inode, |row| {
            if row.body == (Body::Extents { count: 0 }) {
                row.body = Body::Inline(Box::default());
            }
        });
    }
}

/// Extents of one command: in order, apart, inside their blocks and inside the file.
fn check_extents(extents: &[Extent], size: u64) -> Result<(), Failure> {
    let invalid = |sentence: &str| Err(Failure::refused(Refusal::InvalidArgument, sentence));
    if size > FILE_SIZE_MAX {
        return Err(Failure::refused(Refusal::FileTooLarge, "file is too large"));
    }
    if extents.len() > EXTENTS_PER_COMMAND_MAX {
        return invalid("too many extents in one command");
    }
    let mut end = 0;
    for extent in extents {
        if extent.length == 0 || extent.offset < end {
            return invalid("extents are empty, out of order or overlap");
        }
        end = extent.offset.saturating_add(u64::from(extent.length));
        if end > size {
            return invalid("an extent reaches beyond the file's size");
        }
        let block_end = u64::from(extent.block_offset) + u64::from(extent.length);
        if block_end > u64::from(extent.block_size) || extent.block_size as usize > BLOCK_SIZE_MAX {
            return invalid("an extent reaches beyond its block");
        }
        if extent.nodes.len() > NODES_PER_BLOCK_MAX {
            return invalid("a block is on too many nodes");
        }
    }
    Ok(())
}

/// Whether ordered `extents` cover the first `length` bytes of a file.
fn covers(extents: &[Extent], length: u64) -> bool {
    let mut covered = 0;
    for extent in extents {
        if extent.offset > covered {
            break;
        }
        covered = extent.offset + u64::from(extent.length);
    }
    covered >= length
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covering is decided run by run: a gap before the length counts, one after it does not.
    #[test]
    fn covers_notices_gaps() {
        let extent = |offset, length| Extent {
            offset,
            length,
            block: BlockId {
                client: bark_schema::ids::ClientId(1),
                counter: 1,
            },
            block_offset: 0,
            block_size: length,
            checksum: 0,
            nodes: Vec::new(),
        };
        assert!(covers(&[], 0));
        assert!(!covers(&[], 1));
        assert!(covers(&[extent(0, 4), extent(4, 4)], 8));
        assert!(!covers(&[extent(0, 4), extent(5, 4)], 8));
        assert!(covers(&[extent(0, 8), extent(10, 4)], 8));
    }
}
