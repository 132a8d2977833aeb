//! Times of the last access, moved by reads that clients tell of.
//!
//! Invariant: nothing else of an inode moves with it, neither its version nor the time of its last change.

use bark_schema::access_time::{Access, Times};
use bark_schema::limits::ACCESSES_PER_COMMAND_MAX;
use bark_schema::operation::{Failure, Refusal, Reply};

use super::State;

impl State {
    /// What is gone meanwhile, or not here, is passed over: nobody waits for it.
    pub(super) fn move_access_times(&mut self, accesses: &[Access]) -> Result<Reply, Failure> {
        if accesses.len() > ACCESSES_PER_COMMAND_MAX {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "too many accesses in one command",
            ));
        }
        for access in accesses {
            let at = access.at.min(self.time);
            let Some(row) = self.inodes.get(&access.inode) else {
                continue;
            };
            let times = Times {
                accessed: row.accessed,
                modified: row.modified,
                changed: row.changed,
            };
            if times.move_with(at) {
                self.change_inode(access.inode, |row| row.accessed = at);
            }
        }
        Ok(Reply::Done)
    }
}
