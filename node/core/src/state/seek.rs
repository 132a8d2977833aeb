//! Finding data and holes (lseek's SEEK_DATA and SEEK_HOLE).
//!
//! Invariants:
//! - The end of a file counts as a hole; beyond it there is neither.
//! - What is said to be a hole reads as zeros. The converse need not hold.

use bark_schema::data::{DataQuery, SeekTarget};
use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, Refusal, Reply};

use super::State;
use super::inode::Body;

/// Rows without a gap that are looked at for a hole; behind them the end of the file is the answer, which
/// is always allowed. 65,536: about 2 ms.
const ROWS_LOOKED_AT_MAX: usize = 65_536;

impl State {
    pub(super) fn query_data(&self, query: &DataQuery) -> Result<Reply, Failure> {
        match query {
            DataQuery::Seek {
                inode,
                offset,
                target,
            } => self.seek(*inode, *offset, *target),
            DataQuery::Ledger { after, limit } => Ok(self.ledger(*after, *limit)),
            DataQuery::BlockFiles { blocks, from } => self.block_files(blocks, *from),
            DataQuery::UnknownBlocks { blocks } => self.unknown_blocks(blocks),
        }
    }

    fn seek(&self, inode: InodeId, offset: u64, target: SeekTarget) -> Result<Reply, Failure> {
        let row = self.regular(inode)?;
        self.check_inode_unlocked(inode)?;
        let size = row.size;
        let found = match (&row.body, target) {
            _ if offset >= size => None,
            (Body::Inline(bytes), SeekTarget::Data) => (offset < bytes.len() as u64).then_some(offset),
            (Body::Inline(bytes), SeekTarget::Hole) if offset < bytes.len() as u64 => {
                Some(bytes.len() as u64)
            }
            (_, SeekTarget::Data) => {
                let next = self.overlaps(inode, offset, size).next();
                next.map(|(start, _)| start.max(offset))
            }
            (_, SeekTarget::Hole) => Some(self.next_hole(inode, offset, size)),
        };
        match found {
            Some(offset) => Ok(Reply::Count(offset)),
            None => Err(Failure::refused(Refusal::BeyondEnd, "there is no data behind")),
        }
    }

    fn next_hole(&self, inode: InodeId, offset: u64, size: u64) -> u64 {
        let mut end = offset;
        for (looked_at, (start, row)) in self.overlaps(inode, offset, size).enumerate() {
            if start > end {
                return end;
            }
            if looked_at >= ROWS_LOOKED_AT_MAX {
                return size;
            }
            end = start + row.length();
        }
        end.min(size)
    }
}
