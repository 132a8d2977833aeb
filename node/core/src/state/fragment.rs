//! Finding files in small pieces, for the leader to join.
//!
//! Invariant: a run is of one file, without gaps, not longer than the file's blocks may be, and joining it makes one
//! row of many.

use std::ops::Bound;

use bark_schema::ids::{BlockId, InodeId, NodeNumber};
use bark_schema::limits::KIB;
use bark_schema::policy::Policy;
use bytes::Bytes;

use super::State;
use super::extent::ExtentRow;

/// A row of a file's map that is one of many small ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub inode: InodeId,
    pub offset: u64,
    pub length: u32,
    pub place: FragmentPlace,
    /// Of the file.
    pub policy: Policy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FragmentPlace {
    Patch {
        written: u64,
        bytes: Bytes,
    },
    Block {
        block: BlockId,
        block_offset: u32,
        nodes: Vec<NodeNumber>,
    },
}

/// Rows shorter than this are pieces. 64 KiB: reading a larger one costs more than asking for it.
const PIECE_SIZE_MAX: u64 = 64 * KIB as u64;
/// A run of fewer is left alone: the block it would take is not worth it.
const PIECES_MIN: usize = 16;
/// Rows looked at in one go: well under a millisecond.
const ROWS_LOOKED_AT_MAX: usize = 4096;

impl State {
    /// The next run of pieces behind a row, and the row looked at last; none at the end of all files.
    pub fn fragments_after(&self, after: Option<(InodeId, u64)>) -> (Vec<Fragment>, Option<(InodeId, u64)>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.extents.range((start, Bound::Unbounded));
        let mut run: Vec<Fragment> = Vec::new();
        let mut size = 0;
        let mut last = None;
        for (looked_at, ((inode, offset), row)) in rows.enumerate() {
            let length = row.length();
            let goes_on = run.last().is_none_or(|before| {
                before.inode == *inode && before.offset + u64::from(before.length) == *offset
            });
            let is_piece = length < PIECE_SIZE_MAX;
            let policy = match run.last() {
                Some(before) if before.inode == *inode => before.policy,
                _ => self.policy_of(*inode).unwrap_or_default(),
            };
            let is_full = size + length > policy.cut_size() as u64;
            if !is_piece || !goes_on || is_full {
                if run.len() >= PIECES_MIN {
                    return (run, last);
                }
                run.clear();
                size = 0;
            }
            if looked_at >= ROWS_LOOKED_AT_MAX {
                return (Vec::new(), last);
            }
            last = Some((*inode, *offset));
            if is_piece && let Some(fragment) = self.fragment(*inode, *offset, row, policy) {
                size += length;
                run.push(fragment);
            }
        }
        if run.len() < PIECES_MIN {
            run.clear();
        }
        (run, None)
    }

    fn fragment(&self, inode: InodeId, offset: u64, row: &ExtentRow, policy: Policy) -> Option<Fragment> {
        let place = match row {
            ExtentRow::Patch { written, bytes } => FragmentPlace::Patch {
                written: *written,
                bytes: Bytes::copy_from_slice(bytes),
            },
            ExtentRow::Block {
                block, block_offset, ..
            } => FragmentPlace::Block {
                block: *block,
                block_offset: *block_offset,
                nodes: self.blocks.get(block)?.nodes.to_vec(),
            },
        };
        let length = row.length() as u32;
        Some(Fragment {
            inode,
            offset,
            length,
            place,
            policy,
        })
    }
}
