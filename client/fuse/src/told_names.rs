//! Names the kernel was told of files a moment ago, and believes without asking.
//!
//! Somebody else may take such a name away. When this mount hears that a file has no name any more, the kernel is told
//! to forget the one it has, or to look again; otherwise it would go on for a second with a file that is gone.
//!
//! Invariant: what is here is younger than twice [`VALID`], and at most `2 * NAMES_MAX` names. The kernel asks for older
//! ones by itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bark_schema::ids::InodeId;
use bark_schema::operation::Entry;

use crate::open_files::VALID;

const NAMES_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) struct ToldNames {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    young: HashMap<InodeId, Entry>,
    old: HashMap<InodeId, Entry>,
    /// When the young ones began.
    since: Instant,
}

impl ToldNames {
    pub(crate) fn new() -> ToldNames {
        ToldNames {
            table: Mutex::new(Table {
                young: HashMap::new(),
                old: HashMap::new(),
                since: Instant::now(),
            }),
        }
    }

    /// The kernel is told that the file has this name.
    pub(crate) fn note(&self, inode: InodeId, entry: Entry) {
        let mut table = self.lock();
        table.age(Instant::now());
        if table.young.len() < NAMES_MAX {
            table.young.insert(inode, entry);
        }
    }

    /// The name the kernel may believe the file has, once.
    pub(crate) fn take(&self, inode: InodeId) -> Option<Entry> {
        let mut table = self.lock();
        table.age(Instant::now());
        let old = table.old.remove(&inode);
        table.young.remove(&inode).or(old)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn age(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < VALID {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if age >= 2 * VALID {
            self.old = HashMap::new();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn names_are_known_as_long_as_the_kernel_believes_them() {
        // Goal: a name is here for a second at least, and not for ever. Method: names told at several times, on a clock of ours.
        let mut table = ToldNames::new().table.into_inner().unwrap();
        let start = table.since;
        let entry = |name: &'static str| Entry {
            directory: InodeId::ROOT,
            name: Bytes::from(name),
        };
        table.young.insert(InodeId(1), entry("first"));
        table.age(start + VALID);
        table.young.insert(InodeId(2), entry("second"));
        assert!(table.old.contains_key(&InodeId(1)));
        table.age(start + VALID * 2 - VALID / 10);
        assert!(table.old.contains_key(&InodeId(1)) && table.young.contains_key(&InodeId(2)));
        table.age(start + VALID * 2);
        assert_eq!((table.young.len(), table.old.len()), (0, 1));
        table.age(start + VALID * 5);
        assert_eq!((table.young.len(), table.old.len()), (0, 0));
    }
}
