//! The bytes of a file one holder has locked.
//!
//! The same rules as the cluster's: what is taken replaces what the holder had of these bytes, what is released
//! leaves the bytes before and behind.

use bark_schema::file_lock::{LockMode, LockRange};

#[derive(Debug, Default)]
pub(crate) struct LockRanges {
    locks: Vec<LockedRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockedRange {
    pub(crate) range: LockRange,
    pub(crate) mode: LockMode,
    pub(crate) process: u32,
}

impl LockRanges {
    pub(crate) fn take(&mut self, lock: LockedRange) {
        self.let_go(lock.range);
        self.locks.push(lock);
    }

    pub(crate) fn let_go(&mut self, range: LockRange) {
        let mut kept = Vec::with_capacity(self.locks.len() + 1);
        for lock in self.locks.drain(..) {
            if !lock.range.overlaps(range) {
                kept.push(lock);
                continue;
            }
            let (first, last) = (lock.range.first, lock.range.last);
            if first < range.first {
                let last = range.first - 1;
                let range = LockRange { first, last };
                kept.push(LockedRange { range, ..lock });
            }
            if last > range.last {
                let first = range.last + 1;
                let range = LockRange { first, last };
                kept.push(LockedRange { range, ..lock });
            }
        }
        self.locks = kept;
    }

    /// What keeps another holder from taking a lock.
    pub(crate) fn in_the_way(&self, range: LockRange, mode: LockMode) -> Option<LockedRange> {
        let is_exclusive =
            |lock: &LockedRange| mode == LockMode::Exclusive || lock.mode == LockMode::Exclusive;
        let mut locks = self.locks.iter();
        locks
            .find(|lock| lock.range.overlaps(range) && is_exclusive(lock))
            .copied()
    }

    pub(crate) fn has_other_mode(&self, mode: LockMode) -> bool {
        self.locks.iter().any(|lock| lock.mode != mode)
    }

    pub(crate) fn len(&self) -> usize {
        self.locks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(first: u64, last: u64, mode: LockMode) -> LockedRange {
        LockedRange {
            range: LockRange { first, last },
            mode,
            process: 1,
        }
    }

    #[test]
    fn taking_and_releasing_cut_what_was_held() {
        // Goal: the table knows what the cluster knows. Method: a lock is changed and released in its middle.
        let mut ranges = LockRanges::default();
        ranges.take(lock(0, 99, LockMode::Shared));
        ranges.take(lock(40, 49, LockMode::Exclusive));
        assert_eq!(ranges.len(), 3);
        assert!(ranges.has_other_mode(LockMode::Shared));
        let find =
            |ranges: &LockRanges, first, last, mode| ranges.in_the_way(LockRange { first, last }, mode);
        assert_eq!(find(&ranges, 0, 39, LockMode::Shared), None);
        assert!(find(&ranges, 0, 0, LockMode::Exclusive).is_some());
        assert!(find(&ranges, 49, 60, LockMode::Shared).is_some());
        ranges.let_go(LockRange { first: 30, last: 60 });
        assert_eq!(find(&ranges, 30, 60, LockMode::Exclusive), None);
        assert!(find(&ranges, 61, 61, LockMode::Exclusive).is_some());
        ranges.let_go(LockRange::ALL);
        assert!(ranges.is_empty());
    }
}
