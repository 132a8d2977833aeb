//! What directories take, with everything below them.
//!
//! Directories live in different partitions, so a directory's total is put together from reports: each
//! directory tells its parent's partition what it takes, and each partition tells a directory elsewhere what
//! the files it is home to take there. A report says all there is, never a difference, and carries a version;
//! so it may be lost, repeated or overtaken by a later one.
//!
//! Invariant: sums wrap, because a million sparse files of the largest size exceed 64 bits.

use crate::ids::{InodeId, PartitionId};

/// What inodes take together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The sizes of files and symbolic links.
    pub bytes: u64,
    /// Of these, what is stored: holes are not.
    pub stored: u64,
    pub inodes: u64,
}

/// What one contributor to a directory takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageReport {
    pub directory: InodeId,
    /// A directory in it, or [`files_of`] a partition.
    pub contributor: InodeId,
    pub usage: Usage,
    /// Grows with every change the contributor sees.
    pub version: u64,
    /// Where it is asked for: the directory whose quota this counts in.
    pub quota: Option<InodeId>,
}

/// A step of telling what directories take, by one log entry. Proposed by leaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageCommand {
    /// To the partition of the directories. Answers `UsageReports`: `reports` that were taken or are of no
    /// use any more, and as `next` what these directories now have to tell.
    Report { reports: Vec<UsageReport> },
    /// To the partition the reports came from: they were taken.
    Reported { reports: Vec<UsageReport> },
}

/// A question to one partition about what directories take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageQuery {
    /// What an inode takes; of a directory, with what is below it as far as that was told. Answers `Usage`.
    Total { directory: InodeId },
    /// What is not known to have been told yet, of directories behind `after`, and the transactions that are
    /// prepared here. Answers `UsageReports`.
    Unreported { after: InodeId, limit: u32 },
    /// What files here take in directories that are at home elsewhere, behind `after`. Answers `UsageReports`.
    Elsewhere { after: InodeId, limit: u32 },
}

/// The contributor that stands for all files of a partition: its counter is 0, which no inode has.
pub fn files_of(partition: PartitionId) -> InodeId {
    InodeId(u64::from(partition.0) << InodeId::COUNTER_BITS)
}

impl Usage {
    #[must_use]
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            bytes: self.bytes.wrapping_add(other.bytes),
            stored: self.stored.wrapping_add(other.stored),
            inodes: self.inodes.wrapping_add(other.inodes),
        }
    }

    #[must_use]
    pub fn minus(self, other: Usage) -> Usage {
        Usage {
            bytes: self.bytes.wrapping_sub(other.bytes),
            stored: self.stored.wrapping_sub(other.stored),
            inodes: self.inodes.wrapping_sub(other.inodes),
        }
    }
}
