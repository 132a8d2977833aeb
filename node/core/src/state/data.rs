//! Changing bytes of files by one log entry: small writes, holes, copies, and packing patches into blocks.
//!
//! A small write travels in its log entry. In a small file it goes to the inline bytes; in any other, or in
//! one that grows out of its inode by it, it becomes a patch of the map: bytes in the state, on every
//! replica, read back with the layout. The leader packs patches of many files into one block and lets the
//! files point there ([`DataCommand::Repack`]); that moves bytes and changes none, so versions stay.
//!
//! Invariants:
//! - Patches of a partition take at most PATCH_SPACE_MAX; writes beyond it are answered `Busy`.
//! - Repacking changes a row only if it still is what was packed.
//! - Copying shares blocks within the partition; a copied range reads as its source did at that entry.
//! - No file gets blocks by copying that have fewer or more copies than its policy wants.

use std::ops::Bound;

use bark_schema::data::{Allocation, Copied, DataCommand, NewPiece, PackedBlock, PackedFrom, PackedPiece};
use bark_schema::ids::InodeId;
use bark_schema::limits::{
    BLOCK_SIZE_MAX, EXTENTS_PER_COMMAND_MAX, FILE_SIZE_MAX, INLINE_SIZE_MAX, LAYOUT_PATCH_BYTES_MAX, MIB,
    PIECES_PER_UPDATE_MAX, WRITE_SIZE_MAX,
};
use bark_schema::operation::{Failure, Refusal, Reply};
use bark_schema::policy::Policy;
use bytes::Bytes;

use super::State;
use super::block::NODES_PER_BLOCK_MAX;
use super::extent::ExtentRow;
use super::inode::{Body, is_at_home};
use super::node_list::NodeList;
use super::unfinished::ROWS_CUT_MAX;

/// Memory of all patches of a partition. 32 MiB: a second of small writes at full speed, and little
/// enough for a node with tens of partitions.
pub(super) const PATCH_SPACE_MAX: u64 = 32 * MIB as u64;
/// What a patch takes beside its bytes.
const PATCH_OVERHEAD: u64 = 128;

/// A patch, as it is to be packed into a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchToPack {
    pub inode: InodeId,
    pub offset: u64,
    /// The entry that wrote it.
    pub written: u64,
    pub bytes: Bytes,
    /// Of its file.
    pub policy: Policy,
}

impl State {
    pub(super) fn change_data(&mut self, command: &DataCommand) -> Result<Reply, Failure> {
        match command {
            DataCommand::Write { inode, offset, data } => self.write(*inode, *offset, data),
            DataCommand::Allocate {
                inode,
                offset,
                length,
                how,
                keep_size,
            } => self.allocate(*inode, *offset, *length, *how, *keep_size),
            DataCommand::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                length,
            } => self.copy_range((*from, *from_offset), (*to, *to_offset), *length),
            DataCommand::Repack { block, pieces } => self.repack(block, pieces),
            DataCommand::CondemnBlocks { node, blocks } => self.condemn_blocks(*node, blocks),
            DataCommand::AbandonBlocks { blocks, nodes } => self.abandon_blocks(blocks, nodes),
            DataCommand::ForgetBlocks { blocks } => self.forget_blocks(blocks),
            DataCommand::RecordCopies { changes } => self.record_copies(changes),
            DataCommand::Update(update) => self.update(update),
        }
    }

    pub(super) fn write(
        &mut self,
        inode: InodeId,
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<Reply, Failure> {
        let row = self.regular(inode)?;
        self.check_inode_unlocked(inode)?;
        if data.len() > WRITE_SIZE_MAX {
            let sentence = "more than one log entry takes: write blocks and publish them";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        let offset = offset.unwrap_or(row.size);
        let end = check_range(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(Reply::Attributes(row.attributes(inode)));
        }
        let size = row.size.max(end);
        if let Body::Inline(bytes) = &row.body
            && end <= INLINE_SIZE_MAX as u64
        {
            let mut bytes = bytes.to_vec();
            let stored = bytes.len() as u64;
            overwrite(&mut bytes, offset as usize, data);
            self.check_content_growth(inode, stored, bytes.len() as u64)?;
            self.set_inline(inode, bytes);
        } else {
            self.check_patch_space(data.len() as u64)?;
            if self.limits_growth() {
                let stored = row.allocated();
                let replaced = self.stored_within(inode, offset, end);
                self.check_content_growth(inode, stored, stored - replaced + data.len() as u64)?;
            }
            self.map_body(inode);
            self.cut_extents(inode, offset, end);
            self.put_patch(inode, offset, data);
        }
        self.set_size(inode, size);
        self.touch_content(inode)
    }

    /// Writes them all, or nothing: what any of them would be refused for is looked for before. The last one comes first, so
    /// that a file leaves its inode at once or not at all, and what it takes afterwards is known from the beginning.
    pub(super) fn write_pieces(&mut self, inode: InodeId, pieces: &[NewPiece]) -> Result<(), Failure> {
        self.check_pieces(inode, pieces)?;
        for piece in pieces.iter().rev() {
            self.write(inode, Some(piece.offset), &piece.data)?;
        }
        Ok(())
    }

    fn check_pieces(&self, inode: InodeId, pieces: &[NewPiece]) -> Result<(), Failure> {
        let row = self.regular(inode)?;
        let invalid = |sentence: &str| Err(Failure::refused(Refusal::InvalidArgument, sentence));
        if pieces.is_empty() || pieces.len() > PIECES_PER_UPDATE_MAX {
            return invalid("no bytes, or too many pieces of them in one update");
        }
        let (mut end, mut bytes, mut replaced) = (0, 0, 0);
        for piece in pieces {
            if piece.offset < end {
                return invalid("the pieces of an update must come in order, and apart");
            }
            end = check_range(piece.offset, piece.data.len() as u64)?;
            bytes += piece.data.len();
            if pieces.len() > 1 {
                if piece.data.is_empty() {
                    return invalid("an empty piece among others in one update");
                }
                if self.limits_growth() {
                    replaced += self.stored_within(inode, piece.offset, end);
                }
            }
        }
        if bytes > WRITE_SIZE_MAX {
            return invalid("more than one log entry takes: write blocks and publish them");
        }
        // One alone is checked when it is written.
        if pieces.len() == 1 {
            return Ok(());
        }
        // Each may cut an older patch in two.
        let overhead = 2 * pieces.len() as u64 * PATCH_OVERHEAD;
        self.check_patch_space(bytes as u64 + overhead + INLINE_SIZE_MAX as u64)?;
        let stored = row.allocated();
        let grown = match row.body {
            Body::Inline(_) if end <= INLINE_SIZE_MAX as u64 => stored.max(end),
            _ => stored - replaced + bytes as u64,
        };
        self.check_content_growth(inode, stored, grown)
    }

    fn check_patch_space(&self, more_bytes: u64) -> Result<(), Failure> {
        // An inline file may move out of its inode with the write.
        let more = more_bytes + PATCH_OVERHEAD + INLINE_SIZE_MAX as u64;
        if self.patch_space() + more > PATCH_SPACE_MAX {
            let sentence = "too many small writes wait to be packed into blocks";
            return Err(Failure::Busy(sentence.to_owned()));
        }
        Ok(())
    }

    /// The patches behind `after`, from the first one on if there are none, about `size_max` bytes of them.
    pub fn patches_after(&self, after: Option<(InodeId, u64)>, size_max: usize) -> Vec<PatchToPack> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.patches.range((start, Bound::Unbounded));
        let first = self
            .patches
            .iter()
            .take(match self.patches.range((start, Bound::Unbounded)).next() {
                Some(_) => 0,
                None => usize::MAX,
            });
        let mut size = 0;
        let mut patches: Vec<PatchToPack> = Vec::new();
        for key in behind.chain(first) {
            let Some(ExtentRow::Patch { written, bytes }) = self.extents.get(key) else {
                continue;
            };
            size += bytes.len();
            if (size > size_max && !patches.is_empty()) || patches.len() >= EXTENTS_PER_COMMAND_MAX {
                break;
            }
            let policy = match patches.last() {
                Some(last) if last.inode == key.0 => last.policy,
                _ => self.policy_of(key.0).unwrap_or_default(),
            };
            patches.push(PatchToPack {
                policy,
                inode: key.0,
                offset: key.1,
                written: *written,
                bytes: Bytes::copy_from_slice(bytes),
            });
        }
        patches
    }

    /// Memory patches take.
    pub fn patch_space(&self) -> u64 {
        self.patch_bytes + self.patches.len() as u64 * PATCH_OVERHEAD
    }

    fn allocate(
        &mut self,
        inode: InodeId,
        offset: u64,
        length: u64,
        how: Allocation,
        keep_size: bool,
    ) -> Result<Reply, Failure> {
        let row = self.regular(inode)?;
        self.check_inode_unlocked(inode)?;
        let end = check_range(offset, length)?;
        if length == 0 {
            return Err(Failure::refused(Refusal::InvalidArgument, "the range is empty"));
        }
        let keeps_size = keep_size || how == Allocation::PunchHole;
        let size = if keeps_size { row.size } else { row.size.max(end) };
        if how == Allocation::Reserve && size == row.size {
            return Ok(Reply::Attributes(row.attributes(inode)));
        }
        if how != Allocation::Reserve {
            self.clear_in_part(inode, offset, end)?;
            self.clear_range(inode, offset, end);
        }
        self.set_size(inode, size);
        self.touch_content(inode)
    }

    /// Makes a range read as zeros.
    fn clear_range(&mut self, inode: InodeId, from: u64, to: u64) {
        self.cut_extents(inode, from, to);
        self.settle_body(inode);
        if let Some(Body::Inline(bytes)) = self.inodes.get(&inode).map(|row| &row.body)
            && from < bytes.len() as u64
        {
            let mut bytes = bytes.to_vec();
            if to >= bytes.len() as u64 {
                bytes.truncate(from as usize);
            } else {
                bytes[from as usize..to as usize].fill(0);
            }
            self.set_inline(inode, bytes);
        }
    }

    fn copy_range(
        &mut self,
        from: (InodeId, u64),
        to: (InodeId, u64),
        length: u64,
    ) -> Result<Reply, Failure> {
        let ((source, from), (target, to)) = (from, to);
        if !is_at_home(source, self.partition) || !is_at_home(target, self.partition) {
            return Err(Failure::CrossPartition);
        }
        let size = self.regular(source)?.size;
        self.check_inode_unlocked(source)?;
        let target_size = self.regular(target)?.size;
        self.check_inode_unlocked(target)?;
        let length = length.min(size.saturating_sub(from));
        check_range(to, length)?;
        // Blocks have as many copies as their file's policy says: read and write instead.
        if self.policy_of(source)?.replicas != self.policy_of(target)?.replicas {
            return Err(Failure::CrossPartition);
        }
        if source == target && from < to + length && to < from + length {
            return Err(Failure::refused(Refusal::InvalidArgument, "the ranges overlap"));
        }
        if length == 0 {
            let attributes = self.inode(target)?.attributes(target);
            return Ok(Reply::Copied(Copied { length, attributes }));
        }
        // What lies at the target goes: no more of it than one entry may take.
        let length = match self.overlaps(target, to, to + length).nth(ROWS_CUT_MAX) {
            Some((offset, _)) => offset - to,
            None => length,
        };
        let (rows, length) = self.rows_to_copy(source, from, length)?;
        let end = to + length;
        self.check_copy_growth(target, to, end, &rows)?;
        if !self.copy_inline(target, to, end, &rows) {
            self.map_body(target);
            self.cut_extents(target, to, end);
            for (at, row) in rows {
                self.retain(&row);
                match row {
                    ExtentRow::Patch { bytes, .. } => self.put_patch(target, to + at, &bytes),
                    block => self.put_extent(target, to + at, block),
                }
            }
            self.settle_body(target);
        }
        self.set_size(target, target_size.max(end));
        self.touch_content(target)?;
        let attributes = self.inode(target)?.attributes(target);
        Ok(Reply::Copied(Copied { length, attributes }))
    }

    fn check_copy_growth(
        &self,
        target: InodeId,
        to: u64,
        end: u64,
        rows: &[(u64, ExtentRow)],
    ) -> Result<(), Failure> {
        if !self.limits_growth() {
            return Ok(());
        }
        let row = self.inode(target)?;
        let stored = row.allocated();
        let copied: u64 = rows.iter().map(|(_, row)| row.length()).sum();
        let replaced = self.stored_within(target, to, end);
        // Into inline bytes a hole is copied as zeros.
        let new = match row.body {
            Body::Inline(_) if end <= INLINE_SIZE_MAX as u64 => stored.max(end),
            _ => stored - replaced + copied,
        };
        self.check_content_growth(target, stored, new)
    }

    /// What `from .. from + length` is made of, relative to `from`, and how much of it one command takes.
    fn rows_to_copy(
        &self,
        source: InodeId,
        from: u64,
        length: u64,
    ) -> Result<(Vec<(u64, ExtentRow)>, u64), Failure> {
        let end = from + length;
        if let Some(Body::Inline(bytes)) = self.inodes.get(&source).map(|row| &row.body) {
            let stop = end.min(bytes.len() as u64);
            let mut rows = Vec::new();
            if from < stop {
                self.check_patch_space(stop - from)?;
                let bytes = bytes[from as usize..stop as usize].into();
                rows.push((0, ExtentRow::Patch { written: 0, bytes }));
            }
            return Ok((rows, length));
        }
        let mut rows = Vec::new();
        let mut patch_bytes = 0;
        for (offset, row) in self.overlaps(source, from, end) {
            let (start, stop) = (offset.max(from), (offset + row.length()).min(end));
            if let ExtentRow::Patch { .. } = row {
                patch_bytes += stop - start + PATCH_OVERHEAD;
            }
            let is_full =
                rows.len() >= EXTENTS_PER_COMMAND_MAX || patch_bytes > LAYOUT_PATCH_BYTES_MAX as u64;
            let has_space = self.check_patch_space(patch_bytes);
            if is_full || has_space.is_err() {
                if start == from {
                    has_space?;
                }
                return Ok((rows, start - from));
            }
            rows.push((start - from, row.part(start - offset, stop - offset)));
        }
        Ok((rows, length))
    }

    /// Copies into a small file's inline bytes, if that is possible.
    fn copy_inline(&mut self, target: InodeId, to: u64, end: u64, rows: &[(u64, ExtentRow)]) -> bool {
        let Some(Body::Inline(bytes)) = self.inodes.get(&target).map(|row| &row.body) else {
            return false;
        };
        let all_bytes = rows.iter().all(|(_, row)| matches!(row, ExtentRow::Patch { .. }));
        if end > INLINE_SIZE_MAX as u64 || !all_bytes {
            return false;
        }
        let mut bytes = bytes.to_vec();
        overwrite(&mut bytes, to as usize, &vec![0; (end - to) as usize]);
        for (at, row) in rows {
            if let ExtentRow::Patch { bytes: part, .. } = row {
                overwrite(&mut bytes, (to + at) as usize, part);
            }
        }
        self.set_inline(target, bytes);
        true
    }

    fn repack(&mut self, packed: &PackedBlock, pieces: &[PackedPiece]) -> Result<Reply, Failure> {
        let PackedBlock {
            block,
            size,
            checksum,
            ref nodes,
        } = *packed;
        let invalid = |sentence: &str| Err(Failure::refused(Refusal::InvalidArgument, sentence));
        if pieces.len() > EXTENTS_PER_COMMAND_MAX || nodes.len() > NODES_PER_BLOCK_MAX {
            return invalid("too many pieces or nodes in one block");
        }
        let in_block = |piece: &PackedPiece| {
            piece
                .block_offset
                .checked_add(piece.length)
                .is_some_and(|end| end <= size)
        };
        if size as usize > BLOCK_SIZE_MAX || !pieces.iter().all(in_block) {
            return invalid("a piece reaches beyond its block");
        }
        self.check_block(block, size, checksum)?;
        let mut moved = 0;
        for piece in pieces {
            let Some(end) = piece.offset.checked_add(u64::from(piece.length)) else {
                continue;
            };
            let starts: Vec<u64> = self
                .overlaps(piece.inode, piece.offset, end)
                .filter(|(offset, row)| is_still_there(piece, *offset, row))
                .map(|(offset, _)| offset)
                .collect();
            for offset in starts {
                let Some(old) = self.take_extent(piece.inode, offset) else {
                    continue;
                };
                self.reference(piece.inode, block, size, checksum, nodes);
                let row = ExtentRow::Block {
                    length: old.length() as u32,
                    block_offset: piece.block_offset + (offset - piece.offset) as u32,
                    block,
                };
                self.put_extent(piece.inode, offset, row);
                if let ExtentRow::Block { block, .. } = old {
                    self.release(block);
                }
                moved += 1;
            }
        }
        if !self.blocks.contains(&block) {
            self.discard(block, size, NodeList::new(nodes), false);
        }
        Ok(Reply::Count(moved))
    }

    /// Replaces a file's inline bytes. The file must be inline.
    pub(super) fn set_inline(&mut self, inode: InodeId, bytes: Vec<u8>) {
        self.change_inode(inode, |row| {
            if let Body::Inline(inline) = &mut row.body {
                *inline = bytes.into_boxed_slice();
            }
        });
    }

    /// Drops all bytes a regular file has, wherever they are; it is inline and empty then.
    pub(super) fn clear_content(&mut self, inode: InodeId) {
        self.cut_extents(inode, 0, u64::MAX);
        self.settle_body(inode);
        self.set_inline(inode, Vec::new());
    }

    /// The content changed now. Answers the attributes.
    pub(super) fn touch_content(&mut self, inode: InodeId) -> Result<Reply, Failure> {
        let time = self.moment();
        self.change_inode(inode, |row| row.touch_content(time));
        self.answer_attributes(inode)
    }
}

/// Whether `row` is a part of what was packed as `piece`, at the same place in it.
fn is_still_there(piece: &PackedPiece, offset: u64, row: &ExtentRow) -> bool {
    let Some(skipped) = offset.checked_sub(piece.offset) else {
        return false;
    };
    if skipped + row.length() > u64::from(piece.length) {
        return false;
    }
    match (piece.from, row) {
        (PackedFrom::Patch { written }, ExtentRow::Patch { written: found, .. }) => written == *found,
        (
            PackedFrom::Block { block, block_offset },
            ExtentRow::Block {
                block: found,
                block_offset: found_offset,
                ..
            },
        ) => block == *found && u64::from(block_offset) + skipped == u64::from(*found_offset),
        _ => false,
    }
}

/// The end of a range that lies in a file of the largest size.
fn check_range(offset: u64, length: u64) -> Result<u64, Failure> {
    match offset.checked_add(length) {
        Some(end) if end <= FILE_SIZE_MAX => Ok(end),
        _ => Err(Failure::refused(Refusal::FileTooLarge, "file is too large")),
    }
}

fn overwrite(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}
