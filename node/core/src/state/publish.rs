//! Making blocks part of a file.
//!
//! Publishing overlays: what lies below the new extents is cut away, splitting what reaches over their
//! edges; bytes no extent covers stay. The size grows to what is said, or is set if everything is replaced.
//!
//! Invariants:
//! - Readers see all extents of a command or none.

use bark_schema::ids::InodeId;
use bark_schema::limits::{BLOCK_SIZE_MAX, EXTENTS_PER_COMMAND_MAX, FILE_SIZE_MAX};
use bark_schema::operation::{Extent, Failure, Refusal, Reply};

use super::State;
use super::block::NODES_PER_BLOCK_MAX;
use super::extent::ExtentRow;

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
        for extent in extents {
            self.check_block(extent.block, extent.block_size, extent.checksum)?;
        }
        self.check_blocks_agree(extents)?;
        self.check_publish_growth(inode, extents, replace_all)?;

        // New references first: a block that is published again over itself must not become garbage.
        for extent in extents {
            let Extent {
                block,
                block_size,
                checksum,
                nodes,
                ..
            } = extent;
            self.reference(inode, *block, *block_size, *checksum, nodes);
        }
        if replace_all {
            self.clear_content(inode);
        }
        self.map_body(inode);
        for extent in extents {
            self.cut_extents(inode, extent.offset, extent.end());
            let row = ExtentRow::Block {
                length: extent.length,
                block_offset: extent.block_offset,
                block: extent.block,
            };
            self.put_extent(inode, extent.offset, row);
        }
        self.set_size(inode, size);
        self.settle_body(inode);
        self.touch_content(inode)
    }

    fn check_publish_growth(
        &self,
        inode: InodeId,
        extents: &[Extent],
        replace_all: bool,
    ) -> Result<(), Failure> {
        if !self.limits_growth() {
            return Ok(());
        }
        let published: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
        let stored = self.inode(inode)?.allocated();
        let replaced = match replace_all {
            true => stored,
            false => extents
                .iter()
                .map(|extent| self.stored_within(inode, extent.offset, extent.end()))
                .sum(),
        };
        self.check_content_growth(inode, stored, stored - replaced + published)
    }

    /// Extents of one command that share a new block say the same of it.
    fn check_blocks_agree(&self, extents: &[Extent]) -> Result<(), Failure> {
        let mut said: Vec<_> = extents
            .iter()
            .map(|extent| (extent.block, extent.block_size, extent.checksum))
            .collect();
        said.sort_unstable();
        said.dedup();
        match said.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            true => Err(Failure::refused(
                Refusal::InvalidArgument,
                "extents disagree about a block",
            )),
            false => Ok(()),
        }
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
        end = extent.end();
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
