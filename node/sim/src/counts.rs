//! How often what must be exercised was: a check that is never reached proves nothing.

use std::iter::Sum;
use std::ops::Add;

/// Of one run, or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Snapshots a replica wrote of its own state.
    pub snapshots_taken: u64,
    /// Partitions that started from a snapshot.
    pub snapshots_loaded: u64,
    /// States a follower was sent because the log it needed was gone.
    pub snapshots_installed: u64,
    /// Nodes that did not start from a disk that had done harm to their log or snapshots.
    pub damaged_starts_refused: u64,
    /// Restarted nodes whose partitions all rejoined: their log was lost, or may have forgotten.
    pub rejoined: u64,
    /// Times a node was refused by another because its disks were not those that were known.
    pub disks_refused: u64,
    /// Reads of damaged blocks that were refused by the node that has them.
    pub damaged_blocks_refused: u64,
    /// Copies of blocks that were made anew, and that were found bad.
    pub copies_made: u64,
    pub copies_found_bad: u64,
    /// Batches that waited for space in the log.
    pub full_disk_waits: u64,
    /// Blocks and snapshots that were not written for want of space.
    pub full_disk_refusals: u64,
    /// Nodes that stopped, or could not start, because a disk was full.
    pub full_disk_stops: u64,
    /// Reads that found a key expired.
    pub expired_reads: u64,
    /// Repetitions that joined the coordinator of their request.
    pub requests_joined: u64,
    /// Copies of answered changes that came late.
    pub late_copies: u64,
    /// Plain reads and SETs that were answered.
    pub plain_answers: u64,
    /// Reads of open files without a name.
    pub unnamed_reads: u64,
    /// Directories listed to their end, page by page, while they changed.
    pub listings: u64,
    /// Reads of the file that all append to.
    pub append_reads: u64,
    /// Changes told to be done before they were sent.
    pub ordered_changes: u64,
    /// Times a client was told that its directory is wanted back.
    pub recalls: u64,
    /// Additions to a number under an advisory lock.
    pub additions_under_lock: u64,
}

impl Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        Counts {
            snapshots_taken: self.snapshots_taken + other.snapshots_taken,
            snapshots_loaded: self.snapshots_loaded + other.snapshots_loaded,
            snapshots_installed: self.snapshots_installed + other.snapshots_installed,
            damaged_starts_refused: self.damaged_starts_refused + other.damaged_starts_refused,
            rejoined: self.rejoined + other.rejoined,
            disks_refused: self.disks_refused + other.disks_refused,
            damaged_blocks_refused: self.damaged_blocks_refused + other.damaged_blocks_refused,
            copies_made: self.copies_made + other.copies_made,
            copies_found_bad: self.copies_found_bad + other.copies_found_bad,
            full_disk_waits: self.full_disk_waits + other.full_disk_waits,
            full_disk_refusals: self.full_disk_refusals + other.full_disk_refusals,
            full_disk_stops: self.full_disk_stops + other.full_disk_stops,
            expired_reads: self.expired_reads + other.expired_reads,
            requests_joined: self.requests_joined + other.requests_joined,
            late_copies: self.late_copies + other.late_copies,
            plain_answers: self.plain_answers + other.plain_answers,
            unnamed_reads: self.unnamed_reads + other.unnamed_reads,
            listings: self.listings + other.listings,
            append_reads: self.append_reads + other.append_reads,
            ordered_changes: self.ordered_changes + other.ordered_changes,
            recalls: self.recalls + other.recalls,
            additions_under_lock: self.additions_under_lock + other.additions_under_lock,
        }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(counts: I) -> Counts {
        counts.fold(Counts::default(), Counts::add)
    }
}
