//! Commands that would take too many rows away at once.
//!
//! Heartbeats, and everybody else's requests, wait while an entry is applied; the map of a file of a terabyte has a
//! million rows. So one entry takes at most [`ROWS_CUT_MAX`]: a command that would take more does a part, leaves a
//! file that is whole (shorter, or with a part of the hole), and says that it is unfinished. Its leader proposes the
//! same command again, until it ends like any other. Orphans go in pieces of the same size ([`super::open`]).
//!
//! What is cut in pieces are truncating and clearing. Publishing is not: readers must see all of its extents
//! or none, and what it covers is bounded by what one command may publish.
//!
//! Invariants:
//! - An unfinished command has left no answer: applying it again goes on with it.
//! - Between its parts every invariant of the state holds.

use bark_schema::ids::InodeId;
use bark_schema::operation::Failure;

use super::State;

/// Most rows one entry takes from maps of files. 4096: about four milliseconds.
pub(super) const ROWS_CUT_MAX: usize = 4096;

impl State {
    /// Whether the entry applied last did only a part of its command.
    pub fn take_unfinished(&mut self) -> bool {
        std::mem::take(&mut self.unfinished)
    }

    fn unfinished(&mut self) -> Failure {
        self.unfinished = true;
        Failure::Busy("the file is large and loses its blocks piece by piece".to_owned())
    }

    /// Nothing, if one entry can shorten the file to `size`; else takes away as much of its end as one can.
    pub(super) fn shorten_in_part(&mut self, inode: InodeId, size: u64) -> Result<(), Failure> {
        let mut behind = self.extents.range((inode, size)..=(inode, u64::MAX));
        let Some(((_, offset), row)) = behind.nth_back(ROWS_CUT_MAX) else {
            return Ok(());
        };
        let end = offset + row.length();
        drop(behind);
        self.resize(inode, end);
        Err(self.unfinished())
    }

    /// Nothing, if one entry can clear the range; else clears as much of its beginning as one can.
    pub(super) fn clear_in_part(&mut self, inode: InodeId, from: u64, to: u64) -> Result<(), Failure> {
        let Some((end, _)) = self.overlaps(inode, from, to).nth(ROWS_CUT_MAX) else {
            return Ok(());
        };
        let time = self.moment();
        self.cut_extents(inode, from, end);
        self.change_inode(inode, |row| row.touch_content(time));
        Err(self.unfinished())
    }
}
