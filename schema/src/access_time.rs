//! When the time of the last access moves.
//!
//! Every read would be a change of its inode. As relatime of other file systems has it, only those reads count
//! that tell something: the first one after a change, and one a day. Clients count by this rule before they tell,
//! the nodes when they are told.

use crate::ids::InodeId;
use crate::operation::{Attributes, UnixNanos};

/// A time that is a day old moves with the next read.
const DAY: UnixNanos = 24 * 60 * 60 * 1_000_000_000;

/// Somebody read an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub inode: InodeId,
    pub at: UnixNanos,
}

/// The times of an inode that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub accessed: UnixNanos,
    pub modified: UnixNanos,
    pub changed: UnixNanos,
}

impl Times {
    /// Whether a read at that time counts. One from before the last change does not: it would undo a time that was
    /// set since.
    pub fn move_with(self, at: UnixNanos) -> bool {
        let is_first = self.accessed <= self.modified.max(self.changed);
        let is_old = at.saturating_sub(self.accessed) >= DAY;
        at > self.accessed && at >= self.changed && (is_first || is_old)
    }

    /// Takes a read into account.
    pub fn note(&mut self, at: UnixNanos) {
        if self.move_with(at) {
            self.accessed = at;
        }
    }
}

impl From<&Attributes> for Times {
    fn from(attributes: &Attributes) -> Times {
        Times {
            accessed: attributes.accessed,
            modified: attributes.modified,
            changed: attributes.changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_that_tell_something_count() {
        // Goal: relatime. Method: reads before and after changes, again, and a day later.
        let times = |accessed, modified, changed| Times {
            accessed,
            modified,
            changed,
        };
        assert!(times(10, 10, 10).move_with(11), "the first one");
        assert!(!times(11, 10, 10).move_with(12), "the second one");
        assert!(
            times(11, 12, 12).move_with(12),
            "the first one after it was written"
        );
        assert!(
            times(11, 10, 12).move_with(13),
            "the first one after its mode changed"
        );
        assert!(!times(10, 10, 20).move_with(15), "one from before a change");
        assert!(
            times(10, 50, 20).move_with(25),
            "modified at a time in the future"
        );
        assert!(!times(11, 10, 10).move_with(11 + DAY - 1));
        assert!(times(11, 10, 10).move_with(11 + DAY));
        assert!(!times(50, 10, 10).move_with(20), "read at a time in the future");
        assert!(times(UnixNanos::MIN, 10, 10).move_with(UnixNanos::MAX));
    }
}
