//! Where a large file's bytes are: the map from ranges of the file to blocks, and to patches.
//!
//! An extent is a run of a file inside a block; a patch is bytes that came in a log entry and are not in a
//! block yet. Both are rows of one ordered table, so that every change of a range is the same: cut away what
//! is there, put the new row in. Finding a byte costs O(log n), changing a range O(log n + rows in it).
//! Neighbours that go on in the same block are joined, so that packing patches ends with few rows.
//!
//! Previous in the flow: [`super::data`] and [`super::publish`]. Next: [`super::block`] counts references.
//!
//! Invariants:
//! - Rows of a file do not overlap, are not empty, and lie within its size.
//! - An inode's `count` and `allocated` are the number and the bytes of its rows.
//! - `patches` names exactly the rows that are patches, `patch_bytes` is the sum of their sizes.

use std::ops::Bound;

use bark_schema::data::{FileMap, Patch};
use bark_schema::ids::{BlockId, InodeId};
use bark_schema::limits::{EXTENTS_PER_COMMAND_MAX, KIB, LAYOUT_PATCH_BYTES_MAX};
use bark_schema::operation::Extent;
use bytes::Bytes;

use super::codec::{Reader, Row, Sink};
use super::inode::Body;
use super::{Error, State};

/// What a run of a file is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ExtentRow {
    Block {
        length: u32,
        block_offset: u32,
        block: BlockId,
    },
    Patch {
        /// Index of the entry that wrote the bytes, or joined the last of them.
        written: u64,
        bytes: Box<[u8]>,
    },
}

/// A fragmented file has hundreds of thousands of these.
const _: () = assert!(size_of::<ExtentRow>() <= 32);

/// A write that goes on where a patch ends joins it up to this size, so that a log written line by line
/// does not become a row a line. 8 KiB: what joining copies and hashes again stays under 4 µs.
const PATCH_JOIN_SIZE_MAX: usize = 8 * KIB;

impl ExtentRow {
    pub(super) fn length(&self) -> u64 {
        match self {
            ExtentRow::Block { length, .. } => u64::from(*length),
            ExtentRow::Patch { bytes, .. } => bytes.len() as u64,
        }
    }

    /// The part `from .. to` of it, both relative to its start.
    pub(super) fn part(&self, from: u64, to: u64) -> ExtentRow {
        match self {
            ExtentRow::Block {
                block_offset, block, ..
            } => ExtentRow::Block {
                length: (to - from) as u32,
                block_offset: block_offset + from as u32,
                block: *block,
            },
            ExtentRow::Patch { written, bytes } => ExtentRow::Patch {
                written: *written,
                bytes: bytes[from as usize..to as usize].into(),
            },
        }
    }

    /// Whether `next`, which begins in the file where this ends, goes on in the same block.
    fn goes_on_in(&self, next: &ExtentRow) -> bool {
        match (self, next) {
            (
                ExtentRow::Block {
                    length,
                    block_offset,
                    block,
                },
                ExtentRow::Block {
                    block_offset: next_offset,
                    block: next_block,
                    ..
                },
            ) => block == next_block && block_offset.checked_add(*length) == Some(*next_offset),
            _ => false,
        }
    }
}

impl State {
    /// Puts a row where there is none. It takes over a reference the caller has counted.
    pub(super) fn put_extent(&mut self, inode: InodeId, mut offset: u64, mut row: ExtentRow) {
        let before = self.extents.range((inode, 0)..(inode, offset)).next_back();
        if let Some(((_, start), left)) = before
            && start + left.length() == offset
            && left.goes_on_in(&row)
        {
            offset = *start;
            row = self.joined(inode, offset, row);
        }
        let end = offset + row.length();
        if let Some(right) = self.extents.get(&(inode, end))
            && row.goes_on_in(right)
            && let ExtentRow::Block {
                length,
                block_offset,
                block,
            } = row
        {
            let joined = ExtentRow::Block {
                length: length + right.length() as u32,
                block_offset,
                block,
            };
            self.take_extent(inode, end);
            self.release(block);
            row = joined;
        }
        self.add_extent(inode, offset, row);
    }

    /// Takes out the row at `offset`, which goes on in `next`, and makes one of both.
    fn joined(&mut self, inode: InodeId, offset: u64, next: ExtentRow) -> ExtentRow {
        match (self.take_extent(inode, offset), next) {
            (
                Some(ExtentRow::Block {
                    length,
                    block_offset,
                    block,
                }),
                next,
            ) => {
                self.release(block);
                ExtentRow::Block {
                    length: length + next.length() as u32,
                    block_offset,
                    block,
                }
            }
            (_, next) => next,
        }
    }

    /// Puts bytes of a log entry where there is nothing, joined with a small patch before them.
    pub(super) fn put_patch(&mut self, inode: InodeId, mut offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let before = self.extents.range((inode, 0)..(inode, offset)).next_back();
        let mut bytes: Box<[u8]> = data.into();
        if let Some(((_, start), ExtentRow::Patch { bytes: left, .. })) = before
            && start + left.len() as u64 == offset
            && left.len() + data.len() <= PATCH_JOIN_SIZE_MAX
        {
            offset = *start;
            bytes = [left, data].concat().into();
            self.take_extent(inode, offset);
        }
        let written = self.applied;
        self.add_extent(inode, offset, ExtentRow::Patch { written, bytes });
    }

    fn add_extent(&mut self, inode: InodeId, offset: u64, row: ExtentRow) {
        self.count_extents(inode, 1, row.length() as i64);
        self.insert_row(inode, offset, row);
    }

    fn insert_row(&mut self, inode: InodeId, offset: u64, row: ExtentRow) {
        if let ExtentRow::Patch { bytes, .. } = &row {
            self.patch_bytes += bytes.len() as u64;
            self.patches.insert((inode, offset));
        }
        self.extents.insert((inode, offset), row);
    }

    /// Takes a row out. Its reference is the caller's to release.
    pub(super) fn take_extent(&mut self, inode: InodeId, offset: u64) -> Option<ExtentRow> {
        let row = self.remove_row(inode, offset)?;
        self.count_extents(inode, -1, -(row.length() as i64));
        Some(row)
    }

    fn remove_row(&mut self, inode: InodeId, offset: u64) -> Option<ExtentRow> {
        let row = self.extents.remove(&(inode, offset))?;
        if let ExtentRow::Patch { bytes, .. } = &row {
            self.patch_bytes -= bytes.len() as u64;
            self.patches.remove(&(inode, offset));
        }
        Some(row)
    }

    fn count_extents(&mut self, inode: InodeId, rows: i64, bytes: i64) {
        self.change_inode(inode, |row| {
            if let Body::Extents { count, allocated } = &mut row.body {
                *count = count.wrapping_add_signed(rows);
                *allocated = allocated.wrapping_add_signed(bytes);
            }
        });
    }

    /// Takes the bytes `from .. to` away from a file's map, cutting what reaches over the ends.
    pub(super) fn cut_extents(&mut self, inode: InodeId, from: u64, to: u64) {
        let starts: Vec<u64> = self.overlaps(inode, from, to).map(|(offset, _)| offset).collect();
        if starts.is_empty() {
            return;
        }
        // The inode is hashed anew once, not with every row.
        let (mut rows, mut bytes) = (0, 0);
        for offset in starts {
            let Some(row) = self.remove_row(inode, offset) else {
                continue;
            };
            rows -= 1;
            bytes -= row.length() as i64;
            let end = offset + row.length();
            let parts = [(offset, from.min(end)), (to.max(offset), end)];
            for (start, stop) in parts {
                if start < stop {
                    rows += 1;
                    bytes += (stop - start) as i64;
                    self.retain(&row);
                    self.insert_row(inode, start, row.part(start - offset, stop - offset));
                }
            }
            if let ExtentRow::Block { block, .. } = row {
                self.release(block);
            }
        }
        self.count_extents(inode, rows, bytes);
    }

    /// Rows that overlap `from .. to`, by offset.
    pub(super) fn overlaps(
        &self,
        inode: InodeId,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = (u64, &ExtentRow)> {
        let before = self.extents.range((inode, 0)..(inode, from)).next_back();
        let first = match before {
            Some(((_, offset), row)) if offset + row.length() > from => *offset,
            _ => from,
        };
        let bounds = (
            Bound::Included((inode, first)),
            Bound::Excluded((inode, to.max(first))),
        );
        self.extents
            .range(bounds)
            .map(|((_, offset), row)| (*offset, row))
    }

    /// How many bytes of `from .. to` are stored: what writing there replaces.
    pub(super) fn stored_within(&self, inode: InodeId, from: u64, to: u64) -> u64 {
        if let Some(Body::Inline(bytes)) = self.inodes.get(&inode).map(|row| &row.body) {
            return to.min(bytes.len() as u64).saturating_sub(from);
        }
        self.overlaps(inode, from, to)
            .map(|(offset, row)| (offset + row.length()).min(to).saturating_sub(offset.max(from)))
            .sum()
    }

    /// The map of `from .. to`, as much of it as one answer holds.
    pub(super) fn file_map(&self, inode: InodeId, from: u64, to: u64) -> FileMap {
        let mut map = FileMap {
            known_until: to,
            ..FileMap::default()
        };
        let mut patch_bytes = 0;
        for (offset, row) in self.overlaps(inode, from, to) {
            let rows = map.extents.len() + map.patches.len();
            if rows >= EXTENTS_PER_COMMAND_MAX || patch_bytes >= LAYOUT_PATCH_BYTES_MAX {
                map.known_until = offset;
                break;
            }
            match row {
                ExtentRow::Block {
                    length,
                    block_offset,
                    block,
                } => {
                    let Some(known) = self.blocks.get(block) else {
                        continue;
                    };
                    map.extents.push(Extent {
                        offset,
                        length: *length,
                        block: *block,
                        block_offset: *block_offset,
                        block_size: known.size,
                        checksum: known.checksum,
                        nodes: known.nodes.to_vec(),
                    });
                }
                ExtentRow::Patch { bytes, .. } => {
                    let start = offset.max(from);
                    let stop = (offset + bytes.len() as u64).min(to);
                    let bytes = &bytes[(start - offset) as usize..(stop - offset) as usize];
                    patch_bytes += bytes.len();
                    map.patches.push(Patch {
                        offset: start,
                        data: Bytes::copy_from_slice(bytes),
                    });
                }
            }
        }
        map
    }

    /// A file that lost its last row may hold inline bytes again.
    pub(super) fn settle_body(&mut self, inode: InodeId) {
        self.change_inode(inode, |row| {
            if let Body::Extents { count: 0, .. } = row.body {
                row.body = Body::Inline(Box::default());
            }
        });
    }

    /// Makes a mapped file of an inline one; its bytes become a patch.
    pub(super) fn map_body(&mut self, inode: InodeId) {
        let mut inline = None;
        self.change_inode(inode, |row| {
            if let Body::Inline(bytes) = &mut row.body {
                inline = Some(std::mem::take(bytes));
                row.body = Body::Extents {
                    count: 0,
                    allocated: 0,
                };
            }
        });
        if let Some(bytes) = inline {
            self.put_patch(inode, 0, &bytes);
        }
    }
}

impl Row for ExtentRow {
    fn encode<S: Sink>(&self, sink: &mut S) {
        match self {
            ExtentRow::Block {
                length,
                block_offset,
                block,
            } => {
                0u8.encode(sink);
                length.encode(sink);
                block_offset.encode(sink);
                block.encode(sink);
            }
            ExtentRow::Patch { written, bytes } => {
                1u8.encode(sink);
                written.encode(sink);
                bytes.encode(sink);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(ExtentRow::Block {
                length: Row::decode(reader)?,
                block_offset: Row::decode(reader)?,
                block: Row::decode(reader)?,
            }),
            1 => Ok(ExtentRow::Patch {
                written: Row::decode(reader)?,
                bytes: Row::decode(reader)?,
            }),
            _ => Err(Error::Corrupt("an extent of unknown kind")),
        }
    }
}
