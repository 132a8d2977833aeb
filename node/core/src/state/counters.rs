//! Sums over rows that every change keeps up to date, and how to count them anew.
//!
//! They are functions of the rows, so snapshots do not carry them: whoever loads one counts once.
//!
//! Invariant: between any two calls they are what [`State::recount`] would make of the tables.

use super::State;
use super::extent::ExtentRow;

/// Bytes of files and blocks of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpaceCounters {
    /// Bytes stored in files and links that have a name, holes not counted; what files share is counted for each.
    pub allocated_bytes: u64,
    /// One copy of each block in use.
    pub block_bytes: u64,
    /// One copy of each block in the ledger.
    pub garbage_bytes: u64,
    pub patch_bytes: u64,
}

impl State {
    pub fn space(&self) -> SpaceCounters {
        SpaceCounters {
            allocated_bytes: self.allocated_bytes,
            block_bytes: self.block_bytes,
            garbage_bytes: self.garbage_bytes,
            patch_bytes: self.patch_bytes,
        }
    }

    /// Counts everything anew.
    pub(super) fn recount(&mut self) {
        (self.allocated_bytes, self.orphan_count) = (0, 0);
        for (_, row) in self.inodes.iter() {
            let counted = row.counted();
            self.allocated_bytes = self.allocated_bytes.wrapping_add(counted.allocated_bytes);
            self.orphan_count += counted.orphans;
        }
        self.recount_unreported();
        self.block_bytes = self.blocks.iter().map(|(_, row)| u64::from(row.size)).sum();
        self.garbage_bytes = self.garbage.iter().map(|(_, row)| u64::from(row.size)).sum();
        self.patch_bytes = 0;
        self.patches.clear();
        for (key, row) in self.extents.iter() {
            if let ExtentRow::Patch { bytes, .. } = row {
                self.patch_bytes += bytes.len() as u64;
                self.patches.insert(*key);
            }
        }
    }
}
